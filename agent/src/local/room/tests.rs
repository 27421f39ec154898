use serde_json::json;

use super::*;
use crate::local::definition::{
    parse_api_check, parse_api_service, parse_file_check, parse_file_service,
};
use crate::local::fake::{self, Gossip, Servers};

struct World {
    local: Arc<Local>,
    servers: Arc<Servers>,
    gossip: Arc<Gossip>,
    tasks: Tasks,
}

impl World {
    async fn new(config: &Config, up: bool) -> Self {
        Self::with(config, Servers::new(up)).await.expect("it starts")
    }

    async fn with(config: &Config, servers: Arc<Servers>) -> Result<Self, LocalError> {
        let (gossip, tasks) = (Gossip::alone(), Tasks::new());
        let (clock, rng) = (Clock::system(), Rng::from_seed(7));
        let local = start(config, servers.clone(), gossip.clone(), clock, rng, &tasks).await?;
        Ok(Self { local, servers, gossip, tasks })
    }

    async fn service(&self, body: &serde_json::Value) {
        self.try_service(body, false).await.expect("registered");
    }

    async fn try_service(&self, body: &serde_json::Value, replace: bool) -> Result<(), LocalError> {
        let definition = parse_api_service(body.to_string().as_bytes()).expect("valid");
        self.local.add_service(definition, Source::Api, replace).await?;
        self.local.sync_now().await;
        Ok(())
    }

    async fn check(&self, body: &serde_json::Value) {
        let definition = parse_api_check(body.to_string().as_bytes()).expect("valid");
        self.local.add_check(definition, Source::Api).await.expect("registered");
        self.local.sync_now().await;
    }

    fn ids(&self) -> Vec<String> {
        self.local.checks().iter().map(|check| check.id.to_string()).collect()
    }

    async fn stop(self) {
        let left = self.tasks.stop_and_wait(Duration::from_secs(10)).await;
        assert!(left.unfinished.is_empty(), "{left:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_registration_is_in_the_catalog_when_it_returns() {
    let world = World::new(&fake::config(), true).await;
    world.servers.until("the node", |catalog| catalog.node.is_some()).await;
    world
        .service(&json!({"Name": "web", "ID": "web-1", "Port": 80, "Check": {"TTL": "10s"}}))
        .await;
    {
        let catalog = world.servers.catalog();
        let service = &catalog.services["web-1"];
        assert_eq!((&*service.name, &*service.node, service.port), ("web", "n1", 80));
        let check = &catalog.checks["service:web-1"];
        assert_eq!((&*check.name, check.status), ("Service 'web' check", Status::Critical));
        assert_eq!((&*check.service_name, &*check.kind), ("web", "ttl"));
        let node = catalog.node.as_ref().expect("registered");
        let meta = node.meta.as_ref().expect("given");
        let keys: Vec<&str> = meta.keys().map(|key| &**key).collect();
        assert_eq!(keys, ["consul-network-segment", "consul-version"]);
        let tagged = node.tagged_addresses.as_ref().expect("given");
        let keys: Vec<&str> = tagged.keys().map(|key| &**key).collect();
        assert_eq!(keys, ["lan", "lan_ipv4", "wan", "wan_ipv4"]);
    }
    world.local.ttl_update("service:web-1", Status::Passing, "fine").await.expect("a TTL check");
    world.local.sync_now().await;
    assert_eq!(world.servers.status_of("service:web-1"), Some(Status::Passing));
    world.local.remove_service("web-1").await.expect("known");
    world.local.sync_now().await;
    assert!(world.servers.catalog().services.is_empty());
    assert!(world.servers.catalog().checks.is_empty());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_servers_nothing_waits_and_all_is_pushed_when_they_come() {
    let world = World::new(&fake::config(), false).await;
    let before = Instant::now();
    world.service(&json!({"Name": "web"})).await;
    assert_eq!(before.elapsed(), Duration::ZERO);
    world.servers.set_up(true);
    world.servers.until("web", |catalog| catalog.services.contains_key("web")).await;
    assert!(before.elapsed() < Duration::from_secs(4), "{:?}", before.elapsed());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_catalog_lost_or_gained_is_set_right_by_the_next_comparison() {
    let world = World::new(&fake::config(), true).await;
    world.service(&json!({"Name": "web"})).await;
    {
        let mut catalog = world.servers.catalog();
        let stray = ServiceV1 {
            id: "stray".into(),
            name: "stray".into(),
            ..catalog.services["web"].as_ref().clone()
        };
        let consul = ServiceV1 { id: "consul".into(), name: "consul".into(), ..stray.clone() };
        catalog.services.clear();
        catalog.services.insert("stray".into(), Arc::new(stray));
        catalog.services.insert("consul".into(), Arc::new(consul));
    }
    world
        .servers
        .until("repaired", |catalog| catalog.services.keys().map(|id| &**id).eq(["consul", "web"]))
        .await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_server_means_a_full_comparison_within_seconds() {
    let world = World::new(&fake::config(), true).await;
    world.service(&json!({"Name": "web"})).await;
    world.servers.catalog().services.clear();
    let before = Instant::now();
    world.gossip.0.send_modify(|members| {
        let mut list = members.list.clone();
        list.push(fake::member("n2", 2, model::seam::MemberState::Alive));
        *members = Arc::new(model::seam::Members { sequence: members.sequence + 1, list });
    });
    world.servers.until("web again", |catalog| catalog.services.contains_key("web")).await;
    assert!(before.elapsed() <= Duration::from_secs(3), "{:?}", before.elapsed());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_service_waits_for_the_next_comparison_and_holds_nobody_up() {
    let world = World::new(&fake::config(), true).await;
    let refused = RpcError::PermissionDenied("no".into());
    world.servers.catalog().refuse.insert("bad".into(), refused);
    world.service(&json!({"Name": "bad"})).await;
    world.service(&json!({"Name": "good"})).await;
    assert!(world.servers.catalog().services.contains_key("good"));
    let tries = |world: &World| {
        let catalog = world.servers.catalog();
        let named = |op: &&model::rpc::Op| {
            matches!(op,
            model::rpc::Op::Register(r) if r.services.iter().any(|s| &*s.id == "bad"))
        };
        catalog.writes.iter().filter(named).count()
    };
    assert_eq!(tries(&world), 1);
    world.servers.catalog().refuse.clear();
    world.servers.until("bad", |catalog| catalog.services.contains_key("bad")).await;
    assert_eq!(tries(&world), 2);
    world.stop().await;
}

use model::rpc::RpcError;

#[tokio::test(start_paused = true)]
async fn a_ttl_check_expires_and_says_what_it_knew() {
    let world = World::new(&fake::config(), true).await;
    world.check(&json!({"Name": "mem", "TTL": "10s"})).await;
    world.local.ttl_update("mem", Status::Passing, "fine").await.expect("a TTL check");
    let before = Instant::now();
    world
        .servers
        .until("passing", |catalog| {
            catalog.checks.get("mem").is_some_and(|check| check.status == Status::Passing)
        })
        .await;
    world
        .servers
        .until("expired", |catalog| catalog.checks["mem"].status == Status::Critical)
        .await;
    assert_eq!(before.elapsed().as_secs(), 10);
    let output = world.local.check("mem").expect("registered").output.clone();
    assert_eq!(&*output, "TTL expired (last output before timeout follows): fine");
    let error = world.local.ttl_update("nope", Status::Passing, "").await.expect_err("unknown");
    assert_eq!(
        error.to_string(),
        "Unknown check ID \"nope\". Ensure that the check ID is passed, not the check name."
    );
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_stays_critical_is_deregistered() {
    let world = World::new(&fake::config(), true).await;
    let check = json!({"TTL": "10s", "DeregisterCriticalServiceAfter": "10s"});
    world.service(&json!({"Name": "web", "Check": check})).await;
    let before = Instant::now();
    world.servers.until("reaped", |catalog| catalog.services.is_empty()).await;
    // Raised to a minute, looked at every 30 s.
    let took = before.elapsed().as_secs();
    assert!((60..=95).contains(&took), "{took}");
    assert!(world.local.services().is_empty());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_output_alone_is_pushed_late() {
    let world = World::new(&fake::config(), true).await;
    world.check(&json!({"Name": "mem", "TTL": "1h"})).await;
    let start = Instant::now();
    world.local.ttl_update("mem", Status::Critical, "new words").await.expect("a TTL check");
    world.local.sync_now().await;
    assert_eq!(&*world.servers.catalog().checks["mem"].output, "");
    world.servers.until("pushed", |catalog| &*catalog.checks["mem"].output == "new words").await;
    let took = start.elapsed().as_secs();
    assert!((150..=450).contains(&took), "{took}");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn checks_of_a_service_follow_the_rules_of_replacement() {
    let world = World::new(&fake::config(), true).await;
    world.service(&json!({"Name": "web", "Check": {"TTL": "10s", "Status": "passing"}})).await;
    world.local.set_maintenance(Some("web"), Some("")).await.expect("known");
    world
        .service(&json!({"Name": "web", "Checks": [{"TTL": "10s"}, {"CheckID": "b", "TTL": "9s"}]}))
        .await;
    assert_eq!(world.ids(), ["_service_maintenance:web", "b", "service:web", "service:web:1"]);
    let again = json!({"Name": "web", "Check": {"TTL": "20s", "Status": "warning"}});
    world.try_service(&again, true).await.expect("registered");
    assert_eq!(world.ids(), ["_service_maintenance:web", "service:web"]);
    let status = world.local.check("service:web").expect("there").status;
    assert_eq!(status, Status::Passing, "a known check keeps its status");
    let renamed = json!({"Name": "shop", "ID": "web"});
    world.service(&renamed).await;
    assert_eq!(&*world.local.check("service:web").expect("there").service_name, "shop");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn maintenance_keeps_its_first_reason() {
    let world = World::new(&fake::config(), true).await;
    let unknown = world.local.set_maintenance(Some("x"), Some("y")).await.expect_err("unknown");
    assert_eq!(
        unknown.to_string(),
        "Unknown service ID \"x\". Ensure that the service ID is passed, not the service name."
    );
    world.local.set_maintenance(None, Some("disk")).await.expect("always there");
    world.local.set_maintenance(None, Some("fan")).await.expect("always there");
    let check = world.local.check("_node_maintenance").expect("there");
    assert_eq!((&*check.notes, &*check.kind), ("disk", "maintenance"));
    assert_eq!((&*check.name, check.status), ("Node Maintenance Mode", Status::Critical));
    world.local.set_maintenance(None, None).await.expect("always there");
    world.local.set_maintenance(None, None).await.expect("idempotent");
    assert!(world.local.checks().is_empty());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn scripts_need_a_permission() {
    let script = json!({"Name": "s", "Args": ["true"], "Interval": "10s"});
    let world = World::new(&fake::config(), true).await;
    let definition = || parse_api_check(script.to_string().as_bytes()).expect("valid");
    let error = world.local.add_check(definition(), Source::Api).await.expect_err("off");
    assert_eq!(
        error.to_string(),
        "Scripts are disabled on this agent from remote calls; to enable, configure \
         'enable_script_checks' to true"
    );
    world.stop().await;
    let files = Config {
        reloadable: Reloadable {
            checks: vec![
                parse_file_check(&json!({"name": "s", "args": ["true"], "interval": "10s"}))
                    .expect("valid"),
            ],
            ..fake::reloadable()
        },
        ..fake::config()
    };
    let error = World::with(&files, Servers::new(true)).await.err().expect("off");
    assert_eq!(
        error.to_string(),
        "check \"s\": Scripts are disabled on this agent; to enable, configure \
         'enable_script_checks' or 'enable_local_script_checks' to true"
    );
    let allowed = Config { enable_local_script_checks: true, ..files };
    let world = World::new(&allowed, true).await;
    assert_eq!(world.ids(), ["s"]);
    world.stop().await;
}

#[tokio::test]
async fn what_clients_registered_is_there_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = Config { data_dir: Some(folder.path().to_owned()), ..fake::config() };
    let world = World::new(&config, true).await;
    world
        .service(&json!({"Name": "web", "Tags": ["a"], "Checks": [{"TTL": "1h"}, {"TTL": "1h"}]}))
        .await;
    world.service(&json!({"Name": "gone"})).await;
    world.local.remove_service("gone").await.expect("known");
    world.check(&json!({"Name": "alone", "TTL": "1h", "Status": "passing"})).await;
    world.local.ttl_update("service:web:1", Status::Passing, "up").await.expect("a TTL check");
    world.local.ttl_update("service:web:2", Status::Critical, "later").await.expect("a TTL check");
    world.local.set_maintenance(Some("web"), Some("disk")).await.expect("known");
    world.stop().await;

    let world = World::new(&config, true).await;
    let services = world.local.services();
    assert_eq!(services.len(), 1);
    assert_eq!(services[0].tags, ["a".into()]);
    let seen: Vec<_> = world
        .local
        .checks()
        .iter()
        .map(|check| (check.id.to_string(), check.status, check.output.to_string()))
        .collect();
    let row = |id: &str, status, output: &str| (id.to_owned(), status, output.to_owned());
    assert_eq!(
        seen,
        [
            row("_service_maintenance:web", Status::Critical, ""),
            row("alone", Status::Critical, ""),
            row("service:web:1", Status::Passing, "up"),
            row("service:web:2", Status::Critical, "later"),
        ]
    );
    world.stop().await;
}

#[tokio::test]
async fn a_file_wins_over_what_is_stored_and_the_stored_one_is_forgotten() {
    let folder = tempfile::tempdir().expect("a folder");
    let plain = Config { data_dir: Some(folder.path().to_owned()), ..fake::config() };
    let world = World::new(&plain, true).await;
    world.service(&json!({"Name": "web", "Port": 1, "Check": {"TTL": "1h"}})).await;
    world.stop().await;
    let service = parse_file_service(&json!({"name": "web", "port": 2})).expect("valid");
    let files = Reloadable { services: vec![service], ..fake::reloadable() };
    let world = World::new(&Config { reloadable: files, ..plain.clone() }, true).await;
    assert_eq!(world.local.service("web").expect("there").port, 2);
    world.stop().await;
    let world = World::new(&plain, true).await;
    assert!(world.local.service("web").is_none());
    assert!(world.ids().is_empty(), "its check lost its service");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_replaces_what_files_say_and_keeps_states() {
    let file = |port: u16| {
        let json = json!({"name": "web", "port": port,
            "check": {"ttl": "1h", "status": "warning"}, "checks": [{"id": "x", "ttl": "1h"}]});
        parse_file_service(&json).expect("valid")
    };
    let files = Reloadable { services: vec![file(1)], ..fake::reloadable() };
    let world = World::new(&Config { reloadable: files, ..fake::config() }, true).await;
    world.service(&json!({"Name": "api"})).await;
    assert_eq!(world.ids(), ["service:web:2", "x"]);
    world.local.ttl_update("x", Status::Passing, "up").await.expect("a TTL check");

    let mut changed = file(2);
    changed.checks.retain(|check| &*check.check.id == "x");
    let files = Reloadable {
        services: vec![changed],
        node_meta: [("rack".to_owned(), "4".to_owned())].into(),
        ..fake::reloadable()
    };
    world.local.reload(&files).await.expect("valid");
    assert_eq!(world.local.service("web").expect("there").port, 2);
    assert_eq!(world.ids(), ["x"]);
    assert_eq!(world.local.check("x").expect("there").status, Status::Passing);
    world
        .servers
        .until("metadata", |catalog| {
            let meta = catalog.node.as_ref().and_then(|node| node.meta.clone());
            meta.is_some_and(|meta| meta.contains_key("rack"))
        })
        .await;
    let homeless = parse_file_check(&json!({"name": "h", "ttl": "1s", "service_id": "none"}));
    let wrong = Reloadable { checks: vec![homeless.expect("valid")], ..fake::reloadable() };
    let error = world.local.reload(&wrong).await.expect_err("no such service");
    assert_eq!(error.to_string(), "check \"h\": ServiceID \"none\" does not exist");
    assert!(world.local.service("web").is_some(), "nothing was changed");
    world.local.reload(&fake::reloadable()).await.expect("valid");
    assert!(world.local.service("web").is_none());
    assert!(world.local.service("api").is_some());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_pushed_while_paused() {
    let world = World::new(&fake::config(), true).await;
    world.servers.until("the node", |catalog| catalog.node.is_some()).await;
    let paused = world.local.pause();
    let before = Instant::now();
    world.service(&json!({"Name": "web"})).await;
    assert_eq!(before.elapsed().as_secs(), 7, "a client waits no longer than for a leader");
    assert!(world.servers.catalog().services.is_empty());
    drop(paused);
    world.servers.until("web", |catalog| catalog.services.contains_key("web")).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_does_not_come_back_into_the_catalog() {
    let world = World::new(&fake::config(), true).await;
    world.servers.until("the node", |catalog| catalog.node.is_some()).await;
    world.local.retire();
    // The leader has removed it.
    world.servers.catalog().node = None;
    drop(world.local.pause());
    world.service(&json!({"Name": "web"})).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(world.servers.catalog().node.is_none());
    assert!(world.servers.catalog().services.is_empty());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_server_shortens_the_pause_after_a_first_comparison_that_failed() {
    let servers = Servers::new(true);
    servers.catalog().unreadable = true;
    let world = World::with(&fake::config(), servers).await.expect("it starts");
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.servers.catalog().unreadable = false;
    let before = Instant::now();
    world.gossip.0.send_modify(|members| {
        let mut list = members.list.clone();
        list.push(fake::member("n2", 2, model::seam::MemberState::Alive));
        *members = Arc::new(model::seam::Members { sequence: members.sequence + 1, list });
    });
    world.servers.until("the node", |catalog| catalog.node.is_some()).await;
    assert!(before.elapsed() <= Duration::from_secs(4), "{:?}", before.elapsed());
    world.stop().await;
}

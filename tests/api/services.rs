//! Services registered with the agent and with the catalog.

use serde_json::{Value, json};

use crate::support::{Muster, Network, eventually};

fn dev(args: &[&str]) -> (tempfile::TempDir, Muster) {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let mut all = vec!["-node=n"];
    all.extend(args);
    let dev = Muster::dev(dir.path(), &network.ip(1), &all);
    dev.wait_for_leader();
    (dir, dev)
}

#[test]
fn a_service_goes_from_its_agent_to_the_catalog_and_away_again() {
    let (_dir, dev) = dev(&[]);
    let body = json!({"Name": "web", "ID": "web-1", "Tags": ["v1"], "Port": 8080,
        "Meta": {"team": "shop"}, "Check": {"TTL": "60s", "Status": "passing"}});
    assert_eq!(dev.put("/v1/agent/service/register", body.to_string()), "");
    let own = dev.json("/v1/agent/service/web-1");
    assert_eq!((&own["Service"], &own["Port"]), (&json!("web"), &json!(8080)));
    let found = eventually("web in the catalog", || {
        let found = dev.json("/v1/health/service/web?passing");
        if found.as_array().is_some_and(|list| list.len() == 1) {
            Ok(found)
        } else {
            Err(found.to_string())
        }
    });
    assert_eq!(found[0]["Service"]["Meta"], json!({"team": "shop"}));
    assert_eq!(found[0]["Service"]["Weights"], json!({"Passing": 1, "Warning": 1}));
    assert_eq!(dev.json("/v1/catalog/services")["web"], json!(["v1"]));
    assert_eq!(dev.json("/v1/catalog/service/web?tag=V1").as_array().map(Vec::len), Some(1));
    assert_eq!(dev.json("/v1/catalog/service/web?tag=v2"), json!([]));
    assert_eq!(dev.json("/v1/catalog/node/n")["Services"]["web-1"]["Port"], 8080);

    dev.put("/v1/agent/check/warn/service:web-1?note=slow", "");
    eventually("warning in the catalog", || {
        let checks = dev.json("/v1/health/checks/web");
        if checks[0]["Status"] == "warning" && checks[0]["Output"] == "slow" {
            Ok(())
        } else {
            Err(checks.to_string())
        }
    });
    assert_eq!(dev.json("/v1/health/service/web?passing"), json!([]));
    assert_eq!(dev.json("/v1/health/state/warning")[0]["CheckID"], "service:web-1");

    assert_eq!(dev.put("/v1/agent/service/deregister/web-1", ""), "");
    eventually("web is gone", || match dev.json("/v1/catalog/service/web") {
        list if list == json!([]) => Ok(()),
        list => Err(list.to_string()),
    });
    let unknown = dev.http("PUT", "/v1/agent/service/deregister/web-1", "");
    assert_eq!(unknown.status, 404);
    assert!(unknown.text().starts_with("Unknown service ID \"web-1\""), "{}", unknown.text());
}

#[test]
fn maintenance_hides_a_service_and_a_node() {
    let (_dir, dev) = dev(&[]);
    dev.put("/v1/agent/service/register", r#"{"Name": "web"}"#);
    let healthy = |wanted: usize| {
        eventually(&format!("{wanted} healthy instances"), || {
            let found = dev.json("/v1/health/service/web?passing");
            let count = found.as_array().map_or(0, Vec::len);
            if count == wanted { Ok(()) } else { Err(found.to_string()) }
        });
    };
    healthy(1);
    dev.put("/v1/agent/service/maintenance/web?enable=true&reason=upgrade", "");
    healthy(0);
    assert_eq!(dev.json("/v1/agent/checks")["_service_maintenance:web"]["Notes"], "upgrade");
    dev.put("/v1/agent/service/maintenance/web?enable=false", "");
    healthy(1);
    dev.put("/v1/agent/maintenance?enable=true", "");
    healthy(0);
    dev.put("/v1/agent/maintenance?enable=false", "");
    healthy(1);
    let missing = dev.http("PUT", "/v1/agent/maintenance", "");
    assert_eq!((missing.status, missing.text().as_str()), (400, "Missing value for enable"));
}

#[test]
fn files_define_services_and_a_reload_replaces_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("svc.json");
    std::fs::write(&file, r#"{"service": {"name": "redis", "port": 6379, "tags": ["a"]}}"#)
        .expect("written");
    let network = Network::new();
    let arg = format!("-config-file={}", file.display());
    let dev = Muster::dev(dir.path(), &network.ip(1), &[&arg]);
    dev.wait_for_leader();
    assert_eq!(dev.json("/v1/agent/services")["redis"]["Port"], 6379);
    std::fs::write(&file, r#"{"service": {"name": "cache", "port": 1}}"#).expect("written");
    dev.put("/v1/agent/reload", "");
    let services = dev.json("/v1/agent/services");
    assert!(services.get("redis").is_none() && services.get("cache").is_some(), "{services}");
    eventually("the catalog follows", || {
        let services = dev.json("/v1/catalog/services");
        if services.get("redis").is_none() && services.get("cache").is_some() {
            Ok(())
        } else {
            Err(services.to_string())
        }
    });
    std::fs::write(&file, r#"{"service": {"nam": "x"}}"#).expect("written");
    let refused = dev.http("PUT", "/v1/agent/reload", "");
    assert_eq!(refused.status, 500);
    assert!(dev.json("/v1/agent/services").get("cache").is_some(), "the old settings stay");
}

#[test]
fn registrations_outlive_a_kill() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let file = dir.path().join("svc.json");
    std::fs::write(&file, r#"{"service": {"name": "filed", "port": 2}}"#).expect("written");
    let file = format!("-config-file={}", file.display());
    let args = ["-server", "-bootstrap", &file];
    let mut server = Muster::member(dir.path(), &network, 1, "s1", &args);
    server.wait_for_leader();
    server.put("/v1/agent/service/register", r#"{"Name": "web", "Port": 1}"#);
    server.put(
        "/v1/agent/check/register",
        r#"{"Name": "beat", "TTL": "10m", "DeregisterCriticalServiceAfter": "90m"}"#,
    );
    server.put("/v1/agent/check/pass/beat?note=fine", "");
    server.put("/v1/agent/maintenance?enable=true&reason=why", "");
    server.put("/v1/kv/kept", "value");
    server.kill();
    server.start();
    server.wait_for_leader();
    let services = server.json("/v1/agent/services");
    assert_eq!((&services["web"]["Port"], &services["filed"]["Port"]), (&json!(1), &json!(2)));
    let checks = server.json("/v1/agent/checks");
    assert_eq!(checks["_node_maintenance"]["Notes"], "why");
    assert_eq!(
        (&checks["beat"]["Status"], &checks["beat"]["Output"]),
        (&json!("passing"), &json!("fine"))
    );
    assert_eq!(server.get("/v1/kv/kept?raw").text(), "value");
    eventually("the catalog has all of it again", || {
        let node = server.json("/v1/catalog/node/s1")["Services"].clone();
        let beat = server.json("/v1/health/state/passing").to_string();
        let there = node.get("web").is_some() && node.get("filed").is_some();
        if there && beat.contains("\"beat\"") { Ok(()) } else { Err(format!("{node} {beat}")) }
    });
}

#[test]
fn the_catalog_takes_external_nodes() {
    let (_dir, dev) = dev(&[]);
    let body = json!({"Node": "ext", "Address": "10.1.0.9", "NodeMeta": {"k": "v"},
        "Service": {"Service": "db", "Port": 5432, "Tags": ["primary"]},
        "Check": {"Name": "alive", "Status": "passing", "ServiceID": "db"}});
    assert_eq!(dev.put("/v1/catalog/register", body.to_string()), "true");
    let index = dev.get("/v1/catalog/service/db").index();
    assert_eq!(dev.put("/v1/catalog/register", body.to_string()), "true");
    assert_eq!(dev.get("/v1/catalog/service/db").index(), index, "nothing changed");
    let found = dev.json("/v1/catalog/service/db");
    assert_eq!(found[0]["Address"], "10.1.0.9");
    assert_eq!(found[0]["ServicePort"], 5432);
    let nodes = dev.json("/v1/catalog/nodes?node-meta=k:v");
    assert_eq!(nodes.as_array().map(Vec::len), Some(1));
    let filtered = dev.json("/v1/catalog/nodes?filter=Node%20%3D%3D%20ext");
    assert_eq!(filtered[0]["Meta"], json!({"k": "v"}));
    dev.put("/v1/catalog/deregister", r#"{"Node": "ext"}"#);
    assert_eq!(dev.json("/v1/catalog/node/ext"), Value::Null);
}

use std::time::Duration;

use model::row::Status;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::config::{Config, HttpListen};
use crate::http::{AllowAll, Context, Control, Listener};
use crate::local::fake::{self, Gossip, Servers};

/// An agent with its door open on a port of its own.
struct Agent {
    base: String,
    client: reqwest::Client,
    servers: Arc<Servers>,
    local: Arc<Local>,
    control: mpsc::Receiver<Control>,
    tasks: rt::Tasks,
}

struct Said {
    code: u16,
    body: String,
    headers: reqwest::header::HeaderMap,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    fn is(&self, code: u16, body: &str) {
        assert_eq!((self.code, self.body.as_str()), (code, body));
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Agent {
    async fn new() -> Self {
        Self::with(fake::config()).await
    }

    async fn with(config: Config) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (servers, gossip, tasks) = (Servers::new(true), Gossip::alone(), rt::Tasks::new());
        let (clock, rng) = (rt::Clock::system(), rt::Rng::from_seed(3));
        let local = crate::local::start(
            &config,
            servers.clone(),
            gossip.clone(),
            clock.clone(),
            rng.clone(),
            &tasks,
        )
        .await
        .expect("it starts");
        let any = HttpListen::Tcp(([127, 0, 0, 1], 0).into());
        let listener = Listener::bind(&any).await.expect("a free port");
        let base = format!("http://{}", listener.tcp_address().expect("TCP"));
        let (orders, control) = mpsc::channel(4);
        let (_, reloadable) = watch::channel(Arc::new(config.reloadable.clone()));
        let context = Context {
            config: Arc::new(config),
            reloadable,
            backend: servers.clone(),
            cluster: gossip,
            control: orders,
            authorizer: Arc::new(AllowAll),
            clock,
            rng,
            metrics: metrics_exporter_prometheus::PrometheusBuilder::new()
                .build_recorder()
                .handle(),
        };
        crate::http::start(context, routes(&local), vec![listener], &tasks);
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { base, client, servers, local, control, tasks }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Said {
        let answer = request.send().await.expect("an answer");
        let (code, headers) = (answer.status().as_u16(), answer.headers().clone());
        Said { code, body: answer.text().await.expect("a text"), headers }
    }

    async fn get(&self, path: &str) -> Said {
        self.send(self.client.get(format!("{}/v1/agent/{path}", self.base))).await
    }

    async fn put(&self, path: &str, body: impl ToString) -> Said {
        let url = format!("{}/v1/agent/{path}", self.base);
        self.send(self.client.put(url).body(body.to_string())).await
    }

    async fn stop(self) {
        drop(self.client);
        let left = self.tasks.stop_and_wait(Duration::from_secs(10)).await;
        assert!(left.unfinished.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn a_service_is_registered_shown_and_removed() {
    let agent = Agent::new().await;
    agent.get("services").await.is(200, "{}");
    let body = json!({"Name": "foo", "Tags": ["bar", "baz"], "Port": 8000,
        "Checks": [{"TTL": "15s"}, {"TTL": "30s"}], "Check": null});
    agent.put("service/register", &body).await.is(200, "");
    let shown = json!({"ID": "foo", "Service": "foo", "Tags": ["bar", "baz"], "Meta": {},
        "Port": 8000, "Address": "", "Weights": {"Passing": 1, "Warning": 1},
        "EnableTagOverride": false, "Datacenter": "dc1"});
    assert_eq!(agent.get("services").await.json(), json!({"foo": shown}));
    let one = agent.get("service/foo").await;
    let mut hashed = shown.clone();
    hashed["ContentHash"] = "3e352f348d44f7eb".into();
    assert_eq!(one.json(), hashed);
    assert_eq!(one.header("x-consul-contenthash"), "3e352f348d44f7eb");
    assert_eq!(one.header("x-consul-index"), "");
    let checks = agent.get("checks").await.json();
    assert_eq!(
        checks["service:foo:1"],
        json!({"Node": "n1", "CheckID": "service:foo:1", "Name": "Service 'foo' check",
            "Status": "critical", "Notes": "", "Output": "", "ServiceID": "foo",
            "ServiceName": "foo", "ServiceTags": ["bar", "baz"], "Type": "ttl", "Interval": "",
            "Timeout": "", "ExposedPort": 0, "Definition": {}, "CreateIndex": 0, "ModifyIndex": 0})
    );
    assert!(agent.servers.catalog().services.contains_key("foo"));
    agent.get("services?filter=Port+==+1").await.is(200, "{}");
    assert_eq!(agent.get("services?filter=baz+in+Tags").await.json(), json!({"foo": shown}));
    agent.get("checks?filter=Status+==+passing").await.is(200, "{}");
    let wrong = agent.get("services?filter=Nope+==+1").await;
    wrong.is(500, "Failed to create boolean expression evaluator: Selector \"Nope\" is not valid");
    agent.put("service/deregister/foo", "").await.is(200, "");
    assert!(!agent.servers.catalog().services.contains_key("foo"));
    agent.put("service/deregister/foo", "").await.is(
        404,
        "Unknown service ID \"foo\". Ensure that the service ID is passed, not the service name.",
    );
    agent.get("service/foo").await.is(404, "unknown service ID: foo");
    agent.stop().await;
}

#[tokio::test]
async fn refusals_have_consuls_statuses_and_texts() {
    let agent = Agent::new().await;
    for (path, body, code, text) in [
        ("service/register", "", 400, "Request decode failed: EOF"),
        (
            "service/register",
            r#"{"Nam":"x"}"#,
            400,
            "Request decode failed: json: unknown field \"Nam\"",
        ),
        ("service/register", "{}", 400, "Missing service name"),
        (
            "service/register",
            r#"{"Name":"x","TaggedAddresses":{"lan_ipv4":{"Address":"::1"}}}"#,
            500,
            "Service tagged address \"lan_ipv4\" must be a valid ipv4 address",
        ),
        ("check/register", r#"{"name":"c"}"#, 400, "Invalid check: TTL must be > 0 for TTL checks"),
        (
            "check/register",
            r#"{"name":"c","TTL":"10s","ServiceID":"nope"}"#,
            404,
            "ServiceID \"nope\" does not exist",
        ),
        (
            "check/register",
            r#"{"Name":"c","Args":["true"],"Interval":"10s"}"#,
            500,
            "Scripts are disabled on this agent from remote calls; to enable, configure \
             'enable_script_checks' to true",
        ),
        (
            "check/deregister/c",
            "",
            404,
            "Unknown check ID \"c\". Ensure that the check ID is passed, not the check name.",
        ),
        (
            "check/pass/c",
            "",
            404,
            "Unknown check ID \"c\". Ensure that the check ID is passed, not the check name.",
        ),
        ("check/update/c", r#"{"Status":"ok"}"#, 400, "Invalid check status: 'ok'"),
        ("maintenance", "", 400, "Missing value for enable"),
        ("maintenance?enable=maybe", "", 400, "Invalid value for enable: \"maybe\""),
        ("service/maintenance/?enable=true", "", 400, "Missing service ID"),
        (
            "service/maintenance/x?enable=true",
            "",
            404,
            "Unknown service ID \"x\". Ensure that the service ID is passed, not the service name.",
        ),
        ("join/10.1.1.1", "", 500, "nobody answers there"),
        ("force-leave/ghost", "", 500, "agent: No node found with name 'ghost'"),
    ] {
        let said = agent.put(path, body).await;
        assert_eq!((said.code, said.body.as_str()), (code, text), "{path} {body}");
    }
    agent
        .put("service/register?ns=team", r#"{"Name":"x"}"#)
        .await
        .is(400, "Invalid query parameter: \"ns\" - Namespaces are a Consul Enterprise feature");
    let said = agent.get("service/register").await;
    assert_eq!((said.code, said.header("allow")), (405, "OPTIONS,PUT"));
    assert!(agent.local.services().is_empty() && agent.local.checks().is_empty());
    agent.stop().await;
}

#[tokio::test]
async fn a_ttl_check_hears_its_client() {
    let agent = Agent::new().await;
    agent.put("check/register", r#"{"Name":"mem","TTL":10000000000}"#).await.is(200, "");
    let shown = agent.get("checks").await.json();
    assert_eq!((&shown["mem"]["Interval"], &shown["mem"]["Timeout"]), (&json!("0s"), &json!("0s")));
    agent.put("check/pass/mem?note=fine+%3C", "").await.is(200, "");
    let shown = agent.get("checks").await;
    assert_eq!(shown.json()["mem"]["Status"], "passing");
    assert_eq!(shown.json()["mem"]["Output"], "fine <");
    assert!(shown.body.contains(r"fine \u003c"), "{}", shown.body);
    assert_eq!(agent.servers.status_of("mem"), Some(Status::Passing));
    agent.put("check/update/mem", r#"{"status":"warning","Output":"hm"}"#).await.is(200, "");
    assert_eq!(agent.get("checks").await.json()["mem"]["Status"], "warning");
    agent.put("check/fail/mem", "").await.is(200, "");
    assert_eq!(agent.get("checks").await.json()["mem"]["Output"], "");
    let tcp = r#"{"Name":"t","TCP":"127.0.0.1:1","Interval":"1h"}"#;
    agent.put("check/register", tcp).await.is(200, "");
    agent.put("check/pass/t", "").await.is(500, "CheckID \"t\" does not have associated TTL");
    agent.put("check/deregister/mem", "").await.is(200, "");
    assert_eq!(agent.servers.status_of("mem"), None);
    agent.stop().await;
}

#[tokio::test]
async fn the_status_code_carries_the_health() {
    let agent = Agent::new().await;
    let body = json!({"Name": "web", "ID": "a/1", "Check": {"CheckID": "c", "TTL": "1h"}});
    agent.put("service/register", &body).await.is(200, "");
    agent.put("service/register", json!({"Name": "web", "ID": "b"})).await.is(200, "");
    for (path, word, code) in
        [("pass", "passing", 200), ("warn", "warning", 429), ("fail", "critical", 503)]
    {
        agent.put(&format!("check/{path}/c"), "").await.is(200, "");
        let said = agent.get("health/service/id/a/1").await;
        assert_eq!((said.code, said.header("x-consul-reason")), (code, word));
        let body = said.json();
        assert_eq!(body["AggregatedStatus"], word);
        assert_eq!(body["Service"]["ID"], "a/1");
        assert_eq!(body["Checks"][0]["CheckID"], "c");
        assert_eq!(body["Checks"][0]["Type"], "");
        assert_eq!(body["Checks"][0]["Definition"]["Interval"], "0s");
        agent.get("health/service/id/a/1?format=text").await.is(code, word);
    }
    agent.get("health/service/id/b?format=text").await.is(200, "passing");
    let all = agent.get("health/service/name/web").await;
    assert_eq!((all.code, all.json().as_array().map(Vec::len)), (503, Some(2)));
    agent.put("service/maintenance/b?enable=true&reason=disk", "").await.is(200, "");
    agent.get("health/service/id/b?format=text").await.is(503, "maintenance");
    let checks = agent.get("checks").await.json();
    assert_eq!(checks["_service_maintenance:b"]["Notes"], "disk");
    assert_eq!(checks["_service_maintenance:b"]["Type"], "maintenance");
    agent.put("service/maintenance/b?enable=false", "").await.is(200, "");
    agent.put("maintenance?enable=1", "").await.is(200, "");
    agent.get("health/service/id/b?format=text").await.is(503, "maintenance");
    agent.put("check/deregister/_node_maintenance", "").await.is(200, "");
    let nope = agent.get("health/service/id/nope").await;
    nope.is(404, r#"{"AggregatedStatus":"critical","Service":null,"Checks":null}"#);
    let nope = agent.get("health/service/name/nope").await;
    nope.is(404, "[]");
    assert_eq!(nope.header("x-consul-reason"), "ServiceName nope Not Found");
    agent.get("health/service/id/").await.is(500, "Missing serviceID");
    agent.stop().await;
}

#[tokio::test]
async fn a_hash_waits_for_the_service_to_change() {
    let agent = Agent::new().await;
    agent.put("service/register", json!({"Name": "web"})).await.is(200, "");
    let hash = agent.get("service/web").await.header("x-consul-contenthash").to_owned();
    let same = agent.get(&format!("service/web?hash={hash}&wait=50ms")).await;
    assert_eq!((same.code, same.header("x-consul-contenthash")), (200, hash.as_str()));
    let path = format!("service/web?hash={hash}&wait=60s");
    let waiting = agent.get(&path);
    let change = async {
        // A change elsewhere, and a check of the service, leave the hash as it is.
        agent.put("service/register", json!({"Name": "other"})).await.is(200, "");
        agent.put("service/register", json!({"Name": "web", "Port": 1})).await.is(200, "");
    };
    let (answer, ()) = tokio::join!(waiting, change);
    assert_eq!(answer.json()["Port"], 1);
    let hash = answer.header("x-consul-contenthash");
    let path = format!("service/web?hash={hash}&wait=60s");
    let (gone, _) = tokio::join!(agent.get(&path), agent.put("service/deregister/web", ""));
    gone.is(404, "unknown service ID: web");
    agent.get("service/web?wait=abc").await.is(400, "Invalid wait time");
    agent.stop().await;
}

#[tokio::test]
async fn a_stopping_agent_answers_who_waits_for_a_hash() {
    let agent = Agent::new().await;
    agent.put("service/register", json!({"Name": "web"})).await.is(200, "");
    let hash = agent.get("service/web").await.header("x-consul-contenthash").to_owned();
    let path = format!("service/web?hash={hash}&wait=60s");
    // A handler under way holds the room.
    let at_rest = Arc::strong_count(&agent.local);
    let (answer, ()) = tokio::join!(agent.get(&path), async {
        while Arc::strong_count(&agent.local) == at_rest {
            tokio::task::yield_now().await;
        }
        agent.tasks.stop();
    });
    answer.is(500, "No cluster leader");
    agent.stop().await;
}

#[tokio::test]
async fn the_agent_tells_who_it_is_and_whom_it_knows() {
    let agent = Agent::new().await;
    let myself = agent.get("self").await.json();
    for (_, value) in myself.as_object().expect("an object") {
        assert!(value.is_object() || value.is_null(), "{value}");
    }
    assert_eq!(myself["Config"]["NodeName"], "n1");
    assert_eq!(myself["Config"]["Version"], model::CONSUL_VERSION);
    assert_eq!(myself["DebugConfig"]["SerfAdvertiseAddrLAN"], "tcp://127.0.0.1:8301");
    assert_eq!(myself["DebugConfig"]["SerfPortLAN"], 8301);
    assert_eq!(myself["Member"]["Status"], 1);
    assert_eq!(myself["Meta"]["consul-version"], model::CONSUL_VERSION);
    assert_eq!(myself["Stats"]["agent"]["services"], "0");
    assert_eq!(myself["Stats"]["consul"]["leader"], "true");
    let members = agent.get("members").await.json();
    assert_eq!(members[0]["Name"], "n1");
    assert_eq!(members[0]["Tags"]["role"], "consul");
    agent.get("members?filter=Name+==+ghost").await.is(200, "[]");
    agent.get("members?wan=1").await.is(200, "[]");
    agent.get("members?wan=1&segment=x").await.is(400, "Cannot provide a segment with wan=true");
    assert_eq!(agent.get("members?segment=x").await.code, 500);
    assert_eq!(agent.get("version").await.json()["HumanVersion"], model::CONSUL_VERSION);
    assert!(agent.get("host").await.json()["CollectionTime"].is_u64());
    agent.put("join/127.0.0.1", "").await.is(200, "");
    agent.put("force-leave/n1.dc1?prune", "").await.is(200, "");
    let text = agent.get("metrics?format=prometheus").await;
    assert_eq!((text.code, text.header("content-type").starts_with("text/plain")), (200, true));
    assert!(agent.get("metrics").await.json()["Gauges"].is_array());
    agent.stop().await;
}

#[tokio::test]
async fn leave_and_reload_are_answered_when_they_are_done() {
    let mut agent = Agent::new().await;
    let url = |path: &str| format!("{}/v1/agent/{path}", agent.base);
    let reload = agent.client.put(url("reload")).send();
    let leave = agent.client.put(url("leave")).send();
    let control = &mut agent.control;
    let (answer, ()) = tokio::join!(reload, async {
        match control.recv().await {
            Some(Control::Reload(done)) => {
                done.send(Err("web.json: unknown key \"nam\"".into())).expect("waited for");
            }
            other => panic!("not a reload: {other:?}"),
        }
    });
    let answer = answer.expect("an answer");
    assert_eq!(answer.status().as_u16(), 500);
    assert_eq!(answer.text().await.expect("a text"), "web.json: unknown key \"nam\"");
    let (answer, ()) = tokio::join!(leave, async {
        match control.recv().await {
            Some(Control::Leave(done)) => done.send(Ok(())).expect("waited for"),
            other => panic!("not a leave: {other:?}"),
        }
    });
    assert_eq!(answer.expect("an answer").status().as_u16(), 200);
    agent.stop().await;
}

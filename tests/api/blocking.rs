//! Blocking queries wait for what they read, wherever that is allowed.

use std::time::Duration;

use serde_json::json;

use crate::support::{Muster, Network, eventually, http, now, thread};

/// Asks with the index of the last answer until the body is another one.
fn wait_for_change(address: &str, path: &str, index: u64, body: &[u8]) -> Result<Duration, String> {
    let (start, mut index) = (now(), index);
    while start.elapsed() < Duration::from_secs(30) {
        let answer = http(address, "GET", &format!("{path}index={index}&wait=30s"), b"")?;
        if answer.body != body {
            return Ok(start.elapsed());
        }
        index = answer.index();
    }
    Err(format!("{path}: nothing new"))
}

#[test]
fn every_list_and_object_can_be_waited_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let dev = Muster::dev(dir.path(), &network.ip(1), &["-node=n"]);
    dev.wait_for_leader();
    let register = |port: u16, status: &str| {
        let body = json!({"Node": "ext", "Address": "10.0.0.9", "NodeMeta": {"port": port.to_string()},
            "Service": {"Service": "web", "Port": port, "Tags": [status]},
            "Check": {"Name": "c", "CheckID": "c", "ServiceID": "web", "Status": status}});
        dev.put("/v1/catalog/register", body.to_string());
    };
    register(1, "passing");
    dev.put("/v1/kv/dir/a", "1");
    let session =
        dev.http("PUT", "/v1/session/create", r#"{"Node": "ext", "NodeChecks": []}"#).json();
    let session = session["ID"].as_str().expect("an id").to_owned();
    let mut waiters = Vec::new();
    for path in [
        "/v1/catalog/nodes?",
        "/v1/catalog/services?",
        "/v1/catalog/service/web?",
        "/v1/catalog/node/ext?",
        "/v1/health/service/web?",
        "/v1/health/service/web?passing&",
        "/v1/health/node/ext?",
        "/v1/health/checks/web?",
        "/v1/health/state/critical?",
        "/v1/session/list?",
        "/v1/session/node/ext?",
        &format!("/v1/session/info/{session}?"),
        "/v1/kv/dir/?recurse&",
        "/v1/kv/dir/?keys&",
        "/v1/kv/dir/b?",
    ] {
        let (first, path, address) = (dev.get(path), path.to_owned(), dev.address());
        assert!(first.index() > 0, "{path} has an index");
        let waiter = thread(move || wait_for_change(&address, &path, first.index(), &first.body));
        waiters.push(waiter);
    }
    register(2, "critical");
    dev.put(&format!("/v1/session/destroy/{session}"), "");
    dev.put("/v1/kv/dir/b", "2");
    for waiter in waiters {
        let waited = waiter.join().expect("no panic").expect("a change");
        assert!(waited < Duration::from_secs(10), "woken by its limit, not by the change");
    }
}

#[test]
fn an_agents_own_service_is_waited_for_by_its_hash() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let dev = Muster::dev(dir.path(), &network.ip(1), &[]);
    dev.wait_for_leader();
    dev.put("/v1/agent/service/register", r#"{"Name": "web", "Port": 1}"#);
    let hash = dev.get("/v1/agent/service/web").header("X-Consul-ContentHash").to_owned();
    let (address, path) = (dev.address(), format!("/v1/agent/service/web?hash={hash}&wait=30s"));
    let start = now();
    let waiter = thread(move || http(&address, "GET", &path, b""));
    dev.put("/v1/agent/service/register", r#"{"Name": "web", "Port": 2}"#);
    let answer = waiter.join().expect("no panic").expect("an answer");
    assert_eq!(answer.json()["Port"], 2);
    assert_ne!(answer.header("X-Consul-ContentHash"), hash);
    assert!(start.elapsed() < Duration::from_secs(10));
    eventually("the same hash waits its time", || {
        let hash = dev.get("/v1/agent/service/web").header("X-Consul-ContentHash").to_owned();
        let start = now();
        let answer = dev.get(&format!("/v1/agent/service/web?hash={hash}&wait=300ms"));
        let waited = start.elapsed();
        if answer.header("X-Consul-ContentHash") == hash && waited >= Duration::from_millis(300) {
            Ok(())
        } else {
            Err(format!("{waited:?}"))
        }
    });
}

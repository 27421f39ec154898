//! Keys over HTTP.

use std::time::Duration;

use serde_json::json;

use crate::support::{Muster, Network, now};

fn dev() -> (tempfile::TempDir, Muster) {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let dev = Muster::dev(dir.path(), &network.ip(1), &[]);
    dev.wait_for_leader();
    (dir, dev)
}

#[test]
fn keys_are_written_read_listed_and_deleted() {
    let (_dir, dev) = dev();
    let missing = dev.get("/v1/kv/app/name");
    assert_eq!((missing.status, missing.body.len()), (404, 0));
    assert!(missing.index() >= 1);
    assert_eq!(missing.header("X-Consul-KnownLeader"), "true");
    assert_eq!(missing.header("X-Consul-LastContact"), "0");

    assert_eq!(dev.put("/v1/kv/app/name?flags=42", "muster"), "true");
    let entry = &dev.json("/v1/kv/app/name")[0];
    assert_eq!(entry["Value"], "bXVzdGVy");
    assert_eq!(entry["Flags"], 42);
    assert_eq!(entry["LockIndex"], 0);
    assert!(entry.get("Session").is_none());
    let raw = dev.get("/v1/kv/app/name?raw");
    assert_eq!(raw.text(), "muster");
    assert_eq!(raw.header("Content-Type"), "text/plain");
    assert_eq!(raw.header("X-Content-Type-Options"), "nosniff");

    let index = entry["ModifyIndex"].as_u64().expect("an index");
    assert_eq!(dev.put("/v1/kv/app/name?flags=42", "muster"), "true");
    assert_eq!(
        dev.json("/v1/kv/app/name")[0]["ModifyIndex"],
        index,
        "an unchanged put is no change"
    );
    assert_eq!(dev.put("/v1/kv/app/name?cas=0", "x"), "false");
    assert_eq!(dev.put(&format!("/v1/kv/app/name?cas={index}"), "y"), "true");
    assert_eq!(dev.put(&format!("/v1/kv/app/name?cas={index}"), "z"), "false");
    assert_eq!(dev.put("/v1/kv/app/new?cas=0", ""), "true");
    assert!(dev.json("/v1/kv/app/new")[0]["Value"].is_null());

    dev.put("/v1/kv/app/deep/one", "1");
    dev.put("/v1/kv/app/deep/two", "2");
    assert_eq!(
        dev.json("/v1/kv/app/?keys&separator=/"),
        json!(["app/deep/", "app/name", "app/new"])
    );
    assert_eq!(dev.json("/v1/kv/app/deep?recurse").as_array().map(Vec::len), Some(2));
    assert_eq!(dev.get("/v1/kv/nothing?keys").status, 404);
}

#[test]
fn deletes_answer_as_consul_does() {
    let (_dir, dev) = dev();
    for key in ["a", "ab", "b"] {
        dev.put(&format!("/v1/kv/{key}"), key);
    }
    assert_eq!(dev.http("DELETE", "/v1/kv/none", "").text(), "true");
    assert_eq!(dev.http("DELETE", "/v1/kv/none?cas=5", "").text(), "true");
    assert_eq!(dev.http("DELETE", "/v1/kv/b?cas=1", "").text(), "false");
    assert_eq!(dev.http("DELETE", "/v1/kv/a?recurse", "").text(), "true");
    assert_eq!(dev.json("/v1/kv/?keys"), json!(["b"]));
    let both = dev.http("DELETE", "/v1/kv/b?recurse&cas=1", "");
    assert_eq!(both.status, 400);
    assert!(both.text().starts_with("Conflicting flags: "), "{}", both.text());
}

#[test]
fn a_blocking_read_wakes_on_its_key_and_on_nothing_else() {
    let (_dir, dev) = dev();
    dev.put("/v1/kv/watched", "1");
    let index = dev.get("/v1/kv/watched").index();
    let address = dev.address();
    let path = format!("/v1/kv/watched?index={index}&wait=20s");
    let waiter = crate::support::thread(move || {
        let answer = crate::support::http(&address, "GET", &path, b"").expect("an answer");
        (now(), answer)
    });
    for i in 0..20 {
        dev.put(&format!("/v1/kv/other/{i}"), "x");
    }
    assert!(!waiter.is_finished(), "woken by another key");
    let written = now();
    dev.put("/v1/kv/watched", "2");
    let (woken, answer) = waiter.join().expect("no panic");
    assert!(answer.index() > index);
    assert_eq!(answer.json()[0]["Value"], "Mg==");
    assert!(woken - written < Duration::from_secs(2));

    // Nothing changes: the wait passes and the same data come back.
    let start = now();
    let index = answer.index();
    let answer = dev.get(&format!("/v1/kv/watched?index={index}&wait=1s"));
    assert_eq!(answer.index(), index);
    let waited = start.elapsed();
    assert!(waited >= Duration::from_secs(1) && waited < Duration::from_secs(5), "{waited:?}");
}

#[test]
fn a_transaction_is_done_whole_or_not_at_all() {
    let (_dir, dev) = dev();
    let put = |body: serde_json::Value| dev.http("PUT", "/v1/txn", body.to_string());
    let done = put(json!([
        {"KV": {"Verb": "set", "Key": "t/a", "Value": "eA==", "Flags": 3}},
        {"KV": {"Verb": "get", "Key": "t/a"}},
        {"KV": {"Verb": "check-not-exists", "Key": "t/b"}},
    ]));
    assert_eq!(done.status, 200, "{}", done.text());
    let body = done.json();
    assert_eq!(body["Results"][0]["KV"]["Value"], json!(null));
    assert_eq!(body["Results"][1]["KV"]["Value"], "eA==");
    assert_eq!(body["Results"].as_array().map(Vec::len), Some(2));
    assert_eq!(dev.json("/v1/kv/t/a")[0]["Flags"], 3);

    let failed = put(json!([
        {"KV": {"Verb": "set", "Key": "t/b", "Value": "eA=="}},
        {"KV": {"Verb": "lock", "Key": "t/c"}},
        {"KV": {"Verb": "get", "Key": "t/d"}},
    ]));
    assert_eq!(failed.status, 409);
    assert_eq!(
        failed.json(),
        json!({"Results": null, "Errors": [
            {"OpIndex": 1, "What": "missing session"},
            {"OpIndex": 2, "What": "key \"t/d\" doesn't exist"},
        ]})
    );
    assert_eq!(dev.get("/v1/kv/t/b").status, 404, "nothing of it was done");

    let node = json!([
        {"Node": {"Verb": "set", "Node": {"Node": "bar", "Address": "10.9.9.9"}}},
        {"Service": {"Verb": "set", "Node": "bar", "Service": {"Service": "web", "Port": 80}}},
        {"Check": {"Verb": "set", "Check": {"Node": "bar", "CheckID": "c", "Name": "c",
            "ServiceID": "web", "Status": "passing"}}},
    ]);
    let done = put(node);
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(done.json()["Results"][0]["Node"]["Meta"], json!(null));
    let instances = dev.json("/v1/health/service/web?passing");
    assert_eq!(instances[0]["Node"]["Address"], "10.9.9.9");
    let gone = put(json!([{"Node": {"Verb": "delete", "Node": {"Node": "bar"}}}]));
    assert_eq!((gone.status, gone.json()["Results"].clone()), (200, json!([])));
    assert_eq!(dev.json("/v1/health/service/web"), json!([]));
}

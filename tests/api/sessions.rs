//! Sessions and locks over HTTP.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Muster, Network, eventually, http, now, within};

fn dev() -> (tempfile::TempDir, Muster) {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let dev = Muster::dev(dir.path(), &network.ip(1), &["-node=n"]);
    dev.wait_for_leader();
    eventually("serfHealth of the own node", || {
        let checks = dev.json("/v1/health/node/n");
        if checks[0]["CheckID"] == "serfHealth" { Ok(()) } else { Err(checks.to_string()) }
    });
    (dir, dev)
}

fn session(dev: &Muster, body: &Value) -> String {
    let answer: Value =
        serde_json::from_str(&dev.put("/v1/session/create", body.to_string())).expect("JSON");
    answer["ID"].as_str().expect("an id").to_owned()
}

#[test]
fn one_of_ten_concurrent_clients_gets_the_lock() {
    let (_dir, dev) = dev();
    let mut clients = Vec::new();
    for _ in 0..10 {
        let address = dev.address();
        clients.push(crate::support::thread(move || {
            let put = |path: &str, body: &str| {
                let answer = http(&address, "PUT", path, body.as_bytes()).expect("an answer");
                assert_eq!(answer.status, 200, "{}", answer.text());
                answer
            };
            let created =
                put("/v1/session/create", r#"{"TTL": "10s", "Behavior": "delete"}"#).json();
            let id = created["ID"].as_str().expect("an id").to_owned();
            let won = put(&format!("/v1/kv/my-key?acquire={id}"), &id).text();
            if won == "true" {
                std::thread::sleep(Duration::from_secs(2));
                assert_eq!(put(&format!("/v1/kv/my-key?release={id}"), &id).text(), "true");
            }
            won
        }));
    }
    let mut won: Vec<String> =
        clients.into_iter().map(|client| client.join().expect("no panic")).collect();
    won.sort();
    assert_eq!(won.iter().filter(|won| *won == "true").count(), 1, "{won:?}");
    assert_eq!(won.iter().filter(|won| *won == "false").count(), 9, "{won:?}");
}

#[test]
fn a_session_is_created_shown_renewed_and_destroyed() {
    let (_dir, dev) = dev();
    let id = session(&dev, &json!({"Name": "web", "TTL": "15s", "LockDelay": "5s"}));
    let shown = dev.json(&format!("/v1/session/info/{id}"));
    assert_eq!(shown[0]["Name"], "web");
    assert_eq!(shown[0]["Node"], "n");
    assert_eq!(shown[0]["LockDelay"], 5_000_000_000_u64);
    assert_eq!(shown[0]["Behavior"], "release");
    assert_eq!(shown[0]["NodeChecks"], json!(["serfHealth"]));
    assert_eq!(dev.json("/v1/session/list").as_array().map(Vec::len), Some(1));
    assert_eq!(dev.json("/v1/session/node/n").as_array().map(Vec::len), Some(1));
    assert!(dev.put(&format!("/v1/session/renew/{id}"), "").contains(&id));
    assert_eq!(dev.put(&format!("/v1/session/destroy/{id}"), ""), "true");
    assert_eq!(dev.json(&format!("/v1/session/info/{id}")), json!([]));
    let renewed = dev.http("PUT", &format!("/v1/session/renew/{id}"), "");
    assert_eq!(renewed.status, 404);
    assert_eq!(renewed.text(), format!("Session id '{id}' not found"));
}

#[test]
fn a_destroyed_session_frees_its_lock_after_the_lock_delay() {
    let (_dir, dev) = dev();
    let first = session(&dev, &json!({"LockDelay": "2s"}));
    let second = session(&dev, &json!({}));
    assert_eq!(dev.put(&format!("/v1/kv/lock?acquire={first}"), "1"), "true");
    assert_eq!(dev.put(&format!("/v1/kv/lock?acquire={second}"), "2"), "false");
    let destroyed = now();
    dev.put(&format!("/v1/session/destroy/{first}"), "");
    assert!(dev.json("/v1/kv/lock")[0].get("Session").is_none());
    assert_eq!(dev.put(&format!("/v1/kv/lock?acquire={second}"), "2"), "false");
    within(Duration::from_secs(20), "the lock is free", || {
        match dev.put(&format!("/v1/kv/lock?acquire={second}"), "2") {
            won if won == "true" => Ok(()),
            won => Err(won),
        }
    });
    assert!(destroyed.elapsed() >= Duration::from_secs(2));
    let entry = &dev.json("/v1/kv/lock")[0];
    assert_eq!((&entry["Session"], &entry["LockIndex"]), (&json!(second), &json!(2)));
}

#[test]
fn a_ttl_that_runs_out_ends_the_session_and_deletes_its_key() {
    let (_dir, dev) = dev();
    let id = session(&dev, &json!({"TTL": "10s", "Behavior": "delete", "LockDelay": "0s"}));
    assert_eq!(dev.put(&format!("/v1/kv/mine?acquire={id}"), "x"), "true");
    let start = now();
    within(Duration::from_secs(40), "the session ends", || {
        match dev.json(&format!("/v1/session/info/{id}")) {
            list if list == json!([]) => Ok(()),
            list => Err(list.to_string()),
        }
    });
    let lived = start.elapsed();
    assert!(lived >= Duration::from_secs(10), "ended {lived:?} after its creation, before its TTL");
    assert_eq!(dev.get("/v1/kv/mine").status, 404);
}

#[test]
fn a_failed_check_and_a_deregistration_end_their_sessions() {
    let (_dir, dev) = dev();
    dev.put("/v1/agent/check/register", r#"{"Name": "mem", "TTL": "60s", "Status": "passing"}"#);
    eventually("the check is in the catalog", || {
        let checks = dev.json("/v1/health/node/n").to_string();
        if checks.contains("\"mem\"") { Ok(()) } else { Err(checks) }
    });
    let bound = session(&dev, &json!({"NodeChecks": ["serfHealth", "mem"]}));
    dev.put("/v1/agent/check/fail/mem?note=full", "");
    eventually("the session of the failed check is gone", || {
        match dev.json(&format!("/v1/session/info/{bound}")) {
            list if list == json!([]) => Ok(()),
            list => Err(list.to_string()),
        }
    });
    let body = json!({"Node": "ext", "Address": "10.0.0.9"});
    dev.put("/v1/catalog/register", body.to_string());
    let external = session(&dev, &json!({"Node": "ext", "NodeChecks": []}));
    dev.put("/v1/catalog/deregister", json!({"Node": "ext"}).to_string());
    assert_eq!(dev.json(&format!("/v1/session/info/{external}")), json!([]));
}

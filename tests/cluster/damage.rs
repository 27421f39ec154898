//! A server whose log is damaged is rebuilt from the others by one command.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::process::{Cluster, Muster, cli};
use crate::support::{eventually, http, within};

fn reset(data: &Path, force: bool) -> (i32, String, String) {
    let data = format!("-data-dir={}", data.display());
    let args = ["operator", "raft", "reset", &data];
    if force { cli(&[&args[..], &["-force"]].concat()) } else { cli(&args) }
}

fn error_line(process: &Muster) -> String {
    let log = std::fs::read_to_string(&process.log).expect("a log");
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.starts_with("error:") || line.contains("panicked"))
        .collect();
    assert_eq!(lines.len(), 1, "one line:\n{log}");
    lines[0].to_owned()
}

fn servers(asked: &Muster) -> Result<Vec<Value>, String> {
    let answer = http(&asked.address(), "GET", "/v1/operator/raft/configuration", b"")?;
    if answer.status != 200 {
        return Err(answer.text());
    }
    answer.json()["Servers"].as_array().cloned().ok_or_else(|| answer.text())
}

#[test]
fn a_follower_with_a_damaged_log_is_rebuilt_by_one_command() {
    let mut cluster = Cluster::start();
    let leader = cluster.leader();
    let (damaged, other) = ((leader + 1) % 3, (leader + 2) % 3);
    for n in 0..30 {
        cluster.servers[leader].put(&format!("/v1/kv/k/{n}"), "x".repeat(500));
    }
    let data = cluster.dir.path().join(format!("s{}", damaged + 1));
    let register = r#"{"Name": "web", "Port": 80}"#;
    cluster.servers[damaged].put("/v1/agent/service/register", register);

    let (code, _, err) = reset(&data, true);
    assert!(code == 1 && err.contains("in use by another process"), "running: {err}");
    cluster.servers[damaged].kill();
    let (code, _, err) = reset(&data, false);
    assert!(code == 1 && err.contains("is not damaged"), "whole: {err}");
    let (code, _, err) = reset(&data.join("nowhere"), true);
    assert!(code == 1 && err.contains("is no directory"), "{err}");

    let log = data.join("raft/raft.redb");
    let mut bytes = std::fs::read(&log).expect("the log");
    for at in (8_192..bytes.len()).step_by(4_096) {
        bytes[at + 100] ^= 1;
    }
    std::fs::write(&log, &bytes).expect("written");
    let old = std::fs::read_to_string(data.join("node-id")).expect("an id");
    std::fs::remove_file(&cluster.servers[damaged].log).expect("a log");
    cluster.servers[damaged].start();
    assert_eq!(cluster.servers[damaged].wait(Duration::from_secs(20)).code(), Some(1));
    let line = error_line(&cluster.servers[damaged]);
    assert!(
        line.contains("raft.redb is damaged") && line.contains("operator raft reset"),
        "{line}"
    );

    let (code, said, err) = reset(&data, false);
    assert_eq!(code, 0, "{err}");
    assert!(said.contains("raft.reset-1") && said.contains(&old), "{said}");
    assert_eq!(std::fs::read(data.join("raft.reset-1/raft.redb")).expect("kept"), bytes);

    // Under its former id it must never vote again, whoever configures that.
    let id = format!("-node-id={old}");
    let network = cluster.network;
    let expect = ["-server", "-bootstrap-expect=3", &id];
    let name = format!("s{}", damaged + 1);
    let n = u8::try_from(damaged + 1).expect("small");
    std::fs::remove_file(&cluster.servers[damaged].log).expect("a log");
    let mut same = Muster::member(cluster.dir.path(), &network, n, &name, &expect);
    assert_eq!(same.wait(Duration::from_secs(20)).code(), Some(1));
    let line = error_line(&same);
    assert!(line.contains("was retired") && line.contains(&old), "{line}");

    cluster.servers[damaged].start();
    let address = format!("{}:8300", cluster.servers[damaged].ip);
    let new = within(Duration::from_secs(60), "it votes under a new id", || {
        let servers = servers(&cluster.servers[leader])?;
        let new = std::fs::read_to_string(data.join("node-id")).map_err(|e| e.to_string())?;
        let votes = servers.iter().any(|one| {
            one["Address"] == address.as_str() && one["Voter"] == true && one["ID"] == new.as_str()
        });
        if votes { Ok(new) } else { Err(format!("{servers:?}")) }
    });
    // The leader may have dropped the old id by itself.
    within(Duration::from_secs(60), "the old id is gone", || {
        let servers = servers(&cluster.servers[leader])?;
        if servers.iter().all(|one| one["ID"] != old.as_str()) {
            return if servers.len() == 3 { Ok(()) } else { Err(format!("{servers:?}")) };
        }
        let at = format!("-http-addr={}", cluster.servers[leader].address());
        let (_, _, err) = cli(&["operator", "raft", "remove-peer", &format!("-id={old}"), &at]);
        Err(format!("{servers:?} {err}"))
    });
    assert_ne!(new, old);
    // Its vote counts: with the other follower gone there is no majority without it.
    cluster.servers[other].kill();
    cluster.servers[leader].put("/v1/kv/after", "x");
    eventually("it has all", || {
        let answer =
            http(&cluster.servers[damaged].address(), "GET", "/v1/kv/?keys&consistent", b"")?;
        let count = answer.text().matches("k/").count();
        if count == 30 && answer.text().contains("after") { Ok(()) } else { Err(answer.text()) }
    });
    let services = cluster.servers[damaged].json("/v1/agent/services");
    assert!(services["web"].is_object(), "what the agent runs stayed: {services}");
}

#[test]
fn a_lone_server_that_was_reset_waits_and_its_data_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = crate::support::Network::new();
    let args = ["-server", "-bootstrap"];
    let mut server = Muster::member(dir.path(), &network, 1, "s1", &args);
    server.wait_for_leader();
    server.put("/v1/kv/k", "v");
    server.kill();
    let data = dir.path().join("s1");

    // A directory that is gone is damage, never an empty cluster.
    std::fs::rename(data.join("raft"), data.join("elsewhere")).expect("moved");
    std::fs::remove_file(&server.log).expect("a log");
    server.start();
    assert_eq!(server.wait(Duration::from_secs(20)).code(), Some(1));
    let line = error_line(&server);
    assert!(line.contains("raft is damaged: it is missing"), "{line}");
    std::fs::rename(data.join("elsewhere"), data.join("raft")).expect("moved back");

    let (code, _, err) = reset(&data, false);
    assert!(code == 1 && err.contains("is not damaged"), "{err}");
    let (code, said, err) = reset(&data, true);
    assert_eq!(code, 0, "{err}");
    assert!(said.contains("No damage found"), "{said}");
    server.start();
    eventually("it waits", || {
        let answer = http(&server.address(), "GET", "/v1/status/leader", b"")?;
        if answer.text() == "\"\"" { Ok(()) } else { Err(answer.text()) }
    });
    let log = std::fs::read_to_string(&server.log).expect("a log");
    assert!(log.contains("bootstrap and bootstrap_expect are ignored"), "{log}");
    server.kill();

    // The data was only moved: with it and its id the server is what it was.
    let id = std::fs::read_to_string(data.join("retired-ids")).expect("one id");
    std::fs::remove_dir_all(data.join("raft")).expect("the new, empty one");
    std::fs::rename(data.join("raft.reset-1"), data.join("raft")).expect("moved back");
    std::fs::write(data.join("node-id"), id.trim()).expect("written");
    std::fs::remove_file(data.join("retired-ids")).expect("removed");
    server.start();
    server.wait_for_leader();
    assert_eq!(server.get("/v1/kv/k?raw").text(), "v");
}

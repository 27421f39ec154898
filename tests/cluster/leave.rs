//! Signals, and departures that are told apart from failures.

use std::time::Duration;

use crate::support::process::Cluster;
use crate::support::{eventually, http, now, within};

#[test]
fn a_client_that_is_terminated_leaves() {
    let cluster = Cluster::start();
    let mut client = cluster.client(11);
    let server = &cluster.servers[0];
    server.wait_for_members(Duration::from_secs(20), 1, &["c11", "s1", "s2", "s3"]);
    client.signal(libc::SIGTERM);
    let start = now();
    let status = client.wait(Duration::from_secs(20));
    assert_eq!(status.code(), Some(0), "{}", client.tail());
    // It lingers for 3 s.
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    server.wait_for_members(Duration::from_secs(10), 3, &["c11"]);
    eventually("its node is deregistered", || {
        let node = server.json("/v1/catalog/node/c11");
        if node.is_null() { Ok(()) } else { Err(node.to_string()) }
    });
}

#[test]
fn a_second_signal_ends_a_client_at_once() {
    let cluster = Cluster::start();
    let mut client = cluster.client(11);
    cluster.servers[0].wait_for_members(Duration::from_secs(20), 1, &["c11", "s1", "s2", "s3"]);
    client.signal(libc::SIGINT);
    eventually("it leaves", || {
        let log = client.tail();
        if log.contains("Gracefully shutting down") { Ok(()) } else { Err(log) }
    });
    client.signal(libc::SIGINT);
    let start = now();
    let status = client.wait(Duration::from_secs(20));
    assert_eq!(status.code(), Some(1), "{}", client.tail());
    assert!(start.elapsed() < Duration::from_millis(2_500), "{:?}", start.elapsed());
}

#[test]
fn an_agent_whose_join_attempts_are_used_up_exits() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = crate::support::Network::new();
    let mut client =
        crate::support::Muster::member(dir.path(), &network, 11, "c11", &["-retry-max=2"]);
    assert_eq!(client.wait(Duration::from_secs(20)).code(), Some(1));
    let log = client.tail();
    assert!(log.contains("max join LAN retry exhausted"), "{log}");
}

#[test]
fn a_server_that_is_terminated_stays_a_peer() {
    let mut cluster = Cluster::start();
    let follower = (cluster.leader() + 1) % 3;
    cluster.servers[follower].signal(libc::SIGTERM);
    let status = cluster.servers[follower].wait(Duration::from_secs(20));
    assert_eq!(status.code(), Some(1));
    let other = &cluster.servers[(follower + 1) % 3];
    let peers = other.json("/v1/status/peers");
    assert_eq!(peers.as_array().map(Vec::len), Some(3), "{peers}");
}

#[test]
fn a_leader_that_leaves_hands_over_and_is_removed() {
    let mut cluster = Cluster::start();
    let leader = cluster.leader();
    let name = format!("s{}", leader + 1);
    let survivor = cluster.servers[(leader + 1) % 3].address();
    let answer = cluster.servers[leader].http("PUT", "/v1/agent/leave", "");
    assert_eq!(answer.status, 200);
    let status = cluster.servers[leader].wait(Duration::from_secs(30));
    assert_eq!(status.code(), Some(0));
    let start = now();
    let write = http(&survivor, "PUT", "/v1/kv/after", b"x").expect("an answer");
    assert_eq!(write.text(), "true");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    within(Duration::from_secs(20), "two peers are left", || {
        let answer = http(&survivor, "GET", "/v1/status/peers", b"")?;
        let peers = answer.json();
        if peers.as_array().is_some_and(|list| list.len() == 2) {
            Ok(())
        } else {
            Err(peers.to_string())
        }
    });
    cluster.servers[(leader + 1) % 3].wait_for_members(Duration::from_secs(10), 3, &[&name]);
}

#[test]
fn force_leave_turns_failed_into_left() {
    let cluster = Cluster::start();
    let mut client = cluster.client(11);
    let server = &cluster.servers[0];
    server.wait_for_members(Duration::from_secs(20), 1, &["c11", "s1", "s2", "s3"]);
    client.kill();
    server.wait_for_members(Duration::from_secs(30), 4, &["c11"]);
    server.put("/v1/agent/force-leave/c11", "");
    for server in &cluster.servers {
        server.wait_for_members(Duration::from_secs(10), 3, &["c11"]);
    }
    let unknown = server.http("PUT", "/v1/agent/force-leave/nobody", "");
    assert_eq!(unknown.status, 500);
    assert!(unknown.text().contains("No node found with name 'nobody'"), "{}", unknown.text());
    server.put("/v1/agent/force-leave/c11?prune", "");
    server.wait_for_members(Duration::from_secs(10), 3, &[]);
}

#[test]
fn hangup_reloads() {
    let cluster = Cluster::start();
    let dir = cluster.dir.path();
    let file = dir.join("svc.json");
    std::fs::write(&file, r#"{"service": {"name": "one"}}"#).expect("written");
    let arg = format!("-config-file={}", file.display());
    let client = crate::support::Muster::member(dir, &cluster.network, 11, "c11", &[&arg]);
    client.wait_for_leader();
    std::fs::write(&file, r#"{"service": {"name": "two"}}"#).expect("written");
    client.signal(libc::SIGHUP);
    eventually("the new service is there", || {
        let services = client.json("/v1/agent/services");
        if services.get("two").is_some() && services.get("one").is_none() {
            Ok(())
        } else {
            Err(services.to_string())
        }
    });
}

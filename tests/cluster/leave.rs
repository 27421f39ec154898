//! Signals, and departures that are told apart from failures.

use std::time::Duration;

use crate::support::process::{Cluster, cli};
use crate::support::{Muster, eventually, http, now, within};

#[test]
fn a_client_that_is_told_to_stop_leaves() {
    let cluster = Cluster::start();
    let mut clients = [cluster.client(11), cluster.client(12)];
    let server = &cluster.servers[0];
    server.wait_for_members(Duration::from_secs(20), 1, &["c11", "c12", "s1", "s2", "s3"]);
    for (client, signal) in clients.iter_mut().zip([libc::SIGTERM, libc::SIGINT]) {
        client.signal(signal);
        let start = now();
        let status = client.wait(Duration::from_secs(20));
        assert_eq!(status.code(), Some(0), "{}", client.tail());
        // It lingers for 3 s.
        assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    }
    server.wait_for_members(Duration::from_secs(10), 3, &["c11", "c12"]);
    eventually("their nodes are deregistered", || {
        let nodes = server.json("/v1/catalog/nodes");
        let count = nodes.as_array().map_or(0, Vec::len);
        if count == 3 { Ok(()) } else { Err(nodes.to_string()) }
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
fn a_server_that_is_told_to_stop_stays_a_peer() {
    let mut cluster = Cluster::start();
    let follower = (cluster.leader() + 1) % 3;
    for signal in [libc::SIGTERM, libc::SIGINT] {
        cluster.servers[follower].signal(signal);
        let status = cluster.servers[follower].wait(Duration::from_secs(20));
        assert_eq!(status.code(), Some(1));
        let other = &cluster.servers[(follower + 1) % 3];
        let peers = other.json("/v1/status/peers");
        assert_eq!(peers.as_array().map(Vec::len), Some(3), "{peers}");
        cluster.servers[follower].start();
        cluster.servers[follower].wait_for_leader();
    }
}

#[test]
fn an_agent_joins_on_order_and_rejoins_only_when_told_to() {
    let cluster = Cluster::start();
    let (dir, ip) = (cluster.dir.path(), cluster.network.ip(11));
    let agent = |name: &str, further: &[&str]| {
        let mut args = vec![
            "-node=c11".to_owned(),
            format!("-bind={ip}"),
            format!("-client={ip}"),
            format!("-data-dir={}", dir.join("c11").display()),
        ];
        args.extend(further.iter().map(|arg| (*arg).to_owned()));
        let mut agent = Muster::prepare(dir, &ip, name, args);
        agent.start();
        eventually("it answers", || {
            http(&agent.address(), "GET", "/v1/agent/self", b"").map(|_| ())
        });
        agent
    };
    let mut first = agent("first", &[]);
    let address = format!("-http-addr={}", first.address());
    let (code, out, err) = cli(&["join", &address, &cluster.network.ip(1)]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out, "Successfully joined cluster by contacting 1 nodes.\n");
    let all = ["c11", "s1", "s2", "s3"];
    first.wait_for_members(Duration::from_secs(20), 1, &all);
    first.signal(libc::SIGTERM);
    assert_eq!(first.wait(Duration::from_secs(20)).code(), Some(0));
    cluster.servers[0].wait_for_members(Duration::from_secs(10), 3, &["c11"]);

    let mut back = agent("back", &["-rejoin"]);
    back.wait_for_members(Duration::from_secs(20), 1, &all);
    back.signal(libc::SIGTERM);
    assert_eq!(back.wait(Duration::from_secs(20)).code(), Some(0));
    let alone = agent("alone", &[]);
    alone.wait_for_members(Duration::from_secs(5), 1, &["c11"]);
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
    let address = format!("-http-addr={}", server.address());
    assert_eq!(cli(&["force-leave", &address, "c11"]), (0, String::new(), String::new()));
    for server in &cluster.servers {
        server.wait_for_members(Duration::from_secs(10), 3, &["c11"]);
    }
    let unknown = server.http("PUT", "/v1/agent/force-leave/nobody", "");
    assert_eq!(unknown.status, 500);
    assert!(unknown.text().contains("No node found with name 'nobody'"), "{}", unknown.text());
    assert_eq!(cli(&["force-leave", &address, "-prune", "c11"]).0, 0);
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

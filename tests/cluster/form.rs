//! Clusters come together.

use std::time::Duration;

use crate::support::process::{Cluster, Muster, cli, program};
use crate::support::{Network, eventually, within};

#[test]
fn three_servers_and_two_agents_become_one_cluster() {
    let cluster = Cluster::start();
    let clients = [cluster.client(11), cluster.client(12)];
    let names = ["c11", "c12", "s1", "s2", "s3"];
    for member in cluster.servers.iter().chain(&clients) {
        member.wait_for_members(Duration::from_secs(20), 1, &names);
    }
    let raft = cluster.servers[0].json("/v1/operator/raft/configuration");
    let voters = raft["Servers"].as_array().expect("servers");
    assert_eq!(voters.iter().filter(|server| server["Voter"] == true).count(), 3, "{raft}");
    assert_eq!(voters.iter().filter(|server| server["Leader"] == true).count(), 1, "{raft}");
    eventually("all nodes are in the catalog, alive", || {
        let checks = clients[0].json("/v1/health/state/passing");
        let mut nodes: Vec<String> = checks
            .as_array()
            .into_iter()
            .flatten()
            .filter(|check| check["CheckID"] == "serfHealth")
            .filter_map(|check| check["Node"].as_str().map(str::to_owned))
            .collect();
        nodes.sort();
        if nodes == names { Ok(()) } else { Err(format!("{nodes:?}")) }
    });
    // Writes sent to any node reach the leader; reads of every consistency see them.
    for (i, member) in cluster.servers.iter().chain(&clients).enumerate() {
        assert_eq!(member.put(&format!("/v1/kv/from/{i}"), "x"), "true");
    }
    for member in cluster.servers.iter().chain(&clients) {
        for mode in ["", "&consistent"] {
            let keys = member.json(&format!("/v1/kv/from/?keys{mode}"));
            assert_eq!(keys.as_array().map(Vec::len), Some(5), "{mode} at {}", member.ip);
        }
        within(Duration::from_secs(5), "stale reads catch up", || {
            let answer = member.get("/v1/kv/from/?keys&stale");
            let count = answer.json().as_array().map_or(0, Vec::len);
            if count == 5 { Ok(()) } else { Err(count.to_string()) }
        });
    }
    // So do transactions, those that only read too.
    let set = r#"[{"KV":{"Verb":"set","Key":"txn","Value":"eA=="}}]"#;
    let get = r#"[{"KV":{"Verb":"get","Key":"txn"}}]"#;
    for member in cluster.servers.iter().chain(&clients) {
        assert_eq!(member.http("PUT", "/v1/txn", set).status, 200, "at {}", member.ip);
        let seen = member.http("PUT", "/v1/txn?consistent", get);
        assert_eq!(seen.json()["Results"][0]["KV"]["Value"], "eA==", "at {}", member.ip);
        assert_eq!(seen.header("X-Consul-KnownLeader"), "true");
    }
    let follower = (cluster.leader() + 1) % 3;
    let stale = cluster.servers[follower].get("/v1/kv/from/0?stale");
    assert_eq!(stale.header("X-Consul-KnownLeader"), "true");
    assert_eq!(stale.header("X-Consul-Effective-Consistency"), "stale");
    assert!(stale.header("X-Consul-LastContact").parse::<u64>().is_ok_and(|ms| ms < 5_000));
    for (mode, effective) in [("?consistent", "consistent"), ("", "leader")] {
        let fresh = cluster.servers[follower].get(&format!("/v1/kv/from/0{mode}"));
        assert_eq!(fresh.header("X-Consul-KnownLeader"), "true");
        // Who answers a default read leads; a consistent one is answered here.
        assert!(mode == "?consistent" || fresh.header("X-Consul-LastContact") == "0");
        assert_eq!(fresh.header("X-Consul-Effective-Consistency"), effective);
    }

    let (code, out, _) = cli(&["members", &format!("-http-addr={}", clients[0].address())]);
    assert_eq!(code, 0);
    assert_eq!(out.lines().count(), 6, "{out}");
    assert!(out.lines().nth(1).is_some_and(|line| line.contains("server")), "{out}");
}

#[test]
fn three_servers_on_one_address_with_other_ports() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let ip = network.ip(1);
    let mut servers = Vec::new();
    for n in 0..3_u16 {
        let args = [
            "-server".to_owned(),
            "-bootstrap-expect=3".to_owned(),
            format!("-node=p{n}"),
            format!("-bind={ip}"),
            format!("-client={ip}"),
            format!("-data-dir={}", dir.path().join(format!("p{n}")).display()),
            format!("-retry-join={ip}:8301"),
            format!("-http-port={}", 8500 + n * 10),
            format!("-dns-port={}", 8600 + n * 10),
            format!("-server-port={}", 8300 + n * 10),
            format!("-serf-lan-port={}", 8301 + n * 10),
            "-serf-wan-port=-1".to_owned(),
        ];
        let mut server = Muster::prepare(dir.path(), &ip, &format!("p{n}"), args.to_vec());
        server.start();
        servers.push(server);
    }
    for n in 0..3_u16 {
        let address = format!("{ip}:{}", 8500 + n * 10);
        eventually("three peers", || {
            let answer = crate::support::http(&address, "GET", "/v1/status/peers", b"")?;
            let peers: Vec<String> =
                serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
            if peers.len() == 3 { Ok(()) } else { Err(format!("{peers:?}")) }
        });
    }
}

#[test]
fn a_fourth_server_is_added_as_a_voter() {
    let cluster = Cluster::start();
    let fourth = Muster::member(cluster.dir.path(), &cluster.network, 4, "s4", &["-server"]);
    fourth.wait_for_leader();
    eventually("four voters", || {
        let raft = cluster.servers[0].json("/v1/operator/raft/configuration");
        let voters = raft["Servers"]
            .as_array()
            .map_or(0, |list| list.iter().filter(|server| server["Voter"] == true).count());
        if voters == 4 { Ok(()) } else { Err(raft.to_string()) }
    });
    assert_eq!(fourth.put("/v1/kv/by/four", "x"), "true");
}

#[test]
fn agent_is_a_program_name_too() {
    let agent = std::path::Path::new(program()).with_file_name("agent");
    let output = std::process::Command::new(agent).arg("-help").output().expect("it runs");
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("bootstrap-expect"));
}

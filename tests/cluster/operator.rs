//! Servers come, go, move and are replaced; autopilot looks after them; clients see no error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::support::process::{Cluster, Muster, cli};
use crate::support::{Network, eventually, http, now, within};

/// Autopilot with little patience for newcomers and much for a machine that is busy.
const QUICK: &str = r#"{"ServerStabilizationTime": "1ms", "LastContactThreshold": "5s",
    "MaxTrailingLogs": 100000}"#;

fn configure(server: &Muster, body: &str) {
    eventually("autopilot takes its configuration", || {
        let path = "/v1/operator/autopilot/configuration";
        let answer = http(&server.address(), "PUT", path, body.as_bytes())?;
        if (answer.status, &*answer.text()) == (200, "true") { Ok(()) } else { Err(answer.text()) }
    });
}

/// Names of servers in the Raft configuration, as seen at this address: `s1+` votes, `s4-` does not.
fn peers(address: &str) -> Result<Vec<String>, String> {
    let answer = http(address, "GET", "/v1/operator/raft/configuration", b"")?;
    if answer.status != 200 {
        return Err(answer.text());
    }
    let found = answer.json();
    let mut names: Vec<String> = found["Servers"]
        .as_array()
        .ok_or("no list")?
        .iter()
        .map(|server| {
            let sign = if server["Voter"] == true { "+" } else { "-" };
            format!("{}{sign}", server["Node"].as_str().unwrap_or("?"))
        })
        .collect();
    names.sort();
    Ok(names)
}

fn wait_for_peers(limit: u64, address: &str, wanted: &[&str]) {
    within(Duration::from_secs(limit), &format!("peers {wanted:?}"), || {
        let found = peers(address)?;
        if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// Counts up a key by compare-and-set through a client agent: an error, a lost write or one that was
/// applied twice ends it.
struct Load {
    stop: Arc<AtomicBool>,
    writer: JoinHandle<Result<u32, String>>,
}

impl Load {
    fn start(address: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&stop);
        let writer = crate::support::thread(move || {
            let (mut index, mut writes) = (0, 0_u32);
            while !ends.load(Ordering::Relaxed) {
                let path = format!("/v1/kv/load?cas={index}");
                let wrote = http(&address, "PUT", &path, writes.to_string().as_bytes())?;
                if (wrote.status, wrote.text().as_str()) != (200, "true") {
                    return Err(format!("write {writes}: {} {}", wrote.status, wrote.text()));
                }
                let read = http(&address, "GET", "/v1/kv/load", b"")?;
                if read.status != 200 {
                    return Err(format!("read {writes}: {} {}", read.status, read.text()));
                }
                index = read.json()[0]["ModifyIndex"].as_u64().ok_or("no index")?;
                writes += 1;
            }
            Ok(writes)
        });
        Self { stop, writer }
    }

    fn end(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        let writes = self.writer.join().expect("no panic");
        writes.unwrap_or_else(|error| panic!("the client saw an error: {error}"))
    }
}

#[test]
fn servers_are_added_replaced_and_removed_under_load() {
    let mut cluster = Cluster::start();
    let client = cluster.client(11);
    configure(&client, QUICK);
    let load = Load::start(client.address());
    let at = client.address();
    let (dir, network) = (cluster.dir.path().to_owned(), cluster.network);
    // The first servers will not be there for ever.
    let join = format!("-retry-join={}", network.ip(4));
    let member = |n: u8| Muster::member(&dir, &network, n, &format!("s{n}"), &["-server", &join]);

    // Three become five.
    let (fourth, fifth) = (member(4), member(5));
    wait_for_peers(60, &at, &["s1+", "s2+", "s3+", "s4+", "s5+"]);
    // Two of the first three leave, the leader among them.
    let mut leader = cluster.leader();
    for _ in 0..2 {
        let mut leaving = cluster.servers.remove(leader);
        let gone = format!("s{}+", leaving.ip.rsplit('.').next().expect("an address"));
        let (code, _, err) = cli(&["leave", &format!("-http-addr={}", leaving.address())]);
        assert_eq!(code, 0, "{err}");
        leaving.wait(Duration::from_secs(30));
        within(Duration::from_secs(30), &format!("{gone} is no peer"), || {
            let found = peers(&at)?;
            if found.contains(&gone) { Err(format!("{found:?}")) } else { Ok(()) }
        });
        leader = 0;
    }
    // One is killed for good, and a new one takes its place: the dead one is cleaned away.
    drop(fifth);
    let sixth = member(6);
    let last = cluster.servers[0].ip.rsplit('.').next().expect("an address").to_owned();
    wait_for_peers(90, &at, &[&format!("s{last}+"), "s4+", "s6+"]);
    let writes = load.end();
    assert!(writes > 20, "{writes}");
    for server in [&cluster.servers[0], &fourth, &sixth] {
        eventually("it has the last write", || {
            let found = http(&server.address(), "GET", "/v1/kv/load?raw&stale", b"")?.text();
            if found == (writes - 1).to_string() { Ok(()) } else { Err(found) }
        });
    }
}

#[test]
fn a_server_that_comes_back_at_another_address_is_found_there() {
    let mut cluster = Cluster::start();
    let client = cluster.client(11);
    // It is away for longer than a dead server is left in peace.
    configure(&client, r#"{"CleanupDeadServers": false, "LastContactThreshold": "5s"}"#);
    // Not the first: the others join by its address, and it by its own.
    let moving = if cluster.leader() == 1 { 2 } else { 1 };
    let load = Load::start(client.address());
    cluster.servers[moving].kill();
    let n = u8::try_from(moving + 1).expect("small");
    let name = format!("s{n}");
    let ip = cluster.network.ip(20 + n);
    let args = [
        "-server".to_owned(),
        format!("-node={name}"),
        format!("-bind={ip}"),
        format!("-client={ip}"),
        format!("-data-dir={}", cluster.dir.path().join(&name).display()),
        format!(
            "-retry-join={}",
            cluster.network.ip(u8::try_from((moving + 1) % 3 + 1).expect("s"))
        ),
        "-retry-interval=2s".to_owned(),
    ];
    let mut moved =
        Muster::prepare(cluster.dir.path(), &ip, &format!("{name}-moved"), args.to_vec());
    moved.start();
    let wanted = format!("{ip}:8300");
    within(Duration::from_secs(90), "the configuration has the new address", || {
        let found = http(&client.address(), "GET", "/v1/operator/raft/configuration", b"")?.json();
        let at = found["Servers"].as_array().into_iter().flatten().find(|one| one["Node"] == *name);
        match at {
            Some(server) if server["Address"] == *wanted && server["Voter"] == true => Ok(()),
            _ => Err(found.to_string()),
        }
    });
    client.put("/v1/kv/moved", "yes");
    within(Duration::from_secs(30), "it follows there", || {
        let found = http(&moved.address(), "GET", "/v1/kv/moved?raw&stale", b"")?.text();
        if found == "yes" { Ok(()) } else { Err(found) }
    });
    assert!(load.end() > 10);
}

#[test]
fn a_server_that_was_cleaned_away_comes_back_and_so_does_one_without_its_log() {
    let mut cluster = Cluster::start();
    configure(&cluster.servers[0], QUICK);
    // Not the first: the others join by its address, and it by its own.
    let away = if cluster.leader() == 1 { 2 } else { 1 };
    let other = cluster.servers[(away + 1) % 3].address();
    let all = ["s1+", "s2+", "s3+"];
    cluster.servers[away].kill();
    within(Duration::from_secs(60), "it is removed", || match peers(&other)?.len() {
        2 => Ok(()),
        count => Err(count.to_string()),
    });
    let put = |key: &str| http(&other, "PUT", &format!("/v1/kv/{key}"), b"x").map(|a| a.text());
    assert_eq!(put("while/away"), Ok("true".to_owned()));
    // It still takes itself for a voter of three.
    cluster.servers[away].start();
    wait_for_peers(120, &other, &all);
    let has = |server: &Muster, key: &str| {
        within(Duration::from_secs(30), &format!("it has {key}"), || {
            let found = http(&server.address(), "GET", &format!("/v1/kv/{key}?raw&stale"), b"")?;
            if found.text() == "x" { Ok(()) } else { Err(found.text()) }
        });
    };
    has(&cluster.servers[away], "while/away");

    cluster.servers[away].kill();
    let data = cluster.dir.path().join(format!("s{}", away + 1));
    std::fs::rename(data.join("raft"), cluster.dir.path().join("raft-away")).expect("moved");
    // Under its id, which it kept, it would vote without its old promises.
    cluster.servers[away].start();
    let refused = cluster.servers[away].wait(Duration::from_secs(30));
    assert_eq!(refused.code(), Some(1));
    let data = data.to_string_lossy();
    let reset = format!("-data-dir={data}");
    let (code, _, said) = cli(&["operator", "raft", "reset", &reset]);
    assert_eq!(code, 0, "{said}");
    cluster.servers[away].start();
    has(&cluster.servers[away], "while/away");
    assert_eq!(put("after"), Ok("true".to_owned()));
    has(&cluster.servers[away], "after");
    wait_for_peers(120, &other, &all);
    assert!(cluster.servers.iter_mut().all(Muster::running), "nobody died of it");
}

#[test]
fn a_majority_lost_for_ever_is_replaced_by_peers_json() {
    let mut cluster = Cluster::start();
    for n in 0..50 {
        cluster.servers[0].put(&format!("/v1/kv/k/{n}"), n.to_string());
    }
    let survivor = cluster.leader();
    let id = cluster.servers[survivor].json("/v1/agent/self")["Config"]["NodeID"].clone();
    for server in &mut cluster.servers {
        server.kill();
    }
    let n = survivor + 1;
    let raft = cluster.dir.path().join(format!("s{n}")).join("raft");
    assert!(raft.join("peers.info").exists());
    for other in (1..=3).filter(|other| *other != n) {
        std::fs::remove_dir_all(cluster.dir.path().join(format!("s{other}"))).expect("lost");
    }
    let address = format!("{}:8300", cluster.servers[survivor].ip);
    let order = serde_json::json!([{"id": id, "address": address, "non_voter": false}]);
    std::fs::write(raft.join("peers.json"), order.to_string()).expect("written");
    cluster.servers[survivor].start();
    let alone = &cluster.servers[survivor];
    alone.wait_for_leader();
    let keys = alone.json("/v1/kv/k/?keys&consistent");
    assert_eq!(keys.as_array().map(Vec::len), Some(50), "{keys}");
    assert_eq!(peers(&alone.address()), Ok(vec![format!("s{n}+")]));
    assert!(!raft.join("peers.json").exists());
    alone.put("/v1/kv/after", "x");

    // New ones take the places of the lost.
    configure(alone, QUICK);
    let join = format!("-retry-join={}", alone.ip);
    let members: Vec<Muster> = [4, 5]
        .map(|n| {
            let args = ["-server", &join];
            Muster::member(cluster.dir.path(), &cluster.network, n, &format!("s{n}"), &args)
        })
        .into();
    wait_for_peers(60, &alone.address(), &[&format!("s{n}+"), "s4+", "s5+"]);
    for member in &members {
        eventually("it has everything", || {
            let found = http(&member.address(), "GET", "/v1/kv/k/?keys&stale", b"")?;
            let count =
                if found.status == 200 { found.json().as_array().map_or(0, Vec::len) } else { 0 };
            if count == 50 { Ok(()) } else { Err(found.text()) }
        });
    }
    // The survivor is needed no more than any other.
    cluster.servers[survivor].kill();
    within(Duration::from_secs(20), "the new ones go on", || {
        let answer = http(&members[0].address(), "PUT", "/v1/kv/later", b"x")?;
        if answer.text() == "true" { Ok(()) } else { Err(answer.text()) }
    });
}

#[test]
fn a_server_that_never_votes_follows_and_stays_a_non_voter() {
    let cluster = Cluster::start();
    configure(&cluster.servers[0], QUICK);
    let fourth = Muster::member(
        cluster.dir.path(),
        &cluster.network,
        4,
        "s4",
        &["-server", "-non-voting-server"],
    );
    let fifth = Muster::member(cluster.dir.path(), &cluster.network, 5, "s5", &["-server"]);
    let at = cluster.servers[0].address();
    // The fifth came later and votes by now.
    wait_for_peers(60, &at, &["s1+", "s2+", "s3+", "s4-", "s5+"]);
    cluster.servers[0].put("/v1/kv/k", "v");
    eventually("it follows", || {
        let found = http(&fourth.address(), "GET", "/v1/kv/k?raw&stale", b"")?.text();
        if found == "v" { Ok(()) } else { Err(found) }
    });
    assert_eq!(fourth.put("/v1/kv/by/four", "x"), "true");
    let state = within(Duration::from_secs(20), "autopilot has looked", || {
        let state = http(&at, "GET", "/v1/operator/autopilot/state", b"")?.json();
        let servers = state["Servers"].as_object().ok_or("no servers")?.clone();
        let found = servers.values().find(|server| server["Name"] == "s4").cloned();
        let found = found.ok_or_else(|| state.to_string())?;
        if servers.len() == 5 && found["Healthy"] == true {
            Ok((state, found))
        } else {
            Err(state.to_string())
        }
    });
    let (all, found) = state;
    assert_eq!(
        (&found["Status"], &found["NodeType"]),
        (&"non-voter".into(), &"read-replica".into())
    );
    assert_eq!(
        (&found["ReadReplica"], &found["Meta"]["muster-state-version"]),
        (&true.into(), &"2".into())
    );
    assert_eq!(all["Voters"].as_array().map(Vec::len), Some(4), "{all}");
    let (code, out, _) = cli(&["operator", "raft", "list-peers", &format!("-http-addr={at}")]);
    let line = out.lines().find(|line| line.starts_with("s4 ")).unwrap_or_default();
    assert!(code == 0 && line.contains("  follower  false  "), "{out}");
    let service = cluster.servers[0].json("/v1/catalog/service/consul");
    let meta = service.as_array().into_iter().flatten().find(|one| one["Node"] == "s4").cloned();
    let meta: Value = meta.expect("registered")["ServiceMeta"].clone();
    assert_eq!((&meta["non_voter"], &meta["read_replica"]), (&"true".into(), &"true".into()));
    // Leadership cannot be given to it.
    let id = found["ID"].as_str().expect("an id");
    let path = format!("/v1/operator/raft/transfer-leader?id={id}");
    let refused = cluster.servers[0].http("POST", &path, "");
    assert!(refused.status == 500 && refused.text().contains(id), "{}", refused.text());
    drop(fifth);
}

#[test]
fn leadership_is_transferred_and_peers_are_removed_by_order() {
    let cluster = Cluster::start();
    let leader = cluster.leader();
    let at = format!("-http-addr={}", cluster.servers[(leader + 1) % 3].address());
    let server = &cluster.servers[(leader + 2) % 3];
    let id = server.json("/v1/agent/self")["Config"]["NodeID"].as_str().expect("an id").to_owned();
    let (code, out, err) = cli(&["operator", "raft", "transfer-leader", "-id", &id, &at]);
    assert_eq!((code, out.as_str()), (0, "Success\n"), "{err}");
    assert_eq!(cluster.leader(), (leader + 2) % 3);
    let (code, _, err) =
        cli(&["operator", "raft", "transfer-leader", "-id", &id.replace('-', ""), &at]);
    assert!(code == 1 && err.contains("was not found in the Raft configuration"), "{err}");

    for args in [&["-id", "a", "-address", "b"][..], &[]] {
        let all = [&["operator", "raft", "remove-peer"], args, &[&*at]].concat();
        let (code, _, err) = cli(&all);
        assert!(code == 1 && err.starts_with("Error removing peer: "), "{err}");
    }
    let address = format!("{}:8300", cluster.servers[leader].ip);
    let (code, out, err) =
        cli(&["operator", "raft", "remove-peer", &format!("-address={address}"), &at]);
    let said = format!("Removed peer with address \"{address}\"\n");
    assert_eq!((code, out), (0, said), "{err}");
    let found = peers(&cluster.servers[(leader + 1) % 3].address()).expect("answers");
    assert_eq!(found.len(), 2, "{found:?}");
    // It lives, and is not taken back at once.
    let (code, out, _) = cli(&["operator", "raft", "list-peers", &at]);
    assert_eq!((code, out.lines().count()), (0, 3), "{out}");
}

#[test]
fn autopilot_is_configured_and_seen_through_the_command_line() {
    let cluster = Cluster::start();
    let run_at = |server: &Muster, words: &[&str]| {
        let at = format!("-http-addr={}", server.address());
        cli(&[&["operator", "autopilot"], words, &[&*at]].concat())
    };
    let run = |words: &[&str]| run_at(&cluster.servers[1], words);
    eventually("it is configured", || match run(&["get-config"]) {
        (0, ..) => Ok(()),
        (_, _, err) => Err(err),
    });
    let (_, out, _) = run(&["get-config"]);
    let defaults = "CleanupDeadServers = true\nLastContactThreshold = 200ms\n\
        MaxTrailingLogs = 250\nMinQuorum = 0\nServerStabilizationTime = 10s\n\
        RedundancyZoneTag = \"\"\nDisableUpgradeMigration = false\nUpgradeVersionTag = \"\"\n";
    assert_eq!(out, defaults);
    let flags = [
        "set-config",
        "-cleanup-dead-servers=false",
        "-min-quorum=3",
        "-last-contact-threshold=5s",
        "-max-trailing-logs=10000",
    ];
    let (code, out, err) = run(&flags);
    assert_eq!((code, out.as_str()), (0, "Configuration updated!\n"), "{err}");
    let (_, out, _) = run(&["get-config"]);
    let changed = defaults
        .replace("CleanupDeadServers = true", "CleanupDeadServers = false")
        .replace("MinQuorum = 0", "MinQuorum = 3")
        .replace("200ms", "5s")
        .replace("= 250", "= 10000");
    assert_eq!(out, changed);
    assert_eq!(run(&["set-config", "-min-quorum=x"]).0, 1);
    assert_eq!(run(&["state", "-format=xml"]).0, 1);

    let state = within(Duration::from_secs(30), "all is well", || {
        let (code, out, err) = run(&["state"]);
        let well = out.contains("Healthy:                      true\n")
            && out.contains("\nFailure Tolerance:            1\n");
        if code == 0 && well { Ok(out) } else { Err(format!("{out}{err}")) }
    });
    assert_eq!(state.matches("      Status:          ").count(), 3, "{state}");
    assert!(state.contains("         \"muster-state-version\": \"2\"\n"), "{state}");
    let (code, out, _) = run(&["state", "-format=json"]);
    let json: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, json["Voters"].as_array().map(Vec::len)), (0, Some(3)));

    // Health is a status too: it follows the truth.
    let health =
        |server: &Muster| http(&server.address(), "GET", "/v1/operator/autopilot/health", b"");
    assert_eq!(health(&cluster.servers[0]).expect("answers").status, 200);
    let mut cluster = cluster;
    let dead = (cluster.leader() + 1) % 3;
    cluster.servers[dead].kill();
    let other = &cluster.servers[(dead + 1) % 3];
    within(Duration::from_secs(30), "the dead server is seen", || {
        let answer = health(other)?;
        let json = answer.json();
        let ill = json["Servers"].as_array().into_iter().flatten();
        let ill = ill.filter(|server| server["Healthy"] == false).count();
        if (answer.status, ill) == (429, 1) && json["FailureTolerance"] == 0 {
            Ok(())
        } else {
            Err(json.to_string())
        }
    });
    // With a minimum of three voters it stays a peer, though dead servers may be removed again.
    assert_eq!(run_at(other, &["set-config", "-cleanup-dead-servers=true"]).0, 0);
    other.wait_for_members(Duration::from_secs(30), 4, &[&*format!("s{}", dead + 1)]);
    let count = |address: &str| peers(address).map(|found| found.len());
    // Longer than autopilot's round.
    let begun = now();
    while begun.elapsed() < Duration::from_secs(12) {
        assert_eq!(count(&other.address()), Ok(3));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(run_at(other, &["set-config", "-min-quorum=0"]).0, 0);
    within(Duration::from_secs(30), "the dead server is removed", || {
        match count(&other.address())? {
            2 => Ok(()),
            count => Err(count.to_string()),
        }
    });
}

#[test]
fn five_servers_lose_two_and_one_server_needs_no_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let mut servers: Vec<Muster> =
        (1..=5).map(|n| Muster::server(dir.path(), &network, n, 5)).collect();
    for server in &servers {
        server.wait_for_leader();
    }
    wait_for_peers(30, &servers[0].address(), &["s1+", "s2+", "s3+", "s4+", "s5+"]);
    let leader = servers[0].wait_for_leader();
    let leads = |server: &Muster| leader == format!("\"{}:8300\"", server.ip);
    let at = servers.iter().position(leads).expect("one of them");
    servers[at].kill();
    servers[(at + 1) % 5].kill();
    within(Duration::from_secs(20), "three of five go on", || {
        let answer = http(&servers[(at + 2) % 5].address(), "PUT", "/v1/kv/k", b"v")?;
        if answer.text() == "true" { Ok(()) } else { Err(answer.text()) }
    });

    let alone = Muster::member(dir.path(), &Network::new(), 1, "alone", &["-server", "-bootstrap"]);
    alone.wait_for_leader();
    assert_eq!(peers(&alone.address()), Ok(vec!["alone+".to_owned()]));
    assert_eq!(alone.put("/v1/kv/k", "v"), "true");
    eventually("it is healthy", || {
        let answer = http(&alone.address(), "GET", "/v1/operator/autopilot/health", b"")?;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    });
}

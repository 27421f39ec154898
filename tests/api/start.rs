//! The one-minute start.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::json;

use crate::support::{Muster, Network, eventually, http, now};

#[test]
fn dev_answers_within_a_second_with_its_own_node_and_service() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let start = now();
    let dev = Muster::dev(dir.path(), &network.ip(1), &["-node=laptop"]);
    let node = loop {
        if let Ok(answer) = http(&dev.address(), "GET", "/v1/health/service/consul?passing", b"")
            && answer.status == 200
            && answer.text().contains("serfHealth")
        {
            break answer.json();
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{}", dev.tail());
        std::thread::sleep(Duration::from_millis(5));
    };
    let elapsed = start.elapsed();
    assert_eq!(node[0]["Node"]["Node"], "laptop");
    assert_eq!(node[0]["Service"]["ID"], "consul");
    assert_eq!(node[0]["Checks"][0]["CheckID"], "serfHealth");
    assert!(elapsed < Duration::from_secs(1), "took {elapsed:?} (debug build)");
    eventually("the table of addresses", || {
        let log = dev.tail();
        let missing = ["HTTP", "DNS", ":8500", ":8600", "curl", "dig", "running"]
            .into_iter()
            .find(|needle| !log.contains(needle));
        missing.map_or(Ok(()), |needle| Err(format!("{needle} is missing in:\n{log}")))
    });
}

#[test]
fn a_port_in_use_is_named_in_one_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let ip = network.ip(1);
    let _held = TcpListener::bind((ip.as_str(), 8500)).expect("bound");
    let mut dev = Muster::dev(dir.path(), &ip, &[]);
    let status = dev.wait(Duration::from_secs(10));
    assert_eq!(status.code(), Some(1));
    let log = dev.tail();
    let line = log.lines().find(|line| line.starts_with("error:")).expect("an error line");
    assert!(line.contains(&format!("{ip}:8500")) && line.contains("-http-port"), "{line}");
}

#[test]
fn the_agent_says_who_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let dev = Muster::dev(dir.path(), &network.ip(1), &["-node=me", "-node-meta=rack:r7"]);
    dev.wait_for_leader();
    let myself = dev.json("/v1/agent/self");
    assert_eq!(myself["Config"]["NodeName"], "me");
    assert_eq!(myself["Config"]["Datacenter"], "dc1");
    assert_eq!(myself["Config"]["Server"], true);
    assert_eq!(myself["Config"]["Version"], "1.21.4");
    assert_eq!(myself["Meta"]["rack"], "r7");
    let members = dev.json("/v1/agent/members");
    assert_eq!(members[0]["Name"], "me");
    assert_eq!(members[0]["Status"], 1);
    assert_eq!(members[0]["Tags"]["role"], "consul");
    assert_eq!(dev.json("/v1/catalog/datacenters"), json!(["dc1"]));
    assert_eq!(dev.json("/v1/status/peers"), json!([format!("{}:8300", dev.ip)]));
    let raft = dev.json("/v1/operator/raft/configuration");
    assert_eq!(raft["Servers"][0]["Node"], "me");
    assert_eq!(raft["Servers"][0]["Leader"], true);
    assert_eq!(raft["Servers"][0]["Voter"], true);
}

#[test]
fn an_agent_without_http_runs_until_it_is_told_to_stop() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let mut dev = Muster::dev(dir.path(), &network.ip(1), &["-http-port=-1"]);
    let says = |dev: &Muster, what: &str| {
        eventually(what, || {
            let log = dev.tail();
            if log.contains(what) { Ok(()) } else { Err(log) }
        });
    };
    says(&dev, "running");
    dev.signal(libc::SIGHUP);
    says(&dev, "configuration reloaded");
    dev.signal(libc::SIGTERM);
    assert_eq!(dev.wait(Duration::from_secs(10)).code(), Some(1));
}

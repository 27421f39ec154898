//! DNS of a real process, asked with `dig`.

#[path = "../support/mod.rs"]
mod support;

use std::process::Command;
use std::time::Duration;

use serde_json::json;
use support::process::Cluster;
use support::{Muster, Network, eventually, within};

/// Asks with `dig` (Debian's bind9-dnsutils, installed by `scripts/test`); its whole output.
fn dig(ip: &str, args: &[&str]) -> String {
    let output = Command::new("dig")
        .args([&format!("@{ip}"), "-p", "8600", "+time=2", "+tries=2", "+nocookie"])
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("dig must be installed: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The answer lines alone, sorted.
fn short(ip: &str, args: &[&str]) -> Vec<String> {
    let mut args = args.to_vec();
    args.push("+short");
    let mut lines: Vec<String> = dig(ip, &args).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn services_and_nodes_are_found_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let dev = Muster::dev(dir.path(), &network.ip(1), &["-node=n"]);
    dev.wait_for_leader();
    for n in 1..=3 {
        let body = json!({"Node": format!("web{n}"), "Address": format!("10.0.0.{n}"),
            "Service": {"Service": "web", "Port": 8080, "Tags": [if n == 1 { "blue" } else { "green" }]},
            "Check": {"Name": "c", "ServiceID": "web", "Status": if n == 3 { "critical" } else { "passing" }}});
        dev.put("/v1/catalog/register", body.to_string());
    }
    let ip = dev.ip.clone();
    let both = ["10.0.0.1", "10.0.0.2"];
    eventually("A records of the healthy instances", || {
        let found = short(&ip, &["web.service.consul"]);
        if found == both { Ok(()) } else { Err(format!("{found:?}")) }
    });
    assert_eq!(short(&ip, &["WEB.Service.Consul"]), both);
    assert_eq!(short(&ip, &["web.service.dc1.consul"]), both);
    assert_eq!(short(&ip, &["+tcp", "web.service.consul"]), both);
    assert_eq!(short(&ip, &["blue.web.service.consul"]), ["10.0.0.1"]);
    assert_eq!(short(&ip, &["_web._green.service.consul"]), ["10.0.0.2"]);
    assert_eq!(short(&ip, &["web1.node.consul"]), ["10.0.0.1"]);
    assert_eq!(short(&ip, &["n.node.consul"]), [ip.as_str()]);
    let srv = short(&ip, &["_web._tcp.service.consul", "SRV"]);
    assert_eq!(srv, ["1 1 8080 web1.node.dc1.consul.", "1 1 8080 web2.node.dc1.consul."]);
    let whole = dig(&ip, &["web.service.consul", "SRV"]);
    assert!(whole.contains("ADDITIONAL SECTION") && whole.contains("10.0.0.1"), "{whole}");
    assert_eq!(short(&ip, &["consul.service.consul"]), [ip.as_str()]);

    let missing = dig(&ip, &["nope.service.consul"]);
    assert!(missing.contains("NXDOMAIN") && missing.contains("SOA"), "{missing}");
    let empty = dig(&ip, &["web.service.consul", "AAAA"]);
    assert!(empty.contains("NOERROR") && empty.contains("SOA"), "{empty}");
    let foreign = dig(&ip, &["www.example.com"]);
    assert!(foreign.contains("REFUSED"), "{foreign}");
    let elsewhere = dig(&ip, &["web.service.dc9.consul"]);
    assert!(elsewhere.contains("NXDOMAIN") || elsewhere.contains("SERVFAIL"), "{elsewhere}");

    // Ten more: cut over UDP, whole over TCP.
    for n in 10..30 {
        let body = json!({"Node": format!("web{n}"), "Address": format!("10.0.0.{n}"),
            "Service": {"Service": "web", "Port": 8080}});
        dev.put("/v1/catalog/register", body.to_string());
    }
    eventually("all of them over TCP", || {
        let found = short(&ip, &["+tcp", "web.service.consul"]);
        if found.len() == 22 { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let orders: std::collections::BTreeSet<String> =
        (0..20).map(|_| dig(&ip, &["+tcp", "+short", "web.service.consul"])).collect();
    assert!(orders.len() > 5, "answers are shuffled");
}

#[test]
fn a_killed_agent_leaves_dns_and_an_agent_without_servers_goes_on_answering_other_things() {
    let mut cluster = Cluster::start();
    let mut dying = cluster.client(11);
    let asking = cluster.client(12);
    dying.put("/v1/agent/service/register", r#"{"Name": "web", "Port": 80}"#);
    let alive = dying.ip.clone();
    eventually("web in DNS", || {
        let found = short(&asking.ip, &["web.service.consul"]);
        if found == [alive.as_str()] { Ok(()) } else { Err(format!("{found:?}")) }
    });
    dying.kill();
    within(Duration::from_secs(30), "web leaves DNS", || {
        let found = short(&asking.ip, &["web.service.consul"]);
        if found.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
    });
    for server in &mut cluster.servers {
        server.kill();
    }
    let never_asked = dig(&asking.ip, &["+time=12", "+tries=1", "never-asked.service.consul"]);
    assert!(!never_asked.contains("NXDOMAIN"), "an outage is no proof of absence:\n{never_asked}");
}

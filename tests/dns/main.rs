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
fn every_kind_of_address_is_found_under_the_configured_domain() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let file = dir.path().join("dns.json");
    std::fs::write(&file, r#"{"dns_config": {"enable_truncate": true}}"#).expect("written");
    let file = format!("-config-file={}", file.display());
    let dev = Muster::dev(dir.path(), &network.ip(1), &["-node=n", "-domain=Example.", &file]);
    dev.wait_for_leader();
    let register = |node: String, address: &str, name: &str, own: &str| {
        let body = json!({"Node": node, "Address": address,
            "Service": {"Service": name, "Port": 80, "Address": own}});
        dev.put("/v1/catalog/register", body.to_string());
    };
    register("six".to_owned(), "2001:db8::6", "six", "");
    register("four".to_owned(), "10.0.0.4", "six", "");
    register("own".to_owned(), "10.0.0.5", "own", "10.9.9.9");
    for n in 0..30 {
        register(format!("many-{n}"), &format!("10.1.0.{n}"), "many", "");
    }
    let ip = dev.ip.clone();
    eventually("the last one", || {
        let found = short(&ip, &["many-29.node.example"]);
        if found == ["10.1.0.29"] { Ok(()) } else { Err(format!("{found:?}")) }
    });
    assert_eq!(short(&ip, &["six.service.example", "AAAA"]), ["2001:db8::6"]);
    assert_eq!(short(&ip, &["six.service.example", "A"]), ["10.0.0.4"]);
    assert_eq!(short(&ip, &["six.service.example", "ANY"]), ["10.0.0.4", "2001:db8::6"]);
    assert_eq!(short(&ip, &["six.node.example", "AAAA"]), ["2001:db8::6"]);
    // The address of the service itself is no node's: SRV points to a name made of it.
    let srv = dig(&ip, &["own.service.example", "SRV"]);
    assert!(srv.contains("1 1 80 0a090909.addr.dc1.example."), "{srv}");
    assert!(srv.contains("ADDITIONAL SECTION") && srv.contains("10.9.9.9"), "{srv}");
    assert_eq!(short(&ip, &["0a090909.addr.dc1.example"]), ["10.9.9.9"]);
    // The old default domain is foreign now.
    assert!(dig(&ip, &["n.node.consul"]).contains("REFUSED"));

    let count = |args: &[&str]| {
        let whole = dig(&ip, args);
        let answers = whole.lines().filter(|line| line.starts_with("many.service")).count();
        let flags = whole.lines().find(|line| line.starts_with(";; flags:")).unwrap_or_default();
        (answers, flags.split(';').nth(2).is_some_and(|flags| flags.contains(" tc")), whole)
    };
    let (answers, cut, whole) = count(&["+noedns", "+ignore", "many.service.example"]);
    assert!(answers > 0 && answers <= 8 && cut, "{whole}");
    let (answers, cut, whole) = count(&["+bufsize=4096", "+ignore", "many.service.example"]);
    assert!(answers == 30 && !cut && whole.contains("EDNS: version: 0"), "{whole}");
    let (answers, cut, whole) = count(&["+noedns", "+tcp", "many.service.example"]);
    assert!(answers == 30 && !cut, "{whole}");
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

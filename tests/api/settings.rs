//! Flags and files take effect in a real process.

use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::support::process::cli;
use crate::support::{Muster, Network, eventually, http, thread};

fn said(process: &Muster, text: &str) {
    eventually(&format!("{text:?} in the log"), || {
        let log = std::fs::read_to_string(&process.log).unwrap_or_default();
        if log.contains(text) { Ok(()) } else { Err(log) }
    });
}

#[test]
fn flags_name_the_node_and_its_places() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let (ip, advertised) = (network.ip(1), network.ip(9));
    let pid_file = dir.path().join("muster.pid");
    let mut dev = Muster::dev(
        dir.path(),
        &ip,
        &[
            "-node=Me",
            "-node-id=40E4A748-2192-161A-0510-9BF59FE950B5",
            "-node-meta=rack:r7",
            "-node-meta=url:http://x:1",
            "-datacenter=Home",
            &format!("-advertise={advertised}"),
            &format!("-pid-file={}", pid_file.display()),
            "-log-level=debug",
            "-grpc-port=18502",
            "-server-port=18300",
            "-serf-lan-port=18301",
            "-serf-wan-port=-1",
            "-raft-protocol=3",
            "-enable-local-script-checks",
            "-ui",
        ],
    );
    assert_eq!(dev.wait_for_leader(), format!("\"{advertised}:18300\""));
    let myself = dev.json("/v1/agent/self");
    let config = &myself["Config"];
    assert_eq!(config["NodeName"], "Me");
    assert_eq!(config["NodeID"], "40e4a748-2192-161a-0510-9bf59fe950b5");
    assert_eq!(config["Datacenter"], "home");
    assert_eq!(
        (&myself["Meta"]["rack"], &myself["Meta"]["url"]),
        (&json!("r7"), &json!("http://x:1"))
    );
    assert_eq!(myself["xDS"]["Port"], 18502);
    let member = &myself["Member"];
    assert_eq!((&member["Addr"], &member["Port"]), (&json!(advertised), &json!(18301)));
    assert!(member["Tags"].get("wan_join_port").is_none(), "{member}");
    eventually("the node in the catalog", || {
        let node = dev.json("/v1/catalog/node/Me");
        let node = &node["Node"];
        let right = node["Address"] == advertised.as_str() && node["Meta"]["rack"] == "r7";
        if right { Ok(()) } else { Err(node.to_string()) }
    });
    said(&dev, "[DEBUG]");
    let pid = std::fs::read_to_string(&pid_file).expect("the pid file");
    assert_eq!(pid, dev.pid().to_string());
    dev.signal(libc::SIGINT);
    assert_eq!(dev.wait(Duration::from_secs(20)).code(), Some(1), "a server does not leave");
    assert!(!pid_file.exists());
}

#[test]
fn a_port_of_minus_one_switches_its_door_off() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let no_http = Muster::dev(dir.path(), &network.ip(1), &["-http-port=-1"]);
    said(&no_http, "HTTP: off");
    said(&no_http, "Log data will now stream");
    assert!(TcpStream::connect((no_http.ip.as_str(), 8600)).is_ok());
    assert!(TcpStream::connect((no_http.ip.as_str(), 8500)).is_err());
    drop(no_http);
    let no_dns = Muster::dev(dir.path(), &network.ip(2), &["-dns-port=-1"]);
    no_dns.wait_for_leader();
    said(&no_dns, "DNS: off");
    assert!(TcpStream::connect((no_dns.ip.as_str(), 8600)).is_err());
}

#[test]
fn attempts_to_join_that_are_used_up_end_the_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let ip = network.ip(1);
    let args = [
        format!("-bind={ip}"),
        format!("-client={ip}"),
        format!("-data-dir={}", dir.path().join("data").display()),
        format!("-retry-join={}", network.ip(2)),
        "-retry-interval=100ms".to_owned(),
        "-retry-max=2".to_owned(),
    ];
    let mut client = Muster::prepare(dir.path(), &ip, "client", args.to_vec());
    client.start();
    assert_eq!(client.wait(Duration::from_secs(20)).code(), Some(1));
    said(&client, "max join LAN retry exhausted");
}

#[test]
fn a_directory_of_files_is_read_and_http_listens_on_a_socket() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let files = dir.path().join("conf.d");
    let socket = dir.path().join("http.sock");
    std::fs::create_dir(&files).expect("a directory");
    for (name, text) in [
        ("a.json", json!({"services": [{"name": "web", "port": 1}], "node_name": "first"})),
        ("b.json", json!({"service": {"name": "db", "port": 2}, "node_name": "last"})),
        ("c.json", json!({"check": {"id": "beat", "name": "beat", "ttl": "1h"}})),
        (
            "d.json",
            json!({"performance": {"raft_multiplier": 2, "leave_drain_time": "1s"},
            "telemetry": {"prometheus_retention_time": "60s", "disable_hostname": true}}),
        ),
        ("e.json", json!({"addresses": {"http": format!("unix://{}", socket.display())}})),
        ("f.json", json!({"recursors": ["127.0.0.1"]})),
    ] {
        std::fs::write(files.join(name), text.to_string()).expect("written");
    }
    std::fs::write(files.join("notes.txt"), "not settings").expect("written");
    let arg = format!("-config-dir={}", files.display());
    let mut dev = Muster::dev(dir.path(), &network.ip(1), &[&arg]);
    let address = format!("-http-addr=unix://{}", socket.display());
    let run = |words: &[&str]| {
        cli(&[&words[..words.len() - 1], &[&address], &words[words.len() - 1..]].concat())
    };
    eventually("a write over the socket", || match run(&["kv", "put", "k"]) {
        (0, ..) => Ok(()),
        (_, _, err) => Err(err),
    });
    eventually("all services", || {
        let (_, out, err) = run(&["catalog", "services", "-node=last"]);
        if out == "consul\ndb\nweb\n" { Ok(()) } else { Err(format!("{out}{err}")) }
    });
    said(&dev, "notes.txt");
    said(&dev, "recursors is not built yet");
    // The socket that a killed process leaves behind does not stop the next one.
    dev.kill();
    dev.start();
    eventually("an answer over the socket", || match run(&["kv", "put", "k"]) {
        (0, ..) => Ok(()),
        (_, _, err) => Err(err),
    });
}

#[test]
fn a_signal_ends_a_leave_that_takes_its_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let file = dir.path().join("slow.json");
    std::fs::write(&file, r#"{"performance": {"leave_drain_time": "14s"}}"#).expect("written");
    let arg = format!("-config-file={}", file.display());
    let mut dev = Muster::dev(dir.path(), &network.ip(1), &[&arg]);
    dev.wait_for_leader();
    let address = dev.address();
    let leaving = thread(move || http(&address, "PUT", "/v1/agent/leave", b""));
    said(&dev, "Gracefully shutting down");
    dev.signal(libc::SIGTERM);
    assert_eq!(dev.wait(Duration::from_secs(9)).code(), Some(1));
    let answer = leaving.join().expect("no panic").expect("an answer");
    assert_eq!(answer.status, 500, "{}", answer.text());
}

#[test]
fn a_reload_that_fails_changes_nothing_and_json_logs_hold_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let file = dir.path().join("a.json");
    let plain = json!({"log_json": true, "log_level": "info"});
    std::fs::write(&file, plain.to_string()).expect("written");
    let dev = Muster::dev(
        dir.path(),
        &network.ip(1),
        &["-node=n", &format!("-config-file={}", file.display())],
    );
    dev.wait_for_leader();
    let script = json!({"name": "x", "args": ["true"], "interval": "1h"});
    let refused = json!({"log_json": true, "log_level": "debug", "check": script});
    std::fs::write(&file, refused.to_string()).expect("written");
    let answer = dev.http("PUT", "/v1/agent/reload", "");
    assert_eq!(answer.status, 500, "{}", answer.text());
    assert!(answer.text().contains("Scripts are disabled"), "{}", answer.text());
    // Refused requests are logged at debug.
    dev.get("/v1/kv/k?index=x");
    std::fs::write(&file, plain.to_string()).expect("written");
    dev.put("/v1/agent/reload", "");
    said(&dev, "configuration reloaded");
    let log = std::fs::read_to_string(&dev.log).expect("a log");
    for line in log.lines() {
        let line: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_ne!(line["@level"], "debug", "{line}");
    }
}

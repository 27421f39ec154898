//! What is refused: a second process on the same data, damaged files, foreign members.

use std::time::Duration;

use crate::support::Network;
use crate::support::process::{Cluster, Muster, cli};

fn error_line(process: &Muster) -> String {
    let log = process.tail();
    let ends = |line: &&str| line.starts_with("error:") || line.starts_with("fatal:");
    let lines: Vec<&str> = log.lines().filter(ends).collect();
    assert!(lines.len() == 1 && !log.contains("panicked"), "not one line:\n{log}");
    lines[0].to_owned()
}

#[test]
fn two_processes_on_one_data_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let first = Muster::member(dir.path(), &network, 1, "s1", &["-server", "-bootstrap"]);
    first.wait_for_leader();
    let data = format!("-data-dir={}", dir.path().join("s1").display());
    let ip = network.ip(2);
    let args = ["-server", "-node=s2", &data, &format!("-bind={ip}"), &format!("-client={ip}")];
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let mut second = Muster::prepare(dir.path(), &ip, "s2", args);
    second.start();
    assert_eq!(second.wait(Duration::from_secs(10)).code(), Some(1));
    let line = error_line(&second);
    assert!(line.contains("in use by another process") && line.contains("s1"), "{line}");
}

#[test]
fn damaged_files_are_refused_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let mut server = Muster::member(dir.path(), &network, 1, "s1", &["-server", "-bootstrap"]);
    server.wait_for_leader();
    server.put("/v1/agent/service/register", r#"{"Name": "web"}"#);
    server.put("/v1/kv/k", "v");
    server.kill();
    for name in ["raft/raft.redb", "raft/commit-seq", "local.redb", "node-id"] {
        let path = dir.path().join("s1").join(name);
        let whole = std::fs::read(&path).expect("the file");
        for damaged in [Vec::new(), whole[..whole.len() / 3].to_vec(), vec![0x5a; whole.len()]] {
            std::fs::write(&path, &damaged).expect("written");
            server.start();
            let status = server.wait(Duration::from_secs(20));
            assert_eq!(status.code(), Some(1), "{name} with {} bytes", damaged.len());
            let line = error_line(&server);
            assert!(line.contains(name), "{line}");
            std::fs::remove_file(&server.log).expect("a log");
        }
        std::fs::write(&path, &whole).expect("written");
    }
    server.start();
    server.wait_for_leader();
    assert_eq!(server.get("/v1/kv/k?raw").text(), "v");
}

#[test]
fn a_member_of_another_datacenter_or_of_a_live_name_is_refused() {
    let cluster = Cluster::start();
    let stranger =
        Muster::member(cluster.dir.path(), &cluster.network, 21, "stranger", &["-datacenter=dc9"]);
    let address = format!("-http-addr={}", stranger.address());
    crate::support::eventually("the stranger answers", || {
        crate::support::http(&stranger.address(), "GET", "/v1/agent/self", b"").map(|_| ())
    });
    let (code, _, err) = cli(&["join", &address, &cluster.network.ip(1)]);
    assert_eq!(code, 1);
    assert!(err.contains("wrong datacenter") || err.contains("datacenter"), "{err}");
    cluster.servers[0].wait_for_members(Duration::from_secs(5), 1, &["s1", "s2", "s3"]);
}

#[test]
fn protection_that_is_not_built_is_refused_and_unknown_settings_too() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, text, said) in [
        ("a", r#"{"encrypt": "pUqJrVyVRj5jsiYEkM/tFQ=="}"#, "encrypt"),
        ("b", r#"{"acl": {"enabled": true}}"#, "acl"),
        ("c", r#"{"bogus_key": 1}"#, "bogus_key"),
        ("d", r#"{"ports": {"bogus": 1}}"#, "ports.bogus"),
    ] {
        let file = dir.path().join(format!("{name}.json"));
        std::fs::write(&file, text).expect("written");
        let (code, _, err) = cli(&["agent", "-dev", "-config-file", &file.display().to_string()]);
        assert_eq!(code, 1, "{err}");
        assert!(err.contains(said), "{err}");
    }
    let hcl = dir.path().join("x.hcl");
    std::fs::write(&hcl, "server = true").expect("written");
    let (code, _, err) = cli(&["agent", "-dev", "-config-file", &hcl.display().to_string()]);
    assert!(code == 1 && err.contains("x.hcl") && err.contains("HCL"), "{err}");
}

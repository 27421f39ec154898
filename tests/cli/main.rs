//! The command line against a real agent.

#[path = "../support/mod.rs"]
mod support;

use serde_json::Value;
use support::process::{cli, cli_with};
use support::{Muster, Network, eventually};

#[test]
fn exit_codes_and_help() {
    let (code, _, err) = cli(&[]);
    assert_eq!(code, 127);
    assert!(err.contains("Commands:"), "{err}");
    assert_eq!(cli(&["bogus"]).0, 127);
    assert_eq!(cli(&["kv"]).0, 1);
    assert_eq!(cli(&["--help"]).0, 0);
    for command in [
        &["agent"][..],
        &["members"],
        &["join"],
        &["leave"],
        &["force-leave"],
        &["reload"],
        &["kv", "get"],
        &["kv", "put"],
        &["kv", "delete"],
        &["services", "register"],
        &["services", "deregister"],
        &["catalog", "nodes"],
        &["catalog", "services"],
        &["catalog", "datacenters"],
        &["info"],
        &["version"],
        &["operator", "raft", "list-peers"],
        &["validate"],
        &["snapshot", "save"],
        &["snapshot", "restore"],
        &["snapshot", "inspect"],
    ] {
        let mut args = command.to_vec();
        args.push("-help");
        let (code, out, _) = cli(&args);
        assert_eq!(code, 0, "{command:?}");
        assert!(out.starts_with(&format!("Usage: muster {}", command.join(" "))), "{out}");
    }
    for args in [&["kv", "get", "key", "-h"][..], &["members", "x", "--help"], &["kv", "-help"]] {
        let (code, out, err) = cli(args);
        assert!(code == 0 && out.starts_with("Usage: muster"), "{args:?}: {out}{err}");
    }
    for (args, said) in [
        (&["agent", "-bogus"][..], "flag provided but not defined: -bogus"),
        (&["agent", "-dev", "-http-port=x"], "invalid value \"x\" for flag -http-port"),
        (&["agent", "-dev", "extra"], "Unexpected extra arguments: [\"extra\"]"),
        (&["agent", "-dev", "-config-file=/none/a.json"], "/none/a.json"),
        (&["agent", "-dev", "-config-dir=/none"], "/none"),
        (&["agent", "-dev", "-retry-interval=5"], "-retry-interval"),
        (&["agent", "-dev", "-encrypt=pUqJrVyVRj5jsiYEkM/tFQ=="], "-encrypt"),
        (&["agent", "-dev", "-bootstrap-expect=3"], "not allowed in dev mode"),
        (&["agent", "-dev", "-raft-protocol=2"], "raft_protocol 2"),
    ] {
        let (code, _, err) = cli(args);
        assert_eq!((code, err.lines().count()), (1, 1), "{args:?}: {err}");
        assert!(err.starts_with("error: ") && err.contains(said), "{args:?}: {err}");
    }
    let (code, _, err) = cli(&["members", "-bogus"]);
    assert_eq!(code, 1);
    assert!(err.contains("flag provided but not defined: -bogus"), "{err}");
    let (code, _, err) = cli(&["members", "-http-addr=127.0.0.1:1"]);
    assert_eq!(code, 1);
    assert!(err.contains("127.0.0.1:1"), "{err}");
}

#[test]
fn version_is_what_clients_check() {
    let (code, out, _) = cli(&["version", "-format=json"]);
    assert_eq!(code, 0);
    let version: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(version["Version"], "1.21.4");
    assert_eq!(version["MusterVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(cli(&["--version"]).0, 0);
}

#[test]
fn commands_do_what_they_say() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let dev = Muster::dev(dir.path(), &network.ip(1), &["-node=n"]);
    dev.wait_for_leader();
    let address = format!("-http-addr={}", dev.address());
    let run = |words: &[&str], rest: &[&str]| {
        let mut args = words.to_vec();
        args.push(&address);
        args.extend(rest);
        cli(&args)
    };
    assert_eq!(
        run(&["kv", "put"], &["a/b", "hello"]),
        (0, "Success! Data written to: a/b\n".into(), String::new())
    );
    assert_eq!(run(&["kv", "get"], &["a/b"]).1, "hello\n");
    assert_eq!(run(&["kv", "get"], &["-keys", "a"]).1, "a/\n");
    assert_eq!(run(&["kv", "get"], &["-recurse", "a"]).1, "a/b:hello\n");
    let (_, detailed, _) = run(&["kv", "get"], &["-detailed", "a/b"]);
    assert!(
        detailed.contains("LockIndex        0") && detailed.contains("Session          -"),
        "{detailed}"
    );
    let (code, _, err) = run(&["kv", "put"], &["-cas", "-modify-index=0", "a/b", "x"]);
    assert_eq!(code, 1);
    assert_eq!(
        err,
        "Error! Did not write to a/b: CAS performed with index=0 and key already exists.\n"
    );
    let exported = run(&["kv", "export"], &["a/"]).1;
    let text =
        "[\n\t{\n\t\t\"key\": \"a/b\",\n\t\t\"flags\": 0,\n\t\t\"value\": \"aGVsbG8=\"\n\t}\n]\n";
    assert_eq!(exported, text);
    assert_eq!(run(&["kv", "export"], &["none/"]).1, "[]\n");
    let imported = run(&["kv", "import"], &["-prefix=copy", &exported]);
    assert_eq!(imported, (0, "Imported: copy/a/b\n".into(), String::new()));
    assert_eq!(run(&["kv", "get"], &["copy/a/b"]).1, "hello\n");
    let broken = r#"[{"key": "x", "value": "eA=="}, {"key": "y", "value": "!"}]"#;
    assert_eq!(run(&["kv", "import"], &[broken]).0, 1);
    assert_eq!(run(&["kv", "get"], &["x"]).0, 1, "nothing is written of what is broken");
    assert_eq!(run(&["kv", "delete"], &["a/b"]).1, "Success! Deleted key: a/b\n");
    let (code, _, err) = run(&["kv", "get"], &["a/b"]);
    assert_eq!(code, 1);
    assert!(err == "Error! No key exists at: a/b\n", "{err}");

    let file = dir.path().join("web.json");
    std::fs::write(
        &file,
        r#"{"service": {"name": "web", "port": 80, "tags": ["v1"], "check": {"ttl": "30s"}}}"#,
    )
    .expect("written");
    let file = file.display().to_string();
    assert_eq!(run(&["services", "register"], &[&file]).1, "Registered service: web\n");
    assert_eq!(run(&["services", "register"], &["-name=db", "-port=5432", "-tag=x"]).0, 0);
    eventually("the catalog has them", || {
        let out = run(&["catalog", "services"], &["-tags"]).1;
        if out == "consul\ndb          x\nweb         v1\n" { Ok(()) } else { Err(out) }
    });
    assert_eq!(run(&["services", "deregister"], &["-id=db"]).1, "Deregistered service: db\n");
    assert_eq!(run(&["services", "deregister"], &[&file]).1, "Deregistered service: web\n");
    assert_eq!(run(&["catalog", "datacenters"], &[]).1, "dc1\n");
    let nodes = run(&["catalog", "nodes"], &[]).1;
    assert!(nodes.starts_with("Node  ID") && nodes.contains(&dev.ip), "{nodes}");
    let members = run(&["members"], &[]).1;
    assert!(members.contains("alive") && members.contains("server"), "{members}");
    assert_eq!(run(&["members"], &["-status=failed"]).0, 2);
    assert_eq!(run(&["members"], &["-status=^(al|le)"]).0, 0);
    let detailed = run(&["members"], &["-detailed"]).1;
    assert!(detailed.contains("Tags") && detailed.contains("role=consul"), "{detailed}");
    let peers = run(&["operator", "raft", "list-peers"], &[]).1;
    assert!(peers.contains("leader") && peers.contains("true"), "{peers}");
    let info = run(&["info"], &[]).1;
    assert!(info.contains("raft:") && info.contains("\tstate = Leader"), "{info}");
    assert_eq!(run(&["reload"], &[]).1, "Configuration reload triggered\n");
    assert_eq!(run(&["leave"], &[]).1, "Graceful leave complete\n");
}

#[test]
fn the_environment_says_which_agent_is_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let dev = Muster::dev(dir.path(), &network.ip(1), &["-node=n"]);
    dev.wait_for_leader();
    let (right, wrong) = (format!("http://{}", dev.address()), "127.0.0.1:1");
    let asked = |variables: &[(&str, &str)]| cli_with(variables, &["catalog", "datacenters"]);
    assert_eq!(asked(&[("CONSUL_HTTP_ADDR", &right)]).0, 0);
    assert_eq!(asked(&[("MUSTER_HTTP_ADDR", &right), ("CONSUL_HTTP_ADDR", wrong)]).0, 0);
    assert_eq!(asked(&[("MUSTER_HTTP_ADDR", wrong), ("CONSUL_HTTP_ADDR", &right)]).0, 1);
    let flag = format!("-http-addr={right}");
    assert_eq!(cli_with(&[("MUSTER_HTTP_ADDR", wrong)], &["catalog", "nodes", &flag]).0, 0);
}

#[test]
fn validate_warns_of_cluster_ports_that_others_reach() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("a.json");
    let shown = file.display().to_string();
    let write = |text: &str| std::fs::write(&file, text).expect("written");
    write(r#"{"data_dir": "/none", "bind_addr": "10.0.0.1"}"#);
    let (code, out, err) = cli(&["validate", &shown]);
    assert_eq!((code, out.as_str()), (0, "Configuration is valid!\n"));
    assert_eq!((err.lines().count(), err.contains("neither encrypted")), (1, true), "{err}");
    write(r#"{"data_dir": "/none", "bind_addr": "127.0.0.1"}"#);
    assert_eq!(cli(&["validate", &shown]).2, "");
    write(r#"{"data_dir": "/none", "bind_addr": "127.0.0.1", "ports": {"htp": 1}}"#);
    let (code, _, err) = cli(&["validate", &shown]);
    assert!(code == 1 && err.contains("ports.htp"), "{err}");
}

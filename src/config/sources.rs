//! Where settings come from, and in which order (spec/agent.md §3): development defaults, flags
//! that are lists, files and directories as the command line names them, other flags.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::tree::Tree;
use crate::cli::flags::{Flag, Given, Kind, flag};

/// Largest configuration file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Files that one directory may hold.
const FILES_MAX: usize = 10_000;

/// What a flag's text becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum As {
    Text,
    Bool,
    Int,
    List,
    Pair,
}

/// Flags of `agent` that are settings: flag, setting, type, help.
static SETTINGS: &[(&str, &str, As, &str)] = &[
    ("advertise", "advertise_addr", As::Text, "Address that the others are told."),
    ("advertise-wan", "advertise_addr_wan", As::Text, "Address told to other datacenters."),
    (
        "allow-write-http-from",
        "http_config.allow_write_http_from",
        As::List,
        "Networks that may write over HTTP.",
    ),
    ("alt-domain", "alt_domain", As::Text, "A second DNS domain."),
    (
        "auto-reload-config",
        "auto_reload_config",
        As::Bool,
        "Reload when configuration files change.",
    ),
    ("bind", "bind_addr", As::Text, "Address for cluster traffic. Default 0.0.0.0."),
    ("bootstrap", "bootstrap", As::Bool, "Make this server a cluster of its own."),
    (
        "bootstrap-expect",
        "bootstrap_expect",
        As::Int,
        "Number of servers that start the cluster together.",
    ),
    (
        "check_output_max_size",
        "check_output_max_size",
        As::Int,
        "Bytes of check output kept. Default 4096.",
    ),
    ("client", "client_addr", As::Text, "Addresses of HTTP and DNS. Default 127.0.0.1."),
    ("data-dir", "data_dir", As::Text, "Directory of all data."),
    ("datacenter", "datacenter", As::Text, "Name of the datacenter. Default dc1."),
    (
        "default-query-time",
        "default_query_time",
        As::Text,
        "Wait of a blocking query that names none. Default 300s.",
    ),
    (
        "disable-host-node-id",
        "disable_host_node_id",
        As::Bool,
        "Make a random node id (always so).",
    ),
    ("disable-keyring-file", "disable_keyring_file", As::Bool, "Keep no keyring file."),
    ("dns-port", "ports.dns", As::Int, "Port of DNS, -1 to switch it off. Default 8600."),
    ("domain", "domain", As::Text, "DNS domain. Default consul."),
    (
        "enable-local-script-checks",
        "enable_local_script_checks",
        As::Bool,
        "Allow command checks from files.",
    ),
    (
        "enable-script-checks",
        "enable_script_checks",
        As::Bool,
        "Allow command checks from files and over HTTP.",
    ),
    ("encrypt", "encrypt", As::Text, "Gossip key."),
    ("grpc-port", "ports.grpc", As::Int, "Port of gRPC to announce, -1 for none."),
    ("grpc-tls-port", "ports.grpc_tls", As::Int, "Port of gRPC with TLS."),
    ("http-port", "ports.http", As::Int, "Port of HTTP, -1 to switch it off. Default 8500."),
    ("https-port", "ports.https", As::Int, "Port of HTTPS."),
    ("join", "start_join", As::List, "Address to join; the same as -retry-join."),
    ("join-wan", "start_join_wan", As::List, "Address to join over the WAN."),
    ("log-file", "log_file", As::Text, "File to log to."),
    ("log-json", "log_json", As::Bool, "Log as JSON."),
    ("log-level", "log_level", As::Text, "trace, debug, info, warn or error. Default info."),
    ("log-rotate-bytes", "log_rotate_bytes", As::Int, "Rotate the log file at this size."),
    (
        "log-rotate-duration",
        "log_rotate_duration",
        As::Text,
        "Rotate the log file after this time.",
    ),
    ("log-rotate-max-files", "log_rotate_max_files", As::Int, "Rotated log files to keep."),
    (
        "max-query-time",
        "max_query_time",
        As::Text,
        "Longest wait of a blocking query. Default 600s.",
    ),
    ("node", "node_name", As::Text, "Name of the node. Default: the host's name."),
    (
        "node-id",
        "node_id",
        As::Text,
        "UUID of the node. Default: made once, kept in the data directory.",
    ),
    ("node-meta", "node_meta", As::Pair, "Metadata of the node, key:value."),
    ("non-voting-server", "non_voting_server", As::Bool, "Run a server that never votes."),
    ("pid-file", "pid_file", As::Text, "File to write the process id to."),
    ("primary-gateway", "primary_gateways", As::List, "Gateway of the primary datacenter."),
    ("protocol", "protocol", As::Int, "Protocol version, 2 or 3."),
    ("raft-protocol", "raft_protocol", As::Int, "Raft protocol version, only 3."),
    ("read-replica", "read_replica", As::Bool, "The same as -non-voting-server."),
    ("recursor", "recursors", As::List, "DNS server for other domains."),
    ("rejoin", "rejoin_after_leave", As::Bool, "Rejoin known members even after a leave."),
    (
        "retry-interval",
        "retry_interval",
        As::Text,
        "Longest pause between join attempts. Default 30s.",
    ),
    ("retry-interval-wan", "retry_interval_wan", As::Text, "The same over the WAN."),
    ("retry-join", "retry_join", As::List, "Address of a member to join."),
    ("retry-join-wan", "retry_join_wan", As::List, "The same over the WAN."),
    ("retry-max", "retry_max", As::Int, "Join attempts before giving up, 0 for ever. Default 0."),
    ("retry-max-wan", "retry_max_wan", As::Int, "The same over the WAN."),
    ("segment", "segment", As::Text, "Network segment."),
    (
        "serf-lan-allowed-cidrs",
        "serf_lan_allowed_cidrs",
        As::List,
        "Networks that members may come from.",
    ),
    ("serf-lan-bind", "serf_lan", As::Text, "Address of gossip. Default: -bind."),
    ("serf-lan-port", "ports.serf_lan", As::Int, "Port of gossip. Default 8301."),
    ("serf-wan-allowed-cidrs", "serf_wan_allowed_cidrs", As::List, "The same over the WAN."),
    ("serf-wan-bind", "serf_wan", As::Text, "Address of gossip over the WAN."),
    ("serf-wan-port", "ports.serf_wan", As::Int, "Port of gossip over the WAN. Default 8302."),
    ("server", "server", As::Bool, "Run a server beside the agent."),
    ("server-port", "ports.server", As::Int, "Port of server RPC. Default 8300."),
    ("syslog", "enable_syslog", As::Bool, "Log to syslog too."),
    ("ui", "ui_config.enabled", As::Bool, "Serve the web UI."),
    ("ui-content-path", "ui_config.content_path", As::Text, "Path of the web UI."),
    ("ui-dir", "ui_config.dir", As::Text, "Directory of the web UI."),
];

/// Flags of `agent` that are no settings.
static OTHERS: &[Flag] = &[
    flag("dev", Kind::Bool, "One server on loopback with its data in memory, for trying things."),
    flag("config-file", Kind::List, "JSON file with settings, services and checks."),
    flag("config-dir", Kind::List, "Directory of such files, read in order of their names."),
    flag("config-format", Kind::Value, "json: read files as JSON whatever their names."),
    flag("hcl", Kind::List, "Settings in HCL: not read by this release."),
];

/// All flags of `agent`, sorted.
pub(crate) fn flags() -> Vec<Flag> {
    let settings = SETTINGS.iter().map(|(name, _, kind, help)| {
        let kind = match kind {
            As::Bool => Kind::Bool,
            As::List | As::Pair => Kind::List,
            As::Text | As::Int => Kind::Value,
        };
        flag(name, kind, help)
    });
    let mut flags: Vec<Flag> = settings.chain(OTHERS.iter().copied()).collect();
    flags.sort_by_key(|flag| flag.name);
    flags
}

/// Reads all sources again, in Consul's order.
pub(crate) fn load(given: &Given) -> Result<Tree, String> {
    let mut tree = Tree::default();
    if given.is("dev") {
        tree.merge_object("-dev", &dev_defaults())?;
    }
    if !given.list("hcl").is_empty() {
        return Err("-hcl: HCL is not read by this release; write the settings as JSON into a \
                    file and name it with -config-file"
            .to_owned());
    }
    merge_flags(&mut tree, given, true)?;
    for path in given.list("config-file").iter().chain(given.list("config-dir")) {
        merge_path(&mut tree, Path::new(path), given.get("config-format"))?;
    }
    merge_flags(&mut tree, given, false)?;
    Ok(tree)
}

fn dev_defaults() -> Value {
    json!({
        "bind_addr": "127.0.0.1", "server": true, "bootstrap": true, "log_level": "INFO",
        "ui_config": {"enabled": true},
    })
}

fn merge_flags(tree: &mut Tree, given: &Given, lists: bool) -> Result<(), String> {
    for (name, path, kind, _) in SETTINGS {
        if lists != matches!(kind, As::List | As::Pair) {
            continue;
        }
        let source = format!("-{name}");
        for text in given.list(name) {
            let value = match kind {
                As::Text => Value::from(text.as_str()),
                As::List => json!([text]),
                As::Bool => Value::from(text == "true"),
                As::Int => Value::from(text.parse::<i64>().map_err(|_| {
                    format!("invalid value \"{text}\" for flag -{name}: not a whole number")
                })?),
                As::Pair => {
                    let (key, value) = text.split_once(':').unwrap_or((text, ""));
                    json!({ key: value })
                }
            };
            tree.set(&source, path, value)?;
        }
    }
    Ok(())
}

fn merge_path(tree: &mut Tree, path: &Path, format: Option<&str>) -> Result<(), String> {
    if let Some(format) = format.filter(|format| *format != "json") {
        return Err(format!(
            "-config-format={format}: this release reads json alone; convert the files to JSON"
        ));
    }
    let shown = path.display();
    let about = std::fs::metadata(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    if !about.is_dir() {
        return merge_file(tree, path, format.is_some());
    }
    let entries =
        std::fs::read_dir(path).map_err(|error| format!("cannot list {shown}: {error}"))?;
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in entries.take(FILES_MAX) {
        files.push(entry.map_err(|error| format!("cannot list {shown}: {error}"))?.path());
    }
    files.sort();
    for file in files {
        let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or("");
        if std::fs::metadata(&file).is_ok_and(|about| about.is_dir()) {
            continue;
        }
        if format.is_none() && !matches!(extension, "json" | "hcl") {
            tree.warnings.push(format!(
                "skipped {}: its name ends in neither .json nor .hcl",
                file.display()
            ));
            continue;
        }
        merge_file(tree, &file, format.is_some())?;
    }
    Ok(())
}

fn merge_file(tree: &mut Tree, path: &Path, any_name: bool) -> Result<(), String> {
    let shown = path.display().to_string();
    match path.extension().and_then(|extension| extension.to_str()) {
        _ if any_name => {}
        Some("json") => {}
        Some("hcl") => {
            return Err(format!(
                "{shown}: HCL is not read by this release; write the same settings as JSON"
            ));
        }
        _ => {
            return Err(format!(
                "{shown}: cannot tell its format by its name; name it .json or say \
                 -config-format=json"
            ));
        }
    }
    let about = std::fs::metadata(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    if about.len() > FILE_BYTES_MAX {
        return Err(format!(
            "{shown}: {} bytes where at most {FILE_BYTES_MAX} are allowed",
            about.len()
        ));
    }
    let bytes = std::fs::read(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    let object: Value = serde_json::from_slice(&bytes)
        .map_err(|error| format!("failed to parse {shown}: {error}"))?;
    tree.merge_object(&shown, &object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags;
    use crate::config::keys;

    fn given(args: &[&str]) -> Given {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        flags::parse(&[&super::flags()], &args).expect("flags")
    }

    #[test]
    fn every_flag_is_a_setting_of_its_type() {
        for (name, path, kind, _) in SETTINGS {
            let key = keys::find(path).unwrap_or_else(|| panic!("-{name}: no setting {path}"));
            let fits = match kind {
                As::Text => matches!(key.kind, keys::Type::Text | keys::Type::Duration),
                As::Bool => key.kind == keys::Type::Bool,
                As::Int => key.kind == keys::Type::Int,
                As::List => key.kind == keys::Type::Texts,
                As::Pair => key.kind == keys::Type::TextMap,
            };
            assert!(fits, "-{name} and {path} differ in type");
        }
    }

    #[test]
    fn flags_win_over_files_but_their_list_items_come_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("b.json"), r#"{"node_name": "file-b", "retry_join": ["b"]}"#)
            .expect("b");
        std::fs::write(path("a.json"), r#"{"node_name": "file-a", "retry_join": ["a"]}"#)
            .expect("a");
        std::fs::write(path("empty.json"), "\n").expect("empty");
        std::fs::write(path("readme.txt"), "no settings").expect("txt");
        let dir_path = dir.path().display().to_string();
        let tree = load(&given(&["-config-dir", &dir_path, "-retry-join", "f"])).expect("loads");
        assert_eq!(tree.text("node_name"), Some("file-b"));
        assert_eq!(tree.texts("retry_join"), ["f", "a", "b"]);
        assert!(tree.warnings.iter().any(|warning| warning.contains("readme.txt")));
        let tree = load(&given(&["-node=flag", "-config-file", &path("a.json")])).expect("loads");
        assert_eq!(tree.text("node_name"), Some("flag"));
    }

    #[test]
    fn hcl_and_unreadable_files_are_refused_by_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("a.hcl"), "server = true").expect("hcl");
        std::fs::write(path("a.conf"), "{}").expect("conf");
        std::fs::write(path("bad.json"), "{").expect("bad");
        for (args, said) in [
            (vec!["-config-file".to_owned(), path("a.hcl")], "HCL is not read"),
            (vec!["-hcl".to_owned(), "a = 1".to_owned()], "HCL is not read"),
            (vec!["-config-file".to_owned(), path("a.conf")], "cannot tell its format"),
            (vec!["-config-file".to_owned(), path("bad.json")], "failed to parse"),
            (vec!["-config-file".to_owned(), path("none.json")], "cannot read"),
        ] {
            let given = given(&args.iter().map(String::as_str).collect::<Vec<_>>());
            let error = load(&given).expect_err("refused");
            assert!(error.contains(said), "{error}");
        }
        let forced = ["-config-format=json", "-config-file", &path("a.conf")];
        assert!(load(&given(&forced)).is_ok());
    }
}

//! Settings become `agent::Config` and `server::Config`, checked and defaulted.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use agent::config::{DnsSettings, HttpListen, Join, Reloadable};
use agent::local::definition;
use model::NodeId;
use model::api::metadata;
use model::duration::GoDuration;
use model::row::AutopilotV1;
use server::Bootstrap;

use super::address::{self, Interface};
use super::schedule;
use super::tree::Tree;

/// What this machine says about itself.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// Its name.
    pub(crate) host_name: String,
    /// Its addresses.
    interfaces: Vec<Interface>,
}

impl Machine {
    /// Asks the operating system.
    pub(crate) fn here() -> Result<Self, String> {
        let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map(|text| text.trim().to_owned())
            .unwrap_or_else(|_| "localhost".to_owned());
        Ok(Self { host_name, interfaces: address::interfaces()? })
    }
}

/// Everything that a process needs to start.
#[derive(Debug)]
pub(crate) struct Settings {
    /// What every node runs.
    pub(crate) agent: agent::Config,
    /// What only servers run.
    pub(crate) server: Option<server::Config>,
    /// File for the process id.
    pub(crate) pid_file: Option<PathBuf>,
    /// SIGTERM leaves the cluster.
    pub(crate) leave_on_terminate: bool,
    /// SIGINT does not leave the cluster.
    pub(crate) skip_leave_on_interrupt: bool,
    /// Log as JSON.
    pub(crate) log_json: bool,
    /// One line each, for the operator.
    pub(crate) warnings: Vec<String>,
}

/// Port of the agent's gRPC in `-dev`, as Consul announces it.
const DEV_GRPC_PORT: i64 = 8502;

/// Connections that one address may hold on HTTP: far above Consul's 200, which scrapers that watch
/// many services run into.
const HTTP_CONNS_PER_CLIENT: i64 = 10_000;

/// Free space below which a leader refuses writes: what is under way, a snapshot of a middling state
/// and the agent's own files still fit in it.
const DISK_RESERVE: i64 = 128 << 20;

/// Smallest reaping time of sessions and the like that the reload of a file may ask for.
const REAP_MIN: Duration = Duration::from_secs(60);

/// Bytes that stay free on a server's disk.
fn disk_reserve(tree: &Tree) -> Result<u64, String> {
    let bytes = tree.int("limits.disk_reserve").unwrap_or(DISK_RESERVE);
    u64::try_from(bytes).map_err(|_| format!("limits.disk_reserve {bytes} must be 0 or more"))
}

impl Settings {
    /// Makes a server that would found a cluster wait for one instead; whether it would have.
    pub(crate) fn wait_to_be_added(&mut self) -> bool {
        (self.agent.bootstrap, self.agent.bootstrap_expect) = (false, 0);
        self.server.as_mut().is_some_and(|server| {
            std::mem::replace(&mut server.bootstrap, Bootstrap::Wait) != Bootstrap::Wait
        })
    }
}

/// Checks and defaults. `node_id` is asked for last, when all else is right.
pub(crate) fn build(
    tree: &Tree,
    dev: bool,
    machine: &Machine,
    node_id: impl FnOnce(Option<&str>) -> Result<NodeId, String>,
) -> Result<Settings, String> {
    let mut warnings = tree.warnings.clone();
    let server = tree.bool("server").unwrap_or(false);
    let data_dir = tree.text("data_dir").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    if data_dir.is_none() && !dev {
        return Err(
            "data_dir cannot be empty; name a directory with -data-dir, or use -dev to try \
                    things without one"
                .to_owned(),
        );
    }
    let datacenter = tree.text("datacenter").unwrap_or("dc1").to_lowercase();
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    if datacenter.is_empty() || !datacenter.chars().all(valid) {
        return Err(format!(
            "datacenter \"{datacenter}\" can only hold lower-case letters, digits, _ and -"
        ));
    }
    if let Some(version) = tree.int("raft_protocol").filter(|version| *version != 3) {
        return Err(format!("raft_protocol {version} is not supported; only 3 is"));
    }
    if let Some(version) = tree.int("protocol").filter(|version| !(2..=3).contains(version)) {
        return Err(format!("protocol {version} is not supported; only 2 and 3 are"));
    }
    let mut bootstrap = bootstrap(tree, server, dev, &mut warnings)?;
    let non_voter = non_voter(tree, server, bootstrap)?;
    if non_voter && bootstrap != Bootstrap::Wait {
        warnings.push("bootstrap_expect has no effect on a server that never votes".to_owned());
        bootstrap = Bootstrap::Wait;
    }
    let multiplier = tree.int("performance.raft_multiplier").unwrap_or(1);
    if !(1..=10).contains(&multiplier) {
        return Err(format!("performance.raft_multiplier {multiplier} must be between 1 and 10"));
    }

    let ports = Ports::read(tree, dev)?;
    let interfaces = &machine.interfaces;
    let text = |path: &str, default: &str| tree.text(path).unwrap_or(default).to_owned();
    let bind = address::single("bind_addr", &text("bind_addr", "0.0.0.0"), interfaces)?;
    let advertise = match tree.text("advertise_addr").filter(|text| !text.is_empty()) {
        Some(text) => {
            let ip = address::single("advertise_addr", text, interfaces)?;
            if ip.is_unspecified() {
                return Err(format!(
                    "advertise_addr cannot be {ip}; give an address that the \
                                    others can reach"
                ));
            }
            ip
        }
        None => address::advertise(bind, interfaces)?,
    };
    let serf_bind = match tree.text("serf_lan").filter(|text| !text.is_empty()) {
        Some(text) => address::single("serf_lan", text, interfaces)?,
        None => bind,
    };
    let client = text("client_addr", "127.0.0.1");
    let doors = |path: &str| -> Result<Vec<String>, String> {
        let own = tree.text(path).filter(|text| !text.is_empty());
        let (setting, text) = own.map_or(("client_addr", client.as_str()), |text| (path, text));
        address::several(setting, text, interfaces)
    };
    let http = http_listeners(&doors("addresses.http")?, ports.http)?;
    let dns = dns_listeners(&doors("addresses.dns")?, ports.dns)?;
    warn_unprotected(bind, &mut warnings);

    let node_name = text("node_name", &machine.host_name).trim().to_owned();
    if node_name.is_empty() {
        return Err("node_name cannot be empty; name the node with -node".to_owned());
    }
    let dns_safe = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if node_name.len() > 63 || !node_name.chars().all(dns_safe) {
        warnings.push(format!(
            "node name \"{node_name}\" will not be found over DNS: use letters, digits and -, at \
             most 63"
        ));
    }
    let duration =
        |path: &str, default: u64| tree.duration(path).unwrap_or(Duration::from_secs(default));
    let size = |path: &str, default: i64| -> Result<usize, String> {
        let value = tree.int(path).unwrap_or(default);
        usize::try_from(value)
            .ok()
            .filter(|value| *value > 0)
            .ok_or_else(|| format!("{path} {value} must be at least 1"))
    };
    let domain = domain("domain", tree.text("domain").unwrap_or("consul"))?;
    if domain.is_empty() {
        return Err("domain cannot be empty".to_owned());
    }
    let reloadable = reloadable(tree)?;
    let script_checks = tree.bool("enable_script_checks").unwrap_or(false);
    let kv_value_bytes_max = size("limits.kv_max_value_size", 512 * 1024)?;
    if kv_value_bytes_max > 8 << 20 {
        return Err(format!(
            "limits.kv_max_value_size {kv_value_bytes_max} must be at most 8388608 (8 MiB)"
        ));
    }
    let reconnect_timeout = duration("reconnect_timeout", 72 * 3600).max(REAP_MIN);
    let rpc_hold_timeout = duration("performance.rpc_hold_timeout", 7);
    let leave_drain_time = duration("performance.leave_drain_time", 5);
    let rpc_handshake_timeout = duration("limits.rpc_handshake_timeout", 5);

    let snapshot_schedule = schedule::read(tree, server)?;

    let node_id = node_id(tree.text("node_id").filter(|text| !text.is_empty()))?;
    let server_config = server
        .then(|| -> Result<server::Config, String> {
            Ok(server::Config {
                node_id,
                node_name: node_name.clone(),
                datacenter: datacenter.clone(),
                rpc_bind: SocketAddr::new(bind, ports.server),
                rpc_advertise: SocketAddr::new(advertise, ports.server),
                data_dir: data_dir.clone().filter(|_| !dev),
                bootstrap,
                raft_multiplier: u32::try_from(multiplier).unwrap_or(1),
                raft_snapshot_threshold: u64::try_from(size("raft_snapshot_threshold", 50_000)?)
                    .unwrap_or(u64::MAX),
                disk_reserve_bytes: disk_reserve(tree)?,
                rpc_hold_timeout,
                rpc_max_conns_per_client: size("limits.rpc_max_conns_per_client", 100)?,
                rpc_handshake_timeout,
                session_ttl_min: duration("session_ttl_min", 10),
                kv_value_bytes_max,
                leave_drain_time,
                reconnect_timeout,
                non_voter,
                autopilot: autopilot(tree)?,
                snapshot_schedule,
                grpc_port: ports.grpc,
            })
        })
        .transpose()?;
    let mut join = tree.texts("retry_join");
    join.extend(tree.texts("start_join"));
    let agent = agent::Config {
        node_id,
        node_name,
        datacenter,
        domain,
        alt_domain: domain_or_empty(tree)?,
        server,
        dev,
        bind,
        advertise,
        serf_lan_bind: SocketAddr::new(serf_bind, ports.serf_lan),
        serf_lan_advertise: SocketAddr::new(advertise, ports.serf_lan),
        serf_wan_port: ports.serf_wan.filter(|_| server),
        server_port: ports.server,
        http,
        dns,
        grpc_port: ports.grpc,
        data_dir,
        bootstrap: server && bootstrap == Bootstrap::Alone,
        bootstrap_expect: match bootstrap {
            Bootstrap::Expect(count) if server => count,
            _ => 0,
        },
        non_voter,
        join: Join {
            addresses: join,
            interval: duration("retry_interval", 30),
            attempts_max: u32::try_from(tree.int("retry_max").unwrap_or(0))
                .map_err(|_| "retry_max must be 0 (for ever) or more".to_owned())?,
        },
        rejoin_after_leave: tree.bool("rejoin_after_leave").unwrap_or(false),
        reconnect_timeout,
        enable_script_checks: script_checks,
        enable_local_script_checks: tree
            .bool("enable_local_script_checks")
            .unwrap_or(script_checks),
        check_update_interval: duration("check_update_interval", 300),
        check_output_bytes_max: size("check_output_max_size", 4096)?,
        default_query_time: duration("default_query_time", 300),
        max_query_time: duration("max_query_time", 600),
        rpc_hold_timeout,
        kv_value_bytes_max,
        http_max_conns_per_client: size("limits.http_max_conns_per_client", HTTP_CONNS_PER_CLIENT)?,
        http_max_header_bytes: match tree.int("http_config.max_header_bytes") {
            None | Some(0) => 1 << 20,
            Some(_) => size("http_config.max_header_bytes", 1 << 20)?,
        },
        rpc_handshake_timeout,
        discovery_max_stale: duration("discovery_max_stale", 0),
        disable_http_unprintable_char_filter: tree
            .bool("disable_http_unprintable_char_filter")
            .unwrap_or(false),
        ui: tree.bool("ui_config.enabled").unwrap_or(false),
        leave_drain_time,
        reloadable,
    };
    if agent.enable_script_checks {
        warnings.push(
            "command checks may be registered over HTTP: whoever reaches the HTTP port can run \
             programs here; enable_local_script_checks allows them from files alone"
                .to_owned(),
        );
    }
    check_collisions(&agent, server_config.as_ref())?;
    Ok(Settings {
        agent,
        server: server_config,
        pid_file: tree.text("pid_file").filter(|text| !text.is_empty()).map(PathBuf::from),
        leave_on_terminate: tree.bool("leave_on_terminate").unwrap_or(!server),
        skip_leave_on_interrupt: tree.bool("skip_leave_on_interrupt").unwrap_or(server),
        log_json: tree.bool("log_json").unwrap_or(false),
        warnings,
    })
}

/// A server that never votes cannot begin a cluster.
fn non_voter(tree: &Tree, server: bool, bootstrap: Bootstrap) -> Result<bool, String> {
    let set = |key| tree.bool(key).unwrap_or(false);
    let Some(key) = ["non_voting_server", "read_replica"].into_iter().find(|key| set(key)) else {
        return Ok(false);
    };
    if !server {
        return Err(format!("'{key} = true' requires 'server = true'"));
    }
    if bootstrap == Bootstrap::Alone {
        return Err(format!("'{key} = true' and 'bootstrap = true' are mutually exclusive"));
    }
    Ok(true)
}

/// What the first leader makes autopilot's configuration.
fn autopilot(tree: &Tree) -> Result<AutopilotV1, String> {
    let default = AutopilotV1::default();
    let number = |key: &str, default: u64| match tree.int(key) {
        None => Ok(default),
        Some(value) => {
            u64::try_from(value).map_err(|_| format!("{key} {value} must be at least 0"))
        }
    };
    let ns = |key: &str, default: i64| {
        let given = tree.duration(key).map(|duration| i64::try_from(duration.as_nanos()));
        given.transpose().map(|ns| ns.unwrap_or(default)).map_err(|_| format!("{key} is too long"))
    };
    let text = |key: &str| tree.text(key).unwrap_or("").into();
    Ok(AutopilotV1 {
        cleanup_dead_servers: tree
            .bool("autopilot.cleanup_dead_servers")
            .unwrap_or(default.cleanup_dead_servers),
        last_contact_threshold_ns: ns(
            "autopilot.last_contact_threshold",
            default.last_contact_threshold_ns,
        )?,
        max_trailing_logs: number("autopilot.max_trailing_logs", default.max_trailing_logs)?,
        min_quorum: number("autopilot.min_quorum", default.min_quorum)?,
        server_stabilization_time_ns: ns(
            "autopilot.server_stabilization_time",
            default.server_stabilization_time_ns,
        )?,
        redundancy_zone_tag: text("autopilot.redundancy_zone_tag"),
        disable_upgrade_migration: tree
            .bool("autopilot.disable_upgrade_migration")
            .unwrap_or(default.disable_upgrade_migration),
        upgrade_version_tag: text("autopilot.upgrade_version_tag"),
        ..default
    })
}

fn bootstrap(
    tree: &Tree,
    server: bool,
    dev: bool,
    warnings: &mut Vec<String>,
) -> Result<Bootstrap, String> {
    let alone = tree.bool("bootstrap").unwrap_or(false);
    let expect = tree.int("bootstrap_expect").unwrap_or(0);
    if dev && expect > 0 {
        return Err("'bootstrap_expect' not allowed in dev mode".to_owned());
    }
    if expect < 0 {
        return Err(format!(
            "bootstrap_expect cannot be {expect}. Must be greater than or equal to zero"
        ));
    }
    if expect > 0 && alone {
        return Err(
            "'bootstrap_expect > 0' and 'bootstrap = true' are mutually exclusive".to_owned()
        );
    }
    if expect > 0 && !server {
        return Err("'bootstrap_expect > 0' requires 'server = true'".to_owned());
    }
    if alone && !server {
        return Err("'bootstrap = true' requires 'server = true'".to_owned());
    }
    if alone {
        if !dev {
            warnings.push("bootstrap = true: do not enable unless necessary".to_owned());
        }
        return Ok(Bootstrap::Alone);
    }
    match u32::try_from(expect).map_err(|_| format!("bootstrap_expect {expect} is too large"))? {
        0 => Ok(Bootstrap::Wait),
        1 => {
            warnings.push(
                "BootstrapExpect is set to 1; this is the same as Bootstrap mode.".to_owned(),
            );
            Ok(Bootstrap::Alone)
        }
        count => {
            if count == 2 {
                warnings.push(
                    "bootstrap_expect = 2: A cluster with 2 servers will provide no failure \
                     tolerance."
                        .to_owned(),
                );
            } else if count % 2 == 0 {
                warnings.push(
                    "bootstrap_expect is even number: A cluster with an even number of servers does \
                     not achieve optimum fault tolerance."
                        .to_owned(),
                );
            }
            warnings.push(format!("bootstrap_expect > 0: expecting {count} servers"));
            Ok(Bootstrap::Expect(count))
        }
    }
}

struct Ports {
    dns: Option<u16>,
    http: Option<u16>,
    grpc: Option<u16>,
    server: u16,
    serf_lan: u16,
    serf_wan: Option<u16>,
}

impl Ports {
    fn read(tree: &Tree, dev: bool) -> Result<Self, String> {
        let optional = |path: &str, default: i64| -> Result<Option<u16>, String> {
            match tree.int(path).unwrap_or(default) {
                port if port <= 0 => Ok(None),
                port => u16::try_from(port)
                    .map(Some)
                    .map_err(|_| format!("{path} {port} is no port: at most 65535, or -1 for off")),
            }
        };
        let needed = |path: &str, default: i64| -> Result<u16, String> {
            optional(path, default)?.ok_or_else(|| format!("{path} must be a port, 1 to 65535"))
        };
        Ok(Self {
            dns: optional("ports.dns", 8600)?,
            http: optional("ports.http", 8500)?,
            grpc: optional("ports.grpc", if dev { DEV_GRPC_PORT } else { -1 })?,
            server: needed("ports.server", 8300)?,
            serf_lan: needed("ports.serf_lan", 8301)?,
            serf_wan: optional("ports.serf_wan", 8302)?,
        })
    }
}

fn http_listeners(addresses: &[String], port: Option<u16>) -> Result<Vec<HttpListen>, String> {
    let Some(port) = port else { return Ok(Vec::new()) };
    addresses
        .iter()
        .map(|address| match address.strip_prefix("unix://") {
            Some(path) => Ok(HttpListen::Unix(PathBuf::from(path))),
            None => Ok(HttpListen::Tcp(SocketAddr::new(ip(address)?, port))),
        })
        .collect()
}

fn dns_listeners(addresses: &[String], port: Option<u16>) -> Result<Vec<SocketAddr>, String> {
    let Some(port) = port else { return Ok(Vec::new()) };
    addresses
        .iter()
        .map(|address| {
            if address.starts_with("unix://") {
                return Err(format!(
                    "addresses.dns: {address}: DNS cannot listen on a socket file"
                ));
            }
            Ok(SocketAddr::new(ip(address)?, port))
        })
        .collect()
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("\"{text}\" is not an IP address"))
}

/// Gossip and RPC are not encrypted yet: say so once when they can be reached from outside.
fn warn_unprotected(bind: IpAddr, warnings: &mut Vec<String>) {
    if !bind.is_loopback() {
        warnings.push(format!(
            "gossip and RPC on {bind} are neither encrypted nor authenticated: whoever reaches \
             them can join; keep them on a trusted network"
        ));
    }
}

/// Lower case, without dots at its ends.
fn domain(setting: &str, text: &str) -> Result<String, String> {
    let domain = text.trim_matches('.').to_lowercase();
    let valid = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if domain.len() > 200 || !(domain.is_empty() || domain.split('.').all(valid)) {
        return Err(format!("{setting} \"{text}\" is not a DNS domain"));
    }
    Ok(domain)
}

fn domain_or_empty(tree: &Tree) -> Result<String, String> {
    domain("alt_domain", tree.text("alt_domain").unwrap_or(""))
}

/// The settings that a reload replaces.
pub(crate) fn reloadable(tree: &Tree) -> Result<Reloadable, String> {
    let mut services = Vec::new();
    for value in tree.objects("services") {
        services.push(definition::parse_file_service(value)?);
    }
    let mut checks = Vec::new();
    for value in tree.objects("checks") {
        checks.push(definition::parse_file_check(value)?);
    }
    let log_level = tree.text("log_level").unwrap_or("info").to_lowercase();
    let log_level = match log_level.as_str() {
        "err" => "error".to_owned(),
        "trace" | "debug" | "info" | "warn" | "error" => log_level,
        other => {
            return Err(format!(
                "log_level \"{other}\" is none of trace, debug, info, warn, error"
            ));
        }
    };
    let node_meta = tree.text_map("node_meta");
    let pairs = node_meta.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    metadata::validate(pairs, metadata::Reserved::Refused)?;
    Ok(Reloadable {
        log_level,
        services,
        checks,
        node_meta,
        discard_check_output: tree.bool("discard_check_output").unwrap_or(false),
        dns: dns(tree)?,
        http_response_headers: tree.text_map("http_config.response_headers"),
    })
}

fn dns(tree: &Tree) -> Result<DnsSettings, String> {
    let default = DnsSettings::default();
    let bool = |path: &str, default: bool| tree.bool(path).unwrap_or(default);
    let duration = |path: &str, default: Duration| tree.duration(path).unwrap_or(default);
    let count = |path: &str, default: usize| match tree.int(path) {
        None => Ok(default),
        Some(value) => {
            usize::try_from(value).map_err(|_| format!("{path} {value} must be 0 or more"))
        }
    };
    let seconds = |path: &str, default: u32| match tree.int(path) {
        None => Ok(default),
        Some(value) => {
            u32::try_from(value).map_err(|_| format!("{path} {value} must be 0 to 4294967295"))
        }
    };
    let mut service_ttl = BTreeMap::new();
    for (name, text) in tree.text_map("dns_config.service_ttl") {
        let ttl = GoDuration::parse(&text)
            .map_err(|error| format!("dns_config.service_ttl.{name}: {error}"))?;
        service_ttl.insert(name, ttl.to_std());
    }
    Ok(DnsSettings {
        allow_stale: bool("dns_config.allow_stale", default.allow_stale),
        max_stale: duration("dns_config.max_stale", default.max_stale),
        node_ttl: duration("dns_config.node_ttl", default.node_ttl),
        service_ttl,
        only_passing: bool("dns_config.only_passing", default.only_passing),
        enable_truncate: bool("dns_config.enable_truncate", default.enable_truncate),
        udp_answer_limit: count("dns_config.udp_answer_limit", default.udp_answer_limit)?,
        a_record_limit: count("dns_config.a_record_limit", default.a_record_limit)?,
        disable_compression: bool("dns_config.disable_compression", default.disable_compression),
        node_meta_txt: bool("dns_config.enable_additional_node_meta_txt", default.node_meta_txt),
        soa: (
            seconds("dns_config.soa.refresh", default.soa.0)?,
            seconds("dns_config.soa.retry", default.soa.1)?,
            seconds("dns_config.soa.expire", default.soa.2)?,
            seconds("dns_config.soa.min_ttl", default.soa.3)?,
        ),
    })
}

/// Two doors on one address and port are named before anything is bound.
fn check_collisions(agent: &agent::Config, server: Option<&server::Config>) -> Result<(), String> {
    let mut doors: Vec<(&str, SocketAddr)> = vec![("Serf LAN", agent.serf_lan_bind)];
    doors.extend(agent.http.iter().filter_map(|listen| match listen {
        HttpListen::Tcp(address) => Some(("HTTP", *address)),
        HttpListen::Unix(_) => None,
    }));
    doors.extend(agent.dns.iter().map(|address| ("DNS", *address)));
    doors.extend(server.map(|server| ("RPC", server.rpc_bind)));
    for (i, (first, one)) in doors.iter().enumerate() {
        for (second, other) in doors.iter().skip(i + 1) {
            let same_ip =
                one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
            if same_ip && one.port() == other.port() {
                return Err(format!("{second} address {other} already configured for {first}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn machine() -> Machine {
        Machine { host_name: "host".to_owned(), interfaces: Vec::new() }
    }

    fn built(object: Value, dev: bool) -> Result<Settings, String> {
        let mut tree = Tree::default();
        tree.merge_object("a.json", &json!({"bind_addr": "127.0.0.1"})).expect("valid");
        tree.merge_object("a.json", &object).expect("valid keys");
        build(&tree, dev, &machine(), |_| Ok(NodeId([1; 16])))
    }

    #[test]
    fn defaults_are_consuls_but_for_those_we_change_on_purpose() {
        let settings =
            built(json!({"data_dir": "/tmp/x", "server": true, "bootstrap": true}), false)
                .expect("valid");
        assert_eq!(settings.agent.node_name, "host");
        assert_eq!(settings.agent.domain, "consul");
        assert_eq!(settings.agent.dns, ["127.0.0.1:8600".parse().expect("address")]);
        let server = settings.server.expect("a server");
        assert_eq!(server.rpc_advertise, "127.0.0.1:8300".parse().expect("address"));
        assert_eq!((server.raft_multiplier, server.raft_snapshot_threshold), (1, 50_000));
        assert!(!settings.leave_on_terminate && settings.skip_leave_on_interrupt);
        let client = built(json!({"data_dir": "/tmp/x"}), false).expect("valid");
        assert!(client.server.is_none());
        assert!(client.leave_on_terminate && !client.skip_leave_on_interrupt);
    }

    #[test]
    fn mistakes_have_consuls_texts_or_name_setting_and_value() {
        for (object, said) in [
            (json!({}), "data_dir cannot be empty"),
            (json!({"data_dir": "/x", "datacenter": "a b"}), "datacenter \"a b\""),
            (json!({"data_dir": "/x", "bootstrap": true}), "'bootstrap = true' requires"),
            (json!({"data_dir": "/x", "bootstrap_expect": 3}), "'bootstrap_expect > 0' requires"),
            (
                json!({"data_dir": "/x", "server": true, "bootstrap": true, "bootstrap_expect": 3}),
                "mutually exclusive",
            ),
            (json!({"data_dir": "/x", "raft_protocol": 2}), "raft_protocol 2"),
            (json!({"data_dir": "/x", "ports": {"http": 70000}}), "ports.http 70000"),
            (json!({"data_dir": "/x", "ports": {"server": -1}}), "ports.server"),
            (json!({"data_dir": "/x", "ports": {"http": 8600}}), "already configured for HTTP"),
            (json!({"data_dir": "/x", "performance": {"raft_multiplier": 0}}), "between 1 and 10"),
            (
                json!({"data_dir": "/x", "node_meta": {"consul-x": "1"}}),
                "reserved for internal use",
            ),
            (json!({"data_dir": "/x", "log_level": "loud"}), "log_level \"loud\""),
            (json!({"data_dir": "/x", "advertise_addr": "0.0.0.0"}), "advertise_addr cannot be"),
            (json!({"data_dir": "/x", "domain": "a..b"}), "not a DNS domain"),
            (json!({"data_dir": "/x", "non_voting_server": true}), "requires 'server = true'"),
            (
                json!({"data_dir": "/x", "server": true, "read_replica": true, "bootstrap": true}),
                "'read_replica = true' and 'bootstrap = true' are mutually exclusive",
            ),
            (
                json!({"data_dir": "/x", "server": true, "autopilot": {"min_quorum": -1}}),
                "autopilot.min_quorum -1 must be at least 0",
            ),
        ] {
            let error = built(object, false).expect_err(said);
            assert!(error.contains(said), "{error}");
        }
        let dev = built(json!({"server": true, "bootstrap_expect": 3}), true);
        assert!(dev.expect_err("dev").contains("not allowed in dev mode"));
    }

    #[test]
    fn autopilot_and_non_voters_reach_the_server() {
        let server = |object| built(object, false).expect("valid").server.expect("a server");
        let plain = server(json!({"data_dir": "/x", "server": true}));
        assert_eq!((plain.autopilot, plain.non_voter), (AutopilotV1::default(), false));
        let other = server(json!({"data_dir": "/x", "server": true, "non_voting_server": true,
            "autopilot": {"cleanup_dead_servers": false, "last_contact_threshold": "1s",
                "max_trailing_logs": 7, "min_quorum": 3, "server_stabilization_time": "1ms"}}));
        let autopilot = AutopilotV1 {
            cleanup_dead_servers: false,
            last_contact_threshold_ns: 1_000_000_000,
            max_trailing_logs: 7,
            min_quorum: 3,
            server_stabilization_time_ns: 1_000_000,
            ..AutopilotV1::default()
        };
        assert_eq!((other.autopilot, other.non_voter), (autopilot, true));
    }

    #[test]
    fn a_port_of_minus_one_switches_a_door_off() {
        let settings = built(json!({"data_dir": "/x", "ports": {"http": -1, "dns": -1}}), false)
            .expect("valid");
        assert!(settings.agent.http.is_empty() && settings.agent.dns.is_empty());
    }

    #[test]
    fn unprotected_cluster_ports_are_warned_of_off_loopback_only() {
        let inside = built(json!({"data_dir": "/x"}), false).expect("valid");
        assert!(inside.warnings.is_empty(), "{:?}", inside.warnings);
        let outside = built(json!({"data_dir": "/x", "bind_addr": "10.0.0.1"}), false).expect("ok");
        assert_eq!(outside.warnings.len(), 1);
    }
}

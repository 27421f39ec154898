//! Settings of an agent, already parsed, defaulted and checked by the binary.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use model::NodeId;

use crate::local::definition::{CheckDefinition, ServiceDefinition};

/// Settings that stay for the life of the process.
#[derive(Debug, Clone)]
pub struct Config {
    /// Identity of the node.
    pub node_id: NodeId,
    /// Name of the node.
    pub node_name: String,
    /// Datacenter, lower case.
    pub datacenter: String,
    /// DNS domain without dots at its ends, lower case: `consul`.
    pub domain: String,
    /// A second domain; empty when none.
    pub alt_domain: String,
    /// Whether this process also runs a server: only for what clients are told.
    pub server: bool,
    /// `-dev`: nothing on disk.
    pub dev: bool,
    /// Address for cluster traffic.
    pub bind: IpAddr,
    /// Address that the others are told.
    pub advertise: IpAddr,
    /// Where gossip listens (UDP and TCP).
    pub serf_lan_bind: SocketAddr,
    /// What the others are told.
    pub serf_lan_advertise: SocketAddr,
    /// Announced as `wan_join_port` by servers; `None`: no WAN.
    pub serf_wan_port: Option<u16>,
    /// RPC port of the server in this process, announced in the tags.
    pub server_port: u16,
    /// Where HTTP listens; empty: off.
    pub http: Vec<HttpListen>,
    /// Where DNS listens (UDP and TCP); empty: off.
    pub dns: Vec<SocketAddr>,
    /// gRPC port to announce; `None`: off.
    pub grpc_port: Option<u16>,
    /// Directory of all data; `None` in `-dev`.
    pub data_dir: Option<PathBuf>,
    /// Tag `bootstrap=1`.
    pub bootstrap: bool,
    /// Tag `expect=N`; 0: none.
    pub bootstrap_expect: u32,
    /// Tags `nonvoter=1` and `read_replica=1`: the server never votes.
    pub non_voter: bool,
    /// Joining.
    pub join: Join,
    /// Rejoin known peers even after an intentional leave.
    pub rejoin_after_leave: bool,
    /// How long failed members are remembered.
    pub reconnect_timeout: Duration,
    /// Script checks from anywhere.
    pub enable_script_checks: bool,
    /// Script checks from files.
    pub enable_local_script_checks: bool,
    /// How long a change of a check's output alone may wait before it is pushed; 0: at once.
    pub check_update_interval: Duration,
    /// Bytes of output kept for a check.
    pub check_output_bytes_max: usize,
    /// Blocking queries: wait when none is given, and its cap.
    pub default_query_time: Duration,
    /// See `default_query_time`.
    pub max_query_time: Duration,
    /// How long a request may look for a leader.
    pub rpc_hold_timeout: Duration,
    /// Largest value of a key, in bytes.
    pub kv_value_bytes_max: usize,
    /// Connections that one client address may hold on HTTP.
    pub http_max_conns_per_client: usize,
    /// Bytes of a request's head.
    pub http_max_header_bytes: usize,
    /// Connections to servers that one address may hold; time for a handshake.
    pub rpc_handshake_timeout: Duration,
    /// Catalog and health requests without a mode read `stale`, bounded by this; 0: off.
    pub discovery_max_stale: Duration,
    /// Let keys and paths hold unprintable characters.
    pub disable_http_unprintable_char_filter: bool,
    /// Serve `/ui/`.
    pub ui: bool,
    /// Time that a leaving agent goes on answering.
    pub leave_drain_time: Duration,
    /// What a reload may change.
    pub reloadable: Reloadable,
}

/// Settings that a reload replaces.
#[derive(Debug, Clone)]
pub struct Reloadable {
    /// Log level: trace, debug, info, warn, error.
    pub log_level: String,
    /// Services from files.
    pub services: Vec<ServiceDefinition>,
    /// Checks from files that stand alone.
    pub checks: Vec<CheckDefinition>,
    /// Metadata of the node, without what the agent adds.
    pub node_meta: BTreeMap<String, String>,
    /// Store empty outputs.
    pub discard_check_output: bool,
    /// DNS answers.
    pub dns: DnsSettings,
    /// Headers added to every answer.
    pub http_response_headers: BTreeMap<String, String>,
}

/// Reads and checks the configuration again with the flags of this process; the error is one
/// text for the operator, and the old settings stay in force.
pub type ReloadFn = Box<dyn Fn() -> Result<Reloadable, String> + Send + Sync>;

/// One HTTP listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpListen {
    /// TCP.
    Tcp(SocketAddr),
    /// Unix socket.
    Unix(PathBuf),
}

/// How the agent finds others.
#[derive(Debug, Clone)]
pub struct Join {
    /// `retry_join` and `start_join`: IP, IP:port, host name, `[v6]:port`.
    pub addresses: Vec<String>,
    /// Longest pause between attempts.
    pub interval: Duration,
    /// Attempts after which the agent gives up and exits; 0: never.
    pub attempts_max: u32,
}

/// DNS answers (spec/dns.md §23).
#[derive(Debug, Clone)]
pub struct DnsSettings {
    /// Answer from any server's copy.
    pub allow_stale: bool,
    /// Oldest copy that may answer.
    pub max_stale: Duration,
    /// TTL of node answers.
    pub node_ttl: Duration,
    /// TTL of service answers by service name; key `*` for all others, a trailing `*` for prefixes.
    pub service_ttl: BTreeMap<String, Duration>,
    /// Leave warning instances out too.
    pub only_passing: bool,
    /// Set the truncation bit when a UDP answer is cut.
    pub enable_truncate: bool,
    /// Answers over UDP when neither EDNS nor `a_record_limit` says otherwise.
    pub udp_answer_limit: usize,
    /// Address answers at most; 0: no limit.
    pub a_record_limit: usize,
    /// Never compress names.
    pub disable_compression: bool,
    /// Add TXT records with node metadata.
    pub node_meta_txt: bool,
    /// SOA fields in seconds: refresh, retry, expire, minimum TTL.
    pub soa: (u32, u32, u32, u32),
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            allow_stale: true,
            max_stale: Duration::from_secs(10 * 365 * 24 * 3600),
            node_ttl: Duration::ZERO,
            service_ttl: BTreeMap::new(),
            only_passing: false,
            enable_truncate: false,
            udp_answer_limit: 3,
            a_record_limit: 0,
            disable_compression: false,
            node_meta_txt: true,
            soa: (3600, 600, 86_400, 0),
        }
    }
}

//! Settings of a gossip pool, and why it may not start.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use model::{Name, NodeId};

use crate::config::Config;

/// Settings of a gossip pool.
#[derive(Debug, Clone)]
pub struct GossipConfig {
    /// Identity of the node.
    pub node_id: NodeId,
    /// Name of the node, unique in the pool.
    pub node_name: String,
    /// Datacenter; nodes of another one are refused.
    pub datacenter: String,
    /// Names the cluster: packets and streams with another label are dropped.
    pub label: String,
    /// Where to listen, UDP and TCP. Port 0: any free one.
    pub bind: SocketAddr,
    /// What the others are told. Port 0: the port that was bound.
    pub advertise: SocketAddr,
    /// Our tags at start; [`model::seam::Cluster::set_tags`] replaces them.
    pub tags: BTreeMap<Name, Name>,
    /// Directory for `serf/local.snapshot`; `None`: nothing is kept.
    pub data_dir: Option<PathBuf>,
    /// Contact the known peers at start even if the last run left on purpose.
    pub rejoin_after_leave: bool,
    /// How long failed members are remembered and contacted.
    pub reconnect_timeout: Duration,
    /// How long members that left are remembered.
    pub tombstone_timeout: Duration,
    /// Pace of the protocol.
    pub timing: Timing,
}

impl GossipConfig {
    /// The LAN pool of an agent. `build` is `<version>:<revision>`, as the tag `build` has it.
    pub fn lan(config: &Config, build: &str) -> Self {
        Self {
            node_id: config.node_id,
            node_name: config.node_name.clone(),
            datacenter: config.datacenter.clone(),
            label: String::new(),
            bind: config.serf_lan_bind,
            advertise: config.serf_lan_advertise,
            tags: lan_tags(config, build),
            data_dir: config.data_dir.clone(),
            rejoin_after_leave: config.rejoin_after_leave,
            reconnect_timeout: config.reconnect_timeout,
            tombstone_timeout: TOMBSTONE_TIMEOUT,
            timing: Timing::lan(),
        }
    }
}

/// Consul remembers members that left for a day.
pub const TOMBSTONE_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Pace of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// One member is probed per period.
    pub probe_period: Duration,
    /// Time a direct probe has before others are asked to probe too. Below the period.
    pub probe_timeout: Duration,
    /// Updates are sent to `gossip_fanout` members this often while there are any.
    pub gossip_period: Duration,
    /// See `gossip_period`; also the number of indirect probes.
    pub gossip_fanout: usize,
    /// Time a suspected member has to refute.
    pub suspicion: Duration,
    /// How long a leaving node lingers so that the others hear of it.
    pub leave_linger: Duration,
    /// Limit of one stream exchange.
    pub stream_timeout: Duration,
}

impl Timing {
    /// For one datacenter.
    pub fn lan() -> Self {
        Self {
            probe_period: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(300),
            gossip_period: Duration::from_millis(100),
            gossip_fanout: 3,
            suspicion: Duration::from_millis(3_800),
            leave_linger: Duration::from_secs(3),
            stream_timeout: Duration::from_secs(10),
        }
    }
}

/// Why gossip did not start.
#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    /// A port cannot be bound.
    #[error("cannot bind {address} ({protocol}) for gossip: {cause}; see -bind, -serf-lan-port")]
    Bind {
        /// What was to be bound.
        address: SocketAddr,
        /// `udp` or `tcp`.
        protocol: &'static str,
        /// The system's reason.
        cause: io::Error,
    },
    /// The thread cannot be made.
    #[error("cannot start the gossip thread")]
    Thread(#[source] io::Error),
    /// The file of known peers cannot be read or written.
    #[error("cannot {verb} {path}")]
    Peers {
        /// `read` or `write`.
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// Name and tags are what every other node must keep and carry.
    #[error("node name and gossip tags take {found} bytes, at most {limit} are allowed")]
    RecordTooLarge {
        /// Bytes they take.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Nobody could contact us there.
    #[error("{0} cannot be advertised to other nodes; see -advertise")]
    Advertise(SocketAddr),
}

/// Consul's tags of the LAN pool (names and values are part of what clients see).
fn lan_tags(config: &Config, build: &str) -> BTreeMap<Name, Name> {
    let mut tags = BTreeMap::new();
    let mut set = |key: &str, value: &str| tags.insert(Name::from(key), Name::from(value));
    set("role", if config.server { "consul" } else { "node" });
    set("dc", &config.datacenter);
    set("segment", "");
    set("id", &config.node_id.to_string());
    set("vsn", "2");
    set("vsn_min", "2");
    set("vsn_max", "3");
    set("build", build);
    if config.server {
        set("raft_vsn", "3");
        set("port", &config.server_port.to_string());
        set("acls", "0");
        set("ft_fs", "1");
        set("ft_si", "1");
        if let Some(port) = config.grpc_port {
            set("grpc_port", &port.to_string());
        }
        if config.bootstrap {
            set("bootstrap", "1");
        }
        if config.bootstrap_expect > 0 {
            set("expect", &config.bootstrap_expect.to_string());
        }
        if config.non_voter {
            set("nonvoter", "1");
            set("read_replica", "1");
        }
        if let Some(port) = config.serf_wan_port {
            set("wan_join_port", &port.to_string());
        }
    }
    tags
}

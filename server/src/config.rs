//! Settings of a server, already parsed, defaulted and checked by the binary.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use model::NodeId;
use model::row::AutopilotV1;

/// Settings of a server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Identity, in Raft too.
    pub node_id: NodeId,
    /// Name of the node.
    pub node_name: String,
    /// Datacenter, lower case.
    pub datacenter: String,
    /// Where RPC listens.
    pub rpc_bind: SocketAddr,
    /// What the others are told to connect to.
    pub rpc_advertise: SocketAddr,
    /// Directory of all data; `None`: everything in memory (`-dev`).
    pub data_dir: Option<PathBuf>,
    /// How the first configuration comes about.
    pub bootstrap: Bootstrap,
    /// Scales all Raft times, 1 to 10.
    pub raft_multiplier: u32,
    /// Log entries after which a snapshot is taken.
    pub raft_snapshot_threshold: u64,
    /// Bytes that stay free on the disk: below them the leader refuses writes. 0: none.
    pub disk_reserve_bytes: u64,
    /// How long a request may look for a leader.
    pub rpc_hold_timeout: Duration,
    /// Connections that one address may hold on the RPC port.
    pub rpc_max_conns_per_client: usize,
    /// Time a connection has for its handshake.
    pub rpc_handshake_timeout: Duration,
    /// Shortest TTL of a session.
    pub session_ttl_min: Duration,
    /// Largest value of a key, in bytes.
    pub kv_value_bytes_max: usize,
    /// Time that a leaving server goes on answering.
    pub leave_drain_time: Duration,
    /// How long failed members are remembered before their nodes are deregistered.
    pub reconnect_timeout: Duration,
    /// Never votes: it takes load off the others, and counts for no quorum.
    pub non_voter: bool,
    /// What the first leader writes as autopilot's configuration; indexes are zero.
    pub autopilot: AutopilotV1,
    /// Archives that the leader writes by itself; `None`: off.
    pub snapshot_schedule: Option<SnapshotSchedule>,
    /// gRPC port that service `consul` announces; `None`: off.
    pub grpc_port: Option<u16>,
}

/// Archives that the leader writes by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotSchedule {
    /// From one to the next, 1 minute to 31 days.
    pub interval: Duration,
    /// Archives that are kept, at least 1.
    pub retain: usize,
    /// Directory for them; made when it is missing.
    pub path: PathBuf,
}

/// How the first Raft configuration comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bootstrap {
    /// This server alone, if it has no data yet.
    Alone,
    /// When this many servers with the same number are known. At least 2.
    Expect(u32),
    /// Never: wait to be added.
    Wait,
}

impl Config {
    /// The address that peers connect to.
    pub fn advertise_ip(&self) -> IpAddr {
        self.rpc_advertise.ip()
    }
}

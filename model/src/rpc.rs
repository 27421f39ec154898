//! Requests and replies between agents and servers, and between servers.
//!
//! A [`Request`] is what a door (HTTP, DNS, anti-entropy) asks; the server's endpoint authorises
//! it, brings it to the right server, waits if it is a blocking read, and answers with rows. Doors
//! encode rows into what their clients speak.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::command::{Rejection, RetryV1};
use crate::id::{LogIndex, Name, NodeId, SessionId};
use crate::row::{
    AutopilotV1, CheckV1, KvV1, NameMap, NodeV1, ServiceCheckRefV1, ServiceV1, SessionBehavior,
    SessionV1,
};
use crate::txn::{TxnOpV1, TxnOutcomeV1};

/// How fresh a read must be (spec/http-api-1.md §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Consistency {
    /// Answered by the leader under its lease.
    #[default]
    Default,
    /// Linearizable: the leader confirmed a quorum after the request arrived.
    Consistent,
    /// Any server's copy, also without a leader.
    Stale,
}

/// One question or order, with all that is common to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Secret of the caller's token; empty when anonymous.
    pub token: Name,
    /// Datacenter asked for; empty: the one it arrives in.
    pub dc: Name,
    /// `default` until there are others.
    pub namespace: Name,
    /// Freshness of a read.
    pub consistency: Consistency,
    /// Blocking read: answer once the index is above this one; 0: at once.
    pub min_index: LogIndex,
    /// Longest wait of a blocking read, jitter included, in milliseconds; bounded by the door.
    pub wait_ms: u64,
    /// Time left for everything but the wait (leader hold included), in milliseconds.
    pub hold_ms: u64,
    /// Stamped by the [`crate::seam::Backend`] on writes, so that a retry applies once.
    pub retry: Option<RetryV1>,
    /// Follows the request through all rooms' logs; 0: none.
    pub trace_id: u64,
    /// What is asked.
    pub op: Op,
}

impl Request {
    /// A request with every common field at its default: anonymous, this datacenter, default
    /// consistency, not blocking, 7 s to find a leader (Consul's `rpc_hold_timeout`).
    pub fn new(op: Op) -> Self {
        Self {
            token: "".into(),
            dc: "".into(),
            namespace: "default".into(),
            consistency: Consistency::Default,
            min_index: LogIndex::ZERO,
            wait_ms: 0,
            hold_ms: 7_000,
            retry: None,
            trace_id: 0,
            op,
        }
    }
}

/// What can be asked of a server.
#[expect(missing_docs, reason = "the line above each variant says what its fields are")]
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Op {
    // Reads of tables: they block on `min_index` and carry an index.
    /// One key.
    KvGet { key: Bytes },
    /// All rows whose key starts with the prefix.
    KvList { prefix: Bytes },
    /// Their keys, folded at the separator (empty: not folded).
    KvKeys { prefix: Bytes, separator: Bytes },
    /// One session. The text is as the client wrote it.
    SessionGet { id: Name },
    /// All sessions.
    SessionList,
    /// Sessions of one node.
    SessionsOfNode { node: Name },
    /// Nodes with all of this metadata.
    Nodes { meta: NameMap },
    /// Names and tags of services on nodes with this metadata.
    Services { meta: NameMap },
    /// Every instance of every service on nodes with this metadata (for filters over services).
    AllInstances { meta: NameMap },
    /// Instances of a service that carry all the tags; no checks in the answer.
    ServiceNodes { service: Name, tags: Vec<Name>, meta: NameMap, connect: bool },
    /// A node (by name, or by a prefix of its id) and its services.
    NodeServices { node: Name },
    /// Instances of a service with the checks of node and instance.
    HealthService { service: Name, tags: Vec<Name>, meta: NameMap, connect: bool },
    /// Checks of a node.
    HealthNode { node: Name },
    /// Checks of all instances of a service.
    HealthChecks { service: Name, meta: NameMap },
    /// Checks in a state; `None`: any.
    HealthState { state: Option<CheckStateFilter>, meta: NameMap },
    // Reads that never block.
    /// Address of the leader.
    StatusLeader,
    /// Addresses of the Raft peers.
    StatusPeers,
    /// Names of the datacenters, nearest first.
    Datacenters,
    /// Servers in the Raft configuration.
    RaftConfiguration,
    // Writes: go to the leader.
    /// See [`crate::command::RegisterV1`].
    Register(Box<Registration>),
    /// See [`crate::command::DeregisterV1`].
    Deregister { node: Name, service_id: Option<Name>, check_id: Option<Name> },
    /// Write of keys.
    Kv(KvWrite),
    /// Create a session; the leader makes its id.
    SessionCreate(NewSession),
    /// End a session; an unknown one is success.
    SessionDestroy { id: Name },
    /// Start a session's TTL again. No log entry.
    SessionRenew { id: Name },
    /// Hand leadership to another voter (`None`: the leader picks).
    TransferLeader { to: Option<NodeId> },
    /// Remove a server from the Raft configuration.
    RemovePeer { id: NodeId },
    /// Several writes that one agent sends at once; each is applied on its own.
    Batch(Vec<Op>),
    /// Autopilot's configuration.
    AutopilotConfiguration,
    /// What autopilot knows of the servers.
    AutopilotState,
    /// Write autopilot's configuration; with `cas` if its modify index is that one.
    AutopilotConfigure { configuration: Box<AutopilotWrite>, cas: Option<LogIndex> },
    // With bodies: asked by `Backend::stream` alone.
    /// An archive of the whole state, as the answer's body.
    SnapshotSave,
    /// Put the state of the archive in the request's body in the place of this one.
    SnapshotRestore,
    /// A transaction: a write if one of its operations is, else a read that does not block.
    Txn(Vec<TxnOp>),
}

/// A row to write, with zero indexes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutopilotWrite(pub AutopilotV1);

// A hash is only used to share equal reads, and this is a write.
impl std::hash::Hash for AutopilotWrite {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.max_trailing_logs.hash(state);
    }
}

impl Op {
    /// Whether it changes something, so must reach the leader and may be applied only once.
    pub fn is_write(&self) -> bool {
        matches!(
            self,
            Op::Txn(ops) if ops.iter().any(TxnOp::is_write)
        ) || matches!(
            self,
            Op::Register(_)
                | Op::Deregister { .. }
                | Op::Kv(_)
                | Op::SessionCreate(_)
                | Op::SessionDestroy { .. }
                | Op::SessionRenew { .. }
                | Op::TransferLeader { .. }
                | Op::RemovePeer { .. }
                | Op::Batch(_)
                | Op::AutopilotConfigure { .. }
        )
    }
}

/// An operation of a transaction, as a door read it.
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one, 128 at most")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnOp {
    /// One to do.
    Do(TxnOpV1),
    /// One that is wrong in itself, whether it would have been a write, and Consul's text. It
    /// travels on, because it fails together with the others.
    Wrong(bool, Name),
}

impl TxnOp {
    /// Whether it changes something.
    pub fn is_write(&self) -> bool {
        match self {
            TxnOp::Do(op) => op.is_write(),
            TxnOp::Wrong(write, _) => *write,
        }
    }
}

// Told apart by their kind alone: a hash is only used to share equal blocking reads.
impl std::hash::Hash for TxnOp {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.is_write().hash(state);
    }
}

/// Which checks `health/state` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CheckStateFilter {
    /// Only this status.
    Only(crate::row::Status),
    /// A word that is no status: nothing matches.
    Nothing,
}

/// A registration: rows with zero indexes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The node.
    pub node: NodeV1,
    /// Leave an existing node's record alone.
    pub skip_node_update: bool,
    /// Services; their `node` is the node's name.
    pub services: Vec<ServiceV1>,
    /// Checks; their `node` is the node's name.
    pub checks: Vec<CheckV1>,
}

// Two registrations are told apart by their node alone: a hash is only used to share equal reads.
impl std::hash::Hash for Registration {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.node.name.hash(state);
    }
}

/// A write of keys, as a client asks for it.
#[expect(missing_docs, reason = "the line above each variant says what its fields are")]
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KvWrite {
    /// Set without condition.
    Set { key: Bytes, value: Bytes, flags: u64 },
    /// Set if the modify index is `index`; 0: if absent.
    Cas { key: Bytes, value: Bytes, flags: u64, index: LogIndex },
    /// Set and lock. The session's text is as the client wrote it.
    Acquire { key: Bytes, value: Bytes, flags: u64, session: Name },
    /// Set and unlock.
    Release { key: Bytes, value: Bytes, flags: u64, session: Name },
    /// Delete one key.
    Delete { key: Bytes },
    /// Delete if the modify index is `index`.
    DeleteCas { key: Bytes, index: LogIndex },
    /// Delete all keys with this prefix.
    DeleteTree { prefix: Bytes },
}

/// A session to create, defaults already filled in by the door.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NewSession {
    /// Not unique; may be empty.
    pub name: Name,
    /// Node that it lives and dies with.
    pub node: Name,
    /// Nanoseconds.
    pub lock_delay_ns: u64,
    /// As the client wrote it: `release`, `delete` or anything (the server refuses the rest).
    pub behavior: Name,
    /// As the client wrote it; the server parses it.
    pub ttl: Name,
    /// See [`SessionV1::node_checks`].
    pub node_checks: Option<Vec<Name>>,
    /// See [`SessionV1::service_checks`].
    pub service_checks: Option<Vec<(Name, Name)>>,
    /// See [`SessionV1::checks`].
    pub checks: Vec<Name>,
}

impl NewSession {
    /// The row that the leader proposes under this id; `Err` carries Consul's text.
    pub fn into_row(self, id: SessionId, ttl_ms: u64, behavior: SessionBehavior) -> SessionV1 {
        SessionV1 {
            id,
            name: self.name,
            node: self.node,
            lock_delay_ns: self.lock_delay_ns,
            behavior,
            ttl: self.ttl,
            ttl_ms,
            node_checks: self.node_checks,
            service_checks: self.service_checks.map(|checks| {
                checks
                    .into_iter()
                    .map(|(id, namespace)| ServiceCheckRefV1 { id, namespace })
                    .collect()
            }),
            checks: self.checks,
            create_index: LogIndex::ZERO,
            modify_index: LogIndex::ZERO,
        }
    }
}

/// What every reply says about where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Index of the answer (`X-Consul-Index`), at least 1 for reads of tables.
    pub index: LogIndex,
    /// Whether the answering server knew a leader.
    pub known_leader: bool,
    /// Milliseconds since the answering server heard from the leader; 0 on the leader.
    pub last_contact_ms: u64,
    /// Freshness that was really given.
    pub consistency: Consistency,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Where it comes from.
    pub meta: Meta,
    /// What it says.
    pub body: Body,
}

/// An instance of a service on its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The node that runs it.
    pub node: Arc<NodeV1>,
    /// The instance.
    pub service: Arc<ServiceV1>,
    /// Checks of the node, then of the instance; empty where the operation says so.
    pub checks: Vec<Arc<CheckV1>>,
}

/// A server in the Raft configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftServer {
    /// Identity.
    pub id: NodeId,
    /// Name of its node.
    pub node: Name,
    /// `ip:port` of its RPC.
    pub address: Name,
    /// Whether it leads.
    pub leader: bool,
    /// Whether it votes.
    pub voter: bool,
    /// Last index known to be on it.
    pub last_index: u64,
}

/// What a reply says. Which variant answers which operation is said beside the variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// `KvGet`.
    KvEntry(Option<Arc<KvV1>>),
    /// `KvList`.
    KvEntries(Vec<Arc<KvV1>>),
    /// `KvKeys`.
    Keys(Vec<Bytes>),
    /// `SessionGet` (none or one), `SessionList`, `SessionsOfNode`, `SessionRenew` (none or one).
    Sessions(Vec<Arc<SessionV1>>),
    /// `Nodes`.
    Nodes(Vec<Arc<NodeV1>>),
    /// `Services`: names with their distinct tags, both sorted.
    Services(Vec<(Name, Vec<Name>)>),
    /// `AllInstances`, `ServiceNodes`, `HealthService`: by node name, then service id.
    Instances(Vec<Instance>),
    /// `NodeServices`: the node, its services by id.
    Node(Option<(Arc<NodeV1>, Vec<Arc<ServiceV1>>)>),
    /// `HealthNode`, `HealthChecks`, `HealthState`: by node name, then check id.
    Checks(Vec<Arc<CheckV1>>),
    /// `StatusLeader`: `ip:port`, empty when unknown.
    Address(Name),
    /// `StatusPeers`, `Datacenters`.
    Names(Vec<Name>),
    /// `RaftConfiguration`.
    RaftServers {
        /// Index of the configuration's log entry.
        index: u64,
        /// Its servers.
        servers: Vec<RaftServer>,
    },
    /// Writes that only succeed.
    Done,
    /// `Kv`: whether the condition held.
    Bool(bool),
    /// `SessionCreate`.
    Session(SessionId),
    /// `Batch`: one result for each operation.
    Batch(Vec<Result<Body, RpcError>>),
    /// `AutopilotConfiguration`: none until the first leader has written it.
    Autopilot(Option<Arc<AutopilotV1>>),
    /// `AutopilotState`: none until the leader has looked for the first time.
    AutopilotState(Option<Arc<AutopilotState>>),
    /// `Txn`.
    Txn(TxnOutcomeV1),
}

/// What autopilot knows of the servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutopilotState {
    /// All servers are healthy.
    pub healthy: bool,
    /// Healthy voters that may be lost without losing the quorum.
    pub failure_tolerance: u64,
    /// Servers of the Raft configuration, by id.
    pub servers: Vec<AutopilotServer>,
}

/// One server of [`AutopilotState`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutopilotServer {
    /// Identity.
    pub id: NodeId,
    /// Name of its node; empty when unknown.
    pub name: Name,
    /// `ip:port` of its RPC.
    pub address: Name,
    /// Consul's word for what gossip holds it for; `none` when gossip does not know it.
    pub node_status: Name,
    /// Release whose interface it speaks; empty when unknown.
    pub version: Name,
    /// Milliseconds since it heard the leader; `None`: never, or it does not answer.
    pub last_contact_ms: Option<u64>,
    /// Term of its last entry.
    pub last_term: u64,
    /// Index of its last entry.
    pub last_index: u64,
    /// Autopilot's verdict.
    pub healthy: bool,
    /// Since when, Unix milliseconds.
    pub stable_since_ms: u64,
    /// It never votes, by its own setting.
    pub read_replica: bool,
    /// It leads.
    pub leader: bool,
    /// It votes.
    pub voter: bool,
    /// Newest state version that it knows; 0 when unknown.
    pub state_version: u32,
    /// Metadata of its node in the catalog.
    pub meta: NameMap,
}

/// What travels back in a frame.
pub type Answer = Result<Reply, RpcError>;

/// Why a request was not answered. Texts are what Consul's clients look for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RpcError {
    /// No leader within the hold time.
    #[error("No cluster leader")]
    NoLeader,
    /// A client agent knows no server.
    #[error("No known Consul servers")]
    NoServers,
    /// The datacenter is not known.
    #[error("No path to datacenter")]
    NoPathToDatacenter,
    /// The leader has not yet applied what it was elected with, or the server is still starting.
    #[error("Not ready to serve consistent reads")]
    NotReady,
    /// Refused early to stay alive; try again later (429).
    #[error("rate limit exceeded, try again later or against a different server")]
    Busy,
    /// The token lacks a permission; the text names it (403).
    #[error("Permission denied: {0}")]
    PermissionDenied(String),
    /// The token is unknown (403).
    #[error("ACL not found")]
    AclNotFound,
    /// Refused by the state or by validation; the text is Consul's (500).
    #[error("{0}")]
    Rejected(Rejection),
    /// The object asked for does not exist (404), with Consul's text.
    #[error("{0}")]
    NotFound(String),
    /// The connection broke or the time ran out after the request was sent: a write may have been
    /// applied.
    #[error("rpc error making call: {0}")]
    Broken(String),
    /// The other side speaks a version or sends bytes that we do not understand.
    #[error("rpc error making call: {0}")]
    Protocol(String),
    /// The server is stopping or leaving.
    #[error("No cluster leader")]
    Leaving,
}

impl RpcError {
    /// Whether another try, perhaps elsewhere, may succeed within the hold time. Writes carry a
    /// [`RetryV1`], so a retried one applies once.
    pub fn may_retry(&self) -> bool {
        matches!(
            self,
            RpcError::NoLeader
                | RpcError::NotReady
                | RpcError::Busy
                | RpcError::Broken(_)
                | RpcError::Leaving
        )
    }
}

/// Longest time for an archive to be sent, checked and restored.
pub const ARCHIVE_TIME_MAX: Duration = Duration::from_secs(3_600);

/// The time that a request may take in all.
pub fn total_time(request: &Request) -> Duration {
    Duration::from_millis(request.wait_ms.saturating_add(request.hold_ms))
}

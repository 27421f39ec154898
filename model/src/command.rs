//! What the Raft log holds, and what applying it yields.
//!
//! Invariant: a command is self-contained. The leader fills in stamps, random ids and defaults
//! before proposing, so that apply reads no clock and no random source. Variants are only ever
//! appended; a released payload is never edited.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{LogIndex, Name, NodeId, SessionId};
use crate::row::{AutopilotV1, CheckV1, NodeV1, ServiceV1, SessionV1};
use crate::txn::{TxnOpV1, TxnOutcomeV1};

/// Makes a retried write apply once.
///
/// The state keeps, per origin, the outcomes at or above `oldest_open` (at most
/// [`OPEN_RETRIES_MAX`]), and forgets an origin after 60 s of cluster time without a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryV1 {
    /// Boot id of the process that accepted the client's request.
    pub origin: NodeId,
    /// Counts up from 1 within the origin.
    pub seq: u64,
    /// Lowest `seq` of the origin that is still unanswered.
    pub oldest_open: u64,
}

/// Writes that one origin may have under way; beyond that it answers 429.
pub const OPEN_RETRIES_MAX: usize = 4_096;

/// One log entry: a command, and who asked for it when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvelopeV1 {
    /// `default` until there are others; first part of every table's key.
    pub namespace: Name,
    /// Set for writes that came from a client.
    pub retry: Option<RetryV1>,
    /// Who asked (accessor of a token, name of a duty); empty when anonymous.
    pub actor: Name,
    /// Why, when the client gave a reason; for history and audit.
    pub reason: Name,
    /// Cluster time in milliseconds, stamped by the leader. Never goes back.
    pub cluster_time_ms: u64,
    /// Wall clock of the leader, Unix milliseconds. For display only.
    pub wall_ms: u64,
    /// What to do.
    pub command: Command,
}

/// What the log can hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Register a node, services and checks of it: all or nothing, idempotent.
    RegisterV1(RegisterV1),
    /// Remove a check, a service, or a node with all that hangs on it.
    DeregisterV1(DeregisterV1),
    /// Write or delete keys.
    KvV1(KvCommandV1),
    /// Create a session.
    SessionCreateV1(SessionV1),
    /// End a session, with all effects.
    SessionDestroyV1(SessionId),
    /// Forget tombstones with an index at or below this one.
    TombstoneReapV1(LogIndex),
    /// Nothing, but carries the stamps: moves cluster time.
    TickV1,
    /// From now on commands up to this state version may stand in the log. Never goes back.
    StateVersionV1(u32),
    /// Write autopilot's configuration.
    AutopilotV1(AutopilotCommandV1),
    /// A piece of a state that is to replace this one; staged beside the tables.
    RestoreChunkV1(RestoreChunkV1),
    /// The staged state takes the place of the tables.
    RestoreCommitV1(RestoreCommitV1),
    /// Forget what is staged under this id.
    RestoreAbortV1(RestoreId),
    /// All of these operations in order, or none of them.
    TxnV1(Vec<TxnOpV1>),
}

/// Identity of one restore, made by the leader.
pub type RestoreId = NodeId;

/// Bytes that a [`RestoreChunkV1`] may carry.
pub const RESTORE_CHUNK_BYTES_MAX: usize = 512 << 10;

/// Body of [`Command::RestoreChunkV1`]. The pieces one behind the other are the blocks of a
/// snapshot, each behind its length as four bytes, little end first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreChunkV1 {
    /// Which restore. One is under way at a time; a piece at offset 0 begins it.
    pub id: RestoreId,
    /// Bytes of the pieces before this one.
    pub offset: u64,
    /// At least one and at most [`RESTORE_CHUNK_BYTES_MAX`].
    pub bytes: Bytes,
}

/// Body of [`Command::RestoreCommitV1`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreCommitV1 {
    /// Which restore.
    pub id: RestoreId,
    /// Bytes of all pieces.
    pub length: u64,
    /// SHA-256 of all pieces.
    pub sha256: [u8; 32],
}

/// Newest version of the replicated commands that this release knows.
pub const STATE_VERSION: u32 = 2;

impl Command {
    /// The state version that every server must know before this command may stand in the log: a
    /// server that meets one it does not know has to stop.
    pub fn needs(&self) -> u32 {
        match self {
            Command::RegisterV1(_)
            | Command::DeregisterV1(_)
            | Command::KvV1(_)
            | Command::SessionCreateV1(_)
            | Command::SessionDestroyV1(_)
            | Command::TombstoneReapV1(_)
            | Command::TickV1 => 1,
            // Itself the first command of version 2. Each step is proposed when all know its target.
            Command::StateVersionV1(to) => (*to).max(2),
            Command::AutopilotV1(_)
            | Command::RestoreChunkV1(_)
            | Command::RestoreCommitV1(_)
            | Command::RestoreAbortV1(_)
            | Command::TxnV1(_) => 2,
        }
    }

    /// What it is called where people read of it.
    pub fn kind(&self) -> &'static str {
        match self {
            Command::RegisterV1(_) => "register",
            Command::DeregisterV1(_) => "deregister",
            Command::KvV1(_) => "kv",
            Command::SessionCreateV1(_) => "session create",
            Command::SessionDestroyV1(_) => "session destroy",
            Command::TombstoneReapV1(_) => "tombstone reap",
            Command::TickV1 => "tick",
            Command::StateVersionV1(_) => "state version",
            Command::AutopilotV1(_) => "autopilot configuration",
            Command::RestoreChunkV1(_) => "restore chunk",
            Command::RestoreCommitV1(_) => "restore commit",
            Command::RestoreAbortV1(_) => "restore abort",
            Command::TxnV1(_) => "transaction",
        }
    }
}

/// Body of [`Command::AutopilotV1`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AutopilotCommandV1 {
    /// Write it, whatever there was.
    Set(AutopilotV1),
    /// Write it if the modify index of what is there is this one.
    Cas(AutopilotV1, LogIndex),
    /// Write it if there is none yet: the first leader's own settings.
    Seed(AutopilotV1),
}

/// Body of [`Command::RegisterV1`]. Order of effects: node, services, checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterV1 {
    /// The node; with `skip_node_update` only its name counts for a node that exists.
    pub node: NodeV1,
    /// Leave an existing node's record alone; a missing node is created.
    pub skip_node_update: bool,
    /// Services of the node.
    pub services: Vec<ServiceV1>,
    /// Checks of the node and its services.
    pub checks: Vec<CheckV1>,
}

/// Body of [`Command::DeregisterV1`]. The service wins over the check; with neither the node goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeregisterV1 {
    /// Name of the node.
    pub node: Name,
    /// Service to remove.
    pub service_id: Option<Name>,
    /// Check to remove.
    pub check_id: Option<Name>,
}

/// Body of [`Command::KvV1`]. Evolution of the fields: spec/http-api-2.md §1.7.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvCommandV1 {
    /// Set without condition.
    Set(KvPutV1),
    /// Set if the key's modify index is this one; 0: if it does not exist.
    Cas(KvPutV1, LogIndex),
    /// Set and lock. `refuse_until_ms`: none; lock-delay is decided by apply on cluster time.
    Lock(KvPutV1, SessionId),
    /// Set and unlock, if the session holds it.
    Unlock(KvPutV1, SessionId),
    /// Delete one key; a missing one is success.
    Delete(Bytes),
    /// Delete if the modify index is this one; a missing key is success.
    DeleteCas(Bytes, LogIndex),
    /// Delete all keys with this prefix.
    DeleteTree(Bytes),
}

/// A key, its new value and flags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvPutV1 {
    /// Any bytes, not empty.
    pub key: Bytes,
    /// Any bytes.
    pub value: Bytes,
    /// Opaque to us.
    pub flags: u64,
}

/// What applying a command yields, for the one who asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done; nothing more to say.
    Done,
    /// A condition held (`true`) or did not.
    Bool(bool),
    /// Refused; nothing was changed.
    Rejected(Rejection),
    /// What a transaction yields; with errors nothing was changed.
    Txn(TxnOutcomeV1),
}

/// Why apply refused a command. The text is what Consul's clients look for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    /// A lock names a session that does not exist.
    #[error("raft apply failed: invalid session \"{0}\"")]
    InvalidSession(String),
    /// A lock names no session.
    #[error("raft apply failed: missing session")]
    MissingSession,
    /// A session names a node that does not exist.
    #[error("apply failed: Missing node registration")]
    SessionNode,
    /// A session names a check that does not exist.
    #[error("apply failed: Missing check '{0}' registration")]
    SessionCheck(String),
    /// A session names a check that is critical.
    #[error("apply failed: Check '{0}' is in critical state")]
    SessionCheckCritical(String),
    /// A check names a service that is not on the node.
    #[error("failed inserting check on node \"{node}\": Missing service registration")]
    CheckService {
        /// Name of the node.
        node: String,
    },
    /// A name is held by another live node.
    #[error("failed inserting node: {0}")]
    Node(String),
    /// The write may have been applied long ago; its origin has been forgotten since.
    #[error("outcome unknown: the request's origin was forgotten; read before you write again")]
    OutcomeUnknown,
    /// The origin has too many writes under way.
    #[error("rate limit exceeded, try again later or against a different server")]
    TooManyOpen,
    /// Anything else that apply refuses.
    #[error("{0}")]
    Other(String),
}

//! What endpoint and leader duties need of Raft: a seam inside the server, so that they can be
//! tested and simulated without it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use model::command::{Command, Outcome, RetryV1};
use model::rpc::{RaftServer, RpcError};
use model::seam::{BoxFuture, ByteStream};
use model::{LogIndex, Name, NodeId};
use state::{Registry, State};
use tokio::sync::watch;

/// Consensus as the rest of the server sees it.
pub trait Consensus: Send + Sync + 'static {
    /// The published state. Cheap; never waits.
    fn state(&self) -> Arc<State>;

    /// The registry that is woken after each publication. Register first, then load the state.
    fn registry(&self) -> &Arc<Registry>;

    /// Who leads, as known here. The receiver sees each change.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// Milliseconds since the leader was last heard (0 on the leader); `None`: never.
    fn last_contact_ms(&self) -> Option<u64>;

    /// Proposes on the leader and waits until it is applied here. `NoLeader` when this server does
    /// not lead, `Broken` when the outcome is unknown, `Busy` when too much is uncommitted.
    fn propose(
        &self,
        proposal: Proposal,
    ) -> BoxFuture<'static, Result<(LogIndex, Outcome), RpcError>>;

    /// On the leader: returns once a default read may be answered from [`Consensus::state`]:
    /// quorum contact no older than half the maximal election timeout, else after a fresh shared
    /// round. `NoLeader` when this server does not lead, `NotReady` before it has applied what it
    /// was elected with.
    fn confirm_lease(&self) -> BoxFuture<'static, Result<(), RpcError>>;

    /// On the leader: a fresh shared quorum round; returns the index that must be applied before
    /// the read is answered, and has waited for it here.
    fn read_index(&self) -> BoxFuture<'static, Result<LogIndex, RpcError>>;

    /// Waits until the state has applied this index (for a read index got from the leader).
    fn applied(&self, index: LogIndex) -> BoxFuture<'static, Result<(), RpcError>>;

    /// Whether this server has caught up with what it had at start and heard a leader once.
    fn ready(&self) -> bool;

    /// Servers in the configuration, and the index of its entry.
    fn configuration(&self) -> (u64, Vec<RaftServer>);

    /// What the servers said about themselves, renewed every other second while this server leads.
    fn census(&self) -> watch::Receiver<Arc<Census>>;

    /// On the leader: adds a server as learner, or updates the address of a known id. Asks it who
    /// it is before.
    fn add_server(
        &self,
        id: NodeId,
        node: Name,
        address: SocketAddr,
    ) -> BoxFuture<'static, Result<(), RpcError>>;

    /// On the leader: makes a learner that has caught up a voter.
    fn promote(&self, id: NodeId) -> BoxFuture<'static, Result<(), RpcError>>;

    /// On the leader: removes a server.
    fn remove_server(&self, id: NodeId) -> BoxFuture<'static, Result<(), RpcError>>;

    /// On the leader: hands leadership over and waits until another leads, at most 1 s.
    fn transfer(&self, to: Option<NodeId>) -> BoxFuture<'static, Result<(), RpcError>>;

    /// True while log, vote and configuration are all empty.
    fn pristine(&self) -> bool;

    /// Makes the first configuration of these voters. Only when pristine.
    fn initialize(
        &self,
        voters: Vec<(NodeId, Name, SocketAddr)>,
    ) -> BoxFuture<'static, Result<(), RpcError>>;

    /// Counts restores; sees each.
    fn epoch(&self) -> watch::Receiver<u64>;

    /// An archive of the state as it is here and now, made as it is read, and the index of the last
    /// entry in it.
    ///
    /// # Errors
    /// `Broken`, when the thread that makes it cannot be started.
    fn archive(&self) -> Result<(LogIndex, ByteStream), RpcError>;

    /// On the leader: receives an archive, checks all of it, and puts its state in the place of
    /// this one on all servers. Returns the index of the entry that did it, once it is applied
    /// here. What is refused changes nothing.
    fn restore(&self, archive: ByteStream) -> BoxFuture<'static, Result<LogIndex, RpcError>>;

    /// Facts for people: Consul's keys of `Stats.raft` in `agent/self`.
    fn stats(&self) -> Vec<(String, String)>;
}

/// Who leads, as known on this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    /// Current term.
    pub term: u64,
    /// The leader, when one is known that holds a quorum as far as we know.
    pub leader: Option<(NodeId, SocketAddr)>,
    /// Whether it is us.
    pub is_leader: bool,
}

/// What the servers said about themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Counts the rounds of questions since this server leads; 0: none is over yet.
    pub round: u64,
    /// Last answer of each server of the configuration that ever answered.
    pub reports: BTreeMap<NodeId, Report>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What it says.
    pub stats: ServerStats,
    /// Whether it was given in the newest round.
    pub fresh: bool,
}

/// What a server says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStats {
    /// Its identity.
    pub id: NodeId,
    /// Newest version of the replicated commands that it knows.
    pub state_version: u32,
    /// Term of its last log entry.
    pub last_term: u64,
    /// Index of its last log entry.
    pub last_index: u64,
    /// Milliseconds since it heard the leader, 0 on the leader; `None`: never.
    pub contact_ms: Option<u64>,
}

/// A command to propose; the leader adds the stamps.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// `default` until there are others.
    pub namespace: Name,
    /// See [`RetryV1`]; none for the leader's own duties.
    pub retry: Option<RetryV1>,
    /// Who asked.
    pub actor: Name,
    /// Why.
    pub reason: Name,
    /// What to do.
    pub command: Command,
}

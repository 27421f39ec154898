//! Reads of tables, each with the index that a blocking one compares, and what wakes it.
//!
//! Invariant: a change that wakes one of a read's [`watch_keys`] raises the index that
//! [`query()`] then reports; so a woken reader rarely has to go back to sleep.

mod catalog;
mod health;
mod keys;
mod kv;
mod session;

use model::LogIndex;
use model::row::{NameMap, NodeV1};
use model::rpc::{Body, Op};

use crate::change::Table;
use crate::fold::fold;
use crate::state::{Space, State};

pub use keys::watch_keys;

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// Index of the answer, at least 1.
    pub index: LogIndex,
    /// What it says.
    pub body: Body,
    /// The one object that was asked for does not exist. A blocking read that finds this twice
    /// goes on waiting although the index rose: Consul's not-found suppression.
    pub missing: bool,
}

impl Answered {
    fn new(index: LogIndex, body: Body) -> Self {
        // Consul: an index of 0 would make clients spin, so 1 stands for "never changed".
        Self { index: index.max(LogIndex(1)), body, missing: false }
    }
}

/// Answers every operation that reads tables; `None` for all others.
pub fn query(state: &State, namespace: &str, op: &Op) -> Option<Answered> {
    let space = &*state.space(namespace);
    Some(match op {
        Op::KvGet { key } => kv::get(space, key),
        Op::KvList { prefix } => kv::list(space, prefix),
        Op::KvKeys { prefix, separator } => kv::keys(space, prefix, separator),
        Op::SessionGet { id } => session::get(space, id),
        Op::SessionList => session::list(space),
        Op::SessionsOfNode { node } => session::of_node(space, &fold(node)),
        Op::Nodes { meta } => catalog::nodes(space, meta),
        Op::Services { meta } => catalog::services(space, meta),
        Op::AllInstances { meta } => catalog::all_instances(space, meta),
        Op::ServiceNodes { service, tags, meta, connect } => {
            catalog::service_nodes(space, &fold(service), tags, meta, *connect)
        }
        Op::NodeServices { node } => catalog::node_services(space, node),
        Op::HealthService { service, tags, meta, connect } => {
            health::service(space, &fold(service), tags, meta, *connect)
        }
        Op::HealthNode { node } => health::node(space, &fold(node)),
        Op::HealthChecks { service, meta } => health::checks(space, &fold(service), meta),
        Op::HealthState { state, meta } => health::state(space, *state, meta),
        Op::Txn(ops) if !op.is_write() => {
            Answered::new(state.applied, Body::Txn(crate::txn::read(space, ops)))
        }
        Op::AutopilotConfiguration => {
            let row = state.autopilot();
            let index = row.as_ref().map_or(LogIndex::ZERO, |row| row.modify_index);
            Answered::new(index, Body::Autopilot(row))
        }
        Op::StatusLeader
        | Op::StatusPeers
        | Op::Datacenters
        | Op::RaftConfiguration
        | Op::Register(_)
        | Op::Deregister { .. }
        | Op::Kv(_)
        | Op::SessionCreate(_)
        | Op::SessionDestroy { .. }
        | Op::SessionRenew { .. }
        | Op::TransferLeader { .. }
        | Op::RemovePeer { .. }
        | Op::Batch(_)
        | Op::AutopilotState
        | Op::AutopilotConfigure { .. }
        | Op::SnapshotSave
        | Op::SnapshotRestore
        | Op::Txn(_) => return None,
    })
}

/// Whether a node carries all of this metadata.
fn carries(node: &NodeV1, meta: &NameMap) -> bool {
    meta.is_empty()
        || node
            .meta
            .as_ref()
            .is_some_and(|has| meta.iter().all(|(key, value)| has.get(key) == Some(value)))
}

/// Whether the named node exists and carries all of this metadata.
fn node_carries(space: &Space, node: &model::Name, meta: &NameMap) -> bool {
    meta.is_empty() || space.nodes.get(&fold(node)).is_some_and(|node| carries(node, meta))
}

/// Index of a service without instances: of the last extinction of any; if there never was one, of
/// these tables. Consul: so a watcher of a service that does not exist sleeps through the writes
/// to others.
fn missing_service(space: &Space, tables: &[Table]) -> LogIndex {
    match space.indexes.service_extinction {
        LogIndex::ZERO => space.indexes.max(tables),
        extinction => extinction,
    }
}

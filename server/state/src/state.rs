//! The one value that holds everything.

use std::sync::Arc;

use imbl::OrdMap;
use model::row::{AutopilotV1, CheckV1, KvV1, NodeV1, ServiceV1, SessionV1};
use model::{LogIndex, Name, NodeId, SessionId};

use crate::change::Table;
use crate::fold::fold_str;
use crate::indexes::Indexes;
use crate::intern::Interner;
use crate::retries::Retries;
use crate::stage::Stage;
use crate::table::{Checks, Kv, LockDelays, Nodes, Services, Sessions, Tombstones};

/// All tables with their indexes. A clone is O(1) and is a snapshot; [`crate::apply()`] on one
/// leaves the other alone.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub(crate) applied: LogIndex,
    pub(crate) cluster_time_ms: u64,
    pub(crate) epoch: u64,
    pub(crate) hash: u64,
    /// The namespace is the first part of every key: as the outer map, so that it costs nothing
    /// per row.
    pub(crate) spaces: OrdMap<Name, Arc<Space>>,
    pub(crate) retries: Retries,
    pub(crate) names: Arc<Interner>,
    /// See [`State::version`]; 0 until it was raised for the first time.
    pub(crate) version: u32,
    pub(crate) autopilot: Option<Arc<AutopilotV1>>,
    /// A restore that is under way.
    pub(crate) stage: Option<Arc<Stage>>,
}

/// The tables of one namespace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Space {
    pub(crate) nodes: Nodes,
    pub(crate) services: Services,
    pub(crate) checks: Checks,
    pub(crate) kv: Kv,
    pub(crate) sessions: Sessions,
    pub(crate) tombstones: Tombstones,
    pub(crate) lock_delays: LockDelays,
    pub(crate) indexes: Indexes,
}

impl State {
    /// Index of the last entry applied.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Cluster time in milliseconds: the highest stamp seen.
    pub fn cluster_time_ms(&self) -> u64 {
        self.cluster_time_ms
    }

    /// Counts restores: part of the key of shared answers.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Running hash over what all entries did: replicas at one index have the same.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Commands up to this state version may stand in the log: all voters knew it once, and none
    /// that does not is admitted any more.
    pub fn version(&self) -> u32 {
        self.version.max(1)
    }

    /// Autopilot's configuration, once the first leader has written it.
    pub fn autopilot(&self) -> Option<Arc<AutopilotV1>> {
        self.autopilot.clone()
    }

    /// Sessions with a time to live, and that time in milliseconds, of all namespaces.
    pub fn sessions_with_ttl(&self) -> Vec<(SessionId, u64)> {
        self.spaces.values().flat_map(|space| space.sessions.with_ttl()).collect()
    }

    /// Highest index of a tombstone, if there is one: what to reap up to, later.
    pub fn tombstone_max(&self) -> Option<LogIndex> {
        self.spaces.values().filter_map(|space| space.tombstones.max()).max()
    }

    /// Names of the namespaces that hold or held something.
    pub fn namespaces(&self) -> impl Iterator<Item = &Name> {
        self.spaces.keys()
    }

    /// Index of the last change of a table.
    pub fn table_index(&self, namespace: &str, table: Table) -> LogIndex {
        self.space(namespace).indexes.table(table)
    }

    /// A node by name, without regard to case.
    pub fn node(&self, namespace: &str, name: &str) -> Option<Arc<NodeV1>> {
        self.space(namespace).nodes.get(&fold_str(name)).cloned()
    }

    /// A node by id.
    pub fn node_by_id(&self, namespace: &str, id: NodeId) -> Option<Arc<NodeV1>> {
        self.space(namespace).nodes.by_id(&id).cloned()
    }

    /// All nodes by name.
    pub fn nodes(&self, namespace: &str) -> Vec<Arc<NodeV1>> {
        self.space(namespace).nodes.iter().map(|(_, row)| Arc::clone(row)).collect()
    }

    /// An instance, without regard to case.
    pub fn service(&self, namespace: &str, node: &str, id: &str) -> Option<Arc<ServiceV1>> {
        self.space(namespace).services.get(&fold_str(node), &fold_str(id)).cloned()
    }

    /// Instances on a node, by id.
    pub fn services_of_node(&self, namespace: &str, node: &str) -> Vec<Arc<ServiceV1>> {
        self.space(namespace).services.on_node(&fold_str(node)).cloned().collect()
    }

    /// Instances of a service, by node and id.
    pub fn instances(&self, namespace: &str, service: &str) -> Vec<Arc<ServiceV1>> {
        self.space(namespace).services.named(&fold_str(service)).cloned().collect()
    }

    /// A check, without regard to case.
    pub fn check(&self, namespace: &str, node: &str, id: &str) -> Option<Arc<CheckV1>> {
        self.space(namespace).checks.get(&fold_str(node), &fold_str(id)).cloned()
    }

    /// Checks on a node, those of its instances too, by id.
    pub fn checks_of_node(&self, namespace: &str, node: &str) -> Vec<Arc<CheckV1>> {
        self.space(namespace).checks.on_node(&fold_str(node)).cloned().collect()
    }

    /// A session.
    pub fn session(&self, namespace: &str, id: SessionId) -> Option<Arc<SessionV1>> {
        self.space(namespace).sessions.get(id).cloned()
    }

    /// A key.
    pub fn kv(&self, namespace: &str, key: &[u8]) -> Option<Arc<KvV1>> {
        self.space(namespace).kv.get(key).cloned()
    }

    /// The tables of a namespace; empty ones when nothing was ever written in it.
    pub(crate) fn space(&self, namespace: &str) -> Arc<Space> {
        self.spaces.get(namespace).cloned().unwrap_or_default()
    }
}

impl Space {
    /// After a restore: every index is that of the entry that made it, so that none goes back and
    /// every reader wakes. Deadlines keep their distance to cluster time.
    pub(crate) fn restored(&mut self, index: LogIndex, then_ms: u64, now_ms: u64) {
        self.indexes.restored(index);
        // Nothing asks below the new indexes any more.
        self.tombstones = Tombstones::default();
        let delays = std::mem::take(&mut self.lock_delays);
        for (key, until_ms) in delays.rows() {
            self.lock_delays.put(key, now_ms.saturating_add(until_ms.saturating_sub(then_ms)));
        }
    }

    /// Whether something was ever written.
    pub(crate) fn touched(&self) -> bool {
        self.indexes != Indexes::default()
    }
}

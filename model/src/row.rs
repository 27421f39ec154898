//! Rows of the state's tables, version 1: replicated in commands, stored in snapshots, sent by
//! servers in replies.
//!
//! Invariant: plain derives only (no skip, flatten, untagged, default), and never edited once
//! released: a change is a new type with the next version. A test decodes the bytes of each
//! release.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{LogIndex, Name, NodeId, SessionId};

/// Sorted map of short texts: node metadata, tagged addresses.
pub type NameMap = BTreeMap<Name, Name>;

/// Health of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Status {
    /// All is well.
    Passing,
    /// Works, but needs a look.
    Warning,
    /// Must not be used.
    Critical,
}

impl Status {
    /// The word that clients see.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Passing => "passing",
            Status::Warning => "warning",
            Status::Critical => "critical",
        }
    }

    /// The status named by a client's word; any other word is `None`.
    pub fn parse(text: &str) -> Option<Status> {
        match text {
            "passing" => Some(Status::Passing),
            "warning" => Some(Status::Warning),
            "critical" => Some(Status::Critical),
            _ => None,
        }
    }
}

/// Where something runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalityV1 {
    /// Region, for example `eu-west-1`.
    pub region: Name,
    /// Zone within the region; empty when not given.
    pub zone: Name,
}

/// A node of the catalog. Names are unique without regard to case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeV1 {
    /// Name as registered.
    pub name: Name,
    /// Absent for nodes registered without one.
    pub id: Option<NodeId>,
    /// IP address or host name.
    pub address: Name,
    /// `None`: never given (clients see `null`).
    pub tagged_addresses: Option<NameMap>,
    /// `None`: never given (clients see `null`).
    pub meta: Option<NameMap>,
    /// Where it runs.
    pub locality: Option<LocalityV1>,
    /// Set by apply; zero in commands.
    pub create_index: LogIndex,
    /// Set by apply; zero in commands.
    pub modify_index: LogIndex,
}

/// One of the tagged addresses of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAddressV1 {
    /// IP address or host name.
    pub address: Name,
    /// Port; 0 when none.
    pub port: u16,
}

/// Weights of an instance in DNS answers by its health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightsV1 {
    /// While passing, at least 1.
    pub passing: u16,
    /// While warning.
    pub warning: u16,
}

impl Default for WeightsV1 {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

/// An instance of a service on a node. Key: node, id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceV1 {
    /// Name of the node that runs it.
    pub node: Name,
    /// Unique on its node.
    pub id: Name,
    /// Name of the service.
    pub name: Name,
    /// Empty for a typical service, else `connect-proxy`, `mesh-gateway` ...
    pub kind: Name,
    /// In the order given.
    pub tags: Vec<Name>,
    /// Empty: the node's address is used.
    pub address: Name,
    /// 0 when none.
    pub port: u16,
    /// Path of a Unix socket; empty when none.
    pub socket_path: Name,
    /// Further addresses by tag.
    pub tagged_addresses: BTreeMap<Name, ServiceAddressV1>,
    /// `None`: never given (clients see `null` in health answers).
    pub meta: Option<NameMap>,
    /// Weights in DNS answers.
    pub weights: WeightsV1,
    /// Whether the catalog's tags win over the agent's.
    pub enable_tag_override: bool,
    /// `Proxy` object as normalised JSON text; `None` when it was empty.
    pub proxy_json: Option<Name>,
    /// `Connect.Native`.
    pub connect_native: bool,
    /// Where it runs.
    pub locality: Option<LocalityV1>,
    /// Set by apply; zero in commands.
    pub create_index: LogIndex,
    /// Set by apply; zero in commands.
    pub modify_index: LogIndex,
}

/// A health check on a node, perhaps of one of its services. Key: node, id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckV1 {
    /// Name of its node.
    pub node: Name,
    /// Unique on its node.
    pub id: Name,
    /// Name for people.
    pub name: Name,
    /// Health.
    pub status: Status,
    /// Remarks for people.
    pub notes: Name,
    /// Last output, bounded by its writer.
    pub output: Name,
    /// Empty for a check of the node itself.
    pub service_id: Name,
    /// Copied from the service by apply.
    pub service_name: Name,
    /// Copied from the service by apply.
    pub service_tags: Vec<Name>,
    /// `Type` for clients: `http`, `ttl` ...; may be empty.
    pub kind: Name,
    /// `Interval` for clients, as text.
    pub interval: Name,
    /// `Timeout` for clients, as text.
    pub timeout: Name,
    /// Port of an exposed check listener; 0 when none.
    pub exposed_port: u16,
    /// `Definition` object as normalised JSON text; `None` when empty.
    pub definition_json: Option<Name>,
    /// Set by apply; zero in commands.
    pub create_index: LogIndex,
    /// Set by apply; zero in commands.
    pub modify_index: LogIndex,
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvV1 {
    /// Any bytes.
    pub key: Bytes,
    /// Any bytes, bounded by a setting.
    pub value: Bytes,
    /// Opaque to us.
    pub flags: u64,
    /// Count of acquisitions; with key and session a fencing token.
    pub lock_index: u64,
    /// Holder of the lock.
    pub session: Option<SessionId>,
    /// Changes since it was created, from 1.
    pub version: u64,
    /// Lease that owns it, for protocols that have leases.
    pub lease: Option<u64>,
    /// Set by apply.
    pub create_index: LogIndex,
    /// Set by apply.
    pub modify_index: LogIndex,
}

/// What happens to the keys that an ended session held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionBehavior {
    /// The lock is released, the key stays.
    Release,
    /// The key is deleted.
    Delete,
}

/// A check of a service that a session depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCheckRefV1 {
    /// Id of the check.
    pub id: Name,
    /// Consul's namespace field, echoed.
    pub namespace: Name,
}

/// A session: the life on which locks hang.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionV1 {
    /// Made by the leader.
    pub id: SessionId,
    /// Not unique; may be empty.
    pub name: Name,
    /// Node that it lives and dies with.
    pub node: Name,
    /// As given, in nanoseconds (clamped to 60 s when used).
    pub lock_delay_ns: u64,
    /// What happens to its keys.
    pub behavior: SessionBehavior,
    /// As the client wrote it; empty when none.
    pub ttl: Name,
    /// The same in milliseconds; 0 when none.
    pub ttl_ms: u64,
    /// Checks of the node that it depends on.
    pub node_checks: Option<Vec<Name>>,
    /// Checks of services that it depends on.
    pub service_checks: Option<Vec<ServiceCheckRefV1>>,
    /// Checks in the old form.
    pub checks: Vec<Name>,
    /// Set by apply.
    pub create_index: LogIndex,
    /// Set by apply.
    pub modify_index: LogIndex,
}

impl SessionV1 {
    /// Ids of all checks that it depends on, whatever form they were given in.
    pub fn check_ids(&self) -> impl Iterator<Item = &Name> {
        self.checks
            .iter()
            .chain(self.node_checks.iter().flatten())
            .chain(self.service_checks.iter().flatten().map(|check| &check.id))
    }
}

/// What remains of a deleted key or prefix, so that watchers see its deletion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TombstoneV1 {
    /// The key or prefix that was deleted.
    pub key: Bytes,
    /// When.
    pub index: LogIndex,
}

/// How autopilot looks after the servers: one row for the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutopilotV1 {
    /// Servers that have failed are removed.
    pub cleanup_dead_servers: bool,
    /// Silence of the leader after which a server is unhealthy, in nanoseconds.
    pub last_contact_threshold_ns: i64,
    /// Entries by which a healthy server may trail the leader.
    pub max_trailing_logs: u64,
    /// Voters that a clean-up must leave.
    pub min_quorum: u64,
    /// How long a server must be healthy before it becomes a voter, in nanoseconds.
    pub server_stabilization_time_ns: i64,
    /// Kept for clients, without effect.
    pub redundancy_zone_tag: Name,
    /// Kept for clients, without effect.
    pub disable_upgrade_migration: bool,
    /// Kept for clients, without effect.
    pub upgrade_version_tag: Name,
    /// Set by apply; zero in commands.
    pub create_index: LogIndex,
    /// Set by apply; zero in commands.
    pub modify_index: LogIndex,
}

impl Default for AutopilotV1 {
    /// Consul's defaults.
    fn default() -> Self {
        Self {
            cleanup_dead_servers: true,
            last_contact_threshold_ns: 200_000_000,
            max_trailing_logs: 250,
            min_quorum: 0,
            server_stabilization_time_ns: 10_000_000_000,
            redundancy_zone_tag: "".into(),
            disable_upgrade_migration: false,
            upgrade_version_tag: "".into(),
            create_index: LogIndex::ZERO,
            modify_index: LogIndex::ZERO,
        }
    }
}

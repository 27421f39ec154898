//! What a log entry changed, as values: they wake parked reads, feed the ring, and later drive
//! resumable streams.

use std::sync::Arc;

use bytes::Bytes;
use model::row::{CheckV1, KvV1, NodeV1, ServiceV1, SessionV1};
use model::{LogIndex, Name, NodeId, SessionId};

/// Tables that have an index of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Nodes of the catalog.
    Nodes = 0,
    /// Instances of services.
    Services = 1,
    /// Health checks.
    Checks = 2,
    /// Keys and values.
    Kv = 3,
    /// What remains of deleted keys.
    Tombstones = 4,
    /// Sessions.
    Sessions = 5,
}

impl Table {
    /// Every table.
    pub const ALL: [Table; 6] = [
        Table::Nodes,
        Table::Services,
        Table::Checks,
        Table::Kv,
        Table::Tombstones,
        Table::Sessions,
    ];
}

/// A row of any table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// Of the nodes.
    Node(Arc<NodeV1>),
    /// Of the services.
    Service(Arc<ServiceV1>),
    /// Of the checks.
    Check(Arc<CheckV1>),
    /// Of the keys.
    Kv(Arc<KvV1>),
    /// Of the sessions.
    Session(Arc<SessionV1>),
}

/// Key of a row. Names are in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// A node's name.
    Node(Name),
    /// An instance.
    Service {
        /// Its node.
        node: Name,
        /// Its id.
        id: Name,
    },
    /// A check.
    Check {
        /// Its node.
        node: Name,
        /// Its id.
        id: Name,
    },
    /// A key.
    Kv(Bytes),
    /// A session.
    Session(SessionId),
}

/// Finer indexes that a change of the catalog raised.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Raised {
    /// Id of the node concerned, if it has one: before or after the change.
    pub node_id: Option<NodeId>,
    /// Services (lower case): the row's own, or all that the node hosts for node-level rows.
    pub services: Vec<Name>,
    /// Services whose mesh-capable instances are concerned (lower case).
    pub connects: Vec<Name>,
}

/// One row, before and after. Created: no `before`; deleted: no `after`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Namespace of the row.
    pub namespace: Name,
    /// The log entry.
    pub index: LogIndex,
    /// Where.
    pub table: Table,
    /// Which row.
    pub key: Key,
    /// As it was.
    pub before: Option<Row>,
    /// As it is.
    pub after: Option<Row>,
    /// For changes of the catalog: what else they raised.
    pub raised: Option<Box<Raised>>,
}

/// All changes of one log entry, in order.
pub type Changes = Vec<Change>;

impl Change {
    /// Bytes that keeping this change holds in memory, roughly: for the bounds of the ring.
    pub fn weight(&self) -> usize {
        let row = |row: &Option<Row>| match row {
            None => 0,
            // Tags and names are shared with the tables; what a flip makes new is the row itself.
            Some(Row::Node(_)) => 256,
            Some(Row::Service(row)) => 384 + row.proxy_json.as_ref().map_or(0, |text| text.len()),
            Some(Row::Check(row)) => 384 + row.output.len(),
            Some(Row::Kv(row)) => 224 + row.key.len() + row.value.len(),
            Some(Row::Session(_)) => 256,
        };
        let raised =
            self.raised.as_ref().map_or(0, |r| 64 + 16 * (r.services.len() + r.connects.len()));
        size_of::<Self>() + row(&self.before) + row(&self.after) + raised
    }
}

//! What a parked read may depend on, and which of it a change touches.

use std::collections::BTreeSet;

use bytes::Bytes;
use model::row::{CheckV1, Status};
use model::{Name, NodeId, SessionId};

use crate::change::{Change, Key, Row, Table};
use crate::fold::fold;

/// Something that a read depends on, in one namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchKey {
    /// The namespace.
    pub namespace: Name,
    /// The thing.
    pub watched: Watched,
}

/// Something that a read depends on. All names are in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Watched {
    /// Any change of a table.
    Table(Table),
    /// One key.
    KvKey(Bytes),
    /// All keys that start with this.
    KvPrefix(Bytes),
    /// The instances of a service, their nodes and checks.
    Service(Name),
    /// The mesh-capable instances for a service, their nodes and checks.
    Connect(Name),
    /// A node and its services, not its checks.
    Node(Name),
    /// The same for a node whose id, written without dashes, starts with these digits.
    NodeIdPrefix(Name),
    /// All checks on a node.
    NodeChecks(Name),
    /// All checks of a service's instances.
    ServiceChecks(Name),
    /// Checks that have or had a status.
    Status(Status),
    /// One session.
    Session(SessionId),
    /// The sessions of a node.
    NodeSessions(Name),
}

/// What a batch of changes touches: keys to be looked up, and texts whose prefixes are.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub(crate) keys: BTreeSet<WatchKey>,
    /// Keys and ids that changed, by namespace.
    pub(crate) kv: BTreeSet<(Name, Bytes)>,
    pub(crate) ids: BTreeSet<(Name, NodeId)>,
}

impl Touched {
    pub(crate) fn by(changes: &[Change]) -> Self {
        let mut touched = Self::default();
        changes.iter().for_each(|change| touched.add(change));
        touched
    }

    fn add(&mut self, change: &Change) {
        self.key(change, Watched::Table(change.table));
        match &change.key {
            Key::Kv(key) => {
                self.key(change, Watched::KvKey(key.clone()));
                self.kv.insert((Name::clone(&change.namespace), key.clone()));
            }
            Key::Session(id) => {
                self.key(change, Watched::Session(*id));
                for row in [&change.before, &change.after] {
                    if let Some(Row::Session(row)) = row {
                        self.key(change, Watched::NodeSessions(fold(&row.node)));
                    }
                }
            }
            Key::Node(name) => self.node(change, name),
            Key::Service { node, .. } => {
                // A node's list and the list of nodes move with its services.
                self.key(change, Watched::Table(Table::Nodes));
                self.node(change, node);
            }
            Key::Check { node, .. } => {
                self.key(change, Watched::NodeChecks(Name::clone(node)));
                for row in [&change.before, &change.after] {
                    if let Some(Row::Check(row)) = row {
                        self.check(change, row);
                    }
                }
            }
        }
        if let Some(raised) = &change.raised {
            for name in &raised.services {
                self.key(change, Watched::Service(Name::clone(name)));
            }
            for name in &raised.connects {
                self.key(change, Watched::Connect(Name::clone(name)));
            }
        }
    }

    fn node(&mut self, change: &Change, name: &Name) {
        self.key(change, Watched::Node(Name::clone(name)));
        let mut ids = vec![change.raised.as_ref().and_then(|raised| raised.node_id)];
        for row in [&change.before, &change.after] {
            if let Some(Row::Node(row)) = row {
                ids.push(row.id);
            }
        }
        for id in ids.into_iter().flatten() {
            self.ids.insert((Name::clone(&change.namespace), id));
        }
    }

    fn check(&mut self, change: &Change, row: &CheckV1) {
        self.key(change, Watched::Status(row.status));
        if !row.service_id.is_empty() {
            self.key(change, Watched::ServiceChecks(fold(&row.service_name)));
        } else if change.after.is_none() {
            // Its end raised the index of the services, as in apply.
            self.key(change, Watched::Table(Table::Services));
        }
    }

    fn key(&mut self, change: &Change, watched: Watched) {
        self.keys.insert(WatchKey { namespace: Name::clone(&change.namespace), watched });
    }
}

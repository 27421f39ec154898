//! What blocking reads compare: the index of the last change of a table, of a service, of a node.
//!
//! A service or node that is gone has no index of its own; its watchers see the index of the last
//! extinction instead, which its own disappearance raised and which unrelated writes leave alone.

use imbl::OrdMap;
use model::{LogIndex, Name};

use crate::change::Table;

/// All indexes of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Indexes {
    tables: [LogIndex; Table::ALL.len()],
    /// No answer has an index below: of the last restore.
    pub(crate) floor: LogIndex,
    /// When a service last lost its last instance.
    pub(crate) service_extinction: LogIndex,
    /// When a node last went.
    pub(crate) node_extinction: LogIndex,
    /// By lower-case name of the service.
    services: OrdMap<Name, LogIndex>,
    /// By the service that mesh-capable instances serve: as high as the services that they are
    /// registered as, and also raised when one of them turns to another target.
    connects: OrdMap<Name, LogIndex>,
    /// By lower-case name of the node.
    nodes: OrdMap<Name, LogIndex>,
}

impl Indexes {
    pub(crate) fn table(&self, table: Table) -> LogIndex {
        self.tables[table as usize]
    }

    pub(crate) fn raise(&mut self, table: Table, index: LogIndex) {
        let at = &mut self.tables[table as usize];
        *at = index.max(*at);
    }

    /// Every index there is becomes this one.
    pub(crate) fn restored(&mut self, index: LogIndex) {
        self.tables = [index; Table::ALL.len()];
        self.floor = index;
        (self.service_extinction, self.node_extinction) = (index, index);
        for indexes in [&mut self.services, &mut self.connects, &mut self.nodes] {
            *indexes = indexes.keys().map(|name| (Name::clone(name), index)).collect();
        }
    }

    /// Highest index of these tables.
    pub(crate) fn max(&self, tables: &[Table]) -> LogIndex {
        tables.iter().map(|table| self.table(*table)).max().unwrap_or(LogIndex::ZERO)
    }

    pub(crate) fn service(&self, name: &str) -> Option<LogIndex> {
        self.services.get(name).copied()
    }

    pub(crate) fn raise_service(&mut self, name: &Name, index: LogIndex) {
        self.services.insert(Name::clone(name), index);
    }

    pub(crate) fn service_extinct(&mut self, name: &str, index: LogIndex) {
        self.services.remove(name);
        self.service_extinction = index;
    }

    pub(crate) fn connect(&self, target: &str) -> Option<LogIndex> {
        self.connects.get(target).copied()
    }

    pub(crate) fn raise_connect(&mut self, target: &Name, index: LogIndex) {
        self.connects.insert(Name::clone(target), index);
    }

    pub(crate) fn connect_extinct(&mut self, target: &str, index: LogIndex) {
        self.connects.remove(target);
        self.service_extinction = index;
    }

    pub(crate) fn node(&self, name: &str) -> Option<LogIndex> {
        self.nodes.get(name).copied()
    }

    pub(crate) fn raise_node(&mut self, name: &Name, index: LogIndex) {
        self.nodes.insert(Name::clone(name), index);
    }

    pub(crate) fn node_extinct(&mut self, name: &str, index: LogIndex) {
        self.nodes.remove(name);
        self.node_extinction = index;
    }

    pub(crate) fn services(&self) -> &OrdMap<Name, LogIndex> {
        &self.services
    }

    pub(crate) fn connects(&self) -> &OrdMap<Name, LogIndex> {
        &self.connects
    }

    pub(crate) fn nodes(&self) -> &OrdMap<Name, LogIndex> {
        &self.nodes
    }
}

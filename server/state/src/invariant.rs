//! What must always hold. Checked by tests and simulations after each step, and cheap enough for a
//! server to check after it has loaded a snapshot.

use model::LogIndex;
use model::row::Status;

use crate::change::Table;
use crate::fold::fold;
use crate::state::{Space, State};
use crate::table::connect_target;

impl State {
    /// Checks every invariant of the state; the text says which one is broken and by what.
    pub fn verify(&self) -> Result<(), String> {
        self.retries.verify()?;
        for (name, space) in &self.spaces {
            space.verify(self.applied).map_err(|what| format!("namespace {name}: {what}"))?;
        }
        Ok(())
    }
}

impl Space {
    fn verify(&self, applied: LogIndex) -> Result<(), String> {
        // Invariant: secondary indexes follow from the rows.
        self.nodes.verify()?;
        self.services.verify()?;
        self.checks.verify()?;
        self.kv.verify()?;
        self.sessions.verify()?;
        self.tombstones.verify()?;
        self.lock_delays.verify()?;
        self.verify_indexes(applied)?;
        self.verify_catalog()?;
        self.verify_sessions()
    }

    /// Invariant: create <= modify <= index of the table <= applied.
    fn verify_indexes(&self, applied: LogIndex) -> Result<(), String> {
        let nodes = self.nodes.iter().map(|(_, r)| (Table::Nodes, r.create_index, r.modify_index));
        let services =
            self.services.iter().map(|(_, r)| (Table::Services, r.create_index, r.modify_index));
        let checks =
            self.checks.iter().map(|(_, r)| (Table::Checks, r.create_index, r.modify_index));
        let kv = self.kv.iter().map(|(_, r)| (Table::Kv, r.create_index, r.modify_index));
        let sessions =
            self.sessions.iter().map(|r| (Table::Sessions, r.create_index, r.modify_index));
        for (table, create, modify) in nodes.chain(services).chain(checks).chain(kv).chain(sessions)
        {
            if create == LogIndex::ZERO || create > modify || modify > self.indexes.table(table) {
                let top = self.indexes.table(table);
                return Err(format!("a row of {table:?} has {create}/{modify}, the table {top}"));
            }
        }
        if self.tombstones.max() > Some(self.indexes.table(Table::Tombstones)) {
            return Err("a tombstone is newer than its table".into());
        }
        let extinct = self.indexes.service_extinction.max(self.indexes.node_extinction);
        if self.indexes.max(&Table::ALL).max(extinct) > applied {
            return Err(format!("an index is above the last entry applied, {applied}"));
        }
        Ok(())
    }

    /// Invariant: services, checks and sessions are on nodes that exist; exactly those services
    /// and nodes that exist have an index, and it is not below that of their rows.
    fn verify_catalog(&self) -> Result<(), String> {
        for (name, row) in self.nodes.iter() {
            if self.indexes.node(name).is_none_or(|index| index < row.modify_index) {
                return Err(format!("node {name} has a wrong index"));
            }
        }
        for ((node, id), row) in self.services.iter() {
            if self.nodes.get(node).is_none() {
                return Err(format!("service {id} is on node {node}, which does not exist"));
            }
            let index = self.indexes.service(&fold(&row.name));
            if index.is_none_or(|index| index < row.modify_index) {
                return Err(format!("service {} has a wrong index", row.name));
            }
            let target = connect_target(row);
            if target.is_some_and(|target| self.indexes.connect(&target) < index) {
                return Err(format!("the mesh index of {} is too low", row.name));
            }
            if self.indexes.node(node) < Some(row.modify_index) {
                return Err(format!("node {node} has an index below its service {id}"));
            }
        }
        for ((node, id), row) in self.checks.iter() {
            if self.nodes.get(node).is_none() {
                return Err(format!("check {id} is on node {node}, which does not exist"));
            }
            let service = fold(&row.service_id);
            if !service.is_empty() {
                let service = self.services.get(node, &service);
                if service.is_none_or(|service| service.name != row.service_name) {
                    return Err(format!("check {id} of {node} is not of its service"));
                }
            }
        }
        for name in self.indexes.services().keys() {
            if self.services.named(name).next().is_none() {
                return Err(format!("service {name} has an index but no instance"));
            }
        }
        for name in self.indexes.connects().keys() {
            if self.services.serving(name).next().is_none() {
                return Err(format!("service {name} has a mesh index but no mesh instance"));
            }
        }
        if self.indexes.nodes().len() != self.nodes.iter().count() {
            return Err("a node that does not exist has an index".into());
        }
        Ok(())
    }

    /// Invariant: the node and all checks of a session exist, no check of it is critical, and the
    /// holder of each key exists.
    fn verify_sessions(&self) -> Result<(), String> {
        for row in self.sessions.iter() {
            let node = fold(&row.node);
            if self.nodes.get(&node).is_none() {
                return Err(format!("session {} is on node {node}, which does not exist", row.id));
            }
            for id in row.check_ids() {
                match self.checks.get(&node, &fold(id)) {
                    Some(check) if check.status != Status::Critical => {}
                    _ => return Err(format!("session {} outlived its check {id}", row.id)),
                }
            }
        }
        for (key, row) in self.kv.iter() {
            if row.session.is_some_and(|id| self.sessions.get(id).is_none()) {
                return Err(format!("key {key:?} is held by a session that does not exist"));
            }
        }
        Ok(())
    }
}

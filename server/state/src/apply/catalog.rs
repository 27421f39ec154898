//! Rows of the catalog: storing and removing them with all indexes that this moves.

use std::sync::Arc;

use model::command::{DeregisterV1, Outcome, Rejection};
use model::row::{CheckV1, NodeV1, ServiceV1};
use model::{Name, NodeId};

use super::Work;
use crate::change::{Key, Raised, Row, Table};
use crate::fold::fold;
use crate::table::connect_target;

impl Work<'_> {
    pub(super) fn deregister(&mut self, gone: &DeregisterV1) -> Result<Outcome, Rejection> {
        let node = fold(&gone.node);
        let named = |id: &Option<Name>| id.as_ref().filter(|id| !id.is_empty()).map(fold);
        match (named(&gone.service_id), named(&gone.check_id)) {
            (Some(service), _) => self.remove_service(&node, &service),
            (None, Some(check)) => self.remove_check(&node, &check),
            (None, None) => self.remove_node(&node),
        }
        Ok(Outcome::Done)
    }

    /// Stores a node under its name and raises what reads of its services report.
    pub(super) fn put_node(&mut self, mut row: NodeV1) {
        self.names.node(&mut row);
        let row = Arc::new(row);
        let key = fold(&row.name);
        let before = self.space.nodes.put(Arc::clone(&row));
        self.raise(Table::Nodes);
        self.space.indexes.raise_node(&key, self.index);
        let mut raised = self.raised_on(&key);
        self.raise_hosted(&key, &mut raised);
        let replaced = before.as_ref().and_then(|before| before.id);
        if replaced.is_some() && replaced != row.id {
            // Who asks for the node by its old id finds none any more.
            self.space.indexes.node_extinction = self.index;
            raised.node_id = replaced;
        }
        let (before, after) = (before.map(Row::Node), Some(Row::Node(row)));
        self.changed(Table::Nodes, Key::Node(key), before, after, Some(raised));
    }

    /// Removes a node with its services, checks and sessions.
    pub(super) fn remove_node(&mut self, node: &Name) {
        if self.space.nodes.get(node).is_none() {
            return;
        }
        let services: Vec<Name> =
            self.space.services.on_node(node).map(|row| fold(&row.id)).collect();
        services.iter().for_each(|id| self.remove_service(node, id));
        let checks: Vec<Name> = self.space.checks.on_node(node).map(|row| fold(&row.id)).collect();
        checks.iter().for_each(|id| self.remove_check(node, id));

        let raised = self.raised_on(node);
        let before = self.space.nodes.remove(node).map(Row::Node);
        self.raise(Table::Nodes);
        self.space.indexes.node_extinct(node, self.index);
        let key = Key::Node(Name::clone(node));
        self.changed(Table::Nodes, key, before, None, Some(raised));
        self.end_sessions_of_node(node);
    }

    /// Stores an instance.
    pub(super) fn put_service(&mut self, row: ServiceV1) {
        let row = Arc::new(row);
        let (node, id, name) = (fold(&row.node), fold(&row.id), fold(&row.name));
        let before = self.space.services.put(Arc::clone(&row));
        let mut raised = self.raise_instance(&node);
        if let Some(old) = &before {
            self.raise_or_extinguish(old, &mut raised);
        }
        self.raise_service(&name, &mut raised);
        let renamed = before.as_ref().is_some_and(|old| old.name != row.name);
        let key = Key::Service { node: Name::clone(&node), id: Name::clone(&id) };
        let (before, after) = (before.map(Row::Service), Some(Row::Service(Arc::clone(&row))));
        self.changed(Table::Services, key, before, after, Some(raised));
        if renamed {
            self.rename_checks(&node, &id, &row.name);
        }
    }

    /// An instance now belongs to another service; its checks follow.
    fn rename_checks(&mut self, node: &Name, id: &Name, service: &Name) {
        let checks: Vec<Arc<CheckV1>> = self.space.checks.of_instance(node, id).cloned().collect();
        for check in checks {
            let mut row = CheckV1::clone(&check);
            row.service_name = Name::clone(service);
            row.modify_index = self.index;
            self.put_check(row);
        }
    }

    pub(super) fn remove_service(&mut self, node: &Name, id: &Name) {
        if self.space.services.get(node, id).is_none() {
            return;
        }
        let checks: Vec<Name> =
            self.space.checks.of_instance(node, id).map(|row| fold(&row.id)).collect();
        checks.iter().for_each(|check| self.remove_check(node, check));

        let Some(old) = self.space.services.remove(node, id) else { return };
        let mut raised = self.raise_instance(node);
        self.raise_or_extinguish(&old, &mut raised);
        let key = Key::Service { node: Name::clone(node), id: Name::clone(id) };
        self.changed(Table::Services, key, Some(Row::Service(old)), None, Some(raised));
    }

    /// Stores a check.
    pub(super) fn put_check(&mut self, row: CheckV1) {
        let row = Arc::new(row);
        let (node, id) = (fold(&row.node), fold(&row.id));
        let before = self.space.checks.put(Arc::clone(&row));
        self.raise(Table::Checks);
        let mut raised = self.raised_on(&node);
        if let Some(old) = before.as_ref().filter(|old| old.service_name != row.service_name) {
            self.raise_checked(old, &node, &mut raised);
        }
        self.raise_checked(&row, &node, &mut raised);
        let key = Key::Check { node, id };
        let (before, after) = (before.map(Row::Check), Some(Row::Check(row)));
        self.changed(Table::Checks, key, before, after, Some(raised));
    }

    /// Removes a check and ends the sessions that depend on it.
    pub(super) fn remove_check(&mut self, node: &Name, id: &Name) {
        let Some(old) = self.space.checks.remove(node, id) else { return };
        self.raise(Table::Checks);
        let mut raised = self.raised_on(node);
        self.raise_checked(&old, node, &mut raised);
        if old.service_id.is_empty() {
            // Consul: the end of a node-level check shows in the list of services too.
            self.raise(Table::Services);
        }
        let key = Key::Check { node: Name::clone(node), id: Name::clone(id) };
        self.changed(Table::Checks, key, Some(Row::Check(old)), None, Some(raised));
        self.end_sessions_of_check(node, id);
    }

    fn raised_on(&self, node: &Name) -> Raised {
        let node_id: Option<NodeId> = self.space.nodes.get(node).and_then(|row| row.id);
        Raised { node_id, ..Raised::default() }
    }

    /// What any change of an instance raises beside its service.
    fn raise_instance(&mut self, node: &Name) -> Raised {
        self.raise(Table::Services);
        self.raise(Table::Nodes);
        self.space.indexes.raise_node(node, self.index);
        self.raised_on(node)
    }

    /// A check's service, or all services of its node.
    fn raise_checked(&mut self, check: &CheckV1, node: &Name, raised: &mut Raised) {
        if check.service_id.is_empty() {
            return self.raise_hosted(node, raised);
        }
        let name = fold(&check.service_name);
        if self.has_instances(&name) {
            self.raise_service(&name, raised);
        }
    }

    /// All services that a node hosts.
    fn raise_hosted(&mut self, node: &Name, raised: &mut Raised) {
        let mut names: Vec<Name> =
            self.space.services.on_node(node).map(|row| fold(&row.name)).collect();
        names.sort_unstable();
        names.dedup();
        // A node may host thousands: they are distinct already, so no search for each.
        names.retain(|name| !raised.services.contains(name));
        names.iter().for_each(|name| self.raise_new_service(name, raised));
    }

    fn raise_service(&mut self, name: &Name, raised: &mut Raised) {
        if !raised.services.contains(name) {
            self.raise_new_service(name, raised);
        }
    }

    fn raise_new_service(&mut self, name: &Name, raised: &mut Raised) {
        self.space.indexes.raise_service(name, self.index);
        raised.services.push(Name::clone(name));
        for target in self.space.services.targets_of(name) {
            if !raised.connects.contains(target) {
                self.space.indexes.raise_connect(target, self.index);
                raised.connects.push(Name::clone(target));
            }
        }
    }

    /// After `old` was replaced or removed: the service that it belonged to.
    fn raise_or_extinguish(&mut self, old: &ServiceV1, raised: &mut Raised) {
        let name = fold(&old.name);
        if self.has_instances(&name) {
            self.raise_service(&name, raised);
        } else {
            self.space.indexes.service_extinct(&name, self.index);
            raised.services.push(name);
        }
        let Some(target) = connect_target(old) else { return };
        // What it served has lost an instance, or keeps it and was raised with its service.
        if self.space.services.serving(&target).next().is_none() {
            self.space.indexes.connect_extinct(&target, self.index);
        } else {
            self.space.indexes.raise_connect(&target, self.index);
        }
        if !raised.connects.contains(&target) {
            raised.connects.push(target);
        }
    }

    fn has_instances(&self, name: &Name) -> bool {
        self.space.services.named(name).next().is_some()
    }
}

//! Health checks: by node and id, by instance, by service, by status.

use std::sync::Arc;

use imbl::OrdMap;
use model::Name;
use model::row::{CheckV1, Status};

use crate::fold::{empty, fold};

/// Rows by node and id, in lower case.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checks {
    rows: OrdMap<(Name, Name), Arc<CheckV1>>,
    /// Node, service id (empty: the node itself), id.
    by_instance: OrdMap<(Name, Name, Name), Arc<CheckV1>>,
    /// Service name, node, id. Node-level checks are not in it.
    by_service: OrdMap<(Name, Name, Name), Arc<CheckV1>>,
    by_status: OrdMap<(Status, Name, Name), Arc<CheckV1>>,
}

impl Checks {
    pub(crate) fn get(&self, node: &Name, id: &Name) -> Option<&Arc<CheckV1>> {
        self.rows.get(&(Name::clone(node), Name::clone(id)))
    }

    /// Checks on a node, those of its instances too, by id.
    pub(crate) fn on_node<'a>(
        &'a self,
        node: &'a Name,
    ) -> impl Iterator<Item = &'a Arc<CheckV1>> + 'a {
        self.rows
            .range((Name::clone(node), empty())..)
            .take_while(move |((at, _), _)| at == node)
            .map(|(_, row)| row)
    }

    /// Checks of an instance, or (empty id) of the node itself, by id.
    pub(crate) fn of_instance<'a>(
        &'a self,
        node: &'a Name,
        service_id: &'a Name,
    ) -> impl Iterator<Item = &'a Arc<CheckV1>> + 'a {
        self.by_instance
            .range((Name::clone(node), Name::clone(service_id), empty())..)
            .take_while(move |((at, of, _), _)| at == node && of == service_id)
            .map(|(_, row)| row)
    }

    /// Checks of all instances of a service, by node and id.
    pub(crate) fn of_service<'a>(
        &'a self,
        name: &'a Name,
    ) -> impl Iterator<Item = &'a Arc<CheckV1>> + 'a {
        self.by_service
            .range((Name::clone(name), empty(), empty())..)
            .take_while(move |((at, _, _), _)| at == name)
            .map(|(_, row)| row)
    }

    /// Checks with a status, by node and id.
    pub(crate) fn with_status(&self, status: Status) -> impl Iterator<Item = &Arc<CheckV1>> {
        self.by_status
            .range((status, empty(), empty())..)
            .take_while(move |((at, _, _), _)| *at == status)
            .map(|(_, row)| row)
    }

    pub(crate) fn put(&mut self, row: Arc<CheckV1>) -> Option<Arc<CheckV1>> {
        let (node, id) = (fold(&row.node), fold(&row.id));
        let before = self.remove(&node, &id);
        let pair = || (Name::clone(&node), Name::clone(&id));
        let (n, i) = pair();
        self.by_instance.insert((n, fold(&row.service_id), i), Arc::clone(&row));
        if !row.service_id.is_empty() {
            let (n, i) = pair();
            self.by_service.insert((fold(&row.service_name), n, i), Arc::clone(&row));
        }
        let (n, i) = pair();
        self.by_status.insert((row.status, n, i), Arc::clone(&row));
        self.rows.insert((node, id), row);
        before
    }

    pub(crate) fn remove(&mut self, node: &Name, id: &Name) -> Option<Arc<CheckV1>> {
        let pair = || (Name::clone(node), Name::clone(id));
        let row = self.rows.remove(&pair())?;
        let (n, i) = pair();
        self.by_instance.remove(&(n, fold(&row.service_id), i));
        if !row.service_id.is_empty() {
            let (n, i) = pair();
            self.by_service.remove(&(fold(&row.service_name), n, i));
        }
        let (n, i) = pair();
        self.by_status.remove(&(row.status, n, i));
        Some(row)
    }

    /// By node and id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&(Name, Name), &Arc<CheckV1>)> {
        self.rows.iter()
    }

    /// All rows, cheaply detached.
    pub(crate) fn rows(&self) -> OrdMap<(Name, Name), Arc<CheckV1>> {
        self.rows.clone()
    }

    pub(crate) fn verify(&self) -> Result<(), String> {
        let mut rebuilt = Self::default();
        for ((node, id), row) in self.iter() {
            if *node != fold(&row.node) || *id != fold(&row.id) {
                return Err(format!("check {}/{} is kept under {node}/{id}", row.node, row.id));
            }
            rebuilt.put(Arc::clone(row));
        }
        if rebuilt.by_instance != self.by_instance
            || rebuilt.by_service != self.by_service
            || rebuilt.by_status != self.by_status
        {
            return Err("indexes of checks do not follow from their rows".into());
        }
        Ok(())
    }
}

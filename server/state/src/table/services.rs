//! Instances of services: by node and id, by name, and by the service they serve in the mesh.

use std::sync::Arc;

use imbl::OrdMap;
use model::Name;
use model::row::ServiceV1;
use serde::Deserialize;

use crate::fold::{empty, fold, fold_str};

/// Name (or target), node, id; all in lower case.
type NamedKey = (Name, Name, Name);

/// Rows by node and id, in lower case.
#[derive(Debug, Clone, Default)]
pub(crate) struct Services {
    rows: OrdMap<(Name, Name), Arc<ServiceV1>>,
    by_name: OrdMap<NamedKey, Arc<ServiceV1>>,
    /// Proxies and native instances by the service that they serve.
    by_target: OrdMap<NamedKey, Arc<ServiceV1>>,
    /// Service name and target: how many instances of the one serve the other.
    targets: OrdMap<(Name, Name), usize>,
}

#[derive(Deserialize)]
struct Destination {
    #[serde(rename = "DestinationServiceName", default)]
    name: String,
}

/// Service that the instance serves in the mesh: what a proxy stands for, or itself if native.
pub(crate) fn connect_target(row: &ServiceV1) -> Option<Name> {
    if &*row.kind == "connect-proxy" {
        let proxy: Destination = serde_json::from_str(row.proxy_json.as_deref()?).ok()?;
        return (!proxy.name.is_empty()).then(|| fold_str(&proxy.name));
    }
    row.connect_native.then(|| fold(&row.name))
}

impl Services {
    pub(crate) fn get(&self, node: &Name, id: &Name) -> Option<&Arc<ServiceV1>> {
        self.rows.get(&(Name::clone(node), Name::clone(id)))
    }

    /// Instances on a node, by id.
    pub(crate) fn on_node<'a>(
        &'a self,
        node: &'a Name,
    ) -> impl Iterator<Item = &'a Arc<ServiceV1>> + 'a {
        self.rows
            .range((Name::clone(node), empty())..)
            .take_while(move |((at, _), _)| at == node)
            .map(|(_, row)| row)
    }

    /// Instances of a service, by node and id.
    pub(crate) fn named<'a>(
        &'a self,
        name: &'a Name,
    ) -> impl Iterator<Item = &'a Arc<ServiceV1>> + 'a {
        under(&self.by_name, name)
    }

    /// Mesh-capable instances for a service, by node and id.
    pub(crate) fn serving<'a>(
        &'a self,
        target: &'a Name,
    ) -> impl Iterator<Item = &'a Arc<ServiceV1>> + 'a {
        under(&self.by_target, target)
    }

    /// Services that instances with this name serve in the mesh.
    pub(crate) fn targets_of<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = &'a Name> + 'a {
        self.targets
            .range((Name::clone(name), empty())..)
            .take_while(move |((at, _), _)| at == name)
            .map(|((_, target), _)| target)
    }

    pub(crate) fn put(&mut self, row: Arc<ServiceV1>) -> Option<Arc<ServiceV1>> {
        let (node, id) = (fold(&row.node), fold(&row.id));
        let before = self.remove(&node, &id);
        let name = fold(&row.name);
        if let Some(target) = connect_target(&row) {
            let key = (Name::clone(&target), Name::clone(&node), Name::clone(&id));
            self.by_target.insert(key, Arc::clone(&row));
            *self.targets.entry((Name::clone(&name), target)).or_insert(0) += 1;
        }
        self.by_name.insert((name, Name::clone(&node), Name::clone(&id)), Arc::clone(&row));
        self.rows.insert((node, id), row);
        before
    }

    pub(crate) fn remove(&mut self, node: &Name, id: &Name) -> Option<Arc<ServiceV1>> {
        let (node, id) = (Name::clone(node), Name::clone(id));
        let row = self.rows.remove(&(Name::clone(&node), Name::clone(&id)))?;
        let name = fold(&row.name);
        if let Some(target) = connect_target(&row) {
            self.by_target.remove(&(Name::clone(&target), Name::clone(&node), Name::clone(&id)));
            let key = (Name::clone(&name), target);
            match self.targets.get_mut(&key) {
                Some(count) if *count > 1 => *count -= 1,
                _ => {
                    self.targets.remove(&key);
                }
            }
        }
        self.by_name.remove(&(name, node, id));
        Some(row)
    }

    /// By node and id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&(Name, Name), &Arc<ServiceV1>)> {
        self.rows.iter()
    }

    /// By name, node and id.
    pub(crate) fn iter_named(&self) -> impl Iterator<Item = &Arc<ServiceV1>> {
        self.by_name.values()
    }

    /// All rows, cheaply detached.
    pub(crate) fn rows(&self) -> OrdMap<(Name, Name), Arc<ServiceV1>> {
        self.rows.clone()
    }

    pub(crate) fn verify(&self) -> Result<(), String> {
        let mut rebuilt = Self::default();
        for ((node, id), row) in self.iter() {
            if *node != fold(&row.node) || *id != fold(&row.id) {
                return Err(format!("service {}/{} is kept under {node}/{id}", row.node, row.id));
            }
            rebuilt.put(Arc::clone(row));
        }
        if rebuilt.by_name != self.by_name
            || rebuilt.by_target != self.by_target
            || rebuilt.targets != self.targets
        {
            return Err("indexes of services do not follow from their rows".into());
        }
        Ok(())
    }
}

fn under<'a>(
    map: &'a OrdMap<NamedKey, Arc<ServiceV1>>,
    name: &'a Name,
) -> impl Iterator<Item = &'a Arc<ServiceV1>> + 'a {
    map.range((Name::clone(name), empty(), empty())..)
        .take_while(move |((at, _, _), _)| at == name)
        .map(|(_, row)| row)
}

//! Reads of nodes and services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::row::{NameMap, ServiceV1};
use model::rpc::{Body, Instance};
use model::{LogIndex, Name};

use super::{Answered, carries, missing_service, node_carries};
use crate::change::Table;
use crate::fold::{fold, same};
use crate::state::Space;

pub(super) fn nodes(space: &Space, meta: &NameMap) -> Answered {
    let rows = space.nodes.iter().map(|(_, row)| row).filter(|row| carries(row, meta));
    let index = space.indexes.table(Table::Nodes);
    Answered::new(index, Body::Nodes(rows.cloned().collect()))
}

pub(super) fn services(space: &Space, meta: &NameMap) -> Answered {
    let mut found: BTreeMap<&Name, BTreeSet<&Name>> = BTreeMap::new();
    for row in space.services.iter_named().filter(|row| node_carries(space, &row.node, meta)) {
        found.entry(&row.name).or_default().extend(&row.tags);
    }
    let found = found
        .into_iter()
        .map(|(name, tags)| (Name::clone(name), tags.into_iter().cloned().collect()))
        .collect();
    let index = match meta.is_empty() {
        true => space.indexes.table(Table::Services),
        false => space.indexes.max(&[Table::Services, Table::Nodes]),
    };
    Answered::new(index, Body::Services(found))
}

pub(super) fn all_instances(space: &Space, meta: &NameMap) -> Answered {
    let rows = space.services.iter().map(|(_, row)| row);
    let found = rows.filter_map(|row| instance(space, row, meta)).collect();
    // The answer carries nodes, which a filter may look at.
    let index = space.indexes.max(&[Table::Services, Table::Nodes]);
    Answered::new(index, Body::Instances(found))
}

pub(super) fn service_nodes(
    space: &Space,
    service: &Name,
    tags: &[Name],
    meta: &NameMap,
    connect: bool,
) -> Answered {
    let tables = [Table::Services, Table::Nodes];
    let (index, found) = find(space, service, tags, meta, connect, &tables);
    Answered::new(index, Body::Instances(found))
}

pub(super) fn node_services(space: &Space, text: &Name) -> Answered {
    let node = space.nodes.get(&fold(text)).or_else(|| space.nodes.by_id_prefix(text));
    let Some(node) = node else {
        return Answered::new(space.indexes.node_extinction, Body::Node(None));
    };
    let key = fold(&node.name);
    let services = space.services.on_node(&key).cloned().collect();
    let index = space.indexes.node(&key).unwrap_or(node.modify_index);
    Answered::new(index, Body::Node(Some((Arc::clone(node), services))))
}

/// Instances of a service, or mesh-capable ones for it, without their checks; and the index of
/// this answer, which is that of the service, however the answer is narrowed.
pub(super) fn find(
    space: &Space,
    service: &Name,
    tags: &[Name],
    meta: &NameMap,
    connect: bool,
    tables: &[Table],
) -> (LogIndex, Vec<Instance>) {
    let rows: Vec<&Arc<ServiceV1>> = match connect {
        false => space.services.named(service).collect(),
        true => space.services.serving(service).collect(),
    };
    let index = match connect {
        false => space.indexes.service(service),
        true => space.indexes.connect(service),
    };
    let found = rows
        .into_iter()
        .filter(|row| tags.iter().all(|tag| row.tags.iter().any(|has| same(has, tag))))
        .filter_map(|row| instance(space, row, meta))
        .collect();
    (index.unwrap_or_else(|| missing_service(space, tables)), found)
}

fn instance(space: &Space, row: &Arc<ServiceV1>, meta: &NameMap) -> Option<Instance> {
    let node = space.nodes.get(&fold(&row.node)).filter(|node| carries(node, meta))?;
    Some(Instance { node: Arc::clone(node), service: Arc::clone(row), checks: Vec::new() })
}

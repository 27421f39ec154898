//! Reads of checks, and of instances with theirs.

use std::sync::Arc;

use model::Name;
use model::row::{CheckV1, NameMap};
use model::rpc::{Body, CheckStateFilter};

use super::{Answered, catalog, missing_service, node_carries};
use crate::change::Table;
use crate::fold::{empty, fold};
use crate::state::Space;

const ALL: [Table; 3] = [Table::Services, Table::Nodes, Table::Checks];

pub(super) fn service(
    space: &Space,
    service: &Name,
    tags: &[Name],
    meta: &NameMap,
    connect: bool,
) -> Answered {
    let (index, mut found) = catalog::find(space, service, tags, meta, connect, &ALL);
    let of_node = empty();
    for instance in &mut found {
        let node = fold(&instance.node.name);
        let id = fold(&instance.service.id);
        // The node's own checks first, then the instance's; never those of its neighbours.
        instance.checks = space.checks.of_instance(&node, &of_node).cloned().collect();
        instance.checks.extend(space.checks.of_instance(&node, &id).cloned());
    }
    Answered::new(index, Body::Instances(found))
}

pub(super) fn node(space: &Space, node: &Name) -> Answered {
    answer(space, space.checks.on_node(node), &NameMap::new())
}

pub(super) fn checks(space: &Space, service: &Name, meta: &NameMap) -> Answered {
    let answered = answer(space, space.checks.of_service(service), meta);
    if meta.is_empty() {
        return answered;
    }
    let index = space.indexes.service(service);
    Answered::new(index.unwrap_or_else(|| missing_service(space, &ALL)), answered.body)
}

pub(super) fn state(space: &Space, state: Option<CheckStateFilter>, meta: &NameMap) -> Answered {
    let answered = match state {
        None => answer(space, space.checks.iter().map(|(_, row)| row), meta),
        Some(CheckStateFilter::Only(status)) => {
            answer(space, space.checks.with_status(status), meta)
        }
        Some(CheckStateFilter::Nothing) => answer(space, std::iter::empty(), meta),
    };
    if meta.is_empty() {
        return answered;
    }
    Answered::new(space.indexes.max(&[Table::Checks, Table::Nodes]), answered.body)
}

fn answer<'a>(
    space: &Space,
    rows: impl Iterator<Item = &'a Arc<CheckV1>>,
    meta: &NameMap,
) -> Answered {
    let rows = rows.filter(|row| node_carries(space, &row.node, meta)).cloned().collect();
    Answered::new(space.indexes.table(Table::Checks), Body::Checks(rows))
}

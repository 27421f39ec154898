//! Reads of sessions. Their index is that of the whole table.

use model::rpc::Body;
use model::{Name, SessionId};

use super::Answered;
use crate::change::Table;
use crate::state::Space;

pub(super) fn get(space: &Space, id: &str) -> Answered {
    // A text that is no UUID names no session; Consul does not complain about it.
    let row = id.parse::<SessionId>().ok().and_then(|id| space.sessions.get(id).cloned());
    let missing = row.is_none();
    Answered { missing, ..answer(space, row.into_iter().collect()) }
}

pub(super) fn list(space: &Space) -> Answered {
    answer(space, space.sessions.iter().cloned().collect())
}

pub(super) fn of_node(space: &Space, node: &Name) -> Answered {
    answer(space, space.sessions.on_node(node).cloned().collect())
}

fn answer(space: &Space, rows: Vec<std::sync::Arc<model::row::SessionV1>>) -> Answered {
    Answered::new(space.indexes.table(Table::Sessions), Body::Sessions(rows))
}

//! What concerns the cluster as a whole and no namespace. Nobody waits for its changes.

use std::sync::Arc;

use model::LogIndex;
use model::command::{AutopilotCommandV1, Outcome};
use model::row::AutopilotV1;
use model::wire::{self, Kind};

use crate::change::Changes;
use crate::hash::RunningHash;
use crate::state::State;

/// A version that was reached stays: commands that need it may stand in the log already.
pub(super) fn raise(state: &mut State, version: u32) -> (Outcome, Changes) {
    state.version = state.version().max(version);
    (Outcome::Done, Vec::new())
}

pub(super) fn autopilot(
    state: &mut State,
    index: LogIndex,
    command: &AutopilotCommandV1,
) -> (Outcome, Changes) {
    let before = state.autopilot.as_deref();
    let (row, holds) = match command {
        AutopilotCommandV1::Set(row) => (row, true),
        // Also with index 0: there is nothing to replace then.
        AutopilotCommandV1::Cas(row, wanted) => {
            (row, before.is_some_and(|before| before.modify_index == *wanted))
        }
        AutopilotCommandV1::Seed(row) => (row, before.is_none()),
    };
    if holds {
        let create_index = before.map_or(index, |before| before.create_index);
        let row = AutopilotV1 { create_index, modify_index: index, ..row.clone() };
        state.autopilot = Some(Arc::new(row));
    }
    (Outcome::Bool(holds), Vec::new())
}

/// Both, as they are now.
pub(super) fn hash(state: &State, hash: &mut RunningHash) {
    hash.number(state.version.into());
    if let Some(row) = &state.autopilot {
        hash.bytes(&wire::encode(Kind::SnapshotBlock, &**row));
    }
}

//! Log entries to outcomes and changes.
//!
//! Invariant: pure. The result depends on the state and the entries alone. A rejected command
//! changes no table and no index: every command checks all it needs before its first write.

mod catalog;
mod cluster;
mod kv;
mod register;
mod session;
mod txn;

use std::sync::Arc;

use model::command::{Command, EnvelopeV1, Outcome, Rejection};
use model::{LogIndex, Name};

use crate::change::{Change, Changes, Key, Raised, Row, Table};
use crate::hash::RunningHash;
use crate::intern::Interner;
use crate::retries::Verdict;
use crate::state::{Space, State};

/// Applies entries in order: one entry, one index. Each yields its outcome and what it changed.
///
/// # Panics
/// If an index is not above the one before: the log's driver is broken, and going on would spread
/// the damage.
pub fn apply(state: &mut State, batch: &[(LogIndex, EnvelopeV1)]) -> Vec<(Outcome, Changes)> {
    batch.iter().map(|(index, envelope)| apply_one(state, *index, envelope)).collect()
}

fn apply_one(state: &mut State, index: LogIndex, envelope: &EnvelopeV1) -> (Outcome, Changes) {
    assert!(
        index > state.applied,
        "log entry {index} was given after {} had been applied",
        state.applied
    );
    state.applied = index;
    // Cluster time never goes back, whatever a leader stamps.
    state.cluster_time_ms = state.cluster_time_ms.max(envelope.cluster_time_ms);
    state.retries.expire(state.cluster_time_ms);
    let expired = state.expire_stage();

    let verdict = match &envelope.retry {
        None => Verdict::Apply,
        Some(retry) => state.retries.admit(retry, state.cluster_time_ms),
    };
    let (outcome, changes) = match verdict {
        Verdict::Answer(outcome) => (outcome, Vec::new()),
        Verdict::Apply => {
            let done = run(state, index, envelope);
            if let Some(retry) = &envelope.retry {
                state.retries.record(retry, done.0.clone());
            }
            done
        }
    };

    let mut hash = RunningHash::new(state.hash);
    hash.number(index.0);
    hash.number(state.cluster_time_ms);
    hash.outcome(&outcome);
    if let Some(id) = expired {
        hash.bytes(&id.0);
    }
    for change in &changes {
        hash.change(&change.namespace, change);
    }
    match &envelope.command {
        Command::StateVersionV1(_) | Command::AutopilotV1(_) => cluster::hash(state, &mut hash),
        Command::RestoreChunkV1(chunk) => hash.bytes(&chunk.bytes),
        Command::RestoreCommitV1(commit) => hash.bytes(&commit.sha256),
        Command::RestoreAbortV1(id) => hash.bytes(&id.0),
        _ => {}
    }
    state.hash = hash.value();
    (outcome, changes)
}

fn run(state: &mut State, index: LogIndex, envelope: &EnvelopeV1) -> (Outcome, Changes) {
    match &envelope.command {
        Command::TickV1 => return (Outcome::Done, Vec::new()),
        // Reaping raises no index and wakes nobody: the leader's clock drives it for all.
        Command::TombstoneReapV1(up_to) => {
            let names: Vec<Name> = state.spaces.keys().cloned().collect();
            for name in names {
                if let Some(space) = state.spaces.get_mut(&name) {
                    Arc::make_mut(space).tombstones.reap(*up_to);
                }
            }
            return (Outcome::Done, Vec::new());
        }
        Command::StateVersionV1(version) => return cluster::raise(state, *version),
        Command::AutopilotV1(command) => return cluster::autopilot(state, index, command),
        Command::RestoreChunkV1(chunk) => return silent(state.stage_piece(chunk)),
        // Its changes are everything: who waits is woken by the new epoch.
        Command::RestoreCommitV1(commit) => return silent(state.restore(commit, index)),
        Command::RestoreAbortV1(id) => {
            state.abort_restore(*id);
            return (Outcome::Done, Vec::new());
        }
        _ => {}
    }
    let now_ms = state.cluster_time_ms;
    let mut namespace = Name::clone(&envelope.namespace);
    if let Some((known, space)) = state.spaces.get_key_value_mut(&envelope.namespace) {
        let namespace = Name::clone(known);
        let space = Arc::make_mut(space);
        let work = Work { space, names: &state.names, namespace, index, now_ms, changes: vec![] };
        return work.command(&envelope.command);
    }
    let mut space = Space::default();
    state.names.name(&mut namespace);
    let work = Work {
        space: &mut space,
        names: &state.names,
        namespace: Name::clone(&namespace),
        index,
        now_ms,
        changes: vec![],
    };
    let done = work.command(&envelope.command);
    if space.touched() {
        state.spaces.insert(namespace, Arc::new(space));
    }
    done
}

fn silent(done: Result<(), Rejection>) -> (Outcome, Changes) {
    (done.map_or_else(Outcome::Rejected, |()| Outcome::Done), Vec::new())
}

/// One entry at work on one namespace.
struct Work<'a> {
    space: &'a mut Space,
    names: &'a Interner,
    namespace: Name,
    index: LogIndex,
    now_ms: u64,
    changes: Changes,
}

impl Work<'_> {
    fn command(mut self, command: &Command) -> (Outcome, Changes) {
        self.space.lock_delays.expire(self.now_ms);
        let outcome = match command {
            Command::RegisterV1(register) => self.register(register),
            Command::DeregisterV1(deregister) => self.deregister(deregister),
            Command::KvV1(command) => self.kv(command),
            Command::SessionCreateV1(session) => self.session_create(session),
            Command::SessionDestroyV1(id) => {
                self.end_session(*id);
                Ok(Outcome::Done)
            }
            Command::TxnV1(ops) => Ok(self.transaction(ops)),
            Command::TombstoneReapV1(_)
            | Command::TickV1
            | Command::StateVersionV1(_)
            | Command::AutopilotV1(_)
            | Command::RestoreChunkV1(_)
            | Command::RestoreCommitV1(_)
            | Command::RestoreAbortV1(_) => Ok(Outcome::Done),
        };
        (outcome.unwrap_or_else(Outcome::Rejected), self.changes)
    }

    fn raise(&mut self, table: Table) {
        self.space.indexes.raise(table, self.index);
    }

    fn changed(
        &mut self,
        table: Table,
        key: Key,
        before: Option<Row>,
        after: Option<Row>,
        raised: Option<Raised>,
    ) {
        self.changes.push(Change {
            namespace: Name::clone(&self.namespace),
            index: self.index,
            table,
            key,
            before,
            after,
            raised: raised.map(Box::new),
        });
    }
}

//! The driver of the state machine: applies what is committed, publishes, wakes, answers. In this
//! order: publish first, then wake, so that whoever wakes sees what woke it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use futures_util::{FutureExt as _, Stream, TryStreamExt as _};
use model::LogIndex;
use model::command::{Command, EnvelopeV1, Outcome};
use model::wire::{self, Kind};
use openraft::storage::{
    ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot,
};
use openraft::{EntryPayload, OptionalSend};
use state::{ChangeRing, Changes, Registry, State};
use tokio::sync::watch;

use super::checkpoint::{self, Checkpoint, Checkpoints};
use super::log::Stepping;
use super::mirror::ENTRY_BYTES_MAX;
use super::snapshot::{Shelf, SnapshotError, Stored};
use super::types::{LogId, Membership, SnapshotMeta, StoredMembership, TypeConfig};

/// Entries applied between two publications.
const BATCH_ENTRIES: usize = 1_024;

/// What the rest of the server reads.
pub(crate) struct Published {
    state: ArcSwap<State>,
    registry: Arc<Registry>,
    applied: watch::Sender<Option<LogId>>,
    epoch: watch::Sender<u64>,
    /// Fed before `applied` is announced: who waited for an index finds its changes here.
    ring: Mutex<ChangeRing>,
    checkpoints: Mutex<Checkpoints>,
}

impl Published {
    /// The newest state.
    pub(crate) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Who waits for changes.
    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The last entry that was applied.
    pub(crate) fn applied(&self) -> Option<LogId> {
        *self.applied.borrow()
    }

    /// Sees each restore.
    pub(crate) fn watch_epoch(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    /// The recent changes. Held for lines: apply waits for it.
    pub(crate) fn ring(&self) -> MutexGuard<'_, ChangeRing> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hashes of the state at the latest checkpoints, oldest first.
    pub(crate) fn checkpoints(&self) -> Vec<Checkpoint> {
        self.lock_checkpoints().list()
    }

    /// The hash at the checkpoint of this index, if there is one.
    pub(crate) fn checkpoint_at(&self, index: u64) -> Option<u64> {
        self.lock_checkpoints().at(index)
    }

    fn lock_checkpoints(&self) -> MutexGuard<'_, Checkpoints> {
        self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees each batch that is applied.
    pub(crate) fn watch_applied(&self) -> watch::Receiver<Option<LogId>> {
        self.applied.subscribe()
    }
}

/// The state machine, as openraft drives it.
pub(crate) struct Machine {
    state: State,
    applied: Option<LogId>,
    membership: StoredMembership,
    published: Arc<Published>,
    shelf: Shelf,
    stepping: Stepping,
    /// The state before the last batch.
    #[cfg(feature = "planted")]
    before: State,
}

impl Machine {
    /// From the newest snapshot, or empty.
    pub(crate) fn new(
        shelf: Shelf,
        loaded: Option<(SnapshotMeta, State)>,
        stepping: Stepping,
    ) -> (Self, Arc<Published>) {
        let (meta, state) = loaded.unwrap_or_default();
        let published = Arc::new(Published {
            state: ArcSwap::from_pointee(state.clone()),
            registry: Arc::default(),
            applied: watch::channel(meta.last_log_id).0,
            epoch: watch::channel(state.epoch()).0,
            ring: Mutex::new(ChangeRing::new(index_of(meta.last_log_id))),
            checkpoints: Mutex::default(),
        });
        let machine = Self {
            #[cfg(feature = "planted")]
            before: state.clone(),
            state,
            applied: meta.last_log_id,
            membership: meta.last_membership,
            published: Arc::clone(&published),
            shelf,
            stepping,
        };
        machine.note_checkpoint();
        (machine, published)
    }

    /// The last entry applied, and the configuration as of it.
    pub(super) fn reached(&self) -> (Option<LogId>, &StoredMembership) {
        (self.applied, &self.membership)
    }

    /// From now on these servers are the cluster, as if the last entry had said so.
    pub(super) fn replace_membership(&mut self, membership: Membership) {
        self.membership = StoredMembership::new(self.applied, membership);
    }

    /// The state as it is now can be compared with others': where a snapshot is taken, loaded or
    /// installed.
    fn note_checkpoint(&self) {
        if let Some(applied) = self.applied {
            self.published.lock_checkpoints().note(applied.index, self.state.hash());
        }
    }

    /// Applies, stopping where a checkpoint is due. All replicas stop at the same places, however
    /// their log is cut into batches.
    fn apply_commands(
        &mut self,
        commands: &[(LogIndex, EnvelopeV1)],
        last: u64,
    ) -> Vec<(Outcome, Changes)> {
        let before = self.applied.map_or(0, |id| id.index);
        let (mut results, mut rest) = (Vec::with_capacity(commands.len()), commands);
        for index in checkpoint::due(before, last) {
            let (upto, behind) = rest.split_at(rest.partition_point(|(at, _)| at.0 <= index));
            results.extend(state::apply(&mut self.state, upto));
            self.published.lock_checkpoints().note(index, self.state.hash());
            rest = behind;
        }
        results.extend(state::apply(&mut self.state, rest));
        results
    }

    /// Makes the state another one than the log says, as a defect or a bad memory cell would.
    #[cfg(test)]
    pub(crate) fn lead_astray(&mut self) {
        let command = model::command::Command::TickV1;
        let stray = EnvelopeV1 {
            namespace: "default".into(),
            retry: None,
            actor: "".into(),
            reason: "".into(),
            cluster_time_ms: 0,
            wall_ms: 0,
            command,
        };
        self.state = State::default();
        state::apply(&mut self.state, &[(index_of(self.applied), stray)]);
    }

    fn apply_batch(&mut self, batch: Vec<EntryResponder<TypeConfig>>) {
        let Some((last, _)) = batch.last() else { return };
        let last = last.log_id;
        let mut commands = Vec::with_capacity(batch.len());
        let mut waiting: Vec<(LogIndex, bool, Option<ApplyResponder<TypeConfig>>)> =
            Vec::with_capacity(batch.len());
        for (entry, responder) in batch {
            let index = LogIndex(entry.log_id.index);
            let is_command = matches!(entry.payload, EntryPayload::Normal(_));
            match &entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(payload) => commands.push((index, decode(index, &payload.0))),
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                }
            }
            waiting.push((index, is_command, responder));
        }
        let (epoch, mut time_ms) = (self.state.epoch(), self.state.cluster_time_ms());
        #[cfg(feature = "planted")]
        self.before.clone_from(&self.state);
        let results = self.run(&commands, last.index);
        assert_eq!(results.len(), commands.len(), "one outcome for each command");
        self.applied = Some(last);
        if !commands.is_empty() {
            self.published.state.store(Arc::new(self.state.clone()));
        }
        let mut outcomes = Vec::with_capacity(results.len());
        for (_, changes) in &results {
            self.published.registry.wake(changes);
        }
        let mut ring = self.published.ring();
        for ((outcome, changes), (index, envelope)) in results.into_iter().zip(&commands) {
            time_ms = time_ms.max(envelope.cluster_time_ms);
            ring.push(*index, time_ms, changes);
            outcomes.push(outcome);
        }
        // A restore replaces tables without saying row by row what it changed.
        if self.state.epoch() != epoch {
            ring.reset(index_of(Some(last)));
        }
        drop(ring);
        let told = self.state.epoch() != epoch;
        #[cfg(feature = "planted")]
        let told = told && !crate::planted::is(crate::planted::Bug::RestoreWithoutEpoch);
        if told {
            self.published.registry.wake_all();
            self.published.epoch.send_replace(self.state.epoch());
        }
        self.published.applied.send_replace(self.applied);
        let mut outcomes = outcomes.into_iter();
        for (index, is_command, responder) in waiting {
            let outcome = if is_command { outcomes.next() } else { None };
            if let Some(responder) = responder {
                responder.send((index, outcome.unwrap_or(Outcome::Done)));
            }
        }
    }
}

impl Machine {
    fn run(&mut self, commands: &[(LogIndex, EnvelopeV1)], last: u64) -> Vec<(Outcome, Changes)> {
        use tokio::runtime::{Handle, RuntimeFlavor};
        let heavy = |command: &Command| matches!(command, Command::RestoreCommitV1(_));
        // A restore puts a whole state together: heartbeats must not wait for it.
        let may_block = self.stepping == Stepping::Threads
            && Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
        let is_heavy = commands.iter().any(|(_, envelope)| heavy(&envelope.command));
        let mut apply =
            || rt::fatal_on_panic("state machine", || self.apply_commands(commands, last));
        if may_block && is_heavy { tokio::task::block_in_place(apply) } else { apply() }
    }
}

fn index_of(id: Option<LogId>) -> LogIndex {
    LogIndex(id.map_or(0, |id| id.index))
}

/// A committed entry that does not decode was proposed by a newer release, or by nobody we know:
/// going on would make this replica differ from the others.
fn decode(index: LogIndex, bytes: &[u8]) -> EnvelopeV1 {
    match wire::decode(Kind::Envelope, bytes, ENTRY_BYTES_MAX) {
        #[cfg(feature = "planted")]
        Ok(envelope) if crate::planted::is(crate::planted::Bug::AppliedTwice) => {
            EnvelopeV1 { retry: None, ..envelope }
        }
        Ok(envelope) => envelope,
        Err(cause) => rt::fatal(
            &format!("log entry {index} holds a command that this release cannot read: {cause}"),
            "state machine",
            "start the release that the other servers run",
        ),
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Stored;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(first) = entries.try_next().await? {
            let mut batch = vec![first];
            while batch.len() < BATCH_ENTRIES
                && let Some(next) = entries.try_next().now_or_never()
            {
                match next? {
                    Some(next) => batch.push(next),
                    None => break,
                }
            }
            self.apply_batch(batch);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.note_checkpoint();
        Builder {
            meta: SnapshotMeta {
                last_log_id: self.applied,
                last_membership: self.membership.clone(),
            },
            #[cfg(feature = "planted")]
            state: if crate::planted::is(crate::planted::Bug::SnapshotWithoutLast) {
                self.before.clone()
            } else {
                self.state.clone()
            },
            #[cfg(not(feature = "planted"))]
            state: self.state.clone(),
            shelf: self.shelf.clone(),
            stepping: self.stepping,
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, stored: Stored) -> io::Result<()> {
        let shelf = self.shelf.clone();
        let state = off_runtime(self.stepping, "raft-install", move || shelf.install(stored))
            .await?
            .map_err(io::Error::other)?;
        self.state = state;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.published.lock_checkpoints().clear();
        self.note_checkpoint();
        self.published.ring().reset(index_of(self.applied));
        self.published.state.store(Arc::new(self.state.clone()));
        self.published.registry.wake_all();
        self.published.epoch.send_replace(self.state.epoch());
        self.published.applied.send_replace(self.applied);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<openraft::alias::SnapshotOf<TypeConfig, Stored>>> {
        let current = self.shelf.current();
        Ok(current.map(|stored| Snapshot { meta: stored.meta.clone(), snapshot: stored }))
    }
}

/// Writes a snapshot of the state as it was when it was asked for.
pub(crate) struct Builder {
    meta: SnapshotMeta,
    state: State,
    shelf: Shelf,
    stepping: Stepping,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Stored;

    async fn build_snapshot(
        &mut self,
    ) -> io::Result<openraft::alias::SnapshotOf<TypeConfig, Stored>> {
        let (shelf, meta, state) = (self.shelf.clone(), self.meta.clone(), self.state.clone());
        let dumped: Result<Stored, SnapshotError> =
            off_runtime(self.stepping, "raft-snapshot", move || shelf.dump(meta, &state)).await?;
        let stored = dumped.map_err(io::Error::other)?;
        Ok(Snapshot { meta: stored.meta.clone(), snapshot: stored })
    }
}

/// Runs work that takes a core's time on a thread of its own; inline in a simulation.
pub(crate) async fn off_runtime<T: Send + 'static>(
    stepping: Stepping,
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    if stepping == Stepping::Inline {
        return Ok(work());
    }
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        rt::fatal_on_panic(name, move || {
            let _ = done.send(work());
        });
    })?;
    result.await.map_err(io::Error::other)
}

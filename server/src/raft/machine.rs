//! The driver of the state machine: applies what is committed, publishes, wakes, answers. In this
//! order: publish first, then wake, so that whoever wakes sees what woke it.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::{FutureExt as _, Stream, TryStreamExt as _};
use model::LogIndex;
use model::command::{EnvelopeV1, Outcome};
use model::wire::{self, Kind};
use openraft::storage::{
    ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot,
};
use openraft::{EntryPayload, OptionalSend};
use state::{Registry, State};
use tokio::sync::watch;

use super::log::Stepping;
use super::mirror::ENTRY_BYTES_MAX;
use super::snapshot::{Shelf, SnapshotError, Stored};
use super::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig};

/// Entries applied between two publications.
const BATCH_ENTRIES: usize = 1_024;

/// What the rest of the server reads.
pub(crate) struct Published {
    state: ArcSwap<State>,
    registry: Arc<Registry>,
    applied: watch::Sender<Option<LogId>>,
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
        (machine, published)
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
        #[cfg(feature = "planted")]
        self.before.clone_from(&self.state);
        let results =
            rt::fatal_on_panic("state machine", || state::apply(&mut self.state, &commands));
        assert_eq!(results.len(), commands.len(), "one outcome for each command");
        self.applied = Some(last);
        if !commands.is_empty() {
            self.published.state.store(Arc::new(self.state.clone()));
        }
        let mut outcomes = Vec::with_capacity(results.len());
        for (outcome, changes) in results {
            self.published.registry.wake(&changes);
            outcomes.push(outcome);
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
        self.published.state.store(Arc::new(self.state.clone()));
        self.published.registry.wake_all();
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

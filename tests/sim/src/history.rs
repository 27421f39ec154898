//! What clients were told, and whether it can be true.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use model::LogIndex;
use model::command::RetryV1;
use model::row::KvV1;

use crate::client::{LOCKS, REGISTERS, lock_key, register_key};
use crate::invariants::Invariants;
use crate::invariants::restores::Tables;
use crate::linear::{Event, Object, Verdict, check};
use crate::objects::{Lock, LockOp, Register, RegisterOp};

/// An event and, for a write, its stamp.
type Stamped<T> = (Event<T>, Option<RetryV1>);

/// All of it.
#[derive(Default)]
pub(crate) struct History {
    registers: BTreeMap<Bytes, Vec<Stamped<RegisterOp>>>,
    locks: BTreeMap<Bytes, Vec<Stamped<LockOp>>>,
    /// Writes that were acknowledged.
    acknowledged: Vec<RetryV1>,
    /// Stale reads: server, its start, key, and the index seen last.
    stale: BTreeMap<(u8, u64, Bytes), LogIndex>,
    /// Rows that stale reads found, to be judged when all is known.
    rows: Vec<(u8, Bytes, KvV1)>,
    /// Versions that each watcher saw.
    watched: BTreeMap<(usize, Bytes), Vec<Option<u64>>>,
    /// Highest index of each key that a default or consistent read gave.
    reported: BTreeMap<Bytes, LogIndex>,
    /// Archives that were saved as a default read: between which events, and as of which index.
    saves: Vec<(u64, u64, LogIndex)>,
    restores: Vec<Restore>,
    pub(crate) counts: Counts,
}

/// An archive that was to be restored.
#[derive(Debug, Clone)]
pub(crate) struct Restore {
    pub(crate) called: u64,
    pub(crate) end: RestoreEnd,
    /// Index that it was saved at.
    pub(crate) archive: LogIndex,
}

/// What its client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestoreEnd {
    /// That it happened in this entry.
    Done { returned: u64, index: LogIndex },
    /// That it did not.
    Refused,
    /// Nothing.
    Lost,
}

/// How much was asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Writes whose outcome was lost.
    pub unknown: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Requests that failed for sure.
    pub refused: u64,
    /// Archives that were saved.
    pub archives: u64,
    /// Restores that were acknowledged.
    pub restores: u64,
}

/// The number in a value of ours.
pub(crate) fn parse(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

impl History {
    pub(crate) fn register(&mut self, key: &Bytes, event: Event<RegisterOp>, by: Option<RetryV1>) {
        self.registers.entry(key.clone()).or_default().push((event, by));
    }

    pub(crate) fn lock(&mut self, key: &Bytes, event: Event<LockOp>, by: Option<RetryV1>) {
        self.locks.entry(key.clone()).or_default().push((event, by));
    }

    pub(crate) fn acknowledge(&mut self, stamp: Option<RetryV1>) {
        self.counts.acknowledged += 1;
        self.acknowledged.extend(stamp);
    }

    /// A stale read of a server: its index must not go back while the server runs.
    pub(crate) fn stale(
        &mut self,
        server: u8,
        start: u64,
        key: &Bytes,
        index: LogIndex,
        row: Option<&KvV1>,
    ) -> Result<(), String> {
        let before = self.stale.entry((server, start, key.clone())).or_default();
        if index < *before {
            return Err(format!(
                "stale reads of {key:?} went back on server {server}: from {before} to {index}"
            ));
        }
        *before = index;
        if let Some(row) = row {
            self.rows.push((server, key.clone(), row.clone()));
        }
        Ok(())
    }

    /// Highest index that was given of a key.
    pub(crate) fn reported(&self, key: &Bytes) -> LogIndex {
        self.reported.get(key).copied().unwrap_or(LogIndex::ZERO)
    }

    /// A default or consistent read gave an index; `floor` is what [`Self::reported`] said when it
    /// was asked.
    pub(crate) fn report(
        &mut self,
        key: &Bytes,
        floor: LogIndex,
        index: LogIndex,
    ) -> Result<(), String> {
        if index < floor {
            return Err(format!("the index of {key:?} went back: from {floor} to {index}"));
        }
        let reported = self.reported.entry(key.clone()).or_default();
        *reported = index.max(*reported);
        Ok(())
    }

    pub(crate) fn save(&mut self, called: u64, returned: u64, index: LogIndex) {
        self.saves.push((called, returned, index));
    }

    pub(crate) fn restore(&mut self, restore: Restore) {
        if matches!(restore.end, RestoreEnd::Done { .. }) {
            self.counts.restores += 1;
        }
        self.restores.push(restore);
    }

    pub(crate) fn watch(&mut self, watcher: usize, key: &Bytes, version: Option<u64>) {
        self.watched.entry((watcher, key.clone())).or_default().push(version);
    }

    /// Whether each watcher of this key saw this version.
    pub(crate) fn all_saw(&self, key: &Bytes, version: u64) -> bool {
        let mut watchers = self.watched.iter().filter(|((_, watched), _)| watched == key);
        watchers.all(|(_, seen)| seen.contains(&Some(version)))
    }

    /// Judges all of it, once the run is over.
    pub(crate) fn judge(&self, invariants: &Invariants) -> Result<(), String> {
        for stamp in &self.acknowledged {
            if !invariants.ledger.holds(stamp) {
                return Err(format!("an acknowledged write is in no log: {stamp:?}"));
            }
        }
        for (server, key, row) in &self.rows {
            let known = invariants.reference.version(key, row.modify_index);
            if known.is_none_or(|known| **known != *row) {
                return Err(format!(
                    "server {server} gave a stale read of {key:?} that was never committed: {row:?}"
                ));
            }
        }
        let (mut registers, mut locks) = (self.registers.clone(), self.locks.clone());
        self.with_archives(&mut registers, &mut locks, invariants)?;
        for (key, events) in &registers {
            judge(&Register::default(), key, events, invariants)?;
        }
        for (key, events) in &locks {
            judge(&Lock::default(), key, events, invariants)?;
        }
        Ok(())
    }

    /// A save is a read of all objects, a restore a write of all of them. What they read and write
    /// is what the log says of the index that the archive is of.
    fn with_archives(
        &self,
        registers: &mut BTreeMap<Bytes, Vec<Stamped<RegisterOp>>>,
        locks: &mut BTreeMap<Bytes, Vec<Stamped<LockOp>>>,
        invariants: &Invariants,
    ) -> Result<(), String> {
        let tables = |index: LogIndex| {
            let tables = invariants.restores.tables(index);
            tables.ok_or_else(|| format!("an archive is of index {index}, which no server applied"))
        };
        let mut add = |called, returned, index: LogIndex, restores: bool| {
            let tables = tables(index)?;
            for key in (0..REGISTERS).map(register_key) {
                let found = tables.value(&key).and_then(|row| parse(&row.value));
                let op =
                    if restores { RegisterOp::Restore(found) } else { RegisterOp::Get { found } };
                let event = Event { called, returned, op };
                registers.entry(key).or_default().push((event, None));
            }
            for key in (0..LOCKS).map(lock_key) {
                let holder = tables.value(&key).and_then(|row| row.session);
                let op = match restores {
                    true => LockOp::Restore { holder, live: live(tables) },
                    false => LockOp::Look { holder },
                };
                locks.entry(key).or_default().push((Event { called, returned, op }, None));
            }
            Ok::<(), String>(())
        };
        for (called, returned, index) in &self.saves {
            add(*called, Some(*returned), *index, false)?;
        }
        let mut happened = invariants.restores.happened().clone();
        for restore in &self.restores {
            let RestoreEnd::Done { returned, index } = restore.end else { continue };
            if happened.remove(&index) != Some(restore.archive) {
                return Err(format!("an acknowledged restore is in no log: {restore:?}"));
            }
            add(restore.called, Some(returned), restore.archive, true)?;
        }
        for (index, archive) in happened {
            let lost =
                |restore: &&Restore| restore.archive == archive && restore.end == RestoreEnd::Lost;
            let Some(restore) = self.restores.iter().find(lost) else {
                return Err(format!(
                    "entry {index} restored the archive of index {archive}, which nobody asked for \
                     or was refused"
                ));
            };
            add(restore.called, None, archive, true)?;
        }
        Ok(())
    }
}

/// Sessions that hold locks have no TTL: the others do not matter.
fn live(tables: &Tables) -> BTreeSet<model::SessionId> {
    let lasting = tables.sessions.iter().filter(|session| session.ttl_ms == 0);
    lasting.map(|session| session.id).collect()
}

/// Whether one object's history is linearizable. A lost write that no server ever committed did not
/// happen.
fn judge<O: Object>(
    start: &O,
    key: &Bytes,
    events: &[Stamped<O::Op>],
    invariants: &Invariants,
) -> Result<(), String>
where
    O::Op: Clone,
{
    let happened = |(event, stamp): &&Stamped<O::Op>| {
        event.returned.is_some() || stamp.is_none_or(|stamp| invariants.ledger.holds(&stamp))
    };
    let mut history: Vec<Event<O::Op>> =
        events.iter().filter(happened).map(|(event, _)| event.clone()).collect();
    history.sort_by_key(|event| event.called);
    match check(start, &history) {
        Verdict::Linearizable => Ok(()),
        Verdict::Broken(border) => Err(format!("{key:?} is not linearizable: {border}")),
        Verdict::Undecided => {
            Err(format!("{key:?}: {} operations were too many to judge", history.len()))
        }
    }
}

//! What clients were told, and whether it can be true.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::LogIndex;
use model::command::RetryV1;
use model::row::KvV1;

use crate::invariants::Invariants;
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
    pub(crate) counts: Counts,
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
        for (key, events) in &self.registers {
            judge(&Register::default(), key, events, invariants)?;
        }
        for (key, events) in &self.locks {
            judge(&Lock::default(), key, events, invariants)?;
        }
        Ok(())
    }
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

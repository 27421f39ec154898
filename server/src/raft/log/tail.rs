//! The log as memory knows it: its bounds, and the newest entries themselves.

use std::collections::VecDeque;
use std::ops::Range;

use openraft::storage::LogState;

use super::sizes::Sizes;
use crate::raft::types::{Entry, LogId, TypeConfig, Vote, entry_bytes};

/// Bytes of entries that are kept in memory once they are on disk: what replication reads.
const TAIL_BYTES_MAX: usize = 32 << 20;

/// What rides on the next job of the writer, without a commit of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Riders {
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
}

/// Invariant: every index from the first up to `start` is on disk with its final content; every
/// index from `start` to the last is in `entries`. A truncation moves `start` back with it, so the
/// disk is never asked for an index whose record is still to be replaced.
#[derive(Debug, Default)]
pub(super) struct Tail {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    start: u64,
    entries: VecDeque<Held>,
    bytes: usize,
    /// Counts appends; an entry may leave memory once its append is committed.
    tickets: u64,
    tickets_done: u64,
    /// Counts truncations and purges: a read of the disk is void if one came between.
    cuts: u64,
    riders: Riders,
    sizes: Sizes,
}

#[derive(Debug)]
struct Held {
    entry: Entry,
    bytes: usize,
    ticket: u64,
}

/// How to answer a read.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    /// Indexes to read from disk first; may be empty.
    pub(super) disk: Range<u64>,
    /// Value of [`Tail::cuts`] for which the plan holds.
    pub(super) cuts: u64,
    /// What follows, from memory.
    pub(super) memory: Vec<Entry>,
}

/// What the disk said at open.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    pub(super) sizes: Sizes,
}

fn next(id: Option<&LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

impl Tail {
    pub(super) fn new(found: Found) -> Self {
        let start = next(found.last.as_ref()).max(next(found.purged.as_ref()));
        Self {
            vote: found.vote,
            committed: found.committed,
            purged: found.purged,
            last: found.last.max(found.purged),
            start,
            sizes: found.sizes,
            ..Self::default()
        }
    }

    pub(super) fn state(&self) -> LogState<TypeConfig> {
        LogState { last_purged_log_id: self.purged, last_log_id: self.last }
    }

    pub(super) fn vote(&self) -> Option<Vote> {
        self.vote
    }

    pub(super) fn set_vote(&mut self, vote: Vote) {
        self.vote = Some(vote);
    }

    pub(super) fn committed(&self) -> Option<LogId> {
        self.committed
    }

    pub(super) fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Remembers it for the next commit. What lies beyond the log is not remembered: after a crash
    /// it would name entries that are not there.
    pub(super) fn set_committed(&mut self, committed: Option<LogId>) {
        self.committed = committed;
        if committed <= self.last {
            self.riders.committed = committed;
        }
    }

    /// Takes what rides on the job that is about to be queued.
    pub(super) fn take_riders(&mut self) -> Riders {
        std::mem::take(&mut self.riders)
    }

    /// Appends behind the last entry; the ticket names this append.
    pub(super) fn append(&mut self, entries: &[Entry]) -> Result<u64, &'static str> {
        self.tickets += 1;
        for entry in entries {
            let index = entry.log_id.index;
            let empty = self.last.is_none() && self.entries.is_empty();
            if !empty && index != next(self.last.as_ref()) {
                return Err("an append would leave a hole in the log");
            }
            if empty {
                self.start = index;
            }
            let bytes = entry_bytes(entry);
            self.bytes += bytes;
            self.sizes.push(index, bytes);
            self.last = Some(entry.log_id);
            self.entries.push_back(Held { entry: entry.clone(), bytes, ticket: self.tickets });
        }
        Ok(self.tickets)
    }

    /// This append and all before it are on disk: memory may let go of the oldest entries.
    pub(super) fn done(&mut self, ticket: u64) {
        self.tickets_done = self.tickets_done.max(ticket);
        while self.bytes > TAIL_BYTES_MAX
            && self.entries.front().is_some_and(|held| held.ticket <= self.tickets_done)
        {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(held) = self.entries.pop_front() {
            self.bytes -= held.bytes;
            self.start = held.entry.log_id.index + 1;
        }
    }

    /// Whether there was anything behind `after`.
    pub(super) fn truncate_after(&mut self, after: Option<LogId>) -> bool {
        if next(after.as_ref()) >= next(self.last.as_ref()) {
            return false;
        }
        self.cuts += 1;
        let keep_below = next(after.as_ref());
        while self.entries.back().is_some_and(|held| held.entry.log_id.index >= keep_below) {
            if let Some(held) = self.entries.pop_back() {
                self.bytes -= held.bytes;
            }
        }
        self.last = after.max(self.purged);
        self.start = self.start.min(next(self.last.as_ref()));
        self.sizes.truncate_after(after.map(|id| id.index));
        true
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        if self.purged >= Some(upto) {
            return;
        }
        self.cuts += 1;
        self.purged = Some(upto);
        self.riders.purged = Some(upto);
        while self.entries.front().is_some_and(|held| held.entry.log_id.index <= upto.index) {
            self.pop_front();
        }
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
            self.start = upto.index + 1;
        }
        self.sizes.purge_upto(upto.index);
    }

    /// Where the entries of this range are, at most `bytes_max` of them from memory but at least
    /// one.
    pub(super) fn plan(&self, wanted: Range<u64>, bytes_max: usize) -> Plan {
        let first = next(self.purged.as_ref());
        let end = next(self.last.as_ref());
        let wanted = wanted.start.max(first)..wanted.end.min(end);
        let disk = wanted.start..wanted.end.min(self.start).max(wanted.start);
        let skip = wanted.start.saturating_sub(self.start);
        let count = wanted.end.saturating_sub(wanted.start.max(self.start));
        let (mut memory, mut bytes) = (Vec::new(), 0);
        let held = self.entries.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX));
        for held in held.take(usize::try_from(count).unwrap_or(usize::MAX)) {
            bytes += held.bytes;
            if bytes > bytes_max && !memory.is_empty() {
                break;
            }
            memory.push(held.entry.clone());
        }
        Plan { disk, cuts: self.cuts, memory }
    }

    /// Whether a plan made earlier still holds.
    pub(super) fn holds(&self, plan: &Plan) -> bool {
        self.cuts == plan.cuts
    }
}

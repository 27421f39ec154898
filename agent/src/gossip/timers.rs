//! One heap for all timers of a pool, in the order that foca needs when several are due.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

use foca::Incarnation;
use model::NodeId;

use super::identity::Id;

/// What is due.
#[derive(Debug)]
pub(super) enum Due {
    /// foca's own.
    Foca(foca::Timer<Id>),
    /// A member that did not answer a hint's check has not refuted.
    Verdict(Id, Incarnation),
    /// Ask this member again.
    Check(NodeId),
    /// Contact a member that is gone, perhaps.
    Reconnect,
    /// Forget what is too old.
    Sweep,
    /// Write the file of known peers.
    Persist,
    /// Next step of leaving.
    Leave,
}

#[derive(Debug)]
struct Timer {
    at: Duration,
    rank: u8,
    sequence: u64,
    due: Due,
}

impl Timer {
    fn key(&self) -> (Duration, u8, u64) {
        (self.at, self.rank, self.sequence)
    }
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// The heap.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<Timer>>,
    sequence: u64,
}

impl Timers {
    pub(super) fn push(&mut self, at: Duration, due: Due) {
        // foca's `Timer: Ord`: the indirect probe comes before the verdict over the probe.
        let rank = match &due {
            Due::Foca(foca::Timer::SendIndirectProbe { .. }) => 0,
            Due::Foca(foca::Timer::ProbeRandomMember(_)) => 1,
            Due::Foca(_) => 2,
            _ => 3,
        };
        self.sequence += 1;
        self.heap.push(Reverse(Timer { at, rank, sequence: self.sequence, due }));
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse(timer)| timer.at)
    }

    /// Takes one that is due, and since when it is.
    pub(super) fn pop(&mut self, now: Duration) -> Option<(Duration, Due)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(timer)| (timer.at, timer.due))
    }
}

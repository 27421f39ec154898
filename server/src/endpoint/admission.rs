//! How many requests a server works on at once, by class: the more important ones still get in
//! when the others are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use model::rpc::RpcError;

/// Requests under way of all classes, parked ones left out. One costs some KiB.
const ACTIVE_MAX: usize = 16_384;
/// Parked reads. One costs about 1 KiB.
const PARKED_MAX: usize = 262_144;

/// Importance of a request. Raft itself has connections of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Sessions, their TTL, and what an operator orders.
    Session,
    /// Other writes.
    Write,
    /// Reads.
    Read,
}

impl Class {
    /// How many may be under way, of all classes, for one of this class to be let in.
    fn room(self, all: usize) -> usize {
        match self {
            Class::Session => all,
            Class::Write => all / 4 * 3,
            Class::Read => all / 2,
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Class::Session => "session",
            Class::Write => "write",
            Class::Read => "read",
        }
    }
}

/// Counts what is under way and what is parked.
#[derive(Debug, Clone)]
pub(crate) struct Admission(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    active: AtomicUsize,
    parked: AtomicUsize,
    active_max: usize,
    parked_max: usize,
}

impl Default for Admission {
    fn default() -> Self {
        Self::with_limits(ACTIVE_MAX, PARKED_MAX)
    }
}

impl Admission {
    pub(crate) fn with_limits(active_max: usize, parked_max: usize) -> Self {
        let (active, parked) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self(Arc::new(Counts { active, parked, active_max, parked_max }))
    }

    /// A place for a request.
    pub(crate) fn enter(&self, class: Class) -> Result<Entered, RpcError> {
        let room = class.room(self.0.active_max);
        take(&self.0.active, room).inspect_err(|_| refused(class.label()))?;
        Ok(Entered { counts: Arc::clone(&self.0), parked: false })
    }
}

fn take(count: &AtomicUsize, room: usize) -> Result<(), RpcError> {
    let add = |now: usize| (now < room).then_some(now + 1);
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
        .map(drop)
        .map_err(|_| RpcError::Busy)
}

fn refused(class: &'static str) {
    metrics::counter!("muster.rpc.refused", "class" => class).increment(1);
}

/// A request's place, until dropped.
#[derive(Debug)]
pub(crate) struct Entered {
    counts: Arc<Counts>,
    parked: bool,
}

impl Entered {
    /// Whether the request has ever gone to sleep.
    pub(crate) fn has_parked(&self) -> bool {
        self.parked
    }

    /// The request goes to sleep: it leaves the active ones and needs a place among the parked.
    pub(crate) fn park(&mut self) -> Result<(), RpcError> {
        if !self.parked {
            take(&self.counts.parked, self.counts.parked_max).inspect_err(|_| refused("watch"))?;
            self.counts.active.fetch_sub(1, Ordering::Relaxed);
            self.parked = true;
        }
        Ok(())
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let count = if self.parked { &self.counts.parked } else { &self.counts.active };
        count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_important_are_refused_first_and_places_come_back() {
        let admission = Admission::with_limits(4, 1);
        let mut held: Vec<_> =
            (0..2).map(|_| admission.enter(Class::Read).expect("half is for reads")).collect();
        assert_eq!(admission.enter(Class::Read).map(drop), Err(RpcError::Busy));
        held.push(admission.enter(Class::Write).expect("three quarters"));
        assert_eq!(admission.enter(Class::Write).map(drop), Err(RpcError::Busy));
        held.push(admission.enter(Class::Session).expect("all"));
        assert_eq!(admission.enter(Class::Session).map(drop), Err(RpcError::Busy));
        // A parked read makes room among the active ones; parked ones are limited too.
        held[0].park().expect("one place");
        assert_eq!(held[1].park(), Err(RpcError::Busy));
        held.push(admission.enter(Class::Session).expect("one has parked"));
        held.clear();
        drop(admission.enter(Class::Read).expect("all places came back"));
        assert_eq!(admission.0.active.load(Ordering::Relaxed), 0);
        assert_eq!(admission.0.parked.load(Ordering::Relaxed), 0);
    }
}

//! Bugs for tests/sim to find (feature `planted`): each is what a careless change might bring. One
//! build holds them all; each thread decides which one is there, usually none.

use std::cell::Cell;

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A vote is answered without being saved.
    VoteNotSaved,
    /// A follower that cannot be reached counts as having what was sent.
    CommitWithoutQuorum,
    /// A leader answers default reads without looking at its lease.
    LeaseNotChecked,
    /// A restarted server votes at once.
    VoteGuardOff,
    /// The log calls back before it has synced.
    CallbackBeforeSync,
    /// A retried write is applied again.
    AppliedTwice,
    /// A truncation is written behind the appends that follow it.
    TruncateNotOrdered,
    /// A snapshot lacks the last entry that it says it covers.
    SnapshotWithoutLast,
    /// A restart drops the entries behind the commit mark.
    RestartForgets,
    /// Followers answer consistent reads from what they have.
    StaleAsConsistent,
    /// Sessions end after half their TTL.
    SessionEndedEarly,
    /// A restore swaps the tables and tells nobody: neither who waits nor the duties of the leader.
    RestoreWithoutEpoch,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 12] = [
        Bug::VoteNotSaved,
        Bug::CommitWithoutQuorum,
        Bug::LeaseNotChecked,
        Bug::VoteGuardOff,
        Bug::CallbackBeforeSync,
        Bug::AppliedTwice,
        Bug::TruncateNotOrdered,
        Bug::SnapshotWithoutLast,
        Bug::RestartForgets,
        Bug::StaleAsConsistent,
        Bug::SessionEndedEarly,
        Bug::RestoreWithoutEpoch,
    ];
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// From now on this thread has this bug alone.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is planted.
pub(crate) fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

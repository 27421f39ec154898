//! The objects that clients work on, as a single copy would behave: a key, and a key as a lock.

use std::collections::BTreeSet;

use model::SessionId;

use crate::linear::Object;

/// A key. Each write of the simulation has a value of its own, so a value names a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Register(pub(crate) Option<u64>);

/// What is done with a key, and what was answered; a condition's answer is `None` when it was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RegisterOp {
    Set(u64),
    /// Set if the version is this one (`None`: if absent).
    Cas {
        expected: Option<u64>,
        value: u64,
        held: Option<bool>,
    },
    Delete,
    /// Delete if the version is this one; an absent key is success.
    DeleteCas {
        expected: u64,
        held: Option<bool>,
    },
    /// A restore brought this version.
    Restore(Option<u64>),
    /// Default or consistent; `stale` ones are judged elsewhere.
    Get {
        found: Option<u64>,
    },
}

impl Object for Register {
    type Op = RegisterOp;

    fn step(&self, op: &RegisterOp) -> Option<Self> {
        let answer = |held: &Option<bool>, holds: bool| held.is_none_or(|held| held == holds);
        match op {
            RegisterOp::Set(value) => Some(Self(Some(*value))),
            RegisterOp::Cas { expected, value, held } => {
                let holds = self.0 == *expected;
                let next = if holds { Self(Some(*value)) } else { self.clone() };
                answer(held, holds).then_some(next)
            }
            RegisterOp::Delete => Some(Self(None)),
            RegisterOp::Restore(version) => Some(Self(*version)),
            RegisterOp::DeleteCas { expected, held } => {
                let holds = self.0.is_none_or(|now| now == *expected);
                let next = if holds { Self(None) } else { self.clone() };
                answer(held, holds).then_some(next)
            }
            RegisterOp::Get { found } => (self.0 == *found).then(|| self.clone()),
        }
    }
}

/// A key as a lock; its sessions have no TTL and no lock-delay.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Lock {
    holder: Option<SessionId>,
    live: BTreeSet<SessionId>,
}

/// How an acquisition was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acquired {
    Yes,
    No,
    /// The session does not exist.
    NoSession,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LockOp {
    /// A session begins.
    Begin {
        session: SessionId,
    },
    Acquire {
        session: SessionId,
        answer: Option<Acquired>,
    },
    Release {
        session: SessionId,
        held: Option<bool>,
    },
    End {
        session: SessionId,
    },
    Look {
        holder: Option<SessionId>,
    },
    /// A restore brought this holder and these sessions.
    Restore {
        holder: Option<SessionId>,
        live: BTreeSet<SessionId>,
    },
}

impl Object for Lock {
    type Op = LockOp;

    fn step(&self, op: &LockOp) -> Option<Self> {
        let mut next = self.clone();
        match op {
            LockOp::Acquire { session, answer } => {
                let free = self.holder.is_none_or(|holder| holder == *session);
                let says = match (self.live.contains(session), free) {
                    (false, _) => Acquired::NoSession,
                    (true, true) => Acquired::Yes,
                    (true, false) => Acquired::No,
                };
                if says == Acquired::Yes {
                    next.holder = Some(*session);
                }
                answer.is_none_or(|answer| answer == says).then_some(next)
            }
            LockOp::Release { session, held } => {
                let holds = self.holder == Some(*session);
                if holds {
                    next.holder = None;
                }
                held.is_none_or(|held| held == holds).then_some(next)
            }
            LockOp::End { session } => {
                next.live.remove(session);
                if self.holder == Some(*session) {
                    next.holder = None;
                }
                Some(next)
            }
            LockOp::Begin { session } => {
                next.live.insert(*session);
                Some(next)
            }
            LockOp::Restore { holder, live } => Some(Self { holder: *holder, live: live.clone() }),
            LockOp::Look { holder } => (self.holder == *holder).then_some(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId([1; 16]);
    const B: SessionId = SessionId([2; 16]);

    #[test]
    fn a_lock_has_one_holder_and_falls_free_with_its_session() {
        let acquire = |session, answer| LockOp::Acquire { session, answer: Some(answer) };
        let mut lock = Lock::default();
        let restored = |holder, live| LockOp::Restore { holder, live: BTreeSet::from([live]) };
        for (op, fits) in [
            (acquire(A, Acquired::Yes), false),
            (acquire(A, Acquired::NoSession), true),
            (LockOp::Begin { session: A }, true),
            (LockOp::Begin { session: B }, true),
            (acquire(A, Acquired::No), false),
            (acquire(A, Acquired::Yes), true),
            (acquire(B, Acquired::Yes), false),
            (acquire(B, Acquired::No), true),
            (acquire(A, Acquired::Yes), true),
            (LockOp::Release { session: B, held: Some(true) }, false),
            (LockOp::Release { session: B, held: Some(false) }, true),
            (LockOp::Look { holder: Some(A) }, true),
            (LockOp::End { session: A }, true),
            (LockOp::Look { holder: None }, true),
            (acquire(A, Acquired::NoSession), true),
            (acquire(B, Acquired::Yes), true),
            (LockOp::Release { session: B, held: Some(true) }, true),
            (restored(Some(A), A), true),
            (acquire(B, Acquired::NoSession), true),
            (LockOp::Release { session: A, held: Some(true) }, true),
            (acquire(A, Acquired::Yes), true),
        ] {
            let next = lock.step(&op);
            assert_eq!(next.is_some(), fits, "{op:?} on {lock:?}");
            lock = next.unwrap_or(lock);
        }
    }

    #[test]
    fn a_key_does_what_its_conditions_say() {
        let key = |value| Register(value);
        let cas = |expected, held| RegisterOp::Cas { expected, value: 9, held: Some(held) };
        assert_eq!(key(None).step(&cas(None, true)), Some(key(Some(9))));
        assert_eq!(key(Some(1)).step(&cas(None, true)), None);
        assert_eq!(key(Some(1)).step(&cas(Some(1), false)), None);
        assert_eq!(key(Some(1)).step(&cas(Some(2), false)), Some(key(Some(1))));
        let gone = RegisterOp::DeleteCas { expected: 1, held: Some(true) };
        assert_eq!(key(None).step(&gone), Some(key(None)));
        assert_eq!(key(Some(2)).step(&gone), None);
    }
}

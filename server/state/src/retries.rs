//! A retried write applies once.
//!
//! Each process that accepts writes from clients is an *origin*: a random boot id, under which it
//! numbers its writes from 1. A write carries its number `seq`, the same on every try, and
//! `oldest_open`, the lowest number that the origin still waits for when it sends.
//!
//! The state keeps for each origin a *floor* and the outcomes of applied writes at or above it.
//!
//! | `seq` | answer |
//! |---|---|
//! | at or above the floor, outcome known | that outcome, nothing is applied |
//! | at or above the floor, no outcome | applied, outcome kept |
//! | below the floor | [`Rejection::OutcomeUnknown`], nothing is applied |
//!
//! The floor rises to `oldest_open` with each command: the origin has its answers below it, so what
//! still comes from there is a stray copy. After [`ORIGIN_MS_MAX`] of cluster time without a
//! command the origin is *idle*: its outcomes are dropped and its floor rises above the highest
//! number that was ever applied for it.
//!
//! Invariant: a number at or above the floor without an outcome was never applied. For outcomes
//! are only dropped when the floor rises above them. So a write applies at most once, however late
//! its copies come; and a process that was silent for hours is not refused, since its next number
//! is above all that it sent before. `seq == oldest_open` would not do as the sign of a new write:
//! a late copy of the only open write looks the same.
//!
//! A number that was on its way when its origin fell idle and that is below one that was applied is
//! refused although it was never applied: it cannot be told apart from one that was.
//!
//! An idle origin costs some dozens of bytes. Beyond [`ORIGINS_MAX`] the one that has been idle
//! longest is forgotten entirely; the promise then holds as long as no copy of a write is so late
//! that this many other processes have come and gone since. While that many are active in one
//! minute, further ones are refused.

use imbl::{OrdMap, OrdSet};
use model::NodeId;
use model::command::{OPEN_RETRIES_MAX, Outcome, Rejection, RetryV1};
use model::wire::{self, Kind};

/// Cluster time in milliseconds without a command after which outcomes are dropped.
pub(crate) const ORIGIN_MS_MAX: u64 = 60_000;
/// Origins that are remembered, idle ones included.
pub(crate) const ORIGINS_MAX: usize = 65_536;

/// Bytes of outcomes that are kept for one origin. An origin is one item of a snapshot, and blocks
/// of a snapshot have a limit; results of transactions could exceed it. Beyond this a retry is told
/// that its outcome is unknown: still nothing is applied twice.
pub(crate) const OUTCOME_BYTES_MAX: usize = 8 << 20;

/// What to do with a write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Seen for the first time.
    Apply,
    /// Do nothing and answer this.
    Answer(Outcome),
}

/// One process that sends writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Lowest number that may be applied or has an outcome.
    pub(crate) floor: u64,
    /// Cluster time of its last command.
    pub(crate) last_ms: u64,
    /// Outcomes at or above the floor.
    pub(crate) outcomes: OrdMap<u64, Outcome>,
    /// Their bytes, roughly.
    pub(crate) bytes: usize,
    /// Its outcomes were dropped.
    pub(crate) idle: bool,
}

/// Bytes of an outcome in a snapshot, rather too many.
pub(crate) fn weight(outcome: &Outcome) -> usize {
    const ENTRY: usize = 32;
    match outcome {
        Outcome::Done | Outcome::Bool(_) => ENTRY,
        Outcome::Rejected(_) | Outcome::Txn(_) => {
            ENTRY + wire::encode(Kind::SnapshotBlock, outcome).len()
        }
    }
}

/// All origins.
#[derive(Debug, Clone, Default)]
pub(crate) struct Retries {
    origins: OrdMap<NodeId, Origin>,
    /// When to look whether an active origin has fallen idle. A time may be too early (the origin
    /// was active since), never too late: so a command moves nothing here.
    due: OrdSet<(u64, NodeId)>,
    /// Idle ones by the time of their last command.
    idle: OrdSet<(u64, NodeId)>,
}

impl Retries {
    /// Drops the outcomes of origins that have fallen idle.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        while let Some((at, id)) = self.due.get_min().copied() {
            if at > now_ms {
                break;
            }
            self.due.remove(&(at, id));
            let Some(origin) = self.origins.get_mut(&id) else { continue };
            let idle_at = origin.last_ms.saturating_add(ORIGIN_MS_MAX);
            if idle_at > now_ms {
                self.due.insert((idle_at, id));
                continue;
            }
            if let Some((highest, _)) = origin.outcomes.get_max() {
                origin.floor = origin.floor.max(highest.saturating_add(1));
            }
            origin.outcomes = OrdMap::new();
            origin.bytes = 0;
            origin.idle = true;
            self.idle.insert((origin.last_ms, id));
        }
    }

    /// Decides about a write. After [`Verdict::Apply`] its outcome must be recorded.
    pub(crate) fn admit(&mut self, retry: &RetryV1, now_ms: u64) -> Verdict {
        if !self.origins.contains_key(&retry.origin) && !self.open(retry.origin, now_ms) {
            return Verdict::Answer(Outcome::Rejected(Rejection::TooManyOpen));
        }
        let Some(origin) = self.origins.get_mut(&retry.origin) else {
            return Verdict::Answer(Outcome::Rejected(Rejection::TooManyOpen));
        };
        if origin.idle {
            self.idle.remove(&(origin.last_ms, retry.origin));
            self.due.insert((now_ms.saturating_add(ORIGIN_MS_MAX), retry.origin));
            origin.idle = false;
        }
        origin.last_ms = now_ms;
        // What a broken sender says about its oldest write must not outrun the write at hand.
        origin.floor = origin.floor.max(retry.oldest_open.min(retry.seq));
        while let Some(lowest) = origin.outcomes.get_min().map(|(seq, _)| *seq) {
            if lowest >= origin.floor {
                break;
            }
            if let Some(gone) = origin.outcomes.remove(&lowest) {
                origin.bytes = origin.bytes.saturating_sub(weight(&gone));
            }
        }
        if retry.seq < origin.floor {
            return Verdict::Answer(Outcome::Rejected(Rejection::OutcomeUnknown));
        }
        if let Some(outcome) = origin.outcomes.get(&retry.seq) {
            return Verdict::Answer(outcome.clone());
        }
        if origin.outcomes.len() >= OPEN_RETRIES_MAX {
            return Verdict::Answer(Outcome::Rejected(Rejection::TooManyOpen));
        }
        Verdict::Apply
    }

    /// Keeps the outcome of a write that was applied.
    pub(crate) fn record(&mut self, retry: &RetryV1, outcome: Outcome) {
        if let Some(origin) = self.origins.get_mut(&retry.origin) {
            let kept = match origin.bytes.saturating_add(weight(&outcome)) > OUTCOME_BYTES_MAX {
                true => Outcome::Rejected(Rejection::OutcomeUnknown),
                false => outcome,
            };
            origin.bytes = origin.bytes.saturating_add(weight(&kept));
            origin.outcomes.insert(retry.seq, kept);
        }
    }

    fn open(&mut self, id: NodeId, now_ms: u64) -> bool {
        if self.origins.len() >= ORIGINS_MAX {
            let Some((_, oldest)) = self.idle.remove_min() else { return false };
            self.origins.remove(&oldest);
        }
        let origin =
            Origin { floor: 0, last_ms: now_ms, outcomes: OrdMap::new(), bytes: 0, idle: false };
        self.load(id, origin);
        true
    }

    /// Puts back an origin from a snapshot.
    pub(crate) fn load(&mut self, id: NodeId, origin: Origin) -> Option<Origin> {
        if origin.idle {
            self.idle.insert((origin.last_ms, id));
        } else {
            self.due.insert((origin.last_ms.saturating_add(ORIGIN_MS_MAX), id));
        }
        self.origins.insert(id, origin)
    }

    /// All origins, cheaply detached.
    pub(crate) fn rows(&self) -> OrdMap<NodeId, Origin> {
        self.origins.clone()
    }

    pub(crate) fn verify(&self) -> Result<(), String> {
        if self.origins.len() != self.due.len() + self.idle.len() {
            return Err(format!(
                "{} origins, {} active and {} idle",
                self.origins.len(),
                self.due.len(),
                self.idle.len()
            ));
        }
        for (id, origin) in &self.origins {
            let below = origin.outcomes.get_min().is_some_and(|(seq, _)| *seq < origin.floor);
            if below || origin.outcomes.len() > OPEN_RETRIES_MAX {
                return Err(format!("origin {id} keeps outcomes that it should not"));
            }
            if origin.bytes != origin.outcomes.values().map(weight).sum::<usize>() {
                return Err(format!("origin {id} counts {} bytes of outcomes", origin.bytes));
            }
            if origin.idle
                && !(origin.outcomes.is_empty() && self.idle.contains(&(origin.last_ms, *id)))
            {
                return Err(format!("origin {id} is idle only half"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 16]);

    fn retry(seq: u64, oldest_open: u64) -> RetryV1 {
        RetryV1 { origin: A, seq, oldest_open }
    }

    fn unknown() -> Verdict {
        Verdict::Answer(Outcome::Rejected(Rejection::OutcomeUnknown))
    }

    /// Admits as apply does; an applied write's outcome is whether its number is even.
    fn send(retries: &mut Retries, now_ms: u64, seq: u64, oldest_open: u64) -> Verdict {
        retries.expire(now_ms);
        let verdict = retries.admit(&retry(seq, oldest_open), now_ms);
        if verdict == Verdict::Apply {
            retries.record(&retry(seq, oldest_open), Outcome::Bool(seq.is_multiple_of(2)));
        }
        retries.verify().expect("consistent");
        verdict
    }

    #[test]
    fn a_copy_gets_the_first_outcome_until_the_origin_has_it() {
        let mut retries = Retries::default();
        assert_eq!(send(&mut retries, 0, 2, 1), Verdict::Apply);
        assert_eq!(send(&mut retries, 1, 1, 1), Verdict::Apply, "out of order is fine");
        assert_eq!(send(&mut retries, 2, 2, 1), Verdict::Answer(Outcome::Bool(true)));
        assert_eq!(send(&mut retries, 3, 3, 3), Verdict::Apply, "1 and 2 are answered");
        assert_eq!(send(&mut retries, 4, 2, 1), unknown(), "a stray copy");
    }

    #[test]
    fn a_late_copy_from_an_idle_origin_is_never_applied_but_its_next_write_is() {
        let mut retries = Retries::default();
        assert_eq!(send(&mut retries, 0, 7, 7), Verdict::Apply);
        let later = ORIGIN_MS_MAX;
        // Same stamp as the first and only try: that it was applied is all that tells it apart.
        assert_eq!(send(&mut retries, later, 7, 7), unknown());
        assert_eq!(send(&mut retries, later, 6, 6), unknown(), "may have been applied");
        assert_eq!(send(&mut retries, later, 8, 8), Verdict::Apply);
        assert_eq!(send(&mut retries, later, 8, 8), Verdict::Answer(Outcome::Bool(true)));
        assert_eq!(send(&mut retries, 9 * later, 8, 8), unknown());
        assert_eq!(send(&mut retries, 10 * later, 9, 9), Verdict::Apply);
    }

    #[test]
    fn activity_keeps_outcomes() {
        let mut retries = Retries::default();
        assert_eq!(send(&mut retries, 0, 1, 1), Verdict::Apply);
        for i in 1..10 {
            assert_eq!(send(&mut retries, i * (ORIGIN_MS_MAX - 1), 1 + i, 1), Verdict::Apply);
        }
        let now = 10 * (ORIGIN_MS_MAX - 1);
        assert_eq!(send(&mut retries, now, 1, 1), Verdict::Answer(Outcome::Bool(false)));
    }

    #[test]
    fn too_many_open_writes_are_refused_and_may_come_again() {
        let mut retries = Retries::default();
        let max = OPEN_RETRIES_MAX as u64;
        for seq in 1..=max {
            assert_eq!(send(&mut retries, 0, seq, 1), Verdict::Apply);
        }
        let refused = Verdict::Answer(Outcome::Rejected(Rejection::TooManyOpen));
        assert_eq!(send(&mut retries, 0, max + 1, 1), refused);
        assert_eq!(send(&mut retries, 0, max + 1, 2), Verdict::Apply);
    }

    #[test]
    fn large_outcomes_are_kept_within_a_limit_and_never_applied_twice() {
        let text = "x".repeat(3 << 20);
        let large = Outcome::Rejected(Rejection::Other(text));
        let mut retries = Retries::default();
        for seq in 1..=4 {
            assert_eq!(retries.admit(&retry(seq, 1), 0), Verdict::Apply);
            retries.record(&retry(seq, 1), large.clone());
            retries.verify().expect("consistent");
        }
        assert_eq!(retries.admit(&retry(2, 1), 0), Verdict::Answer(large.clone()));
        assert_eq!(retries.admit(&retry(3, 1), 0), unknown());
        // Answers that arrived make room.
        assert_eq!(retries.admit(&retry(5, 5), 0), Verdict::Apply);
        retries.record(&retry(5, 5), large.clone());
        assert_eq!(retries.admit(&retry(5, 5), 0), Verdict::Answer(large));
        retries.verify().expect("consistent");
    }

    #[test]
    fn origins_are_bounded_and_idle_ones_go_first() {
        let mut retries = Retries::default();
        let id = |n: usize| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&(n as u64).to_be_bytes());
            NodeId(bytes)
        };
        let write = |n| RetryV1 { origin: id(n), seq: 1, oldest_open: 1 };
        for n in 0..ORIGINS_MAX {
            assert_eq!(retries.admit(&write(n), 0), Verdict::Apply);
            retries.record(&write(n), Outcome::Done);
        }
        let refused = Verdict::Answer(Outcome::Rejected(Rejection::TooManyOpen));
        assert_eq!(retries.admit(&write(ORIGINS_MAX), 1), refused);
        retries.expire(ORIGIN_MS_MAX);
        assert_eq!(retries.admit(&write(ORIGINS_MAX), ORIGIN_MS_MAX), Verdict::Apply);
        assert_eq!(retries.rows().len(), ORIGINS_MAX);
        retries.verify().expect("consistent");
    }
}

//! A linearizability checker for one key: a search in the manner of Wing and Gong, with Lowe's
//! memory of what was already tried.
//!
//! Every write of a history carries a value of its own, so a value names the write it came from.

use std::collections::HashSet;

/// What was done and, when it was answered, what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Found this value; `None`: no such key.
    Read(Option<u64>),
    /// Wrote this value.
    Put(u64),
    /// Wrote `new` if the value was still `expect`; `done`: it did.
    Cas { expect: Option<u64>, new: u64, done: bool },
}

/// One request. Times are in any unit, all of one clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) action: Action,
    /// When it was sent.
    pub(crate) call: u64,
    /// When it was answered; `None`: its outcome is unknown. It may have taken effect at any time
    /// after the call, or never.
    pub(crate) end: Option<u64>,
}

impl Action {
    /// The value after this action on `value`; `None`: it cannot have happened there.
    fn apply(self, value: Option<u64>, known: bool) -> Option<Option<u64>> {
        match self {
            Self::Read(found) => (found == value).then_some(value),
            Self::Put(new) => Some(Some(new)),
            Self::Cas { expect, new, done } => {
                let fits = expect == value;
                if known && fits != done {
                    return None;
                }
                Some(if fits { Some(new) } else { value })
            }
        }
    }
}

/// Which operations have their place already, and the value after them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Point {
    placed: Vec<u64>,
    value: Option<u64>,
}

impl Point {
    fn with(&self, i: usize, value: Option<u64>) -> Self {
        let mut placed = self.placed.clone();
        placed[i / 64] |= 1 << (i % 64);
        Self { placed, value }
    }
}

/// Whether the operations fit one order in which each took effect between its call and its answer,
/// on a key that was missing before. Else the longest part that fits and what came next.
pub(crate) fn check(history: &[Operation]) -> Result<(), String> {
    let mut history = history.to_vec();
    // A read of unknown outcome says nothing.
    history.retain(|one| one.end.is_some() || !matches!(one.action, Action::Read(_)));
    history.sort_by_key(|one| one.call);
    let answered = history.iter().filter(|one| one.end.is_some()).count();
    let start = Point { placed: vec![0; history.len().div_ceil(64)], value: None };
    let (mut seen, mut open) = (HashSet::new(), vec![(start, 0)]);
    let mut best = (0, Vec::new());
    while let Some((mut point, mut done)) = open.pop() {
        let next = settle(&history, &mut point, &mut done);
        if done == answered {
            return Ok(());
        }
        if !seen.insert(point.clone()) {
            continue;
        }
        for &i in &next {
            let one = history[i];
            let known = one.end.is_some();
            let Some(value) = one.action.apply(point.value, known) else { continue };
            if known || is_of_use(&history, &next, value) {
                open.push((point.with(i, value), done + usize::from(known)));
            }
        }
        if done >= best.0 {
            best = (done, next);
        }
    }
    let stuck: Vec<String> = best.1.iter().map(|i| format!("{:?}", history[*i])).collect();
    Err(format!(
        "not linearizable: at most {} of {answered} answers fit; none of these can be next: {}",
        best.0,
        stuck.join("; ")
    ))
}

/// Gives all that fits and changes nothing its place: the earlier the better. What is left that may
/// be next.
fn settle(history: &[Operation], point: &mut Point, done: &mut usize) -> Vec<usize> {
    loop {
        let next = next(history, point);
        let still = next.iter().find(|i| {
            let one = history[**i];
            let changes = match one.action {
                Action::Read(_) => false,
                Action::Cas { done, .. } => done,
                Action::Put(_) => true,
            };
            !changes && one.end.is_some() && one.action.apply(point.value, true).is_some()
        });
        let Some(&i) = still else { return next };
        *point = point.with(i, point.value);
        *done += 1;
    }
}

/// Whether a write of unknown outcome that leaves this value may as well be placed now: only if
/// something that may come right after it would see it. Any other place can be moved there.
fn is_of_use(history: &[Operation], next: &[usize], value: Option<u64>) -> bool {
    next.iter().any(|i| match history[*i].action {
        Action::Read(found) => found == value,
        Action::Cas { expect, done: true, .. } => expect == value,
        Action::Cas { expect, done: false, .. } => expect != value,
        Action::Put(_) => false,
    })
}

/// Operations that may be next: called before any other that has no place yet was answered.
fn next(history: &[Operation], point: &Point) -> Vec<usize> {
    let mut found = Vec::new();
    let mut first_end = u64::MAX;
    'all: for (word, placed) in point.placed.iter().enumerate() {
        let mut free = !placed;
        while free != 0 {
            let i = word * 64 + free.trailing_zeros() as usize;
            free &= free - 1;
            let Some(one) = history.get(i) else { break 'all };
            if one.call > first_end {
                break 'all;
            }
            found.push(i);
            first_end = first_end.min(one.end.unwrap_or(u64::MAX));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::Action::{Cas, Put, Read};
    use super::*;

    fn check_all(history: &[(Action, u64, u64)]) -> bool {
        let operation = |&(action, call, end): &(Action, u64, u64)| Operation {
            action,
            call,
            end: (end > 0).then_some(end),
        };
        check(&history.iter().map(operation).collect::<Vec<_>>()).is_ok()
    }

    #[test]
    fn good_histories_are_accepted() {
        let cas = |expect, new, done| Cas { expect, new, done };
        for history in [
            vec![],
            vec![(Read(None), 1, 2), (Put(1), 3, 4), (Read(Some(1)), 5, 6)],
            // Side by side: either order.
            vec![(Put(1), 1, 9), (Put(2), 2, 8), (Read(Some(1)), 10, 11)],
            vec![(Put(1), 1, 9), (Put(2), 2, 8), (Read(Some(2)), 10, 11)],
            vec![(Put(1), 1, 10), (Read(None), 2, 3), (Read(Some(1)), 4, 5)],
            // Unknown: at once, much later, never.
            vec![(Put(1), 1, 0), (Read(None), 2, 3), (Read(Some(1)), 4, 5)],
            vec![(Put(1), 1, 0), (Put(2), 2, 3), (Read(Some(2)), 4, 5), (Read(Some(1)), 6, 7)],
            vec![(Put(1), 1, 0), (Read(None), 2, 3), (Read(None), 90, 91)],
            vec![(cas(None, 1, true), 1, 2), (cas(None, 2, false), 3, 4), (Read(Some(1)), 5, 6)],
            vec![(cas(None, 1, true), 1, 2), (cas(Some(1), 2, true), 1, 0), (Read(Some(2)), 5, 6)],
            // Only the unknown write explains the refusal.
            vec![(Put(1), 1, 2), (Put(2), 3, 0), (cas(Some(1), 3, false), 4, 5)],
        ] {
            assert!(check_all(&history), "{history:?}");
        }
    }

    #[test]
    fn bad_histories_are_refused() {
        let cas = |expect, new, done| Cas { expect, new, done };
        for history in [
            // A lost write, an old value, a value from nowhere.
            vec![(Put(1), 1, 2), (Read(None), 3, 4)],
            vec![(Put(1), 1, 2), (Put(2), 3, 4), (Read(Some(1)), 5, 6)],
            vec![(Read(Some(1)), 1, 2)],
            vec![(Read(Some(1)), 1, 2), (Put(1), 3, 4)],
            // Once seen, always seen.
            vec![(Put(1), 1, 20), (Read(Some(1)), 2, 3), (Read(None), 4, 5)],
            vec![(Put(1), 1, 0), (Read(Some(1)), 2, 3), (Read(None), 4, 5)],
            // Two winners, a winner that was too late, a refusal without reason.
            vec![(cas(None, 1, true), 1, 9), (cas(None, 2, true), 1, 9)],
            vec![(Put(1), 1, 2), (Put(2), 3, 4), (cas(Some(1), 3, true), 5, 6)],
            vec![(Put(1), 1, 2), (cas(Some(1), 3, false), 5, 6)],
            // An unknown write that took effect twice.
            vec![
                (Put(1), 1, 0),
                (Read(Some(1)), 2, 3),
                (Put(2), 4, 5),
                (Read(Some(2)), 6, 7),
                (Read(Some(1)), 8, 9),
            ],
        ] {
            assert!(!check_all(&history), "{history:?}");
        }
    }

    #[test]
    fn long_histories_with_unknown_outcomes_are_decided() {
        let mut history = Vec::new();
        for n in 0..400 {
            let at = n * 10;
            // Six side by side, one of them without an answer now and then.
            for k in 0..6 {
                let end = if n % 40 == 0 && k == 5 { 0 } else { at + 9 };
                history.push((Put(n * 10 + k), at + 1, end));
            }
            history.push((Read(Some(n * 10 + 2)), at + 9, at + 10));
        }
        assert!(check_all(&history));
        history.push((Read(Some(7)), 5_000, 5_001));
        assert!(!check_all(&history));
    }
}

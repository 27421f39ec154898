//! Is a history linearizable? The search of Wing and Gong with Lowe's memory of what was tried:
//! is there an order of the operations, each placed between its call and its return, in which
//! every answer is what a single copy would have said?

use std::collections::BTreeSet;
use std::fmt::Debug;

/// A single copy of the object.
pub(crate) trait Object: Clone + Ord + Debug {
    /// What is asked, with the answer that was given; `None`: none was, and it may have happened.
    type Op: Debug;

    /// The object after this operation; `None`: the answer is not one that it would give.
    fn step(&self, op: &Self::Op) -> Option<Self>;
}

/// One operation of a history.
#[derive(Debug, Clone)]
pub(crate) struct Event<T> {
    /// Place of the call in the order of all events.
    pub(crate) called: u64,
    /// Place of the return; `None`: it never returned, so it may take effect at any later time, or
    /// never.
    pub(crate) returned: Option<u64>,
    pub(crate) op: T,
}

/// Steps of the search after which it gives up: no history of ours comes near.
const STEPS_MAX: usize = 20_000_000;

/// What the search found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// An order exists.
    Linearizable,
    /// None exists; the number of operations that could be placed at most, and the text of the ones
    /// at the border.
    Broken(String),
    /// Too many orders to try.
    Undecided,
}

/// Looks for an order. Operations must be sorted by their call.
pub(crate) fn check<O: Object>(start: &O, history: &[Event<O::Op>]) -> Verdict {
    let mut search = Search::new(history);
    let mut tried: BTreeSet<(Vec<u64>, O)> = BTreeSet::new();
    let mut state = start.clone();
    let mut path: Vec<(usize, O)> = Vec::new();
    let mut from = 0;
    let mut furthest = 0;
    let mut border = String::new();
    for _ in 0..STEPS_MAX {
        if search.is_done() {
            return Verdict::Linearizable;
        }
        let limit = search.first_return();
        let candidate = search.open(from).find(|at| history[*at].called < limit);
        let Some(at) = candidate else {
            if path.len() >= furthest {
                furthest = path.len();
                border = search.describe(history, &state, limit);
            }
            let Some((last, before)) = path.pop() else { return Verdict::Broken(border) };
            search.put_back(last);
            state = before;
            from = last + 1;
            continue;
        };
        from = at + 1;
        let Some(next) = state.step(&history[at].op) else { continue };
        search.take(at);
        if !tried.insert((search.taken.clone(), next.clone())) {
            search.put_back(at);
            continue;
        }
        path.push((at, std::mem::replace(&mut state, next)));
        from = 0;
    }
    Verdict::Undecided
}

/// Which operations are placed.
struct Search {
    taken: Vec<u64>,
    returns: Vec<Option<u64>>,
    /// Everything below is placed.
    floor: usize,
    left: usize,
}

impl Search {
    fn new<T>(history: &[Event<T>]) -> Self {
        let returns: Vec<Option<u64>> = history.iter().map(|event| event.returned).collect();
        let left = returns.iter().flatten().count();
        Self { taken: vec![0; history.len().div_ceil(64)], returns, floor: 0, left }
    }

    fn is_taken(&self, at: usize) -> bool {
        self.taken[at / 64] >> (at % 64) & 1 == 1
    }

    fn take(&mut self, at: usize) {
        self.taken[at / 64] |= 1 << (at % 64);
        self.left -= usize::from(self.returns[at].is_some());
        while self.floor < self.returns.len() && self.is_taken(self.floor) {
            self.floor += 1;
        }
    }

    fn put_back(&mut self, at: usize) {
        self.taken[at / 64] &= !(1 << (at % 64));
        self.left += usize::from(self.returns[at].is_some());
        self.floor = self.floor.min(at);
    }

    /// All that returned are placed: those that did not need not be.
    fn is_done(&self) -> bool {
        self.left == 0
    }

    fn open(&self, from: usize) -> impl Iterator<Item = usize> {
        (from.max(self.floor)..self.returns.len()).filter(|at| !self.is_taken(*at))
    }

    /// The first return of what is not placed: who was called later must wait for it.
    fn first_return(&self) -> u64 {
        self.open(0).filter_map(|at| self.returns[at]).min().unwrap_or(u64::MAX)
    }

    fn describe<O: Object>(&self, history: &[Event<O::Op>], state: &O, limit: u64) -> String {
        let open: Vec<String> = self
            .open(0)
            .filter(|at| history[*at].called < limit)
            .take(8)
            .map(|at| {
                let Event { called, returned, op } = &history[at];
                format!("[{called}..{}] {op:?}", returned.map_or("?".into(), |r| r.to_string()))
            })
            .collect();
        format!("with {state:?} none of these can be next: {}", open.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
    struct Register(u64);

    #[derive(Debug, Clone)]
    enum Op {
        Write(u64),
        Read(u64),
        Cas(u64, u64, Option<bool>),
    }

    impl Object for Register {
        type Op = Op;
        fn step(&self, op: &Op) -> Option<Self> {
            match op {
                Op::Write(value) => Some(Self(*value)),
                Op::Read(value) => (self.0 == *value).then(|| self.clone()),
                Op::Cas(old, new, held) => {
                    let holds = self.0 == *old;
                    let fits = held.is_none_or(|held| held == holds);
                    fits.then(|| if holds { Self(*new) } else { self.clone() })
                }
            }
        }
    }

    fn history(events: &[(u64, u64, Op)]) -> Vec<Event<Op>> {
        let event = |(called, returned, op): &(u64, u64, Op)| Event {
            called: *called,
            returned: (*returned > 0).then_some(*returned),
            op: op.clone(),
        };
        events.iter().map(event).collect()
    }

    fn judge(events: &[(u64, u64, Op)]) -> bool {
        check(&Register(0), &history(events)) == Verdict::Linearizable
    }

    #[test]
    fn good_histories_pass_and_bad_ones_do_not() {
        use Op::{Cas, Read, Write};
        assert!(judge(&[(1, 2, Write(1)), (3, 4, Read(1))]));
        assert!(!judge(&[(1, 2, Write(1)), (3, 4, Read(0))]), "a stale read");
        assert!(judge(&[(1, 4, Write(1)), (2, 3, Read(0)), (5, 6, Read(1))]));
        assert!(judge(&[(1, 6, Write(1)), (2, 3, Read(1)), (4, 5, Read(1))]));
        assert!(!judge(&[(1, 6, Write(1)), (2, 3, Read(1)), (4, 5, Read(0))]), "back in time");
        // Zero: never returned.
        assert!(judge(&[(1, 0, Write(1)), (2, 3, Read(0)), (4, 5, Read(1))]));
        assert!(judge(&[(1, 0, Write(1)), (2, 3, Read(0)), (4, 5, Read(0))]));
        assert!(!judge(&[(1, 0, Write(1)), (2, 3, Read(1)), (4, 5, Read(0))]));
        let both = [(1, 5, Cas(0, 1, Some(true))), (2, 6, Cas(0, 2, Some(true)))];
        assert!(!judge(&both), "two cannot win");
        let one = [(1, 5, Cas(0, 1, Some(true))), (2, 6, Cas(0, 2, Some(false)))];
        assert!(judge(&one));
        assert!(judge(&[(1, 0, Cas(0, 1, None)), (2, 6, Cas(1, 2, Some(true)))]));
    }

    #[test]
    fn it_agrees_with_trying_all_orders() {
        let rng = rt::Rng::from_seed(5);
        let (mut good, mut bad) = (0, 0);
        for _ in 0..3_000 {
            // Calls and returns in random order, few values: both verdicts are common.
            let mut marks: Vec<usize> = (0..5).flat_map(|n| [n, n]).collect();
            rng.shuffle(&mut marks);
            let mut events = vec![(0, 0, Op::Read(0)); 5];
            for (place, number) in marks.iter().enumerate() {
                let event = &mut events[*number];
                if event.0 == 0 { event.0 = place as u64 + 1 } else { event.1 = place as u64 + 1 }
            }
            for event in &mut events {
                event.2 = match rng.below(3) {
                    0 => Op::Write(rng.below(3)),
                    1 => Op::Read(rng.below(3)),
                    _ => Op::Cas(rng.below(3), rng.below(3), Some(rng.below(2) == 0)),
                };
                if rng.below(5) == 0 {
                    event.1 = 0;
                }
            }
            events.sort_by_key(|event| event.0);
            let events = history(&events);
            let plain = any_order(&Register(0), &mut (0..5).collect(), &events);
            let clever = check(&Register(0), &events) == Verdict::Linearizable;
            assert_eq!(plain, clever, "{events:?}");
            if plain { good += 1 } else { bad += 1 }
        }
        assert!(good > 300 && bad > 300, "{good} {bad}");
    }

    fn any_order(state: &Register, left: &mut Vec<usize>, events: &[Event<Op>]) -> bool {
        if left.iter().all(|at| events[*at].returned.is_none()) {
            return true;
        }
        for place in 0..left.len() {
            let at = left.remove(place);
            let late =
                left.iter().any(|o| events[*o].returned.is_some_and(|r| r < events[at].called));
            let next = if late { None } else { state.step(&events[at].op) };
            let found = next.is_some_and(|next| any_order(&next, left, events));
            left.insert(place, at);
            if found {
                return true;
            }
        }
        false
    }
}

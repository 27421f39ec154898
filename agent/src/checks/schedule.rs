//! Whose turn it is: one heap for all checks of the node.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use model::Name;
use tokio::time::Instant;

/// Void turns that are kept beyond the live ones before they are swept out.
const VOID_MAX: usize = 1_024;

/// Turns to come. An entry of an older generation is void and drops out when its time comes, so
/// that removing costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    heap: BinaryHeap<Reverse<(Instant, Name, u64)>>,
    live: BTreeMap<Name, u64>,
    /// Due, but there were too many under way.
    waiting: VecDeque<(Name, u64)>,
}

impl Schedule {
    /// This check's next turn is then; an older generation of it is void.
    pub(crate) fn plan(&mut self, id: &Name, generation: u64, at: Instant) {
        self.live.insert(id.clone(), generation);
        self.heap.push(Reverse((at, id.clone(), generation)));
        // A check that is registered again and again leaves a void turn each time.
        if self.heap.len() > 2 * self.live.len() + VOID_MAX {
            let live = &self.live;
            self.heap.retain(|Reverse((_, id, generation))| live.get(id) == Some(generation));
        }
    }

    /// The check is gone.
    pub(crate) fn forget(&mut self, id: &str) {
        self.live.remove(id);
    }

    /// Whether this generation of the check still counts.
    pub(crate) fn is_live(&self, id: &str, generation: u64) -> bool {
        self.live.get(id) == Some(&generation)
    }

    /// The next check whose turn has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(Name, u64)> {
        while let Some(Reverse((at, _, _))) = self.heap.peek() {
            if *at > now {
                break;
            }
            if let Some(Reverse((_, id, generation))) = self.heap.pop() {
                self.waiting.push_back((id, generation));
            }
        }
        while let Some((id, generation)) = self.waiting.pop_front() {
            if self.is_live(&id, generation) {
                return Some((id, generation));
            }
        }
        None
    }

    /// When the next turn comes; `None`: never. Those that wait for room have no time.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_time_order_and_void_ones_drop_out() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let (a, b): (Name, Name) = ("a".into(), "b".into());
        let mut schedule = Schedule::default();
        schedule.plan(&b, 1, now + 2 * second);
        schedule.plan(&a, 2, now + second);
        assert_eq!(schedule.next(), Some(now + second));
        assert_eq!(schedule.pop_due(now), None);
        assert_eq!(schedule.pop_due(now + 3 * second), Some((a.clone(), 2)));
        assert_eq!(schedule.pop_due(now + 3 * second), Some((b.clone(), 1)));
        schedule.plan(&a, 3, now + 4 * second);
        schedule.plan(&a, 4, now + 5 * second);
        schedule.plan(&b, 5, now + 4 * second);
        schedule.forget("b");
        assert_eq!(schedule.pop_due(now + 4 * second), None);
        assert_eq!(schedule.pop_due(now + 5 * second), Some((a, 4)));
        assert_eq!(schedule.next(), None);
        for generation in 0..10_000 {
            schedule.plan(&b, generation, now + 9 * second);
        }
        assert!(schedule.heap.len() < 2_000, "{}", schedule.heap.len());
        assert_eq!(schedule.pop_due(now + 9 * second), Some((b, 9_999)));
    }
}

//! The recent changes, kept beside the state by its driver.
//!
//! Bounded by bytes and by age in cluster time. Rebuilt by replaying the log's tail at start and
//! empty after a snapshot was installed, so its oldest index differs between servers.

use std::collections::VecDeque;
use std::sync::Arc;

use model::LogIndex;

use crate::change::{Change, Changes};

/// Bytes of changes that are kept.
pub const RING_BYTES_MAX: usize = 64 << 20;
/// Age, in milliseconds of cluster time, after which changes are dropped.
pub const RING_AGE_MS_MAX: u64 = 600_000;

/// Changes of recent log entries, oldest first.
#[derive(Debug)]
pub struct ChangeRing {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
    age_ms_max: u64,
    /// Changes above this index are complete.
    complete_after: LogIndex,
}

#[derive(Debug)]
struct Entry {
    index: LogIndex,
    time_ms: u64,
    bytes: usize,
    changes: Arc<[Change]>,
}

impl ChangeRing {
    /// An empty ring that knows nothing up to and including `applied`.
    pub fn new(applied: LogIndex) -> Self {
        Self::with_limits(applied, RING_BYTES_MAX, RING_AGE_MS_MAX)
    }

    /// The same with other limits.
    pub fn with_limits(applied: LogIndex, bytes_max: usize, age_ms_max: u64) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, bytes_max, age_ms_max, complete_after: applied }
    }

    /// Forgets everything: after a snapshot was installed at this index.
    pub fn reset(&mut self, applied: LogIndex) {
        *self = Self::with_limits(applied, self.bytes_max, self.age_ms_max);
    }

    /// Keeps the changes of the entry at `index`, which must be above all before it.
    pub fn push(&mut self, index: LogIndex, cluster_time_ms: u64, changes: Changes) {
        if !changes.is_empty() {
            let bytes = changes.iter().map(Change::weight).sum();
            self.bytes = self.bytes.saturating_add(bytes);
            self.entries.push_back(Entry {
                index,
                time_ms: cluster_time_ms,
                bytes,
                changes: changes.into(),
            });
        }
        let oldest_ms = cluster_time_ms.saturating_sub(self.age_ms_max);
        while let Some(first) = self.entries.front() {
            if self.bytes <= self.bytes_max && first.time_ms >= oldest_ms {
                break;
            }
            self.bytes -= first.bytes;
            self.complete_after = first.index;
            self.entries.pop_front();
        }
    }

    /// All changes above `index`, by entry; `None` when some of them are gone already.
    pub fn since(&self, index: LogIndex) -> Option<impl Iterator<Item = &Arc<[Change]>>> {
        if index < self.complete_after {
            return None;
        }
        let from = self.entries.partition_point(|entry| entry.index <= index);
        Some(self.entries.range(from..).map(|entry| &entry.changes))
    }

    /// The lowest index that [`ChangeRing::since`] can be asked for.
    pub fn complete_after(&self) -> LogIndex {
        self.complete_after
    }

    /// Bytes held, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Key, Table};

    fn change(index: u64) -> Changes {
        vec![Change {
            namespace: "default".into(),
            index: LogIndex(index),
            table: Table::Kv,
            key: Key::Kv("k".into()),
            before: None,
            after: None,
            raised: None,
        }]
    }

    fn indexes(ring: &ChangeRing, since: u64) -> Option<Vec<u64>> {
        Some(ring.since(LogIndex(since))?.flat_map(|c| c.iter().map(|c| c.index.0)).collect())
    }

    #[test]
    fn what_is_held_is_complete_and_what_is_not_is_said() {
        let mut ring = ChangeRing::with_limits(LogIndex(10), usize::MAX, 100);
        ring.push(LogIndex(11), 1_000, change(11));
        ring.push(LogIndex(12), 1_000, Vec::new());
        ring.push(LogIndex(13), 1_050, change(13));
        assert_eq!(indexes(&ring, 9), None);
        assert_eq!(indexes(&ring, 10), Some(vec![11, 13]));
        assert_eq!(indexes(&ring, 12), Some(vec![13]));
        assert_eq!(indexes(&ring, 13), Some(vec![]));
        // 11 is now older than 100 ms, 13 is not.
        ring.push(LogIndex(14), 1_101, Vec::new());
        assert_eq!(indexes(&ring, 10), None);
        assert_eq!(indexes(&ring, 11), Some(vec![13]));
        ring.reset(LogIndex(20));
        assert_eq!(indexes(&ring, 19), None);
        assert_eq!(indexes(&ring, 20), Some(vec![]));
    }

    #[test]
    fn bytes_are_bounded_even_by_one_large_entry() {
        let one = change(1)[0].weight();
        let mut ring = ChangeRing::with_limits(LogIndex(0), 2 * one, u64::MAX);
        for index in 1..=5 {
            ring.push(LogIndex(index), 0, change(index));
            assert!(ring.bytes() <= 2 * one);
        }
        assert_eq!(ring.complete_after(), LogIndex(3));
        assert_eq!(indexes(&ring, 3), Some(vec![4, 5]));
        ring.push(LogIndex(6), 0, (0..9).flat_map(|_| change(6)).collect());
        assert_eq!((ring.bytes(), ring.complete_after()), (0, LogIndex(6)));
    }
}

//! When a snapshot is taken and how much log stays behind it, by entries and by bytes.

use super::timing::KEPT_ENTRIES;

/// Bytes of log after which a snapshot is taken.
const SNAPSHOT_LOG_BYTES: u64 = 128 << 20;

/// Bytes of log that stay behind a snapshot, for followers that lag.
const KEPT_BYTES: u64 = 64 << 20;

/// What the decision rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Index of the last applied entry.
    pub(crate) applied: u64,
    /// Index that the newest snapshot covers; 0: there is none.
    pub(crate) snapshot: u64,
    /// Bytes of log behind the newest snapshot.
    pub(crate) bytes_since: u64,
    /// Entries after which a snapshot is taken.
    pub(crate) threshold: u64,
}

impl Facts {
    /// Whether it is time for a snapshot.
    pub(crate) fn is_due(&self) -> bool {
        let entries = self.applied.saturating_sub(self.snapshot);
        entries > 0 && (entries >= self.threshold.max(1) || self.bytes_since >= SNAPSHOT_LOG_BYTES)
    }
}

/// The last index that need not stay in the log, given the index that the newest snapshot covers,
/// the last purged one, and the lowest one behind which at most [`KEPT_BYTES`] lie.
pub(crate) fn purge_upto(snapshot: u64, purged: u64, keeping: impl Fn(u64) -> u64) -> Option<u64> {
    let by_entries = snapshot.saturating_sub(KEPT_ENTRIES);
    let by_bytes = keeping(KEPT_BYTES).min(snapshot);
    Some(by_entries.max(by_bytes)).filter(|upto| *upto > purged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_due_by_entries_or_bytes_whichever_is_first() {
        let idle = Facts { applied: 60_000, snapshot: 60_000, bytes_since: 0, threshold: 50_000 };
        for (facts, due) in [
            (idle, false),
            (Facts { bytes_since: SNAPSHOT_LOG_BYTES, ..idle }, false),
            (Facts { snapshot: 10_001, ..idle }, false),
            (Facts { snapshot: 10_000, ..idle }, true),
            (Facts { snapshot: 59_999, bytes_since: SNAPSHOT_LOG_BYTES, ..idle }, true),
            (Facts { snapshot: 59_999, threshold: 0, ..idle }, true),
        ] {
            assert_eq!(facts.is_due(), due, "{facts:?}");
        }
    }

    #[test]
    fn the_log_behind_a_snapshot_is_bounded_in_entries_and_bytes_and_never_passes_it() {
        assert_eq!(purge_upto(50_000, 0, |_| 0), Some(30_000));
        assert_eq!(purge_upto(50_000, 30_000, |_| 0), None);
        assert_eq!(purge_upto(50_000, 0, |_| 49_000), Some(49_000));
        assert_eq!(purge_upto(50_000, 0, |_| 70_000), Some(50_000));
        assert_eq!(purge_upto(100, 0, |_| 0), None);
    }
}

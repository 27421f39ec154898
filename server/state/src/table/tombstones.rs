//! What remains of deleted keys and prefixes, so that lists show an index above the deletion.

use std::ops::Bound;

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};
use model::LogIndex;

/// Index of the deletion, by key or prefix.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tombstones {
    rows: OrdMap<Bytes, LogIndex>,
    by_index: OrdSet<(LogIndex, Bytes)>,
}

impl Tombstones {
    /// Highest index among those whose key starts with the prefix.
    pub(crate) fn max_under(&self, prefix: &[u8]) -> LogIndex {
        self.rows
            .range::<_, [u8]>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, index)| *index)
            .max()
            .unwrap_or(LogIndex::ZERO)
    }

    /// Highest index among those whose key is a prefix of this text.
    pub(crate) fn max_above(&self, text: &[u8]) -> LogIndex {
        let mut highest = LogIndex::ZERO;
        let mut rest = text;
        while let Some((key, index)) =
            self.rows.range::<_, [u8]>((Bound::Unbounded, Bound::Included(rest))).next_back()
        {
            // No longer prefix of the text sorts between `key` and `rest`.
            let common = key.iter().zip(rest).take_while(|(a, b)| a == b).count();
            let shorter = if common == key.len() {
                highest = highest.max(*index);
                common.checked_sub(1)
            } else {
                Some(common)
            };
            match shorter.and_then(|len| rest.get(..len)) {
                Some(shorter) => rest = shorter,
                None => break,
            }
        }
        highest
    }

    pub(crate) fn max(&self) -> Option<LogIndex> {
        self.by_index.get_max().map(|(index, _)| *index)
    }

    pub(crate) fn put(&mut self, key: Bytes, index: LogIndex) -> Option<LogIndex> {
        let before = self.rows.insert(key.clone(), index);
        if let Some(before) = before {
            self.by_index.remove(&(before, key.clone()));
        }
        self.by_index.insert((index, key));
        before
    }

    /// Forgets those with an index at or below this one.
    pub(crate) fn reap(&mut self, up_to: LogIndex) {
        while let Some((index, key)) = self.by_index.get_min().cloned() {
            if index > up_to {
                break;
            }
            self.by_index.remove(&(index, key.clone()));
            self.rows.remove(&key);
        }
    }

    /// All rows, cheaply detached.
    pub(crate) fn rows(&self) -> OrdMap<Bytes, LogIndex> {
        self.rows.clone()
    }

    pub(crate) fn verify(&self) -> Result<(), String> {
        let by_index: OrdSet<_> =
            self.rows.iter().map(|(key, index)| (*index, key.clone())).collect();
        if by_index != self.by_index {
            return Err("index of tombstones does not follow from their rows".into());
        }
        Ok(())
    }
}

//! Keys that must not be locked for a while, because their holder's session ended.
//!
//! Decided in apply on cluster time, so a new leader knows them and replicas agree.

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};

/// Cluster time in milliseconds until which locking is refused, by key.
#[derive(Debug, Clone, Default)]
pub(crate) struct LockDelays {
    rows: OrdMap<Bytes, u64>,
    by_time: OrdSet<(u64, Bytes)>,
}

impl LockDelays {
    pub(crate) fn active(&self, key: &[u8], now_ms: u64) -> bool {
        self.rows.get(key).is_some_and(|until_ms| *until_ms > now_ms)
    }

    /// A later end replaces an earlier one, and the other way round: the last session decides.
    pub(crate) fn put(&mut self, key: Bytes, until_ms: u64) -> Option<u64> {
        let before = self.rows.insert(key.clone(), until_ms);
        if let Some(before) = before {
            self.by_time.remove(&(before, key.clone()));
        }
        self.by_time.insert((until_ms, key));
        before
    }

    /// Forgets those that have passed.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        while let Some((until_ms, key)) = self.by_time.get_min().cloned() {
            if until_ms > now_ms {
                break;
            }
            self.by_time.remove(&(until_ms, key.clone()));
            self.rows.remove(&key);
        }
    }

    /// All rows, cheaply detached.
    pub(crate) fn rows(&self) -> OrdMap<Bytes, u64> {
        self.rows.clone()
    }

    pub(crate) fn verify(&self) -> Result<(), String> {
        let by_time: OrdSet<_> = self.rows.iter().map(|(key, at)| (*at, key.clone())).collect();
        if by_time != self.by_time {
            return Err("index of lock delays does not follow from their rows".into());
        }
        Ok(())
    }
}

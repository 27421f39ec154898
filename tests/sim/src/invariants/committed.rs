//! What is committed never changes.

use std::collections::{BTreeMap, BTreeSet};

use model::command::{EnvelopeV1, RetryV1};
use model::wire::{self, Kind};
use server::sim::Seen;

use super::Sight;

/// All that any server ever held for committed.
#[derive(Default)]
pub(crate) struct Ledger {
    entries: BTreeMap<u64, Committed>,
    /// Writes of clients: origin and number.
    writes: BTreeSet<([u8; 16], u64)>,
    term: u64,
}

pub(crate) struct Committed {
    pub(crate) entry: Seen,
    pub(crate) envelope: Option<EnvelopeV1>,
    /// No term above this one had been seen anywhere by then.
    pub(crate) by_term: u64,
}

impl Ledger {
    /// Whether the entry is new.
    pub(super) fn see(&mut self, sight: &Sight, entry: &Seen) -> Result<bool, String> {
        self.term = self.term.max(sight.look.term);
        let index = entry.at.1;
        if let Some(known) = self.entries.get(&index) {
            if known.entry == *entry {
                return Ok(false);
            }
            return Err(format!(
                "committed entry {index} changed: {:?} was committed, server {} has {entry:?}",
                known.entry, sight.server
            ));
        }
        let envelope = match &entry.command {
            None => None,
            Some(bytes) => Some(
                wire::decode::<EnvelopeV1>(Kind::Envelope, bytes, usize::MAX)
                    .map_err(|error| format!("committed entry {index}: {error}"))?,
            ),
        };
        if let Some(retry) = envelope.as_ref().and_then(|envelope| envelope.retry) {
            self.writes.insert((retry.origin.0, retry.seq));
        }
        let by_term = self.term;
        self.entries.insert(index, Committed { entry: entry.clone(), envelope, by_term });
        Ok(true)
    }

    pub(crate) fn get(&self, index: u64) -> Option<&Committed> {
        self.entries.get(&index)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (u64, &Committed)> {
        self.entries.iter().map(|(index, committed)| (*index, committed))
    }

    pub(crate) fn last(&self) -> u64 {
        self.entries.last_key_value().map_or(0, |(index, _)| *index)
    }

    /// Whether a client's write is in it.
    pub(crate) fn holds(&self, retry: &RetryV1) -> bool {
        self.writes.contains(&(retry.origin.0, retry.seq))
    }
}

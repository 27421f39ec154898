//! What must hold at every moment, one rule per file. Each sees every server at every look.

mod committed;
mod completeness;
mod expiry;
mod leaders;
mod matching;
mod monotone;
mod order;
mod replicas;
pub(crate) mod restores;

use std::collections::BTreeMap;
use std::sync::Arc;

use server::sim::{At, Look, Seen};
use state::State;

pub(crate) use self::committed::Ledger;
pub(crate) use self::replicas::Reference;

/// A server at one moment.
pub(crate) struct Sight {
    pub(crate) server: u8,
    /// Counts its starts.
    pub(crate) start: u64,
    pub(crate) now_us: u64,
    pub(crate) look: Look,
    /// Its log, from where it was looked through last (or its uncommitted part) to its end.
    pub(crate) entries: Vec<Seen>,
    pub(crate) state: Arc<State>,
}

/// All rules with what they remember.
#[derive(Default)]
pub(crate) struct Invariants {
    pub(crate) ledger: Ledger,
    pub(crate) reference: Reference,
    pub(crate) expiry: expiry::Expiry,
    pub(crate) restores: restores::Restores,
    leaders: leaders::Leaders,
    matching: matching::Matching,
    completeness: completeness::Completeness,
    monotone: monotone::Monotone,
    order: order::Order,
    /// First entry of a start that was not looked through as committed.
    read: BTreeMap<(u8, u64), u64>,
}

fn index(at: Option<At>) -> u64 {
    at.map_or(0, |(_, index)| index)
}

fn next(at: Option<At>) -> u64 {
    at.map_or(0, |(_, index)| index + 1)
}

impl Invariants {
    /// From which index on the log of this server is to be read for the next look.
    pub(crate) fn read_from(&self, server: u8, start: u64, look: &Look) -> u64 {
        // The first entry of all has index 0.
        let first = next(look.purged);
        if self.completeness.wants_all(server, look) {
            return first;
        }
        self.read.get(&(server, start)).copied().unwrap_or(0).max(first)
    }

    /// Judges one server.
    pub(crate) fn see(&mut self, sight: &Sight) -> Result<(), String> {
        let look = &sight.look;
        self.leaders.see(sight)?;
        self.monotone.see(sight)?;
        self.order.see(sight)?;
        self.matching.see(sight)?;
        self.completeness.see(sight, &self.ledger)?;
        let end = next(look.committed).min(next(look.last));
        for entry in sight.entries.iter().filter(|entry| entry.at.1 < end) {
            if self.ledger.see(sight, entry)? {
                self.expiry.see(entry, sight.now_us)?;
            }
        }
        let before = self.restores.happened().len();
        self.reference.follow(&self.ledger, &mut self.restores)?;
        if self.restores.happened().len() > before {
            self.expiry.restored();
        }
        self.reference.see(sight)?;
        self.read.insert((sight.server, sight.start), end);
        Ok(())
    }
}

//! Leader completeness: a leader has all that was committed before its term (Raft §5.4.3).

use std::collections::{BTreeMap, BTreeSet};

use server::sim::Look;

use super::{Ledger, Sight, next};

#[derive(Default)]
pub(super) struct Completeness(BTreeSet<(u8, u64)>);

impl Completeness {
    /// A leader of a term that was not seen before is looked through from the start of its log.
    pub(super) fn wants_all(&self, server: u8, look: &Look) -> bool {
        look.leads && !self.0.contains(&(server, look.term))
    }

    pub(super) fn see(&mut self, sight: &Sight, ledger: &Ledger) -> Result<(), String> {
        let (server, look) = (sight.server, &sight.look);
        if !self.wants_all(server, look) {
            return Ok(());
        }
        let first = next(look.purged);
        let held: BTreeMap<u64, u64> =
            sight.entries.iter().map(|entry| (entry.at.1, entry.at.0)).collect();
        for (at, committed) in ledger.all() {
            let before = committed.by_term < look.term;
            if before && at >= first && held.get(&at) != Some(&committed.entry.at.0) {
                return Err(format!(
                    "leader completeness: server {server} leads term {} without entry {at} of term \
                     {}, committed before",
                    look.term, committed.entry.at.0
                ));
            }
        }
        self.0.insert((server, look.term));
        Ok(())
    }
}

//! Log matching: entries of one index and term are equal, and so is all before them.

use std::collections::BTreeMap;

use server::sim::{At, Seen};

use super::Sight;

#[derive(Default)]
pub(super) struct Matching {
    entries: BTreeMap<(u64, u64), Seen>,
    /// Term of the entry before.
    before: BTreeMap<(u64, u64), u64>,
}

fn key((term, index): At) -> (u64, u64) {
    (index, term)
}

impl Matching {
    pub(super) fn see(&mut self, sight: &Sight) -> Result<(), String> {
        for entry in &sight.entries {
            let known = self.entries.entry(key(entry.at)).or_insert_with(|| entry.clone());
            if known != entry {
                let server = sight.server;
                return Err(format!("log matching: server {server} has {entry:?}, not {known:?}"));
            }
        }
        for two in sight.entries.windows(2) {
            let [first, second] = two else { continue };
            let ((first_term, first_index), (term, index)) = (first.at, second.at);
            if first_index + 1 != index || first_term > term {
                let server = sight.server;
                return Err(format!(
                    "server {server}: entry {index} of term {term} follows entry {first_index} of \
                     term {first_term}"
                ));
            }
            let known = *self.before.entry(key(second.at)).or_insert(first_term);
            if known != first_term {
                return Err(format!(
                    "log matching: entry {index} of term {term} follows terms {known} and {first_term}"
                ));
            }
        }
        Ok(())
    }
}

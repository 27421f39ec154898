//! Equal applied index, equal state: compared with a copy that applies the ledger from its start,
//! entry by entry. The state's own invariants are checked beside it.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::LogIndex;
use model::row::KvV1;
use state::State;
use std::sync::Arc;

use super::restores::Restores;
use super::{Ledger, Sight};

/// Looks after which a server's whole state is checked again.
const VERIFY_EVERY: u64 = 50;

/// The copy.
#[derive(Default)]
pub(crate) struct Reference {
    state: State,
    next: u64,
    hashes: BTreeMap<LogIndex, u64>,
    /// Every version of every key.
    versions: BTreeMap<(Bytes, LogIndex), Arc<KvV1>>,
    looks: u64,
}

impl Reference {
    pub(super) fn follow(
        &mut self,
        ledger: &Ledger,
        restores: &mut Restores,
    ) -> Result<(), String> {
        while let Some(committed) = ledger.get(self.next) {
            if let Some(envelope) = &committed.envelope {
                let index = LogIndex(self.next);
                let epoch = self.state.epoch();
                let done = state::apply(&mut self.state, &[(index, envelope.clone())]);
                for change in done.iter().flat_map(|(_, changes)| changes) {
                    if let Some(state::Row::Kv(row)) = &change.after {
                        self.versions.insert((row.key.clone(), row.modify_index), Arc::clone(row));
                    }
                }
                self.hashes.insert(index, self.state.hash());
                restores.see(index, &envelope.command, &self.state, self.state.epoch() != epoch)?;
                if self.next.is_multiple_of(VERIFY_EVERY) {
                    self.state.verify().map_err(|what| format!("state: {what}"))?;
                }
            }
            self.next += 1;
        }
        Ok(())
    }

    pub(super) fn see(&mut self, sight: &Sight) -> Result<(), String> {
        let (index, hash) = (sight.state.applied(), sight.state.hash());
        if index > LogIndex::ZERO && index.0 < self.next {
            let wanted = self.hashes.get(&index);
            if wanted != Some(&hash) {
                return Err(format!(
                    "replicas differ: the state of server {} at entry {index} has hash {hash:x}, \
                     not {wanted:x?}",
                    sight.server
                ));
            }
        }
        self.looks += 1;
        if self.looks.is_multiple_of(VERIFY_EVERY) {
            let verified = sight.state.verify();
            verified.map_err(|what| format!("state of server {}: {what}", sight.server))?;
        }
        Ok(())
    }

    /// Whether this version of a key was ever committed.
    pub(crate) fn version(&self, key: &Bytes, index: LogIndex) -> Option<&Arc<KvV1>> {
        self.versions.get(&(key.clone(), index))
    }

    /// The newest state.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }
}

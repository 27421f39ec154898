//! What a restore brings is what was there at the index that its archive is of, and until its last
//! entry, or if there is none, nothing changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use model::LogIndex;
use model::command::{Command, RestoreId};
use model::row::{KvV1, NodeV1, SessionV1};
use model::rpc::{Body, Op};
use state::State;
use state::snapshot::Loader;

/// Bytes of the length before each block of a restore.
const LENGTH_BYTES: usize = 4;

/// The tables that the simulation's clients write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tables {
    keys: Vec<Arc<KvV1>>,
    pub(crate) sessions: Vec<Arc<SessionV1>>,
    nodes: Vec<Arc<NodeV1>>,
}

impl Tables {
    fn of(state: &State) -> Self {
        let read = |op| state::query(state, "default", &op).map(|found| found.body);
        let keys = match read(Op::KvList { prefix: Bytes::new() }) {
            Some(Body::KvEntries(keys)) => keys,
            _ => Vec::new(),
        };
        let sessions = match read(Op::SessionList) {
            Some(Body::Sessions(sessions)) => sessions,
            _ => Vec::new(),
        };
        let nodes = match read(Op::Nodes { meta: Default::default() }) {
            Some(Body::Nodes(nodes)) => nodes,
            _ => Vec::new(),
        };
        Self { keys, sessions, nodes }
    }

    pub(crate) fn value(&self, key: &Bytes) -> Option<&KvV1> {
        self.keys.iter().find(|row| row.key == *key).map(|row| &**row)
    }
}

/// All restores of the log.
#[derive(Default)]
pub(crate) struct Restores {
    /// What each entry left behind. Whole tables, so only where something is restored.
    kept: Option<BTreeMap<LogIndex, Tables>>,
    /// Pieces of those under way; one may be refused because of another.
    staged: BTreeMap<RestoreId, Vec<u8>>,
    happened: BTreeMap<LogIndex, LogIndex>,
}

impl Restores {
    /// From now on the tables of each index are kept.
    pub(crate) fn keep(&mut self) {
        self.kept.get_or_insert_default();
    }

    /// The tables as of this index.
    pub(crate) fn tables(&self, index: LogIndex) -> Option<&Tables> {
        self.kept.as_ref()?.get(&index)
    }

    /// The entries that swapped the tables, and the index that each archive is of.
    pub(crate) fn happened(&self) -> &BTreeMap<LogIndex, LogIndex> {
        &self.happened
    }

    /// The entry at this index was applied.
    pub(super) fn see(
        &mut self,
        index: LogIndex,
        command: &Command,
        state: &State,
        swapped: bool,
    ) -> Result<(), String> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        let now = Tables::of(state);
        let wanted = match command {
            Command::RestoreChunkV1(chunk) => {
                let bytes = self.staged.entry(chunk.id).or_default();
                if bytes.len() as u64 == chunk.offset {
                    bytes.extend_from_slice(&chunk.bytes);
                }
                kept.last_key_value().map(|(_, tables)| tables)
            }
            Command::RestoreAbortV1(_) => kept.last_key_value().map(|(_, tables)| tables),
            Command::RestoreCommitV1(_) if !swapped => {
                kept.last_key_value().map(|(_, tables)| tables)
            }
            Command::RestoreCommitV1(commit) => {
                let staged = self.staged.remove(&commit.id);
                let bytes = staged.ok_or_else(|| format!("entry {index} restored nothing"))?;
                let archive = applied(&bytes)?;
                self.happened.insert(index, archive);
                let tables = kept.get(&archive);
                Some(tables.ok_or_else(|| format!("an archive of index {archive} was restored"))?)
            }
            _ if swapped => return Err(format!("entry {index} is no restore and begins an epoch")),
            _ => None,
        };
        if let Some(wanted) = wanted.filter(|wanted| **wanted != now) {
            let what = if swapped { "the restore" } else { "a part of a restore" };
            return Err(format!("{what} in entry {index} left {now:?}, not {wanted:?}"));
        }
        kept.insert(index, now);
        Ok(())
    }
}

/// The index that the state in these pieces is of.
fn applied(mut bytes: &[u8]) -> Result<LogIndex, String> {
    let mut loader = Loader::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (block, rest) = rest.split_at_checked(length).ok_or("a restore ends in a block")?;
        loader.push(block).map_err(|cause| cause.to_string())?;
        bytes = rest;
    }
    Ok(loader.finish().map_err(|cause| cause.to_string())?.applied())
}

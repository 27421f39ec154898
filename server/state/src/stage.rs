//! A state that arrives in pieces to replace this one. It waits beside the tables, invisible to
//! readers, part of snapshots and of the running hash.

use bytes::{Buf as _, Bytes};
use imbl::Vector;
use model::LogIndex;
use model::command::{
    RESTORE_CHUNK_BYTES_MAX, Rejection, RestoreChunkV1, RestoreCommitV1, RestoreId,
};
use sha2::{Digest as _, Sha256};

use crate::snapshot::{BLOCK_BYTES_MAX, Loader};
use crate::state::State;

/// Bytes that may be staged: what a server could hold as its state.
pub const STAGE_BYTES_MAX: u64 = 16 << 30;

/// Cluster time in milliseconds without a piece after which the stage is dropped: whoever sent them
/// is gone.
pub const STAGE_MS_MAX: u64 = 10 * 60 * 1_000;

/// Bytes of the length before each block.
const LENGTH_BYTES: usize = 4;

/// What was received so far of one restore.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    id: RestoreId,
    pieces: Vector<Bytes>,
    bytes: u64,
    /// Cluster time of the last piece.
    last_ms: u64,
    /// Of the pieces so far.
    sha256: Sha256,
}

fn refused(text: impl Into<String>) -> Rejection {
    Rejection::Other(text.into())
}

/// A block as it stands in the pieces of a restore.
pub fn frame(block: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(block.len()).ok()?;
    let mut framed = Vec::with_capacity(LENGTH_BYTES + block.len());
    framed.extend_from_slice(&length.to_le_bytes());
    framed.extend_from_slice(block);
    Some(framed)
}

impl Stage {
    /// An empty one; a snapshot that holds pieces adds them.
    pub(crate) fn new(id: RestoreId, last_ms: u64) -> Self {
        Self { id, pieces: Vector::new(), bytes: 0, last_ms, sha256: Sha256::new() }
    }

    pub(crate) fn id(&self) -> RestoreId {
        self.id
    }

    pub(crate) fn last_ms(&self) -> u64 {
        self.last_ms
    }

    pub(crate) fn pieces(&self) -> Vector<Bytes> {
        self.pieces.clone()
    }

    pub(crate) fn push(&mut self, piece: Bytes) -> Result<(), &'static str> {
        if piece.is_empty() || piece.len() > RESTORE_CHUNK_BYTES_MAX {
            return Err("a piece of a restore is empty or too long");
        }
        let bytes = self.bytes.saturating_add(piece.len() as u64);
        if bytes > STAGE_BYTES_MAX {
            return Err("the restore is larger than a server's state may be");
        }
        self.sha256.update(&piece);
        self.bytes = bytes;
        self.pieces.push_back(piece);
        Ok(())
    }

    /// Whether nothing came for so long that it is given up.
    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.last_ms) >= STAGE_MS_MAX
    }

    /// The state that the pieces make. What has an index above `index` gets this one, so that
    /// indexes go on upwards from here.
    fn state(&self, commit: &RestoreCommitV1, index: LogIndex) -> Result<State, Rejection> {
        if self.bytes != commit.length {
            let (found, wanted) = (self.bytes, commit.length);
            return Err(refused(format!("{found} bytes of the restore came, not {wanted}")));
        }
        if self.sha256.clone().finalize()[..] != commit.sha256 {
            return Err(refused("the pieces of the restore do not have its checksum"));
        }
        let mut blocks = Blocks { pieces: self.pieces.iter(), piece: &[] };
        let mut loader = Loader::capped(index);
        while let Some(block) = blocks.next()? {
            loader.push(&block).map_err(|cause| refused(cause.to_string()))?;
        }
        loader.finish().map_err(|cause| refused(cause.to_string()))
    }
}

/// Cuts pieces into blocks.
struct Blocks<'a, I> {
    pieces: I,
    piece: &'a [u8],
}

impl<'a, I: Iterator<Item = &'a Bytes>> Blocks<'a, I> {
    fn next(&mut self) -> Result<Option<Vec<u8>>, Rejection> {
        let Some(length) = self.take(LENGTH_BYTES)? else { return Ok(None) };
        let length = usize::try_from(length.as_slice().get_u32_le()).unwrap_or(usize::MAX);
        if length > BLOCK_BYTES_MAX {
            return Err(refused(format!("a block of {length} bytes in the restore")));
        }
        match self.take(length)? {
            Some(block) => Ok(Some(block)),
            None => Err(refused("the restore ends within a block")),
        }
    }

    /// The next bytes; `None` when there are none at all.
    fn take(&mut self, count: usize) -> Result<Option<Vec<u8>>, Rejection> {
        let mut taken = Vec::new();
        while taken.len() < count {
            if self.piece.is_empty() {
                match self.pieces.next() {
                    Some(piece) => self.piece = piece,
                    None if taken.is_empty() => return Ok(None),
                    None => return Err(refused("the restore ends within a block")),
                }
            }
            let (now, rest) = self.piece.split_at(self.piece.len().min(count - taken.len()));
            taken.extend_from_slice(now);
            self.piece = rest;
        }
        Ok(Some(taken))
    }
}

impl State {
    /// The restore under way, if there is one.
    pub fn restoring(&self) -> Option<RestoreId> {
        self.stage.as_deref().map(Stage::id)
    }

    pub(crate) fn stage_piece(&mut self, chunk: &RestoreChunkV1) -> Result<(), Rejection> {
        let now_ms = self.cluster_time_ms;
        let mut stage = match &self.stage {
            None if chunk.offset == 0 => Stage::new(chunk.id, now_ms),
            None => return Err(refused("this restore is not under way: begin it anew")),
            Some(stage) if stage.id != chunk.id => {
                return Err(refused("another restore is under way: try again later"));
            }
            Some(stage) => Stage::clone(stage),
        };
        if stage.bytes != chunk.offset {
            let (at, wanted) = (chunk.offset, stage.bytes);
            let text = format!("a piece of the restore at byte {at} came where {wanted} is next");
            return Err(refused(text));
        }
        stage.push(chunk.bytes.clone()).map_err(refused)?;
        stage.last_ms = now_ms;
        self.stage = Some(stage.into());
        Ok(())
    }

    /// Swaps the tables. Whatever comes of it, the stage is gone.
    pub(crate) fn restore(
        &mut self,
        commit: &RestoreCommitV1,
        index: LogIndex,
    ) -> Result<(), Rejection> {
        let Some(stage) = self.stage.clone().filter(|stage| stage.id == commit.id) else {
            return Err(refused("this restore is not under way: begin it anew"));
        };
        self.stage = None;
        let restored = stage.state(commit, index)?;
        let (then_ms, now_ms) = (restored.cluster_time_ms, self.cluster_time_ms);
        let before = std::mem::take(&mut self.spaces);
        self.spaces = restored.spaces;
        for name in before.keys() {
            // Also the readers of a namespace that is gone must see their index rise.
            self.spaces.entry(name.clone()).or_default();
        }
        let names: Vec<_> = self.spaces.keys().cloned().collect();
        for name in names {
            if let Some(space) = self.spaces.get_mut(&name) {
                std::sync::Arc::make_mut(space).restored(index, then_ms, now_ms);
            }
        }
        self.names = restored.names;
        self.epoch = self.epoch.saturating_add(1);
        self.version = self.version.max(restored.version);
        if let Some(mut row) = restored.autopilot {
            std::sync::Arc::make_mut(&mut row).modify_index = index;
            self.autopilot = Some(row);
        }
        Ok(())
    }

    pub(crate) fn abort_restore(&mut self, id: RestoreId) {
        self.stage.take_if(|stage| stage.id == id);
    }

    /// Drops a stage whose sender is gone, and says which.
    pub(crate) fn expire_stage(&mut self) -> Option<RestoreId> {
        let now_ms = self.cluster_time_ms;
        self.stage.take_if(|stage| stage.is_over(now_ms)).map(|stage| stage.id)
    }
}

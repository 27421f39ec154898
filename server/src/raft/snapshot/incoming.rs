//! A snapshot on its way in. When it is cut off, what came is kept: the next transfer of the same
//! snapshot goes on behind it.

use std::fs::File;
use std::io::{self, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::format::{self, Outline, SnapshotError, Source};
use super::shelf::{BUFFER_BYTES, Claim, io_error, lock};
use crate::raft::types::SnapshotMeta;

/// What its sender says of a snapshot; two that agree in all of it have the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) meta: SnapshotMeta,
    /// Size of the file.
    pub(crate) bytes: u64,
    pub(crate) outline: Outline,
}

/// A snapshot that is being received. Dropped unfinished, it is kept in its slot.
pub(crate) struct Incoming {
    /// `None`: it was finished, or is no good.
    part: Option<Part>,
    kept: Slot,
}

/// What was received of a snapshot.
pub(super) struct Part {
    pub(super) announced: Announced,
    pub(super) sink: Sink,
    pub(super) left: u64,
    pub(super) path: PathBuf,
    pub(super) claim: Option<Arc<Claim>>,
}

pub(super) enum Sink {
    File { file: File, directory: PathBuf },
    Memory(Vec<u8>),
}

/// The place for one reception that was cut off.
pub(super) type Slot = Arc<Mutex<Option<Kept>>>;

pub(super) struct Kept {
    part: Part,
    /// [`age`] has seen it once.
    passed: bool,
}

/// What was kept of this very snapshot. What was kept of another is given up.
pub(super) fn take(slot: &Slot, announced: &Announced) -> Option<Part> {
    let kept = lock(slot).take()?;
    (kept.part.announced == *announced).then_some(kept.part)
}

/// Gives up what is kept since before the last call.
pub(super) fn age(slot: &Slot) {
    let given_up = {
        let mut slot = lock(slot);
        match &mut *slot {
            Some(kept) if !kept.passed => {
                kept.passed = true;
                None
            }
            _ => slot.take(),
        }
    };
    // Outside of the lock: it closes a file.
    drop(given_up);
}

impl Part {
    /// Drops what is not whole: a transfer goes on behind a block that was checked.
    pub(super) fn trim(mut self) -> Result<Self, SnapshotError> {
        let came = self.announced.bytes.saturating_sub(self.left);
        let whole = match &mut self.sink {
            Sink::Memory(bytes) => {
                let source = Source { bytes: io::Cursor::new(&bytes[..]), path: self.path.clone() };
                let whole = format::whole_bytes(source, came)?;
                bytes.truncate(usize::try_from(whole).unwrap_or(usize::MAX));
                whole
            }
            Sink::File { file, .. } => {
                let bytes = File::open(&self.path).map_err(io_error("read", &self.path))?;
                let bytes = BufReader::with_capacity(BUFFER_BYTES, bytes);
                let whole = format::whole_bytes(Source { bytes, path: self.path.clone() }, came)?;
                file.set_len(whole).map_err(io_error("cut", &self.path))?;
                file.seek(SeekFrom::Start(whole)).map_err(io_error("write", &self.path))?;
                whole
            }
        };
        self.left = self.announced.bytes.saturating_sub(whole);
        Ok(self)
    }
}

impl Incoming {
    pub(super) fn new(part: Part, kept: &Slot) -> Self {
        Self { part: Some(part), kept: Arc::clone(kept) }
    }

    /// Bytes that are here.
    pub(crate) fn held(&self) -> u64 {
        self.part.as_ref().map_or(0, |part| part.announced.bytes.saturating_sub(part.left))
    }

    /// Takes the next bytes. After an error nothing of it is kept.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let Some(mut part) = self.part.take() else {
            let what = "it was given up before".to_owned();
            return Err(SnapshotError::Damaged { path: PathBuf::from("incoming"), what });
        };
        let Some(left) = part.left.checked_sub(bytes.len() as u64) else {
            let what = "more bytes came than were announced".to_owned();
            return Err(SnapshotError::Damaged { path: part.path, what });
        };
        match &mut part.sink {
            Sink::Memory(all) => all.extend_from_slice(bytes),
            Sink::File { file, .. } => {
                file.write_all(bytes).map_err(io_error("write", &part.path))?;
            }
        }
        part.left = left;
        self.part = Some(part);
        Ok(())
    }

    /// All of it, if all of it came; else it stays kept.
    pub(super) fn whole(mut self) -> Result<Part, SnapshotError> {
        match self.part.take() {
            Some(part) if part.left == 0 => Ok(part),
            part => {
                let left = part.as_ref().map_or(0, |part| part.left);
                let path = part.as_ref().map_or_else(PathBuf::new, |part| part.path.clone());
                self.part = part;
                let what = format!("{left} bytes of it did not come");
                Err(SnapshotError::Damaged { path, what })
            }
        }
    }
}

impl Drop for Incoming {
    /// Does no I/O. At most one is kept: a former one loses its claim, and is removed when the next
    /// snapshot begins.
    fn drop(&mut self) {
        let came = self.held();
        if let Some(part) = self.part.take().filter(|_| came > 0) {
            let former = lock(&self.kept).replace(Kept { part, passed: false });
            // Outside of the lock: it closes a file.
            drop(former);
        }
    }
}

//! Writes zeros into the holes of the log file, ahead of redb.
//!
//! redb doubles its file and leaves the new half a hole. A page's first write then makes the file
//! system allocate blocks and the sync write that down, too: measured with three writers on one
//! disk, a sync takes half the time where the blocks are there already.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Bytes written after one commit: several times what a commit makes the log grow by, and little
/// beside what the next sync writes anyway.
const STEP_BYTES: u64 = 128 << 10;

/// The log file, beside redb's own handle of it.
///
/// Invariant: used between two commits by the thread that commits, so that nobody writes to a hole
/// between its discovery and its end.
#[derive(Debug)]
pub(super) struct Holes {
    file: File,
    /// No hole is below.
    filled: u64,
}

impl Holes {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().write(true).open(path)?, filled: 0 })
    }

    /// Fills the beginning of the first hole, if there is one.
    pub(super) fn fill(&mut self) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        if self.filled >= len {
            self.filled = len;
            return Ok(());
        }
        let hole = self.find(SeekFrom::Hole(self.filled), len)?;
        let end = self.find(SeekFrom::Data(hole), len)?;
        let upto = end.min(hole.saturating_add(STEP_BYTES));
        let zeros = vec![0; usize::try_from(upto - hole).unwrap_or_default()];
        self.file.write_all_at(&zeros, hole)?;
        self.filled = upto;
        Ok(())
    }

    /// Where a hole or data begins; `len`: nowhere.
    fn find(&self, from: SeekFrom, len: u64) -> io::Result<u64> {
        match seek(&self.file, from) {
            Ok(found) => Ok(found.min(len)),
            Err(Errno::NXIO) => Ok(len),
            Err(cause) => Err(cause.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn holes_become_zeros_and_what_was_written_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let file = File::create(&path).expect("a file");
        let len = 3 * STEP_BYTES + 4_096;
        file.set_len(len).expect("room");
        for (at, with) in [(0, 1_u8), (STEP_BYTES + 8_192, 2), (len - 4_096, 3)] {
            file.write_all_at(&[with; 4_096], at).expect("room");
        }
        let before = fs::read(&path).expect("readable");
        let mut holes = Holes::open(&path).expect("open");
        for _ in 0..8 {
            holes.fill().expect("filled");
        }
        assert_eq!(fs::read(&path).expect("readable"), before);
        assert_eq!(holes.find(SeekFrom::Hole(0), len).expect("seekable"), len);

        // The file grows, and shrinks again.
        file.set_len(len + 2 * STEP_BYTES).expect("room");
        holes.fill().expect("filled");
        assert_eq!(holes.find(SeekFrom::Hole(0), u64::MAX).expect("seekable"), len + STEP_BYTES);
        file.set_len(len).expect("shrinks");
        holes.fill().expect("filled");
        assert_eq!(file.metadata().expect("there").len(), len);
    }
}

//! The witness of the last commit: redb alone may roll a damaged newest commit silently back by
//! one, and only a second file can tell.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::raft::fault::{release, release_text};

/// Bytes of the file: magic, format, sequence, release, CRC32 of these. One sector: never torn.
pub(super) const WITNESS_BYTES: usize = 32;
const MAGIC: &[u8; 8] = b"MSTRSEQ\n";
const FORMAT: u32 = 1;

/// Why a witness is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WitnessError {
    /// Not ours.
    #[error("it does not start with the mark of a commit witness")]
    Magic,
    /// Whole, but of a format that we do not know.
    #[error("it has format {format}, and this release reads {FORMAT}")]
    Newer {
        /// Its format.
        format: u32,
        /// Who wrote it.
        release: String,
    },
    /// Its bytes changed since they were written.
    #[error("its checksum does not match")]
    Checksum,
}

/// The bytes that say "commit `sequence` happened".
pub(super) fn encode(sequence: u64) -> [u8; WITNESS_BYTES] {
    encode_as(FORMAT, sequence, release::<8>())
}

fn encode_as(format: u32, sequence: u64, release: [u8; 8]) -> [u8; WITNESS_BYTES] {
    let mut bytes = [0; WITNESS_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&format.to_le_bytes());
    bytes[12..20].copy_from_slice(&sequence.to_le_bytes());
    bytes[20..28].copy_from_slice(&release);
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The sequence that the bytes say.
pub(super) fn decode(bytes: &[u8; WITNESS_BYTES]) -> Result<u64, WitnessError> {
    if bytes[..8] != MAGIC[..] {
        return Err(WitnessError::Magic);
    }
    // Invariant of all formats: 32 bytes, with format, release and checksum at these places.
    if crc32fast::hash(&bytes[..28]).to_le_bytes() != bytes[28..] {
        return Err(WitnessError::Checksum);
    }
    let mut format = [0; 4];
    format.copy_from_slice(&bytes[8..12]);
    match u32::from_le_bytes(format) {
        FORMAT => {}
        format => {
            let release = release_text(&bytes[20..28]);
            return Err(WitnessError::Newer { format, release });
        }
    }
    let mut sequence = [0; 8];
    sequence.copy_from_slice(&bytes[12..20]);
    Ok(u64::from_le_bytes(sequence))
}

/// Where the witness is kept: a file, or a simulated disk's memory.
pub(crate) trait Witness: Send + 'static {
    /// Writes the bytes at offset 0, without waiting for the disk.
    fn write(&mut self, bytes: &[u8; WITNESS_BYTES]) -> io::Result<()>;
}

/// A witness file, held open.
pub(super) struct WitnessFile(File);

impl WitnessFile {
    /// Opens the file and reads what it says; its length must be exact.
    pub(super) fn open(path: &Path) -> io::Result<(Self, [u8; WITNESS_BYTES])> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut bytes = [0; WITNESS_BYTES];
        if file.metadata()?.len() != WITNESS_BYTES as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not 32 bytes long"));
        }
        file.read_exact_at(&mut bytes, 0)?;
        Ok((Self(file), bytes))
    }

    /// Makes the file, safely on disk.
    pub(super) fn create(path: &Path, sequence: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all_at(&encode(sequence), 0)?;
        file.sync_all()
    }
}

impl Witness for WitnessFile {
    fn write(&mut self, bytes: &[u8; WITNESS_BYTES]) -> io::Result<()> {
        self.0.write_all_at(bytes, 0)
    }
}

/// A witness in memory, for simulated disks.
#[derive(Clone, Default)]
pub(crate) struct WitnessMemory {
    said: Arc<Mutex<Option<[u8; WITNESS_BYTES]>>>,
    /// Sees each write, and may refuse it.
    told: Option<Arc<Told>>,
}

type Told = dyn Fn(&[u8; WITNESS_BYTES]) -> io::Result<()> + Send + Sync;

impl WitnessMemory {
    /// One that says this and tells of each write.
    #[cfg(feature = "sim")]
    pub(crate) fn told(said: Option<[u8; WITNESS_BYTES]>, told: Arc<Told>) -> Self {
        Self { said: Arc::new(Mutex::new(said)), told: Some(told) }
    }

    /// What was written last.
    pub(super) fn read(&self) -> Option<[u8; WITNESS_BYTES]> {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for WitnessMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WitnessMemory")
    }
}

impl Witness for WitnessMemory {
    fn write(&mut self, bytes: &[u8; WITNESS_BYTES]) -> io::Result<()> {
        if let Some(told) = &self.told {
            told(bytes)?;
        }
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(*bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_comes_back_and_every_flipped_bit_is_noticed() {
        let good = encode(0x0123_4567_89ab_cdef);
        assert_eq!(decode(&good), Ok(0x0123_4567_89ab_cdef));
        for bit in 0..WITNESS_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_format_is_told_from_damage_and_names_its_release() {
        let newer = encode_as(2, 7, *b"3.14.2\0\0");
        let said = WitnessError::Newer { format: 2, release: "3.14.2".to_owned() };
        assert_eq!(decode(&newer), Err(said));
    }
}

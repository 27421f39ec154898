//! The archive that people save and restore: gzip of a tar with `meta.json`, `state.bin` (our
//! snapshot format) and `SHA256SUMS`, in this order (spec/http-api-1.md §15).
//!
//! An archive comes from outside: names in it never become paths, each member has its limit, and
//! the state is checked block by block while it is unpacked, so that a small archive of nonsense
//! cannot unfold to something large.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use state::State;
use state::snapshot::Loader;

use super::format::{self, SnapshotError, Source};
use crate::raft::types::SnapshotMeta;

const META: &str = "meta.json";
const STATE: &str = "state.bin";
const SUMS: &str = "SHA256SUMS";

/// Bytes that the small members may have.
const SMALL_BYTES_MAX: u64 = 1 << 20;

/// `meta.json`: Consul's fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ArchiveMeta {
    /// Of this description: 1.
    pub version: u32,
    /// `<term>-<index>-<milliseconds>`.
    #[serde(rename = "ID")]
    pub id: String,
    /// Log index of the last entry that the state holds.
    pub index: u64,
    /// Term in which it was taken.
    pub term: u64,
    /// Consul's older form of the configuration; empty.
    #[serde(default)]
    pub peers: String,
    /// The servers at that time.
    pub configuration: Configuration,
    /// Log index of the configuration.
    pub configuration_index: u64,
    /// Bytes of `state.bin`.
    pub size: u64,
}

/// Servers of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Configuration {
    /// All of them.
    pub servers: Vec<Server>,
}

/// A server of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Server {
    /// 0: voter, 1: not.
    pub suffrage: u8,
    /// Identity.
    #[serde(rename = "ID")]
    pub id: String,
    /// Where its RPC listened.
    pub address: String,
}

/// Why an archive is refused. The beginnings are Consul's.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is no gzip, or breaks off.
    #[error("failed to decompress snapshot: {0}")]
    Compression(#[source] io::Error),
    /// It is no tar of the three members, or one does not hold what it should.
    #[error("failed to read snapshot file: {0}")]
    Content(String),
    /// A member is not what it was when the archive was made.
    #[error("failed to read snapshot file: hash check failed for \"{0}\"")]
    Checksum(&'static str),
}

fn content(cause: impl std::fmt::Display) -> ArchiveError {
    ArchiveError::Content(cause.to_string())
}

/// What an archive holds, once all of it was read and checked.
#[derive(Debug)]
pub struct Contents {
    /// `meta.json`.
    pub meta: ArchiveMeta,
    /// How many rows of each sort there are, and their bytes as stored, by name.
    pub rows: BTreeMap<&'static str, (u64, u64)>,
    /// Bytes of the blocks.
    pub bytes: u64,
    state: State,
}

impl Contents {
    /// Every key, with the bytes of its row as stored, roughly.
    pub fn keys(&self) -> Vec<(Bytes, u64)> {
        state::snapshot::keys(&self.state)
    }
}

/// Reads a whole archive and checks it, to tell what is in it.
///
/// # Errors
/// When it is damaged, or no archive of ours.
pub fn inspect(archive: impl Read) -> Result<Contents, ArchiveError> {
    let mut loader = Loader::new();
    let mut bytes = 0;
    let meta = read(archive, |block| {
        bytes += block.len() as u64;
        loader.push(&block).map_err(content)
    })?;
    let rows = loader.census();
    let state = loader.finish().map_err(content)?;
    state.verify().map_err(content)?;
    Ok(Contents { meta, rows, bytes, state })
}

/// Writes an archive of this state. It is walked through twice: the tar says how long the state is
/// before it comes.
pub(crate) fn write(
    out: impl Write,
    mut archive: ArchiveMeta,
    meta: &SnapshotMeta,
    state: &State,
) -> io::Result<()> {
    let mut measured = Sha256::new();
    let mut size = 0;
    for part in format::parts(meta, state::snapshot::dump(state)) {
        let part = part?;
        measured.update(&part);
        size += part.len() as u64;
    }
    archive.size = size;
    let description = serde_json::to_vec(&archive).map_err(io::Error::other)?;
    let sums = format!(
        "{}  {META}\n{}  {STATE}\n",
        hex(&Sha256::digest(&description)),
        hex(&measured.finalize())
    );
    let mut tar = tar::Builder::new(GzEncoder::new(out, Compression::fast()));
    append(&mut tar, META, description.len() as u64, &description[..])?;
    let parts =
        Parts { parts: format::parts(meta, state::snapshot::dump(state)), part: Vec::new(), at: 0 };
    append(&mut tar, STATE, size, parts)?;
    append(&mut tar, SUMS, sums.len() as u64, sums.as_bytes())?;
    tar.into_inner()?.finish()?.flush()
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    size: u64,
    bytes: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_mode(0o600);
    header.set_size(size);
    header.set_cksum();
    tar.append(&header, bytes)
}

/// Parts that follow each other, as something to read.
struct Parts<I> {
    parts: I,
    part: Vec<u8>,
    at: usize,
}

impl<I: Iterator<Item = io::Result<Vec<u8>>>> Read for Parts<I> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.part.len() {
            match self.parts.next() {
                Some(part) => (self.part, self.at) = (part?, 0),
                None => return Ok(0),
            }
        }
        let count = (&self.part[self.at..]).read(out)?;
        self.at += count;
        Ok(count)
    }
}

/// Reads an archive to its end and hands over the state's blocks. What was handed over only counts
/// when this returns a description: the checksums stand last.
pub(crate) fn read(
    archive: impl Read,
    mut block: impl FnMut(Vec<u8>) -> Result<(), ArchiveError>,
) -> Result<ArchiveMeta, ArchiveError> {
    let mut archive = Unpacked { bytes: GzDecoder::new(archive), failed: None };
    let read = members(&mut archive, &mut block);
    // The tar's reader tells the same as its own failure, in other words.
    match archive.failed {
        Some(cause) => Err(ArchiveError::Compression(cause)),
        None => read,
    }
}

/// Remembers that unpacking failed.
struct Unpacked<R> {
    bytes: R,
    failed: Option<io::Error>,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.bytes.read(out).inspect_err(|cause| {
            if cause.kind() != io::ErrorKind::Interrupted {
                self.failed = Some(io::Error::new(cause.kind(), cause.to_string()));
            }
        })
    }
}

fn members<R: Read>(
    archive: &mut Unpacked<R>,
    block: &mut impl FnMut(Vec<u8>) -> Result<(), ArchiveError>,
) -> Result<ArchiveMeta, ArchiveError> {
    let mut tar = tar::Archive::new(&mut *archive);
    // Raw: extensions for long names and the like are members of unknown names to us.
    let mut entries = tar.entries().map_err(content)?.raw(true);
    let mut next = |wanted: &'static str| {
        let entry = entries.next().ok_or_else(|| content(format!("it ends before {wanted}")))?;
        let entry = entry.map_err(content)?;
        if entry.path_bytes() != wanted.as_bytes() || !entry.header().entry_type().is_file() {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            return Err(content(format!("unexpected file {name:?} in snapshot, not {wanted}")));
        }
        Ok(entry)
    };
    let description = small(next(META)?, META)?;
    let meta: ArchiveMeta = serde_json::from_slice(&description)
        .map_err(|cause| content(format!("{META} is not understood: {cause}")))?;
    if meta.version != 1 {
        return Err(content(format!("{META} has version {}, not 1", meta.version)));
    }
    let entry = next(STATE)?;
    if entry.size() != meta.size {
        return Err(content(format!("{STATE} has {} bytes, not {}", entry.size(), meta.size)));
    }
    let mut state = Measured { bytes: entry, sha256: Sha256::new() };
    let mut source = Source { bytes: io::BufReader::new(&mut state), path: PathBuf::from(STATE) };
    source.meta().map_err(in_state)?;
    let mut place = 0;
    while let Some(found) = source.block(place).map_err(in_state)? {
        place += 1;
        block(found)?;
    }
    let found = state.sha256.finalize();
    let sums = small(next(SUMS)?, SUMS)?;
    let sums = std::str::from_utf8(&sums).map_err(content)?;
    for (name, found) in [(META, Sha256::digest(&description)), (STATE, found)] {
        let line = format!("{}  {name}", hex(&found));
        if !sums.lines().any(|said| said == line) {
            return Err(ArchiveError::Checksum(name));
        }
    }
    match entries.next() {
        None => {}
        Some(Ok(entry)) => {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            return Err(content(format!("unexpected file {name:?} in snapshot")));
        }
        Some(Err(cause)) => return Err(content(cause)),
    }
    // Also the checksum of the gzip counts, which stands at its very end.
    io::copy(&mut archive.take(SMALL_BYTES_MAX), &mut io::sink()).map_err(content)?;
    Ok(meta)
}

fn in_state(cause: SnapshotError) -> ArchiveError {
    content(cause)
}

fn small(mut entry: impl Read, name: &str) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = Vec::new();
    (&mut entry).take(SMALL_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(content)?;
    if bytes.len() as u64 > SMALL_BYTES_MAX {
        return Err(content(format!("{name} has more than {SMALL_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

struct Measured<R> {
    bytes: R,
    sha256: Sha256,
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(out)?;
        self.sha256.update(&out[..count]);
        Ok(count)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

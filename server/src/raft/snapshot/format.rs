//! A snapshot's bytes: header, blocks, trailer, each with its checksum. Byte by byte: README.md.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::mpsc;

use model::wire::{self, Kind};
use sha2::{Digest as _, Sha256};
use state::State;
use state::snapshot::Loader;

use crate::raft::fault::{release, release_text};
use crate::raft::mirror::SnapshotMetaV1;
use crate::raft::types::SnapshotMeta;

const MAGIC: &[u8; 8] = b"MSTRSNP\n";
const FORMAT: u32 = 1;

/// Bytes of the name of the release that wrote the file.
const RELEASE_BYTES: usize = 16;

/// Largest description of a configuration.
const META_BYTES_MAX: u32 = 1 << 20;

/// Largest block. The state makes blocks of about 1 MiB; one row may be larger.
const BLOCK_BYTES_MAX: u32 = 64 << 20;

/// Stands where a block's length would, when there are no more.
const END: u32 = u32::MAX;

/// What stands before a block: its length and its checksum.
const FRAME_BYTES: usize = 8;

/// Blocks that wait between the thread that reads and the one that inserts.
const BLOCKS_AHEAD: usize = 4;

/// See [`outline`].
pub(crate) type Outline = [u8; 32];

/// Why a snapshot is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// The file cannot be read or written.
    #[error("cannot {action} snapshot {path}: {cause}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The bytes are not those that were written.
    #[error("snapshot {path} is damaged: {what}")]
    Damaged {
        /// Where.
        path: PathBuf,
        /// The fact.
        what: String,
    },
    /// A newer release wrote it.
    #[error("snapshot {path} of release {release} has format {found}, and this one reads {known}")]
    Newer {
        /// Where.
        path: PathBuf,
        /// Who wrote it.
        release: String,
        /// Its format.
        found: u32,
        /// The newest format that we know.
        known: u32,
    },
}

/// Where bytes of a snapshot come from, with a name for people.
pub(crate) struct Source<R> {
    pub(crate) bytes: R,
    pub(crate) path: PathBuf,
}

/// Writes a whole snapshot.
pub(super) fn write(
    out: &mut impl Write,
    meta: &SnapshotMeta,
    blocks: impl Iterator<Item = Vec<u8>>,
) -> io::Result<()> {
    for part in parts(meta, blocks) {
        out.write_all(&part?)?;
    }
    Ok(())
}

/// A whole snapshot, part by part as it is asked for.
pub(super) fn parts(
    meta: &SnapshotMeta,
    blocks: impl Iterator<Item = Vec<u8>>,
) -> impl Iterator<Item = io::Result<Vec<u8>>> {
    let mut blocks = blocks;
    let mut count = 0_u64;
    let mut ended = false;
    let rest = std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let mut part = Vec::new();
        let Some(block) = blocks.next() else {
            ended = true;
            part.extend_from_slice(&END.to_le_bytes());
            part.extend_from_slice(&checksum(count, b"end").to_le_bytes());
            part.extend_from_slice(&count.to_le_bytes());
            return Some(Ok(part));
        };
        let length = match length(&block) {
            Ok(length) => length,
            Err(cause) => return Some(Err(cause)),
        };
        part.reserve(block.len() + 8);
        part.extend_from_slice(&length.to_le_bytes());
        part.extend_from_slice(&checksum(count, &block).to_le_bytes());
        part.extend_from_slice(&block);
        count += 1;
        Some(Ok(part))
    });
    std::iter::once(head(meta)).chain(rest)
}

fn head(meta: &SnapshotMeta) -> io::Result<Vec<u8>> {
    let meta = wire::encode(Kind::SnapshotBlock, &SnapshotMetaV1::from(meta));
    let mut head = Vec::with_capacity(meta.len() + 40);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&FORMAT.to_le_bytes());
    head.extend_from_slice(&length(&meta)?.to_le_bytes());
    head.extend_from_slice(&release::<RELEASE_BYTES>());
    head.extend_from_slice(&meta);
    let crc = crc32fast::hash(&head);
    head.extend_from_slice(&crc.to_le_bytes());
    Ok(head)
}

fn length(bytes: &[u8]) -> io::Result<u32> {
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= BLOCK_BYTES_MAX);
    length.ok_or_else(|| io::Error::other(format!("a block of {} bytes", bytes.len())))
}

/// Checksum of a block and its place: swapped blocks are noticed.
fn checksum(place: u64, bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&place.to_le_bytes());
    crc.update(bytes);
    crc.finalize()
}

impl<R: Read> Source<R> {
    fn damaged(&self, what: impl Into<String>) -> SnapshotError {
        SnapshotError::Damaged { path: self.path.clone(), what: what.into() }
    }

    fn failed(&self, cause: io::Error) -> SnapshotError {
        if cause.kind() == io::ErrorKind::UnexpectedEof {
            return self.damaged("it is cut short");
        }
        SnapshotError::Io { action: "read", path: self.path.clone(), cause }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut bytes = [0; N];
        self.bytes.read_exact(&mut bytes).map_err(|cause| self.failed(cause))?;
        Ok(bytes)
    }

    /// Reads bytes whose number a file says: memory grows with what is there, not with the claim.
    fn take_vec(&mut self, length: u32) -> Result<Vec<u8>, SnapshotError> {
        let mut bytes = Vec::new();
        let mut limited = (&mut self.bytes).take(length.into());
        limited.read_to_end(&mut bytes).map_err(|cause| self.failed(cause))?;
        if bytes.len() as u64 != u64::from(length) {
            return Err(self.damaged("it is cut short"));
        }
        Ok(bytes)
    }

    /// Reads what the snapshot covers; blocks follow.
    pub(crate) fn meta(&mut self) -> Result<SnapshotMeta, SnapshotError> {
        let mut head = self.take::<{ 16 + RELEASE_BYTES }>()?.to_vec();
        if head[..8] != MAGIC[..] {
            return Err(self.damaged("it does not start with the mark of a snapshot"));
        }
        let field = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&head[at..at + 4]);
            u32::from_le_bytes(bytes)
        };
        // Invariant of all formats: magic, format, length, release, and the checksum behind as many
        // bytes as the length says.
        let (format, length) = (field(8), field(12));
        let release = release_text(&head[16..16 + RELEASE_BYTES]);
        if length > META_BYTES_MAX {
            return Err(self.damaged("its header is too long"));
        }
        let meta = self.take_vec(length)?;
        head.extend_from_slice(&meta);
        if crc32fast::hash(&head).to_le_bytes() != self.take::<4>()? {
            return Err(self.damaged("the checksum of its header does not match"));
        }
        if format > FORMAT {
            return Err(SnapshotError::Newer {
                path: self.path.clone(),
                release,
                found: format,
                known: FORMAT,
            });
        }
        let meta: SnapshotMetaV1 =
            wire::decode(Kind::SnapshotBlock, &meta, META_BYTES_MAX as usize)
                .map_err(|cause| self.damaged(format!("its header is {cause}")))?;
        meta.try_into().map_err(|cause| self.damaged(format!("its header is {cause}")))
    }

    /// The next block, or `None` behind the last; then nothing may follow.
    pub(super) fn block(&mut self, place: u64) -> Result<Option<Vec<u8>>, SnapshotError> {
        let length = u32::from_le_bytes(self.take()?);
        let crc = u32::from_le_bytes(self.take()?);
        if length == END {
            let count = u64::from_le_bytes(self.take()?);
            if count != place || crc != checksum(place, b"end") {
                return Err(self.damaged("its end does not match its blocks"));
            }
            let mut more = [0; 1];
            return match self.bytes.read(&mut more) {
                Ok(0) => Ok(None),
                Ok(_) => Err(self.damaged("bytes follow its end")),
                Err(cause) => Err(self.failed(cause)),
            };
        }
        if length > BLOCK_BYTES_MAX {
            return Err(self.damaged(format!("block {place} is too long")));
        }
        let block = self.take_vec(length)?;
        if checksum(place, &block) != crc {
            return Err(self.damaged(format!("the checksum of block {place} does not match")));
        }
        Ok(Some(block))
    }
}

/// SHA-256 of the header and of the length and checksum of each block and of the end: as good as
/// one of all bytes, at the price of a short read for each block.
pub(super) fn outline<R: Read + Seek>(mut source: Source<R>) -> Result<Outline, SnapshotError> {
    source.meta()?;
    let head = source.at()?;
    source.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    hash.update(source.take_vec(u32::try_from(head).unwrap_or(u32::MAX))?);
    loop {
        let frame: [u8; FRAME_BYTES] = source.take()?;
        hash.update(frame);
        let Some(length) = block_bytes(&frame) else { break };
        source.seek(SeekFrom::Current(length.into()))?;
    }
    hash.update(source.take::<8>()?);
    Ok(hash.finalize().into())
}

/// How many of the first `came` bytes of a file that is not all there are the header and whole
/// blocks, each checked. Anything wrong in them is an error.
pub(super) fn whole_bytes<R: Read + Seek>(
    mut source: Source<R>,
    came: u64,
) -> Result<u64, SnapshotError> {
    source.meta()?;
    let (mut whole, mut place) = (source.at()?, 0);
    while came.saturating_sub(whole) >= FRAME_BYTES as u64 {
        let Some(length) = block_bytes(&source.take()?) else { break };
        let end = whole + FRAME_BYTES as u64 + u64::from(length);
        if end > came {
            break;
        }
        source.back(FRAME_BYTES as i64)?;
        source.block(place)?;
        (whole, place) = (end, place + 1);
    }
    Ok(whole)
}

/// Length of the block behind a frame; `None`: the end is behind it.
fn block_bytes(frame: &[u8; FRAME_BYTES]) -> Option<u32> {
    let [a, b, c, d, ..] = *frame;
    Some(u32::from_le_bytes([a, b, c, d])).filter(|length| *length != END)
}

impl<R: Seek> Source<R> {
    fn at(&mut self) -> Result<u64, SnapshotError> {
        self.seek(SeekFrom::Current(0))
    }

    /// What a reader has buffered stays so.
    fn back(&mut self, bytes: i64) -> Result<(), SnapshotError> {
        let path = &self.path;
        self.bytes.seek_relative(-bytes).map_err(|cause| SnapshotError::Io {
            action: "read",
            path: path.clone(),
            cause,
        })
    }

    fn seek(&mut self, to: SeekFrom) -> Result<u64, SnapshotError> {
        let path = &self.path;
        self.bytes.seek(to).map_err(|cause| SnapshotError::Io {
            action: "read",
            path: path.clone(),
            cause,
        })
    }
}

/// Reads and checks on one thread, inserts on the other.
pub(super) fn load<R: Read + Send>(
    mut source: Source<R>,
) -> Result<(SnapshotMeta, State), SnapshotError> {
    let path = source.path.clone();
    let meta = source.meta()?;
    let state = std::thread::scope(|scope| {
        let (blocks, taken) = mpsc::sync_channel(BLOCKS_AHEAD);
        let reader = std::thread::Builder::new().name("raft-snapshot-read".to_owned());
        let reading = reader.spawn_scoped(scope, move || {
            let mut place = 0;
            while let Some(block) = source.block(place)? {
                place += 1;
                if blocks.send(block).is_err() {
                    break;
                }
            }
            Ok(())
        });
        let reading = reading.map_err(|cause| SnapshotError::Io {
            action: "start a thread for",
            path: path.clone(),
            cause,
        })?;
        let damaged = |cause: state::snapshot::SnapshotError| SnapshotError::Damaged {
            path: path.clone(),
            what: cause.to_string(),
        };
        let mut loader = Loader::new();
        let mut refused = None;
        for block in taken {
            if let Err(cause) = loader.push(&block) {
                refused = Some(damaged(cause));
                break;
            }
        }
        reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        match refused {
            Some(refused) => Err(refused),
            None => loader.finish().map_err(damaged),
        }
    })?;
    Ok((meta, state))
}

//! Where snapshots are kept: `raft/snapshots/<term>-<index>/state.bin`, or memory.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use state::State;

use super::format::{self, Outline, SnapshotError, Source};
use super::incoming::{self, Announced, Incoming, Part, Sink, Slot};
use crate::raft::log::raft_directory;
use crate::raft::types::SnapshotMeta;

const FILE: &str = "state.bin";
const UNFINISHED: &str = ".tmp";

/// Snapshots that are kept: the newest, and one in reserve.
const KEPT: usize = 2;

pub(super) const BUFFER_BYTES: usize = 1 << 20;

/// The place for snapshots. Clones share it.
#[derive(Clone)]
pub(crate) struct Shelf {
    place: Place,
    newest: Arc<Mutex<Option<Stored>>>,
    claims: Claims,
    /// What came of a snapshot whose transfer was cut.
    kept: Slot,
}

/// Unfinished directories that somebody still works on.
type Claims = Arc<Mutex<BTreeSet<PathBuf>>>;

/// Keeps an unfinished directory from being removed. Dropping it does no I/O: the next snapshot
/// that begins removes what was given up.
pub(super) struct Claim {
    claims: Claims,
    directory: PathBuf,
}

impl Claim {
    fn new(claims: &Claims, directory: &Path) -> Arc<Self> {
        let (claims, directory) = (Arc::clone(claims), directory.to_owned());
        lock(&claims).insert(directory.clone());
        Arc::new(Self { claims, directory })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.claims).remove(&self.directory);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone)]
enum Place {
    Directory(PathBuf),
    Memory,
}

/// A whole snapshot on the shelf: a handle, never its bytes in memory (unless the shelf is memory).
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) meta: SnapshotMeta,
    data: Data,
    bytes: u64,
    /// Its state, when it was just verified by loading it: installing need not read it again.
    loaded: Option<Arc<State>>,
    /// While it is received and not installed.
    _claim: Option<Arc<Claim>>,
}

#[derive(Clone)]
enum Data {
    File(PathBuf),
    Memory(Bytes),
}

/// Bytes of a snapshot, at any place of it.
pub(crate) trait Readable: Read + Seek + Send {}

impl<T: Read + Seek + Send> Readable for T {}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "snapshot of {} bytes: {}", self.bytes, self.meta)
    }
}

impl Shelf {
    /// The shelf of a data directory, or one in memory. Unfinished snapshots are removed; the
    /// newest whole one is read and checked.
    pub(crate) fn open(
        data_dir: Option<&Path>,
    ) -> Result<(Self, Option<(SnapshotMeta, State)>), SnapshotError> {
        let (newest, claims, kept) = (Arc::default(), Claims::default(), Slot::default());
        let Some(data_dir) = data_dir else {
            return Ok((Self { place: Place::Memory, newest, claims, kept }, None));
        };
        let directory = raft_directory(data_dir).join("snapshots");
        fs::create_dir_all(&directory).map_err(io_error("make", &directory))?;
        let shelf = Self { place: Place::Directory(directory.clone()), newest, claims, kept };
        shelf.remove_unfinished(&directory)?;
        let Some(path) = sweep_whole(&directory)?.pop() else { return Ok((shelf, None)) };
        let stored = Stored::file(path.join(FILE))?;
        let (meta, state) = stored.load()?;
        let stored = Stored { meta: meta.clone(), ..stored };
        *shelf.newest() = Some(stored);
        Ok((shelf, Some((meta, state))))
    }

    fn newest(&self) -> MutexGuard<'_, Option<Stored>> {
        lock(&self.newest)
    }

    /// Removes what was not finished and is not being worked on.
    fn remove_unfinished(&self, shelf: &Path) -> Result<(), SnapshotError> {
        for item in fs::read_dir(shelf).map_err(io_error("read", shelf))? {
            let path = item.map_err(io_error("read", shelf))?.path();
            let unfinished = path.to_string_lossy().ends_with(UNFINISHED);
            if unfinished && !lock(&self.claims).contains(&path) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// The newest whole snapshot.
    pub(crate) fn current(&self) -> Option<Stored> {
        self.newest().clone()
    }

    /// Writes the state as a snapshot. Reads and sorts all of it: for a thread of its own.
    pub(crate) fn dump(&self, meta: SnapshotMeta, state: &State) -> Result<Stored, SnapshotError> {
        let blocks = state::snapshot::dump(state);
        let (mut sink, path, _claim) = self.sink(&format!("dump-{}", name(&meta)))?;
        match &mut sink {
            Sink::Memory(bytes) => format::write(bytes, &meta, blocks),
            Sink::File { file, .. } => {
                let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
                format::write(&mut out, &meta, blocks).and_then(|()| out.flush())
            }
        }
        .map_err(io_error("write", &path))?;
        self.settle(sink, &path, meta, None)
    }

    /// Begins to receive a snapshot; the name tells receptions apart. What is kept of this very
    /// snapshot from a transfer that was cut is checked and gone on with.
    pub(crate) fn begin(
        &self,
        announced: Announced,
        name: &str,
    ) -> Result<Incoming, SnapshotError> {
        if let Some(part) = incoming::take(&self.kept, &announced) {
            match part.trim() {
                Ok(part) => return Ok(Incoming::new(part, &self.kept)),
                Err(cause) => tracing::warn!(%cause, "what came of a snapshot is not used"),
            }
        }
        let (sink, path, claim) = self.sink(name)?;
        let left = announced.bytes;
        Ok(Incoming::new(Part { announced, sink, left, path, claim }, &self.kept))
    }

    /// A new place to write to.
    fn sink(&self, name: &str) -> Result<(Sink, PathBuf, Option<Arc<Claim>>), SnapshotError> {
        let Place::Directory(shelf) = &self.place else {
            return Ok((Sink::Memory(Vec::new()), PathBuf::from("in memory"), None));
        };
        let directory = shelf.join(format!("{name}{UNFINISHED}"));
        // Also a former one of this name, and before this one is claimed.
        self.remove_unfinished(shelf)?;
        let claim = Claim::new(&self.claims, &directory);
        fs::create_dir(&directory).map_err(io_error("make", &directory))?;
        let path = directory.join(FILE);
        let file = File::create_new(&path).map_err(io_error("make", &path))?;
        Ok((Sink::File { file, directory }, path, Some(claim)))
    }

    /// Gives up what is kept since before the last call, and removes what nobody works on.
    pub(crate) fn sweep(&self) -> Result<(), SnapshotError> {
        incoming::age(&self.kept);
        match &self.place {
            Place::Directory(shelf) => self.remove_unfinished(shelf),
            Place::Memory => Ok(()),
        }
    }

    /// Verifies a received snapshot by loading it. It is not on the shelf before it is installed.
    pub(crate) fn verify(&self, incoming: Incoming) -> Result<Stored, SnapshotError> {
        let Part { announced, sink, path, claim, .. } = incoming.whole()?;
        let stored = match sink {
            Sink::Memory(bytes) => Stored::memory(bytes.into())?,
            Sink::File { file, .. } => {
                file.sync_all().map_err(io_error("sync", &path))?;
                Stored::file(path.clone())?
            }
        };
        // Pieces of two snapshots could each be in order.
        if stored.outline()? != announced.outline {
            let what = "it is not the one that was announced".to_owned();
            return Err(SnapshotError::Damaged { path, what });
        }
        let (meta, state) = stored.load()?;
        Ok(Stored { meta, loaded: Some(Arc::new(state)), _claim: claim, ..stored })
    }

    /// Puts a verified snapshot on the shelf as the newest and returns its state.
    pub(crate) fn install(&self, stored: Stored) -> Result<State, SnapshotError> {
        let state = match &stored.loaded {
            Some(state) => State::clone(state),
            None => stored.load()?.1,
        };
        let meta = stored.meta.clone();
        // What else was kept is older, or the leader sends it anew.
        let former = lock(&self.kept).take();
        drop(former);
        let on_shelf = self.current().is_some_and(|newest| newest.meta == meta);
        if on_shelf {
            return Ok(state);
        }
        match stored.data {
            Data::Memory(bytes) => {
                let stored = Stored { loaded: None, ..Stored::memory(bytes)? };
                *self.newest() = Some(stored);
            }
            Data::File(path) => {
                let directory = path.parent().unwrap_or(&path).to_owned();
                let file = File::open(&path).map_err(io_error("open", &path))?;
                self.settle(Sink::File { file, directory }, &path, meta, None)?;
            }
        }
        Ok(state)
    }

    /// Makes what was written durable under its final name, and forgets older ones.
    fn settle(
        &self,
        sink: Sink,
        path: &Path,
        meta: SnapshotMeta,
        loaded: Option<Arc<State>>,
    ) -> Result<Stored, SnapshotError> {
        let stored = match (sink, &self.place) {
            (Sink::Memory(bytes), _) => Stored { loaded, ..Stored::memory(bytes.into())? },
            (Sink::File { .. }, Place::Memory) => {
                let what = "a file cannot stand on a shelf in memory".to_owned();
                return Err(SnapshotError::Damaged { path: path.to_owned(), what });
            }
            (Sink::File { file, directory }, Place::Directory(shelf)) => {
                file.sync_all().map_err(io_error("sync", path))?;
                sync(&directory)?;
                let target = shelf.join(name(&meta));
                remove(&target)?;
                fs::rename(&directory, &target).map_err(io_error("name", &target))?;
                sync(shelf)?;
                Stored { meta, loaded, ..Stored::file(target.join(FILE))? }
            }
        };
        *self.newest() = Some(stored.clone());
        if let Place::Directory(shelf) = &self.place {
            let mut whole = sweep_whole(shelf)?;
            whole.truncate(whole.len().saturating_sub(KEPT));
            for old in whole {
                remove(&old)?;
            }
            self.remove_unfinished(shelf)?;
        }
        Ok(stored)
    }
}

impl Stored {
    fn file(path: PathBuf) -> Result<Self, SnapshotError> {
        let bytes = fs::metadata(&path).map_err(io_error("read", &path))?.len();
        let file = File::open(&path).map_err(io_error("read", &path))?;
        let mut source =
            Source { bytes: BufReader::with_capacity(BUFFER_BYTES, file), path: path.clone() };
        let meta = source.meta()?;
        Ok(Self { meta, data: Data::File(path), bytes, loaded: None, _claim: None })
    }

    fn memory(bytes: Bytes) -> Result<Self, SnapshotError> {
        let mut source = Source { bytes: &bytes[..], path: PathBuf::from("in memory") };
        let meta = source.meta()?;
        let length = bytes.len() as u64;
        Ok(Self { meta, data: Data::Memory(bytes), bytes: length, loaded: None, _claim: None })
    }

    /// Size of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Opens its bytes for sending. The file may lose its name meanwhile; it stays readable.
    pub(crate) fn read(&self) -> Result<Box<dyn Readable>, SnapshotError> {
        Ok(match &self.data {
            Data::Memory(bytes) => Box::new(io::Cursor::new(bytes.clone())),
            Data::File(path) => Box::new(File::open(path).map_err(io_error("read", path))?),
        })
    }

    /// What tells its bytes from those of another.
    pub(crate) fn outline(&self) -> Result<Outline, SnapshotError> {
        let path = match &self.data {
            Data::Memory(_) => PathBuf::from("in memory"),
            Data::File(path) => path.clone(),
        };
        format::outline(Source { bytes: self.read()?, path })
    }

    fn load(&self) -> Result<(SnapshotMeta, State), SnapshotError> {
        match &self.data {
            Data::Memory(bytes) => {
                format::load(Source { bytes: &bytes[..], path: PathBuf::from("in memory") })
            }
            Data::File(path) => {
                let file = File::open(path).map_err(io_error("read", path))?;
                let bytes = BufReader::with_capacity(BUFFER_BYTES, file);
                format::load(Source { bytes, path: path.clone() })
            }
        }
    }
}

pub(super) fn io_error(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_owned();
    move |cause| SnapshotError::Io { action, path, cause }
}

fn sync(directory: &Path) -> Result<(), SnapshotError> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(io_error("sync", directory))
}

fn remove(path: &Path) -> Result<(), SnapshotError> {
    match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path)(cause))
        }
        _ => Ok(()),
    }
}

/// `<term>-<index>`.
fn name(meta: &SnapshotMeta) -> String {
    let id = meta.last_log_id;
    id.map_or_else(|| "0-0".to_owned(), |id| format!("{}-{}", id.leader_id.term, id.index))
}

/// Directories of whole snapshots, the newest last.
fn sweep_whole(shelf: &Path) -> Result<Vec<PathBuf>, SnapshotError> {
    let mut found = Vec::new();
    for item in fs::read_dir(shelf).map_err(io_error("read", shelf))? {
        let item = item.map_err(io_error("read", shelf))?;
        let name = item.file_name();
        let parsed =
            name.to_str().and_then(|name| name.split_once('-')).and_then(|(term, index)| {
                Some((index.parse::<u64>().ok()?, term.parse::<u64>().ok()?))
            });
        if let Some(place) = parsed {
            found.push((place, item.path()));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

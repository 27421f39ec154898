//! Opening the log file: what is new, what is whole, what is refused. Format: README.md beside
//! the room.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::NodeId;
use redb::backends::InMemoryBackend;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase as _, ReadableTable, TableDefinition,
};
use serde::{Deserialize, Serialize};

use super::holes::Holes;
use super::record;
use super::sizes::Sizes;
use super::tail::Found;
use super::witness::{self, Witness, WitnessError, WitnessFile, WitnessMemory};
use crate::raft::fault::StartError;
use crate::raft::mirror::{LogIdV1, VoteV1};
use crate::raft::types::{LogId, entry_bytes};

pub(super) const LOG: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("log");
pub(super) const META: TableDefinition<'static, &'static str, &'static [u8]> =
    TableDefinition::new("meta");

/// Keys of table `meta`.
pub(super) mod meta {
    pub(in super::super) const FORMAT: &str = "format";
    pub(in super::super) const SEQUENCE: &str = "sequence";
    pub(in super::super) const VOTE: &str = "vote";
    pub(in super::super) const PURGED: &str = "purged";
    pub(in super::super) const COMMITTED: &str = "committed";
}

const FORMAT: u32 = 1;
const FILE: &str = "raft.redb";
const WITNESS: &str = "commit-seq";
/// A directory that is being made; it gets its name once it is whole.
const UNFINISHED: &str = "raft.new";
/// Beside the directory: whose log it holds. With it a directory that is gone is told from one that
/// never was. A voter whose log is gone has forgotten what it promised, so it must not go on.
pub(crate) const OWNER: &str = "raft-owner";

/// redb's page cache. The memory tail serves the reads that matter.
const CACHE_BYTES: usize = 32 << 20;

/// Value of `format`: who wrote the file, and whose log it is.
#[derive(Serialize, Deserialize)]
struct FormatV1 {
    format: u32,
    release: String,
    owner: NodeId,
}

/// Where the log is kept.
#[derive(Debug, Clone)]
pub(crate) enum Disk {
    /// In this data directory, under `raft/`.
    Directory(PathBuf),
    /// Nowhere: gone with the process.
    Memory,
    /// On a simulated disk.
    #[cfg_attr(
        not(any(test, feature = "sim")),
        expect(dead_code, reason = "made by tests and simulations")
    )]
    Simulated {
        /// Its bytes.
        backend: SharedBackend,
        /// Its witness.
        witness: WitnessMemory,
        /// How slow it is.
        pace: Pace,
    },
}

/// How long each commit of a simulated disk takes.
#[derive(Clone, Default)]
pub(crate) struct Pace(pub(crate) Option<Arc<dyn Fn() -> Duration + Send + Sync>>);

impl Pace {
    /// Lets the time of one commit pass.
    pub(super) async fn commit(&self) {
        if let Some(takes) = &self.0 {
            tokio::time::sleep(takes()).await;
        }
    }
}

impl std::fmt::Debug for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pace")
    }
}

/// A storage backend that outlives the database which uses it.
#[derive(Debug, Clone)]
pub(crate) struct SharedBackend(pub(crate) Arc<dyn redb::StorageBackend>);

impl redb::StorageBackend for SharedBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

/// An opened log.
pub(super) struct Opened {
    pub(super) db: Database,
    /// For people.
    pub(super) place: String,
    pub(super) witness: Option<Box<dyn Witness>>,
    /// `None`: the log is in no file of its own.
    pub(super) holes: Option<Holes>,
    pub(super) sequence: u64,
    pub(super) deleted_below: u64,
    pub(super) found: Found,
}

/// Directory `raft` of a data directory.
pub(crate) fn raft_directory(data_dir: &Path) -> PathBuf {
    data_dir.join("raft")
}

/// Opens the log, or makes it where there is nothing yet.
///
/// redb may panic on a file that was damaged from outside, when it opens or when it reads it: that,
/// too, is a refusal here.
pub(super) fn open(disk: Disk, owner: NodeId) -> Result<Opened, StartError> {
    let path = match &disk {
        Disk::Directory(data_dir) => raft_directory(data_dir).join(FILE),
        _ => PathBuf::from(FILE),
    };
    rt::panic_as_error(|| open_disk(disk, owner)).unwrap_or_else(|panic| {
        Err(StartError::damaged(&path, format!("its structure makes no sense ({panic})")))
    })
}

fn open_disk(disk: Disk, owner: NodeId) -> Result<Opened, StartError> {
    match disk {
        Disk::Directory(data_dir) => {
            let directory = raft_directory(&data_dir);
            let owned_by = read_owner(&data_dir)?;
            if is_new(&directory)? {
                match owned_by {
                    Owned::Unsaid => {}
                    // Left by a reset: this is another server now.
                    Owned::By(other) if other != owner => {}
                    Owned::By(_) => {
                        let what =
                            "it is missing or empty, though this server had a Raft log in it";
                        return Err(StartError::damaged(&directory, what));
                    }
                    Owned::Unreadable => {
                        let what = "it names no server, and the Raft log is missing";
                        return Err(StartError::damaged(&data_dir.join(OWNER), what));
                    }
                }
                create(&data_dir, owner)?;
            }
            let opened = open_directory(&directory, owner)?;
            if owned_by != Owned::By(owner) {
                write_owner(&data_dir, owner)?;
            }
            Ok(opened)
        }
        Disk::Memory => {
            let path = Path::new(FILE);
            let db = builder().create_with_backend(InMemoryBackend::new());
            let db = db.map_err(|cause| refusal(path, cause))?;
            initialise(&db, path, owner)?;
            whole(db, path, None, owner)
        }
        Disk::Simulated { backend, witness, pace: _ } => {
            let path = Path::new(FILE);
            let new = witness.read().is_none();
            let db = builder().create_with_backend(backend);
            let db = db.map_err(|cause| refusal(path, cause))?;
            let mut witness = witness;
            if new {
                initialise(&db, path, owner)?;
                let bytes = witness::encode(1);
                witness.write(&bytes).map_err(|e| StartError::io("write", path, e))?;
            }
            let said = witness.read();
            whole(db, path, said.map(|said| (Box::new(witness) as _, said)), owner)
        }
    }
}

/// Whether there is no log yet: no directory, or an empty one.
fn is_new(directory: &Path) -> Result<bool, StartError> {
    match fs::read_dir(directory) {
        Ok(mut files) => Ok(files.next().is_none()),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(cause) => Err(StartError::io("read", directory, cause)),
    }
}

/// Whose log the directory is said to hold.
#[derive(PartialEq, Eq)]
enum Owned {
    Unsaid,
    By(NodeId),
    /// No harm while the log is there: it knows its owner itself.
    Unreadable,
}

fn read_owner(data_dir: &Path) -> Result<Owned, StartError> {
    let path = data_dir.join(OWNER);
    match fs::read(&path) {
        Ok(bytes) => Ok(std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .map_or(Owned::Unreadable, Owned::By)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Owned::Unsaid),
        Err(cause) => Err(StartError::io("read", &path, cause)),
    }
}

fn write_owner(data_dir: &Path, owner: NodeId) -> Result<(), StartError> {
    let (path, unfinished) = (data_dir.join(OWNER), data_dir.join("raft-owner.new"));
    fs::File::create(&unfinished)
        .and_then(|mut file| {
            file.write_all(owner.to_string().as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&unfinished, &path))
        .map_err(|cause| StartError::io("write", &path, cause))?;
    sync_directory(data_dir)
}

/// Makes the whole directory under another name first, so that a crash leaves nothing half made.
fn create(data_dir: &Path, owner: NodeId) -> Result<(), StartError> {
    let unfinished = data_dir.join(UNFINISHED);
    if let Err(cause) = fs::remove_dir_all(&unfinished)
        && cause.kind() != io::ErrorKind::NotFound
    {
        return Err(StartError::io("remove", &unfinished, cause));
    }
    let snapshots = unfinished.join("snapshots");
    fs::create_dir_all(&snapshots).map_err(|e| StartError::io("make", &snapshots, e))?;
    let path = unfinished.join(FILE);
    let db = builder().create(&path).map_err(|cause| refusal(&path, cause))?;
    initialise(&db, &path, owner)?;
    db.close().map_err(|cause| refusal(&path, cause))?;
    let witness = unfinished.join(WITNESS);
    WitnessFile::create(&witness, 1).map_err(|e| StartError::io("make", &witness, e))?;
    sync_directory(&unfinished)?;
    let directory = raft_directory(data_dir);
    fs::rename(&unfinished, &directory).map_err(|e| StartError::io("make", &directory, e))?;
    sync_directory(data_dir)
}

/// Makes the names in a directory durable.
fn sync_directory(directory: &Path) -> Result<(), StartError> {
    fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|cause| StartError::io("sync", directory, cause))
}

fn open_directory(directory: &Path, owner: NodeId) -> Result<Opened, StartError> {
    let path = directory.join(FILE);
    match fs::metadata(&path) {
        Ok(found) if found.len() == 0 => {
            return Err(StartError::damaged(&path, "it is empty, though it held the Raft log"));
        }
        Ok(_) => {}
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            let what = "it is missing, though other files of the Raft log are there";
            return Err(StartError::damaged(&path, what));
        }
        Err(cause) => return Err(StartError::io("read", &path, cause)),
    }
    let witness_path = directory.join(WITNESS);
    let (witness, said) = WitnessFile::open(&witness_path).map_err(|cause| match cause.kind() {
        io::ErrorKind::NotFound => StartError::damaged(&witness_path, "it is missing"),
        io::ErrorKind::InvalidData => StartError::damaged(&witness_path, cause),
        _ => StartError::io("read", &witness_path, cause),
    })?;
    witness::decode(&said).map_err(|cause| match cause {
        WitnessError::Newer { format, release } => {
            StartError::Newer { path: witness_path.clone(), release, format, known: FORMAT }
        }
        cause => StartError::damaged(&witness_path, cause),
    })?;
    let db = builder().open(&path).map_err(|cause| refusal(&path, cause))?;
    let opened = whole(db, &path, Some((Box::new(witness), said)), owner)?;
    let holes = Holes::open(&path).map_err(|e| StartError::io("open", &path, e))?;
    Ok(Opened { holes: Some(holes), ..opened })
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

fn refusal(path: &Path, cause: DatabaseError) -> StartError {
    match cause {
        DatabaseError::DatabaseAlreadyOpen => StartError::InUse { path: path.to_owned() },
        DatabaseError::Storage(redb::StorageError::Io(cause))
            if !matches!(
                cause.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            StartError::io("open", path, cause)
        }
        cause => StartError::damaged(path, cause),
    }
}

/// Any failure of redb while a file is read at start.
fn unreadable<E: Into<redb::Error>>(path: &Path) -> impl Fn(E) -> StartError {
    move |cause| StartError::damaged(path, cause.into())
}

/// Value of row `format`.
pub(super) fn format_row(format: u32, release: &str, owner: NodeId) -> Vec<u8> {
    let row = FormatV1 { format, release: release.to_owned(), owner };
    record::seal(meta::FORMAT.as_bytes(), &row)
}

fn initialise(db: &Database, path: &Path, owner: NodeId) -> Result<(), StartError> {
    let transaction = db.begin_write().map_err(unreadable(path))?;
    {
        transaction.open_table(LOG).map_err(unreadable(path))?;
        let mut table = transaction.open_table(META).map_err(unreadable(path))?;
        let format = format_row(FORMAT, env!("CARGO_PKG_VERSION"), owner);
        table.insert(meta::FORMAT, format.as_slice()).map_err(unreadable(path))?;
        let sequence = record::seal(meta::SEQUENCE.as_bytes(), &1_u64);
        table.insert(meta::SEQUENCE, sequence.as_slice()).map_err(unreadable(path))?;
    }
    transaction.commit().map_err(unreadable(path))
}

/// Reads the whole log once: every record must be intact and in sequence.
fn whole(
    db: Database,
    path: &Path,
    witness: Option<(Box<dyn Witness>, [u8; witness::WITNESS_BYTES])>,
    owner: NodeId,
) -> Result<Opened, StartError> {
    let read = db.begin_read().map_err(unreadable(path))?;
    let table = read.open_table(META).map_err(unreadable(path))?;
    let format: FormatV1 = get(&table, path, meta::FORMAT)?
        .ok_or_else(|| StartError::damaged(path, "it does not say its format"))?;
    if format.format > FORMAT {
        let FormatV1 { format, release, .. } = format;
        return Err(StartError::Newer { path: path.to_owned(), release, format, known: FORMAT });
    }
    if format.owner != owner {
        let (owner, us) = (format.owner.to_string(), owner.to_string());
        return Err(StartError::Foreign { path: path.to_owned(), owner, us });
    }
    let sequence: u64 = get(&table, path, meta::SEQUENCE)?
        .ok_or_else(|| StartError::damaged(path, "it does not say its commit sequence"))?;
    let witness = match witness {
        None => None,
        Some((witness, said)) => {
            let said = witness::decode(&said).map_err(|e| StartError::damaged(path, e))?;
            if sequence < said {
                let what = format!(
                    "its newest commit is number {sequence}, but commit {said} was acknowledged \
                     ({WITNESS})"
                );
                return Err(StartError::damaged(path, what));
            }
            Some(witness)
        }
    };
    let vote: Option<VoteV1> = get(&table, path, meta::VOTE)?;
    let purged: Option<LogIdV1> = get(&table, path, meta::PURGED)?;
    let committed: Option<LogIdV1> = get(&table, path, meta::COMMITTED)?;
    let purged: Option<LogId> = purged.map(LogId::from);
    let log = read.open_table(LOG).map_err(unreadable(path))?;
    let scanned = scan(&log, path, purged)?;
    let last = scanned.last.max(purged);
    let committed = committed.map(LogId::from).filter(|committed| Some(*committed) <= last);
    let found = Found { vote: vote.map(Into::into), committed, purged, last, sizes: scanned.sizes };
    let deleted_below = scanned.lowest;
    drop((table, log, read));
    let place = path.display().to_string();
    Ok(Opened { db, place, witness, holes: None, sequence, deleted_below, found })
}

struct Scanned {
    last: Option<LogId>,
    /// Lowest index that has a record, purged or not.
    lowest: u64,
    sizes: Sizes,
}

fn scan(
    log: &impl ReadableTable<u64, &'static [u8]>,
    path: &Path,
    purged: Option<LogId>,
) -> Result<Scanned, StartError> {
    let first = purged.map_or(0, |purged| purged.index + 1);
    let lowest = log.first().map_err(unreadable(path))?.map_or(first, |(key, _)| key.value());
    let (mut last, mut sizes): (Option<LogId>, _) = (None, Sizes::default());
    for item in log.range(first..).map_err(unreadable(path))? {
        let (key, value) = item.map_err(unreadable(path))?;
        let index = key.value();
        let entry = record::open_entry(index, value.value())
            .map_err(|cause| StartError::damaged(path, format!("log entry {index}: {cause}")))?;
        let before = last.or(purged);
        let follows = before.is_none_or(|before| before.index + 1 == index);
        if entry.log_id.index != index || !follows || before > Some(entry.log_id) {
            let what = format!("log entry {index} does not follow the one before it");
            return Err(StartError::damaged(path, what));
        }
        sizes.push(index, entry_bytes(&entry));
        last = Some(entry.log_id);
    }
    Ok(Scanned { last, lowest: lowest.min(first), sizes })
}

fn get<T: serde::de::DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    path: &Path,
    key: &'static str,
) -> Result<Option<T>, StartError> {
    let Some(bytes) = table.get(key).map_err(unreadable(path))? else { return Ok(None) };
    record::open(key.as_bytes(), bytes.value())
        .map(Some)
        .map_err(|cause| StartError::damaged(path, format!("meta row {key}: {cause}")))
}

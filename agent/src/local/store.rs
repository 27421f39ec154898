//! `local.redb`: what clients registered on this agent, and what TTL checks last said.
//!
//! Tables: `meta` (magic, version), `services`, `checks`, `ttl`: id -> record. A record is the
//! CRC-32 (little endian) of the rest, then [`wire`] bytes. Invariant: one task writes; it takes
//! all that is queued into one commit and answers when that is on the disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::Name;
use model::row::Status;
use model::wire::{self, Kind};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, oneshot};

use super::book::Edit;
use super::definition::{CheckDefinition, ServiceDefinition};

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const SERVICES: TableDefinition<&str, &[u8]> = TableDefinition::new("services");
const CHECKS: TableDefinition<&str, &[u8]> = TableDefinition::new("checks");
const TTL: TableDefinition<&str, &[u8]> = TableDefinition::new("ttl");

const MAGIC: &[u8] = b"muster local";
const VERSION: u32 = 1;
/// The largest record that is read back: far above any definition that HTTP lets in.
const RECORD_BYTES_MAX: usize = 16 << 20;
/// Changes that may wait for the disk; whoever comes then waits for a place.
const QUEUE_MAX: usize = 1_024;
/// Cache of the database: definitions are read once, at start.
const CACHE_BYTES: usize = 1 << 20;
/// A heartbeat that changes nothing is on the disk after this time, together with all others.
const HEARTBEAT_DELAY: Duration = Duration::from_secs(1);
/// After a failed write, the time until the next try when nothing new comes.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// Changes that are kept while the disk takes none; with more than that only a new start helps.
const UNSAVED_MAX: usize = 65_536;

/// Why definitions on disk could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The file is there but not what it should be.
    #[error(
        "{path} is damaged ({what}); stop the agent, move the file away and start again: what \
         clients registered on this agent over HTTP must then be registered again", path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A later release wrote the file.
    #[error(
        "{path} has version {found} and was written by a later release ({release}); this is {ours}, \
         which reads version {VERSION}: run that release or a later one",
        path = path.display(), ours = model::MUSTER_VERSION
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Who wrote it.
        release: String,
        /// Version found.
        found: u32,
    },
    /// The file could not be opened or created.
    #[error("cannot open {path}: {cause}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: Arc<redb::Error>,
    },
    /// A change is in force but not on the disk.
    #[error(
        "cannot write {path}: {cause}; the change is in force and is written once the disk takes it, \
         but is lost if this agent stops before", path = path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: Arc<redb::Error>,
    },
    /// The writer has ended.
    #[error("the agent is stopping; the change may not be on the disk")]
    Stopped,
}

/// What a TTL check last said, and until when it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TtlRecord {
    pub(crate) status: Status,
    pub(crate) output: String,
    pub(crate) expires_wall_ms: u64,
}

/// All that the file holds.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) services: Vec<ServiceDefinition>,
    pub(crate) checks: Vec<CheckDefinition>,
    pub(crate) ttl: BTreeMap<Name, TtlRecord>,
}

/// A way to the writer.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    queue: mpsc::Sender<Job>,
    heartbeats: Arc<Heartbeats>,
}

/// Heartbeats that wait for the next commit.
#[derive(Debug, Default)]
struct Heartbeats {
    noted: Mutex<BTreeMap<Name, TtlRecord>>,
    some: Notify,
}

impl Heartbeats {
    fn take(&self) -> BTreeMap<Name, TtlRecord> {
        std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns a moment after one was noted, so that others go with it.
    async fn due(&self) {
        self.some.notified().await;
        tokio::time::sleep(HEARTBEAT_DELAY).await;
    }
}

/// A place in the writer's queue.
pub(crate) struct Place<'a>(mpsc::Permit<'a, Job>);

type Done = oneshot::Receiver<Result<(), StoreError>>;

#[derive(Debug)]
struct Job {
    edits: Vec<Edit>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

impl Store {
    /// Waits for a place in the queue, so that what follows under the book's lock cannot fail and
    /// keeps the book's order.
    pub(crate) async fn place(&self) -> Result<Place<'_>, StoreError> {
        self.queue.reserve().await.map(Place).map_err(|_| StoreError::Stopped)
    }

    /// Notes a heartbeat; it reaches the disk with the next commit, soon.
    pub(crate) fn heartbeat(&self, check: Name, record: TtlRecord) {
        let noted = &self.heartbeats.noted;
        noted.lock().unwrap_or_else(PoisonError::into_inner).insert(check, record);
        self.heartbeats.some.notify_one();
    }
}

impl Place<'_> {
    /// Queues the edits; the receiver hears when they, and all heartbeats noted before, are on the
    /// disk.
    pub(crate) fn send(self, edits: Vec<Edit>) -> Done {
        let (done, receiver) = oneshot::channel();
        self.0.send(Job { edits, done });
        receiver
    }
}

/// Opens or creates the file and reads it whole.
pub(crate) async fn open(path: PathBuf) -> Result<(OpenStore, Loaded), StoreError> {
    let stopped = StoreError::Stopped;
    tokio::task::spawn_blocking(move || OpenStore::open(path)).await.unwrap_or(Err(stopped))
}

/// The file, held by one writer.
#[derive(Debug)]
pub(crate) struct OpenStore {
    path: PathBuf,
    held: Mutex<Held>,
}

/// What the writer holds between two commits.
#[derive(Debug)]
struct Held {
    /// `None` after a failure: redb refuses all further work until it is opened anew.
    database: Option<Database>,
    unsaved: Vec<Edit>,
    heartbeats: BTreeMap<Name, TtlRecord>,
    /// Changes had to be dropped: the file must not be written as if it were whole.
    incomplete: bool,
}

impl OpenStore {
    /// redb may panic on a file that was damaged from outside, when it opens or when it reads it.
    fn open(path: PathBuf) -> Result<(Self, Loaded), StoreError> {
        let shown = path.clone();
        rt::panic_as_error(|| Self::open_file(path)).unwrap_or_else(|panic| {
            let what = format!("its structure makes no sense: {panic}");
            Err(StoreError::Damaged { path: shown, what })
        })
    }

    fn open_file(path: PathBuf) -> Result<(Self, Loaded), StoreError> {
        let open_error = |cause: redb::Error| match cause {
            redb::Error::Corrupted(what) => StoreError::Damaged { path: path.clone(), what },
            cause => StoreError::Open { path: path.clone(), cause: Arc::new(cause) },
        };
        if !path.exists() {
            create(&path).map_err(open_error)?;
        } else if std::fs::metadata(&path).is_ok_and(|file| file.len() == 0) {
            return Err(StoreError::Damaged { path, what: "it is empty".into() });
        }
        let database = open_database(&path).map_err(|cause| match cause {
            redb::DatabaseError::Storage(redb::StorageError::Io(cause))
                if matches!(
                    cause.kind(),
                    std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
                ) =>
            {
                StoreError::Damaged { path: path.clone(), what: cause.to_string() }
            }
            redb::DatabaseError::RepairAborted => {
                StoreError::Damaged { path: path.clone(), what: "it cannot be repaired".into() }
            }
            cause => open_error(cause.into()),
        })?;
        let loaded = Self::load(&path, &database)?;
        let (unsaved, heartbeats) = (Vec::new(), BTreeMap::new());
        let held = Held { database: Some(database), unsaved, heartbeats, incomplete: false };
        Ok((Self { path, held: Mutex::new(held) }, loaded))
    }

    fn load(path: &Path, database: &Database) -> Result<Loaded, StoreError> {
        let damaged = |what: String| StoreError::Damaged { path: path.to_owned(), what };
        let failed = |cause: redb::Error| damaged(cause.to_string());
        let read = database.begin_read().map_err(|cause| failed(cause.into()))?;
        let meta = read.open_table(META).map_err(|cause| failed(cause.into()))?;
        let magic = meta.get("magic").map_err(|cause| failed(cause.into()))?;
        if magic.is_none_or(|found| found.value() != MAGIC) {
            return Err(damaged("it is another program's file".into()));
        }
        let version = meta.get("version").map_err(|cause| failed(cause.into()))?;
        let version = version
            .and_then(|found| <[u8; 4]>::try_from(found.value()).ok())
            .map(u32::from_le_bytes)
            .ok_or_else(|| damaged("it has no version".into()))?;
        if version > VERSION {
            let release = meta.get("release").map_err(|cause| failed(cause.into()))?;
            let release = release.map_or_else(
                || "unnamed".to_owned(),
                |found| String::from_utf8_lossy(found.value()).escape_debug().to_string(),
            );
            return Err(StoreError::Newer { path: path.to_owned(), release, found: version });
        }
        let table = |definition: TableDefinition<&str, &[u8]>| -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
            let table = read.open_table(definition)?;
            let rows = table.iter()?;
            rows.map(|row| {
                let (key, value) = row?;
                Ok((key.value().to_owned(), value.value().to_vec()))
            })
            .collect()
        };
        let mut loaded = Loaded::default();
        for (id, bytes) in table(SERVICES).map_err(failed)? {
            loaded
                .services
                .push(decode(&bytes).map_err(|e| damaged(format!("service {id}: {e}")))?);
        }
        for (id, bytes) in table(CHECKS).map_err(failed)? {
            loaded.checks.push(decode(&bytes).map_err(|e| damaged(format!("check {id}: {e}")))?);
        }
        for (id, bytes) in table(TTL).map_err(failed)? {
            let record = decode(&bytes).map_err(|e| damaged(format!("TTL of {id}: {e}")))?;
            loaded.ttl.insert(id.into(), record);
        }
        Ok(loaded)
    }

    /// Commits these together with what could not be written before.
    fn write(
        &self,
        edits: Vec<Edit>,
        heartbeats: BTreeMap<Name, TtlRecord>,
    ) -> Result<(), StoreError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.incomplete |= held.unsaved.len().saturating_add(edits.len()) > UNSAVED_MAX;
        if held.incomplete {
            held.unsaved.clear();
        } else {
            held.unsaved.extend(edits);
            held.heartbeats.extend(heartbeats);
        }
        self.commit(&mut held).map_err(|cause| {
            held.database = None;
            tracing::error!(path = %self.path.display(), %cause, "cannot write");
            StoreError::Write { path: self.path.clone(), cause: Arc::new(cause) }
        })
    }

    fn commit(&self, held: &mut Held) -> Result<(), redb::Error> {
        if held.incomplete {
            return Err(redb::Error::PreviousIo);
        }
        if held.database.is_none() {
            let opened = rt::panic_as_error(|| open_database(&self.path));
            held.database = Some(opened.map_err(redb::Error::Corrupted)??);
        }
        if let Some(database) = &held.database {
            put(database, &held.unsaved, &held.heartbeats)?;
        }
        held.unsaved.clear();
        held.heartbeats.clear();
        Ok(())
    }

    /// Whether something waits for the disk to take it.
    fn behind(&self) -> bool {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.database.is_none() && !held.incomplete
    }

    /// Starts the writer. It ends once all that was queued before the stop is written.
    pub(crate) fn start(self, tasks: &rt::Tasks) -> Store {
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        let heartbeats = Arc::new(Heartbeats::default());
        let store = Store { queue, heartbeats: Arc::clone(&heartbeats) };
        tasks.spawn("local-store", write_all(Arc::new(self), jobs, heartbeats, tasks.token()));
        store
    }
}

async fn write_all(
    store: Arc<OpenStore>,
    mut queue: mpsc::Receiver<Job>,
    heartbeats: Arc<Heartbeats>,
    stop: tokio_util::sync::CancellationToken,
) {
    loop {
        let mut jobs = Vec::new();
        let open = tokio::select! {
            biased;
            () = stop.cancelled(), if !queue.is_closed() => {
                queue.close();
                continue;
            }
            count = queue.recv_many(&mut jobs, QUEUE_MAX) => count > 0,
            () = heartbeats.due() => true,
            () = tokio::time::sleep(RETRY_DELAY), if store.behind() => true,
        };
        let noted = heartbeats.take();
        let retry = store.behind();
        if retry || !(jobs.is_empty() && noted.is_empty()) {
            let writer = Arc::clone(&store);
            let written = tokio::task::spawn_blocking(move || {
                let edits = jobs.iter_mut().flat_map(|job| std::mem::take(&mut job.edits));
                let result = writer.write(edits.collect(), noted);
                for job in jobs {
                    let _ = job.done.send(result.clone());
                }
            });
            if written.await.is_err() {
                return;
            }
        }
        if !open {
            return;
        }
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

fn open_database(path: &Path) -> Result<Database, redb::DatabaseError> {
    builder().open(path)
}

/// Writes all of these, or none.
fn put(
    database: &Database,
    edits: &[Edit],
    heartbeats: &BTreeMap<Name, TtlRecord>,
) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut services = write.open_table(SERVICES)?;
        let mut checks = write.open_table(CHECKS)?;
        let mut ttl = write.open_table(TTL)?;
        for (id, record) in heartbeats {
            ttl.insert(&**id, encode(record).as_slice())?;
        }
        for edit in edits {
            match edit {
                Edit::PutService(definition) => {
                    let record = encode(definition.as_ref());
                    services.insert(&*definition.service.id, record.as_slice())?;
                }
                Edit::DropService(id) => {
                    services.remove(&**id)?;
                }
                Edit::PutCheck(definition) => {
                    let record = encode(definition.as_ref());
                    checks.insert(&*definition.check.id, record.as_slice())?;
                }
                Edit::DropCheck(id) => {
                    checks.remove(&**id)?;
                    ttl.remove(&**id)?;
                }
            }
        }
    }
    write.commit()?;
    Ok(())
}

/// Makes the file under another name first, so that a crash never leaves half of one.
fn create(path: &Path) -> Result<(), redb::Error> {
    let fresh = path.with_extension("redb.new");
    match std::fs::remove_file(&fresh) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
            return Err(redb::Error::Io(cause));
        }
        _ => {}
    }
    let database = builder().create(&fresh)?;
    let write = database.begin_write()?;
    {
        let mut meta = write.open_table(META)?;
        meta.insert("magic", MAGIC)?;
        meta.insert("version", VERSION.to_le_bytes().as_slice())?;
        meta.insert("release", model::MUSTER_VERSION.as_bytes())?;
        write.open_table(SERVICES)?;
        write.open_table(CHECKS)?;
        write.open_table(TTL)?;
    }
    write.commit()?;
    drop(database);
    std::fs::rename(&fresh, path).map_err(redb::Error::Io)?;
    if let Some(folder) = path.parent() {
        let folder = std::fs::File::open(folder).map_err(redb::Error::Io)?;
        folder.sync_all().map_err(redb::Error::Io)?;
    }
    Ok(())
}

fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    let body = wire::encode(Kind::AgentRecord, record);
    let mut bytes = crc32fast::hash(&body).to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    bytes
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let (sum, body) = bytes.split_first_chunk::<4>().ok_or("shorter than its checksum")?;
    let (expected, found) = (u32::from_le_bytes(*sum), crc32fast::hash(body));
    if expected != found {
        return Err(format!("checksum {found:x}, expected {expected:x}"));
    }
    wire::decode(Kind::AgentRecord, body, RECORD_BYTES_MAX).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;

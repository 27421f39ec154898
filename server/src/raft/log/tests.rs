//! The log store: openraft's own suite, crashes, damage, and a model.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use openraft::entry::RaftEntry as _;
use openraft::storage::RaftLogStorageExt as _;
use openraft::testing::log::{StoreBuilder, Suite};
use proptest::prelude::*;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use rt::Tasks;

use super::file::SharedBackend;
use super::witness::WitnessMemory;
use super::*;
use crate::raft::machine::Machine;
use crate::raft::snapshot::Shelf;
use crate::raft::types::{Payload, RaftId, log_id};

const OWNER: NodeId = NodeId([7; 16]);

fn open_at(data_dir: &Path, tasks: &Tasks) -> Result<(LogStore, LogHandle), StartError> {
    let disk = Disk::Directory(data_dir.to_owned());
    LogStore::open(disk, OWNER, Stepping::Threads, OnFault::fatal(), tasks)
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    Entry::new_normal(log_id(term, index), Payload(vec![index as u8; bytes].into()))
}

async fn all(store: &mut LogStore) -> Vec<Entry> {
    store.get_log_reader().await.try_get_log_entries(..).await.expect("readable")
}

/// Copies a data directory as a crash would leave it.
fn crashed_copy(data_dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("temporary directory");
    let raft = copy.path().join("raft");
    std::fs::create_dir(&raft).expect("directory");
    for file in ["raft.redb", "commit-seq"] {
        std::fs::copy(data_dir.join("raft").join(file), raft.join(file)).expect("copy");
    }
    copy
}

struct InTemporary;

impl StoreBuilder<TypeConfig, LogStore, Machine, (tempfile::TempDir, Tasks)> for InTemporary {
    async fn build(
        &self,
    ) -> Result<((tempfile::TempDir, Tasks), LogStore, Machine), openraft::StorageError<TypeConfig>>
    {
        let directory = tempfile::tempdir().expect("temporary directory");
        let tasks = Tasks::new();
        let (store, _) = open_at(directory.path(), &tasks).expect("opens");
        let (shelf, loaded) = Shelf::open(Some(directory.path())).expect("opens");
        let (machine, _) = Machine::new(shelf, loaded, Stepping::Threads);
        Ok(((directory, tasks), store, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_passes() {
    Suite::test_all(InTemporary).await.expect("the contract of the store");
}

#[tokio::test]
async fn what_was_answered_survives_a_crash() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let tasks = Tasks::new();
    let (mut store, _handle) = open_at(directory.path(), &tasks).expect("opens");
    let vote = Vote::new_committed(3, RaftId(OWNER));
    store.save_vote(&vote).await.expect("saved");
    store.blocking_append((1..=20).map(|i| entry(3, i, 100))).await.expect("appended");
    store.truncate_after(Some(log_id(3, 15))).await.expect("truncated");
    store.purge(log_id(3, 5)).await.expect("purged");
    store.save_committed(Some(log_id(3, 12))).await.expect("noted");
    store.blocking_append([entry(3, 16, 10)]).await.expect("appended");

    let copy = crashed_copy(directory.path());
    let (mut again, handle) = open_at(copy.path(), &tasks).expect("opens after the crash");
    assert_eq!(handle.vote(), Some(vote));
    assert_eq!(again.read_committed().await.expect("read"), Some(log_id(3, 12)));
    let entries = all(&mut again).await;
    assert_eq!(entries, all(&mut store).await);
    let indexes: Vec<u64> = entries.iter().map(|entry| entry.log_id.index).collect();
    assert_eq!(indexes, (6..=16).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_purge_past_the_end_lets_the_log_begin_behind_it() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let tasks = Tasks::new();
    let (mut store, handle) = open_at(directory.path(), &tasks).expect("opens");
    store.blocking_append((1..=10).map(|i| entry(1, i, 10))).await.expect("appended");
    store.purge(log_id(2, 50)).await.expect("purged");
    store.blocking_append((51..=52).map(|i| entry(2, i, 10))).await.expect("appended");
    handle.close().await.expect("closed");
    drop((store, handle));
    let (mut store, _) = reopen(directory.path(), &tasks).await;
    let state = store.get_log_state().await.expect("state");
    assert_eq!(state.last_purged_log_id, Some(log_id(2, 50)));
    assert_eq!(state.last_log_id, Some(log_id(2, 52)));
    assert_eq!(all(&mut store).await.len(), 2);
}

/// The writer's thread lets go of the file a moment after it answered.
async fn reopen(data_dir: &Path, tasks: &Tasks) -> (LogStore, LogHandle) {
    for _ in 0..1_000 {
        match open_at(data_dir, tasks) {
            Err(StartError::InUse { .. }) => {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            opened => return opened.expect("opens again"),
        }
    }
    panic!("the file stayed in use");
}

#[tokio::test]
async fn one_append_is_limited_by_bytes_and_a_larger_entry_goes_alone() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let tasks = Tasks::new();
    let (mut store, handle) = open_at(directory.path(), &tasks).expect("opens");
    let sizes = [400 << 10, 400 << 10, 400 << 10, 3 << 20, 10];
    let entries = sizes.iter().zip(1..).map(|(bytes, i)| entry(1, i, *bytes));
    store.blocking_append(entries).await.expect("appended");
    for round in ["from memory", "from disk"] {
        let mut reader = store.get_log_reader().await;
        for (start, count) in [(1, 2), (2, 2), (3, 1), (4, 1), (5, 1)] {
            let read = reader.limited_get_log_entries(start, 6).await.expect("read");
            assert_eq!(read.len(), count, "{round}, from {start}");
        }
        if round == "from memory" {
            handle.close().await.expect("closed");
            let (again, _) = {
                let copy = crashed_copy(directory.path());
                let opened = open_at(copy.path(), &tasks).expect("opens");
                std::mem::forget(copy);
                opened
            };
            store = again;
        }
    }
}

fn refusal(data_dir: &Path) -> String {
    let tasks = Tasks::new();
    let refused = open_at(data_dir, &tasks).map(|_| ()).expect_err("refused");
    let text = refused.to_string();
    assert!(!text.contains('\n'), "one line: {text}");
    assert!(text.contains(&data_dir.display().to_string()), "names the file: {text}");
    text
}

async fn filled() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("temporary directory");
    let tasks = Tasks::new();
    let (mut store, handle) = open_at(directory.path(), &tasks).expect("opens");
    store.save_vote(&Vote::new(1, RaftId(OWNER))).await.expect("saved");
    for i in 1..=50 {
        store.blocking_append([entry(1, i, 200)]).await.expect("appended");
    }
    handle.close().await.expect("closed");
    drop((store, handle));
    reopen(directory.path(), &tasks).await.1.close().await.expect("closed");
    crashed_copy(directory.path())
}

#[tokio::test]
async fn missing_empty_and_cut_files_are_refused_and_never_opened_as_empty() {
    let whole = filled().await;
    let redb = |dir: &Path| dir.join("raft/raft.redb");

    let missing = crashed_copy(whole.path());
    std::fs::remove_file(redb(missing.path())).expect("removed");
    assert!(refusal(missing.path()).contains("raft.redb is damaged: it is missing"));

    let empty = crashed_copy(whole.path());
    std::fs::write(redb(empty.path()), b"").expect("emptied");
    assert!(refusal(empty.path()).contains("raft.redb is damaged: it is empty"));

    let bytes = std::fs::read(redb(whole.path())).expect("read");
    for keep in [1, 100, 4_096, bytes.len() / 2, bytes.len() - 4_096] {
        let cut = crashed_copy(whole.path());
        std::fs::write(redb(cut.path()), &bytes[..keep]).expect("cut");
        assert!(refusal(cut.path()).contains("raft.redb"), "cut at {keep}");
    }

    let no_witness = crashed_copy(whole.path());
    std::fs::remove_file(no_witness.path().join("raft/commit-seq")).expect("removed");
    assert!(refusal(no_witness.path()).contains("commit-seq is damaged: it is missing"));

    let bad_witness = crashed_copy(whole.path());
    std::fs::write(bad_witness.path().join("raft/commit-seq"), [1; 32]).expect("written");
    assert!(refusal(bad_witness.path()).contains("commit-seq is damaged"));
}

#[tokio::test]
async fn a_commit_that_was_rolled_back_is_noticed_by_the_witness() {
    let whole = filled().await;
    let path = whole.path().join("raft/commit-seq");
    let said: [u8; 32] = std::fs::read(&path).expect("read").try_into().expect("32 bytes");
    let sequence = witness::decode(&said).expect("a witness");
    std::fs::write(&path, witness::encode(sequence + 1)).expect("written");
    let text = refusal(whole.path());
    assert!(text.contains("raft.redb is damaged") && text.contains("acknowledged"), "{text}");
    // A witness that lags behind is what a power cut leaves.
    std::fs::write(&path, witness::encode(sequence - 3)).expect("written");
    open_at(whole.path(), &Tasks::new()).expect("opens");
}

#[tokio::test]
async fn the_log_of_another_server_is_refused() {
    let whole = filled().await;
    let disk = Disk::Directory(whole.path().to_owned());
    let opened =
        LogStore::open(disk, NodeId([8; 16]), Stepping::Threads, OnFault::fatal(), &Tasks::new());
    assert!(matches!(opened.map(|_| ()), Err(StartError::Foreign { .. })));
}

/// Bits to flip one at a time: many of the header, and one in each page; at night
/// (`MUSTER_TEST_WHOLE` set) one in each sector.
fn bits(bytes: usize) -> impl Iterator<Item = usize> {
    #[expect(clippy::disallowed_methods, reason = "chooses how much a test does")]
    let whole = std::env::var_os("MUSTER_TEST_WHOLE").is_some();
    let (step, header) = if whole { (512, 1) } else { (4_096, 13) };
    let body = (0..bytes).step_by(step).map(move |at| {
        // Another sector, byte and bit each time.
        let n = at / step;
        let byte = at + n.wrapping_mul(2_654_435_761) % step;
        byte.min(bytes - 1) * 8 + n % 8
    });
    (0..512 * 8).step_by(header).chain(body)
}

/// Flips bits of this log and demands of each result that it is refused, or whole and equal.
async fn flip_each(log: &Path, good: &[Entry], vote: Vote) -> (usize, usize) {
    let tasks = Tasks::new();
    let bytes = std::fs::read(log.join("raft/raft.redb")).expect("read");
    let copy = crashed_copy(log);
    let (mut refused, mut equal) = (0, 0);
    for bit in bits(bytes.len()) {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // A file of its own each time: the writer of the one before may still hold it.
        let path = copy.path().join("raft/raft.redb");
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, &bad).expect("written");
        std::fs::copy(log.join("raft/commit-seq"), copy.path().join("raft/commit-seq"))
            .expect("copied");
        match open_at(copy.path(), &tasks) {
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("raft.redb") && !text.contains('\n'), "bit {bit}: {text}");
                refused += 1;
            }
            Ok((mut store, handle)) => {
                assert_eq!(all(&mut store).await, good, "bit {bit}");
                assert_eq!(handle.vote(), Some(vote), "bit {bit}");
                equal += 1;
            }
        }
    }
    (refused, equal)
}

#[tokio::test]
async fn a_bit_flipped_in_any_page_is_refused_or_harmless_never_believed() {
    let vote = Vote::new(1, RaftId(OWNER));
    let closed = filled().await;
    let good = {
        let copy = crashed_copy(closed.path());
        let (mut store, _handle) = open_at(copy.path(), &Tasks::new()).expect("opens");
        all(&mut store).await
    };
    assert_eq!(good.len(), 50);
    let (refused, _) = flip_each(closed.path(), &good, vote).await;
    assert!(refused > 50, "closed: only {refused} refused");

    // The same of a log that was in use: copied with nothing under way, as a kill leaves it.
    let directory = tempfile::tempdir().expect("temporary directory");
    let (mut store, _handle) = open_at(directory.path(), &Tasks::new()).expect("opens");
    store.save_vote(&vote).await.expect("saved");
    for i in 1..=120 {
        store.blocking_append([entry(1, i, 3_000)]).await.expect("appended");
    }
    store.truncate_after(Some(log_id(1, 110))).await.expect("truncated");
    store.purge(log_id(1, 10)).await.expect("purged");
    store.blocking_append([entry(2, 111, 100)]).await.expect("appended");
    let good = all(&mut store).await;
    assert_eq!(good.len(), 101);
    let crashed = crashed_copy(directory.path());
    let (refused, _) = flip_each(crashed.path(), &good, vote).await;
    assert!(refused > 50, "crashed: only {refused} refused");
}

#[tokio::test]
async fn a_newer_format_is_refused_and_names_the_release_that_wrote_it() {
    let whole = filled().await;
    let path = whole.path().join("raft/raft.redb");
    let db = Database::open(&path).expect("opens");
    let write = db.begin_write().expect("begins");
    let format = file::format_row(9, "7.1.0", OWNER);
    let mut table = write.open_table(file::META).expect("there");
    table.insert(file::meta::FORMAT, format.as_slice()).expect("set");
    drop(table);
    write.commit().expect("committed");
    drop(db);
    let text = refusal(whole.path());
    assert!(text.contains("newer release (7.1.0) in format 9"), "{text}");
}

/// A disk whose syncs can be made to fail.
#[derive(Debug)]
struct Failing {
    inner: InMemoryBackend,
    fail: Arc<AtomicBool>,
}

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        if self.fail.load(Ordering::Relaxed) {
            return Err(io::Error::other("the disk is gone"));
        }
        self.inner.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
    let fail = Arc::new(AtomicBool::new(false));
    let backend = Failing { inner: InMemoryBackend::new(), fail: Arc::clone(&fail) };
    let told = Arc::new(AtomicUsize::new(0));
    let on_fault = {
        let told = Arc::clone(&told);
        OnFault::told(move |what, _, _| {
            assert!(what.contains("the disk is gone"), "{what}");
            told.fetch_add(1, Ordering::Relaxed);
        })
    };
    let disk = Disk::Simulated {
        backend: SharedBackend(Arc::new(backend)),
        witness: WitnessMemory::default(),
        pace: Pace::default(),
    };
    let tasks = Tasks::new();
    let (mut store, handle) =
        LogStore::open(disk, OWNER, Stepping::Inline, on_fault, &tasks).expect("opens");
    store.blocking_append([entry(1, 1, 10)]).await.expect("appended");
    fail.store(true, Ordering::Relaxed);
    assert!(store.blocking_append([entry(1, 2, 10)]).await.is_err());
    fail.store(false, Ordering::Relaxed);
    assert!(store.blocking_append([entry(1, 3, 10)]).await.is_err());
    assert!(store.save_vote(&Vote::new(9, RaftId(OWNER))).await.is_err());
    assert!(handle.close().await.is_err());
    assert_eq!(handle.vote(), None);
    assert_eq!(told.load(Ordering::Relaxed), 1, "told once");
}

#[derive(Debug, Clone)]
enum Step {
    Append { count: u64, bytes: usize, new_term: bool },
    Truncate { back: u64 },
    Purge { forward: u64 },
    PurgePast { beyond: u64 },
    Vote,
    Reopen,
    Read { from: u64, count: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..20_u64, 0..3_000_usize, any::<bool>())
            .prop_map(|(count, bytes, new_term)| Step::Append { count, bytes, new_term }),
        2 => (0..15_u64).prop_map(|back| Step::Truncate { back }),
        2 => (0..15_u64).prop_map(|forward| Step::Purge { forward }),
        1 => (0..3_u64).prop_map(|beyond| Step::PurgePast { beyond }),
        1 => Just(Step::Vote),
        1 => Just(Step::Reopen),
        3 => (0..100_u64, 0..50_u64).prop_map(|(from, count)| Step::Read { from, count }),
    ]
}

#[derive(Default)]
struct Model {
    term: u64,
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: Vec<Entry>,
}

impl Model {
    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.log_id).or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }
}

async fn run_steps(steps: Vec<Step>) {
    let tasks = Tasks::new();
    let disk = Disk::Simulated {
        backend: SharedBackend(Arc::new(InMemoryBackend::new())),
        witness: WitnessMemory::default(),
        pace: Pace::default(),
    };
    let open = || {
        LogStore::open(disk.clone(), OWNER, Stepping::Inline, OnFault::fatal(), &tasks)
            .expect("opens")
    };
    let (mut store, mut handle) = open();
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Append { count, bytes, new_term } => {
                model.term += u64::from(new_term);
                let first = model.next();
                let new = (first..first + count).map(|i| entry(model.term, i, bytes));
                let new: Vec<Entry> = new.collect();
                model.entries.extend(new.clone());
                store.blocking_append(new).await.expect("appended");
            }
            Step::Truncate { back } => {
                let keep = model.entries.len().saturating_sub(back as usize);
                model.entries.truncate(keep);
                store.truncate_after(model.last()).await.expect("truncated");
            }
            Step::Purge { forward } => {
                let count = (forward as usize).min(model.entries.len());
                if let Some(upto) = count.checked_sub(1).map(|at| model.entries[at].log_id) {
                    model.entries.drain(..count);
                    model.purged = Some(upto);
                    store.purge(upto).await.expect("purged");
                }
            }
            Step::PurgePast { beyond } => {
                let upto = log_id(model.term, model.next() + beyond);
                model.entries.clear();
                model.purged = Some(upto);
                store.purge(upto).await.expect("purged");
            }
            Step::Vote => {
                model.term += 1;
                let vote = Vote::new(model.term, RaftId(OWNER));
                model.vote = Some(vote);
                store.save_vote(&vote).await.expect("saved");
            }
            Step::Reopen => {
                handle.close().await.expect("closed");
                drop((store, handle));
                tokio::task::yield_now().await;
                (store, handle) = open();
            }
            Step::Read { from, count } => {
                let mut reader = store.get_log_reader().await;
                let read = reader.try_get_log_entries(from..from + count).await.expect("read");
                let wanted = model
                    .entries
                    .iter()
                    .filter(|entry| (from..from + count).contains(&entry.log_id.index));
                assert_eq!(read, wanted.cloned().collect::<Vec<_>>());
            }
        }
        let state = store.get_log_state().await.expect("state");
        assert_eq!(state.last_purged_log_id, model.purged);
        assert_eq!(state.last_log_id, model.last());
        assert_eq!(handle.vote(), model.vote);
        assert_eq!(all(&mut store).await, model.entries);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_log_is_what_a_plain_vector_is(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("runtime").block_on(run_steps(steps));
    }
}

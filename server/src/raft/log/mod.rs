//! The Raft log: one redb file with one writer thread behind it, and the newest entries in memory.
//!
//! Only [`LogStore::save_vote`] waits for the disk inside openraft's core. Appends answer by
//! call-back after their commit; truncations take effect in memory at once and stay in order in
//! the writer's queue; purges and the commit mark ride on whatever is written next.

mod file;
mod holes;
mod record;
mod sizes;
mod tail;
mod witness;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, StreamExt as _, stream};
use model::NodeId;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, alias::EntryOf};
use redb::{Database, ReadableDatabase as _};
use tokio::sync::{mpsc, oneshot};

#[cfg(feature = "sim")]
pub(crate) use self::file::SharedBackend;
pub(crate) use self::file::{Disk, OWNER, Pace, raft_directory};
use self::tail::{Plan, Tail};
#[cfg(feature = "sim")]
pub(crate) use self::witness::WitnessMemory;
use self::writer::{Job, QUEUE_MAX, Start, Work, Writer};
use super::fault::{OnFault, StartError};
use super::types::{Entry, LogId, TypeConfig, Vote, entry_bytes};

/// See [`super::fuzz_log_record`].
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz_record(bytes: &[u8]) {
    let _ = record::open_entry(7, bytes);
    let _ = record::open_entry(7, &record::sealed(7, bytes));
}

/// Bytes of entries in one AppendEntries and in one step of a replay; a larger entry goes alone.
pub(crate) const APPEND_BYTES_MAX: usize = 1 << 20;

/// Entries in one step of a replay.
const STEP_ENTRIES: u64 = 1_024;

/// Times that a read of the disk is begun anew because a truncation or purge came between.
const REREADS_MAX: usize = 8;

/// Opens the log in a data directory as a start would, reads it whole, and closes it again: what the
/// log was purged up to.
pub(crate) fn examine(data_dir: &Path, owner: NodeId) -> Result<Option<LogId>, StartError> {
    file::open(Disk::Directory(data_dir.to_owned()), owner).map(|opened| opened.found.purged)
}

/// How the writer and cold reads run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stepping {
    /// On threads of their own.
    Threads,
    /// On the runtime that calls: for simulations.
    Inline,
}

/// The store, as openraft's core holds it.
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
}

/// What the store, its readers and its writer share.
struct Shared {
    tail: Mutex<Tail>,
    db: Arc<Database>,
    place: String,
    stepping: Stepping,
}

impl Shared {
    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Questions about the log from outside of openraft, and its end.
#[derive(Clone)]
pub(crate) struct LogHandle {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
}

/// Reads entries: from memory, or from disk when they are old.
#[derive(Clone)]
pub(crate) struct LogReader {
    shared: Arc<Shared>,
}

impl LogStore {
    /// Opens the log of this server and starts its writer.
    pub(crate) fn open(
        disk: Disk,
        owner: NodeId,
        stepping: Stepping,
        on_fault: OnFault,
        tasks: &rt::Tasks,
    ) -> Result<(Self, LogHandle), StartError> {
        let pace = match &disk {
            Disk::Simulated { pace, .. } => pace.clone(),
            Disk::Directory(_) | Disk::Memory => Pace::default(),
        };
        let opened = file::open(disk, owner)?;
        #[cfg(feature = "planted")]
        let mut opened = opened;
        #[cfg(feature = "planted")]
        let forgotten = planted_loss(&mut opened.found);
        let purged_below = opened.found.purged.map_or(0, |purged| purged.index + 1);
        let db = Arc::new(opened.db);
        let shared = Arc::new(Shared {
            tail: Mutex::new(Tail::new(opened.found)),
            db: Arc::clone(&db),
            place: opened.place.clone(),
            stepping,
        });
        let writer = Writer::new(Start {
            db,
            place: opened.place,
            witness: opened.witness,
            holes: opened.holes,
            sequence: opened.sequence,
            deleted_below: opened.deleted_below,
            purged_below,
            on_fault,
            shared: Arc::clone(&shared),
        });
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        #[cfg(feature = "planted")]
        if let Some(from) = forgotten {
            let _ =
                jobs.try_send(Job { riders: Default::default(), work: Work::Truncate { from } });
        }
        match stepping {
            Stepping::Threads => writer::on_thread(writer, queue).map_err(|cause| {
                StartError::io("start the writer of", shared.place.as_ref(), cause)
            })?,
            Stepping::Inline => {
                tasks.spawn("raft log writer", writer::stepped(writer, queue, pace))
            }
        }
        let handle = LogHandle { shared: Arc::clone(&shared), jobs: jobs.clone() };
        Ok((Self { shared, jobs }, handle))
    }

    /// Queues work together with what rides on it.
    async fn queue(&self, work: Work) -> io::Result<()> {
        let riders = self.shared.tail().take_riders();
        self.jobs.send(Job { riders, work }).await.map_err(|_| stopped())
    }

    fn reader(&self) -> LogReader {
        LogReader { shared: Arc::clone(&self.shared) }
    }
}

fn stopped() -> io::Error {
    io::Error::other("the writer of the Raft log has stopped")
}

impl LogHandle {
    /// Bounds of the log.
    pub(crate) fn bounds(&self) -> LogState<TypeConfig> {
        self.shared.tail().state()
    }

    /// The last entry known to be committed.
    #[cfg(feature = "sim")]
    pub(crate) fn committed(&self) -> Option<LogId> {
        self.shared.tail().committed()
    }

    /// Reads entries.
    #[cfg(feature = "sim")]
    pub(crate) fn reader(&self) -> LogReader {
        LogReader { shared: Arc::clone(&self.shared) }
    }

    /// The vote, if one was ever given.
    pub(crate) fn vote(&self) -> Option<Vote> {
        self.shared.tail().vote()
    }

    /// Bytes of log behind this index, roughly.
    pub(crate) fn bytes_after(&self, index: u64) -> u64 {
        self.shared.tail().sizes().bytes_after(index)
    }

    /// The lowest index behind which at most this many bytes of log lie.
    pub(crate) fn index_keeping(&self, bytes_max: u64) -> u64 {
        self.shared.tail().sizes().index_keeping(bytes_max)
    }

    /// Writes what is still in memory alone and stops the writer.
    pub(crate) async fn close(&self) -> io::Result<()> {
        let (done, closed) = oneshot::channel();
        let riders = self.shared.tail().take_riders();
        let job = Job { riders, work: Work::Close { done } };
        self.jobs.send(job).await.map_err(|_| stopped())?;
        closed.await.map_err(|_| stopped())?
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        Ok(self.shared.tail().state())
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Bug::VoteNotSaved) {
            self.shared.tail().set_vote(*vote);
            return Ok(());
        }
        let (done, saved) = oneshot::channel();
        self.queue(Work::Vote { vote: *vote, done }).await?;
        saved.await.map_err(|_| stopped())??;
        self.shared.tail().set_vote(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.shared.tail().set_committed(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared.tail().committed())
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = EntryOf<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let (ticket, riders) = {
            let mut tail = self.shared.tail();
            // What rides was said before these entries came.
            let riders = tail.take_riders();
            (tail.append(&entries).map_err(io::Error::other)?, riders)
        };
        let work = Work::Append { ticket, entries, done };
        self.jobs.send(Job { riders, work }).await.map_err(|refused| {
            if let Work::Append { done, .. } = refused.0.work {
                done.io_completed(Err(stopped()));
            }
            stopped()
        })
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let riders = {
            let mut tail = self.shared.tail();
            if !tail.truncate_after(last) {
                return Ok(());
            }
            tail.take_riders()
        };
        let from = last.map_or(0, |last| last.index + 1);
        let job = Job { riders, work: Work::Truncate { from } };
        self.jobs.send(job).await.map_err(|_| stopped())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.shared.tail().purge(upto);
        Ok(())
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read(plain(&range), usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.tail().vote())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, APPEND_BYTES_MAX).await
    }

    /// In steps, so that a long replay never stands in memory as a whole.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let steps =
            stream::try_unfold((self.clone(), plain(&range)), |(reader, left)| async move {
                if left.is_empty() {
                    return Ok::<_, io::Error>(None);
                }
                let end = left.end.min(left.start.saturating_add(STEP_ENTRIES));
                let step = reader.read(left.start..end, APPEND_BYTES_MAX).await?;
                let Some(last) = step.last() else { return Ok(None) };
                let left = last.log_id.index + 1..left.end;
                Ok(Some((step, (reader, left))))
            });
        steps.flat_map(|step| match step {
            Ok(entries) => stream::iter(entries.into_iter().map(Ok)).left_stream(),
            Err(cause) => stream::iter([Err(cause)]).right_stream(),
        })
    }
}

fn plain(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl LogReader {
    /// The entries of this range that the log has, cut off behind `bytes_max` but never empty for
    /// that reason.
    async fn read(&self, wanted: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        for _ in 0..REREADS_MAX {
            let plan = self.shared.tail().plan(wanted.clone(), bytes_max);
            if plan.disk.is_empty() {
                return Ok(plan.memory);
            }
            let read = self.read_disk(plan.disk.clone(), bytes_max).await;
            if self.shared.tail().holds(&plan) {
                return self.joined(plan, read?, bytes_max);
            }
        }
        Err(io::Error::other("the Raft log was cut again and again while it was read"))
    }

    /// Disk first, memory behind it.
    fn joined(&self, plan: Plan, read: Read, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let Read { mut entries, mut bytes, cut } = read;
        let follows = entries.windows(2).all(|w| w[0].log_id.index + 1 == w[1].log_id.index);
        let reached = entries.last().map(|last| last.log_id.index + 1);
        if !follows || (!cut && reached.is_some_and(|reached| reached != plan.disk.end)) {
            let what = format!("{}: entries of {:?} are missing", self.shared.place, plan.disk);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        if cut {
            return Ok(entries);
        }
        for entry in plan.memory {
            bytes = bytes.saturating_add(entry_bytes(&entry));
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    async fn read_disk(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Read> {
        let (db, place) = (Arc::clone(&self.shared.db), self.shared.place.clone());
        let read = move || read_range(&db, range, bytes_max, &place);
        match self.shared.stepping {
            Stepping::Inline => read(),
            Stepping::Threads => {
                tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
            }
        }
    }
}

/// What the disk gave.
struct Read {
    entries: Vec<Entry>,
    bytes: usize,
    /// Whether the byte limit ended it.
    cut: bool,
}

/// Reads from disk until the next entry would pass the limit.
fn read_range(db: &Database, range: Range<u64>, bytes_max: usize, place: &str) -> io::Result<Read> {
    let failed = |cause: redb::Error| io::Error::other(format!("{place}: {cause}"));
    let read = db.begin_read().map_err(|e| failed(e.into()))?;
    let log = read.open_table(file::LOG).map_err(|e| failed(e.into()))?;
    let (mut entries, mut bytes) = (Vec::new(), 0_usize);
    for item in log.range(range).map_err(|e| failed(e.into()))? {
        let (key, value) = item.map_err(|e| failed(e.into()))?;
        let entry = record::open_entry(key.value(), value.value()).map_err(|cause| {
            let what = format!("{place}: log entry {}: {cause}", key.value());
            io::Error::new(io::ErrorKind::InvalidData, what)
        })?;
        let with_it = bytes.saturating_add(entry_bytes(&entry));
        if with_it > bytes_max && !entries.is_empty() {
            return Ok(Read { entries, bytes, cut: true });
        }
        bytes = with_it;
        entries.push(entry);
    }
    Ok(Read { entries, bytes, cut: false })
}

/// Bug "restart forgets": what lies behind the commit mark is dropped. Returns where that begins.
#[cfg(feature = "planted")]
fn planted_loss(found: &mut tail::Found) -> Option<u64> {
    if !crate::planted::is(crate::planted::Bug::RestartForgets) {
        return None;
    }
    let kept = found.committed.max(found.purged)?;
    found.last = Some(kept);
    found.sizes.truncate_after(Some(kept.index));
    Some(kept.index + 1)
}

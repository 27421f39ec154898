//! The one writer of the log: takes all that is queued into one transaction, commits once, then
//! tells all who wait. A core that is stepped ([`Writer::run`]) and a thread that steps it.

use std::io;
use std::sync::Arc;

use openraft::storage::IOFlushed;
use redb::{Database, ReadableTable as _, Table};
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::file::{LOG, META, Pace, meta};
use super::holes::Holes;
use super::record;
use super::tail::Riders;
use super::witness::{self, Witness};
use crate::raft::fault::OnFault;
use crate::raft::mirror::{LogIdV1, VoteV1};
use crate::raft::types::{Entry, TypeConfig, Vote, entry_bytes};

/// Jobs that wait for the writer. A full queue makes appends wait, which is Raft's own brake.
pub(super) const QUEUE_MAX: usize = 4_096;

/// Bytes of entries in one transaction: bounds the time until the first call-back.
const COMMIT_BYTES_MAX: usize = 8 << 20;

/// Purged records deleted in one transaction: more would hold up appends.
const PURGE_SLICE: u64 = 5_000;

/// Work for the writer, in order.
pub(super) struct Job {
    pub(super) riders: Riders,
    pub(super) work: Work,
}

pub(super) enum Work {
    /// Appends; the call-back fires once they are on disk.
    Append { ticket: u64, entries: Vec<Entry>, done: IOFlushed<TypeConfig> },
    /// Saves a vote and answers once it is on disk.
    Vote { vote: Vote, done: oneshot::Sender<io::Result<()>> },
    /// Deletes all entries from this index on.
    Truncate { from: u64 },
    /// Writes what rides and answers; the writer ends.
    Close { done: oneshot::Sender<io::Result<()>> },
}

impl Job {
    fn bytes(&self) -> usize {
        match &self.work {
            Work::Append { entries, .. } => entries.iter().map(entry_bytes).sum(),
            _ => 0,
        }
    }
}

/// The writing side of the log file.
pub(super) struct Writer {
    db: Arc<Database>,
    place: String,
    witness: Option<Box<dyn Witness>>,
    holes: Option<Holes>,
    sequence: u64,
    /// Records below this index are deleted already.
    deleted_below: u64,
    /// Records below this index are purged.
    purged_below: u64,
    on_fault: OnFault,
    failed: bool,
    shared: Arc<Shared>,
}

/// A failure of the file, whatever redb calls it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

impl<E: Into<redb::Error>> From<E> for Failed {
    fn from(cause: E) -> Self {
        Self(cause.into().to_string())
    }
}

/// What a new writer starts from.
pub(super) struct Start {
    pub(super) db: Arc<Database>,
    pub(super) place: String,
    pub(super) witness: Option<Box<dyn Witness>>,
    pub(super) holes: Option<Holes>,
    pub(super) sequence: u64,
    pub(super) deleted_below: u64,
    pub(super) purged_below: u64,
    pub(super) on_fault: OnFault,
    pub(super) shared: Arc<Shared>,
}

impl Writer {
    pub(super) fn new(start: Start) -> Self {
        let Start {
            db,
            place,
            witness,
            holes,
            sequence,
            deleted_below,
            purged_below,
            on_fault,
            shared,
        } = start;
        Self {
            db,
            place,
            witness,
            holes,
            sequence,
            deleted_below,
            purged_below,
            on_fault,
            failed: false,
            shared,
        }
    }

    /// Commits these jobs together and answers them. Returns whether the writer goes on.
    fn run(&mut self, jobs: Vec<Job>) -> bool {
        let result = if self.failed {
            Err("the log has failed before".to_owned())
        } else {
            self.commit(&jobs).map_err(|failed| failed.to_string())
        };
        if let (Err(what), false) = (&result, self.failed) {
            self.failed = true;
            self.on_fault.raise(
                &format!("cannot write the Raft log: {what}"),
                &self.place,
                "free space or repair the disk, then start again; nothing unwritten was promised",
            );
        }
        let mut goes_on = true;
        for job in jobs {
            let answer = || result.clone().map_err(io::Error::other);
            match job.work {
                Work::Append { ticket, done, .. } => {
                    if result.is_ok() {
                        self.shared.tail().done(ticket);
                    }
                    done.io_completed(answer());
                }
                Work::Vote { done, .. } => {
                    let _ = done.send(answer());
                }
                Work::Truncate { .. } => {}
                Work::Close { done } => {
                    goes_on = false;
                    let _ = done.send(answer());
                }
            }
        }
        if !self.failed {
            self.fill_holes();
        }
        goes_on
    }

    /// Makes the next commits cheaper, after this one's answers. A disk that has no room for it
    /// may still have room for what is to come.
    fn fill_holes(&mut self) {
        let Some(holes) = &mut self.holes else { return };
        if let Err(error) = holes.fill() {
            tracing::debug!(%error, place = self.place, "the log file keeps its holes");
            self.holes = None;
        }
    }

    fn commit(&mut self, jobs: &[Job]) -> Result<(), Failed> {
        let started = rt::Clock::system().now();
        let transaction = self.db.begin_write()?;
        let mut riders = Riders::default();
        let mut vote = None;
        {
            let mut log = transaction.open_table(LOG)?;
            #[cfg(feature = "planted")]
            let jobs = planted_order(jobs);
            for job in jobs {
                riders.purged = job.riders.purged.max(riders.purged);
                riders.committed = job.riders.committed.or(riders.committed);
                match &job.work {
                    Work::Append { entries, .. } => append(&mut log, entries)?,
                    Work::Truncate { from } => log.retain_in(*from.., |_, _| false)?,
                    Work::Vote { vote: new, .. } => vote = Some(*new),
                    Work::Close { .. } => {}
                }
            }
            if let Some(purged) = riders.purged {
                self.purged_below = self.purged_below.max(purged.index + 1);
            }
            let upto = self.purged_below.min(self.deleted_below.saturating_add(PURGE_SLICE));
            if self.deleted_below < upto {
                log.retain_in(self.deleted_below..upto, |_, _| false)?;
                self.deleted_below = upto;
            }
        }
        {
            let mut table = transaction.open_table(META)?;
            let mut put =
                |key: &'static str, bytes: Vec<u8>| table.insert(key, bytes.as_slice()).map(|_| ());
            if let Some(vote) = vote {
                put(meta::VOTE, record::seal(meta::VOTE.as_bytes(), &VoteV1::from(&vote)))?;
            }
            for (key, id) in [(meta::PURGED, riders.purged), (meta::COMMITTED, riders.committed)] {
                if let Some(id) = id {
                    put(key, record::seal(key.as_bytes(), &LogIdV1::from(&id)))?;
                }
            }
            let sequence = record::seal(meta::SEQUENCE.as_bytes(), &(self.sequence + 1));
            put(meta::SEQUENCE, sequence)?;
        }
        transaction.commit()?;
        self.sequence += 1;
        if let Some(witness) = &mut self.witness {
            let bytes = witness::encode(self.sequence);
            witness.write(&bytes).map_err(|cause| Failed(format!("commit-seq: {cause}")))?;
        }
        metrics::histogram!("muster.raft.log.commit_seconds").record(started.elapsed());
        metrics::histogram!("muster.raft.log.commit_jobs").record(jobs.len() as f64);
        Ok(())
    }
}

/// Appends behind the last record; a cursor is 1.3 times as fast as single inserts.
fn append(log: &mut Table<'_, u64, &'static [u8]>, entries: &[Entry]) -> Result<(), Failed> {
    let first = entries.first().map(|entry| entry.log_id.index);
    // Records at or behind the first new one were purged past the log's end: nobody counts on them.
    let stale = match (log.last()?, first) {
        (Some((key, _)), Some(first)) if key.value() >= first => Some(first),
        _ => None,
    };
    if let Some(first) = stale {
        return Err(Failed(format!("entry {first} is on disk already")));
    }
    let mut cursor = log.upper_bound_mut(std::ops::Bound::<u64>::Unbounded)?;
    for entry in entries {
        let bytes = record::seal_entry(entry);
        cursor
            .insert_before(entry.log_id.index, bytes.as_slice())
            .map_err(|cause| Failed(cause.to_string()))?;
    }
    cursor.close()?;
    Ok(())
}

/// Takes what is queued behind the first job, within one transaction's bounds.
fn take(first: Job, jobs: &mut mpsc::Receiver<Job>) -> Vec<Job> {
    let mut bytes = first.bytes();
    let mut batch = vec![first];
    while batch.len() < QUEUE_MAX && bytes < COMMIT_BYTES_MAX {
        let Ok(job) = jobs.try_recv() else { break };
        bytes += job.bytes();
        batch.push(job);
    }
    batch
}

/// Runs the writer on a thread of its own until it is closed or nobody can send any more.
pub(super) fn on_thread(mut writer: Writer, mut jobs: mpsc::Receiver<Job>) -> io::Result<()> {
    std::thread::Builder::new().name("raft-log".to_owned()).spawn(move || {
        rt::fatal_on_panic("raft log writer", move || {
            while let Some(first) = jobs.blocking_recv() {
                if !writer.run(take(first, &mut jobs)) {
                    break;
                }
            }
        });
    })?;
    Ok(())
}

/// The same as a future: for simulations, which step it.
pub(super) async fn stepped(mut writer: Writer, mut jobs: mpsc::Receiver<Job>, pace: Pace) {
    while let Some(first) = jobs.recv().await {
        let batch = take(first, &mut jobs);
        #[cfg(feature = "planted")]
        let batch = planted_callbacks(batch);
        pace.commit().await;
        if !writer.run(batch) {
            break;
        }
    }
}

/// Bug "call-back before sync": who waits for an append is told at once.
#[cfg(feature = "planted")]
fn planted_callbacks(batch: Vec<Job>) -> Vec<Job> {
    if !crate::planted::is(crate::planted::Bug::CallbackBeforeSync) {
        return batch;
    }
    let told = |job| match job {
        Job { riders, work: Work::Append { ticket, entries, done } } => {
            done.io_completed(Ok(()));
            Job { riders, work: Work::Append { ticket, entries, done: IOFlushed::noop() } }
        }
        job => job,
    };
    batch.into_iter().map(told).collect()
}

/// Bug "truncate not ordered": truncations come behind the appends that follow them.
#[cfg(feature = "planted")]
fn planted_order(jobs: &[Job]) -> Vec<&Job> {
    let mut jobs: Vec<&Job> = jobs.iter().collect();
    if crate::planted::is(crate::planted::Bug::TruncateNotOrdered) {
        jobs.sort_by_key(|job| matches!(job.work, Work::Truncate { .. }));
    }
    jobs
}

//! Archives on a schedule: the leader writes one whenever the newest in its directory is older than
//! the interval, and drops the oldest.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use model::rpc::ARCHIVE_TIME_MAX;
use model::seam::ByteStream;
use tokio::time::{sleep, timeout};

use super::Context;
use crate::config::SnapshotSchedule;

/// Longest pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(60);
/// Ends of the names while a file is written, and when it is whole.
const PARTIAL: &str = ".tmp";
const WHOLE: &str = ".snap";
const BEGIN: &str = "muster-";

/// Name of an archive (core): when it was written, and the last entry in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    wall_ms: u64,
    index: u64,
}

impl Name {
    fn text(self) -> String {
        format!("{BEGIN}{}-{}{WHOLE}", self.wall_ms, self.index)
    }

    /// Only names that are written exactly as we do: other files are not ours to touch.
    fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(BEGIN)?.strip_suffix(WHOLE)?;
        let (wall_ms, index) = rest.split_once('-')?;
        let name = Self { wall_ms: wall_ms.parse().ok()?, index: index.parse().ok()? };
        (name.text() == text).then_some(name)
    }
}

/// How long until the next one is due (core). A newest one from the future, by a clock that was
/// wrong, holds it up by one interval at most.
fn due_in(newest: Option<Name>, interval: Duration, now_ms: u64) -> Duration {
    let Some(newest) = newest else { return Duration::ZERO };
    let age = Duration::from_millis(now_ms.saturating_sub(newest.wall_ms));
    interval.saturating_sub(age)
}

/// Those that are too many, oldest first (core).
fn surplus(mut names: Vec<Name>, retain: usize) -> Vec<Name> {
    names.sort_unstable();
    names.truncate(names.len().saturating_sub(retain));
    names
}

pub(super) async fn run(context: Context) {
    let Some(schedule) = context.config.snapshot_schedule.clone() else { return };
    loop {
        let pause = match round(&context, &schedule).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(
                    path = %schedule.path.display(),
                    %error,
                    "no scheduled snapshot was written; see that the directory can be written and \
                     has room; it is tried again within a minute"
                );
                schedule.interval.min(RETRY_PAUSE)
            }
        };
        sleep(pause).await;
    }
}

/// Writes an archive if one is due; returns how long until the next.
async fn round(context: &Context, schedule: &SnapshotSchedule) -> Result<Duration, String> {
    let (directory, interval) = (schedule.path.clone(), schedule.interval);
    let names = on_disk(move || prepare(&directory)).await?;
    let newest = names.iter().max().copied();
    let now_ms = context.clock.wall_ms();
    let due = due_in(newest, interval, now_ms);
    if due > Duration::ZERO {
        return Ok(due);
    }
    // Not of a leader that has lost its majority.
    context.consensus.read_index().await.map_err(|error| error.to_string())?;
    let (index, archive) = context.consensus.archive().map_err(|error| error.to_string())?;
    // Names go up, whatever the clock does: the oldest by name is the oldest.
    let wall_ms = newest.map_or(now_ms, |newest| now_ms.max(newest.wall_ms.saturating_add(1)));
    let name = Name { wall_ms, index: index.0 };
    let path = schedule.path.join(name.text());
    let written = timeout(ARCHIVE_TIME_MAX, write(&path, archive)).await;
    let bytes = written.unwrap_or_else(|_| Err("it took too long".to_owned()))?;
    tracing::info!(path = %path.display(), %index, bytes, "scheduled snapshot written");
    let (directory, retain) = (schedule.path.clone(), schedule.retain);
    on_disk(move || prune(&directory, retain)).await?;
    Ok(interval)
}

/// Runs work on files where it holds up nobody.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err("the work was stopped".to_owned()),
    }
}

/// Makes the directory, drops what an interrupted round left in it, and lists the archives.
fn prepare(directory: &Path) -> io::Result<Vec<Name>> {
    fs::create_dir_all(directory)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let text = entry.file_name();
        let Some(text) = text.to_str() else { continue };
        if text.strip_suffix(PARTIAL).and_then(Name::parse).is_some() {
            fs::remove_file(entry.path())?;
        }
        names.extend(Name::parse(text));
    }
    Ok(names)
}

/// Writes a whole archive under a temporary name, and gives it its own once it is on the disk.
async fn write(path: &Path, mut archive: ByteStream) -> Result<u64, String> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(PARTIAL);
    let partial = PathBuf::from(partial);
    let opened = partial.clone();
    let mut file = on_disk(move || open(&opened)).await?;
    let mut bytes = 0;
    while let Some(part) = archive.next().await {
        let part = part.map_err(|error| error.to_string())?;
        bytes += part.len() as u64;
        file = on_disk(move || file.write_all(&part).map(|()| file)).await?;
    }
    let path = path.to_owned();
    on_disk(move || {
        file.sync_all()?;
        fs::rename(&partial, &path)?;
        sync_parent(&path)
    })
    .await?;
    Ok(bytes)
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    // It holds everything that the cluster knows.
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn prune(directory: &Path, retain: usize) -> io::Result<()> {
    for name in surplus(prepare(directory)?, retain) {
        fs::remove_file(directory.join(name.text()))?;
    }
    File::open(directory)?.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use model::seam::MemberState;
    use rt::{Clock, Tasks};

    use super::*;
    use crate::endpoint::fake::{self, FakeCluster, FakeConsensus, member};
    use crate::leader::Duties;

    const HOUR: Duration = Duration::from_secs(3_600);
    const HOUR_MS: u64 = 3_600_000;
    const START_MS: u64 = 1_700_000_000_000;

    fn name(wall_ms: u64, index: u64) -> Name {
        Name { wall_ms, index }
    }

    #[test]
    fn only_our_own_names_are_ours() {
        assert_eq!(Name::parse("muster-17-9.snap"), Some(name(17, 9)));
        for other in [
            "muster-17-9.snap.tmp",
            "muster-17.snap",
            "muster-017-9.snap",
            "muster-+17-9.snap",
            "muster-17-9-1.snap",
            "muster-a-9.snap",
            "muster-17-99999999999999999999.snap",
            "backup.snap",
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_next_is_due_an_interval_after_the_newest() {
        for (newest, now_ms, due) in [
            (None, 5, Duration::ZERO),
            (Some(name(1_000, 1)), 1_000, HOUR),
            (Some(name(1_000, 1)), 1_000 + HOUR_MS - 1, Duration::from_millis(1)),
            (Some(name(1_000, 1)), 1_000 + HOUR_MS, Duration::ZERO),
            (Some(name(u64::MAX, 1)), 1_000, HOUR),
        ] {
            assert_eq!(due_in(newest, HOUR, now_ms), due);
        }
        let many = vec![name(3, 9), name(1, 9), name(2, 9)];
        assert_eq!(surplus(many.clone(), 2), [name(1, 9)]);
        assert_eq!(surplus(many, 3), []);
    }

    struct Stage {
        consensus: Arc<FakeConsensus>,
        wall: Arc<AtomicU64>,
        tasks: Tasks,
    }

    fn stage(path: &Path) -> Stage {
        let (consensus, tasks) = (FakeConsensus::new(), Tasks::new());
        let wall = Arc::new(AtomicU64::new(START_MS));
        let mut config = fake::config();
        config.snapshot_schedule =
            Some(SnapshotSchedule { interval: HOUR, retain: 2, path: path.to_owned() });
        let context = Context {
            config: Arc::new(config),
            consensus: consensus.clone(),
            cluster: FakeCluster::new(vec![member(1, MemberState::Alive, true, &[])]),
            duties: Arc::new(Duties::default()),
            clock: Clock::with_wall(Arc::clone(&wall)),
        };
        tasks.spawn("leader watch", crate::leader::run(context, tasks.clone()));
        Stage { consensus, wall, tasks }
    }

    impl Stage {
        async fn pass(&self, time: Duration) {
            for _ in 0..time.as_secs() / 10 {
                self.wall.fetch_add(10_000, Ordering::Relaxed);
                sleep(Duration::from_secs(10)).await;
            }
        }

        async fn end(self) {
            let stopped = self.tasks.stop_and_wait(Duration::from_secs(5)).await;
            assert!(stopped.unfinished.is_empty(), "{stopped:?}");
        }
    }

    fn files(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("a directory");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> =
            names.map(|name| name.into_string().expect("a name")).collect();
        names.sort_unstable();
        names
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_leader_writes_and_the_oldest_of_its_own_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a/b");
        let stage = stage(&path);
        stage.pass(HOUR * 2).await;
        assert!(!path.exists(), "a follower wrote");

        fs::create_dir_all(&path).expect("made");
        for kept in ["backup.snap", "muster-1-1.snap.bak"] {
            fs::write(path.join(kept), "mine").expect("written");
        }
        for dropped in ["muster-5-1.snap", "muster-6-1.snap", "muster-7-1.snap.tmp"] {
            fs::write(path.join(dropped), "old").expect("written");
        }
        stage.consensus.lead(Some(1));
        stage.pass(Duration::from_secs(60)).await;
        let found = files(&path);
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!((&found[0][..], &found[1][..]), ("backup.snap", "muster-1-1.snap.bak"));
        assert_eq!(found[3], "muster-6-1.snap");
        let first = Name::parse(&found[2]).expect("ours");
        assert!(first.wall_ms > START_MS + 2 * HOUR_MS - 1, "{first:?}");
        assert_eq!(fs::read(path.join(&found[2])).expect("read"), b"archive");

        // A new term is no reason for one; an interval is.
        stage.consensus.lead(Some(1));
        stage.pass(HOUR / 2).await;
        assert_eq!(files(&path), found);
        stage.pass(HOUR).await;
        let names: Vec<Name> = files(&path).iter().filter_map(|name| Name::parse(name)).collect();
        assert_eq!((names.len(), names[0]), (2, first));
        assert!(names[1].wall_ms >= first.wall_ms + HOUR_MS, "{names:?}");
        stage.pass(HOUR).await;
        let names: Vec<Name> = files(&path).iter().filter_map(|name| Name::parse(name)).collect();
        assert!(names.len() == 2 && !names.contains(&first), "{names:?}");
        stage.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_cannot_be_written_is_tried_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a");
        fs::write(&path, "a file stands in the way").expect("written");
        let stage = stage(&path);
        stage.consensus.lead(Some(1));
        stage.pass(Duration::from_secs(300)).await;
        fs::remove_file(&path).expect("removed");
        stage.pass(Duration::from_secs(120)).await;
        assert_eq!(files(&path).len(), 1);
        stage.end().await;
    }
}

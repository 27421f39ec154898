//! A server whose log is damaged gives it up and comes back as a new server.
//!
//! A voter without its log has forgotten for whom it voted and which entries it holds. If it went on
//! under its id, it could vote twice in one term, or elect a leader that lacks entries which were
//! committed only because it held them (Raft §5.2, §5.4). So its id is retired for good: under a new
//! one it is added as a learner, and votes when it has caught up. Until the leader has removed the
//! old id, that still counts in every quorum, as a server that is down.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use model::NodeId;

use super::fault::StartError;
use super::log::{self, OWNER};
use super::snapshot::Shelf;

/// Ids that were given up, one a line, beside the directory `raft`.
const RETIRED: &str = "retired-ids";

/// Directories of former resets that may stand side by side.
const ASIDE_MAX: u32 = 1_000;

/// Why nothing was reset.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// There is no log.
    #[error("{path} holds no Raft log: nothing to reset", path = path.display())]
    Nothing {
        /// Where it would be.
        path: PathBuf,
    },
    /// The log is whole.
    #[error(
        "{path} is not damaged; a server that is to leave does so by `muster leave`; if its log is \
         to be given up all the same, and another server has the data, say -force",
        path = path.display()
    )]
    Whole {
        /// Where it is.
        path: PathBuf,
    },
    /// The log cannot be used, but not because of damage.
    #[error("{0}; nothing was reset")]
    NotDamage(StartError),
    /// Files cannot be moved or written.
    #[error("cannot {action} {path}: {cause}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// A file says something that makes no sense.
    #[error("{path} is damaged: {what}", path = path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What.
        what: String,
    },
}

/// What a reset did.
#[derive(Debug)]
pub struct ResetDone {
    /// Where the log and its snapshots are now.
    pub aside: PathBuf,
    /// What was wrong with them; `None`: nothing.
    pub damage: Option<String>,
    /// The id that is not used again, if it was known.
    pub retired: Option<NodeId>,
}

/// Moves the log and the snapshots of a stopped server aside and retires its id. The caller holds
/// the lock of the data directory.
pub fn reset(data_dir: &Path, force: bool) -> Result<ResetDone, ResetError> {
    let raft = log::raft_directory(data_dir);
    let owner_file = data_dir.join(OWNER);
    let empty = fs::read_dir(&raft).map_or(true, |mut files| files.next().is_none());
    if empty && !owner_file.exists() {
        return Err(ResetError::Nothing { path: raft });
    }
    let node_id_file = data_dir.join("node-id");
    // Either may be damaged too, and then the other knows.
    let [ours, owner] = [&node_id_file, &owner_file].map(|path| read_id(path));
    let damage = match examine(data_dir, ours.or(owner).unwrap_or(NodeId([0; 16]))) {
        Ok(()) if !force => return Err(ResetError::Whole { path: raft }),
        Ok(()) => None,
        Err(error @ StartError::InUse { .. }) => return Err(ResetError::NotDamage(error)),
        Err(error) if is_damage(&error) || force => Some(error.to_string()),
        Err(error) => return Err(ResetError::NotDamage(error)),
    };
    // First of all: from here on no start under the old id gets through.
    let gone: Vec<NodeId> = [ours, owner].into_iter().flatten().collect();
    retire(data_dir, &gone)?;
    remove(&node_id_file)?;
    if owner.is_none() {
        remove(&owner_file)?;
    }
    sync(data_dir)?;
    let aside = free_name(data_dir)?;
    if raft.exists() {
        fs::rename(&raft, &aside).map_err(failed("move", &raft))?;
        sync(data_dir)?;
    }
    Ok(ResetDone { aside, damage, retired: owner.or(ours) })
}

/// Ids that this data directory's server must not use again; `None`: it was never reset. One that was
/// must not make a cluster of its own, but waits to be added.
pub fn retired(data_dir: &Path) -> Result<Option<Vec<NodeId>>, ResetError> {
    let path = data_dir.join(RETIRED);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(failed("read", &path)(cause)),
    };
    let ids = text.lines().map(|line| {
        line.parse().map_err(|cause| {
            let line = line.escape_debug();
            let what = format!("\"{line}\" is {cause}; write whole ids there, one a line");
            ResetError::Damaged { path: path.clone(), what }
        })
    });
    ids.collect::<Result<_, _>>().map(Some)
}

/// What a start would say of log and snapshots.
fn examine(data_dir: &Path, owner: NodeId) -> Result<(), StartError> {
    let purged = log::examine(data_dir, owner)?;
    let (_, loaded) = Shelf::open(Some(data_dir))?;
    let covered = loaded.and_then(|(meta, _)| meta.last_log_id);
    super::must_meet(purged, covered, Some(data_dir))
}

/// A disk that cannot read a file any more has damaged it, too.
fn is_damage(error: &StartError) -> bool {
    match error {
        StartError::Damaged { .. } => true,
        StartError::Io { cause, .. } => cause.raw_os_error() == Some(EIO),
        _ => false,
    }
}

/// The same number on every Unix.
const EIO: i32 = 5;

fn remove(path: &Path) -> Result<(), ResetError> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(cause)),
        _ => Ok(()),
    }
}

fn read_id(path: &Path) -> Option<NodeId> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn retire(data_dir: &Path, ids: &[NodeId]) -> Result<(), ResetError> {
    let path = data_dir.join(RETIRED);
    let known = retired(data_dir)?.unwrap_or_default();
    let mut text = String::new();
    for id in ids.iter().filter(|id| !known.contains(id)) {
        let line = format!("{id}\n");
        if !text.contains(&line) {
            text.push_str(&line);
        }
    }
    // Also when nothing is known: the file says that this server waits to be added.
    let mut file =
        OpenOptions::new().create(true).append(true).open(&path).map_err(failed("open", &path))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed("write", &path))?;
    sync(data_dir)
}

fn free_name(data_dir: &Path) -> Result<PathBuf, ResetError> {
    let names = (1..=ASIDE_MAX).map(|n| data_dir.join(format!("raft.reset-{n}")));
    names.into_iter().find(|path| !path.exists()).ok_or_else(|| ResetError::Damaged {
        path: data_dir.to_owned(),
        what: format!("it holds {ASIDE_MAX} directories raft.reset-N; remove those not needed"),
    })
}

fn sync(directory: &Path) -> Result<(), ResetError> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(failed("sync", directory))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ResetError {
    let path = path.to_owned();
    move |cause| ResetError::Io { action, path, cause }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::fault::OnFault;
    use crate::raft::log::{Disk, LogStore, Stepping};

    const OWNER_ID: NodeId = NodeId([7; 16]);

    fn server() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("node-id"), OWNER_ID.to_string()).expect("written");
        log::examine(directory.path(), OWNER_ID).expect("made");
        directory
    }

    fn start(directory: &Path, id: NodeId) -> Result<(), StartError> {
        log::examine(directory, id).map(|_| ())
    }

    #[test]
    fn only_a_damaged_log_is_given_up_without_force() {
        let directory = server();
        let dir = directory.path();
        assert!(matches!(reset(dir, false), Err(ResetError::Whole { .. })));
        assert!(dir.join("node-id").exists() && retired(dir).expect("none").is_none());
        fs::write(dir.join("raft/commit-seq"), b"short").expect("written");
        let done = reset(dir, false).expect("damaged");
        assert!(done.damage.is_some_and(|what| what.contains("commit-seq")));
        assert_eq!(done.retired, Some(OWNER_ID));
        assert!(done.aside.join("raft.redb").exists(), "nothing is thrown away");
        assert_eq!(retired(dir).expect("written"), Some(vec![OWNER_ID]));
        assert!(!dir.join("node-id").exists() && !dir.join("raft").exists());
        // A new server begins here; the old one cannot.
        assert!(matches!(start(dir, OWNER_ID), Err(StartError::Damaged { .. })));
        start(dir, NodeId([8; 16])).expect("a new server");
        assert!(matches!(reset(dir, false), Err(ResetError::Whole { .. })));
        let again = reset(dir, true).expect("forced");
        assert!(again.damage.is_none() && again.aside != done.aside);
        assert_eq!(retired(dir).expect("written"), Some(vec![OWNER_ID, NodeId([8; 16])]));
    }

    #[test]
    fn a_raft_directory_that_is_gone_is_damage_and_not_a_new_server() {
        let directory = server();
        let dir = directory.path();
        fs::remove_dir_all(dir.join("raft")).expect("removed");
        let text = start(dir, OWNER_ID).expect_err("refused").to_string();
        assert!(text.contains("raft is damaged") && text.contains("operator raft reset"), "{text}");
        fs::write(dir.join(OWNER), b"\xff").expect("written");
        let text = start(dir, OWNER_ID).expect_err("refused").to_string();
        assert!(text.contains("raft-owner is damaged"), "{text}");
        assert_eq!(reset(dir, false).expect("damaged").retired, Some(OWNER_ID));
        start(dir, NodeId([8; 16])).expect("a new server");
        let empty = tempfile::tempdir().expect("a directory");
        assert!(matches!(reset(empty.path(), true), Err(ResetError::Nothing { .. })));
    }

    #[test]
    fn a_damaged_name_of_the_owner_is_mended_from_a_whole_log() {
        let directory = server();
        let path = directory.path().join(OWNER);
        fs::write(&path, "half an id").expect("written");
        start(directory.path(), OWNER_ID).expect("the log is whole");
        assert_eq!(read_id(&path), Some(OWNER_ID));
    }

    #[tokio::test]
    async fn a_running_servers_log_and_a_foreign_one_are_left_alone() {
        let directory = server();
        let dir = directory.path();
        let disk = Disk::Directory(dir.to_owned());
        let tasks = rt::Tasks::new();
        let opened = LogStore::open(disk, OWNER_ID, Stepping::Inline, OnFault::fatal(), &tasks);
        let (store, handle) = opened.expect("opens");
        let refused = reset(dir, false).expect_err("in use").to_string();
        assert!(refused.contains("in use"), "{refused}");
        handle.close().await.expect("closed");
        drop((store, handle));
        tasks.stop_and_wait(std::time::Duration::from_secs(5)).await;
        fs::write(dir.join("node-id"), NodeId([9; 16]).to_string()).expect("written");
        let refused = reset(dir, false).expect_err("foreign").to_string();
        assert!(refused.contains("belongs to server"), "{refused}");
        assert!(dir.join("raft").exists());
    }
}

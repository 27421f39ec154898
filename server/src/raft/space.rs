//! Space on the disk: writes are refused before there is none, because a server whose disk is full
//! has to stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use model::command::{Command, KvCommandV1, Rejection};
use model::rpc::RpcError;
use model::txn::{CatalogVerbV1, KvVerbV1, TxnOpV1};
use rt::Tasks;

/// Time between two looks: what the fastest writers fill in it must be far below the reserve.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Writes are taken again when this part of the reserve is free beyond it: or each would be refused
/// or taken by chance.
const SLACK: u64 = 8;

/// Whether there is room for more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Space(Arc<Facts>);

#[derive(Debug, Default)]
struct Facts {
    low: AtomicBool,
    free: AtomicU64,
    reserve: u64,
}

impl Space {
    /// Watches the file system of a data directory; a reserve of 0 is none.
    pub(crate) fn watch(data_dir: Option<&Path>, reserve: u64, tasks: &Tasks) -> Self {
        let space = Self(Arc::new(Facts { reserve, ..Facts::default() }));
        if let (Some(data_dir), 1..) = (data_dir, reserve) {
            let watching = space.clone().run(data_dir.to_owned());
            tasks.spawn_until_stop("raft disk space", watching);
        }
        space
    }

    async fn run(self, data_dir: PathBuf) {
        loop {
            let asked = data_dir.clone();
            let free = tokio::task::spawn_blocking(move || free_bytes(&asked)).await;
            match free {
                Ok(Ok(free)) => self.note(free, &data_dir),
                Ok(Err(cause)) => tracing::warn!(
                    path = %data_dir.display(), %cause, "cannot tell how much space is free"
                ),
                Err(_) => return,
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn note(&self, free: u64, data_dir: &Path) {
        let Facts { low, free: known, reserve } = &*self.0;
        known.store(free, Ordering::Relaxed);
        metrics::gauge!("muster.raft.disk.free_bytes").set(free as f64);
        let was = low.load(Ordering::Relaxed);
        let enough = if was { reserve.saturating_add(reserve / SLACK) } else { *reserve };
        let is = free < enough;
        low.store(is, Ordering::Relaxed);
        let path = data_dir.display();
        if is && !was {
            tracing::error!(
                %path, free, reserve,
                "the disk is nearly full: this server refuses writes while it leads; free space"
            );
        } else if was && !is {
            tracing::info!(%path, free, "the disk has room again: writes are taken");
        }
    }

    /// Refuses what would add data. What is registered, and so health, may use half of the reserve.
    /// Deletions and the leader's own duties go on: they take little, and free locks and names.
    pub(crate) fn admit(&self, command: &Command) -> Result<(), RpcError> {
        let Facts { low, free, reserve } = &*self.0;
        let free = free.load(Ordering::Relaxed);
        if !low.load(Ordering::Relaxed) || !adds(command, free < reserve / 2) {
            return Ok(());
        }
        Err(RpcError::Rejected(Rejection::Other(format!(
            "disk space exhausted: {free} bytes are free on the leader's disk, {reserve} are held \
             in reserve; free space, then write again"
        ))))
    }
}

fn adds(command: &Command, very_low: bool) -> bool {
    match command {
        Command::KvV1(kv) => !matches!(
            kv,
            KvCommandV1::Delete(_)
                | KvCommandV1::DeleteCas(..)
                | KvCommandV1::DeleteTree(_)
                | KvCommandV1::Unlock(..)
        ),
        Command::SessionCreateV1(_) | Command::RestoreChunkV1(_) => true,
        Command::RegisterV1(_) => very_low,
        Command::TxnV1(ops) => ops.iter().any(|op| match op {
            TxnOpV1::Kv(op) => {
                matches!(op.verb, KvVerbV1::Set | KvVerbV1::Cas | KvVerbV1::Lock)
            }
            TxnOpV1::Node(verb, _) | TxnOpV1::Service(verb, _) | TxnOpV1::Check(verb, _) => {
                very_low && matches!(verb, CatalogVerbV1::Set | CatalogVerbV1::Cas)
            }
        }),
        _ => false,
    }
}

/// Bytes that this process may still write there.
fn free_bytes(directory: &Path) -> std::io::Result<u64> {
    let found = rustix::fs::statvfs(directory)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> Command {
        let put = model::command::KvPutV1 { key: "k".into(), value: "v".into(), flags: 0 };
        Command::KvV1(KvCommandV1::Set(put))
    }

    #[test]
    fn below_the_reserve_only_what_adds_is_refused_until_there_is_room_to_spare() {
        let space = Space(Arc::new(Facts { reserve: 800, ..Facts::default() }));
        for (free, refused) in
            [(800, false), (799, true), (850, true), (900, false), (810, false), (0, true)]
        {
            space.note(free, Path::new("/data"));
            assert_eq!(space.admit(&set()).is_err(), refused, "{free}");
            assert_eq!(space.admit(&Command::TickV1), Ok(()));
            let delete = Command::KvV1(KvCommandV1::Delete("k".into()));
            assert_eq!(space.admit(&delete), Ok(()));
        }
        let Err(RpcError::Rejected(why)) = space.admit(&set()) else { panic!("refused") };
        assert!(why.to_string().starts_with("disk space exhausted: 0 bytes"), "{why}");
    }

    #[test]
    fn a_transaction_and_a_restore_add_as_what_they_are_made_of() {
        let space = Space(Arc::new(Facts { reserve: 800, ..Facts::default() }));
        space.note(799, Path::new("/data"));
        let txn = |verb| {
            let op = model::txn::KvTxnV1 {
                verb,
                key: "k".into(),
                value: "v".into(),
                flags: 0,
                index: model::LogIndex::ZERO,
                session: "".into(),
            };
            Command::TxnV1(vec![TxnOpV1::Kv(op)])
        };
        assert!(space.admit(&txn(KvVerbV1::Set)).is_err());
        assert_eq!(space.admit(&txn(KvVerbV1::Delete)), Ok(()));
        let (id, bytes) = (model::NodeId([1; 16]), "x".into());
        let chunk = model::command::RestoreChunkV1 { id, offset: 0, bytes };
        assert!(space.admit(&Command::RestoreChunkV1(chunk)).is_err());
        assert_eq!(space.admit(&Command::RestoreAbortV1(id)), Ok(()));
    }

    #[test]
    fn health_may_use_half_of_the_reserve() {
        let space = Space(Arc::new(Facts { reserve: 800, ..Facts::default() }));
        let register = Command::RegisterV1(model::command::RegisterV1 {
            node: crate::endpoint::fake::rows::node("n", 1),
            skip_node_update: false,
            services: Vec::new(),
            checks: Vec::new(),
        });
        for (free, refused) in [(799, false), (400, false), (399, true)] {
            space.note(free, Path::new("/data"));
            let admitted = space.admit(&register);
            assert_eq!(admitted.is_err(), refused, "{free}");
        }
    }

    #[test]
    fn free_space_is_read_from_the_file_system() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(free_bytes(directory.path()).expect("it is there") > 0);
        assert!(free_bytes(Path::new("/no/such/directory")).is_err());
    }
}

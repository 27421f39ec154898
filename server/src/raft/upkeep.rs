//! What goes on beside the requests: snapshots and purges when they are due, and the end of the
//! process when openraft has stopped by an error.

use std::sync::Arc;

use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::Fatal;
use rt::Tasks;

use super::Core;
use super::fault::OnFault;
use super::log::LogHandle;
use super::machine::Published;
use super::policy::{Facts, purge_upto};

/// Starts both watches.
pub(super) fn start(
    core: &Core,
    published: &Arc<Published>,
    log: &LogHandle,
    threshold: u64,
    on_fault: OnFault,
    tasks: &Tasks,
) {
    let upkeep = Upkeep {
        core: core.clone(),
        published: Arc::clone(published),
        log: log.clone(),
        threshold,
    };
    tasks.spawn_until_stop("raft snapshots", upkeep.run());
    tasks.spawn_until_stop("raft death watch", watch_death(core.clone(), on_fault));
}

struct Upkeep {
    core: Core,
    published: Arc<Published>,
    log: LogHandle,
    threshold: u64,
}

impl Upkeep {
    async fn run(self) {
        let mut applied = self.published.watch_applied();
        let mut metrics = self.core.data_metrics();
        loop {
            let (snapshot, purged) = {
                let metrics = metrics.borrow_and_update();
                let index = |id: Option<super::types::LogId>| id.map_or(0, |id| id.index);
                (index(metrics.snapshot), index(metrics.purged))
            };
            let keeping = |bytes_max| self.log.index_keeping(bytes_max);
            if let Some(upto) = purge_upto(snapshot, purged, keeping)
                && self.core.trigger().purge_log(upto).await.is_err()
            {
                return;
            }
            let facts = Facts {
                applied: applied.borrow_and_update().map_or(0, |id| id.index),
                snapshot,
                bytes_since: self.log.bytes_after(snapshot),
                threshold: self.threshold,
            };
            if facts.is_due() {
                if self.core.trigger().snapshot().await.is_err() {
                    return;
                }
                // The next is decided on when this one is there.
                while metrics.borrow_watched().snapshot.map_or(0, |id| id.index) <= snapshot {
                    if metrics.changed().await.is_err() {
                        return;
                    }
                }
                continue;
            }
            tokio::select! {
                biased;
                changed = applied.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// A core that has stopped by itself leaves a process that only looks alive.
async fn watch_death(core: Core, on_fault: OnFault) {
    let mut metrics = core.metrics();
    loop {
        let state = metrics.borrow_and_update().running_state.clone();
        match state {
            Err(Fatal::Stopped) => return,
            Err(fatal) => {
                let what = format!("Raft has stopped: {fatal}");
                let remedy = "repair what the text names, then start again";
                on_fault.raise(&what, "raft", remedy);
                return;
            }
            Ok(()) => {}
        }
        if metrics.changed().await.is_err() {
            // A shutdown ends this watch before it ends the core.
            let what = "Raft has stopped: its core has panicked";
            on_fault.raise(what, "raft", "report the panic above, then start again");
            return;
        }
    }
}

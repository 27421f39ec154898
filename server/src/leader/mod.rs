//! What only the leader does: it begins when leadership is gained and ends when it is lost.
//!
//! What it is not: it answers nobody. It proposes commands and changes the Raft configuration.
//!
//! | module | what |
//! |---|---|
//! | `timers`, `expiry` | TTLs of sessions: core and driver |
//! | `catalog`, `reconcile` | gossip's members into the catalog: core and driver |
//! | `servers`, `membership` | gossip's servers into Raft: core and driver |
//! | `autopilot/` | health of the servers, promotion, dead servers |
//! | `schedule` | archives on a schedule |
//! | `upkeep` | tombstones and cluster time |

mod autopilot;
mod catalog;
mod expiry;
mod membership;
mod reconcile;
mod schedule;
mod servers;
mod timers;
mod upkeep;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use model::command::{Command, Outcome};
use model::rpc::RpcError;
use model::seam::Cluster;
use model::{LogIndex, Name};
use rt::{Clock, Tasks};
use tokio::time::{sleep, timeout};

pub(crate) use self::autopilot::View;
pub(crate) use self::servers::Shunned;
pub(crate) use self::timers::SessionTimers;
use crate::config::Config;
use crate::consensus::{Consensus, Proposal};

/// Pause before a new leader tries again to confirm that it leads.
const BARRIER_PAUSE: Duration = Duration::from_millis(50);
/// Time for the duties to end; each may be dropped at any await.
const STOP_MAX: Duration = Duration::from_secs(1);
/// Time for an order to forget a restore that was given up.
const ABORT_MAX: Duration = Duration::from_secs(2);
/// Namespace of what the duties write.
const NAMESPACE: &str = "default";

/// What the endpoint and the duties share.
#[derive(Debug, Default)]
pub(crate) struct Duties {
    /// TTL timers of sessions.
    pub(crate) timers: SessionTimers,
    /// Servers that were removed on order and are not to be added again at once.
    pub(crate) shunned: Shunned,
    /// What autopilot knows of the servers.
    pub(crate) autopilot: View,
}

/// What the duties stand on.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) consensus: Arc<dyn Consensus>,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) duties: Arc<Duties>,
    pub(crate) clock: Clock,
}

/// Begins and ends the duties as leadership comes and goes.
pub(crate) async fn run(context: Context, tasks: Tasks) {
    let mut leadership = context.consensus.leadership();
    let mut epoch = context.consensus.epoch();
    let stop = tasks.token();
    let mut current: Option<((u64, u64), Tasks)> = None;
    loop {
        let now = *leadership.borrow_and_update();
        // After a restore everything is to be looked at anew, as after an election.
        let epoch_now = *epoch.borrow_and_update();
        let term = now.is_leader.then_some((now.term, epoch_now));
        if current.as_ref().map(|(term, _)| *term) != term {
            let held = current.as_ref().map(|((term, _), _)| *term);
            if let Some(((term, _), duties)) = current.take() {
                tracing::info!(term, "duties of the leader end");
                let stopped = duties.stop_and_wait(STOP_MAX).await;
                if !stopped.unfinished.is_empty() {
                    tracing::warn!(unfinished = ?stopped.unfinished, "duties still running");
                }
                // They may have begun just now.
                context.duties.timers.end();
                context.duties.autopilot.forget();
            }
            let elected = held != term.map(|(term, _)| term);
            if let Some(term) = term {
                tracing::info!(term = term.0, epoch = term.1, "duties of the leader begin");
                let duties = tasks.child();
                duties.spawn_until_stop(
                    "leader duties",
                    begin(context.clone(), duties.clone(), elected),
                );
                current = Some((term, duties));
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            changed = leadership.changed() => if changed.is_err() { break },
            changed = epoch.changed() => if changed.is_err() { break },
        }
    }
    if let Some((_, duties)) = current {
        duties.stop_and_wait(STOP_MAX).await;
        context.duties.timers.end();
        context.duties.autopilot.forget();
    }
}

/// Starts the duties once the leader has applied what it was elected with.
async fn begin(context: Context, tasks: Tasks, elected: bool) {
    while let Err(error) = context.consensus.read_index().await {
        tracing::debug!(%error, "leader not ready for its duties");
        sleep(BARRIER_PAUSE).await;
    }
    let state = context.consensus.state();
    if let Some(left) = state.restoring().filter(|_| elected) {
        // Whoever sent its pieces led before us.
        let abort = Command::RestoreAbortV1(left);
        if let Err(error) = context.propose("restore", abort, ABORT_MAX).await {
            tracing::debug!(%error, "a restore that was given up is dropped later");
        }
    }
    let sessions = state.sessions_with_ttl();
    drop(state);
    context.duties.timers.begin(&sessions, context.clock.now());
    tasks.spawn_until_stop("session expiry", expiry::run(context.clone()));
    tasks.spawn_until_stop("member reconcile", reconcile::run(context.clone()));
    tasks.spawn_until_stop("server membership", membership::run(context.clone()));
    tasks.spawn_until_stop("autopilot seed", autopilot::seed(context.clone()));
    tasks.spawn_until_stop("autopilot", autopilot::run(context.clone()));
    tasks.spawn_until_stop("scheduled snapshots", schedule::run(context.clone()));
    tasks.spawn_until_stop("leader upkeep", upkeep::run(context));
}

impl Context {
    /// Proposes on behalf of a duty.
    async fn propose(
        &self,
        duty: &'static str,
        command: Command,
        limit: Duration,
    ) -> Result<LogIndex, RpcError> {
        let proposal = Proposal {
            namespace: NAMESPACE.into(),
            retry: None,
            actor: Name::from(duty),
            reason: Name::default(),
            command,
        };
        let proposed = timeout(limit, self.consensus.propose(proposal)).await;
        let late = || RpcError::Broken("not applied in time".to_owned());
        match proposed.unwrap_or_else(|_| Err(late()))? {
            (index, Outcome::Done | Outcome::Bool(_) | Outcome::Txn(_)) => Ok(index),
            (_, Outcome::Rejected(rejection)) => Err(RpcError::Rejected(rejection)),
        }
    }
}

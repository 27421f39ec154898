//! Autopilot: judges the servers, makes learners voters, removes dead servers (driver of `health`
//! and `cleanup`).
//!
//! What it is not: it adds nobody. Who joins is for `servers` to see.

pub(super) mod cleanup;
mod health;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::NodeId;
use model::command::{AutopilotCommandV1, Command};
use model::row::AutopilotV1;
use model::rpc::{AutopilotState, RaftServer, RpcError};
use model::seam::Members;
use tokio::time::{Instant, sleep, timeout};

use self::cleanup::Dead;
use self::health::{Health, Moment};
use super::{Context, NAMESPACE};
use crate::consensus::Census;

/// Time between two searches for dead servers. Consul: autopilot's round, 10 s.
const CLEANUP_EVERY: Duration = Duration::from_secs(10);
/// Time for a proposal.
const PROPOSE_MAX: Duration = Duration::from_secs(10);
/// Pause before the first configuration is proposed again.
const SEED_AGAIN: Duration = Duration::from_millis(200);
/// The same after a refusal that will last: an older server is in the cluster.
const SEED_LATER: Duration = Duration::from_secs(10);
/// Two heartbeats: a follower that has just been skipped by one is not ill.
const SILENCE_MIN: Duration = Duration::from_millis(140);

/// What autopilot found last, for the endpoint.
#[derive(Debug, Default)]
pub(crate) struct View(Mutex<Option<Arc<AutopilotState>>>);

impl View {
    /// None before the first look of a leader.
    pub(crate) fn state(&self) -> Option<Arc<AutopilotState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn show(&self, state: Arc<AutopilotState>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
    }
}

/// Writes the first configuration, if there is none.
pub(super) async fn seed(context: Context) {
    while context.consensus.state().autopilot().is_none() {
        let row = context.config.autopilot.clone();
        let command = Command::AutopilotV1(AutopilotCommandV1::Seed(row));
        match context.propose("autopilot", command, PROPOSE_MAX).await {
            Ok(_) => {}
            Err(RpcError::Rejected(reason)) => {
                tracing::warn!(%reason, "autopilot runs on this server's own settings");
                sleep(SEED_LATER).await;
            }
            Err(_) => sleep(SEED_AGAIN).await,
        }
    }
}

/// Looks whenever the servers were asked or the members changed.
pub(super) async fn run(context: Context) {
    let began = context.clock.now();
    let age_then = Duration::from_millis(context.consensus.state().cluster_time_ms());
    let mut census = context.consensus.census();
    let mut pilot = Pilot { health: Health::default(), known: 0, cleanup_due: began };
    loop {
        let members = context.cluster.members();
        let seen = Arc::clone(&census.borrow_and_update());
        // Before the first round is over nothing is known, which is not the same as ill.
        if seen.round > 0 {
            let age = age_then + context.clock.now().saturating_duration_since(began);
            pilot.round(&context, &members, &seen, age).await;
        }
        tokio::select! {
            biased;
            changed = census.changed() => if changed.is_err() { return },
            _ = context.cluster.changed(members.sequence) => {}
        }
    }
}

/// What lasts from round to round.
struct Pilot {
    health: Health,
    /// Servers in the configuration when we looked last.
    known: usize,
    cleanup_due: Instant,
}

impl Pilot {
    async fn round(
        &mut self,
        context: &Context,
        members: &Members,
        census: &Census,
        age: Duration,
    ) {
        let (_, servers) = context.consensus.configuration();
        let state = context.consensus.state();
        let settings = state
            .autopilot()
            .map_or_else(|| context.config.autopilot.clone(), |row| AutopilotV1::clone(&row));
        let now = context.clock.now();
        let meta = |name: &str| {
            let node = state.node(NAMESPACE, name);
            node.and_then(|node| node.meta.clone()).unwrap_or_default()
        };
        let facts = health::Facts {
            us: context.config.node_id,
            servers: &servers,
            members,
            census,
            settings: &settings,
            silence_min: SILENCE_MIN * context.config.raft_multiplier,
            meta: &meta,
        };
        let found = self.health.look(&facts, Moment { now, wall_ms: context.clock.wall_ms() });
        metrics::gauge!("autopilot.healthy").set(if found.healthy { 1.0 } else { 0.0 });
        #[expect(clippy::cast_precision_loss, reason = "a handful of servers")]
        metrics::gauge!("autopilot.failure_tolerance").set(found.failure_tolerance as f64);
        let promotions = self.health.promotions(&found, &settings, age, now);
        context.duties.autopilot.show(Arc::new(found));
        for id in promotions {
            promote(context, id, &servers).await;
        }
        let grown = servers.len() > self.known;
        self.known = servers.len();
        if grown || now >= self.cleanup_due {
            self.cleanup_due = now + CLEANUP_EVERY;
            let (us, datacenter) = (context.config.node_id, &*context.config.datacenter);
            let settings = &settings;
            let facts =
                cleanup::Facts { us, datacenter, servers: &servers, members, census, settings };
            for dead in cleanup::plan(&facts) {
                remove(context, dead).await;
            }
        }
    }
}

async fn promote(context: &Context, id: NodeId, servers: &[RaftServer]) {
    let name = servers.iter().find(|server| server.id == id).map_or("", |server| &*server.node);
    match context.consensus.promote(id).await {
        Ok(()) => tracing::info!(server = %name, %id, "server is a voter"),
        Err(error) => tracing::warn!(server = %name, %id, %error, "server is no voter yet"),
    }
}

/// Out of gossip's memory of failed members, and out of Raft.
async fn remove(context: &Context, dead: Dead) {
    let Dead { id, failed, in_raft } = dead;
    let name = failed.clone().unwrap_or_default();
    if let Some(name) = failed
        && let Err(error) = context.cluster.force_leave(&name, false).await
    {
        tracing::warn!(server = %name, %id, %error, "dead server could not be made to leave");
        return;
    }
    if !in_raft {
        tracing::info!(server = %name, %id, "dead server forgotten");
        return;
    }
    let removed = timeout(PROPOSE_MAX, context.consensus.remove_server(id)).await;
    match removed.unwrap_or_else(|_| Err(RpcError::Broken("not removed in time".to_owned()))) {
        Ok(()) => tracing::warn!(server = %name, %id, "dead server removed from Raft"),
        Err(error) => tracing::warn!(server = %name, %id, %error, "dead server still in Raft"),
    }
}

//! Ends sessions whose time is up (driver of `timers`).

use std::time::Duration;

use futures_util::future::join_all;
use model::SessionId;
use model::command::Command;
use model::rpc::Op;
use state::watch_keys;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::timers::TICK;
use super::{Context, NAMESPACE};

/// How soon a new session gets its timer: later only makes it live longer.
const SYNC_GAP: Duration = Duration::from_secs(1);
/// Time for a proposal.
const PROPOSE_MAX: Duration = Duration::from_secs(10);

pub(super) async fn run(context: Context) {
    tokio::join!(follow(&context), expire(&context));
}

/// Keeps the timers in step with the table of sessions.
async fn follow(context: &Context) {
    let keys = watch_keys(NAMESPACE, &Op::SessionList);
    loop {
        let waiter = context.consensus.registry().register(&keys);
        let sessions = context.consensus.state().sessions_with_ttl();
        let now: Instant = context.clock.now();
        context.duties.timers.sync(&sessions, now);
        waiter.await;
        sleep_until(now + SYNC_GAP).await;
    }
}

async fn expire(context: &Context) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let due = context.duties.timers.tick(context.clock.now());
        // While these are under way the timers' clock hardly moves: it is slow, never early.
        join_all(due.into_iter().map(|id| end(context, id))).await;
    }
}

async fn end(context: &Context, id: SessionId) {
    let command = Command::SessionDestroyV1(id);
    let ended = context.propose("session-ttl", command, PROPOSE_MAX).await;
    match &ended {
        Ok(_) => tracing::debug!(session = %id, "session ended: its TTL is over"),
        Err(error) => tracing::warn!(session = %id, %error, "session could not be ended"),
    }
    context.duties.timers.ended(id, ended.is_ok());
}

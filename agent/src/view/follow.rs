//! The task of one entry: asks once, then keeps the answer current.

use std::sync::Arc;
use std::time::Duration;

use model::id::LogIndex;
use model::rpc::{Reply, Request, RpcError};

use super::entry::Entry;
use super::{Answer, IDLE_MAX, Table, ViewError};

/// Wait of one blocking read, to which up to a quarter is added so that reads do not end together.
const WAIT: Duration = Duration::from_secs(120);

/// How long a renewal may look for a server before it counts as failed.
const RENEW_HOLD: Duration = Duration::from_secs(7);

/// Least pause between two renewals: a question whose rows change all the time costs at most a
/// hundred reads a second.
const RENEW_PAUSE: Duration = Duration::from_millis(10);

/// Pause after a renewal that failed or told nothing too early, doubled each time up to the second.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Runs until the entry is ended, idle, or refused.
pub(super) async fn follow(table: &Table, entry: &Arc<Entry>, hold: Duration) {
    let first = tokio::select! {
        biased;
        () = entry.ended() => return,
        first = table.backend.ask(entry.question.request(hold)) => first,
    };
    let mut index = match first {
        Ok(reply) => keep(entry, LogIndex::ZERO, reply),
        Err(error) => return entry.fail(ViewError::Rpc(error)),
    };
    let (mut confirmed_ms, mut pause) = (table.now_ms(), RENEW_PAUSE);
    while entry.idle(table.now_ms()) < IDLE_MAX {
        let renewed = tokio::select! {
            biased;
            () = entry.ended() => return,
            renewed = renew(table, entry, index, pause) => renewed,
        };
        match renewed {
            Ok(reply) => {
                let told = reply.meta.index != index;
                let early = table.now_ms().saturating_sub(confirmed_ms) < 1_000;
                confirmed_ms = table.now_ms();
                index = keep(entry, index, reply);
                pause = if told || !early { RENEW_PAUSE } else { longer(pause) };
            }
            Err(error) if is_outage(&error) => {
                if pause == RENEW_PAUSE {
                    tracing::debug!(question = ?entry.question.op, %error, "view: not renewed");
                }
                entry.set_broken(confirmed_ms);
                pause = longer(pause);
            }
            // Refused: what we hold is no longer ours to give.
            Err(error) => return entry.fail(ViewError::Rpc(error)),
        }
    }
}

/// One blocking read.
async fn renew(
    table: &Table,
    entry: &Entry,
    index: LogIndex,
    pause: Duration,
) -> Result<Reply, RpcError> {
    tokio::time::sleep(pause + table.rng.jitter(pause / 4)).await;
    let wait = WAIT + table.rng.jitter(WAIT / 4);
    let request = Request {
        min_index: index,
        wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        ..entry.question.request(RENEW_HOLD)
    };
    table.backend.ask(request).await
}

/// Keeps the reply and says from which index to go on: one that went back starts again at zero,
/// as Consul asks of its clients (spec: Consul blocking queries).
fn keep(entry: &Entry, asked: LogIndex, reply: Reply) -> LogIndex {
    let index = reply.meta.index;
    entry.set(Arc::new(Answer { reply }));
    if index < asked { LogIndex::ZERO } else { index }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).clamp(RETRY_PAUSE, RETRY_PAUSE_MAX)
}

/// Whether the servers could not answer, rather than would not.
fn is_outage(error: &RpcError) -> bool {
    error.may_retry() || matches!(error, RpcError::NoServers)
}

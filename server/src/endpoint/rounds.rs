//! A follower's way to a read index: one question to the leader for all that wait.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use model::LogIndex;
use model::rpc::RpcError;
use tokio::sync::Semaphore;

use super::Parts;

type Round = Shared<BoxFuture<'static, Result<LogIndex, RpcError>>>;

/// The round that has not begun yet, if somebody waits for one.
///
/// Invariant: who asks joins a round that begins afterwards, so its index covers all that was
/// committed before the question. One round is under way at a time.
pub(super) struct Rounds {
    next: Arc<Mutex<Option<Round>>>,
    turn: Arc<Semaphore>,
}

impl Default for Rounds {
    fn default() -> Self {
        Self { next: Arc::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl Rounds {
    /// A read index of the leader of now.
    pub(super) async fn index(&self, parts: &Parts) -> Result<LogIndex, RpcError> {
        let leadership = parts.consensus.leadership();
        let peers = Arc::clone(&parts.peers);
        self.join(move || async move {
            let leader = leadership.borrow().leader;
            let (_, address) = leader.ok_or(RpcError::NoLeader)?;
            peers.read_index(address).await
        })
        .await
    }

    async fn join<F>(&self, ask: impl FnOnce() -> F + Send + 'static) -> Result<LogIndex, RpcError>
    where
        F: Future<Output = Result<LogIndex, RpcError>> + Send + 'static,
    {
        let round = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            next.get_or_insert_with(|| self.round(ask)).clone()
        };
        round.await
    }

    fn round<F>(&self, ask: impl FnOnce() -> F + Send + 'static) -> Round
    where
        F: Future<Output = Result<LogIndex, RpcError>> + Send + 'static,
    {
        let (next, turn) = (Arc::clone(&self.next), Arc::clone(&self.turn));
        let round = async move {
            let _turn = turn.acquire_owned().await.map_err(|_| RpcError::Leaving)?;
            // It begins: who comes from here on needs the one after it.
            next.lock().unwrap_or_else(PoisonError::into_inner).take();
            ask().await
        };
        round.boxed().shared()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::future::join_all;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_that_wait_share_a_round_that_begins_after_they_asked() {
        let rounds = Rounds::default();
        let (begun, go) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let ask = || {
            let (begun, go) = (Arc::clone(&begun), Arc::clone(&go));
            move || async move {
                let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
                go.notified().await;
                Ok(LogIndex(number))
            }
        };
        let mut first = Box::pin(rounds.join(ask()));
        assert!(futures_util::poll!(&mut first).is_pending());
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        // The first round is under way: these must not be answered by it.
        let mut others = Box::pin(join_all((0..50).map(|_| rounds.join(ask()))));
        assert!(futures_util::poll!(&mut others).is_pending());
        go.notify_one();
        assert_eq!(first.await, Ok(LogIndex(1)));
        assert!(futures_util::poll!(&mut others).is_pending());
        go.notify_one();
        assert_eq!(others.await, vec![Ok(LogIndex(2)); 50]);
        // One that was given up while it ran does not stand in the way.
        let mut given_up = Box::pin(rounds.join(ask()));
        assert!(futures_util::poll!(&mut given_up).is_pending());
        drop(given_up);
        go.notify_one();
        assert_eq!(rounds.join(ask()).await, Ok(LogIndex(4)));
    }
}

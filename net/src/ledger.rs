//! Numbers for writes, so that a retried one applies once.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use model::NodeId;
use model::command::{OPEN_RETRIES_MAX, RetryV1};
use model::rpc::RpcError;

/// Counts the writes that this process has under way.
///
/// Invariant: while a write is open, no stamp of this process carries an `oldest_open` above its
/// number; so the state still knows its outcome if it has one.
#[derive(Debug)]
pub struct RetryLedger {
    origin: NodeId,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    last: u64,
    seqs: BTreeSet<u64>,
}

impl RetryLedger {
    /// An empty ledger. `origin` must be new for each start of the process, because numbers start
    /// again at 1.
    pub fn new(origin: NodeId) -> Self {
        Self { origin, open: Mutex::default() }
    }

    /// A number for one more write, until the guard is dropped. `Busy` when
    /// [`OPEN_RETRIES_MAX`] lie between the oldest open one and this.
    pub fn open(self: &Arc<Self>) -> Result<OpenRetry, RpcError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // The state keeps every outcome from the oldest open one on, answered or not: so the span
        // is limited, which also limits the number.
        let oldest = open.seqs.first().copied().unwrap_or(open.last + 1);
        if open.last + 1 - oldest >= OPEN_RETRIES_MAX as u64 {
            metrics::counter!("muster.rpc.open_writes_exceeded").increment(1);
            return Err(RpcError::Busy);
        }
        open.last += 1;
        let seq = open.last;
        open.seqs.insert(seq);
        Ok(OpenRetry { ledger: Arc::clone(self), seq })
    }

    fn oldest_open(&self, seq: u64) -> u64 {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.seqs.first().copied().unwrap_or(seq)
    }
}

/// A write under way. Dropping it says that nobody waits for its outcome any more.
#[derive(Debug)]
pub struct OpenRetry {
    ledger: Arc<RetryLedger>,
    seq: u64,
}

impl OpenRetry {
    /// The stamp for this attempt. Take a new one for each attempt.
    pub fn stamp(&self) -> RetryV1 {
        RetryV1 {
            origin: self.ledger.origin,
            seq: self.seq,
            oldest_open: self.ledger.oldest_open(self.seq),
        }
    }
}

impl Drop for OpenRetry {
    fn drop(&mut self) {
        let mut open = self.ledger.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.seqs.remove(&self.seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Arc<RetryLedger> {
        Arc::new(RetryLedger::new(NodeId([7; 16])))
    }

    #[test]
    fn the_oldest_open_is_right_whatever_the_order_of_closing() {
        let ledger = ledger();
        let mut open: Vec<_> = (0..4).map(|_| Some(ledger.open().expect("room"))).collect();
        let newest = |open: &Vec<Option<OpenRetry>>| {
            open.iter().flatten().next_back().map(|retry| retry.stamp())
        };
        // (closed, oldest open afterwards as seen by the newest)
        for (close, oldest) in [(1, 1), (0, 3), (2, 4)] {
            open[close] = None;
            let stamp = newest(&open).expect("the last one is open");
            assert_eq!((stamp.seq, stamp.oldest_open), (4, oldest));
            assert_eq!(stamp.origin, NodeId([7; 16]));
        }
        drop(open);
        let next = ledger.open().expect("room").stamp();
        assert_eq!((next.seq, next.oldest_open), (5, 5));
    }

    #[test]
    fn the_span_is_limited_and_closing_the_oldest_makes_room() {
        let ledger = ledger();
        let first = ledger.open().expect("room");
        let mut others = Vec::new();
        for _ in 1..OPEN_RETRIES_MAX {
            others.push(ledger.open().expect("room"));
        }
        assert_eq!(ledger.open().map(drop), Err(RpcError::Busy));
        // The state would still have to keep the span from the first one on.
        others.clear();
        assert_eq!(ledger.open().map(drop), Err(RpcError::Busy));
        drop(first);
        assert_eq!(ledger.open().expect("room").stamp().seq, OPEN_RETRIES_MAX as u64 + 1);
    }
}

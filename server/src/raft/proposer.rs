//! The leader's way into the log: admits by bytes, stamps in order, proposes.
//!
//! One task stamps and hands over, so that stamps stand in the log in the order in which they were
//! made: cluster time never goes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use model::LogIndex;
use model::command::{Command, EnvelopeV1, KvCommandV1, Outcome, Rejection};
use model::rpc::RpcError;
use model::txn::TxnOpV1;
use model::wire::{self, Kind};
use openraft::raft::ClientWriteResult;
use openraft::raft::responder::Responder;
use rt::Clock;
use tokio::sync::{mpsc, oneshot};

use super::census::Gate;
use super::errors;
use super::machine::{Machine, Published};
use super::mirror::ENTRY_BYTES_MAX;
use super::space::Space;
use super::types::{Payload, TypeConfig};
use crate::consensus::Proposal;

/// Bytes of commands on the leader that are not applied yet; beyond them writes are refused.
const UNCOMMITTED_BYTES_MAX: usize = 64 << 20;

/// Proposals that wait to be stamped. The task behind it only encodes: a full queue is overload.
const QUEUE_MAX: usize = 4_096;

/// Proposals handed over together.
const BATCH_MAX: usize = 1_024;

/// Bytes that a command takes beside what it carries.
const COMMAND_BYTES: usize = 256;

/// How an answer of openraft reaches the one who waits. Dropped unanswered, the waiter sees that.
pub(crate) struct Reply<T>(Box<dyn FnOnce(T) + Send>);

impl<T: Send + 'static> Responder<TypeConfig, T> for Reply<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// Counts the bytes that are under way.
#[derive(Debug, Clone, Default)]
struct Admission(Arc<AtomicUsize>);

/// Bytes under way, until dropped.
struct Admitted {
    bytes: usize,
    total: Arc<AtomicUsize>,
}

impl Admission {
    fn admit(&self, bytes: usize) -> Option<Admitted> {
        let add = |total: usize| {
            // Anything may go when nothing is under way: a single command is limited elsewhere.
            let after = total.checked_add(bytes)?;
            (total == 0 || after <= UNCOMMITTED_BYTES_MAX).then_some(after)
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(Admitted { bytes, total: Arc::clone(&self.0) })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

type Applied = Result<(LogIndex, Outcome), RpcError>;

struct Pending {
    envelope: EnvelopeV1,
    admitted: Admitted,
    answer: oneshot::Sender<Applied>,
}

/// Hands proposals to the task that stamps them.
#[derive(Clone)]
pub(crate) struct Proposer {
    queue: mpsc::Sender<Pending>,
    admission: Admission,
    gate: Gate,
    space: Space,
}

/// What the stamping task works with.
pub(crate) struct Stamping {
    pub(crate) raft: openraft::Raft<TypeConfig, Machine>,
    pub(crate) published: Arc<Published>,
    pub(crate) clock: Clock,
    /// How long a fresh leader may take to apply what it was elected with.
    pub(crate) patience: Duration,
}

impl Proposer {
    /// Starts the stamping task.
    pub(crate) fn start(stamping: Stamping, gate: Gate, space: Space, tasks: &rt::Tasks) -> Self {
        let (queue, pending) = mpsc::channel(QUEUE_MAX);
        tasks.spawn_until_stop("raft proposer", run(stamping, pending));
        Self { queue, admission: Admission::default(), gate, space }
    }

    /// Proposes and waits until the command is applied here.
    pub(crate) async fn propose(&self, proposal: Proposal) -> Applied {
        let Proposal { namespace, retry, actor, reason, command } = proposal;
        self.gate.admit(&command)?;
        self.space.admit(&command)?;
        let admitted = self.admission.admit(bytes_of(&command)).ok_or(RpcError::Busy)?;
        let (cluster_time_ms, wall_ms) = (0, 0);
        let envelope =
            EnvelopeV1 { namespace, retry, actor, reason, cluster_time_ms, wall_ms, command };
        let (answer, applied) = oneshot::channel();
        let pending = Pending { envelope, admitted, answer };
        self.queue.try_send(pending).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => RpcError::Busy,
            mpsc::error::TrySendError::Closed(_) => RpcError::Leaving,
        })?;
        applied.await.unwrap_or_else(|_| Err(errors::unknown_outcome()))
    }
}

/// What a command takes, roughly: what it carries counts, its small fields do not.
fn bytes_of(command: &Command) -> usize {
    let carried = match command {
        Command::KvV1(kv) => match kv {
            KvCommandV1::Set(put)
            | KvCommandV1::Cas(put, _)
            | KvCommandV1::Lock(put, _)
            | KvCommandV1::Unlock(put, _) => put.key.len() + put.value.len(),
            KvCommandV1::Delete(key)
            | KvCommandV1::DeleteCas(key, _)
            | KvCommandV1::DeleteTree(key) => key.len(),
        },
        Command::RegisterV1(register) => {
            let checks = &register.checks;
            let outputs: usize = checks.iter().map(|check| check.output.len()).sum();
            outputs + (register.services.len() + checks.len()) * COMMAND_BYTES
        }
        Command::RestoreChunkV1(chunk) => chunk.bytes.len(),
        Command::TxnV1(ops) => {
            let carried = |op: &TxnOpV1| match op {
                TxnOpV1::Kv(op) => op.key.len() + op.value.len(),
                TxnOpV1::Check(_, row) => row.output.len(),
                TxnOpV1::Node(..) | TxnOpV1::Service(..) => 0,
            };
            ops.iter().map(|op| COMMAND_BYTES + carried(op)).sum()
        }
        _ => 0,
    };
    COMMAND_BYTES + carried
}

/// Cluster time within one term: the state's when the term's first entry was applied, plus the
/// monotonic clock since.
struct Term {
    term: u64,
    base_ms: u64,
    since: tokio::time::Instant,
}

async fn run(stamping: Stamping, mut pending: mpsc::Receiver<Pending>) {
    let mut current: Option<Term> = None;
    let mut batch = Vec::new();
    while let Some(first) = pending.recv().await {
        // The first of many woke this task: those that are ready to propose, too, run before it
        // goes on, so that all become one append here and on the followers.
        tokio::task::yield_now().await;
        batch.push(first);
        while batch.len() < BATCH_MAX
            && let Ok(next) = pending.try_recv()
        {
            batch.push(next);
        }
        current = match stamping.term(current.take()).await {
            Ok(term) => {
                for pending in batch.drain(..) {
                    stamping.hand_over(pending, &term).await;
                }
                Some(term)
            }
            Err(refusal) => {
                for Pending { answer, .. } in batch.drain(..) {
                    let _ = answer.send(Err(refusal.clone()));
                }
                None
            }
        };
    }
}

impl Stamping {
    /// Stamps a proposal and gives it to openraft.
    async fn hand_over(&self, pending: Pending, term: &Term) {
        let Pending { mut envelope, admitted, answer } = pending;
        if answer.is_closed() {
            // Nobody waits for it any more, and those behind it do.
            return;
        }
        let since = self.clock.now().saturating_duration_since(term.since);
        let since_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        envelope.cluster_time_ms = term.base_ms.saturating_add(since_ms);
        envelope.wall_ms = self.clock.wall_ms();
        let bytes = wire::encode(Kind::Envelope, &envelope);
        if bytes.len() > ENTRY_BYTES_MAX {
            let text = format!("command of {} bytes exceeds {ENTRY_BYTES_MAX}", bytes.len());
            let _ = answer.send(Err(RpcError::Rejected(Rejection::Other(text))));
            return;
        }
        let reply = Reply(Box::new(move |result: ClientWriteResult<TypeConfig>| {
            drop(admitted);
            let result = result.map(|written| written.data).map_err(errors::of_write);
            let _ = answer.send(result);
        }));
        // A failed hand-over drops the reply, and with it the answer: outcome unknown.
        let write = self.raft.write(Payload(bytes.into())).with_leader(term.term);
        let _ = write.responder(reply).await;
    }

    /// The term in which this server leads now.
    async fn term(&self, current: Option<Term>) -> Result<Term, RpcError> {
        let term = self.raft.as_leader().map_err(|_| RpcError::NoLeader)?.term();
        if let Some(current) = current.filter(|current| current.term == term) {
            return Ok(current);
        }
        let mut applied = self.published.watch_applied();
        let reached = applied.wait_for(|id| id.is_some_and(|id| id.leader_id.term >= term));
        match tokio::time::timeout(self.patience, reached).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(RpcError::Leaving),
            Err(_) => return Err(RpcError::NotReady),
        }
        let base_ms = self.published.state().cluster_time_ms();
        Ok(Term { term, base_ms, since: self.clock.now() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_under_way_are_limited_and_returned() {
        let admission = Admission::default();
        let first = admission.admit(UNCOMMITTED_BYTES_MAX).expect("nothing is under way");
        assert!(admission.admit(1).is_none());
        drop(first);
        let larger = admission.admit(UNCOMMITTED_BYTES_MAX * 2).expect("alone, it may go");
        assert!(admission.admit(1).is_none());
        drop(larger);
        assert!(admission.admit(1).is_some());
    }
}

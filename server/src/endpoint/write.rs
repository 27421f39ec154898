//! Writes, on the leader: validate, fill in, propose, wait until applied.

use futures_util::future::join_all;
use model::command::{AutopilotCommandV1, Command, DeregisterV1, Outcome, RetryV1};
use model::rpc::{Answer, Body, Op, Request, RpcError};
use model::{LogIndex, Name, SessionId};

use super::table::{may_be_batched, rule};
use super::{Endpoint, key, register, rejected, session, txn};
use crate::consensus::Proposal;

/// Operations in one batch.
const BATCH_MAX: usize = 1_024;

/// Who asked, and in which namespace: what a proposal says beside its command.
struct Frame<'a> {
    namespace: &'a Name,
    token: &'a Name,
    retry: Option<RetryV1>,
}

impl Endpoint {
    pub(super) async fn write(&self, request: &Request) -> Answer {
        let frame =
            Frame { namespace: &request.namespace, token: &request.token, retry: request.retry };
        let (index, body) = match &request.op {
            Op::Batch(ops) => self.batch(&frame, ops).await?,
            op => self.write_one(&frame, op).await?,
        };
        self.reply(index, body)
    }

    async fn write_one(&self, frame: &Frame<'_>, op: &Op) -> Result<(LogIndex, Body), RpcError> {
        let config = &self.parts.config;
        match op {
            Op::Register(registration) => {
                let consensus = &self.parts.consensus;
                let check = || register::check(registration, &consensus.state(), frame.namespace);
                let checked = match check() {
                    Ok(checked) => checked,
                    Err(_) => {
                        // A new leader may have entries yet to apply that make it right.
                        consensus.confirm_lease().await?;
                        check()?
                    }
                };
                self.propose(frame, Command::RegisterV1(checked)).await
            }
            Op::Deregister { node, service_id, check_id } => {
                if node.is_empty() {
                    return Err(rejected("Must provide node"));
                }
                let command = Command::DeregisterV1(DeregisterV1 {
                    node: node.clone(),
                    service_id: service_id.clone().filter(|id| !id.is_empty()),
                    check_id: check_id.clone().filter(|id| !id.is_empty()),
                });
                self.propose(frame, command).await
            }
            Op::Kv(write) => match key::check(write, config.kv_value_bytes_max)? {
                key::Checked::Propose(command) => self.propose(frame, Command::KvV1(command)).await,
                key::Checked::Answer(held) => {
                    Ok((self.parts.consensus.state().applied(), Body::Bool(held)))
                }
            },
            Op::SessionCreate(new) => {
                let id = session::id(frame.retry, &self.parts.rng);
                let row = session::check(new, id, config.session_ttl_min)?;
                let (index, _) = self.propose(frame, Command::SessionCreateV1(row)).await?;
                Ok((index, Body::Session(id)))
            }
            Op::SessionDestroy { id } => match id.parse::<SessionId>() {
                Ok(id) => self.propose(frame, Command::SessionDestroyV1(id)).await,
                // No session can have this name: there is nothing to end.
                Err(_) => Ok((self.parts.consensus.state().applied(), Body::Done)),
            },
            Op::SessionRenew { id } => self.renew(frame.namespace, id).await,
            Op::Txn(ops) => {
                let Some(ops) = txn::known(ops) else {
                    return Err(rejected("this transaction is wrong in itself"));
                };
                let (index, body) = self.propose(frame, Command::TxnV1(ops)).await?;
                Ok((index, self.parts.authorizer.filter(frame.token, op, body)))
            }
            Op::TransferLeader { to } => self.transfer(*to).await,
            Op::RemovePeer { id } => self.remove_peer(*id).await,
            Op::AutopilotConfigure { configuration, cas } => {
                let row = configuration.0.clone();
                let command = match cas {
                    Some(index) => AutopilotCommandV1::Cas(row, *index),
                    None => AutopilotCommandV1::Set(row),
                };
                self.propose(frame, Command::AutopilotV1(command)).await
            }
            // No write, but the leader's to answer.
            Op::AutopilotState => {
                let state = self.parts.duties.autopilot.state();
                Ok((self.parts.consensus.state().applied(), Body::AutopilotState(state)))
            }
            _ => Err(rejected("this operation is no write")),
        }
    }

    /// Each operation is applied on its own, in order. If the leader is lost meanwhile the whole
    /// batch fails and is tried again: nothing in it matters twice.
    async fn batch(&self, frame: &Frame<'_>, ops: &[Op]) -> Result<(LogIndex, Body), RpcError> {
        if ops.len() > BATCH_MAX {
            let text = format!("a batch of {} operations exceeds {BATCH_MAX}", ops.len());
            return Err(rejected(text));
        }
        // The stamp is for one log entry.
        let frame = &Frame { retry: None, ..*frame };
        let each = ops.iter().map(|op| async move {
            if !may_be_batched(op) {
                return Err(rejected("this operation cannot stand in a batch"));
            }
            self.parts.authorizer.authorize(frame.token, &rule(op).need)?;
            self.write_one(frame, op).await
        });
        // All are polled in order, and a proposal takes its place in the log's queue when it is
        // first polled: so a node comes before what is registered on it.
        let results = join_all(each).await;
        let mut index = LogIndex::ZERO;
        let mut bodies = Vec::with_capacity(results.len());
        for result in results {
            match result {
                Err(error) if error.may_retry() => return Err(error),
                Err(error) => bodies.push(Err(error)),
                Ok((at, body)) => {
                    index = index.max(at);
                    bodies.push(Ok(body));
                }
            }
        }
        Ok((index, Body::Batch(bodies)))
    }

    async fn propose(
        &self,
        frame: &Frame<'_>,
        command: Command,
    ) -> Result<(LogIndex, Body), RpcError> {
        let proposal = Proposal {
            namespace: frame.namespace.clone(),
            retry: frame.retry,
            actor: Name::default(),
            reason: Name::default(),
            command,
        };
        let (index, outcome) = self.parts.consensus.propose(proposal).await?;
        match outcome {
            Outcome::Done => Ok((index, Body::Done)),
            Outcome::Bool(held) => Ok((index, Body::Bool(held))),
            Outcome::Txn(done) => Ok((index, Body::Txn(done))),
            Outcome::Rejected(rejection) => Err(RpcError::Rejected(rejection)),
        }
    }

    async fn renew(&self, namespace: &str, text: &Name) -> Result<(LogIndex, Body), RpcError> {
        let unknown = || RpcError::NotFound(format!("Session id '{text}' not found"));
        // A leader that was replaced must not tell a client that its session lives on.
        self.parts.consensus.confirm_lease().await?;
        let id: SessionId = text.parse().map_err(|_| unknown())?;
        let state = self.parts.consensus.state();
        let session = state.session(namespace, id).ok_or_else(unknown)?;
        if session.ttl_ms > 0 && !self.parts.duties.timers.renew(id, session.ttl_ms, self.now())? {
            // Its end has been proposed already.
            return Err(unknown());
        }
        Ok((state.applied(), Body::Sessions(vec![session])))
    }
}

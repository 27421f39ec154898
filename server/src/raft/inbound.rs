//! What other servers ask of this one's Raft.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use model::NodeId;
use model::rpc::RpcError;
use model::seam::{BoxFuture, ByteStream};
use net::{Channel, NetError, Peer, Role};
use openraft::Raft;
use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use rt::Clock;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::fault::OnFault;
use super::lane::Lane;
use super::log::{LogHandle, Stepping};
use super::machine::{Machine, Published};
use super::mirror::{
    AddressedV1, AppendV1, AppendedV1, CheckpointsV1, DifferenceV1, LogIdV1, StatsV1,
    StreamAppendedV1, TransferV1, TransferredV1, VoteRequestV1, VoteResponseV1, message,
    read_message,
};
use super::snapshot::Shelf;
use super::transport::method;
use super::types::TypeConfig;
use super::{agreement, errors};

/// When the leader was last heard.
#[derive(Clone)]
pub(crate) struct Contact {
    clock: Clock,
    start: Instant,
    /// Milliseconds since start, plus one; 0: never.
    heard: Arc<AtomicU64>,
}

impl Contact {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { start: clock.now(), clock, heard: Arc::default() }
    }

    fn now_ms(&self) -> u64 {
        let since = self.clock.now().saturating_duration_since(self.start);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    pub(crate) fn hear(&self) {
        self.heard.fetch_max(self.now_ms(), Ordering::Relaxed);
    }

    /// Milliseconds since; `None`: never.
    pub(crate) fn ago_ms(&self) -> Option<u64> {
        match self.heard.load(Ordering::Relaxed) {
            0 => None,
            heard => Some(self.now_ms().saturating_sub(heard)),
        }
    }
}

/// The asked side of this room.
#[derive(Clone)]
pub(crate) struct Inbound {
    pub(crate) us: NodeId,
    pub(crate) raft: Raft<TypeConfig, Machine>,
    pub(crate) log: LogHandle,
    pub(crate) shelf: Shelf,
    pub(crate) published: Arc<Published>,
    pub(crate) on_fault: OnFault,
    pub(crate) contact: Contact,
    pub(crate) clock: Clock,
    /// Votes are not given before: this server may have promised a leader its lease just before it
    /// was restarted, and does not remember. `None`: it had nothing to forget.
    pub(crate) mute_until: Option<Instant>,
    pub(crate) stepping: Stepping,
    /// Newest state version that this server knows.
    pub(crate) state_version: u32,
    /// Tells receptions of snapshots apart.
    pub(crate) receptions: Arc<AtomicU64>,
    /// Where calls are answered; `None`: wherever they come in.
    pub(super) lane: Option<Lane>,
}

impl Inbound {
    /// Answers one call.
    pub(crate) async fn call(self, method: u16, body: Bytes) -> Result<Bytes, NetError> {
        match method {
            method::VOTE | method::PRE_VOTE => {
                let request: VoteRequestV1 = self.read(&body)?;
                // A transfer of leadership is the old leader's own wish: it has given up its lease.
                let transfer = openraft::raft::VoteRequest::from(request);
                if !transfer.leadership_transfer && self.is_mute() {
                    return Err(RpcError::NotReady.into());
                }
                let answer = if method == method::VOTE {
                    self.raft.vote(transfer).await
                } else {
                    self.raft.pre_vote(transfer).await
                };
                let answer = answer.map_err(|error| refused(error.unwrap_fatal()))?;
                Ok(message(&VoteResponseV1::from(&answer)))
            }
            method::APPEND => {
                let request: AppendV1 = self.read(&body)?;
                let request = convert::<_, AppendEntriesRequest<TypeConfig>>(request)?;
                let answer = self.raft.append_entries(request).await;
                let answer = answer.map_err(|error| refused(error.unwrap_fatal()))?;
                if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                    self.contact.hear();
                }
                Ok(message(&AppendedV1::from(&answer)))
            }
            method::TRANSFER => {
                let request: TransferV1 = self.read(&body)?;
                let answer = self.raft.handle_transfer_leader(request.into()).await;
                Ok(message(&TransferredV1::from(&answer.map_err(refused)?)))
            }
            method::STATS => Ok(message(&self.stats())),
            method::CHECKPOINTS => {
                let () = self.read(&body)?;
                Ok(message(&CheckpointsV1::from(self.published.checkpoints())))
            }
            method::DIFFERENCE => {
                let difference: DifferenceV1 = self.read(&body)?;
                agreement::hear(&difference, &self.published, &self.on_fault);
                Ok(message(&()))
            }
            method => Err(NetError::unknown_method(Channel::RaftControl, method)),
        }
    }

    /// What this server says about itself.
    pub(crate) fn stats(&self) -> StatsV1 {
        let (node, leads) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.id.0, metrics.current_leader == Some(metrics.id))
        };
        StatsV1 {
            node,
            state_version: self.state_version,
            last_log_id: self.log.bounds().last_log_id.as_ref().map(LogIdV1::from),
            contact_ms: if leads { Some(0) } else { self.contact.ago_ms() },
        }
    }

    fn is_mute(&self) -> bool {
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Bug::VoteGuardOff) {
            return false;
        }
        self.mute_until.is_some_and(|until| self.clock.now() < until)
    }

    /// Answers a stream of appends, in order.
    pub(crate) fn append_stream(self, incoming: ByteStream) -> ByteStream {
        // A message that is no append ends the input, and with it the stream: the leader sees that
        // answers are missing and begins anew.
        let strayed = Arc::new(OnceLock::new());
        let (us, to_note) = (self.us, Arc::clone(&strayed));
        let requests = incoming
            .map(move |bytes| {
                let AddressedV1 { to, request } = read_message(&bytes.ok()?).ok()?;
                if to != us {
                    let _ = to_note.set(to);
                    return None;
                }
                let request: AppendV1 = request;
                AppendEntriesRequest::<TypeConfig>::try_from(request).ok()
            })
            .take_while(|request| std::future::ready(request.is_some()))
            .filter_map(std::future::ready);
        let contact = self.contact;
        let answers = self.raft.stream_append(requests).map(move |result| {
            let result = result.map_err(|fatal| errors::of_fatal(&fatal))?;
            let answer = StreamAppendedV1::from(&result);
            if !matches!(answer, StreamAppendedV1::HigherVote(_)) {
                contact.hear();
            }
            Ok(message(&answer))
        });
        let end = stream::once(async move { strayed.get().map(|to| Err(misaddressed(us, *to))) });
        Box::pin(answers.chain(end.filter_map(std::future::ready)))
    }

    /// The request in these bytes, if it is meant for this server.
    pub(super) fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, NetError> {
        let AddressedV1 { to, request } = read(body)?;
        if to == self.us { Ok(request) } else { Err(misaddressed(self.us, to).into()) }
    }

    pub(super) async fn off<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RpcError> {
        off(self.stepping, work).await
    }
}

/// Runs short work on files outside of the runtime; inline in a simulation.
pub(super) async fn off<T: Send + 'static>(
    stepping: Stepping,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RpcError> {
    match stepping {
        Stepping::Inline => Ok(work()),
        Stepping::Threads => tokio::task::spawn_blocking(work).await.map_err(broken),
    }
}

fn misaddressed(us: NodeId, to: NodeId) -> RpcError {
    RpcError::Protocol(format!("server {to} is not here any more, but {us} is"))
}

pub(super) fn broken(cause: impl std::fmt::Display) -> RpcError {
    RpcError::Broken(cause.to_string())
}

fn refused(fatal: openraft::errors::Fatal<TypeConfig>) -> NetError {
    errors::of_fatal(&fatal).into()
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, NetError> {
    read_message(body).map_err(|cause| RpcError::Protocol(cause.to_string()).into())
}

pub(super) fn convert<A, B>(from: A) -> Result<B, NetError>
where
    A: TryInto<B>,
    A::Error: std::fmt::Display,
{
    from.try_into().map_err(|cause| RpcError::Protocol(cause.to_string()).into())
}

impl net::Handler for Inbound {
    fn threads(&self, _channel: Channel) -> Option<Handle> {
        self.lane.as_ref().map(|lane| lane.handle().clone())
    }

    fn call(
        &self,
        peer: &Peer,
        channel: Channel,
        method: u16,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, NetError>> {
        if peer.role != Role::Server || channel != Channel::RaftControl {
            return Box::pin(std::future::ready(Err(NetError::unknown_method(channel, method))));
        }
        Box::pin(self.clone().call(method, body))
    }

    fn stream(
        &self,
        peer: &Peer,
        channel: Channel,
        method: u16,
        first: Bytes,
        incoming: ByteStream,
    ) -> BoxFuture<'static, Result<ByteStream, NetError>> {
        let answers = match (peer.role, channel, method) {
            (Role::Server, Channel::RaftLog, method::APPEND_STREAM) => {
                Ok(self.clone().append_stream(incoming))
            }
            (Role::Server, Channel::Snapshot, method::SNAPSHOT) => {
                Ok(self.clone().snapshot(first, incoming))
            }
            (_, channel, method) => Err(NetError::unknown_method(channel, method)),
        };
        Box::pin(std::future::ready(answers))
    }
}

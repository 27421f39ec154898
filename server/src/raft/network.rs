//! openraft's way out: its messages as mirrors, each kind on the channel that suits it.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, Read, SeekFrom};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use model::rpc::RpcError;
use model::seam::ByteStream;
use net::{Channel, NetError};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, alias::SnapshotOf};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::inbound::off;
use super::log::Stepping;
use super::mirror::{
    AddressedV1, AppendV1, AppendedV1, SnapshotAnswerV1, SnapshotMetaV1, SnapshotOpenV1,
    StreamAppendedV1, TransferV1, TransferredV1, VoteRequestV1, VoteResponseV1, message,
    read_message,
};
use super::snapshot::{Readable, SnapshotError, Stored};
use super::transport::{Transport, method};
use super::types::{RaftId, RaftNode, TypeConfig, Vote};

/// Bytes of a snapshot in one message.
const SNAPSHOT_MESSAGE_BYTES: usize = 1 << 20;

/// Messages of a snapshot that are read ahead of the connection.
const SNAPSHOT_AHEAD: usize = 2;

/// Time that a snapshot may take from its first byte to its installation: minutes on a slow line,
/// but a dead one is noticed by the connection long before.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(1_800);

/// Time that an append stream has until it is accepted.
const STREAM_OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// Where each server is now. openraft keeps its links when a configuration changes only an
/// address, so a link must look it up each time.
#[derive(Clone, Default)]
pub(crate) struct Addresses(Arc<Mutex<BTreeMap<RaftId, SocketAddr>>>);

impl Addresses {
    fn book(&self) -> MutexGuard<'_, BTreeMap<RaftId, SocketAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what a configuration says.
    pub(crate) fn follow<'a>(&self, nodes: impl Iterator<Item = (&'a RaftId, &'a RaftNode)>) {
        *self.book() = nodes.map(|(id, node)| (*id, node.address)).collect();
    }
}

/// Makes the ways to the other servers.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) stepping: Stepping,
    pub(crate) addresses: Addresses,
}

/// The way to one server. Connections are the transport's and shared.
pub(crate) struct Link {
    transport: Arc<dyn Transport>,
    stepping: Stepping,
    target: RaftId,
    /// Where the server was when the link was made.
    was_at: SocketAddr,
    addresses: Addresses,
    /// Heartbeats go as single calls on the control channel, never behind log entries.
    heartbeat: bool,
}

impl Network {
    fn link(&self, target: RaftId, node: &RaftNode, heartbeat: bool) -> Link {
        Link {
            transport: Arc::clone(&self.transport),
            stepping: self.stepping,
            target,
            was_at: node.address,
            addresses: self.addresses.clone(),
            heartbeat,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: RaftId, node: &RaftNode) -> Link {
        self.link(target, node, false)
    }

    async fn new_heartbeat_client(&mut self, target: RaftId, node: &RaftNode) -> Link {
        self.link(target, node, true)
    }

    async fn new_snapshot_client(&mut self, target: RaftId, node: &RaftNode) -> Link {
        self.link(target, node, false)
    }
}

impl Link {
    fn to(&self) -> SocketAddr {
        self.addresses.book().get(&self.target).copied().unwrap_or(self.was_at)
    }

    /// A server that was set up anew at the address of another has none of what that one had: its
    /// word must not count for the other's, or what a majority holds is lost.
    fn is_target(&self, channel: Channel) -> Result<(), RPCError<TypeConfig>> {
        let at = self.to();
        match self.transport.who(at, channel) {
            Some(found) if found != self.target.0 => {
                let text = format!("at {at} is server {found}, not {}", self.target);
                Err(RPCError::Unreachable(Unreachable::from_string(text)))
            }
            _ => Ok(()),
        }
    }

    /// Sends what the receiver does not have of the snapshot, and waits until it is installed.
    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, Stored>,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let (stored, bytes) = (snapshot.snapshot.clone(), snapshot.snapshot.bytes());
        let opened = off(self.stepping, move || Ok((stored.read()?, stored.outline()?))).await;
        let opened: Result<_, SnapshotError> = opened.map_err(|cause| unsent(&cause))?;
        let (file, outline) = opened.map_err(|cause| unsent(&cause))?;
        let meta = SnapshotMetaV1::from(&snapshot.meta);
        let request = SnapshotOpenV1 { vote: (&vote).into(), meta, bytes, outline };
        let open = message(&AddressedV1 { to: self.target.0, request });
        let (start, from) = oneshot::channel();
        let outgoing = outgoing(file, from, self.stepping);
        let (to, number) = (self.to(), method::SNAPSHOT);
        let stream =
            self.transport.stream(to, Channel::Snapshot, number, open, outgoing, SNAPSHOT_TIMEOUT);
        let mut answers = stream.await.map_err(|cause| StreamingError::from(rpc_error(&cause)))?;
        self.is_target(Channel::Snapshot).map_err(StreamingError::from)?;
        let mut start = Some(start);
        while let Some(answer) = answers.next().await {
            let answer = answer.map_err(|cause| StreamingError::from(stream_error(&cause)))?;
            match read_message(&answer).map_err(|cause| unsent(&cause))? {
                SnapshotAnswerV1::Installed(vote) => return Ok(SnapshotResponse::new(vote.into())),
                SnapshotAnswerV1::Held(held) if held <= bytes => match start.take() {
                    // Nobody takes it when the stream has just been closed: that is seen below.
                    Some(start) => drop(start.send(held)),
                    None => return Err(unsent(&"the receiver began twice")),
                },
                SnapshotAnswerV1::Held(_) => return Err(unsent(&"more is held than there is")),
            }
        }
        Err(unsent(&"the stream ended unanswered"))
    }

    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: u16,
        request: &Q,
        option: &RPCOption,
    ) -> Result<A, RPCError<TypeConfig>> {
        let body = message(&AddressedV1 { to: self.target.0, request });
        let timeout = option.soft_ttl();
        let call = self.transport.call(self.to(), Channel::RaftControl, method, body, timeout);
        let answer = call.await.map_err(|cause| rpc_error(&cause))?;
        self.is_target(Channel::RaftControl)?;
        read_message(&answer).map_err(|cause| RPCError::Network(NetworkError::new(&cause)))
    }
}

/// A server that cannot be reached is left alone for a while; anything else may be tried at once.
fn rpc_error(cause: &NetError) -> RPCError<TypeConfig> {
    match cause {
        NetError::Connect { .. } | NetError::Refused { .. } | NetError::Stopping => {
            RPCError::Unreachable(Unreachable::new(cause))
        }
        // Its Raft is not running, or does not vote yet.
        NetError::Remote(_) => RPCError::Unreachable(Unreachable::new(cause)),
        cause => RPCError::Network(NetworkError::new(cause)),
    }
}

/// What was refused as a message, for one because another server is there now, is so again at once.
fn stream_error(cause: &RpcError) -> RPCError<TypeConfig> {
    match cause {
        RpcError::Protocol(_) => RPCError::Unreachable(Unreachable::new(cause)),
        cause => RPCError::Network(NetworkError::new(cause)),
    }
}

/// One answer of an append stream.
fn appended(
    answer: Result<Bytes, RpcError>,
) -> Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>> {
    let answer = answer.map_err(|cause| stream_error(&cause))?;
    let answer: StreamAppendedV1 =
        read_message(&answer).map_err(|cause| RPCError::Network(NetworkError::new(&cause)))?;
    Ok(answer.into())
}

type Appends<'s> = BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>;

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = Stored;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let answer: AppendedV1 =
            self.call(method::APPEND, &AppendV1::from(&request), &option).await?;
        Ok(answer.into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<Appends<'s>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if self.heartbeat {
            return openraft::network::stream_append_sequential(self, input, option);
        }
        // openraft waits out its back-off inside `input`: taking the first request before
        // connecting is what keeps a dead server from being called in a busy loop.
        let link: &'s Link = self;
        let opening = async move {
            let mut input = input;
            let Some(first) = input.next().await else {
                return Ok::<_, RPCError<TypeConfig>>(stream::empty().boxed());
            };
            #[cfg(feature = "planted")]
            let granted = first.entries.last().map(|entry| entry.log_id).or(first.prev_log_id);
            let requests = stream::once(std::future::ready(first)).chain(input);
            let to = link.target.0;
            let outgoing: ByteStream = Box::pin(requests.map(move |request| {
                let request = AppendV1::from(&request);
                Ok(message(&AddressedV1 { to, request }))
            }));
            let number = method::APPEND_STREAM;
            let none = Bytes::new();
            let limit = STREAM_OPEN_TIMEOUT;
            let (transport, to) = (&link.transport, link.to());
            let open = transport.stream(to, Channel::RaftLog, number, none, outgoing, limit);
            #[cfg(feature = "planted")]
            if crate::planted::is(crate::planted::Bug::CommitWithoutQuorum) {
                return Ok(match open.await {
                    Ok(answers) => answers.map(appended).boxed(),
                    Err(_) => stream::once(std::future::ready(Ok(Ok(granted)))).boxed(),
                });
            }
            let answers = open.await.map_err(|cause| rpc_error(&cause))?;
            link.is_target(Channel::RaftLog)?;
            Ok(answers.map(appended).boxed())
        };
        let results = stream::once(opening).try_flatten();
        Box::pin(std::future::ready(Ok(Box::pin(results) as Appends<'s>)))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let answer: VoteResponseV1 =
            self.call(method::VOTE, &VoteRequestV1::from(&request), &option).await?;
        Ok(answer.into())
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let answer: VoteResponseV1 =
            self.call(method::PRE_VOTE, &VoteRequestV1::from(&request), &option).await?;
        Ok(answer.into())
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, Stored>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sending = self.send_snapshot(vote, snapshot);
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = tokio::time::timeout(SNAPSHOT_TIMEOUT, sending) => {
                let late = || NetworkError::from_string("the snapshot was not installed in time");
                sent.unwrap_or_else(|_| Err(StreamingError::Network(late())))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let answer: TransferredV1 =
            self.call(method::TRANSFER, &TransferV1::from(&request), &option).await?;
        Ok(answer.into())
    }
}

fn unsent(cause: &dyn std::fmt::Display) -> StreamingError<TypeConfig> {
    let text = format!("cannot send the snapshot: {cause}");
    StreamingError::Network(NetworkError::from_string(text))
}

fn unreadable(cause: io::Error) -> RpcError {
    RpcError::Broken(format!("cannot read the snapshot: {cause}"))
}

/// The file's bytes as messages, from where the receiver wants them; none if it never says so.
fn outgoing(
    mut file: Box<dyn Readable>,
    from: oneshot::Receiver<u64>,
    stepping: Stepping,
) -> ByteStream {
    let opening = async move {
        let from = from.await.ok()?;
        let moved = off(stepping, move || file.seek(SeekFrom::Start(from)).map(|_| file)).await;
        let file = moved.and_then(|file| file.map_err(unreadable));
        let blocks = file.and_then(|file| file_stream(file, stepping));
        Some(blocks.unwrap_or_else(|cause| stream::once(std::future::ready(Err(cause))).boxed()))
    };
    Box::pin(stream::once(opening).filter_map(std::future::ready).flatten())
}

/// Messages of the bytes, read on a thread of its own a little ahead of the connection.
fn file_stream(mut file: Box<dyn Readable>, stepping: Stepping) -> Result<ByteStream, RpcError> {
    if stepping == Stepping::Inline {
        return Ok(Box::pin(stream::unfold(file, |mut file| async {
            let block = next_block(&mut file)?;
            Some((block, file))
        })));
    }
    let (blocks, taken) = tokio::sync::mpsc::channel(SNAPSHOT_AHEAD);
    std::thread::Builder::new()
        .name("raft-snapshot-send".to_owned())
        .spawn(move || {
            while let Some(block) = next_block(&mut file) {
                // The receiver is gone when the transfer was cancelled.
                if blocks.blocking_send(block).is_err() {
                    break;
                }
            }
        })
        .map_err(unreadable)?;
    Ok(Box::pin(stream::unfold(taken, |mut taken| async {
        let block = taken.recv().await?;
        Some((block, taken))
    })))
}

/// The next bytes of the file; `None` at its end.
fn next_block(file: &mut impl Read) -> Option<Result<Bytes, RpcError>> {
    let mut block = Vec::with_capacity(SNAPSHOT_MESSAGE_BYTES);
    match file.take(SNAPSHOT_MESSAGE_BYTES as u64).read_to_end(&mut block) {
        Ok(0) => None,
        Ok(_) => Some(Ok(block.into())),
        Err(cause) => Some(Err(unreadable(cause))),
    }
}

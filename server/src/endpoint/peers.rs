//! What servers ask each other beside Raft.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use model::rpc::{Answer, Reply, Request, RpcError};
use model::seam::{BoxFuture, ByteStream};
use model::wire::{self, Kind};
use model::{LogIndex, NodeId};
use net::{Channel, Limits, NetError, method};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::raft::Transport;

/// Time for a read index: a quorum round, and connecting if need be.
const READ_INDEX_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for what a server says about itself.
const INFO_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of a message between servers' endpoints.
const MESSAGE_BYTES_MAX: usize = 4_096;

/// The other servers, as the endpoint and bootstrap reach them.
pub(crate) trait Peers: Send + Sync + 'static {
    /// Forwards a request.
    fn ask(
        &self,
        server: SocketAddr,
        request: Request,
        limit: Duration,
    ) -> BoxFuture<'static, Answer>;

    /// Forwards a request that has a body or is answered with one.
    fn exchange(
        &self,
        server: SocketAddr,
        request: Request,
        body: ByteStream,
        limit: Duration,
    ) -> BoxFuture<'static, Result<(Reply, ByteStream), RpcError>>;

    /// Asks the leader for a read index.
    fn read_index(&self, leader: SocketAddr) -> BoxFuture<'static, Result<LogIndex, RpcError>>;

    /// Asks a server about itself.
    fn info(
        &self,
        server: SocketAddr,
        question: InfoQuestion,
    ) -> BoxFuture<'static, Result<Info, RpcError>>;
}

/// Body of a SERVER_INFO call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InfoQuestion {
    /// The asker is about to make the first configuration and asks for the other's word that it
    /// helps nobody else to do so meanwhile.
    pub(crate) pledge: bool,
}

/// What a server says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Info {
    /// Identity.
    pub(crate) id: NodeId,
    /// Number of servers that it waits for; 0: none.
    pub(crate) expect: u32,
    /// It has no log, vote or configuration.
    pub(crate) pristine: bool,
    /// Whether it gave its word, if it was asked for it.
    pub(crate) pledged: bool,
    /// Who leads, as far as it knows.
    pub(crate) leader: Option<SocketAddr>,
    /// It has caught up and heard a leader once.
    pub(crate) ready: bool,
}

/// A message between servers' endpoints.
pub(super) fn message<T: Serialize>(value: &T) -> Bytes {
    wire::encode(Kind::ServerMessage, value).into()
}

/// What such a message says.
pub(super) fn read_message<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RpcError> {
    wire::decode(Kind::ServerMessage, bytes, MESSAGE_BYTES_MAX)
        .map_err(|error| RpcError::Protocol(error.to_string()))
}

/// Peers over the network.
pub(crate) struct NetPeers(Arc<dyn Transport>);

impl NetPeers {
    pub(crate) fn new(transport: Arc<dyn Transport>) -> Self {
        Self(transport)
    }

    fn call<T: DeserializeOwned>(
        &self,
        server: SocketAddr,
        method: u16,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'static, Result<T, RpcError>> {
        let call = self.0.call(server, Channel::Rpc, method, body, limit);
        Box::pin(async move { read_message(&call.await?) })
    }
}

impl Peers for NetPeers {
    fn ask(
        &self,
        server: SocketAddr,
        request: Request,
        limit: Duration,
    ) -> BoxFuture<'static, Answer> {
        let body = wire::encode(Kind::Request, &request).into();
        let call = self.0.call(server, Channel::Rpc, method::ASK, body, limit);
        Box::pin(async move {
            let bytes = call.await.map_err(unsent)?;
            decode_answer(&bytes)
        })
    }

    fn exchange(
        &self,
        server: SocketAddr,
        request: Request,
        body: ByteStream,
        limit: Duration,
    ) -> BoxFuture<'static, Result<(Reply, ByteStream), RpcError>> {
        let first = wire::encode(Kind::Request, &request).into();
        let stream = self.0.stream(server, Channel::Rpc, method::STREAM, first, body, limit);
        let answering = async move {
            let mut messages = stream.await.map_err(unsent)?;
            let Some(answer) = messages.next().await else {
                return Err(RpcError::Protocol("a stream without an answer".to_owned()));
            };
            Ok((decode_answer(&answer?)?, messages))
        };
        Box::pin(async move {
            let late = || Err(NetError::Timeout(server).into());
            tokio::time::timeout(limit, answering).await.unwrap_or_else(|_| late())
        })
    }

    fn read_index(&self, leader: SocketAddr) -> BoxFuture<'static, Result<LogIndex, RpcError>> {
        self.call(leader, method::READ_INDEX, Bytes::new(), READ_INDEX_TIMEOUT)
    }

    fn info(
        &self,
        server: SocketAddr,
        question: InfoQuestion,
    ) -> BoxFuture<'static, Result<Info, RpcError>> {
        self.call(server, method::SERVER_INFO, message(&question), INFO_TIMEOUT)
    }
}

fn decode_answer(bytes: &[u8]) -> Answer {
    wire::decode::<Answer>(Kind::Answer, bytes, Limits::default().frame_bytes_max)
        .unwrap_or_else(|error| Err(RpcError::Protocol(error.to_string())))
}

/// A request that no handler saw may be tried again whatever it is.
fn unsent(error: NetError) -> RpcError {
    match error {
        error @ NetError::Connect { .. } => {
            tracing::debug!(%error, "the leader cannot be reached");
            RpcError::NoLeader
        }
        error => error.into(),
    }
}

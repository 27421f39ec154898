//! Connections between agents and servers: frames, handshake, listener, pool, limits, the ledger
//! of retried writes, and the way of a client agent to its servers.
//!
//! What it is not: it knows no operation, no permission and no Raft. A server gives it a
//! [`Handler`]; whoever asks gives it an address, a method and bytes. The format of all bytes is in
//! this folder's README.
//!
//! | module | what |
//! |---|---|
//! | `frame` | frame <-> bytes (core) |
//! | `handshake` | first bytes of a connection, who may connect |
//! | `socket` | options of a socket, so that a silent host is noticed |
//! | `outbox` | what waits to be written; one write for all of it |
//! | `flow` | credit and inbox of a stream |
//! | [`serve`] (`listener`, `inbound`) | the accepting side |
//! | [`Pool`] (`pool`, `outbound`) | the asking side |
//! | [`RetryLedger`] (`ledger`) | makes retried writes apply once |
//! | [`Client`] (`client`) | `Backend` of a client agent |
//!
//! TLS has its protocol byte reserved in `handshake` and wraps the socket between `socket` and
//! `handshake` when it is built.

mod client;
mod error;
mod flow;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod handshake;
mod inbound;
mod ledger;
mod limits;
mod listener;
mod outbound;
mod outbox;
mod pool;
mod socket;

use std::net::SocketAddr;

use bytes::Bytes;
use model::NodeId;
use model::seam::{BoxFuture, ByteStream};
use serde::{Deserialize, Serialize};

pub use client::Client;
pub use error::{NetError, Refusal};
pub use ledger::{OpenRetry, RetryLedger};
pub use limits::Limits;
pub use listener::serve;
pub use pool::Pool;

/// What a connection carries. Each channel has connections of its own, so that a snapshot never
/// delays a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Channel {
    /// Requests of agents and of forwarding servers.
    Rpc,
    /// Heartbeats and votes.
    RaftControl,
    /// Log entries.
    RaftLog,
    /// Snapshots.
    Snapshot,
}

/// What a process is in its datacenter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Runs Raft and the endpoint.
    Server,
    /// Asks servers.
    Client,
}

/// What this process says about itself when it connects or is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Identity of the node.
    pub node_id: NodeId,
    /// Server or client agent.
    pub role: Role,
    /// Datacenter, lower case. Connections from another one are refused.
    pub datacenter: String,
    /// Newest version of the state machine's commands that this process knows.
    pub state_version: u32,
}

/// The other end of a connection, as it introduced itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where its end of the connection is.
    pub address: SocketAddr,
    /// Identity of the node.
    pub node_id: NodeId,
    /// Server or client agent.
    pub role: Role,
    /// Newest version of the state machine's commands that it knows.
    pub state_version: u32,
}

/// What the accepting side does with requests.
///
/// A future is polled once in the connection's own task, at once: what can be answered without
/// waiting costs no task switch. It must not block the thread.
pub trait Handler: Send + Sync + 'static {
    /// Threads that serve a channel's connections; `None`: those that accepted them.
    fn threads(&self, channel: Channel) -> Option<tokio::runtime::Handle> {
        let _ = channel;
        None
    }

    /// Answers one call. The future is dropped when the caller cancels, its time is up or the
    /// connection breaks.
    fn call(
        &self,
        peer: &Peer,
        channel: Channel,
        method: u16,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, NetError>>;

    /// Answers with a stream of messages, reading another. Both are flow-controlled. The exchange
    /// is over when the returned stream ends; `incoming` may be left unread.
    fn stream(
        &self,
        peer: &Peer,
        channel: Channel,
        method: u16,
        first: Bytes,
        incoming: ByteStream,
    ) -> BoxFuture<'static, Result<ByteStream, NetError>>;
}

/// Numbers of the methods. Raft's own start at [`method::RAFT`] and are named in its room.
pub mod method {
    /// `wire` [`model::rpc::Request`] -> `wire` [`model::rpc::Answer`].
    pub const ASK: u16 = 1;
    /// Like [`ASK`] with bodies both ways: the first message of the answering stream is the `wire`
    /// [`model::rpc::Answer`], the rest is the body.
    pub const STREAM: u16 = 2;
    /// What a server says about itself before there is a cluster; body is the endpoint's.
    pub const SERVER_INFO: u16 = 3;
    /// A follower asks the leader for a read index; body is the endpoint's.
    pub const READ_INDEX: u16 = 4;
    /// First number of the Raft room.
    pub const RAFT: u16 = 16;
}

//! How messages reach another server: connections in production, anything in a simulation.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use model::NodeId;
use model::seam::{BoxFuture, ByteStream};
use net::{Channel, NetError, Pool};

/// Methods of this room, on its three channels.
pub(crate) mod method {
    use net::method::RAFT;

    /// `VoteRequestV1` -> `VoteResponseV1`.
    pub(crate) const VOTE: u16 = RAFT;
    /// The same, asking only whether a vote would be given.
    pub(crate) const PRE_VOTE: u16 = RAFT + 1;
    /// `AppendV1` -> `AppendedV1`: heartbeats.
    pub(crate) const APPEND: u16 = RAFT + 2;
    /// `TransferV1` -> `TransferredV1`.
    pub(crate) const TRANSFER: u16 = RAFT + 3;
    /// A stream of `AppendV1` answered by one of `StreamAppendedV1`, in order.
    pub(crate) const APPEND_STREAM: u16 = RAFT + 4;
    /// `SnapshotOpenV1` -> `SnapshotAnswerV1`, then a stream of the file's bytes -> another.
    pub(crate) const SNAPSHOT: u16 = RAFT + 5;
    /// Empty -> `CheckpointsV1`.
    pub(crate) const CHECKPOINTS: u16 = RAFT + 6;
    /// `DifferenceV1` -> empty.
    pub(crate) const DIFFERENCE: u16 = RAFT + 7;
    /// Empty -> `StatsV1`: what a server says about itself.
    pub(crate) const STATS: u16 = RAFT + 8;
}

/// A way to other servers.
pub(crate) trait Transport: Send + Sync + 'static {
    /// See [`Pool::call`].
    fn call(
        &self,
        to: SocketAddr,
        channel: Channel,
        method: u16,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, NetError>>;

    /// See [`Pool::stream`].
    fn stream(
        &self,
        to: SocketAddr,
        channel: Channel,
        method: u16,
        first: Bytes,
        outgoing: ByteStream,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<ByteStream, NetError>>;

    /// Who answers at this address, where that can be known: as the other end of the connection
    /// introduced itself.
    fn who(&self, _at: SocketAddr, _channel: Channel) -> Option<NodeId> {
        None
    }
}

impl Transport for Pool {
    fn call(
        &self,
        to: SocketAddr,
        channel: Channel,
        method: u16,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, NetError>> {
        Pool::call(self, to, channel, method, body, timeout)
    }

    fn stream(
        &self,
        to: SocketAddr,
        channel: Channel,
        method: u16,
        first: Bytes,
        outgoing: ByteStream,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<ByteStream, NetError>> {
        Pool::stream(self, to, channel, method, first, outgoing, timeout)
    }

    fn who(&self, at: SocketAddr, channel: Channel) -> Option<NodeId> {
        self.peer(at, channel).map(|peer| peer.node_id)
    }
}

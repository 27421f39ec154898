//! Every size and time that a peer can influence.

use std::time::Duration;

use crate::Channel;

/// Limits of connections. The defaults are the documented ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest frame, header included, in bytes.
    pub frame_bytes_max: usize,
    /// Time that a new connection has until its handshake is complete.
    pub handshake_timeout: Duration,
    /// Connections that one address may hold (Consul: `rpc_max_conns_per_client`).
    pub connections_per_address: usize,
    /// Connections in all.
    pub connections_max: usize,
    /// Calls and streams that may be open on one connection; beyond that they are refused as busy.
    /// An agent parks one for each watch, so this is far above what the servers compute at once.
    pub in_flight_max: usize,
    /// Bytes of the bodies of those calls.
    pub in_flight_bytes_max: usize,
    /// Bytes of a stream that may be under way unread, plus one message.
    pub stream_window_bytes: u32,
    /// Bytes waiting to be written above which a connection takes no new work.
    pub unwritten_bytes_max: usize,
    /// Time that a connection attempt has, handshake included.
    pub connect_timeout: Duration,
    /// Time without a call after which we close a connection of channel `Rpc` that we opened. The
    /// Raft channels stay open: an election must not wait for a handshake.
    pub idle_max: Duration,
    /// Silence after which a host that acknowledges nothing is held dead.
    pub silence_max: Duration,
    /// The same for heartbeats and log entries. After a cut the system tries ever more seldom to
    /// send what is under way; a new connection gets through sooner.
    pub raft_silence_max: Duration,
}

impl Limits {
    pub(crate) fn silence(&self, channel: Channel) -> Duration {
        match channel {
            Channel::Rpc | Channel::Snapshot => self.silence_max,
            Channel::RaftControl | Channel::RaftLog => self.raft_silence_max,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 16 << 20,
            handshake_timeout: Duration::from_secs(5),
            connections_per_address: 100,
            connections_max: 16_384,
            in_flight_max: 16_384,
            in_flight_bytes_max: 64 << 20,
            stream_window_bytes: 4 << 20,
            unwritten_bytes_max: 1 << 20,
            connect_timeout: Duration::from_secs(2),
            idle_max: Duration::from_secs(300),
            silence_max: Duration::from_secs(6),
            raft_silence_max: Duration::from_secs(2),
        }
    }
}

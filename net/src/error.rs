//! Why bytes did not get through.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use model::rpc::RpcError;
use serde::{Deserialize, Serialize};

use crate::{Channel, Role};

/// Why a call or stream failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NetError {
    /// No connection could be made: nothing was sent.
    #[error("cannot connect to {address}: {cause}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// Why not.
        cause: Arc<io::Error>,
    },
    /// The other side refused the handshake: nothing was sent.
    #[error("{address} refused the connection: {reason}")]
    Refused {
        /// Who refused.
        address: SocketAddr,
        /// Its reason.
        reason: Refusal,
    },
    /// The connection broke after the request was sent: what became of it is unknown.
    #[error("connection to {0} broke before the answer came")]
    Closed(SocketAddr),
    /// The time was up before the answer came: what became of the request is unknown.
    #[error("{0} did not answer in time")]
    Timeout(SocketAddr),
    /// The body does not fit into a frame: nothing was sent.
    #[error("message of {found} bytes where at most {limit} are allowed")]
    TooLarge {
        /// Bytes of the message.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// This process is stopping: nothing was sent.
    #[error("this process is stopping")]
    Stopping,
    /// The handler answered with an error; also the way for a handler to do so.
    #[error("{0}")]
    Remote(RpcError),
}

impl NetError {
    /// A handler's answer to a method that it does not know on this channel.
    pub fn unknown_method(channel: Channel, method: u16) -> Self {
        Self::Remote(RpcError::Protocol(format!("method {method} is unknown on {channel:?}")))
    }

    /// Whether it is certain that no handler ever saw the request.
    pub fn nothing_sent(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Refused { .. }
            | Self::TooLarge { .. }
            | Self::Stopping => true,
            Self::Closed(_) | Self::Timeout(_) | Self::Remote(_) => false,
        }
    }
}

impl From<RpcError> for NetError {
    fn from(error: RpcError) -> Self {
        Self::Remote(error)
    }
}

impl From<NetError> for RpcError {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Remote(error) => error,
            NetError::Stopping => RpcError::Leaving,
            NetError::Refused { .. } | NetError::TooLarge { .. } => {
                RpcError::Protocol(error.to_string())
            }
            NetError::Connect { .. } | NetError::Closed(_) | NetError::Timeout(_) => {
                RpcError::Broken(error.to_string())
            }
        }
    }
}

/// Why a handshake was refused; travels to the one who is refused. Variants are only appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No protocol version in common.
    #[error("it speaks protocol versions {min} to {max}, we do not; upgrade the older side")]
    Version {
        /// Lowest version that the refusing side speaks.
        min: u8,
        /// Highest.
        max: u8,
    },
    /// The refusing side belongs to another datacenter.
    #[error("it belongs to datacenter \"{theirs}\"; check `datacenter` and the join addresses")]
    Datacenter {
        /// Datacenter of the refusing side.
        theirs: String,
    },
    /// The refusing side belongs to another cluster.
    #[error("it belongs to another cluster (label \"{theirs}\")")]
    Label {
        /// Label of the refusing side.
        theirs: String,
    },
    /// Only servers may open this channel.
    #[error("a {role:?} may not open channel {channel:?}")]
    Role {
        /// Role as announced.
        role: Role,
        /// Channel as asked for.
        channel: Channel,
    },
    /// The introduction is not understood.
    #[error("it does not understand our introduction; is it the same program?")]
    Malformed,
}

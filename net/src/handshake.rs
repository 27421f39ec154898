//! First bytes of a connection: which protocol, which versions, who is there.
//!
//! Connecting side: `protocol (u8) magic (3 bytes) min (u8) max (u8) length (u16)` and a `wire`
//! [`Hello`]. Accepting side: `length (u16)` and a `wire` [`Verdict`]. The versions come before
//! anything that may change between them.

use std::io;

use model::{NodeId, wire};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::{Channel, Identity, Refusal, Role};

/// First byte of a connection in plain text.
pub(crate) const PROTOCOL_PLAIN: u8 = b'M';
/// First byte of a connection in TLS, after which the plain protocol follows inside. Reserved.
pub(crate) const PROTOCOL_TLS: u8 = b'T';

const MAGIC: [u8; 3] = *b"STR";
/// Protocol versions that this release speaks.
const VERSION_MIN: u8 = 1;
const VERSION_MAX: u8 = 1;
/// Longest introduction or verdict; names of datacenters are at most 64 bytes.
const BODY_BYTES_MAX: usize = 1_024;

/// How the connecting side introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) node_id: NodeId,
    pub(crate) role: Role,
    pub(crate) channel: Channel,
    pub(crate) datacenter: String,
    pub(crate) state_version: u32,
    /// Tells clusters of one datacenter name apart; empty until there is a setting for it.
    pub(crate) label: String,
}

/// How the accepting side answers. Variants are only appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    Accepted { version: u8, node_id: NodeId, role: Role, state_version: u32 },
    Refused(Refusal),
}

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the connection starts with byte {0:#04x}, which is none of our protocols")]
    Protocol(u8),
    #[error("the other side does not speak this protocol")]
    Garbage,
    #[error("{0}")]
    Refused(Refusal),
}

/// The other side, as it introduced itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Introduced {
    pub(crate) node_id: NodeId,
    pub(crate) role: Role,
    pub(crate) state_version: u32,
    pub(crate) channel: Channel,
}

/// Introduces us and reads the verdict. The caller limits the time.
pub(crate) async fn open(
    socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
    us: &Identity,
    channel: Channel,
) -> Result<Introduced, HandshakeError> {
    let hello = Hello {
        node_id: us.node_id,
        role: us.role,
        channel,
        datacenter: us.datacenter.clone(),
        state_version: us.state_version,
        label: String::new(),
    };
    let mut bytes = vec![PROTOCOL_PLAIN];
    bytes.extend(MAGIC);
    bytes.extend([VERSION_MIN, VERSION_MAX]);
    put(&mut bytes, &hello);
    socket.write_all(&bytes).await?;
    match get(socket).await? {
        Some(Verdict::Accepted { version, node_id, role, state_version })
            if (VERSION_MIN..=VERSION_MAX).contains(&version) =>
        {
            Ok(Introduced { node_id, role, state_version, channel })
        }
        Some(Verdict::Refused(refusal)) => Err(HandshakeError::Refused(refusal)),
        _ => Err(HandshakeError::Garbage),
    }
}

/// Reads an introduction, judges it and answers. The caller limits the time.
pub(crate) async fn accept(
    socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
    us: &Identity,
) -> Result<Introduced, HandshakeError> {
    let protocol = socket.read_u8().await?;
    if protocol != PROTOCOL_PLAIN {
        return Err(HandshakeError::Protocol(protocol));
    }
    let mut head = [0; 5];
    socket.read_exact(&mut head).await?;
    let [magic @ .., min, max] = head;
    if magic != MAGIC {
        return Err(HandshakeError::Garbage);
    }
    let judged = if min > VERSION_MAX || max < VERSION_MIN || min > max {
        Err(Refusal::Version { min: VERSION_MIN, max: VERSION_MAX })
    } else {
        get::<Hello>(socket).await?.ok_or(Refusal::Malformed).and_then(|hello| judge(us, &hello))
    };
    let verdict = match &judged {
        Ok(_) => Verdict::Accepted {
            version: max.min(VERSION_MAX),
            node_id: us.node_id,
            role: us.role,
            state_version: us.state_version,
        },
        Err(refusal) => Verdict::Refused(refusal.clone()),
    };
    let mut bytes = Vec::new();
    put(&mut bytes, &verdict);
    socket.write_all(&bytes).await?;
    if judged.is_err() {
        // Closing with unread bytes would reset the connection and lose the verdict.
        socket.shutdown().await?;
        let mut rest = [0; BODY_BYTES_MAX];
        while socket.read(&mut rest).await? > 0 {}
    }
    judged.map_err(HandshakeError::Refused)
}

/// Whether this introduction may connect to us.
fn judge(us: &Identity, hello: &Hello) -> Result<Introduced, Refusal> {
    if hello.datacenter != us.datacenter {
        return Err(Refusal::Datacenter { theirs: us.datacenter.clone() });
    }
    if !hello.label.is_empty() {
        return Err(Refusal::Label { theirs: String::new() });
    }
    if hello.role == Role::Client && hello.channel != Channel::Rpc {
        return Err(Refusal::Role { role: hello.role, channel: hello.channel });
    }
    Ok(Introduced {
        node_id: hello.node_id,
        role: hello.role,
        state_version: hello.state_version,
        channel: hello.channel,
    })
}

fn put<T: Serialize>(to: &mut Vec<u8>, value: &T) {
    let body = wire::encode(wire::Kind::Handshake, value);
    let length = u16::try_from(body.len()).expect("our own names are short");
    to.extend(length.to_be_bytes());
    to.extend(body);
}

/// `None`: bytes that are not of this type.
async fn get<T: DeserializeOwned>(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<T>> {
    let length = usize::from(socket.read_u16().await?);
    if length > BODY_BYTES_MAX {
        return Ok(None);
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await?;
    Ok(wire::decode(wire::Kind::Handshake, &body, BODY_BYTES_MAX).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us() -> Identity {
        Identity {
            node_id: NodeId([1; 16]),
            role: Role::Server,
            datacenter: "dc1".into(),
            state_version: 3,
        }
    }

    #[test]
    fn who_may_connect() {
        let hello = |role, channel, datacenter: &str, label: &str| Hello {
            node_id: NodeId([2; 16]),
            role,
            channel,
            datacenter: datacenter.into(),
            state_version: 4,
            label: label.into(),
        };
        let cases = [
            (hello(Role::Client, Channel::Rpc, "dc1", ""), Ok(())),
            (hello(Role::Server, Channel::Snapshot, "dc1", ""), Ok(())),
            (
                hello(Role::Server, Channel::Rpc, "dc2", ""),
                Err(Refusal::Datacenter { theirs: "dc1".into() }),
            ),
            (
                hello(Role::Client, Channel::RaftLog, "dc1", ""),
                Err(Refusal::Role { role: Role::Client, channel: Channel::RaftLog }),
            ),
            (
                hello(Role::Client, Channel::Rpc, "dc1", "blue"),
                Err(Refusal::Label { theirs: String::new() }),
            ),
        ];
        for (hello, verdict) in cases {
            assert_eq!(judge(&us(), &hello).map(drop), verdict, "{hello:?}");
        }
    }
}

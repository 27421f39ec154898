//! The one codec of rows, commands and RPC: postcard behind a leading kind and version.
//!
//! Nothing else in the house calls postcard. Trailing bytes are refused; the byte limit is checked
//! before anything is decoded, and postcard allocates no more than the bytes at hand can fill.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a blob holds; the first byte of every encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`crate::command::EnvelopeV1`].
    Envelope = 1,
    /// [`crate::rpc::Request`].
    Request = 2,
    /// [`crate::rpc::Answer`].
    Answer = 3,
    /// Record of the Raft log or of its meta table.
    RaftRecord = 4,
    /// Block of a snapshot.
    SnapshotBlock = 5,
    /// Message between servers' Raft rooms.
    RaftMessage = 6,
    /// A definition, state or tag set that an agent keeps on its disk.
    AgentRecord = 7,
    /// Part of a connection's handshake.
    Handshake = 8,
    /// What servers say to each other beside requests and Raft: before there is a cluster, and to
    /// agree on a read index.
    ServerMessage = 9,
}

/// Version of the encodings written by this release.
pub const VERSION: u8 = 1;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// More bytes than the caller allows.
    #[error("{found} bytes where at most {limit} are allowed")]
    TooLong {
        /// Bytes at hand.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The leading bytes name another kind or version.
    #[error("kind {kind} version {version} where kind {wanted} version {VERSION} is expected")]
    Foreign {
        /// Leading byte found.
        kind: u8,
        /// Second byte found.
        version: u8,
        /// Leading byte expected.
        wanted: u8,
    },
    /// Cut short, with bytes left over, or malformed.
    #[error("malformed: {0}")]
    Malformed(&'static str),
}

/// The value's bytes, led by kind and version.
pub fn encode<T: Serialize>(kind: Kind, value: &T) -> Vec<u8> {
    let head = vec![kind as u8, VERSION];
    postcard::to_extend(value, head).expect("writing to a vector cannot fail for plain data")
}

/// The value in these bytes, all of which must be used, and of which there are at most `limit`.
pub fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8], limit: usize) -> Result<T, WireError> {
    if bytes.len() > limit {
        return Err(WireError::TooLong { found: bytes.len(), limit });
    }
    let Some((head, body)) = bytes.split_at_checked(2) else {
        return Err(WireError::Malformed("shorter than its kind and version"));
    };
    if head != [kind as u8, VERSION] {
        return Err(WireError::Foreign { kind: head[0], version: head[1], wanted: kind as u8 });
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(WireError::Malformed("bytes left over")),
        Err(postcard::Error::DeserializeUnexpectedEnd) => Err(WireError::Malformed("cut short")),
        Err(_) => Err(WireError::Malformed("not a value of this kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, EnvelopeV1};

    fn envelope() -> EnvelopeV1 {
        EnvelopeV1 {
            namespace: "default".into(),
            retry: None,
            actor: "".into(),
            reason: "".into(),
            cluster_time_ms: 7,
            wall_ms: 8,
            command: Command::TickV1,
        }
    }

    #[test]
    fn a_value_comes_back_and_trailing_bytes_are_refused() {
        let mut bytes = encode(Kind::Envelope, &envelope());
        assert_eq!(decode::<EnvelopeV1>(Kind::Envelope, &bytes, 100), Ok(envelope()));
        bytes.push(0);
        assert_eq!(
            decode::<EnvelopeV1>(Kind::Envelope, &bytes, 100),
            Err(WireError::Malformed("bytes left over"))
        );
    }

    #[test]
    fn cut_foreign_and_long_bytes_are_refused() {
        let bytes = encode(Kind::Envelope, &envelope());
        for cut in 0..bytes.len() {
            assert!(decode::<EnvelopeV1>(Kind::Envelope, &bytes[..cut], 100).is_err(), "{cut}");
        }
        assert!(matches!(
            decode::<EnvelopeV1>(Kind::Request, &bytes, 100),
            Err(WireError::Foreign { .. })
        ));
        assert!(matches!(
            decode::<EnvelopeV1>(Kind::Envelope, &bytes, 3),
            Err(WireError::TooLong { .. })
        ));
    }
}

//! Identifiers and indexes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A short shared text: a node's, service's or tag's name. The state interns them, so equal names
/// share one allocation.
pub type Name = Arc<str>;

/// Index of an entry in the Raft log. Also Consul's `CreateIndex`, `ModifyIndex` and
/// `X-Consul-Index`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct LogIndex(pub u64);

impl LogIndex {
    /// Before the first entry.
    pub const ZERO: LogIndex = LogIndex(0);
}

impl fmt::Display for LogIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is not a UUID of the form `8-4-4-4-12` hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID (8-4-4-4-12 hexadecimal digits)")]
pub struct NotUuid;

macro_rules! uuid_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// A random (version 4) UUID made of these 16 random bytes.
            pub fn from_random(mut bytes: [u8; 16]) -> Self {
                bytes[6] = (bytes[6] & 0x0f) | 0x40;
                bytes[8] = (bytes[8] & 0x3f) | 0x80;
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_uuid(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_uuid(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = NotUuid;

            fn from_str(text: &str) -> Result<Self, NotUuid> {
                parse_uuid(text).map(Self)
            }
        }
    };
}

uuid_type! {
    /// Identity of a node: a UUID kept in the data directory. Identity of a server in Raft and of a
    /// member in gossip.
    NodeId
}

uuid_type! {
    /// Identity of a session, made by the leader.
    SessionId
}

fn write_uuid(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

fn parse_uuid(text: &str) -> Result<[u8; 16], NotUuid> {
    let text = text.as_bytes();
    if text.len() != 36 {
        return Err(NotUuid);
    }
    let mut bytes = [0_u8; 16];
    let mut digits = 0_usize;
    for (i, c) in text.iter().enumerate() {
        if matches!(i, 8 | 13 | 18 | 23) {
            if *c != b'-' {
                return Err(NotUuid);
            }
            continue;
        }
        let digit = match c {
            b'0'..=b'9' => c - b'0',
            b'a'..=b'f' => c - b'a' + 10,
            b'A'..=b'F' => c - b'A' + 10,
            _ => return Err(NotUuid),
        };
        let byte = bytes.get_mut(digits / 2).ok_or(NotUuid)?;
        *byte = (*byte << 4) | digit;
        digits += 1;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_text_round_trips_and_case_does_not_matter() {
        let id: NodeId = "40E4A748-2192-161a-0510-9bf59fe950b5".parse().expect("valid");
        assert_eq!(id.to_string(), "40e4a748-2192-161a-0510-9bf59fe950b5");
    }

    #[test]
    fn malformed_uuids_are_refused() {
        for text in [
            "",
            "40e4a748-2192-161a-0510-9bf59fe950b",
            "40e4a748-2192-161a-0510-9bf59fe950b5a",
            "40e4a748x2192-161a-0510-9bf59fe950b5",
            "40e4a748-2192-161a-0510-9bf59fe950bg",
            "40e4a748-2192-161a-0510-9bf59fe950é",
        ] {
            assert_eq!(text.parse::<NodeId>(), Err(NotUuid), "{text}");
        }
    }

    #[test]
    fn random_ids_carry_version_and_variant() {
        assert_eq!(
            SessionId::from_random([0xff; 16]).to_string(),
            "ffffffff-ffff-4fff-bfff-ffffffffffff"
        );
    }
}

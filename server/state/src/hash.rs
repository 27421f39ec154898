//! The running hash over what entries did: equal on all replicas, or one of them is wrong.

use model::Name;
use model::command::Outcome;
use model::wire::{self, Kind};

use crate::change::{Change, Key, Row};

/// A 64-bit hash of a stream of bytes, eight at a time. It finds divergence, not attackers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunningHash(u64);

impl RunningHash {
    pub(crate) fn new(start: u64) -> Self {
        Self(start)
    }

    pub(crate) fn value(self) -> u64 {
        self.0
    }

    pub(crate) fn number(&mut self, number: u64) {
        // Constants of SplitMix64's finalizer: every input bit reaches every output bit.
        let mut x = (self.0.rotate_left(23) ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = x ^ (x >> 31);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.number(u64::from_le_bytes(*word));
        }
        let mut last = [0_u8; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.number(u64::from_le_bytes(last));
    }

    pub(crate) fn outcome(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Done => self.number(1),
            Outcome::Bool(held) => self.number(2 + u64::from(*held)),
            Outcome::Txn(done) => self.bytes(&wire::encode(Kind::SnapshotBlock, done)),
            Outcome::Rejected(why) => self.bytes(&wire::encode(Kind::SnapshotBlock, why)),
        }
    }

    pub(crate) fn change(&mut self, namespace: &Name, change: &Change) {
        self.bytes(namespace.as_bytes());
        match &change.key {
            Key::Node(name) => self.bytes(name.as_bytes()),
            Key::Service { node, id } | Key::Check { node, id } => {
                self.bytes(node.as_bytes());
                self.bytes(id.as_bytes());
            }
            Key::Kv(key) => self.bytes(key),
            Key::Session(id) => self.bytes(&id.0),
        }
        self.number(change.table as u64);
        match &change.after {
            None => self.number(0),
            Some(Row::Kv(row)) => {
                // By hand: a value may be large, and encoding would copy it.
                self.bytes(&row.value);
                for number in [row.flags, row.lock_index, row.version, row.lease.unwrap_or(0)] {
                    self.number(number);
                }
                self.number(row.create_index.0);
                self.number(row.modify_index.0);
                self.bytes(row.session.as_ref().map_or(&[], |id| &id.0[..]));
            }
            Some(Row::Node(row)) => self.bytes(&wire::encode(Kind::SnapshotBlock, row)),
            Some(Row::Service(row)) => self.bytes(&wire::encode(Kind::SnapshotBlock, row)),
            Some(Row::Check(row)) => self.bytes(&wire::encode(Kind::SnapshotBlock, row)),
            Some(Row::Session(row)) => self.bytes(&wire::encode(Kind::SnapshotBlock, row)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[&[u8]]) -> u64 {
        let mut hash = RunningHash::new(0);
        for part in parts {
            hash.bytes(part);
        }
        hash.value()
    }

    #[test]
    fn order_length_and_borders_count() {
        let all = [
            of(&[b"ab", b"c"]),
            of(&[b"a", b"bc"]),
            of(&[b"abc"]),
            of(&[b"abc\0"]),
            of(&[b"c", b"ab"]),
            of(&[]),
            of(&[b""]),
        ];
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                assert_ne!(a, b);
            }
        }
    }
}

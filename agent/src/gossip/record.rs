//! What a node says of itself beside being alive: name and tags. And what is said when one leaves.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BufMut;
use model::{Name, NodeId};

use super::wire::{Malformed, Reader, put_block};

/// Bytes of a record: it must fit into a datagram beside foca's smallest message.
pub(super) const RECORD_MAX: usize = 1_100;
const NAME_MAX: usize = 255;
const TAGS_MAX: usize = 64;

/// Name and tags of a node. The highest version wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Whose it is.
    pub(super) node: NodeId,
    /// Grows with every change; starts at the generation, so that a restart is newer.
    pub(super) version: u64,
    /// Unique in the pool.
    pub(super) name: Name,
    /// Consul's names and values.
    pub(super) tags: BTreeMap<Name, Name>,
}

impl Record {
    /// The bytes, wherever they travel.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.put_slice(&self.node.0);
        out.put_u64(self.version);
        put_text(&mut out, &self.name);
        out.put_u16(u16::try_from(self.tags.len()).unwrap_or(u16::MAX));
        for (key, value) in &self.tags {
            put_text(&mut out, key);
            put_text(&mut out, value);
        }
        out
    }

    /// Reads one that takes all of `bytes`.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > RECORD_MAX {
            return Err(Malformed);
        }
        let mut reader = Reader(bytes);
        let node = reader.node()?;
        let version = reader.u64()?;
        let name = reader.text(NAME_MAX)?;
        let count = usize::from(reader.u16()?);
        if name.is_empty() || count > TAGS_MAX {
            return Err(Malformed);
        }
        let mut tags = BTreeMap::new();
        for _ in 0..count {
            let key = reader.text(RECORD_MAX)?;
            let value = reader.text(RECORD_MAX)?;
            tags.insert(Name::from(key), Name::from(value));
        }
        if !reader.is_empty() {
            return Err(Malformed);
        }
        Ok(Self { node, version, name: Name::from(name), tags })
    }

    /// Bytes it takes, when they are more than others would accept.
    pub(super) fn too_large(&self) -> Option<usize> {
        let texts = self.tags.iter().flat_map(|(key, value)| [key, value]);
        let texts: usize = texts.map(|text| text.len() + 2).sum();
        let length = 16 + 8 + 2 + self.name.len() + 2 + texts;
        let fits = length <= RECORD_MAX
            && (1..=NAME_MAX).contains(&self.name.len())
            && self.tags.len() <= TAGS_MAX;
        (!fits).then_some(length)
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_block(out, text.as_bytes());
}

/// "This run of this node leaves", said by itself or by an operator for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Intent {
    /// Who leaves.
    pub(super) node: NodeId,
    /// Later runs are not meant.
    pub(super) generation: u64,
    /// Lamport time; node and time tell one intent from another.
    pub(super) ltime: u64,
    /// Said by the node itself.
    pub(super) by_itself: bool,
    /// Forget the node at once.
    pub(super) prune: bool,
}

impl Intent {
    /// Bytes it takes.
    pub(super) const LEN: usize = 16 + 8 + 8 + 1;

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        out.put_slice(&self.node.0);
        out.put_u64(self.generation);
        out.put_u64(self.ltime);
        out.put_u8(u8::from(self.by_itself) | (u8::from(self.prune) << 1));
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        let node = reader.node()?;
        let generation = reader.u64()?;
        let ltime = reader.u64()?;
        let flags = reader.u8()?;
        if flags > 3 || !reader.is_empty() {
            return Err(Malformed);
        }
        Ok(Self { node, generation, ltime, by_itself: flags & 1 != 0, prune: flags & 2 != 0 })
    }
}

/// Lamport's clock: orders intents without wall clocks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lamport(u64);

impl Lamport {
    /// Highest jump that one message may cause; beyond it the message is not believed.
    const JUMP_MAX: u64 = 1 << 32;

    pub(super) fn now(self) -> u64 {
        self.0
    }

    /// The time of an event of ours.
    pub(super) fn tick(&mut self) -> u64 {
        self.0 = self.0.saturating_add(1);
        self.0
    }

    /// A time heard from others.
    pub(super) fn witness(&mut self, time: u64) {
        if time.saturating_sub(self.0) <= Self::JUMP_MAX {
            self.0 = self.0.max(time);
        }
    }
}

/// Age of something, as it travels: whole seconds.
pub(super) fn age_seconds(now: Duration, since: Duration) -> u32 {
    u32::try_from(now.saturating_sub(since).as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            node: NodeId([1; 16]),
            version: 7,
            name: "s1".into(),
            tags: BTreeMap::from([("role".into(), "consul".into()), ("segment".into(), "".into())]),
        }
    }

    #[test]
    fn records_and_intents_come_back_and_cut_ones_do_not() {
        let bytes = record().encode();
        assert_eq!(Record::decode(&bytes), Ok(record()));
        for cut in 0..bytes.len() {
            assert_eq!(Record::decode(&bytes[..cut]), Err(Malformed), "{cut}");
        }
        let intent = Intent {
            node: NodeId([2; 16]),
            generation: 3,
            ltime: 4,
            by_itself: true,
            prune: false,
        };
        let bytes = intent.encode();
        assert_eq!(bytes.len(), Intent::LEN);
        assert_eq!(Intent::decode(&bytes), Ok(intent));
        assert_eq!(Intent::decode(&bytes[1..]), Err(Malformed));
    }

    #[test]
    fn a_record_that_others_would_refuse_is_seen_before() {
        let mut record = record();
        assert_eq!(record.too_large(), None);
        record.tags.insert("big".into(), "x".repeat(RECORD_MAX).into());
        assert!(record.too_large().is_some());
        record.tags = (0..65).map(|i| (i.to_string().into(), "".into())).collect();
        assert!(record.too_large().is_some());
    }

    #[test]
    fn lamport_time_only_grows_and_not_by_absurd_jumps() {
        let mut clock = Lamport::default();
        clock.witness(5);
        assert_eq!(clock.tick(), 6);
        clock.witness(2);
        clock.witness(u64::MAX);
        assert_eq!(clock.now(), 6);
    }
}

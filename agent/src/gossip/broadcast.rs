//! Our own broadcasts (records, intents): a share of every packet, beside foca's updates.
//!
//! foca's own broadcasts starve while many updates queue, and never drop what does not fit; these
//! have the space that foca's limit leaves, and a hard cap.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use model::NodeId;

use super::envelope::{Builder, Extension};

/// Broadcasts waiting at most. Beyond it the one sent most often goes: the digest finds who missed.
const QUEUE_MAX: usize = 4_096;

type Key = (u8, NodeId);
/// Most sendings left first, then newest first.
type Rank = (Reverse<u32>, Reverse<u64>);

#[derive(Debug)]
struct Item {
    rank: Rank,
    extension: Extension,
    bytes: Vec<u8>,
}

/// One item per node and kind; a newer one replaces it.
#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    items: BTreeMap<Key, Item>,
    order: BTreeSet<(Rank, Key)>,
    sequence: u64,
}

impl Broadcasts {
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Queues for `sendings` packets.
    pub(super) fn add(
        &mut self,
        extension: Extension,
        node: NodeId,
        bytes: Vec<u8>,
        sendings: u32,
    ) {
        let key = (extension as u8, node);
        self.remove(&key);
        if self.items.len() >= QUEUE_MAX
            && let Some((_, last)) = self.order.last().copied()
        {
            self.remove(&last);
            metrics::counter!("serf.broadcast.dropped").increment(1);
        }
        self.sequence += 1;
        let rank = (Reverse(sendings), Reverse(self.sequence));
        self.order.insert((rank, key));
        self.items.insert(key, Item { rank, extension, bytes });
    }

    /// Puts what fits into a packet.
    pub(super) fn fill(&mut self, builder: &mut Builder) {
        let mut sent = Vec::new();
        for (_, key) in &self.order {
            if builder.room() < super::record::Intent::LEN {
                break;
            }
            if let Some(item) = self.items.get(key)
                && item.bytes.len() <= builder.room()
            {
                builder.put(item.extension, &item.bytes);
                sent.push(*key);
            }
        }
        for key in sent {
            self.count_sending(key);
        }
    }

    fn count_sending(&mut self, key: Key) {
        let Some(item) = self.items.get_mut(&key) else {
            return;
        };
        self.order.remove(&(item.rank, key));
        item.rank.0.0 = item.rank.0.0.saturating_sub(1);
        if item.rank.0.0 == 0 {
            self.items.remove(&key);
        } else {
            self.order.insert((item.rank, key));
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(item) = self.items.remove(key) {
            self.order.remove(&(item.rank, *key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::envelope::{Label, open};

    fn packet(queue: &mut Broadcasts, payload: usize) -> Vec<Vec<u8>> {
        let label = Label::new("", "dc1");
        let mut builder = Builder::new(label, &NodeId([9; 16]), payload);
        queue.fill(&mut builder);
        let bytes = builder.finish(&vec![0; payload]);
        let opened = open(&bytes, label).expect("ours");
        opened.extensions.iter().map(|(_, bytes)| bytes.to_vec()).collect()
    }

    #[test]
    fn each_goes_out_as_often_as_asked_the_least_sent_first() {
        let mut queue = Broadcasts::default();
        queue.add(Extension::Record, NodeId([1; 16]), vec![1; 800], 2);
        assert_eq!(packet(&mut queue, 100), [vec![1; 800]]);
        queue.add(Extension::Record, NodeId([2; 16]), vec![2; 800], 2);
        assert_eq!(packet(&mut queue, 100), [vec![2; 800]]);
        let mut rest = vec![packet(&mut queue, 100), packet(&mut queue, 100)];
        rest.sort();
        assert_eq!(rest, [[vec![1; 800]], [vec![2; 800]]]);
        assert!(queue.is_empty() && packet(&mut queue, 100).is_empty());
    }

    #[test]
    fn a_newer_one_replaces_and_one_too_large_for_the_space_waits() {
        let mut queue = Broadcasts::default();
        queue.add(Extension::Record, NodeId([1; 16]), vec![1; 800], 2);
        queue.add(Extension::Record, NodeId([1; 16]), vec![2; 800], 2);
        assert!(packet(&mut queue, 1_000).is_empty());
        assert_eq!(packet(&mut queue, 100), [vec![2; 800]]);
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut queue = Broadcasts::default();
        for i in 0..QUEUE_MAX + 10 {
            let node = NodeId((i as u128).to_be_bytes());
            queue.add(Extension::Intent, node, vec![0; 33], 3);
        }
        assert_eq!((queue.items.len(), queue.order.len()), (QUEUE_MAX, QUEUE_MAX));
    }
}

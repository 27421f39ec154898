//! Who a member is, to foca.

use std::net::SocketAddr;

use model::NodeId;

/// One run of one node. Small and `Copy`: foca compares it in every lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id {
    /// The node.
    pub(super) node: NodeId,
    /// Where its gossip listens.
    pub(super) addr: SocketAddr,
    /// Grows with every start of the node, and when it has to come back from the dead.
    pub(super) generation: u64,
    /// Local, never on the wire: counts how often we took back that this generation is down. To
    /// foca Down is final; a member that refutes comes back to it as a new identity.
    pub(super) life: u32,
}

impl Id {
    /// The first life of a generation.
    pub(super) fn new(node: NodeId, addr: SocketAddr, generation: u64) -> Self {
        Self { node, addr, generation, life: 0 }
    }

    /// Whether both are the same run of the same node.
    pub(super) fn same_run(&self, other: &Id) -> bool {
        self.node == other.node && self.generation == other.generation
    }

    /// The next generation.
    pub(super) fn next(&self) -> Self {
        Self { generation: self.generation.saturating_add(1), life: 0, ..*self }
    }
}

impl foca::Identity for Id {
    type Addr = [u8; 16];

    fn renew(&self) -> Option<Self> {
        Some(self.next())
    }

    fn addr(&self) -> [u8; 16] {
        self.node.0
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.generation, self.life, self.addr)
            > (adversary.generation, adversary.life, adversary.addr)
    }
}

/// Whether others could send to it.
pub(super) fn reachable(addr: &SocketAddr) -> bool {
    let ip = addr.ip();
    let broadcast = matches!(ip, std::net::IpAddr::V4(v4) if v4.is_broadcast());
    addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

/// A fixed 64-bit mix of words, equal on every platform: digests and addressees. Not a defence
/// against forgery; that is the encryption's part.
pub(super) fn mix(words: &[u64]) -> u64 {
    let mut hash = 0x9e37_79b9_7f4a_7c15_u64;
    for word in words {
        hash = (hash ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash ^= hash >> 29;
        hash = hash.wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 32;
    }
    hash
}

/// A node's id as two words.
pub(super) fn words(node: &NodeId) -> [u64; 2] {
    let value = u128::from_be_bytes(node.0);
    [(value >> 64) as u64, value as u64]
}

/// What a packet names as its addressee instead of the whole identity.
pub(super) fn addressee(id: &Id) -> u64 {
    let [high, low] = words(&id.node);
    mix(&[high, low, id.generation])
}

//! Bytes in and out: big-endian fixed fields, lengths checked before anything is taken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::BufMut;
use model::NodeId;

use super::identity::{Id, reachable};

/// The bytes are not what they should be. Which rule they broke is of no use to anybody: they are
/// dropped and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed gossip message")]
pub(super) struct Malformed;

/// Takes fields off the front of a slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// Bytes left.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether all was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(super) fn node(&mut self) -> Result<NodeId, Malformed> {
        Ok(NodeId(self.array()?))
    }

    /// Bytes led by a 16-bit length, of which there are at most `limit`.
    pub(super) fn block(&mut self, limit: usize) -> Result<&'a [u8], Malformed> {
        let length = usize::from(self.u16()?);
        if length > limit {
            return Err(Malformed);
        }
        self.take(length)
    }

    /// Text led by a 16-bit length.
    pub(super) fn text(&mut self, limit: usize) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.block(limit)?).map_err(|_| Malformed)
    }

    /// An identity whose address can be sent to.
    pub(super) fn id(&mut self) -> Result<Id, Malformed> {
        let node = self.node()?;
        let ip = match self.u8()? {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
            _ => return Err(Malformed),
        };
        let addr = SocketAddr::new(ip, self.u16()?);
        let generation = self.u64()?;
        if !reachable(&addr) {
            return Err(Malformed);
        }
        Ok(Id::new(node, addr, generation))
    }
}

/// Bytes that an identity takes.
pub(super) fn id_len(id: &Id) -> usize {
    16 + 1 + if id.addr.is_ipv4() { 4 } else { 16 } + 2 + 8
}

/// Writes an identity; its life stays here.
pub(super) fn put_id(out: &mut impl BufMut, id: &Id) {
    out.put_slice(&id.node.0);
    match id.addr.ip() {
        IpAddr::V4(ip) => {
            out.put_u8(4);
            out.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.put_u8(6);
            out.put_slice(&ip.octets());
        }
    }
    out.put_u16(id.addr.port());
    out.put_u64(id.generation);
}

/// Writes bytes led by a 16-bit length. Invariant: the caller keeps them below 64 KiB.
pub(super) fn put_block(out: &mut impl BufMut, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("names, tags and records are bounded");
    out.put_u16(length);
    out.put_slice(bytes);
}

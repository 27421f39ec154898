//! The envelope around every datagram (see README.md for the bytes).
//!
//! Version, flags, and the fields that encryption will need are there from the first release, so
//! that a cluster can be upgraded in place.

use bytes::BufMut;
use model::NodeId;
use sha2::{Digest as _, Sha256};

use super::identity::{mix, words};
use super::wire::{Malformed, Reader};

/// Largest datagram sent or taken, whatever the local MTU is.
pub(super) const PACKET_MAX: usize = 1_400;
/// Version written by this release.
pub(super) const VERSION: u8 = 1;
/// Bytes before the extensions.
pub(super) const HEADER: usize = 1 + 1 + 4 + 8 + 10 + 8 + 2;
/// Extensions in one datagram.
const EXTENSIONS_MAX: usize = 64;

/// Hash that names a cluster in every datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label([u8; 8]);

impl Label {
    /// Of a cluster's label and datacenter. Lengths are mixed in, so that no two pairs run together.
    pub(super) fn new(label: &str, datacenter: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update((label.len() as u64).to_be_bytes());
        hash.update(label);
        hash.update(datacenter);
        let hash = hash.finalize();
        let mut short = [0; 8];
        short.copy_from_slice(&hash[..8]);
        Self(short)
    }
}

/// Something that travels beside foca's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Extension {
    /// Digest of the sender's live set.
    Digest = 1,
    /// A node's record.
    Record = 2,
    /// Somebody leaves.
    Intent = 3,
    /// Asks for an answer now.
    Check = 4,
    /// That answer.
    Checked = 5,
}

impl Extension {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Digest,
            2 => Self::Record,
            3 => Self::Intent,
            4 => Self::Check,
            5 => Self::Checked,
            _ => return None,
        })
    }
}

/// Builds one datagram.
#[derive(Debug)]
pub(super) struct Builder {
    bytes: Vec<u8>,
    payload: usize,
}

impl Builder {
    /// Starts one that will end with `payload` bytes of foca's.
    pub(super) fn new(label: Label, sender: &NodeId, payload: usize) -> Self {
        let mut bytes = Vec::with_capacity(PACKET_MAX);
        bytes.put_u8(VERSION);
        bytes.put_u8(0); // flags: none defined yet; encryption will be one
        bytes.put_u32(0); // key id
        bytes.put_u64(mix(&words(sender)));
        bytes.put_slice(&[0; 10]); // boot epoch and counter
        bytes.put_slice(&label.0);
        bytes.put_u16(0); // bytes of extensions, known at the end
        Self { bytes, payload }
    }

    /// Bytes that an extension may still have.
    pub(super) fn room(&self) -> usize {
        PACKET_MAX.saturating_sub(self.bytes.len() + self.payload + 3)
    }

    /// Adds an extension. Invariant: it fits [`Builder::room`].
    pub(super) fn put(&mut self, extension: Extension, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.room());
        self.bytes.put_u8(extension as u8);
        super::wire::put_block(&mut self.bytes, bytes);
    }

    /// The datagram.
    pub(super) fn finish(mut self, payload: &[u8]) -> Vec<u8> {
        let extensions = u16::try_from(self.bytes.len() - HEADER).unwrap_or(u16::MAX);
        self.bytes[HEADER - 2..HEADER].copy_from_slice(&extensions.to_be_bytes());
        self.bytes.extend_from_slice(payload);
        self.bytes
    }
}

/// A datagram taken apart.
#[derive(Debug)]
pub(super) struct Opened<'a> {
    /// Known extensions in order; unknown ones are skipped.
    pub(super) extensions: Vec<(Extension, &'a [u8])>,
    /// foca's bytes.
    pub(super) payload: &'a [u8],
    sender: u64,
}

impl Opened<'_> {
    /// Whether the envelope names this node as its sender.
    pub(super) fn sent_by(&self, node: &NodeId) -> bool {
        self.sender == mix(&words(node))
    }
}

/// Takes a datagram apart; one of another version or cluster is malformed to us.
pub(super) fn open(bytes: &[u8], label: Label) -> Result<Opened<'_>, Malformed> {
    if bytes.len() > PACKET_MAX {
        return Err(Malformed);
    }
    let mut reader = Reader(bytes);
    if reader.u8()? != VERSION || reader.u8()? != 0 || reader.u32()? != 0 {
        return Err(Malformed);
    }
    let sender = reader.u64()?;
    reader.take(10)?;
    if reader.take(8)? != label.0 {
        return Err(Malformed);
    }
    let mut section = Reader(reader.block(PACKET_MAX)?);
    let mut extensions = Vec::new();
    while !section.is_empty() {
        let kind = section.u8()?;
        let body = section.block(PACKET_MAX)?;
        if extensions.len() >= EXTENSIONS_MAX {
            return Err(Malformed);
        }
        if let Some(extension) = Extension::from_byte(kind) {
            extensions.push((extension, body));
        }
    }
    Ok(Opened { extensions, payload: reader.0, sender })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_comes_back_and_a_foreign_one_does_not() {
        let label = Label::new("", "dc1");
        let node = NodeId([7; 16]);
        let mut builder = Builder::new(label, &node, 5);
        builder.put(Extension::Digest, b"digest");
        builder.put(Extension::Record, b"record");
        let bytes = builder.finish(b"hello");
        let opened = open(&bytes, label).expect("ours");
        assert!(opened.sent_by(&node) && !opened.sent_by(&NodeId([8; 16])));
        assert_eq!(opened.payload, b"hello");
        assert_eq!(
            opened.extensions,
            [(Extension::Digest, &b"digest"[..]), (Extension::Record, &b"record"[..])]
        );
        assert!(open(&bytes, Label::new("", "dc2")).is_err());
        assert!(open(&bytes, Label::new("d", "c1")).is_err());
        for cut in 0..HEADER + 15 {
            assert!(open(&bytes[..cut], label).is_err(), "{cut}");
        }
    }

    #[test]
    fn room_is_what_the_packet_limit_leaves() {
        let label = Label::new("", "dc1");
        let mut builder = Builder::new(label, &NodeId([7; 16]), 1_000);
        let room = builder.room();
        builder.put(Extension::Record, &vec![1; room]);
        assert_eq!(builder.room(), 0);
        assert_eq!(builder.finish(&[2; 1_000]).len(), PACKET_MAX);
    }
}

//! Parsers of bytes from strangers, for the targets in `fuzz/` and for tests; built for them alone.

use bytes::BytesMut;
use model::NodeId;
use tokio_util::codec::Decoder as _;

use crate::frame::FrameDecoder;
use crate::{Channel, Identity, Role, handshake};

/// Frames of this size are taken: small, so that a claim beyond it is met often.
const FRAME_BYTES_MAX: usize = 1 << 16;

/// Bytes of a connection behind its handshake.
pub fn frames(bytes: &[u8]) {
    let mut decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    let mut left = BytesMut::from(bytes);
    while let Ok(Some(frame)) = decoder.decode(&mut left) {
        let mut again = BytesMut::new();
        frame.encode(&mut again);
        let back = FrameDecoder::new(FRAME_BYTES_MAX * 2).decode(&mut again);
        assert_eq!(back.ok().flatten(), Some(frame), "what was read can be written and read again");
    }
}

/// First bytes of a connection, as both sides read them.
pub fn handshake(bytes: &[u8]) {
    let us = Identity {
        node_id: NodeId([1; 16]),
        role: Role::Server,
        datacenter: "dc1".to_owned(),
        state_version: 2,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        // All results are fine; none may panic or wait for more than there is.
        let _ = handshake::accept(&mut tokio::io::join(bytes, tokio::io::sink()), &us).await;
        let mut socket = tokio::io::join(bytes, tokio::io::sink());
        let _ = handshake::open(&mut socket, &us, Channel::Rpc).await;
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_of_a_stranger_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            super::frames(&bytes);
            super::handshake(&bytes);
            // Past what tells our protocol from others.
            super::handshake(&[b"MSTR\x01\x01", &bytes[..]].concat());
        }
    }
}

//! Frame <-> bytes. Every frame is `length (u32) kind (u8) id (u32) ...`, integers big-endian.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, LengthDelimitedCodec};

use crate::Role;

/// Bytes of a frame's length field.
const LENGTH_BYTES: usize = 4;
/// Bytes of the longest header: kind, id, method, timeout.
pub(crate) const HEADER_BYTES_MAX: usize = 11;

/// One unit on a connection. `id` names a call or stream, chosen by the side that opened it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Asks; to be answered by `Answer` or `Error`.
    Call { id: u32, method: u16, timeout_ms: u32, body: Bytes },
    /// Answers a call; for a stream: it is accepted (no body).
    Answer { id: u32, body: Bytes },
    /// Ends a call or stream with an error: `wire` of `Answer::Err`.
    Error { id: u32, body: Bytes },
    /// The opener no longer wants the call or stream.
    Cancel { id: u32 },
    /// Opens a stream.
    Open { id: u32, method: u16, timeout_ms: u32, body: Bytes },
    /// A message of a stream.
    Data { id: u32, body: Bytes },
    /// The sender's direction of a stream is complete.
    End { id: u32 },
    /// The sender has consumed this much of a stream.
    Credit { id: u32, bytes: u32 },
}

/// Bytes that one read takes at most, if this role has opened the connection: servers are few and
/// send much, client agents are many.
pub(crate) fn read_bytes(opener: Role) -> usize {
    match opener {
        Role::Server => 64 << 10,
        Role::Client => 8 << 10,
    }
}

const CALL: u8 = 1;
const ANSWER: u8 = 2;
const ERROR: u8 = 3;
const CANCEL: u8 = 4;
const OPEN: u8 = 5;
const DATA: u8 = 6;
const END: u8 = 7;
const CREDIT: u8 = 8;

impl Frame {
    /// Appends the frame with its length.
    pub(crate) fn encode(&self, to: &mut BytesMut) {
        let empty = Bytes::new();
        let (kind, id, call, body) = match self {
            Frame::Call { id, method, timeout_ms, body } => {
                (CALL, id, Some((method, timeout_ms)), body)
            }
            Frame::Open { id, method, timeout_ms, body } => {
                (OPEN, id, Some((method, timeout_ms)), body)
            }
            Frame::Answer { id, body } => (ANSWER, id, None, body),
            Frame::Error { id, body } => (ERROR, id, None, body),
            Frame::Data { id, body } => (DATA, id, None, body),
            Frame::Cancel { id } => (CANCEL, id, None, &empty),
            Frame::End { id } => (END, id, None, &empty),
            Frame::Credit { id, bytes } => {
                to.reserve(LENGTH_BYTES + 9);
                to.put_u32(9);
                to.put_u8(CREDIT);
                to.put_u32(*id);
                to.put_u32(*bytes);
                return;
            }
        };
        let length = if call.is_some() { HEADER_BYTES_MAX } else { 5 } + body.len();
        to.reserve(LENGTH_BYTES + length);
        to.put_u32(u32::try_from(length).expect("callers keep bodies below the frame limit"));
        to.put_u8(kind);
        to.put_u32(*id);
        if let Some((method, timeout_ms)) = call {
            to.put_u16(*method);
            to.put_u32(*timeout_ms);
        }
        to.put_slice(body);
    }

    /// The frame in these bytes, without its length.
    pub(crate) fn decode(mut bytes: Bytes) -> Result<Self, Malformed> {
        let kind = bytes.try_get_u8()?;
        let id = bytes.try_get_u32()?;
        let frame = match kind {
            CALL | OPEN => {
                let method = bytes.try_get_u16()?;
                let timeout_ms = bytes.try_get_u32()?;
                if kind == CALL {
                    Frame::Call { id, method, timeout_ms, body: bytes }
                } else {
                    Frame::Open { id, method, timeout_ms, body: bytes }
                }
            }
            ANSWER => Frame::Answer { id, body: bytes },
            ERROR => Frame::Error { id, body: bytes },
            DATA => Frame::Data { id, body: bytes },
            CANCEL | END | CREDIT => {
                let frame = match kind {
                    CANCEL => Frame::Cancel { id },
                    END => Frame::End { id },
                    _ => Frame::Credit { id, bytes: bytes.try_get_u32()? },
                };
                if bytes.has_remaining() {
                    return Err(Malformed);
                }
                frame
            }
            _ => return Err(Malformed),
        };
        Ok(frame)
    }
}

/// The bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl From<bytes::TryGetError> for Malformed {
    fn from(_: bytes::TryGetError) -> Self {
        Self
    }
}

/// Cuts a connection's bytes into frames. A length above the limit is refused before anything is
/// allocated for it.
#[derive(Debug)]
pub(crate) struct FrameDecoder(LengthDelimitedCodec);

impl FrameDecoder {
    /// Frames of at most this many bytes, without their length field.
    pub(crate) fn new(frame_bytes_max: usize) -> Self {
        Self(
            LengthDelimitedCodec::builder()
                .length_field_length(LENGTH_BYTES)
                .max_frame_length(frame_bytes_max)
                .new_codec(),
        )
    }
}

impl Decoder for FrameDecoder {
    type Item = Frame;
    type Error = io::Error;

    fn decode(&mut self, from: &mut BytesMut) -> io::Result<Option<Frame>> {
        let Some(bytes) = self.0.decode(from)? else {
            return Ok(None);
        };
        Frame::decode(bytes.freeze())
            .map(Some)
            .map_err(|Malformed| io::Error::new(io::ErrorKind::InvalidData, "malformed frame"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1 << 10;

    fn frames() -> impl Strategy<Value = Frame> {
        let body = || proptest::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from);
        prop_oneof![
            (any::<u32>(), any::<u16>(), any::<u32>(), body()).prop_map(
                |(id, method, timeout_ms, body)| Frame::Call { id, method, timeout_ms, body }
            ),
            (any::<u32>(), any::<u16>(), any::<u32>(), body()).prop_map(
                |(id, method, timeout_ms, body)| Frame::Open { id, method, timeout_ms, body }
            ),
            (any::<u32>(), body()).prop_map(|(id, body)| Frame::Answer { id, body }),
            (any::<u32>(), body()).prop_map(|(id, body)| Frame::Error { id, body }),
            (any::<u32>(), body()).prop_map(|(id, body)| Frame::Data { id, body }),
            any::<u32>().prop_map(|id| Frame::Cancel { id }),
            any::<u32>().prop_map(|id| Frame::End { id }),
            (any::<u32>(), any::<u32>()).prop_map(|(id, bytes)| Frame::Credit { id, bytes }),
        ]
    }

    proptest! {
        #[test]
        fn frames_come_back_however_the_bytes_are_cut(
            frames in proptest::collection::vec(frames(), 0..8),
            step in 1_usize..40,
        ) {
            let mut bytes = BytesMut::new();
            for frame in &frames {
                frame.encode(&mut bytes);
            }
            let (mut decoder, mut arrived) = (FrameDecoder::new(LIMIT), BytesMut::new());
            let mut back = Vec::new();
            for part in bytes.chunks(step) {
                arrived.extend_from_slice(part);
                while let Some(frame) = decoder.decode(&mut arrived).expect("well-formed") {
                    back.push(frame);
                }
            }
            prop_assert_eq!(back, frames);
            prop_assert!(arrived.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic_nor_allocate_beyond_the_limit(
            bytes in proptest::collection::vec(any::<u8>(), 0..4096),
            small in any::<bool>(),
        ) {
            let mut arrived = BytesMut::from(&bytes[..]);
            if small && arrived.len() > 4 {
                // Random lengths are nearly always refused: make some plausible.
                arrived[..2].fill(0);
                arrived[2] &= 3;
            }
            let mut decoder = FrameDecoder::new(LIMIT);
            while let Ok(Some(_)) = decoder.decode(&mut arrived) {}
            prop_assert!(arrived.capacity() <= 4096 + LIMIT + LENGTH_BYTES);
        }
    }

    #[test]
    fn a_length_above_the_limit_is_refused_before_the_body_comes() {
        let mut arrived = BytesMut::from(&(LIMIT as u32 + 1).to_be_bytes()[..]);
        assert!(FrameDecoder::new(LIMIT).decode(&mut arrived).is_err());
        let mut arrived = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        assert!(FrameDecoder::new(LIMIT).decode(&mut arrived).is_err());
    }
}

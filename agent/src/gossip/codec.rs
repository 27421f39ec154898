//! foca's bytes, and the hook through which every update passes on its way in and out.

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Incarnation, Member, Message, State};

use super::identity::{Id, addressee};
use super::known::{GOODBYE, Shared};
use super::wire::{Malformed, Reader, id_len, put_id};

/// Kinds of message, the first byte of foca's part. `Announce` is only a sign of life here: its
/// answer would be many times its size, so joining goes over streams, and `Feed` and `Broadcast`
/// do not exist.
mod kind {
    pub(super) const PING: u8 = 1;
    pub(super) const ACK: u8 = 2;
    pub(super) const PING_REQ: u8 = 3;
    pub(super) const INDIRECT_PING: u8 = 4;
    pub(super) const INDIRECT_ACK: u8 = 5;
    pub(super) const FORWARDED_ACK: u8 = 6;
    pub(super) const SIGN_OF_LIFE: u8 = 7;
    pub(super) const GOSSIP: u8 = 8;
    pub(super) const TURN_UNDEAD: u8 = 9;
}

/// What the core must know of a packet before foca sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peek {
    /// Who sent it.
    pub(super) src: Id,
    /// Whom it is for, as [`addressee`] has it.
    pub(super) dst: u64,
    /// An answer to a probe.
    pub(super) ack: bool,
    /// "We hold you down."
    pub(super) turn_undead: bool,
    /// Sender's incarnation.
    pub(super) incarnation: Incarnation,
}

/// Reads the header of foca's part.
pub(super) fn peek(payload: &[u8]) -> Result<Peek, Malformed> {
    let mut reader = Reader(payload);
    let kind = reader.u8()?;
    let src = reader.id()?;
    let incarnation = reader.u16()?;
    let dst = reader.u64()?;
    let (ack, turn_undead) = (kind == kind::ACK, kind == kind::TURN_UNDEAD);
    Ok(Peek { src, dst, ack, turn_undead, incarnation })
}

/// Whether these bytes, written by foca, are a TurnUndead.
pub(super) fn is_turn_undead(payload: &[u8]) -> bool {
    payload.first() == Some(&kind::TURN_UNDEAD)
}

/// Whether these bytes, written by foca, answer a probe.
pub(super) fn is_ack(payload: &[u8]) -> bool {
    payload.first() == Some(&kind::ACK)
}

/// The codec that foca owns.
#[derive(Debug)]
pub(super) struct HookedCodec {
    known: Shared,
    sender: Option<model::NodeId>,
}

impl HookedCodec {
    pub(super) fn new(known: Shared) -> Self {
        Self { known, sender: None }
    }

    fn read_header(&mut self, reader: &mut Reader<'_>) -> Result<Header<Id>, Malformed> {
        let kind = reader.u8()?;
        let raw = reader.id()?;
        let src_incarnation = reader.u16()?;
        let dst = reader.u64()?;
        let mut known = self.known.borrow_mut();
        let src = if raw.node == known.own.node {
            known.own // foca refuses its own packets
        } else {
            let alive = Member::new(raw, src_incarnation, State::Alive);
            let admitted = known.admit(&alive, Some(&raw.node));
            // Too many new nodes, or an old run: foca will not act on a packet from ourselves.
            if admitted.id().node == raw.node { *admitted.id() } else { known.own }
        };
        self.sender = Some(raw.node);
        let own = known.own;
        let dst = if dst == addressee(&own) { own } else { own.next() };
        let mut third = || reader.id().map(|id| known.resolve(id));
        let message = match kind {
            kind::PING => Message::Ping(reader.u8()?),
            kind::ACK => Message::Ack(reader.u8()?),
            kind::PING_REQ => Message::PingReq { target: third()?, probe_number: reader.u8()? },
            kind::INDIRECT_PING => {
                Message::IndirectPing { origin: third()?, probe_number: reader.u8()? }
            }
            kind::INDIRECT_ACK => {
                Message::IndirectAck { target: third()?, probe_number: reader.u8()? }
            }
            kind::FORWARDED_ACK => {
                Message::ForwardedAck { origin: third()?, probe_number: reader.u8()? }
            }
            kind::SIGN_OF_LIFE | kind::GOSSIP => Message::Gossip,
            kind::TURN_UNDEAD => Message::TurnUndead,
            _ => return Err(Malformed),
        };
        Ok(Header { src, src_incarnation, dst, message })
    }
}

impl Codec<Id> for HookedCodec {
    type Error = Malformed;

    fn encode_header(
        &mut self,
        header: &Header<Id>,
        mut buf: impl BufMut,
    ) -> Result<(), Malformed> {
        self.known.borrow_mut().own_incarnation = header.src_incarnation;
        let (kind, third, number) = match &header.message {
            Message::Ping(number) => (kind::PING, None, Some(*number)),
            Message::Ack(number) => (kind::ACK, None, Some(*number)),
            Message::PingReq { target, probe_number } => {
                (kind::PING_REQ, Some(target), Some(*probe_number))
            }
            Message::IndirectPing { origin, probe_number } => {
                (kind::INDIRECT_PING, Some(origin), Some(*probe_number))
            }
            Message::IndirectAck { target, probe_number } => {
                (kind::INDIRECT_ACK, Some(target), Some(*probe_number))
            }
            Message::ForwardedAck { origin, probe_number } => {
                (kind::FORWARDED_ACK, Some(origin), Some(*probe_number))
            }
            Message::Announce => (kind::SIGN_OF_LIFE, None, None),
            Message::Gossip => (kind::GOSSIP, None, None),
            Message::TurnUndead => (kind::TURN_UNDEAD, None, None),
            Message::Feed | Message::Broadcast => return Err(Malformed),
        };
        let length = 1 + id_len(&header.src) + 2 + 8 + third.map_or(0, id_len) + 1;
        if buf.remaining_mut() < length {
            return Err(Malformed);
        }
        buf.put_u8(kind);
        put_id(&mut buf, &header.src);
        buf.put_u16(header.src_incarnation);
        buf.put_u64(addressee(&header.dst));
        if let Some(third) = third {
            put_id(&mut buf, third);
        }
        if let Some(number) = number {
            buf.put_u8(number);
        }
        Ok(())
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Id>, Malformed> {
        let mut reader = Reader(buf.chunk());
        let before = reader.len();
        let header = self.read_header(&mut reader)?;
        let used = before - reader.len();
        buf.advance(used);
        Ok(header)
    }

    fn encode_member(
        &mut self,
        member: &Member<Id>,
        mut buf: impl BufMut,
    ) -> Result<(), Malformed> {
        let known = self.known.borrow();
        let (mut id, mut incarnation, mut state) =
            (*member.id(), member.incarnation(), member.state());
        if id.node == known.own.node && state == State::Down {
            if known.leaving {
                incarnation = GOODBYE;
            } else {
                // foca buries our old identity when we take a new one. Saying that the new one
                // lives replaces the old one without anybody seeing us fail.
                id = if known.own.generation > id.generation { known.own } else { id.next() };
                (incarnation, state) = (0, State::Alive);
            }
        }
        if buf.remaining_mut() < id_len(&id) + 3 {
            return Err(Malformed);
        }
        put_id(&mut buf, &id);
        buf.put_u16(incarnation);
        buf.put_u8(match state {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Id>, Malformed> {
        let mut reader = Reader(buf.chunk());
        let before = reader.len();
        let id = reader.id()?;
        let incarnation = reader.u16()?;
        let state = match reader.u8()? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(Malformed),
        };
        let used = before - reader.len();
        buf.advance(used);
        let update = Member::new(id, incarnation, state);
        Ok(self.known.borrow_mut().admit(&update, self.sender.as_ref()))
    }
}

//! Messages of a stream: hello with state, then a typed refusal or a welcome with state (see
//! README.md for the bytes). One exchange per connection.

use std::sync::Arc;

use bytes::BufMut;
use foca::Incarnation;
use model::seam::MemberState;

use super::identity::Id;
use super::known::MEMBERS_MAX;
use super::record::{Intent, RECORD_MAX, Record};
use super::wire::{Malformed, Reader, put_block, put_id};

/// Version of the exchange.
pub(super) const VERSION: u8 = 1;
/// Largest hello, welcome or refusal.
pub(super) const HELLO_MAX: usize = 4 * 1_024;
/// Largest state.
pub(super) const STATE_MAX: usize = 8 * 1_024 * 1_024;
const TEXT_MAX: usize = 1_024;

/// First byte of a frame's body.
pub(super) mod frame {
    pub(crate) const HELLO: u8 = 1;
    pub(crate) const STATE: u8 = 2;
    pub(crate) const WELCOME: u8 = 3;
    pub(crate) const REFUSAL: u8 = 4;
}

/// Who speaks, at the start of an exchange in both directions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    /// Of the cluster.
    pub(super) label: String,
    /// Of the node.
    pub(super) datacenter: String,
    /// Its run.
    pub(super) id: Id,
    /// Its name.
    pub(super) name: String,
}

impl Hello {
    /// A frame's body; `kind` is hello or welcome.
    pub(super) fn encode(&self, kind: u8) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.put_u8(kind);
        out.put_u8(VERSION);
        out.put_u8(0); // flags
        out.put_u32(0); // key id
        put_id(&mut out, &self.id);
        for text in [&self.label, &self.datacenter, &self.name] {
            put_block(&mut out, text.as_bytes());
        }
        out
    }

    /// Reads the body of a frame of this kind.
    pub(super) fn decode(kind: u8, bytes: &[u8]) -> Result<Self, HelloError> {
        let mut reader = Reader(bytes);
        if reader.u8()? != kind {
            return Err(HelloError::Malformed(Malformed));
        }
        let version = reader.u8()?;
        if version != VERSION {
            return Err(HelloError::Version(version));
        }
        reader.take(5)?;
        let id = reader.id()?;
        let mut text = || reader.text(TEXT_MAX).map(str::to_owned);
        Ok(Self { id, label: text()?, datacenter: text()?, name: text()? })
    }
}

/// Why a hello cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HelloError {
    /// Another version of the exchange.
    Version(u8),
    /// Not a hello.
    Malformed(Malformed),
}

impl From<Malformed> for HelloError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// Why an exchange is refused. The text is for the one who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum RefusalKind {
    /// The address is the asker's own.
    Yourself = 1,
    /// Another version of the exchange.
    Version = 2,
    /// Another cluster.
    Label = 3,
    /// Another datacenter.
    Datacenter = 4,
    /// A live node with another id has the name.
    NameTaken = 5,
    /// A live node with another name or address has the id.
    ConflictingId = 6,
    /// Not now: leaving, or too many members.
    Busy = 7,
}

/// See [`RefusalKind`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) kind: RefusalKind,
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn new(kind: RefusalKind, text: String) -> Self {
        Self { kind, text }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![frame::REFUSAL, VERSION, self.kind as u8];
        let text = self.text.as_bytes();
        put_block(&mut out, &text[..text.len().min(TEXT_MAX)]);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        if reader.u8()? != frame::REFUSAL {
            return Err(Malformed);
        }
        reader.u8()?;
        let kind = match reader.u8()? {
            1 => RefusalKind::Yourself,
            2 => RefusalKind::Version,
            3 => RefusalKind::Label,
            4 => RefusalKind::Datacenter,
            5 => RefusalKind::NameTaken,
            6 => RefusalKind::ConflictingId,
            7 => RefusalKind::Busy,
            _ => return Err(Malformed),
        };
        let text = String::from_utf8_lossy(reader.block(TEXT_MAX)?);
        // Printed in logs and terminals of the one who asked.
        let text = text.chars().filter(|c| !c.is_control()).collect();
        Ok(Self { kind, text })
    }
}

/// What one node holds of another, as states are exchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyncEntry {
    pub(super) id: Id,
    pub(super) incarnation: Incarnation,
    pub(super) state: MemberState,
    /// Seconds that it has been in this state.
    pub(super) age: u32,
    pub(super) intent: Option<Intent>,
    pub(super) record: Option<Arc<Record>>,
}

impl SyncEntry {
    fn put(&self, out: &mut Vec<u8>) {
        put_id(out, &self.id);
        out.put_u16(self.incarnation);
        out.put_u8(self.state as u8);
        out.put_u32(self.age);
        put_block(out, &self.intent.as_ref().map(Intent::encode).unwrap_or_default());
        put_block(out, &self.record.as_ref().map(|record| record.encode()).unwrap_or_default());
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let id = reader.id()?;
        let incarnation = reader.u16()?;
        let state = match reader.u8()? {
            1 => MemberState::Alive,
            2 => MemberState::Leaving,
            3 => MemberState::Left,
            4 => MemberState::Failed,
            _ => return Err(Malformed),
        };
        let age = reader.u32()?;
        let intent = match reader.block(Intent::LEN)? {
            [] => None,
            bytes => Some(Intent::decode(bytes)?),
        };
        let record = match reader.block(RECORD_MAX)? {
            [] => None,
            bytes => Some(Arc::new(Record::decode(bytes)?)),
        };
        let ours = |node| node == id.node;
        if !intent.is_none_or(|intent| ours(intent.node))
            || !record.as_ref().is_none_or(|record| ours(record.node))
        {
            return Err(Malformed);
        }
        Ok(Self { id, incarnation, state, age, intent, record })
    }
}

/// All that a node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FullState {
    /// Lamport time.
    pub(super) ltime: u64,
    pub(super) entries: Vec<SyncEntry>,
}

impl FullState {
    /// A frame's body. What does not fit the limit of a frame is left to the next exchange.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.entries.len() * 256);
        out.put_u8(frame::STATE);
        out.put_u64(self.ltime);
        let count_at = out.len();
        out.put_u32(0);
        let mut count = 0_u32;
        for entry in &self.entries {
            let before = out.len();
            entry.put(&mut out);
            if out.len() > STATE_MAX {
                out.truncate(before);
                metrics::counter!("memberlist.pushpull.truncated").increment(1);
                break;
            }
            count += 1;
        }
        out[count_at..count_at + 4].copy_from_slice(&count.to_be_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        if reader.u8()? != frame::STATE {
            return Err(Malformed);
        }
        let ltime = reader.u64()?;
        let count = usize::try_from(reader.u32()?).map_err(|_| Malformed)?;
        // An entry takes at least 42 bytes: a count that the bytes cannot hold is refused before
        // anything is allocated for it.
        if count > MEMBERS_MAX || count > reader.len() / 42 {
            return Err(Malformed);
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(SyncEntry::take(&mut reader)?);
        }
        if !reader.is_empty() {
            return Err(Malformed);
        }
        Ok(Self { ltime, entries })
    }
}

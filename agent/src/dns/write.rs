//! Records as bytes, with names compressed (RFC 1035 §4.1.4).

use std::net::IpAddr;

use super::query::{Edns, HEADER, NAME_MAX, Query, Rcode};
use super::record::{Data, DnsName, Record, Tail};
use super::spelling::Spelling;

/// Offsets that a compression pointer can hold.
const POINTER_MAX: usize = 0x3fff;

/// Fields of the SOA records, in seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Soa {
    /// Unix time.
    pub(super) serial: u32,
    /// Refresh, retry, expire, minimum TTL.
    pub(super) timers: (u32, u32, u32, u32),
}

/// Writes one message into a buffer that is used again for the next.
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    names: &'a mut Names,
    spelling: Spelling<'a>,
    soa: Soa,
    compress: bool,
}

/// Counts of the four sections.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) answers: usize,
    pub(super) authority: usize,
    pub(super) additional: usize,
}

impl<'a> Writer<'a> {
    /// Starts the message: header with these flag bytes, and the question.
    pub(super) fn start(
        out: &'a mut Vec<u8>,
        names: &'a mut Names,
        query: &Query<'_>,
        spelling: Spelling<'a>,
        soa: Soa,
        compress: bool,
    ) -> Self {
        out.clear();
        names.clear();
        out.extend_from_slice(&query.id.to_be_bytes());
        out.extend_from_slice(&[0; HEADER - 2]);
        let mut writer = Self { out, names, spelling, soa, compress };
        writer.parts(&[], Tail::Question);
        writer.u16(query.kind);
        writer.u16(query.class);
        writer
    }

    /// Fills in the header once the sections are written. The length of the message.
    pub(super) fn finish(self, flags: [u8; 2], counts: Counts) -> usize {
        let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
        let counts = [1, counts.answers, counts.authority, counts.additional].map(count);
        let header = flags.into_iter().chain(counts.into_iter().flatten());
        for (byte, value) in self.out.iter_mut().skip(2).zip(header) {
            *byte = value;
        }
        self.out.len()
    }

    fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    fn name(&mut self, name: &DnsName) {
        self.parts(&name.labels, name.tail);
    }

    /// Labels and tail: the two parts of any name.
    fn parts(&mut self, labels: &[u8], tail: Tail) {
        let tail = self.spelling.tail(tail);
        if self.compress {
            self.names.write(self.out, labels, tail);
        } else {
            self.out.extend_from_slice(labels);
            self.out.extend_from_slice(tail);
        }
    }

    pub(super) fn record(&mut self, record: &Record) {
        if self.compress && record.owner.tail == Tail::Question {
            // The question's name stands right behind the header.
            self.u16(0xc000 | HEADER as u16);
        } else {
            self.name(&record.owner);
        }
        self.u16(record.data.kind());
        self.u16(1);
        self.u32(record.ttl);
        let length_at = self.out.len();
        self.u16(0);
        self.data(&record.data);
        let length = self.out.len() - length_at - 2;
        let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
        for (byte, value) in self.out.iter_mut().skip(length_at).zip(length) {
            *byte = value;
        }
    }

    fn data(&mut self, data: &Data) {
        match data {
            Data::Address(IpAddr::V4(v4)) => self.out.extend_from_slice(&v4.octets()),
            Data::Address(IpAddr::V6(v6)) => self.out.extend_from_slice(&v6.octets()),
            Data::Cname(name) | Data::Ns(name) | Data::Ptr(name) => self.name(name),
            Data::Srv { weight, port, target } => {
                self.u16(1);
                self.u16(*weight);
                self.u16(*port);
                // RFC 2782 forbids to compress it, but Consul does, and resolvers take it.
                self.name(target);
            }
            Data::Txt(strings) => self.out.extend_from_slice(strings),
            Data::Soa => {
                let Soa { serial, timers: (refresh, retry, expire, minimum) } = self.soa;
                for label in [&b"\x02ns"[..], b"\x0ahostmaster"] {
                    self.parts(label, Tail::SoaZone);
                }
                for field in [serial, refresh, retry, expire, minimum] {
                    self.u32(field);
                }
            }
        }
    }

    /// The OPT record: the asker's own size, and its subnet with a scope of the whole world
    /// (RFC 6891 §6.1, RFC 7871 §7.2.1).
    pub(super) fn opt(&mut self, edns: &Edns<'_>) {
        self.out.push(0);
        self.u16(super::query::kind::OPT);
        self.u16(edns.size);
        self.u32(0);
        let length = opt_data_len(edns);
        self.u16(u16::try_from(length).unwrap_or(u16::MAX));
        if let Some(subnet) = edns.subnet {
            self.u16(8);
            self.u16(u16::try_from(length - 4).unwrap_or(u16::MAX));
            self.u16(subnet.family);
            self.out.extend_from_slice(&[subnet.source_prefix, 0]);
            self.out.extend_from_slice(subnet.address);
        }
    }
}

fn opt_data_len(edns: &Edns<'_>) -> usize {
    edns.subnet.map_or(0, |subnet| 8 + subnet.address.len())
}

/// Length of an OPT record.
pub(super) fn opt_len(edns: &Edns<'_>) -> usize {
    11 + opt_data_len(edns)
}

/// Length of a record with its names written out.
pub(super) fn plain_len(record: &Record, spelling: &Spelling<'_>) -> usize {
    let data = match &record.data {
        Data::Address(IpAddr::V4(_)) => 4,
        Data::Address(IpAddr::V6(_)) => 16,
        Data::Cname(name) | Data::Ns(name) | Data::Ptr(name) => spelling.name_len(name),
        Data::Srv { target, .. } => 6 + spelling.name_len(target),
        Data::Txt(strings) => strings.len(),
        // Two names under the zone, which the owner's is, and five numbers.
        Data::Soa => 3 + 11 + 2 * spelling.name_len(&record.owner) + 20,
    };
    spelling.name_len(&record.owner) + 10 + data
}

/// A message of the header alone: refused before it was parsed.
pub(super) fn header_only(out: &mut Vec<u8>, id: u16, flags: [u8; 2], rcode: Rcode) {
    // A malformed message is answered as a query whatever it claimed to be.
    let opcode = if rcode == Rcode::NotImp { flags[0] & 0x78 } else { 0 };
    out.clear();
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&[0x80 | opcode | (flags[0] & 1), (flags[1] & 0x10) | rcode as u8]);
    out.extend_from_slice(&[0; HEADER - 4]);
}

/// Where names and ends of names stand in the message that is being written: a hash table of
/// offsets, kept between messages so that writing allocates nothing.
#[derive(Debug)]
pub(super) struct Names {
    /// Open addressing; a slot counts only with the current stamp.
    slots: Vec<Slot>,
    stamp: u32,
    used: usize,
    /// The name at hand, and where its labels begin with the hash from there to its end.
    wire: Vec<u8>,
    ends: Vec<(usize, u32)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    stamp: u32,
    hash: u32,
    offset: u16,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            slots: vec![Slot::default(); 256],
            stamp: 0,
            used: 0,
            wire: Vec::with_capacity(NAME_MAX),
            ends: Vec::with_capacity(16),
        }
    }
}

impl Names {
    fn clear(&mut self) {
        self.used = 0;
        self.stamp = self.stamp.wrapping_add(1);
        if self.stamp == 0 {
            self.slots.fill(Slot::default());
            self.stamp = 1;
        }
    }

    /// Writes a name, its longest known end as a pointer, and remembers what was new.
    fn write(&mut self, out: &mut Vec<u8>, labels: &[u8], tail: &[u8]) {
        // Taken out, so that the table can be written while they are read.
        let (mut wire, mut ends) = (std::mem::take(&mut self.wire), std::mem::take(&mut self.ends));
        wire.clear();
        wire.extend_from_slice(labels);
        wire.extend_from_slice(tail);
        hash_ends(&wire, &mut ends);
        let begin = out.len();
        let known = ends.iter().find_map(|(start, hash)| {
            let end = wire.get(*start..)?;
            Some((*start, self.find(out, *hash, end)?))
        });
        let new = known.map_or(wire.len(), |(start, _)| start);
        match known {
            Some((start, offset)) => {
                out.extend_from_slice(wire.get(..start).unwrap_or_default());
                out.extend_from_slice(&(0xc000 | offset).to_be_bytes());
            }
            None => out.extend_from_slice(&wire),
        }
        self.remember(&ends, new, begin);
        (self.wire, self.ends) = (wire, ends);
    }

    /// Notes the ends before `until` of the name written at `begin`.
    fn remember(&mut self, ends: &[(usize, u32)], until: usize, begin: usize) {
        for (start, hash) in ends.iter().take_while(|(start, _)| *start < until) {
            let offset = begin + start;
            if offset > POINTER_MAX {
                return;
            }
            self.insert(*hash, offset as u16);
        }
    }

    fn insert(&mut self, hash: u32, offset: u16) {
        if self.used * 2 >= self.slots.len() {
            let old = std::mem::take(&mut self.slots);
            self.slots = vec![Slot::default(); old.len() * 2];
            self.used = 0;
            let stamp = self.stamp;
            for slot in old.into_iter().filter(|slot| slot.stamp == stamp) {
                self.insert(slot.hash, slot.offset);
            }
        }
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while let Some(slot) = self.slots.get_mut(at) {
            if slot.stamp != self.stamp {
                *slot = Slot { stamp: self.stamp, hash, offset };
                self.used += 1;
                return;
            }
            at = (at + 1) & mask;
        }
    }

    fn find(&self, out: &[u8], hash: u32, end: &[u8]) -> Option<u16> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while let Some(slot) = self.slots.get(at).filter(|slot| slot.stamp == self.stamp) {
            if slot.hash == hash && stands_at(out, usize::from(slot.offset), end) {
                return Some(slot.offset);
            }
            at = (at + 1) & mask;
        }
        None
    }
}

/// Where the labels of a name begin, each with the hash of all from there on (FNV-1a, run from the
/// end so that equal ends hash alike).
fn hash_ends(wire: &[u8], ends: &mut Vec<(usize, u32)>) {
    ends.clear();
    let mut at = 0;
    while let Some(length) = wire.get(at).filter(|length| **length != 0) {
        ends.push((at, 0));
        at += usize::from(*length) + 1;
    }
    let (mut hash, mut until) = (0x811c_9dc5_u32, at);
    for (start, end_hash) in ends.iter_mut().rev() {
        for byte in wire.get(*start..until).unwrap_or_default() {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
        *end_hash = hash ^ (hash >> 15);
        until = *start;
    }
}

/// Whether exactly this name stands in the message at `at`, in the same spelling. Pointers there
/// lead backwards: they are ours.
fn stands_at(out: &[u8], mut at: usize, mut name: &[u8]) -> bool {
    loop {
        match out.get(at).copied().map(usize::from) {
            None => return false,
            Some(pointer) if pointer >= 0xc0 => {
                let low = out.get(at + 1).copied().map_or(0, usize::from);
                at = ((pointer & 0x3f) << 8) | low;
            }
            Some(length) => {
                let (Some(written), Some((label, rest))) =
                    (out.get(at..=at + length), name.split_at_checked(length + 1))
                else {
                    return false;
                };
                if written != label {
                    return false;
                }
                if length == 0 {
                    return true;
                }
                at += length + 1;
                name = rest;
            }
        }
    }
}

//! A question as it arrives: screening and parsing.

use std::net::IpAddr;

/// Length of a message's header.
pub(crate) const HEADER: usize = 12;

/// Longest name on the wire, its final zero included (RFC 1035 §2.3.4).
pub(crate) const NAME_MAX: usize = 255;

/// Longest label (RFC 1035 §2.3.4).
pub(crate) const LABEL_MAX: usize = 63;

/// Record types that the answers depend on (RFC 1035 §3.2.2 and its successors).
pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const AXFR: u16 = 252;
    pub(crate) const ANY: u16 = 255;
}

/// Response codes (RFC 1035 §4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
}

/// How a question arrived: limits and trimming differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// A framed stream.
    Tcp,
}

/// A question that passed the screening. Borrows the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Query<'a> {
    pub(crate) id: u16,
    /// Third and fourth byte of the header.
    pub(crate) flags: [u8; 2],
    /// On the wire, uncompressed, with its final zero, in the asker's spelling.
    pub(crate) name: &'a [u8],
    pub(crate) kind: u16,
    pub(crate) class: u16,
    pub(crate) edns: Option<Edns<'a>>,
}

/// What the asker's OPT record says (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edns<'a> {
    /// Largest datagram that it takes, as it says, however absurd.
    pub(crate) size: u16,
    /// Client subnet option (RFC 7871), if it is well-formed.
    pub(crate) subnet: Option<Subnet<'a>>,
}

/// A client subnet option: repeated in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnet<'a> {
    pub(crate) family: u16,
    pub(crate) source_prefix: u8,
    pub(crate) address: &'a [u8],
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Screened<'a> {
    /// Not answered: a response, or too short to have an id.
    Silent,
    /// Answered by the header alone.
    Refused { id: u16, flags: [u8; 2], rcode: Rcode },
    /// To be answered.
    Query(Query<'a>),
}

/// Decides about a packet (spec: Consul DNS, accepted messages).
pub(crate) fn screen(packet: &[u8]) -> Screened<'_> {
    let Some(header) = packet.first_chunk::<HEADER>() else { return Screened::Silent };
    let [i0, i1, f0, f1, q0, q1, a0, a1, n0, n1, r0, r1] = *header;
    let (id, flags) = (u16::from_be_bytes([i0, i1]), [f0, f1]);
    if f0 & 0x80 != 0 {
        return Screened::Silent;
    }
    // QUERY and NOTIFY.
    if !matches!((f0 >> 3) & 0xf, 0 | 4) {
        return Screened::Refused { id, flags, rcode: Rcode::NotImp };
    }
    let malformed = Screened::Refused { id, flags, rcode: Rcode::FormErr };
    let [questions, answers, authorities, additionals] =
        [[q0, q1], [a0, a1], [n0, n1], [r0, r1]].map(u16::from_be_bytes);
    if questions != 1 || answers > 1 || authorities > 1 || additionals > 2 {
        return malformed;
    }
    let mut reader = Reader { packet, at: HEADER };
    let Some((name, kind, class)) = reader.question() else { return malformed };
    let mut edns = None;
    for _ in 0..answers + authorities {
        if reader.record().is_none() {
            return malformed;
        }
    }
    for _ in 0..additionals {
        match reader.record() {
            None => return malformed,
            Some(record) if record.kind == kind::OPT => {
                edns = Some(Edns { size: record.class, subnet: subnet(record.data) });
            }
            Some(_) => {}
        }
    }
    Screened::Query(Query { id, flags, name, kind, class, edns })
}

struct RawRecord<'a> {
    kind: u16,
    class: u16,
    data: &'a [u8],
}

struct Reader<'a> {
    packet: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let bytes = self.packet.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    /// Name, type and class. The first name of a message has nothing before it that a pointer
    /// could name.
    fn question(&mut self) -> Option<(&'a [u8], u16, u16)> {
        let start = self.at;
        loop {
            match usize::from(*self.take(1)?.first()?) {
                0 => break,
                label if label <= LABEL_MAX => self.take(label)?,
                _ => return None,
            };
            if self.at - start >= NAME_MAX {
                return None;
            }
        }
        let name = self.packet.get(start..self.at)?;
        Some((name, self.u16()?, self.u16()?))
    }

    fn record(&mut self) -> Option<RawRecord<'a>> {
        self.skip_name()?;
        let (kind, class) = (self.u16()?, self.u16()?);
        self.take(4)?;
        let length = usize::from(self.u16()?);
        Some(RawRecord { kind, class, data: self.take(length)? })
    }

    /// A name that nothing depends on: its end is enough.
    fn skip_name(&mut self) -> Option<()> {
        let start = self.at;
        loop {
            match usize::from(*self.take(1)?.first()?) {
                0 => return Some(()),
                label if label <= LABEL_MAX => self.take(label)?,
                pointer if pointer >= 0xc0 => {
                    self.take(1)?;
                    return Some(());
                }
                _ => return None,
            };
            if self.at - start >= NAME_MAX {
                return None;
            }
        }
    }
}

/// The client subnet among the options of an OPT record.
fn subnet(options: &[u8]) -> Option<Subnet<'_>> {
    let mut reader = Reader { packet: options, at: 0 };
    loop {
        let (code, length) = (reader.u16()?, reader.u16()?);
        let data = reader.take(usize::from(length))?;
        if code != 8 {
            continue;
        }
        let mut option = Reader { packet: data, at: 0 };
        let family = option.u16()?;
        let [source_prefix, _scope] = *option.take(2)?.first_chunk()?;
        let address = data.get(4..)?;
        let bits = match family {
            1 => 32,
            2 => 128,
            _ => 0,
        };
        let fits = source_prefix <= bits && address.len() <= usize::from(bits / 8);
        return fits.then_some(Subnet { family, source_prefix, address });
    }
}

/// The address whose reverse name this is: exactly 4 labels and `in-addr.arpa`, or 32 and
/// `ip6.arpa` (RFC 1035 §3.5, RFC 3596 §2.5). `labels` is lower case.
pub(crate) fn reverse_address(labels: &[&[u8]]) -> Option<IpAddr> {
    match labels {
        [d, c, b, a, b"in-addr", b"arpa"] => {
            let mut octets = [0; 4];
            for (octet, label) in octets.iter_mut().zip([a, b, c, d]) {
                *octet = std::str::from_utf8(label).ok()?.parse().ok()?;
            }
            Some(IpAddr::from(octets))
        }
        [nibbles @ .., b"ip6", b"arpa"] if nibbles.len() == 32 => {
            let mut octets = [0_u8; 16];
            for (i, label) in nibbles.iter().rev().enumerate() {
                let [digit] = label else { return None };
                let digit = u8::try_from(char::from(*digit).to_digit(16)?).ok()?;
                let octet = octets.get_mut(i / 2)?;
                *octet = (*octet << 4) | digit;
            }
            Some(IpAddr::from(octets))
        }
        _ => None,
    }
}

//! From a draft to the bytes for one asker: order, limits, size (spec: Consul DNS, ordering,
//! limits, truncation).

use super::query::{Edns, Query, Transport, kind};
use super::record::{Data, Draft, Group, Record};
use super::settings::Settings;
use super::spelling::Spelling;
use super::write::{Counts, Names, Soa, Writer, opt_len, plain_len};

/// Datagram that any asker takes (RFC 1035 §4.2.1).
const UDP_SIZE: usize = 512;

/// Largest datagram that is sent, whatever the asker says.
const UDP_SIZE_MAX: usize = 65_467;

/// Answers in a datagram of [`UDP_SIZE`], whatever the settings say.
const UDP_ANSWERS_MAX: usize = 8;

/// Room kept free in a datagram.
const UDP_SLACK: usize = 8;

/// Largest message on a stream.
const TCP_SIZE: usize = 65_523;

/// Records in the answer section on a stream: no more fit anyway.
const TCP_ANSWERS_MAX: usize = 4_096;
const TCP_SRV_MAX: usize = 1_024;

/// Beyond this excess the size is searched for, not approached record by record.
const STEP_MAX: usize = 100;

/// Memory that is used again for each message of a worker.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    names: Names,
    order: Vec<u32>,
}

/// What differs from one sending to the next.
pub(super) struct Sending<'a> {
    pub(super) transport: Transport,
    /// Unix time: the serial of SOA records.
    pub(super) now_unix: u32,
    /// Puts instances into random order.
    pub(super) shuffle: &'a mut dyn FnMut(&mut [u32]),
}

/// Writes the answer to `query` into `out`.
pub(super) fn render(
    draft: &Draft,
    query: &Query<'_>,
    settings: &Settings,
    sending: &mut Sending<'_>,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) {
    scratch.order.clear();
    scratch.order.extend(0..u32::try_from(draft.groups.len()).unwrap_or(u32::MAX));
    (sending.shuffle)(&mut scratch.order);
    let chosen = || -> _ {
        let at = |i: &u32| draft.groups.get(usize::try_from(*i).ok()?);
        scratch.order.iter().take(draft.limit).filter_map(at)
    };
    let mut sections = Sections {
        answers: draft.answers.iter().collect(),
        authority: draft.authority.iter().collect(),
        additional: Vec::new(),
        edns: query.edns.filter(|_| draft.edns),
    };
    let place =
        if draft.groups_in_authority { &mut sections.authority } else { &mut sections.answers };
    place.extend(chosen().flat_map(|group: &Group| &group.answers));
    sections.additional.extend(chosen().flat_map(|group: &Group| &group.additional));
    sections.additional.extend(&draft.additional);

    let mut pen = Pen {
        query,
        spelling: Spelling::new(query.name, settings),
        soa: Soa { serial: sending.now_unix, timers: settings.dns.soa },
        compress: !settings.dns.disable_compression,
        flags: flags(draft, query),
        names: &mut scratch.names,
        out,
    };
    let cut = match sending.transport {
        Transport::Udp => trim_udp(&mut pen, &mut sections, settings.dns.udp_answer_limit),
        Transport::Tcp => trim_tcp(&mut pen, &mut sections),
    };
    if cut && settings.dns.enable_truncate {
        set_truncated(pen.out);
    }
}

fn flags(draft: &Draft, query: &Query<'_>) -> [u8; 2] {
    let authoritative = if draft.authoritative { 0x04 } else { 0 };
    // QR; opcode and RD as asked; CD as asked.
    let first = 0x80 | (query.flags[0] & 0x79) | authoritative;
    [first, (query.flags[1] & 0x10) | draft.rcode as u8]
}

fn set_truncated(out: &mut [u8]) {
    if let Some(flags) = out.get_mut(2) {
        *flags |= 0x02;
    }
}

#[derive(Clone)]
struct Sections<'a> {
    answers: Vec<&'a Record>,
    authority: Vec<&'a Record>,
    additional: Vec<&'a Record>,
    edns: Option<Edns<'a>>,
}

/// Writes sections again and again until they fit.
struct Pen<'a, 'q> {
    query: &'a Query<'q>,
    spelling: Spelling<'a>,
    soa: Soa,
    compress: bool,
    flags: [u8; 2],
    names: &'a mut Names,
    out: &'a mut Vec<u8>,
}

impl Pen<'_, '_> {
    fn write(&mut self, sections: &Sections<'_>) -> usize {
        let (out, names) = (&mut *self.out, &mut *self.names);
        let mut writer =
            Writer::start(out, names, self.query, self.spelling, self.soa, self.compress);
        let Sections { answers, authority, additional, edns } = sections;
        for record in answers.iter().chain(authority).chain(additional) {
            writer.record(record);
        }
        if let Some(edns) = edns {
            writer.opt(edns);
        }
        let counts = Counts {
            answers: answers.len(),
            authority: authority.len(),
            additional: additional.len() + usize::from(edns.is_some()),
        };
        writer.finish(self.flags, counts)
    }

    /// Length without compression, without writing.
    fn plain_len(&self, sections: &Sections<'_>) -> usize {
        let Sections { answers, authority, additional, edns } = sections;
        let records = answers.iter().chain(authority).chain(additional);
        let records: usize = records.map(|record| plain_len(record, &self.spelling)).sum();
        let opt = edns.as_ref().map_or(0, opt_len);
        super::query::HEADER + self.query.name.len() + 4 + records + opt
    }

    fn len(&mut self, sections: &Sections<'_>, plain: bool) -> usize {
        if plain { self.plain_len(sections) } else { self.write(sections) }
    }
}

/// Cuts an answer to what a datagram carries, and writes it. Whether answers were cut.
fn trim_udp(pen: &mut Pen<'_, '_>, sections: &mut Sections<'_>, answer_limit: usize) -> bool {
    let asked = sections.edns.map_or(0, |edns| usize::from(edns.size));
    let size = asked.clamp(UDP_SIZE, UDP_SIZE_MAX);
    let answers = sections.answers.len();
    let limit = answer_limit.min(UDP_ANSWERS_MAX);
    let mut plain = false;
    let mut targets = None;
    if size == UDP_SIZE && answers > limit {
        let index = Targets::new(sections, &pen.spelling);
        index.cut(sections, limit);
        targets = Some(index);
        // From here Consul measures without compression, and sends with it.
        plain = true;
    }
    let fits = if plain {
        let fits = pen.plain_len(sections) <= size - UDP_SLACK;
        if fits {
            pen.write(sections);
        }
        fits
    } else {
        pen.write(sections) <= size - UDP_SLACK
    };
    if !fits && sections.answers.len() > 1 {
        let targets = targets.unwrap_or_else(|| Targets::new(sections, &pen.spelling));
        shrink(pen, sections, &targets, size, UDP_SLACK, plain);
        pen.write(sections);
    } else if plain && !fits {
        pen.write(sections);
    }
    if pen.out.len() > UDP_SIZE_MAX {
        sections.additional.clear();
        pen.write(sections);
    }
    sections.answers.len() < answers
}

/// Cuts an answer to what a stream's frame carries, and writes it. Whether it had to.
fn trim_tcp(pen: &mut Pen<'_, '_>, sections: &mut Sections<'_>) -> bool {
    let most = if pen.query.kind == kind::SRV { TCP_SRV_MAX } else { TCP_ANSWERS_MAX };
    let targets = (sections.answers.len() > most).then(|| Targets::new(sections, &pen.spelling));
    sections.answers.truncate(most);
    let mut cut = false;
    if pen.write(sections) > TCP_SIZE && sections.answers.len() > 1 {
        let targets = targets.unwrap_or_else(|| Targets::new(sections, &pen.spelling));
        shrink(pen, sections, &targets, TCP_SIZE, 0, false);
        pen.write(sections);
        cut = true;
    }
    if pen.out.len() > usize::from(u16::MAX) {
        // One answer with more beside it than a frame holds.
        sections.additional.clear();
        pen.write(sections);
        cut = true;
    }
    cut
}

/// Drops answers from the end until the message fits or one is left.
fn shrink<'a>(
    pen: &mut Pen<'_, '_>,
    sections: &mut Sections<'a>,
    targets: &Targets<'a>,
    size: usize,
    slack: usize,
    plain: bool,
) {
    let mut len = pen.len(sections, plain);
    while sections.answers.len() > 1 && len > size - slack {
        if !sections.authority.is_empty() {
            sections.authority.clear();
            len = pen.len(sections, plain);
        }
        let keep = if len > size + STEP_MAX {
            largest_that_fits(pen, sections, targets, size, plain)
        } else {
            sections.answers.len() - 1
        };
        targets.cut(sections, keep);
        len = pen.len(sections, plain);
    }
}

/// The largest number of answers whose message is not above `size`, at least one.
fn largest_that_fits<'a>(
    pen: &mut Pen<'_, '_>,
    sections: &Sections<'a>,
    targets: &Targets<'a>,
    size: usize,
    plain: bool,
) -> usize {
    let (mut fits, mut fits_not) = (1, sections.answers.len());
    while fits_not - fits > 1 {
        let middle = fits + (fits_not - fits) / 2;
        let mut fewer = sections.clone();
        targets.cut(&mut fewer, middle);
        if pen.len(&fewer, plain) <= size {
            fits = middle;
        } else {
            fits_not = middle;
        }
    }
    fits
}

/// Which additional records belong to which answer: what is kept beside answers that were cut.
struct Targets<'a> {
    /// For each answer the records that follow from its target, each with the number of its owner.
    of_answers: Vec<Vec<(u32, Option<&'a Record>)>>,
    names: usize,
    /// Without an additional section nothing is rebuilt.
    any: bool,
}

impl<'a> Targets<'a> {
    fn new(sections: &Sections<'a>, spelling: &Spelling<'_>) -> Self {
        let key = |name| spelling.wire(name).as_slice().to_ascii_lowercase();
        let any = !sections.additional.is_empty() || sections.edns.is_some();
        let mut numbers = std::collections::BTreeMap::new();
        for record in &sections.additional {
            let next = numbers.len() as u32;
            numbers.entry(key(&record.owner)).or_insert((next, Some(*record)));
        }
        let mut of_answers = Vec::with_capacity(sections.answers.len());
        for answer in &sections.answers {
            let mut followed: Vec<(u32, Option<&'a Record>)> = Vec::new();
            let mut target = match &answer.data {
                Data::Srv { target, .. } => Some(target),
                _ => None,
            };
            while let Some(name) = target {
                let next = numbers.len() as u32;
                let (number, record) = *numbers.entry(key(name)).or_insert((next, None));
                if followed.iter().any(|(seen, _)| *seen == number) {
                    break;
                }
                followed.push((number, record));
                target = match record.map(|record| &record.data) {
                    Some(Data::Cname(name)) => Some(name),
                    _ => None,
                };
            }
            of_answers.push(followed);
        }
        Self { of_answers, names: numbers.len(), any }
    }

    /// Keeps the first `count` answers, and beside them only the first record that each target has.
    /// With it go metadata, further addresses, and the OPT record: so Consul does.
    fn cut(&self, sections: &mut Sections<'a>, count: usize) {
        sections.answers.truncate(count);
        if !self.any {
            return;
        }
        sections.additional.clear();
        sections.edns = None;
        let mut taken = vec![false; self.names];
        for followed in self.of_answers.iter().take(sections.answers.len()) {
            for (number, record) in followed {
                match taken.get_mut(*number as usize) {
                    Some(taken) if !*taken => *taken = true,
                    _ => break,
                }
                sections.additional.extend(record);
            }
        }
    }
}

//! Names and records of an answer, before they are bytes.

use std::net::IpAddr;
use std::sync::Arc;

use super::query::{LABEL_MAX, NAME_MAX, kind};

/// A name whose end may depend on how the question was spelled: labels on the wire without the
/// final zero, then the tail. So what is made for one asker serves all who ask for the same name in
/// another spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DnsName {
    pub(crate) labels: Arc<[u8]>,
    pub(crate) tail: Tail,
}

/// What follows the labels of a [`DnsName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Nothing: the name is complete.
    Root,
    /// The whole question name as asked.
    Question,
    /// The end of the question name that is one of our domains, as asked; our first domain when it
    /// is none.
    Zone,
    /// The same in lower case.
    ZoneLower,
    /// Our first domain.
    Domain,
    /// The zone that SOA records speak for.
    SoaZone,
}

impl DnsName {
    /// The question's name.
    pub(crate) fn question() -> Self {
        Self { labels: Arc::from([]), tail: Tail::Question }
    }

    /// These labels before `tail`. `None` if a label is empty or too long, or the whole longer than
    /// any name may be: such a record cannot be sent.
    pub(crate) fn new<'a>(
        labels: impl IntoIterator<Item = &'a str>,
        tail: Tail,
        tail_max: usize,
    ) -> Option<Self> {
        let mut wire = Vec::with_capacity(64);
        for label in labels {
            push_label(&mut wire, label.as_bytes())?;
        }
        (wire.len() + tail_max <= NAME_MAX).then(|| Self { labels: wire.into(), tail })
    }

    /// A host name as written in an address: dots separate labels, one may end it.
    pub(crate) fn host(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        Self::new(text.split('.'), Tail::Root, 1)
    }
}

fn push_label(wire: &mut Vec<u8>, label: &[u8]) -> Option<()> {
    if label.is_empty() || label.len() > LABEL_MAX {
        return None;
    }
    wire.push(u8::try_from(label.len()).ok()?);
    wire.extend_from_slice(label);
    Some(())
}

/// The wire form of a domain given as text without outer dots; `None` if it is no name.
pub(crate) fn wire_name(text: &str) -> Option<Box<[u8]>> {
    let mut wire = Vec::new();
    for label in text.split('.').filter(|_| !text.is_empty()) {
        push_label(&mut wire, label.as_bytes())?;
    }
    wire.push(0);
    (wire.len() <= NAME_MAX).then(|| wire.into())
}

/// Labels of a name on the wire, without the root.
pub(crate) fn labels(mut wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = wire.split_first()?;
        if *length == 0 {
            return None;
        }
        let (label, rest) = rest.split_at_checked(usize::from(*length))?;
        wire = rest;
        Some(label)
    })
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) owner: DnsName,
    pub(crate) ttl: u32,
    pub(crate) data: Data,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    Address(IpAddr),
    Cname(DnsName),
    Ns(DnsName),
    Ptr(DnsName),
    Srv {
        weight: u16,
        port: u16,
        target: DnsName,
    },
    /// Character-strings with their length bytes.
    Txt(Box<[u8]>),
    /// Filled in from the settings and the wall clock when it is written.
    Soa,
}

impl Data {
    pub(crate) fn kind(&self) -> u16 {
        match self {
            Data::Address(IpAddr::V4(_)) => kind::A,
            Data::Address(IpAddr::V6(_)) => kind::AAAA,
            Data::Cname(_) => kind::CNAME,
            Data::Ns(_) => kind::NS,
            Data::Ptr(_) => kind::PTR,
            Data::Srv { .. } => kind::SRV,
            Data::Txt(_) => kind::TXT,
            Data::Soa => kind::SOA,
        }
    }
}

/// Records of one instance: they are taken or left together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Group {
    pub(crate) answers: Vec<Record>,
    pub(crate) additional: Vec<Record>,
}

/// Everything about an answer that does not depend on who asked when: id, flags, spelling, order,
/// size. It is made once for a name and a type, and serves until the rows change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(crate) rcode: super::query::Rcode,
    /// Whether we speak for the name.
    pub(crate) authoritative: bool,
    /// First in the answer section, in this order.
    pub(crate) answers: Vec<Record>,
    /// One for each instance: shuffled for each asker, then the first `limit` of them.
    pub(crate) groups: Vec<Group>,
    pub(crate) limit: usize,
    /// Whether the groups' answers go into the authority section.
    pub(crate) groups_in_authority: bool,
    pub(crate) authority: Vec<Record>,
    /// Last in the additional section.
    pub(crate) additional: Vec<Record>,
    /// Whether an OPT record is added when the asker sent one.
    pub(crate) edns: bool,
    /// Whether another spelling of the name may get it too.
    pub(crate) shareable: bool,
}

impl Draft {
    /// No error, no records.
    pub(crate) fn empty() -> Self {
        Self {
            rcode: super::query::Rcode::NoError,
            authoritative: true,
            answers: Vec::new(),
            groups: Vec::new(),
            limit: usize::MAX,
            groups_in_authority: false,
            authority: Vec::new(),
            additional: Vec::new(),
            edns: true,
            shareable: true,
        }
    }
}

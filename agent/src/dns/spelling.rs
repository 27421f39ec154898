//! Names completed for one asker: the ends that depend on how the question was spelled.

use super::query::NAME_MAX;
use super::record::{Data, DnsName, Record, Tail};
use super::settings::Settings;

/// The tails of names under one question. All are on the wire with their final zero.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spelling<'a> {
    question: &'a [u8],
    zone: &'a [u8],
    zone_lower: &'a [u8],
    domain: &'a [u8],
    soa_zone: &'a [u8],
}

/// A whole name on the wire, on the stack.
#[derive(Clone, Copy)]
pub(super) struct WireName {
    bytes: [u8; NAME_MAX],
    len: usize,
}

impl WireName {
    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl<'a> Spelling<'a> {
    pub(super) fn new(question: &'a [u8], settings: &'a Settings) -> Self {
        let domain = settings.domain();
        let (zone, zone_lower) = match settings.zone(question) {
            Some(lower) => (question.get(question.len() - lower.len()..).unwrap_or(domain), lower),
            None => (domain, domain),
        };
        Self { question, zone, zone_lower, domain, soa_zone: settings.soa_zone(question) }
    }

    /// The end of a name.
    pub(super) fn tail(&self, tail: Tail) -> &'a [u8] {
        match tail {
            Tail::Root => &[0],
            Tail::Question => self.question,
            Tail::Zone => self.zone,
            Tail::ZoneLower => self.zone_lower,
            Tail::Domain => self.domain,
            Tail::SoaZone => self.soa_zone,
        }
    }

    /// Length of the name on the wire, uncompressed.
    pub(super) fn name_len(&self, name: &DnsName) -> usize {
        name.labels.len() + self.tail(name.tail).len()
    }

    /// The name on the wire. Invariant: names are made so that they fit with any tail; one that
    /// did not would be cut to the root.
    pub(super) fn wire(&self, name: &DnsName) -> WireName {
        let (labels, tail) = (&*name.labels, self.tail(name.tail));
        let mut wire = WireName { bytes: [0; NAME_MAX], len: 1 };
        let len = labels.len() + tail.len();
        if let Some((head, rest)) = wire.bytes.split_at_mut_checked(labels.len())
            && let Some(end) = rest.get_mut(..tail.len())
        {
            head.copy_from_slice(labels);
            end.copy_from_slice(tail);
            wire.len = len;
        }
        wire
    }

    /// The record with complete names, to be used under another question.
    pub(super) fn absolute(&self, record: Record) -> Record {
        let complete = |name: DnsName| {
            let wire = self.wire(&name);
            let labels = wire.as_slice().split_last().map_or(&[][..], |(_, labels)| labels);
            DnsName { labels: labels.into(), tail: Tail::Root }
        };
        let data = match record.data {
            Data::Cname(name) => Data::Cname(complete(name)),
            Data::Ns(name) => Data::Ns(complete(name)),
            Data::Ptr(name) => Data::Ptr(complete(name)),
            Data::Srv { weight, port, target } => {
                Data::Srv { weight, port, target: complete(target) }
            }
            data @ (Data::Address(_) | Data::Txt(_) | Data::Soa) => data,
        };
        Record { owner: complete(record.owner), ttl: record.ttl, data }
    }
}

//! From a question and rows to the records of its answer: the rules, without bytes or order.

use std::net::IpAddr;

use model::rpc::{Body, Consistency, Instance, Op, RpcError};

use crate::view::{Question, ViewError};

use super::facts::{Fact, Facts};
use super::lookup::{Lookup, Place, address_label, parse};
use super::query::{Rcode, kind, reverse_address};
use super::record::{Data, DnsName, Draft, Record, Tail, labels};
use super::settings::Settings;
use super::spelling::Spelling;
use super::{node, service, zone};

/// Host names in our domain that are followed from one to the next (Consul's limit): a guard
/// against services whose addresses name each other.
const CHASE_DEPTH: u8 = 3;

/// What the rules may look at while they make one answer.
pub(super) struct Maker<'a> {
    pub(super) settings: &'a Settings,
    pub(super) facts: &'a mut Facts,
    /// The name as asked, on the wire.
    pub(super) name: &'a [u8],
    pub(super) kind: u16,
    /// Whether the asker sent an OPT record.
    pub(super) edns: bool,
    /// Hops that may still be followed.
    depth: u8,
    /// Decides the order of what is behind host names.
    seed: u64,
    /// Whether another seed may give other records.
    varied: bool,
}

/// The records that answer this name and type, as far as the facts go: complete once nothing is
/// missing from them. The seed decides what is chosen behind host names; an answer that depends on
/// it is not shareable.
pub(super) fn draft(
    settings: &Settings,
    facts: &mut Facts,
    name: &[u8],
    kind: u16,
    edns: bool,
    seed: u64,
) -> Draft {
    let depth = CHASE_DEPTH;
    let mut maker = Maker { settings, facts, name, kind, edns, depth, seed, varied: false };
    let mut draft = maker.make();
    draft.shareable &= !maker.varied;
    draft
}

/// Puts items into an order that the seed decides (Fisher and Yates, over splitmix64).
fn shuffle<T>(items: &mut [T], mut seed: u64) {
    for i in (1..items.len()).rev() {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut drawn = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // Below i + 1, which is a usize: the remainder fits.
        items.swap(i, ((drawn ^ (drawn >> 31)) % (i as u64 + 1)) as usize);
    }
}

impl Maker<'_> {
    fn make(&mut self) -> Draft {
        let lower = self.name.to_ascii_lowercase();
        let labels: Vec<&[u8]> = labels(&lower).collect();
        let Some(zone_len) = self.settings.zone(self.name).map(<[u8]>::len) else {
            if labels.last() == Some(&b"arpa".as_slice()) {
                return self.reverse(&labels);
            }
            // No recursor: not ours to answer.
            return Draft {
                rcode: Rcode::Refused,
                authoritative: false,
                edns: false,
                ..Draft::empty()
            };
        };
        match self.kind {
            kind::SOA => return zone::soa(self),
            kind::NS => return zone::ns(self),
            kind::AXFR => return Draft { rcode: Rcode::NotImp, ..Draft::empty() },
            _ => {}
        }
        let local = lower.get(..lower.len() - zone_len).unwrap_or_default();
        let texts: Option<Vec<&str>> =
            self::labels(local).map(|label| std::str::from_utf8(label).ok()).collect();
        // A label that is no text names nothing.
        let Some(lookup) = texts.and_then(|labels| parse(&labels, self.kind)) else {
            return self.no_such_name();
        };
        match lookup {
            Lookup::Node { node, place } => node::node(self, &node, &place),
            Lookup::Service { service, tag, connect, place } => {
                service::service(self, &service, tag.as_deref(), connect, &place)
            }
            Lookup::Ingress | Lookup::Query => self.no_such_name(),
            Lookup::Virtual => Draft::empty(),
            Lookup::Address(address) => self.address(local, address),
        }
    }

    /// The address that a name spells out: in the answer if the type fits, else beside it.
    fn address(&self, local: &[u8], address: IpAddr) -> Draft {
        let owner = DnsName { labels: local.into(), tail: Tail::Zone };
        let ttl = self.settings.node_ttl;
        let record = Record { owner, ttl, data: Data::Address(address) };
        if self.kind == kind::ANY || self.kind == record.data.kind() {
            Draft { answers: vec![record], ..Draft::empty() }
        } else {
            Draft { additional: vec![record], ..Draft::empty() }
        }
    }

    /// The node, else the service, that has this address.
    fn reverse(&mut self, labels: &[&[u8]]) -> Draft {
        let found = reverse_address(labels).map(|address| self.owner_of(address));
        let mut draft = match found {
            Some(Ok(Some(target))) => {
                let ptr = Record { owner: DnsName::question(), ttl: 0, data: Data::Ptr(target) };
                Draft { answers: vec![ptr], ..Draft::empty() }
            }
            Some(Ok(None)) | None => self.no_such_name(),
            Some(Err(draft)) => return draft,
        };
        if self.kind == kind::SOA && draft.authority.is_empty() {
            draft.authority.push(zone::soa_record(self.settings));
        }
        draft
    }

    fn owner_of(&mut self, address: IpAddr) -> Result<Option<DnsName>, Draft> {
        let is = |text: &str| text.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical() == address);
        let datacenter = self.settings.datacenter.to_string();
        let max = self.settings.domain().len();
        let name = |what: &str, which: &str| {
            DnsName::new(what.split('.').chain([which, &*datacenter]), Tail::Domain, max)
        };
        let nodes = self.rows(Op::Nodes { meta: Default::default() }, &Place::Datacenter(None))?;
        if let Body::Nodes(nodes) = &nodes.reply.body
            && let Some(node) = nodes.iter().find(|node| is(&node.address))
        {
            return Ok(name(&node.name, "node"));
        }
        let op = Op::AllInstances { meta: Default::default() };
        let all = self.rows(op, &Place::Datacenter(None))?;
        let Body::Instances(all) = &all.reply.body else { return Ok(None) };
        let found = all.iter().find(|instance| is(&instance.service.address));
        Ok(found.and_then(|instance| name(&instance.service.name, "service")))
    }

    /// Rows from the view. `Err` is the whole answer: the failure, or a placeholder while the rows
    /// are missing.
    pub(super) fn rows(
        &mut self,
        op: Op,
        place: &Place,
    ) -> Result<std::sync::Arc<crate::view::Answer>, Draft> {
        let datacenter = match place {
            Place::Datacenter(None) => "",
            Place::Datacenter(Some(name)) if **name == *self.settings.datacenter => "",
            Place::Datacenter(Some(name)) => name,
            // Nothing was imported from any other cluster.
            Place::Peer => return Err(self.no_such_name()),
        };
        let stale = self.settings.dns.allow_stale;
        let question = Question {
            dc: datacenter.into(),
            consistency: if stale { Consistency::Stale } else { Consistency::Default },
            ..Question::new(op)
        };
        match self.facts.get(&question) {
            Fact::Known(answer) => Ok(answer),
            Fact::Failed(ViewError::Rpc(RpcError::NoPathToDatacenter)) => Err(self.no_such_name()),
            Fact::Failed(_) | Fact::Missing => {
                Err(Draft { rcode: Rcode::ServFail, ..Draft::empty() })
            }
        }
    }

    /// Instances of a service in catalog order, with their checks.
    pub(super) fn instances(
        &mut self,
        service: &str,
        connect: bool,
        place: &Place,
    ) -> Result<Vec<Instance>, Draft> {
        let op = Op::HealthService {
            service: service.into(),
            tags: Vec::new(),
            meta: Default::default(),
            connect,
        };
        let answer = self.rows(op, place)?;
        let Body::Instances(instances) = &answer.reply.body else {
            return Err(Draft { rcode: Rcode::ServFail, ..Draft::empty() });
        };
        let only_passing = self.settings.dns.only_passing;
        let usable = instances.iter().filter(|instance| service::is_usable(instance, only_passing));
        Ok(usable.cloned().collect())
    }

    /// NXDOMAIN with the SOA record that bounds how long it may be believed.
    pub(super) fn no_such_name(&self) -> Draft {
        Draft {
            rcode: Rcode::NxDomain,
            authority: vec![zone::soa_record(self.settings)],
            ..Draft::empty()
        }
    }

    /// The records behind a host name, if it is in our domain: as ANY would answer. Nothing for
    /// other names, for errors, and once the hops are used up.
    pub(super) fn chase(&mut self, host: &DnsName) -> Vec<Record> {
        let mut name = host.labels.to_vec();
        name.push(0);
        if self.settings.zone(&name).is_none() {
            return Vec::new();
        }
        let Some(depth) = self.depth.checked_sub(1) else {
            tracing::warn!(host = ?String::from_utf8_lossy(&name), "dns: host names form a loop");
            return Vec::new();
        };
        let mut inner = Maker {
            settings: self.settings,
            facts: &mut *self.facts,
            name: &name,
            kind: kind::ANY,
            edns: self.edns,
            depth,
            seed: self.seed.wrapping_add(u64::from(depth)),
            varied: false,
        };
        let mut draft = inner.make();
        self.varied |= inner.varied || draft.groups.len() > 1;
        shuffle(&mut draft.groups, self.seed);
        let spelling = Spelling::new(&name, self.settings);
        let groups = draft.groups.into_iter().take(draft.limit).flat_map(|group| group.answers);
        let records = draft.answers.into_iter().chain(groups);
        records.map(|record| spelling.absolute(record)).collect()
    }

    /// `<label>.addr.<datacenter>` under the asker's domain.
    pub(super) fn address_name(&self, address: IpAddr, datacenter: &str) -> Option<DnsName> {
        let label = address_label(address);
        DnsName::new([&*label, "addr", datacenter], Tail::Zone, self.settings.zone_len_max())
    }

    /// `<node>.node.<datacenter>` under the asker's domain, the node's name as registered.
    pub(super) fn node_name(&self, node: &str, datacenter: &str) -> Option<DnsName> {
        let labels = node.split('.').chain(["node", datacenter]);
        DnsName::new(labels, Tail::Zone, self.settings.zone_len_max())
    }

    /// The datacenter of a lookup, as names in answers show it.
    pub(super) fn datacenter(&self, place: &Place) -> String {
        match place {
            Place::Datacenter(Some(name)) => name.clone(),
            Place::Datacenter(None) | Place::Peer => self.settings.datacenter.to_string(),
        }
    }
}

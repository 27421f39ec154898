//! Answers about the instances of a service.

use std::collections::BTreeSet;
use std::net::IpAddr;

use model::row::{NodeV1, Status};
use model::rpc::Instance;

use super::address::{Address, fits, select};
use super::draft::Maker;
use super::lookup::Place;
use super::query::kind;
use super::record::{Data, DnsName, Draft, Group, Record, wire_name};
use super::{node, zone};

/// Records behind one host name for an asker without EDNS (Consul's limit).
const CHASED_MAX: usize = 5;

/// The answer to `<service>.service` and `<service>.connect`.
pub(super) fn service(
    maker: &mut Maker<'_>,
    name: &str,
    tag: Option<&str>,
    connect: bool,
    place: &Place,
) -> Draft {
    let mut instances = match maker.instances(name, connect, place) {
        Ok(instances) => instances,
        Err(draft) => return draft,
    };
    if let Some(tag) = tag {
        instances
            .retain(|instance| instance.service.tags.iter().any(|have| have.to_lowercase() == tag));
    }
    if instances.is_empty() {
        return maker.no_such_name();
    }
    let context =
        Context { ttl: maker.settings.service_ttl(name), datacenter: maker.datacenter(place) };
    let mut draft = if maker.kind == kind::SRV {
        srv(maker, &instances, &context)
    } else {
        addresses(maker, &instances, &context)
    };
    // An instance whose address is a spelling of the question itself is judged by the spelling.
    draft.shareable = !instances.iter().any(|instance| {
        let own = wire_name(instance.service.address.trim_end_matches('.'));
        own.is_some_and(|own| own.eq_ignore_ascii_case(maker.name))
    });
    if draft.groups.is_empty() {
        draft.authority.push(zone::soa_record(maker.settings));
    }
    draft
}

/// Whether an instance may be answered: no check of it or of its node is critical, or, if only
/// passing ones are wanted, anything but passing.
pub(super) fn is_usable(instance: &Instance, only_passing: bool) -> bool {
    instance.checks.iter().all(|check| match check.status {
        Status::Passing => true,
        Status::Warning => !only_passing,
        Status::Critical => false,
    })
}

struct Context {
    ttl: u32,
    datacenter: String,
}

/// How an instance is shown.
enum Form<'a> {
    /// By the address of its node.
    Node(IpAddr),
    /// By an address of its own.
    Ip(IpAddr),
    /// By a host name.
    Host(&'a str),
}

fn service_address(instance: &Instance, question_kind: u16) -> &str {
    let service = &instance.service;
    let tag = |tag| Some(&*service.tagged_addresses.get(tag)?.address);
    select(&service.address, tag("lan_ipv4"), tag("lan_ipv6"), question_kind)
}

fn form<'a>(maker: &Maker<'_>, instance: &'a Instance) -> Option<Form<'a>> {
    let own = Address::parse(service_address(instance, maker.kind));
    let plain = &*instance.node.address;
    let of_node = Address::parse(node::address(&instance.node, maker.kind));
    match (own, of_node) {
        (None, None) => None,
        (None, Some(Address::Ip(ip))) => {
            Some(if Address::parse(plain) == of_node { Form::Node(ip) } else { Form::Ip(ip) })
        }
        (None, Some(Address::Host(host))) => Some(Form::Host(host)),
        (Some(Address::Ip(ip)), _) => Some(Form::Ip(ip)),
        // A service whose address is the very name that is asked: its node's address, or the
        // answer would name itself.
        (Some(Address::Host(host)), Some(Address::Ip(ip))) if names_question(maker, host) => {
            Some(Form::Node(ip))
        }
        (Some(Address::Host(host)), _) => Some(Form::Host(host)),
    }
}

fn names_question(maker: &Maker<'_>, host: &str) -> bool {
    wire_name(host.strip_suffix('.').unwrap_or(host)).is_some_and(|host| *host == *maker.name)
}

/// Address records, equal ones once; host names only if there are no addresses, and then one.
fn addresses(maker: &mut Maker<'_>, instances: &[Instance], context: &Context) -> Draft {
    let (mut addresses, mut hosts) = (BTreeSet::new(), BTreeSet::new());
    for instance in instances {
        match form(maker, instance) {
            Some(Form::Node(ip) | Form::Ip(ip)) if fits(ip, maker.kind) => {
                addresses.insert(ip);
            }
            Some(Form::Host(host)) => {
                hosts.insert(host);
            }
            Some(Form::Node(_) | Form::Ip(_)) | None => {}
        }
    }
    if addresses.is_empty() {
        let groups = hosts.into_iter().filter_map(|host| alias(maker, host, context)).collect();
        return Draft { groups, limit: 1, ..Draft::empty() };
    }
    let group = |ip| {
        let data = Data::Address(ip);
        let record = Record { owner: DnsName::question(), ttl: context.ttl, data };
        Group { answers: vec![record], additional: Vec::new() }
    };
    let limit = match maker.settings.dns.a_record_limit {
        0 => usize::MAX,
        limit => limit,
    };
    Draft { groups: addresses.into_iter().map(group).collect(), limit, ..Draft::empty() }
}

/// A CNAME and what is behind it.
fn alias(maker: &mut Maker<'_>, host: &str, context: &Context) -> Option<Group> {
    let host = DnsName::host(host)?;
    let chased = chased(maker, &host, context.ttl);
    let data = Data::Cname(host);
    let cname = Record { owner: DnsName::question(), ttl: context.ttl, data };
    let answers = [cname].into_iter().chain(chased).collect();
    Some(Group { answers, additional: Vec::new() })
}

/// Aliases and addresses behind a host name, with the service's TTL.
fn chased(maker: &mut Maker<'_>, host: &DnsName, ttl: u32) -> Vec<Record> {
    let most = if maker.edns { usize::MAX } else { CHASED_MAX };
    let records = maker.chase(host).into_iter();
    let wanted = records.filter(|record| matches!(record.data, Data::Cname(_) | Data::Address(_)));
    wanted.take(most).map(|record| Record { ttl, ..record }).collect()
}

/// SRV records, one for each node, address and port, with the addresses of their targets.
fn srv(maker: &mut Maker<'_>, instances: &[Instance], context: &Context) -> Draft {
    let (mut seen, mut groups) = (BTreeSet::new(), Vec::new());
    for instance in instances {
        let address = service_address(instance, maker.kind);
        if seen.insert((&*instance.node.name, address, instance.service.port)) {
            groups.extend(srv_group(maker, instance, context));
        }
    }
    Draft { groups, ..Draft::empty() }
}

fn srv_group(maker: &mut Maker<'_>, instance: &Instance, context: &Context) -> Option<Group> {
    let node_name = maker.node_name(&instance.node.name, &context.datacenter);
    let (target, address) = match form(maker, instance)? {
        Form::Node(ip) => (node_name.clone()?, Some(ip)),
        Form::Ip(ip) => (maker.address_name(ip, &context.datacenter)?, Some(ip)),
        Form::Host(host) => (DnsName::host(host)?, None),
    };
    let mut additional = match address {
        Some(ip) => {
            let data = Data::Address(ip);
            vec![Record { owner: target.clone(), ttl: context.ttl, data }]
        }
        None => chased(maker, &target, context.ttl),
    };
    if maker.settings.dns.node_meta_txt
        && let Some(owner) = &node_name
    {
        let node: &NodeV1 = &instance.node;
        additional.extend(node::metadata(node, owner, context.ttl));
    }
    let data = Data::Srv { weight: weight(instance), port: instance.service.port, target };
    let record = Record { owner: DnsName::question(), ttl: context.ttl, data };
    Some(Group { answers: vec![record], additional })
}

/// The weight registered for the instance's health.
fn weight(instance: &Instance) -> u16 {
    let weights = instance.service.weights;
    match instance.checks.iter().map(|check| check.status).max() {
        None | Some(Status::Passing) => weights.passing,
        Some(Status::Warning) => weights.warning,
        Some(Status::Critical) => 0,
    }
}

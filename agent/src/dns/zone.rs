//! SOA and NS: what is said about our domain itself.

use super::draft::Maker;
use super::lookup::Place;
use super::node;
use super::query::kind;
use super::record::{Data, DnsName, Draft, Group, Record, Tail};
use super::settings::Settings;

/// Name servers in one answer (Consul's limit).
const NAME_SERVERS_MAX: usize = 3;

/// The SOA record; its fields come from the settings when it is written.
pub(super) fn soa_record(settings: &Settings) -> Record {
    let owner = DnsName { labels: [].into(), tail: Tail::SoaZone };
    Record { owner, ttl: settings.dns.soa.3, data: Data::Soa }
}

/// The answer to SOA for any name in our domain.
pub(super) fn soa(maker: &mut Maker<'_>) -> Draft {
    Draft {
        answers: vec![soa_record(maker.settings)],
        groups: name_servers(maker),
        limit: NAME_SERVERS_MAX,
        groups_in_authority: true,
        ..Draft::empty()
    }
}

/// The answer to NS for any name in our domain.
pub(super) fn ns(maker: &mut Maker<'_>) -> Draft {
    Draft { groups: name_servers(maker), limit: NAME_SERVERS_MAX, ..Draft::empty() }
}

/// Healthy servers with their addresses; none if the list cannot be read.
fn name_servers(maker: &mut Maker<'_>) -> Vec<Group> {
    let ttl = maker.settings.node_ttl;
    let place = Place::Datacenter(None);
    let Ok(instances) = maker.instances("consul", false, &place) else { return Vec::new() };
    let datacenter = maker.datacenter(&place);
    let tail_max = maker.settings.zone_len_max();
    // Glue is what ANY would show of the node.
    let asked = std::mem::replace(&mut maker.kind, kind::ANY);
    let mut groups = Vec::new();
    for instance in &instances {
        let name = instance.node.name.to_ascii_lowercase();
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'\\')) {
            tracing::warn!(node = %name, "dns: a server's name is no DNS label: not a name server");
            continue;
        }
        let labels = [&*name, "node", &*datacenter];
        let Some(target) = DnsName::new(labels, Tail::ZoneLower, tail_max) else { continue };
        let additional = node::addresses(maker, &instance.node, &target);
        let owner = DnsName { labels: [].into(), tail: Tail::Zone };
        let answers = vec![Record { owner, ttl, data: Data::Ns(target) }];
        groups.push(Group { answers, additional });
    }
    maker.kind = asked;
    groups
}

//! Answers about a node.

use model::row::NodeV1;
use model::rpc::{Body, Op};

use super::address::{Address, fits, select};
use super::draft::Maker;
use super::lookup::Place;
use super::query::kind;
use super::record::{Data, DnsName, Draft, Record};
use super::txt;

/// The answer to `<node>.node`. Types that a node has nothing for are answered empty, whether the
/// node exists or not: so Consul does.
pub(super) fn node(maker: &mut Maker<'_>, name: &str, place: &Place) -> Draft {
    if !matches!(maker.kind, kind::A | kind::AAAA | kind::ANY | kind::TXT) {
        return Draft::empty();
    }
    let answer = match maker.rows(Op::NodeServices { node: name.into() }, place) {
        Ok(answer) => answer,
        Err(draft) => return draft,
    };
    let Body::Node(Some((node, _))) = &answer.reply.body else { return maker.no_such_name() };
    let mut draft = Draft::empty();
    if maker.kind != kind::TXT {
        draft.answers = addresses(maker, node, &DnsName::question());
    }
    let owner = DnsName::question();
    let metadata = metadata(node, &owner, maker.settings.node_ttl);
    match maker.kind {
        kind::TXT | kind::ANY => draft.answers.extend(metadata),
        _ if maker.settings.dns.node_meta_txt => draft.additional.extend(metadata),
        _ => {}
    }
    draft
}

/// The address a node is answered with.
pub(super) fn address(node: &NodeV1, question_kind: u16) -> &str {
    let tag = |tag| Some(&**node.tagged_addresses.as_ref()?.get(tag)?);
    select(&node.address, tag("lan_ipv4"), tag("lan_ipv6"), question_kind)
}

/// Address records of a node under this owner; a host name gives a CNAME and what is behind it.
pub(super) fn addresses(maker: &mut Maker<'_>, node: &NodeV1, owner: &DnsName) -> Vec<Record> {
    let ttl = maker.settings.node_ttl;
    let record = |data| Record { owner: owner.clone(), ttl, data };
    match Address::parse(address(node, maker.kind)) {
        None => Vec::new(),
        Some(Address::Ip(ip)) if fits(ip, maker.kind) => vec![record(Data::Address(ip))],
        Some(Address::Ip(_)) => Vec::new(),
        Some(Address::Host(_)) => {
            let Some(host) = DnsName::host(&node.address) else { return Vec::new() };
            let chased = maker.chase(&host);
            [record(Data::Cname(host))].into_iter().chain(chased).collect()
        }
    }
}

/// One TXT record for each pair of a node's metadata.
pub(super) fn metadata<'a>(
    node: &'a NodeV1,
    owner: &'a DnsName,
    ttl: u32,
) -> impl Iterator<Item = Record> + 'a {
    node.meta.iter().flatten().map(move |(key, value)| {
        let data = Data::Txt(txt::strings(key, value));
        Record { owner: owner.clone(), ttl, data }
    })
}

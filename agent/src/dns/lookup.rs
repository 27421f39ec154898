//! From the labels of a name to what is looked up (spec: Consul DNS, name grammar and locality).

use std::net::IpAddr;

use super::query::kind;

/// What a name in our domain asks for. Texts are lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// A node by its name, its id, or the start of its id.
    Node { node: String, place: Place },
    /// Instances of a service.
    Service { service: String, tag: Option<String>, connect: bool, place: Place },
    /// Instances of ingress gateways for a service: there are none without a mesh.
    Ingress,
    /// The virtual address of a service: there is none without a mesh.
    Virtual,
    /// A prepared query: there are none yet.
    Query,
    /// An address in the name itself.
    Address(IpAddr),
}

/// Where a name says that it should be looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A datacenter; `None`: ours.
    Datacenter(Option<String>),
    /// Another cluster whose services are imported: there are none without peering.
    Peer,
}

/// What the labels before our domain ask for. They are lower case; `None`: no such name.
pub(crate) fn parse(labels: &[&str], question_kind: u16) -> Option<Lookup> {
    let mut found = None;
    for (at, label) in labels.iter().enumerate().rev() {
        match *label {
            "service" | "connect" | "virtual" | "ingress" | "node" | "query" | "addr" => {
                found = Some((*label, labels.get(..at)?, labels.get(at + 1..)?));
            }
            // RFC 2782 names do without `.service` when they ask for SRV.
            label if question_kind == kind::SRV && label.starts_with('_') => {
                found = Some(("service", labels.get(..=at)?, labels.get(at + 1..)?));
            }
            _ => continue,
        }
        break;
    }
    let (kind, parts, suffixes) = found?;
    let (last, earlier) = parts.split_last()?;
    let connect = |service: &str, place| Lookup::Service {
        service: service.to_owned(),
        tag: None,
        connect: true,
        place,
    };
    match kind {
        "node" => Some(Lookup::Node { node: parts.join("."), place: place(suffixes)? }),
        "service" => {
            let place = place(suffixes)?;
            let (service, tag) = service_parts(earlier, last);
            Some(Lookup::Service { service, tag, connect: false, place })
        }
        "connect" => Some(connect(last, place(suffixes)?)),
        "ingress" => place(suffixes).map(|_| Lookup::Ingress),
        "virtual" => place(suffixes).map(|_| Lookup::Virtual),
        "query" => (suffixes.len() <= 1).then_some(Lookup::Query),
        // Its suffixes are not looked at.
        _ => earlier.is_empty().then(|| hex_address(last)).flatten().map(Lookup::Address),
    }
}

/// Service and tag. `_name._tag` is RFC 2782, where `_tcp` stands for no tag; any other protocol
/// word is a tag, `_udp` too: so Consul does.
fn service_parts(earlier: &[&str], last: &str) -> (String, Option<String>) {
    if let ([service], Some(tag)) = (earlier, last.strip_prefix('_'))
        && let Some(service) = service.strip_prefix('_')
    {
        return (service.to_owned(), (tag != "tcp").then(|| tag.to_owned()));
    }
    (last.to_owned(), (!earlier.is_empty()).then(|| earlier.join(".")))
}

/// The labels after the kind. `None`: no such name.
fn place(suffixes: &[&str]) -> Option<Place> {
    match suffixes {
        [] => Some(Place::Datacenter(None)),
        [datacenter] | [datacenter, "dc"] => {
            Some(Place::Datacenter(Some((*datacenter).to_owned())))
        }
        [_, "peer"] => Some(Place::Peer),
        [a, "dc", b, "dc"] if a == b => Some(Place::Datacenter(Some((*a).to_owned()))),
        [_, "peer", _, "peer"] => Some(Place::Peer),
        _ => None,
    }
}

/// 8 hexadecimal digits are IPv4, 32 are IPv6.
fn hex_address(label: &str) -> Option<IpAddr> {
    if !label.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    match label.len() {
        8 => u32::from_str_radix(label, 16).ok().map(|bits| IpAddr::from(bits.to_be_bytes())),
        32 => u128::from_str_radix(label, 16).ok().map(|bits| IpAddr::from(bits.to_be_bytes())),
        _ => None,
    }
}

/// The label that [`hex_address`] reads back.
pub(crate) fn address_label(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("{:08x}", u32::from(v4)),
        IpAddr::V6(v6) => format!("{:032x}", u128::from(v6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str, kind: u16) -> Option<Lookup> {
        parse(&name.split('.').collect::<Vec<_>>(), kind)
    }

    fn service(service: &str, tag: Option<&str>, datacenter: Option<&str>) -> Option<Lookup> {
        Some(Lookup::Service {
            service: service.to_owned(),
            tag: tag.map(str::to_owned),
            connect: false,
            place: Place::Datacenter(datacenter.map(str::to_owned)),
        })
    }

    #[test]
    fn services_tags_and_rfc_2782() {
        for (name, wanted) in [
            ("web.service", service("web", None, None)),
            ("v1.web.service", service("web", Some("v1"), None)),
            ("v1.primary.db.service", service("db", Some("v1.primary"), None)),
            ("web.service.dc2", service("web", None, Some("dc2"))),
            ("web.service.dc2.dc", service("web", None, Some("dc2"))),
            ("_web._tcp.service", service("web", None, None)),
            ("_web._v1.service", service("web", Some("v1"), None)),
            ("_web._udp.service.dc1", service("web", Some("udp"), Some("dc1"))),
            ("_a._b._c.service", service("_c", Some("_a._b"), None)),
            ("_web.tcp.service", service("tcp", Some("_web"), None)),
            ("service", None),
            ("web.service.dc1.extra.more", None),
            ("web.service.default.ns", None),
            ("web.service.a.dc.b.peer", None),
            ("web", None),
        ] {
            assert_eq!(parsed(name, kind::A), wanted, "{name}");
        }
        assert_eq!(parsed("_web._v1", kind::SRV), service("web", Some("v1"), None));
        assert_eq!(parsed("_web._tcp.dc2", kind::SRV), service("web", None, Some("dc2")));
        assert_eq!(parsed("_web._v1", kind::A), None);
    }

    #[test]
    fn the_kind_is_the_first_from_the_right() {
        let node = |node: &str, dc: Option<&str>| {
            let place = Place::Datacenter(dc.map(str::to_owned));
            Some(Lookup::Node { node: node.to_owned(), place })
        };
        for (name, wanted) in [
            ("foo.node", node("foo", None)),
            ("my.foo.node.dc1", node("my.foo", Some("dc1"))),
            ("web.service.node", node("web.service", None)),
            ("foo.node.p.peer", Some(Lookup::Node { node: "foo".into(), place: Place::Peer })),
            ("node", None),
            ("foo.node.dc1.extra.more", None),
            ("q.query", Some(Lookup::Query)),
            ("q.query.dc1", Some(Lookup::Query)),
            ("q.query.dc1.dc", None),
            ("web.ingress", Some(Lookup::Ingress)),
            ("web.virtual.p.peer", Some(Lookup::Virtual)),
        ] {
            assert_eq!(parsed(name, kind::A), wanted, "{name}");
        }
    }

    #[test]
    fn address_names_have_8_or_32_digits() {
        for (label, text) in
            [("7f000001", "127.0.0.1"), ("20010db8000000000000000000000001", "2001:db8::1")]
        {
            let address: IpAddr = text.parse().expect("an address");
            assert_eq!(address_label(address), label);
            let name = format!("{label}.addr.dc1.what.ever");
            assert_eq!(parsed(&name, kind::A), Some(Lookup::Address(address)));
        }
        for name in [
            "addr",
            "7f00000.addr",
            "7f0000011.addr",
            "7f00000g.addr",
            "+f000001.addr",
            "a.7f000001.addr",
        ] {
            assert_eq!(parsed(name, kind::A), None, "{name}");
        }
    }
}

//! Questions and their whole answers. spec: Consul DNS, the answer matrix and its sections.

use std::str::FromStr;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use model::NodeId;
use model::row::{Status, WeightsV1};
use model::rpc::RpcError;

use crate::dns::query::Transport;

use super::{Asker, Catalog, lines, map, tagged};

/// `name TYPE`, then what must come: the code, then the records, `an`swer, au`th`ority and
/// `ad`ditional, in order. `SOA` stands for the negative answers' record.
fn check(asker: &Asker, asked: &str, wanted: &[&str]) {
    let (name, kind) = asked.split_once(' ').expect("name and type");
    let message = asker.ask(name, RecordType::from_str(kind).expect("a type"));
    let soa = "consul. 0 SOA ns.consul. hostmaster.consul. 1700000000 3600 600 86400 0";
    let wanted: Vec<String> = wanted.iter().map(|line| line.replace("SOA!", soa)).collect();
    assert_eq!(shown(&message), wanted, "{asked}");
}

fn shown(message: &Message) -> Vec<String> {
    let code = match message.metadata.response_code {
        ResponseCode::NoError => "ok",
        ResponseCode::NXDomain => "nxdomain",
        ResponseCode::ServFail => "servfail",
        ResponseCode::Refused => "refused",
        ResponseCode::NotImp => "notimp",
        _ => "other",
    };
    let mut shown = vec![code.to_owned()];
    let sections =
        [("an", &message.answers), ("th", &message.authorities), ("ad", &message.additionals)];
    for (section, records) in sections {
        shown.extend(lines(records).into_iter().map(|line| format!("{section} {line}")));
    }
    shown
}

fn web() -> Catalog {
    Catalog::default()
        .node("foo", "10.1.2.3")
        .with_node(|node| node.meta = Some(map([("env", "prod")])))
        .service("web", 8080)
        .tag("v1")
}

const NODATA: &[&str] = &["ok", "th SOA!"];
const NXDOMAIN: &[&str] = &["nxdomain", "th SOA!"];

#[test]
fn a_service_on_the_address_of_its_node() {
    let asker = Asker::new(web());
    let srv = |name: &str| {
        vec![
            "ok".to_owned(),
            format!("an {name}. 0 SRV 1 1 8080 foo.node.dc1.consul."),
            "ad foo.node.dc1.consul. 0 A 10.1.2.3".to_owned(),
            "ad foo.node.dc1.consul. 0 TXT env=prod".to_owned(),
        ]
    };
    for name in [
        "web.service.consul",
        "_web._tcp.service.consul",
        "_web._tcp.consul",
        "_web._v1.consul",
        "_web._v1.dc1.consul",
        "v1.web.service.dc1.consul",
    ] {
        let wanted = srv(name);
        check(&asker, &format!("{name} SRV"), &wanted.iter().map(|s| &**s).collect::<Vec<_>>());
    }
    for name in [
        "web.service.consul",
        "WEB.Service.Consul",
        "v1.web.service.dc1.consul",
        "V1.web.service.dc1.dc.consul",
        "_web._tcp.service.consul",
    ] {
        for kind in ["A", "ANY", "TXT"] {
            let wanted = format!("an {name}. 0 A 10.1.2.3");
            check(&asker, &format!("{name} {kind}"), &["ok", &wanted]);
        }
    }
    for kind in ["AAAA", "CNAME", "MX", "PTR", "HTTPS"] {
        check(&asker, &format!("web.service.consul {kind}"), NODATA);
    }
    for name in [
        "nope.service.consul",
        "v2.web.service.consul",
        "_web._udp.service.consul",
        "a.v1.web.service.consul",
        "web.service.dc9.consul",
        "web.service.p.peer.consul",
        "web.connect.consul",
        "web.ingress.consul",
        "web.query.consul",
        "consul",
        "service.consul",
        "node.consul",
        "query.consul",
        "foo.bar.consul",
        "foo.node.dc1.extra.more.consul",
        "web.service.dc1.extra.more.consul",
        "web.service.default.ns.consul",
        "x.query.dc1.extra.more.consul",
    ] {
        check(&asker, &format!("{name} A"), NXDOMAIN);
    }
    check(&asker, "web.virtual.consul A", &["ok"]);
}

#[test]
fn the_question_comes_back_as_spelt_and_names_follow_its_spelling() {
    let asker = Asker::new(web());
    check(
        &asker,
        "wEb.Service.cOnsul SRV",
        &[
            "ok",
            "an wEb.Service.cOnsul. 0 SRV 1 1 8080 foo.node.dc1.cOnsul.",
            "ad foo.node.dc1.cOnsul. 0 A 10.1.2.3",
            "ad foo.node.dc1.cOnsul. 0 TXT env=prod",
        ],
    );
    let message = asker.ask("wEb.Service.cOnsul", RecordType::A);
    assert_eq!(message.queries[0].name().to_string(), "wEb.Service.cOnsul.");
    let meta = message.metadata;
    assert!(meta.authoritative && meta.recursion_desired);
    assert!(!meta.recursion_available && !meta.truncation);
    assert_eq!(meta.id, 4_711);
}

#[test]
fn a_service_with_an_address_of_its_own() {
    let asker = Asker::new(web().at("10.9.9.9"));
    check(&asker, "web.service.consul A", &["ok", "an web.service.consul. 0 A 10.9.9.9"]);
    check(
        &asker,
        "web.service.consul SRV",
        &[
            "ok",
            "an web.service.consul. 0 SRV 1 1 8080 0a090909.addr.dc1.consul.",
            "ad 0a090909.addr.dc1.consul. 0 A 10.9.9.9",
            "ad foo.node.dc1.consul. 0 TXT env=prod",
        ],
    );
    let v6 = Asker::new(web().at("2001:db8::9"));
    check(&v6, "web.service.consul AAAA", &["ok", "an web.service.consul. 0 AAAA 2001:db8::9"]);
    check(&v6, "web.service.consul A", NODATA);
    check(
        &v6,
        "web.service.consul SRV",
        &[
            "ok",
            "an web.service.consul. 0 SRV 1 1 8080 20010db8000000000000000000000009.addr.dc1.consul.",
            "ad 20010db8000000000000000000000009.addr.dc1.consul. 0 AAAA 2001:db8::9",
            "ad foo.node.dc1.consul. 0 TXT env=prod",
        ],
    );
    let mapped = Asker::new(web().at("::ffff:10.9.9.9"));
    check(&mapped, "web.service.consul A", &["ok", "an web.service.consul. 0 A 10.9.9.9"]);
}

#[test]
fn a_host_name_is_an_alias_followed_inside_our_domain() {
    let asker = Asker::new(web().service("db", 5432).at("db.example.com"));
    check(&asker, "db.service.consul A", &["ok", "an db.service.consul. 0 CNAME db.example.com."]);
    check(&asker, "db.service.consul MX", &["ok", "an db.service.consul. 0 CNAME db.example.com."]);
    check(
        &asker,
        "db.service.consul SRV",
        &[
            "ok",
            "an db.service.consul. 0 SRV 1 1 5432 db.example.com.",
            "ad foo.node.dc1.consul. 0 TXT env=prod",
        ],
    );
    let mut inside = Asker::new(web().service("db", 5432).at("web.service.consul"));
    inside.dns.service_ttl.insert("db".into(), Duration::from_secs(9));
    inside.dns.service_ttl.insert("web".into(), Duration::from_secs(7));
    check(
        &inside,
        "db.service.consul A",
        &[
            "ok",
            "an db.service.consul. 9 CNAME web.service.consul.",
            "an web.service.consul. 9 A 10.1.2.3",
        ],
    );
    check(
        &inside,
        "db.service.consul SRV",
        &[
            "ok",
            "an db.service.consul. 9 SRV 1 1 5432 web.service.consul.",
            "ad web.service.consul. 9 A 10.1.2.3",
            "ad foo.node.dc1.consul. 9 TXT env=prod",
        ],
    );
    // Loops end; a service that names itself is answered by its node.
    let own = Asker::new(web().at("web.service.consul"));
    check(&own, "web.service.consul A", &["ok", "an web.service.consul. 0 A 10.1.2.3"]);
    let a = web().service("a", 1).at("b.service.consul").service("b", 1).at("a.service.consul");
    let mut looped = Asker::new(a);
    looped.transport = Transport::Tcp;
    assert_eq!(looped.ask("a.service.consul", RecordType::A).answers.len(), 4);
    // Behind one name at most five records come without EDNS.
    let many = (0..9).fold(Catalog::default().node("n", "10.0.0.1"), |catalog, i| {
        catalog.service("many", 1).at(&format!("10.0.1.{i}"))
    });
    let mut many = Asker::new(many.service("all", 1).at("many.service.consul."));
    let plain = super::question("all.service.consul", RecordType::SRV);
    assert_eq!(many.send(&plain).additionals.len(), 5);
    assert_eq!(many.send(&super::with_edns(plain.clone(), 4_096)).additionals.len(), 9);
    // They are not always the same five.
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..100 {
        many.seed = seed;
        seen.extend(lines(&many.send(&plain).additionals));
    }
    assert_eq!(seen.len(), 9);
}

#[test]
fn addresses_win_over_aliases_and_equal_ones_come_once() {
    let mixed = web().service("web", 8081).at("db.example.com").service("web", 8082);
    let asker = Asker::new(mixed);
    check(&asker, "web.service.consul A", &["ok", "an web.service.consul. 0 A 10.1.2.3"]);
    let message = asker.ask("web.service.consul", RecordType::SRV);
    assert_eq!(message.answers.len(), 3);
    let aliases = Catalog::default().node("foo", "10.1.2.3").service("x", 1).at("a.example.com");
    let aliases = Asker::new(aliases.service("x", 1).at("b.example.com"));
    assert_eq!(aliases.ask("x.service.consul", RecordType::A).answers.len(), 1);
    // The same node, address and port twice.
    let twice = Asker::new(web().service("web", 8080).service("web", 9090));
    assert_eq!(twice.ask("web.service.consul", RecordType::SRV).answers.len(), 2);
}

#[test]
fn health_decides_who_is_answered_and_with_which_weight() {
    let weights = WeightsV1 { passing: 10, warning: 3 };
    let catalog = Catalog::default()
        .node("a", "10.0.0.1")
        .service("web", 1)
        .with(|service| service.weights = weights)
        .check(Status::Passing)
        .node("b", "10.0.0.2")
        .service("web", 2)
        .with(|service| service.weights = weights)
        .check(Status::Passing)
        .check(Status::Warning)
        .node("c", "10.0.0.3")
        .service("web", 3)
        .check(Status::Passing)
        .check(Status::Critical)
        .service("down", 4)
        .check(Status::Critical);
    let mut asker = Asker::new(catalog);
    check(
        &asker,
        "web.service.consul SRV",
        &[
            "ok",
            "an web.service.consul. 0 SRV 1 10 1 a.node.dc1.consul.",
            "an web.service.consul. 0 SRV 1 3 2 b.node.dc1.consul.",
            "ad a.node.dc1.consul. 0 A 10.0.0.1",
            "ad b.node.dc1.consul. 0 A 10.0.0.2",
        ],
    );
    check(&asker, "down.service.consul A", NXDOMAIN);
    // Node lookups ignore health.
    check(&asker, "c.node.consul A", &["ok", "an c.node.consul. 0 A 10.0.0.3"]);
    asker.dns.only_passing = true;
    check(&asker, "web.service.consul A", &["ok", "an web.service.consul. 0 A 10.0.0.1"]);
}

#[test]
fn nodes() {
    let id = "40e4a748-2192-161a-0510-9bf59fe950b5";
    let catalog = web()
        .with_node(|node| node.id = NodeId::from_str(id).ok())
        .node("my.foo", "2001:db8::1")
        .node("ext", "www.example.com")
        .with_node(|node| node.meta = Some(map([("rfc1035-00", "v=spf1"), ("a=b", "c")])))
        .node("alias", "web.service.consul");
    let mut asker = Asker::new(catalog);
    let text = "ad foo.node.consul. 0 TXT env=prod";
    check(&asker, "foo.node.consul A", &["ok", "an foo.node.consul. 0 A 10.1.2.3", text]);
    check(&asker, "foo.node.consul AAAA", &["ok", text]);
    check(&asker, "foo.node.consul TXT", &["ok", "an foo.node.consul. 0 TXT env=prod"]);
    let any = ["ok", "an foo.node.consul. 0 A 10.1.2.3", "an foo.node.consul. 0 TXT env=prod"];
    check(&asker, "foo.node.consul ANY", &any);
    for name in ["FOO.node.dc1.consul", &format!("{id}.node.consul"), "40e4.node.consul"] {
        let message = asker.ask(name, RecordType::A);
        assert_eq!(lines(&message.answers), [format!("{name}. 0 A 10.1.2.3")]);
    }
    for kind in ["SRV", "MX", "CNAME", "PTR"] {
        check(&asker, &format!("foo.node.consul {kind}"), &["ok"]);
        check(&asker, &format!("nope.node.consul {kind}"), &["ok"]);
    }
    for kind in ["A", "AAAA", "ANY", "TXT"] {
        check(&asker, &format!("nope.node.consul {kind}"), NXDOMAIN);
        check(&asker, &format!("foo.node.dc9.consul {kind}"), NXDOMAIN);
    }
    check(&asker, "my.foo.node.consul AAAA", &["ok", "an my.foo.node.consul. 0 AAAA 2001:db8::1"]);
    check(&asker, "my.foo.node.consul A", &["ok"]);
    check(
        &asker,
        "ext.node.consul ANY",
        &[
            "ok",
            "an ext.node.consul. 0 CNAME www.example.com.",
            "an ext.node.consul. 0 TXT a`=b=c",
            "an ext.node.consul. 0 TXT v=spf1",
        ],
    );
    check(
        &asker,
        "alias.node.consul A",
        &[
            "ok",
            "an alias.node.consul. 0 CNAME web.service.consul.",
            "an web.service.consul. 0 A 10.1.2.3",
        ],
    );
    asker.dns.node_meta_txt = false;
    asker.dns.node_ttl = Duration::from_millis(10_900);
    check(&asker, "foo.node.consul A", &["ok", "an foo.node.consul. 10 A 10.1.2.3"]);
    check(&asker, "foo.node.consul TXT", &["ok", "an foo.node.consul. 10 TXT env=prod"]);
    let srv = asker.ask("web.service.consul", RecordType::SRV);
    assert_eq!(lines(&srv.additionals), ["foo.node.dc1.consul. 0 A 10.1.2.3"]);
}

#[test]
fn tagged_addresses_answer_their_family() {
    let catalog = Catalog::default()
        .node("foo", "10.1.2.3")
        .with_node(|node| {
            let tags = [("lan_ipv4", "10.0.0.4"), ("lan_ipv6", "2001:db8::4"), ("wan", "1.2.3.4")];
            node.tagged_addresses = Some(map(tags));
        })
        .service("web", 80)
        .service("db", 80)
        .with(|service| {
            let tags = [("lan_ipv4", "10.0.0.5"), ("lan_ipv6", "2001:db8::5")];
            service.address = "10.9.9.9".into();
            service.tagged_addresses =
                tags.into_iter().map(|(tag, ip)| (tag.into(), tagged(ip, 81))).collect();
        });
    let asker = Asker::new(catalog);
    for (asked, data) in [
        ("foo.node.consul A", "A 10.0.0.4"),
        ("foo.node.consul AAAA", "AAAA 2001:db8::4"),
        ("foo.node.consul ANY", "AAAA 2001:db8::4"),
        ("web.service.consul A", "A 10.0.0.4"),
        ("web.service.consul AAAA", "AAAA 2001:db8::4"),
        ("db.service.consul A", "A 10.0.0.5"),
        ("db.service.consul AAAA", "AAAA 2001:db8::5"),
        ("db.service.consul ANY", "AAAA 2001:db8::5"),
    ] {
        let name = asked.split(' ').next().expect("a name");
        check(&asker, asked, &["ok", &format!("an {name}. 0 {data}")]);
    }
    // A tagged address is not the node's plain one, so the target spells it out.
    check(
        &asker,
        "web.service.consul SRV",
        &[
            "ok",
            "an web.service.consul. 0 SRV 1 1 80 20010db8000000000000000000000004.addr.dc1.consul.",
            "ad 20010db8000000000000000000000004.addr.dc1.consul. 0 AAAA 2001:db8::4",
        ],
    );
}

#[test]
fn addresses_in_names() {
    let asker = Asker::new(Catalog { down: Some(RpcError::NoServers), ..Catalog::default() });
    let v4 = "0a010203.addr.dc1.consul. 0 A 10.1.2.3";
    for kind in ["A", "ANY"] {
        check(&asker, &format!("0a010203.addr.dc1.consul {kind}"), &["ok", &format!("an {v4}")]);
    }
    for kind in ["AAAA", "SRV", "TXT"] {
        check(&asker, &format!("0a010203.addr.dc1.consul {kind}"), &["ok", &format!("ad {v4}")]);
    }
    // The part before our domain is lower-cased, the domain is not.
    let wanted = "an 0a010203.addr.dc1.CONSUL. 0 A 10.1.2.3";
    check(&asker, "0A010203.Addr.dc1.CONSUL A", &["ok", wanted]);
    let v6 = "20010db8000000000000000000000001.addr.consul";
    check(&asker, &format!("{v6} AAAA"), &["ok", &format!("an {v6}. 0 AAAA 2001:db8::1")]);
    for name in ["0a01020.addr.consul", "0a01020z.addr.consul", "a.0a010203.addr.consul"] {
        check(&asker, &format!("{name} A"), NXDOMAIN);
    }
}

#[test]
fn the_zone_itself() {
    let catalog = Catalog::default()
        .node("S1", "10.0.0.1")
        .service("consul", 8300)
        .node("bad_name", "10.0.0.2")
        .service("consul", 8300)
        .node("s3", "2001:db8::3")
        .service("consul", 8300)
        .node("s4", "10.0.0.4")
        .service("consul", 8300)
        .check(Status::Critical);
    let mut asker = Asker::new(catalog);
    asker.dns.node_ttl = Duration::from_secs(5);
    asker.dns.soa = (1, 2, 3, 4);
    let soa = "consul. 4 SOA ns.consul. hostmaster.consul. 1700000000 1 2 3 4";
    let servers = ["Consul. 5 NS s1.node.dc1.consul.", "Consul. 5 NS s3.node.dc1.consul."];
    let glue = ["s1.node.dc1.consul. 5 A 10.0.0.1", "s3.node.dc1.consul. 5 AAAA 2001:db8::3"];
    for name in ["Consul", "no.such.Consul"] {
        let message = asker.ask(name, RecordType::NS);
        assert_eq!(lines(&message.answers), servers);
        assert_eq!(lines(&message.additionals), glue);
        let message = asker.ask(name, RecordType::SOA);
        assert_eq!(lines(&message.answers), [soa]);
        assert_eq!(lines(&message.authorities), servers);
        assert_eq!(lines(&message.additionals), glue);
    }
    check(&asker, "consul AXFR", &["notimp"]);
    // Without the list of servers there are none, and no error.
    asker.catalog.down = Some(RpcError::NoLeader);
    check(&asker, "consul NS", &["ok"]);
}

#[test]
fn reverse_lookups() {
    let catalog = web().service("db", 5432).at("10.9.9.9").node("six", "2001:db8::6");
    let mut asker = Asker::new(catalog);
    asker.zone.alt_domain = "other".into();
    let v6 = "6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
    for (name, target) in [
        ("3.2.1.10.in-addr.arpa", "foo.node.dc1.consul."),
        ("3.2.1.10.In-Addr.ARPA", "foo.node.dc1.consul."),
        ("9.9.9.10.in-addr.arpa", "db.service.dc1.consul."),
        (v6, "six.node.dc1.consul."),
    ] {
        for kind in ["PTR", "A", "ANY"] {
            check(
                &asker,
                &format!("{name} {kind}"),
                &["ok", &format!("an {name}. 0 PTR {target}")],
            );
        }
    }
    for name in [
        "4.2.1.10.in-addr.arpa",
        "2.1.10.in-addr.arpa",
        "in-addr.arpa",
        "x.ip6.arpa",
        "0.3.2.1.10.in-addr.arpa",
    ] {
        check(&asker, &format!("{name} PTR"), NXDOMAIN);
    }
    let soa = ["ok", "an 3.2.1.10.in-addr.arpa. 0 PTR foo.node.dc1.consul.", "th SOA!"];
    check(&asker, "3.2.1.10.in-addr.arpa SOA", &soa);
}

#[test]
fn a_second_domain_is_answered_in_its_own_names() {
    let mut asker = Asker::new(web().at("10.9.9.9"));
    asker.zone.alt_domain = "test-domain".into();
    check(
        &asker,
        "web.service.Test-Domain SRV",
        &[
            "ok",
            "an web.service.Test-Domain. 0 SRV 1 1 8080 0a090909.addr.dc1.Test-Domain.",
            "ad 0a090909.addr.dc1.Test-Domain. 0 A 10.9.9.9",
            "ad foo.node.dc1.Test-Domain. 0 TXT env=prod",
        ],
    );
    let soa =
        "test-domain. 0 SOA ns.test-domain. hostmaster.test-domain. 1700000000 3600 600 86400 0";
    check(&asker, "no.service.test-domain A", &["nxdomain", &format!("th {soa}")]);
    check(&asker, "no.service.TEST-domain A", NXDOMAIN);
    // One inside the other: the longer is tried first.
    asker.zone.alt_domain = "test.consul".into();
    for name in ["web.service.consul", "web.service.test.consul", "web.service.dc1.test.consul"] {
        let message = asker.ask(name, RecordType::A);
        assert_eq!(lines(&message.answers), [format!("{name}. 0 A 10.9.9.9")]);
    }
}

#[test]
fn what_cannot_be_asked_fails_and_what_is_not_ours_is_refused() {
    let mut asker = Asker::new(web());
    check(&asker, "example.com A", &["refused"]);
    check(&asker, "web.service.myconsul A", &["refused"]);
    let refused = asker.send(&super::with_edns(super::question("a.b", RecordType::A), 1_232));
    assert!(refused.edns.is_none() && !refused.metadata.authoritative);
    for error in [
        RpcError::NoLeader,
        RpcError::NoServers,
        RpcError::NotReady,
        RpcError::Broken("reset".into()),
        RpcError::AclNotFound,
    ] {
        asker.catalog.down = Some(error);
        for asked in ["web.service.consul A", "foo.node.consul A", "3.2.1.10.in-addr.arpa PTR"] {
            check(&asker, asked, &["servfail"]);
        }
    }
    asker.catalog.down = Some(RpcError::NoPathToDatacenter);
    check(&asker, "web.service.dc7.consul A", NXDOMAIN);
}

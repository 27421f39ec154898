//! Limits, truncation, EDNS. spec: Consul DNS, ordering, limits, truncation.

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use model::rpc::RpcError;

use crate::dns::query::Transport;

use super::{Asker, Catalog, ip, question, with_edns};

/// Instances of `web`, each on a node of its own, every other one with IPv6 if mixed.
fn many(count: usize, mixed: bool) -> Asker {
    Asker::new((0..count).fold(Catalog::default(), |catalog, i| {
        let address = if mixed && i % 2 == 1 {
            format!("2001:db8::{i:x}")
        } else {
            format!("10.0.{}.{}", i / 250, i % 250)
        };
        catalog.node(&format!("node-{i}"), &address).service("web", 8080)
    }))
}

fn count(asker: &Asker, question: &Message) -> usize {
    asker.send(question).answers.len()
}

#[test]
fn plain_datagrams_carry_the_answer_limit() {
    let mut asker = many(30, false);
    for (limit, wanted) in [(0, 0), (1, 1), (3, 3), (8, 8), (30, 8)] {
        asker.dns.udp_answer_limit = limit;
        for size in [None, Some(0), Some(100), Some(512)] {
            let mut asked = question("web.service.consul", RecordType::A);
            if let Some(size) = size {
                asked = with_edns(asked, 512);
                asked.edns.as_mut().expect("set above").set_max_payload(size.max(1));
            }
            assert_eq!(count(&asker, &asked), wanted, "limit {limit} size {size:?}");
        }
    }
}

#[test]
fn a_record_limit_counts_addresses_on_every_transport_but_not_srv() {
    for limit in 1..=6 {
        let mut asker = many(30, false);
        asker.dns.a_record_limit = limit;
        asker.dns.udp_answer_limit = limit;
        let a = question("web.service.consul", RecordType::A);
        let srv = question("web.service.consul", RecordType::SRV);
        let any = question("web.service.consul", RecordType::ANY);
        for asked in [&a, &any] {
            assert_eq!(count(&asker, asked), limit);
            assert_eq!(count(&asker, &with_edns(asked.clone(), 8_192)), limit);
        }
        assert_eq!(count(&asker, &with_edns(srv.clone(), 8_192)), 30);
        asker.transport = Transport::Tcp;
        assert_eq!(count(&asker, &a), limit);
        assert_eq!(count(&asker, &srv), 30);
    }
    let mut mixed = many(30, true);
    mixed.transport = Transport::Tcp;
    for (kind, wanted) in [(RecordType::A, 15), (RecordType::AAAA, 15), (RecordType::ANY, 30)] {
        assert_eq!(count(&mixed, &question("web.service.consul", kind)), wanted);
    }
}

#[test]
fn a_datagram_never_outgrows_what_the_asker_takes() {
    for size in [512_u16, 513, 600, 1_024, 1_232, 2_048, 4_096, 16_384, 65_535] {
        for kind in [RecordType::A, RecordType::SRV] {
            let asker = many(5_000, false);
            let asked = with_edns(question("web.service.consul", kind), size);
            let packet = asked.to_vec().expect("a question");
            let bytes = asker.bytes(&packet).expect("answered");
            assert!(bytes.len() <= usize::from(size), "{} over {size}", bytes.len());
            let answer = Message::from_vec(&bytes).expect("readable");
            // All of the room is used, but for what a further record would need.
            if size > 512 {
                assert!(bytes.len() + 200 > usize::from(size).min(65_467), "{size} {kind}");
            }
            // Each kept target has its address beside it, and nothing else is there.
            if kind == RecordType::SRV {
                assert_eq!(answer.additionals.len(), answer.answers.len());
            }
            assert!(!answer.metadata.truncation);
            assert!(answer.edns.is_none());
        }
    }
}

#[test]
fn the_truncation_bit_needs_its_setting_and_a_cut() {
    let mut asker = many(30, false);
    asker.dns.enable_truncate = true;
    let asked = question("web.service.consul", RecordType::A);
    assert!(asker.send(&asked).metadata.truncation);
    assert!(!asker.send(&with_edns(asked.clone(), 4_096)).metadata.truncation);
    asker.transport = Transport::Tcp;
    assert!(!asker.send(&asked).metadata.truncation);
    let mut few = many(3, false);
    few.dns.enable_truncate = true;
    assert!(!few.send(&asked).metadata.truncation);
}

#[test]
fn a_stream_carries_up_to_its_frame() {
    let mut asker = many(5_000, false);
    asker.transport = Transport::Tcp;
    asker.dns.enable_truncate = true;
    let a = asker.send(&question("web.service.consul", RecordType::A));
    // Header and question are 36 bytes, an address is 16.
    assert_eq!((a.answers.len(), a.metadata.truncation), (4_092, true));
    let srv = question("web.service.consul", RecordType::SRV).to_vec().expect("a question");
    let bytes = asker.bytes(&srv).expect("answered");
    assert!(bytes.len() <= 65_523);
    let srv = Message::from_vec(&bytes).expect("readable");
    assert!(srv.answers.len() <= 1_024 && srv.metadata.truncation);
}

#[test]
fn compression_can_be_turned_off() {
    let mut asker = many(3, false);
    let packet = question("web.service.consul", RecordType::SRV).to_vec().expect("a question");
    let compressed = asker.bytes(&packet).expect("answered");
    asker.dns.disable_compression = true;
    let plain = asker.bytes(&packet).expect("answered");
    assert!(plain.len() > compressed.len() + 60);
    let (plain, compressed) = (Message::from_vec(&plain), Message::from_vec(&compressed));
    let (plain, compressed) = (plain.expect("readable"), compressed.expect("readable"));
    assert_eq!(plain.answers, compressed.answers);
    assert_eq!(plain.additionals, compressed.additionals);
}

#[test]
fn the_opt_record_echoes_size_and_subnet() {
    let mut asker = many(2, false);
    let mut asked = with_edns(question("web.service.consul", RecordType::A), 12_345);
    let subnet = ClientSubnet::new(ip("198.18.0.0"), 21, 0);
    let edns = asked.edns.as_mut().expect("set above");
    edns.options_mut().insert(EdnsOption::Subnet(subnet));
    edns.set_dnssec_ok(true);
    for down in [None, Some(RpcError::NoLeader)] {
        asker.catalog.down = down;
        let answer = asker.send(&asked).edns.expect("an OPT record");
        assert_eq!(answer.max_payload(), 12_345);
        assert!(!answer.flags().dnssec_ok);
        assert_eq!(answer.version(), 0);
        let Some(EdnsOption::Subnet(echoed)) = answer.option(EdnsCode::Subnet) else {
            panic!("no subnet in {answer:?}");
        };
        assert_eq!(echoed.addr(), ip("198.18.0.0"));
        assert_eq!((echoed.source_prefix(), echoed.scope_prefix()), (21, 0));
    }
    assert!(asker.ask("web.service.consul", RecordType::A).edns.is_none());
}

//! Packets that are no good questions: screened as Consul's library does, never a panic.

use hickory_proto::op::{Message, OpCode};
use hickory_proto::rr::RecordType;
use proptest::prelude::*;

use crate::dns::query::Transport;

use super::{Asker, Catalog, question};

fn asker() -> Asker {
    let catalog = (0..40).fold(Catalog::default().node("foo", "10.1.2.3"), |catalog, i| {
        catalog.service("web", i).at(&format!("10.0.0.{i}"))
    });
    Asker::new(catalog.service("db", 1).at("web.service.consul").service("consul", 8300))
}

fn packet() -> Vec<u8> {
    question("web.service.consul", RecordType::A).to_vec().expect("a question")
}

/// Code, opcode and length of an answer.
fn screened(packet: &[u8]) -> Option<(u8, u8, usize)> {
    let bytes = asker().bytes(packet)?;
    assert_eq!(&bytes[..2], &packet[..2]);
    assert_eq!(bytes[2] & 0x80, 0x80);
    Some((bytes[3] & 0xf, (bytes[2] >> 3) & 0xf, bytes.len()))
}

#[test]
fn responses_and_stumps_are_not_answered() {
    let mut response = packet();
    response[2] |= 0x80;
    assert_eq!(screened(&response), None);
    // Also malformed ones: two servers could send each other errors for ever.
    assert_eq!(screened(&response[..14]), None);
    for length in 0..12 {
        assert_eq!(asker().bytes(&packet()[..length]), None);
    }
}

#[test]
fn other_opcodes_and_counts_are_answered_by_a_header() {
    for (opcode, wanted) in [(1_u8, 4), (2, 4), (5, 4), (15, 4)] {
        let mut other = packet();
        other[2] |= opcode << 3;
        assert_eq!(screened(&other), Some((wanted, opcode, 12)), "opcode {opcode}");
    }
    // Low bytes of the counts of questions, answers, authorities, additionals.
    for (at, count) in [(5, 0), (5, 2), (7, 2), (9, 2), (11, 3)] {
        let mut counted = packet();
        counted[at] = count;
        assert_eq!(screened(&counted), Some((1, 0, 12)), "count {count} at {at}");
    }
    for cut in 12..packet().len() {
        assert_eq!(screened(&packet()[..cut]), Some((1, 0, 12)), "cut at {cut}");
    }
    // A pointer, and a reserved kind of label, where nothing is before them.
    for byte in [0xc0, 0x40, 0x80] {
        let mut odd = packet();
        odd[12] = byte;
        assert_eq!(screened(&odd), Some((1, 0, 12)));
    }
}

#[test]
fn notify_is_answered_like_a_query_and_the_class_is_not_examined() {
    let mut notify = question("web.service.consul", RecordType::NS);
    notify.metadata.op_code = OpCode::Notify;
    let answer = asker().send(&notify);
    assert_eq!(answer.metadata.op_code, OpCode::Notify);
    assert_eq!(answer.answers.len(), 1);
    let mut chaos = packet();
    let class_at = chaos.len() - 1;
    chaos[class_at] = 3;
    let bytes = asker().bytes(&chaos).expect("answered");
    let answer = Message::from_vec(&bytes).expect("readable");
    assert_eq!(answer.answers.len(), 3);
}

proptest! {
    #[test]
    fn no_packet_panics_and_every_answer_can_be_read(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..600),
        header in any::<bool>(),
        tcp in any::<bool>(),
    ) {
        if header && bytes.len() >= 12 {
            bytes[2] &= 0x7f;
            bytes[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 1]);
        }
        let mut asker = asker();
        asker.transport = if tcp { Transport::Tcp } else { Transport::Udp };
        if let Some(answer) = asker.bytes(&bytes) {
            prop_assert!(Message::from_vec(&answer).is_ok());
        }
    }

    #[test]
    fn no_name_panics(
        labels in proptest::collection::vec("[a-z_]{0,3}|service|node|addr|web|db|_tcp|in-addr|arpa|consul|dc1|dc|[0-9a-f]{8}", 0..12),
        kind in prop_oneof![Just(1_u16), Just(2), Just(6), Just(12), Just(16), Just(28), Just(33),
            Just(255), Just(252), any::<u16>()],
        flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..3),
    ) {
        let mut packet = vec![0x12, 0x67, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in labels.iter().map(String::as_str).chain(["consul"]).filter(|l| !l.is_empty()) {
            packet.push(label.len() as u8);
            packet.extend_from_slice(label.as_bytes());
        }
        packet.push(0);
        packet.extend_from_slice(&kind.to_be_bytes());
        packet.extend_from_slice(&[0, 1]);
        for (at, bits) in flips {
            let at = 12 + at % (packet.len() - 12);
            packet[at] ^= bits;
        }
        if let Some(answer) = asker().bytes(&packet) {
            prop_assert!(Message::from_vec(&answer).is_ok());
        }
    }
}

//! A state that arrives in pieces takes the place of the tables in one entry.

use bytes::Bytes;
use model::command::{
    Command, KvCommandV1, Outcome, RESTORE_CHUNK_BYTES_MAX, Rejection, RestoreChunkV1,
    RestoreCommitV1,
};
use model::row::{ServiceV1, SessionBehavior, Status};
use model::rpc::Op;
use model::{LogIndex, NodeId};
use sha2::{Digest as _, Sha256};

use super::fixture::{Machine, check, node, put, service, sid};
use crate::snapshot::{Loader, dump};
use crate::stage::{STAGE_MS_MAX, frame};

const ID: NodeId = NodeId([7; 16]);

/// The pieces of a state, of this many bytes each.
fn pieces(machine: &Machine, size: usize) -> Vec<RestoreChunkV1> {
    let all: Vec<u8> =
        dump(&machine.state).flat_map(|block| frame(&block).expect("short")).collect();
    let cut = all.chunks(size).scan(0, |offset, piece| {
        let chunk =
            RestoreChunkV1 { id: ID, offset: *offset, bytes: Bytes::copy_from_slice(piece) };
        *offset += piece.len() as u64;
        Some(chunk)
    });
    cut.collect()
}

fn commit(pieces: &[RestoreChunkV1]) -> RestoreCommitV1 {
    let mut sha256 = Sha256::new();
    let mut length = 0;
    for piece in pieces {
        sha256.update(&piece.bytes);
        length += piece.bytes.len() as u64;
    }
    RestoreCommitV1 { id: ID, length, sha256: sha256.finalize().into() }
}

fn restore(machine: &mut Machine, from: &Machine) -> Outcome {
    let pieces = pieces(from, 100);
    let commit = commit(&pieces);
    for piece in pieces {
        assert_eq!(machine.run(Command::RestoreChunkV1(piece)), Outcome::Done);
    }
    machine.run(Command::RestoreCommitV1(commit))
}

fn lock(key: &str, session: u8) -> KvCommandV1 {
    KvCommandV1::Lock(put(key, "me"), sid(session))
}

fn rejected(outcome: Outcome) -> String {
    match outcome {
        Outcome::Rejected(Rejection::Other(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// A catalog, a lock, a tombstone; at index 500 and beyond.
fn archive() -> Machine {
    let mut machine = Machine { now_ms: 9_000, ..Machine::at(500) };
    machine.with_session(1, SessionBehavior::Release);
    let health = vec![check("n1", "web", Status::Passing, "web1")];
    machine.register(node("n1", 1), vec![service("web1", "web", &[])], health);
    machine.set("kept", "old");
    assert!(machine.kv(lock("held", 1)));
    machine.set("gone", "x");
    assert!(machine.kv(KvCommandV1::Delete("gone".into())));
    machine
}

fn reads() -> Vec<Op> {
    vec![
        Op::KvGet { key: "kept".into() },
        Op::KvGet { key: "newer".into() },
        Op::KvGet { key: "never".into() },
        Op::KvList { prefix: "ke".into() },
        Op::KvList { prefix: "ne".into() },
        Op::KvKeys { prefix: "".into(), separator: "".into() },
        Op::SessionList,
        Op::Nodes { meta: Default::default() },
        Op::Services { meta: Default::default() },
        Op::NodeServices { node: "n1".into() },
        Op::NodeServices { node: "n2".into() },
        Op::HealthService {
            service: "web".into(),
            tags: vec![],
            meta: Default::default(),
            connect: false,
        },
        Op::HealthService {
            service: "db".into(),
            tags: vec![],
            meta: Default::default(),
            connect: false,
        },
        Op::HealthChecks { service: "web".into(), meta: Default::default() },
        Op::HealthState { state: None, meta: Default::default() },
    ]
}

#[test]
fn the_tables_are_swapped_in_one_entry_and_no_index_goes_back() {
    let from = archive();
    // One log is far ahead of the archive's, the other far behind.
    for start in [10, 5_000] {
        let mut machine = Machine { now_ms: 1_000, ..Machine::at(start) };
        machine.register(
            node("n2", 2),
            vec![ServiceV1 { node: "n2".into(), ..service("db1", "db", &[]) }],
            vec![],
        );
        machine.set("kept", "new");
        machine.set("newer", "x");
        let before: Vec<u64> = reads().iter().map(|op| machine.index_of(op)).collect();
        let epoch = machine.state.epoch();

        assert_eq!(restore(&mut machine, &from), Outcome::Done);

        assert_eq!(machine.state.epoch(), epoch + 1);
        assert_eq!(machine.state.restoring(), None);
        assert_eq!(machine.row("kept").expect("there").value, "old");
        assert!(machine.row("newer").is_none());
        assert_eq!(machine.row("held").expect("there").session, Some(sid(1)));
        let web = &reads()[11];
        assert_eq!(machine.instances(web), ["n1/web1"]);
        for (op, before) in reads().iter().zip(before) {
            assert_eq!(machine.index_of(op), machine.index, "{op:?} was at {before}");
        }
        // Cluster time goes on; rows never come from the future.
        assert_eq!(machine.state.cluster_time_ms(), 1_000);
        let row = machine.row("kept").expect("there");
        assert!(row.create_index <= row.modify_index && row.modify_index.0 <= machine.index);

        // And what happens next raises what it concerns, above all that was reported.
        machine.set("kept", "newest");
        assert_eq!(machine.index_of(&reads()[0]), machine.index);
        assert_eq!(machine.index_of(&reads()[1]), machine.index);
        assert!(machine.kv(KvCommandV1::Delete("kept".into())));
        assert_eq!(machine.index_of(&Op::KvList { prefix: "ke".into() }), machine.index);
    }
}

#[test]
fn a_lock_delay_keeps_its_distance() {
    let mut from = archive();
    assert_eq!(from.run(Command::SessionDestroyV1(sid(1))), Outcome::Done);
    assert!(from.row("held").expect("there").session.is_none());
    let mut machine = Machine { now_ms: 1_000_000, ..Machine::at(10) };
    assert_eq!(restore(&mut machine, &from), Outcome::Done);
    machine.with_session(2, SessionBehavior::Release);
    assert!(!machine.kv(lock("held", 2)), "its delay of 15 s is not over");
    machine.now_ms += 14_999;
    assert!(!machine.kv(lock("held", 2)));
    machine.now_ms += 1;
    assert!(machine.kv(lock("held", 2)));
}

#[test]
fn pieces_come_in_order_one_restore_at_a_time_and_whole() {
    let from = archive();
    let pieces = pieces(&from, 100);
    let mut machine = Machine::at(10);
    machine.set("kept", "new");
    let mut chunk = |chunk: &RestoreChunkV1| machine.run(Command::RestoreChunkV1(chunk.clone()));
    assert!(rejected(chunk(&pieces[1])).contains("not under way"));
    assert_eq!(chunk(&pieces[0]), Outcome::Done);
    assert!(rejected(chunk(&pieces[0])).contains("at byte 0 came where 100 is next"));
    assert!(rejected(chunk(&pieces[2])).contains("at byte 200 came where 100 is next"));
    let other = RestoreChunkV1 { id: NodeId([8; 16]), ..pieces[0].clone() };
    assert!(rejected(chunk(&other)).contains("another restore is under way"));
    let empty = RestoreChunkV1 { bytes: Bytes::new(), ..pieces[1].clone() };
    assert!(rejected(chunk(&empty)).contains("empty"));
    let long =
        RestoreChunkV1 { bytes: vec![0; RESTORE_CHUNK_BYTES_MAX + 1].into(), ..pieces[1].clone() };
    assert!(rejected(chunk(&long)).contains("too long"));

    // Too early, with another checksum, under another id: refused; the first two end it.
    let whole = commit(&pieces);
    let refused = |machine: &mut Machine, commit: RestoreCommitV1| {
        let epoch = machine.state.epoch();
        let text = rejected(machine.run(Command::RestoreCommitV1(commit)));
        assert_eq!(machine.state.epoch(), epoch);
        assert_eq!(machine.row("kept").expect("there").value, "new");
        text
    };
    let stranger = RestoreCommitV1 { id: NodeId([8; 16]), ..whole.clone() };
    assert!(refused(&mut machine, stranger).contains("not under way"));
    assert_eq!(machine.state.restoring(), Some(ID));
    assert!(refused(&mut machine, whole.clone()).contains("bytes of the restore came"));
    assert_eq!(machine.state.restoring(), None);
    for piece in &pieces {
        assert_eq!(machine.run(Command::RestoreChunkV1(piece.clone())), Outcome::Done);
    }
    let wrong = RestoreCommitV1 { sha256: [0; 32], ..whole };
    assert!(refused(&mut machine, wrong).contains("checksum"));
    // What is no state, though it has its checksum.
    let garbage = [RestoreChunkV1 { id: ID, offset: 0, bytes: Bytes::from_static(b"\x05\0\0\0x") }];
    assert_eq!(machine.run(Command::RestoreChunkV1(garbage[0].clone())), Outcome::Done);
    assert!(refused(&mut machine, commit(&garbage)).contains("within a block"));
    // Given up by name, or by ten minutes of silence.
    assert_eq!(machine.run(Command::RestoreChunkV1(pieces[0].clone())), Outcome::Done);
    assert_eq!(machine.run(Command::RestoreAbortV1(NodeId([8; 16]))), Outcome::Done);
    assert_eq!(machine.state.restoring(), Some(ID));
    assert_eq!(machine.run(Command::RestoreAbortV1(ID)), Outcome::Done);
    assert_eq!(machine.state.restoring(), None);
    assert_eq!(machine.run(Command::RestoreChunkV1(pieces[0].clone())), Outcome::Done);
    machine.now_ms += STAGE_MS_MAX - 1;
    machine.set("tick", "1");
    assert_eq!(machine.state.restoring(), Some(ID));
    machine.now_ms += 1;
    machine.set("tick", "2");
    assert_eq!(machine.state.restoring(), None);
}

#[test]
fn a_stage_is_part_of_snapshots_and_of_the_hash() {
    let pieces = pieces(&archive(), 100);
    let mut machine = Machine::at(10);
    machine.set("kept", "new");
    for piece in &pieces[..pieces.len() - 1] {
        assert_eq!(machine.run(Command::RestoreChunkV1(piece.clone())), Outcome::Done);
    }
    let mut loader = Loader::new();
    for block in dump(&machine.state) {
        loader.push(&block).expect("whole");
    }
    let mut copy = Machine { state: loader.finish().expect("whole"), ..machine.clone() };
    let (last, other) = (pieces[pieces.len() - 1].clone(), pieces[1].bytes.clone());
    let commit = commit(&pieces);
    for machine in [&mut machine, &mut copy] {
        assert_eq!(machine.run(Command::RestoreChunkV1(last.clone())), Outcome::Done);
        assert_eq!(machine.run(Command::RestoreCommitV1(commit.clone())), Outcome::Done);
    }
    assert_eq!(machine.state.hash(), copy.state.hash());
    let bytes = |machine: &Machine| dump(&machine.state).collect::<Vec<_>>();
    assert_eq!(bytes(&machine), bytes(&copy));
    // Pieces of the same length that differ make hashes that differ, before any commit.
    let hash_with = |bytes: Bytes| {
        let mut machine = Machine::at(10);
        let chunk = RestoreChunkV1 { id: ID, offset: 0, bytes };
        assert_eq!(machine.run(Command::RestoreChunkV1(chunk)), Outcome::Done);
        machine.state.hash()
    };
    assert_ne!(hash_with(pieces[0].bytes.clone()), hash_with(other));
    assert_eq!(LogIndex(machine.index), machine.state.applied());
}

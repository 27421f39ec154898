//! Snapshots: what comes back, what is refused, what stays on the shelf.

use std::io::Read as _;
use std::path::Path;

use model::LogIndex;
use model::command::{Command, EnvelopeV1, KvCommandV1, KvPutV1};
use state::State;

use super::*;
use crate::raft::types::{SnapshotMeta, StoredMembership, log_id};

fn filled(count: u64) -> State {
    let mut state = State::default();
    let batch: Vec<(LogIndex, EnvelopeV1)> = (1..=count)
        .map(|index| {
            let put = KvPutV1 {
                key: format!("key/{index}").into(),
                value: vec![index as u8; 1_000].into(),
                flags: 0,
            };
            let envelope = EnvelopeV1 {
                namespace: "default".into(),
                retry: None,
                actor: "".into(),
                reason: "".into(),
                cluster_time_ms: index,
                wall_ms: 0,
                command: Command::KvV1(KvCommandV1::Set(put)),
            };
            (LogIndex(index), envelope)
        })
        .collect();
    state::apply(&mut state, &batch);
    state
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: Some(log_id(2, index)),
        last_membership: StoredMembership::default(),
    }
}

fn directories(data_dir: &Path) -> Vec<String> {
    let shelf = std::fs::read_dir(data_dir.join("raft/snapshots")).expect("shelf");
    let mut names: Vec<String> =
        shelf.map(|item| item.expect("item").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn the_newest_comes_back_after_a_restart_and_two_are_kept() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (shelf, loaded) = Shelf::open(Some(directory.path())).expect("opens");
    assert!(loaded.is_none() && shelf.current().is_none());
    for index in [3_000, 3_500, 4_000] {
        shelf.dump(meta(index), &filled(index)).expect("dumped");
    }
    std::fs::create_dir(directory.path().join("raft/snapshots/dump-9-9.tmp")).expect("left over");
    let (shelf, loaded) = Shelf::open(Some(directory.path())).expect("opens");
    let (found, state) = loaded.expect("a snapshot");
    assert_eq!(found, meta(4_000));
    assert_eq!(shelf.current().map(|stored| stored.meta), Some(meta(4_000)));
    assert_eq!(state.hash(), filled(4_000).hash());
    assert_eq!(directories(directory.path()), ["2-3500", "2-4000"]);
}

#[test]
fn every_damage_is_refused_by_name() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (shelf, _) = Shelf::open(Some(directory.path())).expect("opens");
    shelf.dump(meta(50), &filled(50)).expect("dumped");
    let path = directory.path().join("raft/snapshots/2-50/state.bin");
    let good = std::fs::read(&path).expect("read");
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).expect("written");
        let text = Shelf::open(Some(directory.path())).map(|_| ()).expect_err(what).to_string();
        assert!(text.contains("2-50/state.bin"), "{what}: {text}");
    };
    for bit in (0..good.len() * 8).step_by(1_009).chain(0..512) {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        refused(&bad, &format!("bit {bit}"));
    }
    for cut in (0..good.len()).step_by(997).chain(good.len() - 24..good.len()) {
        refused(&good[..cut], &format!("cut at {cut}"));
    }
    let mut longer = good.clone();
    longer.push(0);
    refused(&longer, "longer");
    std::fs::write(&path, &good).expect("written");
    Shelf::open(Some(directory.path())).expect("whole again");
}

#[test]
fn a_received_snapshot_counts_only_when_it_is_whole() {
    for in_memory in [true, false] {
        let directory = tempfile::tempdir().expect("temporary directory");
        let place = (!in_memory).then(|| directory.path());
        let (from, _) = Shelf::open(None).expect("opens");
        let stored = from.dump(meta(60), &filled(60)).expect("dumped");
        let mut bytes = Vec::new();
        stored.read().expect("open").read_to_end(&mut bytes).expect("read");

        let (to, _) = Shelf::open(place).expect("opens");
        let mut short = to.begin(bytes.len() as u64, "received-0").expect("begun");
        short.push(&bytes[..100]).expect("pushed");
        assert!(matches!(to.verify(short), Err(SnapshotError::Damaged { .. })));
        let mut long = to.begin(10, "received-1").expect("begun");
        assert!(long.push(&bytes[..100]).is_err());
        assert!(to.current().is_none());

        let mut whole = to.begin(bytes.len() as u64, "received-2").expect("begun");
        for block in bytes.chunks(1_000) {
            whole.push(block).expect("pushed");
        }
        let verified = to.verify(whole).expect("whole");
        assert!(to.current().is_none(), "verified is not installed");
        let state = to.install(verified).expect("installed");
        assert_eq!(state.hash(), filled(60).hash());
        assert_eq!(to.current().map(|stored| stored.meta), Some(meta(60)));
    }
}

#[test]
fn what_was_received_in_part_is_removed_when_the_next_comes() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (shelf, _) = Shelf::open(Some(directory.path())).expect("opens");
    let mut given_up = shelf.begin(1_000, "received-0").expect("begun");
    given_up.push(&[0; 100]).expect("pushed");
    drop(given_up);
    let one = shelf.begin(1_000, "received-1").expect("begun");
    let other = shelf.begin(1_000, "received-2").expect("begun");
    assert_eq!(directories(directory.path()), ["received-1.tmp", "received-2.tmp"]);
    drop(one);
    shelf.dump(meta(50), &filled(50)).expect("dumped");
    assert_eq!(directories(directory.path()), ["2-50", "received-2.tmp"]);
    // Verified, but not installed.
    drop(other);
    let mut bytes = Vec::new();
    let stored = shelf.current().expect("dumped");
    stored.read().expect("open").read_to_end(&mut bytes).expect("read");
    let mut whole = shelf.begin(bytes.len() as u64, "received-3").expect("begun");
    whole.push(&bytes).expect("pushed");
    let verified = shelf.verify(whole).expect("whole");
    drop(shelf.begin(1_000, "received-4").expect("begun"));
    assert_eq!(directories(directory.path()), ["2-50", "received-3.tmp", "received-4.tmp"]);
    drop(verified);
    shelf.dump(meta(60), &filled(60)).expect("dumped");
    assert_eq!(directories(directory.path()), ["2-50", "2-60"]);
}

#[test]
fn a_newer_format_is_refused_and_names_the_release_that_wrote_it() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (shelf, _) = Shelf::open(Some(directory.path())).expect("opens");
    shelf.dump(meta(50), &filled(50)).expect("dumped");
    let path = directory.path().join("raft/snapshots/2-50/state.bin");
    let mut bytes = std::fs::read(&path).expect("read");
    let length = u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes"));
    let end = 32 + length as usize;
    bytes[8] = 9;
    bytes[16..32].copy_from_slice(b"7.1.0\0\0\0\0\0\0\0\0\0\0\0");
    let crc = crc32fast::hash(&bytes[..end]);
    bytes[end..end + 4].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, &bytes).expect("written");
    let refused = Shelf::open(Some(directory.path())).map(|_| ()).expect_err("newer");
    let text = crate::raft::StartError::from(refused).to_string();
    assert!(text.contains("newer release (7.1.0) in format 9"), "{text}");
    assert!(text.contains("2-50/state.bin"), "{text}");
}

//! Snapshots: round trip, and damage of every kind.

use model::command::{Command, KvCommandV1};
use model::row::{SessionBehavior, Status};
use proptest::prelude::*;

use super::fixture::{Machine, check, node, proxy, put, service, sid};
use super::properties::entries;
use super::random::{reads, steps};
use crate::snapshot::{BLOCK_BYTES_TARGET, Loader, SnapshotError, dump};
use crate::{State, apply, query};

fn load(blocks: &[Vec<u8>]) -> Result<State, SnapshotError> {
    let mut loader = Loader::new();
    blocks.iter().try_for_each(|block| loader.push(block))?;
    loader.finish()
}

fn full() -> Machine {
    let mut machine = Machine::default();
    machine.with_session(1, SessionBehavior::Release);
    machine.with_session(2, SessionBehavior::Delete);
    machine.register(
        node("n2", 2),
        vec![service("w", "web", &["a"]), proxy("p", "side", "web")],
        vec![check("", "c", Status::Warning, "w")],
    );
    machine.kv(KvCommandV1::Lock(put("held", "x"), sid(1)));
    machine.kv(KvCommandV1::Lock(put("lost", "x"), sid(2)));
    machine.run(Command::SessionDestroyV1(sid(2)));
    machine
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_comes_back_is_equal_and_goes_on_equally(
        first in steps(1..60), second in steps(1..20),
    ) {
        let cut = first.len();
        let entries = entries(first.into_iter().chain(second).collect());
        let mut state = State::default();
        apply(&mut state, &entries[..cut]);
        let blocks: Vec<_> = dump(&state).collect();
        let mut loaded = load(&blocks).expect("a good snapshot");
        prop_assert_eq!(loaded.verify(), Ok(()));
        prop_assert_eq!(&blocks, &dump(&loaded).collect::<Vec<_>>());
        for op in reads() {
            prop_assert_eq!(query(&state, "default", &op), query(&loaded, "default", &op));
        }
        prop_assert_eq!(
            apply(&mut state, &entries[cut..]), apply(&mut loaded, &entries[cut..])
        );
        prop_assert_eq!(state.hash(), loaded.hash());
        prop_assert_eq!(dump(&state).collect::<Vec<_>>(), dump(&loaded).collect::<Vec<_>>());
    }

    #[test]
    fn any_damage_is_an_error_or_another_state_never_a_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut blocks: Vec<_> = dump(&full().state).collect();
        for (at, xor) in flips {
            let at = at.index(blocks[0].len());
            blocks[0][at] ^= xor;
        }
        // A raft room's checksum finds these; here only survival counts.
        if let Ok(state) = load(&blocks) {
            let _ = state.verify();
            let _ = dump(&state).count();
        }
    }
}

#[test]
fn cut_short_swapped_repeated_and_extended_snapshots_are_refused() {
    let mut machine = full();
    for n in 0..40 {
        machine.set(&format!("large/{n}"), &"x".repeat(100_000));
    }
    let blocks: Vec<_> = dump(&machine.state).collect();
    assert!(blocks.len() > 3);
    assert!(blocks.iter().all(|block| block.len() < BLOCK_BYTES_TARGET + 110_000));
    assert_eq!(load(&blocks).expect("whole").hash(), machine.state.hash());
    for cut in 0..blocks.len() {
        let error = load(&blocks[..cut]).expect_err("cut short");
        assert!(matches!(error, SnapshotError::Incomplete { .. }), "{error}");
    }
    let mut swapped = blocks.clone();
    swapped.swap(1, 2);
    assert!(matches!(load(&swapped), Err(SnapshotError::Order { expected: 1, found: 2 })));
    let mut longer = blocks.clone();
    longer.push(blocks[blocks.len() - 1].clone());
    assert!(matches!(load(&longer), Err(SnapshotError::Order { .. })));
    for cut in 0..blocks[0].len().min(2_000) {
        let error = load(&[blocks[0][..cut].to_vec()]).expect_err("a cut block");
        assert!(matches!(error, SnapshotError::Block { number: 0, .. }), "{error}");
    }
}

#[test]
fn a_block_that_unfolds_to_more_items_than_are_ever_written_is_refused() {
    // Kind, version, number 0, two million items of two bytes each: empty namespaces.
    let mut bytes = vec![5, 1, 0, 0x80, 0x89, 0x7a];
    bytes.extend(std::iter::repeat_n([2, 0], 2_000_000).flatten());
    assert!(matches!(load(&[bytes]), Err(SnapshotError::Block { number: 0, .. })));
}

#[test]
fn an_empty_state_is_one_block() {
    let blocks: Vec<_> = dump(&State::default()).collect();
    assert_eq!(blocks.len(), 1);
    assert_eq!(load(&blocks).expect("whole").hash(), 0);
}

#[test]
fn the_first_release_of_the_format_is_still_read() {
    // Bytes of `full()` as version 1 wrote them. Never change them: a change here means that
    // snapshots of users can no longer be opened.
    let known = include_str!("snapshot_v1.hex");
    let block: Vec<u8> = known
        .split_whitespace()
        .flat_map(|line| line.as_bytes().chunks(2))
        .map(|pair| u8::from_str_radix(&String::from_utf8_lossy(pair), 16).expect("hexadecimal"))
        .collect();
    let state = load(&[block]).expect("version 1 is readable");
    state.verify().expect("consistent");
    assert_eq!(state.hash(), full().state.hash());
}

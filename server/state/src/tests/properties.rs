//! Over random commands: replicas are equal, invariants hold, rejected commands change nothing, a
//! copy applies once.

use std::sync::Arc;

use model::LogIndex;
use model::command::{Command, EnvelopeV1, Outcome, Rejection};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;

use super::fixture::envelope;
use super::random::{Step, steps};
use crate::snapshot::{Loader, dump};
use crate::state::Space;
use crate::{State, apply};

/// Entries from steps, from index 2 on.
pub(super) fn entries(steps: Vec<Step>) -> Vec<(LogIndex, EnvelopeV1)> {
    let mut now_ms = 0;
    let entry = |(at, (command, retry, pause)): (usize, Step)| {
        now_ms += pause;
        (LogIndex(at as u64 + 2), envelope(command, retry, now_ms))
    };
    steps.into_iter().enumerate().map(entry).collect()
}

/// The tables and indexes as bytes, without what time and the mere arrival of an entry move.
fn content(state: &State) -> Vec<Vec<u8>> {
    let mut content = State { applied: LogIndex(u64::MAX), ..State::default() };
    for (name, space) in &state.spaces {
        let space = Space { lock_delays: Default::default(), ..Space::clone(space) };
        content.spaces.insert(name.clone(), Arc::new(space));
    }
    dump(&content).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn replicas_are_equal_however_their_log_is_cut(
        steps in steps(1..60),
        cuts in prop::collection::vec(1_usize..9, 1..10),
    ) {
        let entries = entries(steps);
        let mut one = State::default();
        let whole = apply(&mut one, &entries);
        let mut other = State::default();
        let (mut parts, mut rest, mut published) = (Vec::new(), &entries[..], Vec::new());
        for cut in cuts.iter().cycle() {
            let (batch, after) = rest.split_at((*cut).min(rest.len()));
            parts.extend(apply(&mut other, batch));
            published.push((other.clone(), other.hash()));
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(whole, parts);
        prop_assert_eq!(one.hash(), other.hash());
        prop_assert_eq!(dump(&one).collect::<Vec<_>>(), dump(&other).collect::<Vec<_>>());
        // What was published earlier is as it was.
        let mut again = State::default();
        let mut rest = &entries[..];
        for (state, hash) in published {
            let upto = rest.iter().take_while(|(index, _)| *index <= state.applied()).count();
            apply(&mut again, &rest[..upto]);
            rest = &rest[upto..];
            prop_assert_eq!(again.hash(), hash);
            let (again, state): (Vec<_>, Vec<_>) = (dump(&again).collect(), dump(&state).collect());
            prop_assert_eq!(again, state);
        }
    }

    #[test]
    fn a_replica_that_was_restored_from_snapshots_on_its_way_is_equal_at_every_entry(
        steps in steps(1..60),
        restores in prop::collection::vec(any::<bool>(), 1..12),
    ) {
        let entries = entries(steps);
        let (mut one, mut other) = (State::default(), State::default());
        for (entry, restore) in entries.iter().zip(restores.iter().cycle()) {
            let (first, second) =
                (apply(&mut one, std::slice::from_ref(entry)), apply(&mut other, std::slice::from_ref(entry)));
            prop_assert_eq!(first, second, "at {}", entry.0);
            prop_assert_eq!(one.hash(), other.hash(), "at {}", entry.0);
            let blocks: Vec<_> = dump(&one).collect();
            prop_assert_eq!(&blocks, &dump(&other).collect::<Vec<_>>(), "at {}", entry.0);
            if *restore {
                let mut loader = Loader::new();
                for block in &blocks {
                    loader.push(block).expect("a good block");
                }
                other = loader.finish().expect("a good snapshot");
            }
        }
    }

    #[test]
    fn invariants_hold_and_only_changes_change(steps in steps(1..60)) {
        let mut state = State::default();
        for (index, envelope) in entries(steps) {
            let before = content(&state);
            let (outcome, changes) = apply(&mut state, &[(index, envelope.clone())]).remove(0);
            prop_assert_eq!(state.verify(), Ok(()), "{:?}", envelope.command);
            if matches!(outcome, Outcome::Rejected(_)) {
                prop_assert!(changes.is_empty(), "{:?}", envelope.command);
            }
            if changes.is_empty() && !matches!(envelope.command, Command::TombstoneReapV1(_)) {
                prop_assert_eq!(content(&state), before, "{:?}", envelope.command);
            }
            for change in &changes {
                prop_assert_ne!(&change.before, &change.after);
                prop_assert_eq!(change.index, index);
            }
        }
    }

    #[test]
    fn a_copy_of_a_stamped_write_never_applies_again(
        steps in steps(2..60),
        copies in prop::collection::vec((any::<prop::sample::Index>(), 0_u64..100_000), 1..20),
    ) {
        let mut state = State::default();
        let entries = entries(steps);
        let firsts = apply(&mut state, &entries);
        let (mut index, mut now_ms) = (LogIndex(1_000), state.cluster_time_ms());
        for (which, later) in copies {
            let at = which.index(entries.len());
            let mut envelope = entries[at].1.clone();
            if envelope.retry.is_none() {
                continue;
            }
            now_ms += later;
            envelope.cluster_time_ms = now_ms;
            let unapplied = |outcome: &Outcome| matches!(
                outcome,
                Outcome::Rejected(Rejection::OutcomeUnknown | Rejection::TooManyOpen)
            );
            let applied_once = !unapplied(&firsts[at].0);
            let (outcome, changes) = apply(&mut state, &[(index, envelope)]).remove(0);
            if applied_once {
                prop_assert!(changes.is_empty());
                prop_assert!(unapplied(&outcome) || outcome == firsts[at].0);
            }
            index.0 += 1;
        }
    }
}

#[test]
#[should_panic(expected = "log entry 2 was given after 2 had been applied")]
fn an_index_that_does_not_rise_is_a_defect_of_the_driver() {
    let mut state = State::default();
    let entries = entries(vec![(Command::TickV1, None, 0)]);
    apply(&mut state, &entries);
    apply(&mut state, &entries);
}

#[test]
fn random_commands_are_of_every_kind() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut kinds, mut keys) = (Vec::new(), Vec::new());
    for _ in 0..2_000 {
        let command = super::random::command().new_tree(&mut runner).expect("one").current();
        let kind = std::mem::discriminant(&command);
        if let Command::KvV1(kv) = &command {
            let kind = std::mem::discriminant(kv);
            if !keys.contains(&kind) {
                keys.push(kind);
            }
        }
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    // As many as `model::command` has, but for those that a restore is made of.
    assert_eq!((kinds.len(), keys.len()), (10, 7));
}

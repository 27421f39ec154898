//! What concerns the cluster as a whole.

use model::LogIndex;
use model::command::{AutopilotCommandV1, Command, Outcome};
use model::row::AutopilotV1;
use model::rpc::{Body, Op};

use super::fixture::{Machine, NS};
use crate::query;
use crate::snapshot::{Loader, dump};

fn row(min_quorum: u64) -> AutopilotV1 {
    AutopilotV1 { min_quorum, ..AutopilotV1::default() }
}

#[test]
fn autopilot_is_seeded_once_set_and_compared() {
    let mut machine = Machine::at(10);
    let mut run = |command| machine.run(Command::AutopilotV1(command)) == Outcome::Bool(true);
    assert!(!run(AutopilotCommandV1::Cas(row(9), LogIndex(0))), "there is nothing to replace");
    assert!(run(AutopilotCommandV1::Seed(row(1)))); // 12
    assert!(!run(AutopilotCommandV1::Seed(row(9))));
    assert!(run(AutopilotCommandV1::Set(row(2)))); // 14
    assert!(!run(AutopilotCommandV1::Cas(row(9), LogIndex(12))));
    assert!(run(AutopilotCommandV1::Cas(row(3), LogIndex(14)))); // 16
    let answered = query(&machine.state, NS, &Op::AutopilotConfiguration).expect("a read");
    let Body::Autopilot(Some(found)) = answered.body else { panic!("{:?}", answered.body) };
    let (create_index, modify_index) = (LogIndex(12), LogIndex(16));
    assert_eq!(*found, AutopilotV1 { create_index, modify_index, ..row(3) });
    assert_eq!(answered.index, modify_index);
}

#[test]
fn the_state_version_only_rises() {
    let mut machine = Machine::default();
    assert_eq!(machine.state.version(), 1);
    for (to, is) in [(2, 2), (5, 5), (3, 5)] {
        machine.run(Command::StateVersionV1(to));
        assert_eq!(machine.state.version(), is);
    }
}

#[test]
fn both_are_part_of_the_hash_and_of_snapshots() {
    let with = |commands: &[Command]| {
        let mut machine = Machine::default();
        commands.iter().for_each(|command| {
            machine.run(command.clone());
        });
        machine.state
    };
    let set = |quorum| Command::AutopilotV1(AutopilotCommandV1::Set(row(quorum)));
    let states = [
        with(&[set(1)]),
        with(&[set(2)]),
        with(&[Command::StateVersionV1(2)]),
        with(&[Command::StateVersionV1(3)]),
    ];
    for (i, state) in states.iter().enumerate() {
        assert!(states[..i].iter().all(|other| other.hash() != state.hash()));
        let mut loader = Loader::new();
        dump(state).for_each(|block| loader.push(&block).expect("a good block"));
        let loaded = loader.finish().expect("a good snapshot");
        assert_eq!(loaded.autopilot(), state.autopilot());
        assert_eq!(loaded.version(), state.version());
        assert_eq!(loaded.hash(), state.hash());
    }
}

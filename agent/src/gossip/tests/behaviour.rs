//! What members see of each other when nothing is wrong with the network.

use std::collections::BTreeMap;
use std::time::Duration;

use model::seam::{ClusterError, MemberState};

use super::sim::{Sim, config, node_id};
use crate::gossip::handle::Contact;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn twenty_nodes_that_join_one_know_each_other_within_seconds() {
    let mut sim = Sim::new(1);
    for _ in 0..20 {
        sim.add();
    }
    for index in 1..20 {
        sim.join(index, 0);
    }
    let took = sim.run_until(SECOND * 6, "all know all", Sim::all_know_all);
    assert!(took < SECOND * 5, "{took:?}");
    sim.run(SECOND * 60);
    assert_eq!(sim.false_failures(&[]), Vec::<&super::sim::Seen>::new());
    for node in &sim.nodes {
        assert_eq!(node.members.list.len(), 20);
        let names: Vec<_> = node.members.list.iter().map(|member| &*member.name).collect();
        assert!(names.is_sorted());
        assert!(node.members.list.iter().all(|member| member.tag("role") == "node"));
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut sim = Sim::joined(7, 8);
        sim.loss = 0.1;
        sim.kill(3);
        sim.run(SECOND * 30);
        sim.history
    };
    assert_eq!(run(), run());
}

#[test]
fn a_killed_node_is_failed_everywhere_within_nine_seconds_and_nobody_else_is() {
    for seed in 0..20 {
        let mut sim = Sim::joined(seed, 10);
        sim.run(SECOND * 5);
        sim.kill(4);
        let failed = |sim: &Sim| sim.all_hold(4, MemberState::Failed);
        let took = sim.run_until(SECOND * 9, &format!("seed {seed}: failed"), failed);
        assert!(took > SECOND * 3, "seed {seed}: time to refute was {took:?}");
        sim.run(SECOND * 60);
        assert!(sim.false_failures(&[4]).is_empty(), "seed {seed}");
        assert!(sim.all_hold(4, MemberState::Failed));
    }
}

#[test]
fn the_last_of_two_notices_that_the_other_died() {
    let mut sim = Sim::joined(3, 2);
    sim.kill(1);
    sim.run_until(SECOND * 9, "failed", |sim| sim.state(0, 1) == Some(MemberState::Failed));
    sim.restart(1);
    sim.run_until(SECOND * 30, "alive again", |sim| {
        sim.state(0, 1) == Some(MemberState::Alive) && sim.state(1, 0) == Some(MemberState::Alive)
    });
}

#[test]
fn who_leaves_has_left_and_never_failed() {
    for seed in 0..10 {
        let mut sim = Sim::joined(seed, 10);
        sim.run(SECOND * 3);
        sim.with(2, |core, now| core.leave(now));
        assert_eq!(sim.state(2, 2), Some(MemberState::Leaving));
        sim.run_until(SECOND * 4, "may go", |sim| sim.nodes[2].left);
        assert!(sim.nodes[2].peers.as_ref().is_some_and(|peers| peers.left));
        sim.kill(2);
        sim.run_until(SECOND, "left", |sim| sim.all_hold(2, MemberState::Left));
        sim.run(SECOND * 60);
        assert!(sim.all_hold(2, MemberState::Left));
        assert!(sim.false_failures(&[]).is_empty(), "seed {seed}");
        let leaving = sim.history.iter().filter(|seen| seen.state == MemberState::Leaving).count();
        assert!(leaving >= 10, "seed {seed}: {leaving} saw it leaving");
    }
}

#[test]
fn who_leaves_alone_goes_at_once() {
    let mut sim = Sim::new(1);
    sim.add();
    sim.with(0, |core, now| core.leave(now));
    assert!(sim.nodes[0].left);
}

#[test]
fn a_node_that_restarts_is_alive_again_and_its_old_run_is_forgotten() {
    let mut sim = Sim::joined(5, 8);
    sim.kill(3);
    sim.run_until(SECOND * 9, "failed", |sim| sim.all_hold(3, MemberState::Failed));
    sim.restart(3);
    sim.join(3, 0);
    sim.run_until(SECOND * 4, "alive again", Sim::all_know_all);
    // So quickly that nobody noticed.
    let before = sim.history.len();
    sim.restart(3);
    sim.join(3, 1);
    sim.run(SECOND * 30);
    assert!(sim.all_know_all());
    let failed = sim.history[before..].iter().any(|seen| seen.state == MemberState::Failed);
    assert!(!failed, "{:?}", &sim.history[before..]);
}

#[test]
fn a_node_that_left_comes_back() {
    let mut sim = Sim::joined(6, 5);
    sim.with(3, |core, now| core.leave(now));
    sim.run_until(SECOND * 4, "may go", |sim| sim.nodes[3].left);
    sim.kill(3);
    sim.run(SECOND);
    sim.restart(3);
    sim.join(3, 0);
    sim.run_until(SECOND * 4, "alive again", Sim::all_know_all);
    sim.run(SECOND * 20);
    assert!(sim.all_know_all());
}

#[test]
fn a_restart_with_a_clock_set_back_still_comes_back() {
    let mut sim = Sim::joined(8, 5);
    sim.nodes[3].generation = 0;
    sim.kill(3);
    sim.run_until(SECOND * 9, "failed", |sim| sim.all_hold(3, MemberState::Failed));
    sim.restart_as(3, config(3), 5);
    sim.join(3, 0);
    sim.run_until(SECOND * 5, "alive again", Sim::all_know_all);
}

#[test]
fn changed_tags_spread_without_a_new_join() {
    for loss in [0.0, 0.2] {
        let mut sim = Sim::joined(9, 20);
        sim.loss = loss;
        let tags =
            BTreeMap::from([("role".into(), "consul".into()), ("port".into(), "8300".into())]);
        sim.with(7, |core, _| core.set_tags(tags));
        let known = |sim: &Sim| {
            sim.nodes
                .iter()
                .all(|node| node.members.list.iter().any(|m| m.id == node_id(7) && m.is_server()))
        };
        let took = sim.run_until(SECOND * 10, "tags", known);
        assert!(loss > 0.0 || took < SECOND * 3, "{took:?}");
    }
}

#[test]
fn force_leave_turns_failed_into_left_and_prune_forgets() {
    let mut sim = Sim::joined(10, 6);
    assert_eq!(
        sim.with(0, |core, now| core.force_leave(now, "nobody", false)),
        Err(ClusterError::UnknownMember("nobody".to_owned()))
    );
    sim.kill(4);
    sim.kill(5);
    sim.run_until(SECOND * 12, "failed", |sim| {
        sim.all_hold(4, MemberState::Failed) && sim.all_hold(5, MemberState::Failed)
    });
    assert_eq!(sim.with(1, |core, now| core.force_leave(now, "N4", false)), Ok(()));
    assert_eq!(sim.with(2, |core, now| core.force_leave(now, "n5", true)), Ok(()));
    sim.run_until(SECOND * 3, "left and pruned", |sim| {
        sim.all_hold(4, MemberState::Left) && (0..4).all(|by| sim.state(by, 5).is_none())
    });
    sim.run(SECOND * 60);
    assert!((0..4).all(|by| sim.state(by, 5).is_none()), "nobody brings it back");
    sim.restart(5);
    sim.join(5, 0);
    sim.run_until(SECOND * 4, "back", Sim::all_know_all);
}

#[test]
fn a_live_node_that_is_forced_to_leave_comes_back() {
    let mut sim = Sim::joined(11, 6);
    assert_eq!(sim.with(1, |core, now| core.force_leave(now, "n4", false)), Ok(()));
    sim.run(SECOND * 5);
    assert!(sim.all_know_all());
    sim.kill(4);
    sim.run_until(SECOND * 9, "failed, not left", |sim| sim.all_hold(4, MemberState::Failed));
}

#[test]
fn the_gone_are_forgotten_in_time() {
    let mut sim = Sim::joined(12, 3);
    for node in &mut sim.nodes {
        node.core.config.reconnect_timeout = SECOND * 120;
        node.core.config.tombstone_timeout = SECOND * 60;
    }
    sim.with(1, |core, now| core.leave(now));
    sim.run(SECOND * 4);
    sim.kill(1);
    sim.kill(2);
    sim.run(SECOND * 40);
    assert_eq!(sim.state(0, 1), Some(MemberState::Left));
    assert_eq!(sim.state(0, 2), Some(MemberState::Failed));
    sim.run(SECOND * 40);
    assert_eq!((sim.state(0, 1), sim.state(0, 2)), (None, Some(MemberState::Failed)));
    sim.run(SECOND * 80);
    assert_eq!(sim.nodes[0].members.list.len(), 1);
}

#[test]
fn a_hint_finds_the_dead_sooner_and_does_the_living_no_harm() {
    let mut sim = Sim::joined(13, 30);
    sim.kill(9);
    sim.with(2, |core, now| core.probe_now(now, &node_id(9)));
    sim.with(2, |core, now| core.probe_now(now, &node_id(10)));
    let failed = |sim: &Sim| sim.all_hold(9, MemberState::Failed);
    sim.run_until(Duration::from_millis(5_500), "failed", failed);
    assert!(sim.false_failures(&[9]).is_empty());
}

#[test]
fn joins_that_would_do_harm_are_refused_by_kind() {
    let mut sim = Sim::joined(14, 3);
    let mut try_join = |change: &dyn Fn(&mut crate::gossip::GossipConfig)| {
        let index = sim.add();
        let mut settings = config(index);
        change(&mut settings);
        sim.restart_as(index, settings, 1);
        let token = sim.join(index, 0);
        sim.run(SECOND);
        sim.kill(index);
        sim.nodes[index].joins.remove(&token).expect("ended")
    };
    let text = |result: Result<Contact, ClusterError>| result.expect_err("refused").to_string();
    let wrong = text(try_join(&|config| config.datacenter = "dc2".to_owned()));
    assert_eq!(wrong, "Member 'n3' part of wrong datacenter 'dc2'");
    let taken = text(try_join(&|config| config.node_name = "N1".to_owned()));
    assert!(taken.contains("node name 'N1' is taken by the live node"), "{taken}");
    let own = text(try_join(&|config| config.node_name = "n0".to_owned()));
    assert!(own.contains("'n0' is taken"), "{own}");
    let conflict = text(try_join(&|config| config.node_id = node_id(1)));
    assert!(conflict.contains("conflicting node ID"), "{conflict}");
    let label = text(try_join(&|config| config.label = "other".to_owned()));
    assert!(label.contains("another cluster"), "{label}");
    let ourselves = {
        let token = sim.join(0, 0);
        sim.run(SECOND);
        sim.nodes[0].joins.remove(&token).expect("ended")
    };
    assert_eq!(ourselves, Ok(Contact::Ourselves));
    let nobody = {
        sim.kill(2);
        let token = sim.join(0, 2);
        sim.run(SECOND);
        sim.nodes[0].joins.remove(&token).expect("ended")
    };
    assert_eq!(text(nobody), "connection refused");
}

#[test]
fn a_wiped_node_that_restarts_gets_its_name_back_once_its_old_self_is_found_dead() {
    let mut sim = Sim::joined(17, 4);
    sim.kill(3);
    let index = sim.add();
    let mut settings = config(index);
    settings.node_name = "n3".to_owned();
    sim.restart_as(index, settings, 1);
    let token = sim.join(index, 0);
    sim.run(SECOND);
    assert!(sim.nodes[index].joins.remove(&token).is_some_and(|result| result.is_err()));
    sim.run(SECOND * 5);
    sim.join(index, 0);
    sim.run_until(SECOND * 4, "known", |sim| {
        (0..3).all(|by| sim.state(by, index) == Some(MemberState::Alive))
    });
}

#[test]
fn a_name_can_be_taken_over_from_the_dead() {
    let mut sim = Sim::joined(15, 4);
    sim.kill(3);
    sim.run_until(SECOND * 9, "failed", |sim| sim.all_hold(3, MemberState::Failed));
    let index = sim.add();
    let mut settings = config(index);
    settings.node_name = "n3".to_owned();
    sim.restart_as(index, settings, 1);
    sim.join(index, 0);
    sim.run_until(SECOND * 4, "known", |sim| {
        (0..3).all(|by| sim.state(by, index) == Some(MemberState::Alive))
    });
    assert!((0..3).all(|by| sim.state(by, 3).is_none()), "one member per name");
}

#[test]
fn a_new_node_is_told_of_those_that_failed() {
    let mut sim = Sim::joined(16, 4);
    sim.kill(3);
    sim.run_until(SECOND * 9, "failed", |sim| sim.all_hold(3, MemberState::Failed));
    let new = sim.add();
    sim.join(new, 0);
    sim.run(SECOND * 2);
    assert_eq!(sim.state(new, 3), Some(MemberState::Failed));
    sim.restart(3);
    sim.join(3, 1);
    sim.run_until(SECOND * 4, "back", Sim::all_know_all);
}

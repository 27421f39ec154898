//! What members see of each other when the network fails them.

use std::time::Duration;

use foca::{Member as Update, State};
use model::seam::MemberState;

use super::sim::{Sim, node_id};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_cut_between_two_heals() {
    let mut sim = Sim::joined(1, 2);
    sim.cut = [1].into();
    sim.run_until(SECOND * 10, "both failed", |sim| {
        sim.state(0, 1) == Some(MemberState::Failed) && sim.state(1, 0) == Some(MemberState::Failed)
    });
    sim.run(SECOND * 60);
    sim.cut.clear();
    sim.run_until(SECOND * 45, "healed", Sim::all_know_all);
    sim.run(SECOND * 30);
    assert!(sim.all_know_all());
}

#[test]
fn a_cut_through_ten_heals_within_seconds_of_the_first_contact() {
    for seed in 0..5 {
        let mut sim = Sim::joined(seed, 10);
        sim.cut = (5..10).collect();
        sim.run_until(SECOND * 20, "sides failed", |sim| {
            (0..5).all(|a| {
                (5..10).all(|b| {
                    sim.state(a, b) == Some(MemberState::Failed)
                        && sim.state(b, a) == Some(MemberState::Failed)
                })
            })
        });
        sim.run(SECOND * 90);
        sim.cut.clear();
        let took = sim.run_until(SECOND * 30, &format!("seed {seed}: healed"), Sim::all_know_all);
        assert!(took < SECOND * 25, "seed {seed}: {took:?}");
        let before = sim.history.len();
        sim.run(SECOND * 60);
        assert!(sim.all_know_all());
        assert_eq!(sim.history.len(), before, "seed {seed}: nobody flaps afterwards");
    }
}

#[test]
fn ten_percent_loss_for_five_minutes_fails_nobody() {
    for seed in 0..3 {
        let mut sim = Sim::joined(seed, 20);
        sim.loss = 0.1;
        sim.run(SECOND * 300);
        assert!(sim.false_failures(&[]).is_empty(), "seed {seed}: {:?}", sim.false_failures(&[]));
        assert!(sim.all_know_all());
        sim.kill(3);
        sim.run_until(SECOND * 20, "the dead are still found", |sim| {
            sim.all_hold(3, MemberState::Failed)
        });
    }
}

#[test]
fn a_node_cut_off_for_a_moment_is_alive_again_soon() {
    let mut sim = Sim::joined(4, 10);
    sim.cut = [9].into();
    sim.run(SECOND * 15);
    assert!((0..9).all(|by| sim.state(by, 9) == Some(MemberState::Failed)));
    sim.cut.clear();
    let took = sim.run_until(SECOND * 20, "alive again", Sim::all_know_all);
    assert!(took < SECOND * 15, "{took:?}");
    sim.run(SECOND * 30);
    assert!(sim.all_know_all());
}

#[test]
fn one_voice_does_not_make_a_node_give_up_its_identity_two_do() {
    let mut sim = Sim::joined(5, 5);
    let own = sim.nodes[0].core.own();
    let voice = |sim: &mut Sim, of: usize| {
        let id = sim.nodes[of].core.own();
        sim.with(0, |core, now| core.on_turn_undead(now, &id, 0));
    };
    voice(&mut sim, 1);
    voice(&mut sim, 1);
    assert_eq!(sim.nodes[0].core.own(), own, "the same voice twice is one");
    assert!(sim.with(0, |core, _| core.own_incarnation()) > 0, "but it refutes");
    sim.run(SECOND * 11);
    voice(&mut sim, 2);
    assert_eq!(sim.nodes[0].core.own(), own, "too late for the first to count");
    voice(&mut sim, 3);
    assert_eq!(sim.nodes[0].core.own().generation, own.generation + 1);
    sim.run(SECOND * 10);
    assert!(sim.all_know_all());
    assert!(sim.false_failures(&[]).is_empty(), "a new identity is no failure");
}

#[test]
fn in_a_cluster_of_two_one_voice_is_enough() {
    let mut sim = Sim::joined(6, 2);
    let (own, other) = (sim.nodes[0].core.own(), sim.nodes[1].core.own());
    sim.with(0, |core, now| core.on_turn_undead(now, &other, 0));
    assert_eq!(sim.nodes[0].core.own().generation, own.generation + 1);
}

#[test]
fn a_stale_down_buries_nobody_and_a_true_one_can_be_refuted() {
    let mut sim = Sim::joined(7, 4);
    let victim = sim.nodes[2].core.own();
    // The victim has refuted once; everybody knows.
    sim.with(2, |core, now| core.refute(now, None));
    sim.run(SECOND * 3);
    let admit = |sim: &mut Sim, incarnation, broadcast| {
        sim.with(0, |core, now| {
            let down = Update::new(victim, incarnation, State::Down);
            let down = core.known.borrow_mut().admit(&down, None);
            core.apply(now, vec![down], broadcast);
        });
    };
    admit(&mut sim, 0, true);
    assert_eq!(sim.state(0, 2), Some(MemberState::Alive), "stale");
    // Only one believes it, so that there is one voice.
    admit(&mut sim, 1, false);
    assert_eq!(sim.state(0, 2), Some(MemberState::Failed));
    sim.run_until(SECOND * 10, "refuted", Sim::all_know_all);
    sim.run(SECOND * 20);
    assert!(sim.all_know_all());
    assert_eq!(sim.nodes[2].core.own().generation, victim.generation, "by incarnation alone");
}

#[test]
fn a_node_told_that_it_is_down_refutes_instead_of_believing_it() {
    let mut sim = Sim::joined(8, 3);
    let own = sim.nodes[1].core.own();
    sim.with(1, |core, now| {
        let down = Update::new(own, 0, State::Down);
        let heard = core.known.borrow_mut().admit(&down, None);
        assert_eq!((*heard.id(), heard.state()), (own, State::Suspect));
        core.apply(now, vec![heard], true);
    });
    assert_eq!(sim.with(1, |core, _| core.own_incarnation()), 1);
    assert_eq!(sim.nodes[1].core.own(), own);
}

#[test]
fn a_refuted_suspicion_sends_nobody_away() {
    // foca 2.0.0 sends TurnUndead when the timer of a refuted suspicion fires.
    let mut sim = Sim::joined(9, 6);
    let id = sim.nodes[3].core.own();
    let token = 0..=u8::MAX; // whichever foca uses now
    for token in token {
        let timer = foca::Timer::ChangeSuspectToDown { member_id: id, incarnation: 0, token };
        sim.with(1, |core, now| {
            core.timers.push(now, crate::gossip::timers::Due::Foca(timer));
            core.on_time(now);
        });
    }
    sim.run(SECOND * 10);
    assert!(sim.all_know_all());
    assert_eq!(sim.nodes[3].core.own(), id);
    assert_eq!(sim.with(3, |core, _| core.own_incarnation()), 0, "nobody told it anything");
}

#[test]
fn names_are_known_even_when_every_broadcast_of_them_was_lost() {
    let mut sim = Sim::joined(10, 6);
    sim.loss = 0.5;
    let new = sim.add();
    sim.join(new, 0);
    sim.run_until(SECOND * 30, "known", |sim| {
        (0..6).all(|by| sim.nodes[by].members.list.iter().any(|m| m.id == node_id(new)))
    });
}

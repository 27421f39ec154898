//! Member state x catalog -> commands.

use std::sync::Arc;

use model::command::EnvelopeV1;

use super::*;
use crate::endpoint::fake::{member, rows};

fn members(list: Vec<Arc<Member>>) -> Members {
    Members { sequence: 1, list }
}

fn reconcile() -> CatalogReconcile {
    CatalogReconcile::new(NodeId([1; 16]), "dc1".into())
}

fn apply(state: &mut State, commands: Vec<Command>) {
    for command in commands {
        let index = LogIndex(state.applied().0 + 1);
        let envelope = EnvelopeV1 {
            namespace: NAMESPACE.into(),
            retry: None,
            actor: "".into(),
            reason: "".into(),
            cluster_time_ms: 0,
            wall_ms: 0,
            command,
        };
        state::apply(state, &[(index, envelope)]);
    }
}

/// The catalog after gossip said this.
fn caught_up(list: &[Arc<Member>]) -> State {
    let mut state = State::default();
    let plan = reconcile().plan(&members(list.to_vec()), &[], &state, Instant::now());
    apply(&mut state, plan);
    state
}

/// `name status`, `name gone`.
fn said(plan: &[Command]) -> Vec<String> {
    plan.iter()
        .map(|command| match command {
            Command::RegisterV1(r) => format!("{} {}", r.node.name, r.checks[0].status.as_str()),
            Command::DeregisterV1(d) => format!("{} gone", d.node),
            other => format!("{other:?}"),
        })
        .collect()
}

use MemberState::{Alive, Failed, Leaving, Left};

#[tokio::test(start_paused = true)]
async fn each_member_state_meets_each_catalog() {
    let now = Instant::now();
    let alive = caught_up(&[member(2, Alive, false, &[])]);
    let failed = {
        let mut state = alive.clone();
        let plan =
            reconcile().plan(&members(vec![member(2, Failed, false, &[])]), &[], &state, now);
        apply(&mut state, plan);
        state
    };
    let external = {
        let mut state = State::default();
        let node = NodeV1 { id: None, ..rows::node("n2", 2) };
        let (skip_node_update, services, checks) = (false, vec![], vec![]);
        let register = RegisterV1 { node, skip_node_update, services, checks };
        apply(&mut state, vec![Command::RegisterV1(register)]);
        state
    };
    let replaced = caught_up(&[{
        let mut other = (*member(2, Alive, false, &[])).clone();
        other.id = NodeId([9; 16]);
        Arc::new(other)
    }]);
    let none = State::default();
    for (number, (state, catalog, wanted)) in [
        (Alive, &none, vec!["n2 passing"]),
        (Alive, &alive, vec![]),
        (Alive, &failed, vec!["n2 passing"]),
        (Alive, &external, vec!["n2 passing"]),
        (Leaving, &alive, vec![]),
        (Failed, &none, vec![]),
        (Failed, &alive, vec!["n2 critical"]),
        (Failed, &failed, vec![]),
        (Failed, &external, vec![]),
        (Failed, &replaced, vec![]),
        (Left, &none, vec![]),
        (Left, &alive, vec!["n2 gone"]),
        (Left, &failed, vec!["n2 gone"]),
        (Left, &external, vec![]),
        (Left, &replaced, vec![]),
    ]
    .into_iter()
    .enumerate()
    {
        let plan =
            reconcile().plan(&members(vec![member(2, state, false, &[])]), &[], catalog, now);
        assert_eq!(said(&plan), wanted, "case {number}: {state:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_gets_service_consul_and_what_is_right_is_not_written_again() {
    let list = [member(1, Alive, true, &[("raft_vsn", "3"), ("grpc_port", "8502")])];
    let mut state = caught_up(&list);
    let service = state.service(NAMESPACE, "n1", "consul").expect("there");
    let meta = service.meta.clone().expect("there");
    assert_eq!((service.port, &*meta["version"], &*meta["non_voter"]), (8300, "1.21.4", "false"));
    assert_eq!((&*meta["grpc_port"], meta.len()), ("8502", 9));
    let check = state.check(NAMESPACE, "n1", SERF_HEALTH).expect("there");
    assert_eq!((&*check.output, check.status), ("Agent alive and reachable", Status::Passing));
    let now = Instant::now();
    assert_eq!(reconcile().plan(&members(list.to_vec()), &[], &state, now), []);

    // The agent says more about its node; a move of the server must not lose it.
    let node = NodeV1 {
        tagged_addresses: Some([("wan".into(), "10.0.0.1".into())].into()),
        meta: Some([("rack".into(), "7".into())].into()),
        ..rows::node("n1", 1)
    };
    let (skip_node_update, services, checks) = (false, vec![], vec![]);
    let register = RegisterV1 { node, skip_node_update, services, checks };
    apply(&mut state, vec![Command::RegisterV1(register)]);
    let moved = [member(1, Alive, true, &[("port", "8400"), ("grpc_port", "8502")])];
    let plan = reconcile().plan(&members(moved.to_vec()), &[], &state, now);
    assert_eq!(said(&plan), ["n1 passing"]);
    apply(&mut state, plan);
    let node = state.node(NAMESPACE, "n1").expect("there");
    assert_eq!(&*node.meta.clone().expect("kept")["rack"], "7");
    assert!(node.tagged_addresses.is_some());
    assert_eq!(state.service(NAMESPACE, "n1", "consul").map(|s| s.port), Some(8400));
    assert_eq!(reconcile().plan(&members(moved.to_vec()), &[], &state, now), []);
}

#[tokio::test(start_paused = true)]
async fn we_never_deregister_ourselves_and_other_datacenters_are_not_ours() {
    let now = Instant::now();
    let state = caught_up(&[member(1, Alive, true, &[])]);
    let left = members(vec![member(1, Left, true, &[])]);
    assert_eq!(reconcile().plan(&left, &[], &state, now), []);
    let foreign =
        members(vec![member(1, Alive, true, &[]), member(3, Alive, false, &[("dc", "dc2")])]);
    assert_eq!(reconcile().plan(&foreign, &[], &state, now), []);
}

#[tokio::test(start_paused = true)]
async fn a_left_member_whose_name_lives_on_is_not_deregistered() {
    let now = Instant::now();
    let state = caught_up(&[member(2, Alive, false, &[])]);
    let both = members(vec![member(2, Alive, false, &[]), member(2, Left, false, &[])]);
    assert_eq!(reconcile().plan(&both, &[], &state, now), []);
}

#[tokio::test(start_paused = true)]
async fn what_gossip_does_not_know_is_given_time() {
    let start = Instant::now();
    let mut state = caught_up(&[member(1, Alive, true, &[]), member(2, Alive, false, &[])]);
    let alone = members(vec![member(1, Alive, true, &[])]);
    let mut reconcile = reconcile();
    let mut history = Vec::new();
    for second in (0..700).step_by(10) {
        let plan = reconcile.plan(&alone, &[], &state, start + Duration::from_secs(second));
        history.extend(said(&plan).into_iter().map(|what| (second, what)));
        apply(&mut state, plan);
    }
    assert_eq!(history, [(60, "n2 critical".to_owned()), (600, "n2 gone".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn what_gossip_has_forgotten_goes_at_once() {
    let now = Instant::now();
    let state = caught_up(&[member(1, Alive, true, &[]), member(2, Alive, false, &[])]);
    let mut reconcile = reconcile();
    let both = members(vec![member(1, Alive, true, &[]), member(2, Alive, false, &[])]);
    assert_eq!(reconcile.plan(&both, &[], &state, now), []);
    let one = members(vec![member(1, Alive, true, &[])]);
    // Until it is done.
    for _ in 0..2 {
        assert_eq!(said(&reconcile.plan(&one, &[], &state, now)), ["n2 gone"]);
    }
}

/// A leader leads because a quorum hears it: gossip that holds most servers for dead is cut off.
#[tokio::test(start_paused = true)]
async fn gossip_that_sees_no_quorum_of_servers_condemns_nobody() {
    let start = Instant::now();
    let voters = [1, 2, 3].map(|number| NodeId([number; 16]));
    let all = [
        member(1, Alive, true, &[]),
        member(2, Alive, true, &[]),
        member(3, Alive, true, &[]),
        member(4, Alive, false, &[]),
    ];
    let mut state = caught_up(&all);
    let mut reconcile = reconcile();
    let cut_off = members(vec![
        member(1, Alive, true, &[]),
        member(2, Failed, true, &[]),
        member(4, Failed, false, &[]),
        member(5, Alive, false, &[]),
    ]);
    let plan = reconcile.plan(&cut_off, &voters, &state, start);
    assert_eq!(said(&plan), ["n5 passing"], "who is seen is taken in");
    apply(&mut state, plan);
    let later = start + UNKNOWN_GONE_AFTER * 2;
    assert_eq!(reconcile.plan(&cut_off, &voters, &state, later), []);
    // One server is back: what gossip says counts again, and what it does not know has time again.
    let seeing = members(vec![
        member(1, Alive, true, &[]),
        member(2, Alive, true, &[]),
        member(4, Failed, false, &[]),
        member(5, Alive, false, &[]),
    ]);
    let plan = reconcile.plan(&seeing, &voters, &state, later);
    assert_eq!(said(&plan), ["n4 critical"]);
    let much_later = later + UNKNOWN_GONE_AFTER;
    apply(&mut state, plan);
    assert_eq!(said(&reconcile.plan(&seeing, &voters, &state, much_later)), ["n3 gone"]);
}

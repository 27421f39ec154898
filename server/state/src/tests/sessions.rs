//! Sessions: creation, everything that ends them, and what their end brings.

use model::command::KvCommandV1::{Delete, Lock, Unlock};
use model::command::{Command, Outcome, Rejection};
use model::row::{ServiceCheckRefV1, SessionBehavior, SessionV1, Status};
use model::rpc::{Body, Op};

use super::fixture::{Machine, NS, bytes, check, list, node, put, service, session, sid};
use crate::change::{Key, Table};

fn create(machine: &mut Machine, session: SessionV1) -> Outcome {
    machine.run(Command::SessionCreateV1(session))
}

#[test]
fn creation_needs_its_node_and_checks_that_are_not_critical() {
    let mut machine = Machine::default();
    assert_eq!(
        create(&mut machine, session(1, "n1", &[])),
        Outcome::Rejected(Rejection::SessionNode)
    );
    machine.register(
        node("n1", 1),
        vec![service("web", "web", &[])],
        vec![check("n1", "bad", Status::Critical, ""), check("n1", "meh", Status::Warning, "web")],
    );
    let texts = [
        (&["none"][..], "apply failed: Missing check 'none' registration"),
        (&["meh", "bad"], "apply failed: Check 'bad' is in critical state"),
    ];
    for (checks, text) in texts {
        let Outcome::Rejected(why) = create(&mut machine, session(1, "n1", checks)) else {
            panic!("{checks:?} must be refused")
        };
        assert_eq!(why.to_string(), text);
    }
    // In whatever form a check is given.
    let by_service = SessionV1 {
        service_checks: Some(vec![ServiceCheckRefV1 { id: "bad".into(), namespace: "".into() }]),
        ..session(1, "n1", &[])
    };
    assert!(matches!(create(&mut machine, by_service), Outcome::Rejected(_)));
    let old_form = SessionV1 { checks: vec!["bad".into()], ..session(1, "n1", &[]) };
    assert!(matches!(create(&mut machine, old_form), Outcome::Rejected(_)));
    assert_eq!(create(&mut machine, session(1, "N1", &["MEH"])), Outcome::Done);
    assert!(matches!(create(&mut machine, session(1, "n1", &[])), Outcome::Rejected(_)));
}

/// Everything that ends a session, and two things that look like it.
#[test]
fn sessions_end_with_what_they_depend_on() {
    type Step = fn(&mut Machine);
    let cases: &[(&str, bool, Step)] = &[
        ("destroyed", true, |m| {
            m.run(Command::SessionDestroyV1(sid(1)));
        }),
        ("node deregistered", true, |m| m.deregister("N1", None, None)),
        ("check deregistered", true, |m| m.deregister("n1", None, Some("alive"))),
        ("service of the check deregistered", true, |m| m.deregister("n1", Some("web"), None)),
        ("check critical", true, |m| {
            m.register(node("n1", 1), vec![], vec![check("n1", "Alive", Status::Critical, "web")]);
        }),
        ("node renamed", true, |m| {
            m.register(node("other", 1), vec![], vec![]);
        }),
        ("check warning", false, |m| {
            m.register(node("n1", 1), vec![], vec![check("n1", "alive", Status::Warning, "web")]);
        }),
        ("other check critical", false, |m| {
            m.register(node("n1", 1), vec![], vec![check("n1", "other", Status::Critical, "")]);
        }),
        ("another destroyed", false, |m| {
            m.run(Command::SessionDestroyV1(sid(2)));
        }),
    ];
    for behavior in [SessionBehavior::Release, SessionBehavior::Delete] {
        for (what, ends, step) in cases {
            let mut machine = Machine::default();
            machine.register(
                node("n1", 1),
                vec![service("web", "web", &[])],
                vec![check("n1", "alive", Status::Passing, "web")],
            );
            let session = SessionV1 { behavior, ..session(1, "n1", &["alive"]) };
            assert_eq!(create(&mut machine, session), Outcome::Done);
            machine.set("free", "x");
            assert!(machine.kv(Lock(put("held", "x"), sid(1))));
            step(&mut machine);
            let ended = machine.state.session(NS, sid(1)).is_none();
            assert_eq!(ended, *ends, "{what}");
            let row = machine.row("held");
            match (ends, behavior) {
                (false, _) => assert_eq!(row.expect("stays").session, Some(sid(1)), "{what}"),
                (true, SessionBehavior::Release) => {
                    let row = row.expect("stays");
                    assert_eq!((row.session, row.lock_index, row.version), (None, 1, 2), "{what}");
                    assert_eq!((&row.value[..], row.modify_index.0), (&b"x"[..], machine.index));
                }
                (true, SessionBehavior::Delete) => {
                    assert_eq!(row, None, "{what}");
                    assert_eq!(machine.index_of(&list("held")), machine.index, "{what}: tombstone");
                }
            }
            assert!(machine.row("free").is_some(), "{what}");
            if *ends {
                assert_eq!(machine.index_of(&Op::SessionList), machine.index, "{what}");
                let tables: Vec<Table> = machine.changes.iter().map(|c| c.table).collect();
                let at = |table| tables.iter().position(|t| *t == table);
                assert!(at(Table::Sessions) < at(Table::Kv), "{what}: session first, then keys");
            }
        }
    }
}

#[test]
fn an_unchanged_critical_check_still_ends_sessions() {
    let mut machine = Machine::default();
    let bad = || vec![check("n1", "c", Status::Critical, "")];
    machine.register(node("n1", 1), vec![], bad());
    // A session cannot be bound to a critical check; with a second node name case it stays so.
    machine.register(node("n1", 1), vec![], vec![check("n1", "c", Status::Passing, "")]);
    create(&mut machine, session(1, "n1", &["c"]));
    machine.register(node("n1", 1), vec![], bad());
    assert_eq!(machine.state.session(NS, sid(1)), None);
    machine.register(node("n1", 1), vec![], bad());
    assert_eq!(machine.changes, []);
}

#[test]
fn a_lost_lock_is_refused_to_all_for_the_delay_and_a_given_one_is_not() {
    // Delay asked for in nanoseconds, delay in milliseconds that counts.
    for (asked, counts) in
        [(0, 0), (1, 1), (15_000_000_000, 15_000), (60_000_000_000, 60_000), (u64::MAX, 60_000)]
    {
        let mut machine = Machine { now_ms: 1_000, ..Machine::default() };
        machine.register(node("n1", 1), vec![], vec![]);
        let lossy = SessionV1 { lock_delay_ns: asked, ..session(1, "n1", &[]) };
        create(&mut machine, lossy);
        create(&mut machine, session(2, "n1", &[]));
        assert!(machine.kv(Lock(put("k", "x"), sid(1))));
        machine.run(Command::SessionDestroyV1(sid(1)));
        machine.now_ms += counts;
        if counts > 0 {
            machine.now_ms -= 1;
            assert!(!machine.kv(Lock(put("k", "y"), sid(2))), "{asked} ns");
            // Also for a session that does not exist, as Consul's leader asks this first.
            assert!(!machine.kv(Lock(put("k", "y"), sid(9))), "{asked} ns");
            assert!(machine.kv(Lock(put("other", "y"), sid(2))), "only the key that was held");
            machine.now_ms += 1;
        }
        assert!(machine.kv(Lock(put("k", "y"), sid(2))), "{asked} ns");
        // Released by its holder, or deleted: at once free for others.
        create(&mut machine, session(3, "n1", &[]));
        assert!(machine.kv(Unlock(put("k", "y"), sid(2))));
        assert!(machine.kv(Lock(put("k", "y"), sid(3))), "{asked} ns");
        assert!(machine.kv(Delete(bytes("k"))));
        assert!(machine.kv(Lock(put("k", "y"), sid(2))), "{asked} ns");
    }
}

#[test]
fn deleted_keys_of_an_ended_session_are_delayed_too() {
    let mut machine = Machine::default();
    machine.with_session(1, SessionBehavior::Delete);
    machine.with_session(2, SessionBehavior::Release);
    assert!(machine.kv(Lock(put("k", "x"), sid(1))));
    machine.run(Command::SessionDestroyV1(sid(1)));
    assert!(!machine.kv(Lock(put("k", "x"), sid(2))));
    machine.now_ms += 15_000;
    // Time that goes back in a stamp does not bring the delay back.
    machine.run(Command::TickV1);
    machine.now_ms = 0;
    assert!(machine.kv(Lock(put("k", "x"), sid(2))));
    assert_eq!(machine.state.cluster_time_ms(), 15_000);
}

#[test]
fn reads_find_sessions_by_id_node_and_ttl() {
    let mut machine = Machine::default();
    machine.register(node("n1", 1), vec![], vec![]);
    machine.register(node("n2", 2), vec![], vec![]);
    create(&mut machine, SessionV1 { ttl: "10s".into(), ttl_ms: 10_000, ..session(7, "n1", &[]) });
    create(&mut machine, session(3, "N1", &[]));
    create(&mut machine, session(5, "n2", &[]));
    assert_eq!(machine.state.sessions_with_ttl(), [(sid(7), 10_000)]);
    let ids = |op: Op| match machine.ask(&op).body {
        Body::Sessions(rows) => rows.iter().map(|row| row.id.0[0]).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(ids(Op::SessionList), [3, 5, 7]);
    assert_eq!(ids(Op::SessionsOfNode { node: "N1".into() }), [3, 7]);
    assert_eq!(ids(Op::SessionsOfNode { node: "n3".into() }), [0; 0]);
    let by_id = |id: &str| Op::SessionGet { id: id.into() };
    assert_eq!(ids(by_id("05050505-0505-0505-0505-050505050505")), [5]);
    for id in ["06060606-0606-0606-0606-060606060606", "no uuid", ""] {
        let answer = machine.ask(&by_id(id));
        assert!(answer.missing && answer.index.0 == machine.index, "{id}");
    }
    machine.run(Command::SessionDestroyV1(sid(7)));
    assert_eq!(machine.state.sessions_with_ttl(), []);
    assert!(matches!(machine.changes[0].key, Key::Session(id) if id == sid(7)));
    machine.run(Command::SessionDestroyV1(sid(7)));
    assert_eq!(machine.changes, [], "an unknown session is success without effect");
}

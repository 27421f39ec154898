//! Registration: idempotency, names and ids, checks; deregistration.

use model::command::{Command, Outcome, RegisterV1};
use model::row::{CheckV1, NodeV1, ServiceV1, Status};
use model::rpc::{Body, Op};

use super::fixture::{Machine, NS, check, health, node, register, service};

fn text(outcome: Outcome) -> String {
    match outcome {
        Outcome::Rejected(why) => why.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_registered_again_unchanged_moves_nothing() {
    let meta = |n: NodeV1| NodeV1 { meta: Some([("k".into(), "v".into())].into()), ..n };
    let full = || {
        register(
            meta(node("n1", 1)),
            vec![service("web-1", "web", &["a", "b"])],
            vec![
                check("n1", "serfHealth", Status::Passing, ""),
                check("n1", "service:web-1", Status::Warning, "web-1"),
            ],
        )
    };
    let mut machine = Machine::default();
    assert_eq!(machine.run(full()), Outcome::Done);
    assert_eq!(machine.changes.len(), 4);
    let before = machine.state.clone();
    let alike: Vec<(&str, Command)> = vec![
        ("all of it", full()),
        ("names in other case", register(meta(node("N1", 1)), vec![], vec![])),
        ("without id", register(meta(node("n1", 0)), vec![], vec![])),
        (
            "empty for absent",
            register(
                NodeV1 { tagged_addresses: Some([].into()), ..meta(node("n1", 1)) },
                vec![ServiceV1 { meta: Some([].into()), ..service("web-1", "web", &["a", "b"]) }],
                vec![],
            ),
        ),
        (
            "skipping the node",
            Command::RegisterV1(RegisterV1 {
                node: NodeV1 { address: "elsewhere".into(), ..node("n1", 9) },
                skip_node_update: true,
                services: vec![],
                checks: vec![],
            }),
        ),
    ];
    for (what, command) in alike {
        assert_eq!(machine.run(command), Outcome::Done, "{what}");
        assert_eq!(machine.changes, [], "{what}");
        assert_eq!(machine.state.space(NS).indexes, before.space(NS).indexes, "{what}");
    }
    let different: Vec<(&str, Command, usize)> = vec![
        ("metadata left out is cleared", register(node("n1", 1), vec![], vec![]), 1),
        (
            "order of tags",
            register(node("n1", 1), vec![service("web-1", "web", &["b", "a"])], vec![]),
            1,
        ),
        (
            "output of a check, which also takes the new tags",
            register(
                node("n1", 1),
                vec![],
                vec![CheckV1 {
                    output: "slow".into(),
                    ..check("n1", "service:web-1", Status::Warning, "web-1")
                }],
            ),
            1,
        ),
    ];
    for (what, command, changes) in different {
        assert_eq!(machine.run(command), Outcome::Done, "{what}");
        assert_eq!(machine.changes.len(), changes, "{what}");
    }
    let row = machine.state.check(NS, "n1", "service:web-1").expect("exists");
    assert_eq!((&*row.service_name, row.service_tags.len()), ("web", 2));
    assert_eq!(&*row.service_tags[0], "b");
    assert_eq!((row.create_index.0, row.modify_index.0), (1, machine.index));
}

#[test]
fn all_or_nothing() {
    let mut machine = Machine::default();
    let refused = machine.register(
        node("n1", 1),
        vec![service("web", "web", &[])],
        vec![check("n1", "c", Status::Passing, "other")],
    );
    let why = "failed inserting check on node \"n1\": Missing service registration";
    assert_eq!(text(refused), why);
    assert!(machine.state.spaces.is_empty());
    machine.register(node("n1", 1), vec![service("web", "web", &[])], vec![]);
    assert_eq!(text(machine.register(node("", 1), vec![], vec![])), "Must provide node");
    let known =
        machine.register(node("n1", 1), vec![], vec![check("", "c", Status::Passing, "WEB")]);
    assert_eq!(known, Outcome::Done, "the service may be registered already");
}

#[test]
fn a_skipped_node_is_created_when_missing_and_gets_its_id_later() {
    let mut machine = Machine::default();
    let first = NodeV1 { address: "".into(), ..node("n1", 0) };
    let skipping = RegisterV1 {
        node: first,
        skip_node_update: true,
        services: vec![service("web", "web", &[])],
        checks: vec![],
    };
    machine.run(Command::RegisterV1(skipping));
    assert_eq!(machine.instances(&health("web")), ["n1/web"]);
    assert_eq!(machine.register(node("n1", 1), vec![], vec![]), Outcome::Done);
    let row = machine.state.node_by_id(NS, node("", 1).id.expect("has one")).expect("adopted");
    assert_eq!((row.create_index.0, row.modify_index.0), (1, 2));
    assert_eq!(machine.instances(&health("web")), ["n1/web"], "services stay");
}

#[test]
fn names_and_ids_of_nodes() {
    let serf = |status| vec![check("", "serfHealth", status, "")];
    let (a, b) = (node("", 1).id.expect("has one"), node("", 2).id.expect("has one"));
    let mut machine = Machine::default();
    machine.register(node("old", 1), vec![service("web", "web", &[])], serf(Status::Passing));
    machine.register(node("taken", 2), vec![service("db", "db", &[])], serf(Status::Warning));
    machine.register(node("plain", 0), vec![], serf(Status::Passing));

    // A live holder keeps its name against a new id and against a rename.
    let reserved = format!("Node name TAKEN is reserved by node {b} with name taken (10.0.0.1)");
    assert_eq!(
        text(machine.register(node("TAKEN", 3), vec![], vec![])),
        format!(
            "failed inserting node: Error while renaming Node ID: \"{}\": {reserved}",
            node("", 3).id.expect("has one")
        )
    );
    assert_eq!(
        text(machine.register(node("TAKEN", 1), vec![], vec![])),
        format!(
            "failed inserting node: Error while renaming Node ID: \"{a}\" (10.0.0.1): {reserved}"
        )
    );
    // A rename may not take the name of a live node without id either; a new node adopts it.
    assert!(matches!(machine.register(node("plain", 1), vec![], vec![]), Outcome::Rejected(_)));
    assert_eq!(machine.register(node("plain", 3), vec![], vec![]), Outcome::Done);

    // Renamed: the old name goes with its services; the new one keeps the creation index.
    assert_eq!(machine.register(node("new", 1), vec![], vec![]), Outcome::Done);
    assert_eq!(machine.state.node(NS, "old"), None);
    assert_eq!(machine.instances(&health("web")), [""; 0]);
    assert_eq!(machine.state.node_by_id(NS, a).expect("moved").create_index.0, 1);

    // A dead holder gives way.
    machine.register(node("taken", 2), vec![], serf(Status::Critical));
    assert_eq!(machine.register(node("taken", 4), vec![], vec![]), Outcome::Done);
    assert_eq!(machine.state.node_by_id(NS, b), None);
    assert_eq!(machine.instances(&health("db")), ["taken/db"]);
    assert_eq!(machine.register(node("taken", 1), vec![], vec![]), Outcome::Done);
    assert_eq!(machine.state.node(NS, "new"), None);
    assert_eq!(&*machine.state.node_by_id(NS, a).expect("moved").name, "taken");
}

#[test]
fn a_node_is_found_by_name_id_and_unique_prefix() {
    let mut machine = Machine::default();
    for (name, id) in [("n1", 0x11), ("n2", 0x12), ("11", 0x22)] {
        machine.register(node(name, id), vec![], vec![]);
    }
    for (asked, found) in [
        ("N1", Some("n1")),
        ("11111111-1111-1111-1111-111111111111", Some("n1")),
        ("11111111-11", Some("n1")),
        ("111", Some("n1")),
        ("11", Some("11")),
        ("12", Some("n2")),
        ("1", None),
        ("2", None),
        ("222", Some("11")),
        ("xyz", None),
        ("", None),
        ("111111111111111111111111111111111", None),
    ] {
        let Body::Node(body) = machine.ask(&Op::NodeServices { node: asked.into() }).body else {
            panic!("a node")
        };
        assert_eq!(body.as_ref().map(|(row, _)| &*row.name), found, "{asked}");
    }
    machine.register(node("n3", 0x11), vec![], vec![]);
    assert_eq!(machine.state.node(NS, "n1"), None);
}

#[test]
fn deregistration_removes_what_hangs_on_it() {
    let mut machine = Machine::default();
    let fill = |machine: &mut Machine| {
        machine.register(
            node("n1", 1),
            vec![service("web", "web", &[]), service("db", "db", &[])],
            vec![
                check("", "serfHealth", Status::Passing, ""),
                check("", "web-c", Status::Passing, "web"),
            ],
        )
    };
    fill(&mut machine);
    machine.deregister("n1", Some("nothing"), Some("web-c"));
    assert_eq!(machine.changes, [], "the service wins over the check, and it is unknown");
    machine.deregister("N1", None, Some("WEB-C"));
    assert_eq!(machine.state.check(NS, "n1", "web-c"), None);
    fill(&mut machine);
    machine.deregister("n1", Some("web"), None);
    assert_eq!(machine.state.check(NS, "n1", "web-c"), None);
    assert_eq!(machine.state.services_of_node(NS, "n1").len(), 1);
    machine.deregister("n1", None, None);
    assert_eq!(machine.state.checks_of_node(NS, "n1"), []);
    assert_eq!(machine.state.services_of_node(NS, "n1"), []);
    assert_eq!(machine.state.nodes(NS), []);
    machine.deregister("n1", None, None);
    assert_eq!(machine.changes, []);
}

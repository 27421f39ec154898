//! What each read of the catalog reports as its index, and what it finds.

use model::Name;
use model::row::{NameMap, NodeV1, ServiceV1, Status};
use model::rpc::{Body, CheckStateFilter, Op};

use super::fixture::{Machine, check, connect, health, node, proxy, service};

fn service_nodes(name: &str, tags: &[&str]) -> Op {
    let tags = tags.iter().map(|tag| Name::from(*tag)).collect();
    Op::ServiceNodes { service: name.into(), tags, meta: NameMap::new(), connect: false }
}

fn nodes() -> Op {
    Op::Nodes { meta: NameMap::new() }
}

fn services() -> Op {
    Op::Services { meta: NameMap::new() }
}

fn node_services(name: &str) -> Op {
    Op::NodeServices { node: name.into() }
}

fn state(status: Option<Status>) -> Op {
    Op::HealthState { state: status.map(CheckStateFilter::Only), meta: NameMap::new() }
}

/// Which of these reads report the entry's own index after it.
fn moved(machine: &Machine, reads: &[(&'static str, Op)]) -> Vec<&'static str> {
    let at = machine.index;
    reads.iter().filter(|(_, op)| machine.index_of(op) == at).map(|(name, _)| *name).collect()
}

#[test]
fn each_change_moves_exactly_the_reads_that_it_concerns() {
    let reads = [
        ("nodes", nodes()),
        ("services", services()),
        ("node n1", node_services("n1")),
        ("node n2", node_services("n2")),
        ("web", health("web")),
        ("web list", service_nodes("web", &[])),
        ("db", health("db")),
        ("none", health("none")),
        ("checks", state(None)),
    ];
    let mut machine = Machine::at(10);
    type Step = fn(&mut Machine);
    let steps: &[(&str, Step, &[&str])] = &[
        (
            "first node: nothing was ever extinct, so a missing service reports the tables",
            |m| drop(m.register(node("n1", 1), vec![], vec![])),
            &["nodes", "node n1", "web", "web list", "db", "none"],
        ),
        (
            "web on n1",
            |m| drop(m.register(node("n1", 1), vec![service("w1", "web", &[])], vec![])),
            &["nodes", "services", "node n1", "web", "web list", "db", "none"],
        ),
        (
            "a second node",
            |m| drop(m.register(node("n2", 2), vec![service("d1", "db", &[])], vec![])),
            &["nodes", "services", "node n2", "db", "none"],
        ),
        (
            "a check of the node moves its services",
            |m| {
                let checks = vec![check("", "serfHealth", Status::Passing, "")];
                drop(m.register(node("n1", 1), vec![], checks));
            },
            &["web", "web list", "none", "checks"],
        ),
        (
            "a check of the instance",
            |m| {
                let checks = vec![check("", "c", Status::Passing, "d1")];
                drop(m.register(node("n2", 2), vec![], checks));
            },
            &["db", "none", "checks"],
        ),
        (
            "the node's address moves its services",
            |m| {
                let moved = NodeV1 { address: "10.9.9.9".into(), ..node("n2", 2) };
                drop(m.register(moved, vec![], vec![]));
            },
            &["nodes", "node n2", "db", "none"],
        ),
        (
            "the last instance goes: extinction, which missing services report from now on",
            |m| m.deregister("n2", Some("d1"), None),
            &["nodes", "services", "node n2", "db", "none", "checks"],
        ),
        (
            "an unrelated registration leaves a missing service alone",
            |m| drop(m.register(node("n1", 1), vec![service("w2", "web", &["x"])], vec![])),
            &["nodes", "services", "node n1", "web", "web list"],
        ),
        (
            "one of two instances goes",
            |m| m.deregister("n1", Some("w2"), None),
            &["nodes", "services", "node n1", "web", "web list"],
        ),
        (
            "the end of a node's check shows in the list of services",
            |m| m.deregister("n1", None, Some("serfHealth")),
            &["services", "web", "web list", "checks"],
        ),
        (
            "renaming an instance's service is an extinction of the old name",
            |m| drop(m.register(node("n1", 1), vec![service("w1", "api", &[])], vec![])),
            &["nodes", "services", "node n1", "web", "web list", "db", "none"],
        ),
        ("the node goes", |m| m.deregister("n2", None, None), &["nodes", "node n2"]),
        ("nothing", |m| m.deregister("n2", None, None), &[]),
    ];
    for (what, step, wanted) in steps {
        step(&mut machine);
        assert_eq!(moved(&machine, &reads), *wanted, "{what}");
    }
}

#[test]
fn health_and_list_of_a_missing_service_differ_only_while_nothing_was_extinct() {
    let mut machine = Machine::default();
    machine.register(node("n1", 1), vec![], vec![check("", "c", Status::Passing, "")]);
    machine.register(node("n1", 1), vec![], vec![check("", "c", Status::Warning, "")]);
    assert_eq!(machine.index_of(&health("none")), 2);
    assert_eq!(machine.index_of(&service_nodes("none", &[])), 1);
    assert_eq!(Machine::default().index_of(&health("none")), 1, "never 0");
}

#[test]
fn answers_are_ordered_folded_and_narrowed() {
    let mut machine = Machine::default();
    let zone =
        |n: NodeV1, zone: &str| NodeV1 { meta: Some([("zone".into(), zone.into())].into()), ..n };
    machine.register(zone(node("b", 2), "east"), vec![service("w", "Web", &["V1", "x"])], vec![]);
    machine.register(
        zone(node("A", 1), "west"),
        vec![service("w2", "web", &["v1"]), service("w1", "web", &["v2", "v1"])],
        vec![
            check("", "zz-node", Status::Passing, ""),
            check("", "c1", Status::Critical, "w1"),
            check("", "c2", Status::Warning, "w2"),
        ],
    );
    assert_eq!(machine.instances(&health("WEB")), ["A/w1", "A/w2", "b/w"]);
    assert_eq!(machine.instances(&service_nodes("web", &["v1", "X"])), ["b/w"]);
    assert_eq!(machine.instances(&service_nodes("web", &["v1"])).len(), 3);
    assert_eq!(machine.instances(&service_nodes("web", &[""])), [""; 0]);
    let west: NameMap = [("zone".into(), "west".into())].into();
    let narrowed = Op::HealthService {
        service: "web".into(),
        tags: vec!["v2".into()],
        meta: west.clone(),
        connect: false,
    };
    assert_eq!(machine.instances(&narrowed), ["A/w1"]);
    assert_eq!(
        machine.instances(&Op::AllInstances { meta: NameMap::new() }),
        ["A/w1", "A/w2", "b/w"]
    );
    let Body::Services(found) = machine.ask(&Op::Services { meta: west.clone() }).body else {
        panic!("services")
    };
    assert_eq!(found, [("web".into(), vec!["v1".into(), "v2".into()])]);
    let Body::Nodes(found) = machine.ask(&nodes()).body else { panic!("nodes") };
    assert_eq!(found.iter().map(|row| &*row.name).collect::<Vec<_>>(), ["A", "b"]);

    let Body::Instances(found) = machine.ask(&health("web")).body else { panic!("instances") };
    let checks: Vec<&str> = found[0].checks.iter().map(|row| &*row.id).collect();
    assert_eq!(checks, ["zz-node", "c1"], "the node's first, none of a neighbour");
    let checks = |op: Op| match machine.ask(&op).body {
        Body::Checks(rows) => rows.iter().map(|row| row.id.to_string()).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(checks(Op::HealthNode { node: "a".into() }), ["c1", "c2", "zz-node"]);
    let of = |meta| Op::HealthChecks { service: "WEB".into(), meta };
    assert_eq!(checks(of(NameMap::new())), ["c1", "c2"]);
    assert_eq!(checks(of(west.clone())), ["c1", "c2"]);
    assert_eq!(checks(of([("zone".into(), "east".into())].into())), [""; 0]);
    assert_eq!(checks(state(None)), ["c1", "c2", "zz-node"]);
    assert_eq!(checks(state(Some(Status::Warning))), ["c2"]);
    let nothing = Op::HealthState { state: Some(CheckStateFilter::Nothing), meta: NameMap::new() };
    assert_eq!(checks(nothing), [""; 0]);
}

#[test]
fn mesh_reads_find_proxies_and_native_instances() {
    let mut machine = Machine::default();
    let native = ServiceV1 { connect_native: true, ..service("n", "web", &[]) };
    machine.register(
        node("n1", 1),
        vec![service("w", "web", &[]), native, proxy("p", "web-proxy", "WEB"), proxy("q", "q", "")],
        vec![],
    ); // 1
    assert_eq!(machine.instances(&connect("web")), ["n1/n", "n1/p"]);
    assert_eq!(machine.index_of(&connect("web")), 1);
    machine.register(node("n1", 1), vec![service("db", "db", &[])], vec![]); // 2
    assert_eq!(machine.index_of(&connect("web")), 1);
    machine.register(node("n1", 1), vec![], vec![check("", "c", Status::Critical, "p")]); // 3
    assert_eq!(machine.index_of(&connect("web")), 3);
    machine.register(node("n1", 1), vec![proxy("p", "web-proxy", "db")], vec![]); // 4
    assert_eq!(machine.instances(&connect("web")), ["n1/n"]);
    assert_eq!(machine.index_of(&connect("web")), 4, "an instance turned away");
    assert_eq!(machine.instances(&connect("db")), ["n1/p"]);
    machine.deregister("n1", Some("n"), None); // 5
    assert_eq!(machine.index_of(&connect("web")), 5, "the last one went");
    machine.register(node("n1", 1), vec![service("x", "x", &[])], vec![]); // 6
    assert_eq!(machine.index_of(&connect("web")), 5);
}

#[test]
fn a_proxy_that_is_no_object_serves_nothing() {
    let mut machine = Machine::default();
    for json in ["", "[]", "{\"DestinationServiceName\":7}", "{}"] {
        let broken = ServiceV1 { proxy_json: Some(json.into()), ..proxy("p", "web-proxy", "web") };
        machine.register(node("n1", 1), vec![broken], vec![]);
        assert_eq!(machine.instances(&connect("web")), [""; 0], "{json}");
    }
}

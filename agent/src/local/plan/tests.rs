use std::time::Duration;

use model::row::Status;
use serde_json::json;

use super::*;
use crate::local::book::{Rules, Source};
use crate::local::definition::{parse_api_check, parse_api_service};

const SECOND: Duration = Duration::from_secs(1);

fn book(server: bool) -> Book {
    let node = NodeV1 {
        name: "n1".into(),
        id: None,
        address: "10.0.0.1".into(),
        tagged_addresses: None,
        meta: None,
        locality: None,
        create_index: model::LogIndex(0),
        modify_index: model::LogIndex(0),
    };
    let rules = Rules {
        server,
        check_update_interval: 300 * SECOND,
        output_bytes_max: 4096,
        discard_output: false,
    };
    Book::new(node, rules)
}

fn now() -> Instant {
    // Any instant does: the cores only add to it.
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(Instant::now)
}

fn with_service(book: &mut Book, body: serde_json::Value, token: &str) {
    let mut definition = parse_api_service(body.to_string().as_bytes()).expect("valid");
    definition.token = token.into();
    for check in &mut definition.checks {
        check.token = token.into();
    }
    book.add_service(definition, Source::Api, false, now()).expect("room");
}

fn with_check(book: &mut Book, body: serde_json::Value, token: &str) {
    let mut definition = parse_api_check(body.to_string().as_bytes()).expect("valid");
    definition.token = token.into();
    book.add_check(definition, Source::Api, now()).expect("room");
}

/// What the catalog holds when all is pushed.
fn mirror(book: &Book) -> Catalog {
    Catalog {
        node: Some(Arc::clone(&book.node)),
        services: book.services.values().map(|entry| Arc::clone(&entry.row)).collect(),
        checks: book.checks.values().map(|entry| Arc::clone(&entry.row)).collect(),
    }
}

/// Pushes as words: `+` registers, `-` deregisters.
fn words(pushes: &[Push]) -> Vec<String> {
    let names = |ids: Vec<&Name>| ids.iter().map(|id| &***id).collect::<Vec<_>>().join(",");
    pushes
        .iter()
        .map(|push| match &push.op {
            Op::Register(r) => format!(
                "+{}{}/{}",
                if r.skip_node_update { "" } else { "node " },
                names(r.services.iter().map(|row| &row.id).collect()),
                names(r.checks.iter().map(|row| &row.id).collect()),
            ),
            Op::Deregister { service_id, check_id, .. } => format!(
                "-{}/{}",
                service_id.as_deref().unwrap_or_default(),
                check_id.as_deref().unwrap_or_default()
            ),
            other => format!("{other:?}"),
        })
        .collect()
}

fn pending(book: &Book) -> Vec<String> {
    words(&book.pending(&BTreeSet::new(), 100))
}

fn push_all(book: &mut Book) {
    loop {
        let pushes = book.pending(&BTreeSet::new(), 1);
        let [push] = pushes.as_slice() else { return };
        book.settle(push, Settled::Done);
    }
}

#[test]
fn the_node_goes_first_and_alone_then_services_with_their_checks() {
    let mut book = book(false);
    with_service(&mut book, json!({"Name": "web", "Check": {"TTL": "1s"}}), "");
    with_service(&mut book, json!({"Name": "db"}), "");
    with_check(&mut book, json!({"Name": "mem", "TTL": "1s"}), "");
    let first = book.pending(&BTreeSet::new(), 100);
    assert_eq!(words(&first), ["+node /"]);
    assert!(book.pending(&[Target::Node].into(), 100).is_empty(), "nothing before the node");
    book.settle(&first[0], Settled::Done);
    assert_eq!(pending(&book), ["+db/", "+web/service:web", "+/mem"]);
    assert_eq!(words(&book.pending(&BTreeSet::new(), 2)).len(), 2);
    push_all(&mut book);
    assert!(pending(&book).is_empty());
}

#[test]
fn each_token_goes_by_itself_and_a_foreign_check_carries_its_service() {
    let mut book = book(false);
    push_all(&mut book);
    with_service(&mut book, json!({"Name": "web", "Check": {"TTL": "1s"}}), "t1");
    with_check(&mut book, json!({"Name": "extra", "TTL": "1s", "ServiceID": "web"}), "t2");
    with_check(&mut book, json!({"Name": "mem", "TTL": "1s"}), "t1");
    let first = book.pending(&BTreeSet::new(), 100);
    assert_eq!(words(&first), ["+web/service:web", "+/mem"]);
    assert!(first.iter().all(|push| push.token == "t1"));
    for push in &first {
        book.settle(push, Settled::Done);
    }
    let second = book.pending(&BTreeSet::new(), 100);
    assert_eq!((words(&second), second[0].token.as_str()), (vec!["+web/extra".into()], "t2"));
}

#[test]
fn a_catalog_that_is_equal_needs_nothing() {
    let mut book = book(false);
    with_service(&mut book, json!({"Name": "web", "Meta": {"a": "b"}, "Check": {"TTL": "1s"}}), "");
    let mut catalog = mirror(&book);
    // What equality leaves out.
    Arc::make_mut(&mut catalog.services[0]).modify_index = model::LogIndex(9);
    let check = Arc::make_mut(&mut catalog.checks[0]);
    check.kind = "http".into();
    check.interval = "9s".into();
    check.timeout = "9s".into();
    check.node = "N1".into();
    book.compare(&catalog);
    assert!(pending(&book).is_empty());
}

#[test]
fn every_difference_is_pushed() {
    type Change = fn(&mut Catalog);
    let cases: [(&str, Change, &[&str]); 12] = [
        ("empty", |c| *c = Catalog::default(), &["+node /"]),
        (
            "address",
            |c| Arc::make_mut(c.node.as_mut().expect("set")).address = "x".into(),
            &["+node /"],
        ),
        ("no services", |c| c.services.clear(), &["+web/"]),
        ("port", |c| Arc::make_mut(&mut c.services[0]).port = 9, &["+web/"]),
        ("tags", |c| Arc::make_mut(&mut c.services[0]).tags = vec!["x".into()], &["+web/"]),
        ("meta", |c| Arc::make_mut(&mut c.services[0]).meta = None, &["+web/"]),
        ("no checks", |c| c.checks.clear(), &["+web/service:web", "+/mem"]),
        ("status", |c| Arc::make_mut(&mut c.checks[0]).status = Status::Passing, &["+/mem"]),
        ("output", |c| Arc::make_mut(&mut c.checks[1]).output = "x".into(), &["+web/service:web"]),
        ("notes", |c| Arc::make_mut(&mut c.checks[1]).notes = "x".into(), &["+web/service:web"]),
        (
            "stray service",
            |c| {
                let mut row = c.services[0].as_ref().clone();
                row.id = "consul".into();
                c.services.push(Arc::new(row));
                let mut check = c.checks[1].as_ref().clone();
                (check.id, check.service_id) = ("s".into(), "consul".into());
                c.checks.push(Arc::new(check));
            },
            &["-consul/"],
        ),
        (
            "stray check",
            |c| {
                for id in ["serfHealth", "stray"] {
                    let mut row = c.checks[0].as_ref().clone();
                    row.id = id.into();
                    c.checks.push(Arc::new(row));
                }
            },
            &["-/stray"],
        ),
    ];
    for (name, change, wanted) in cases {
        let mut book = book(false);
        let body = json!({"Name": "web", "Meta": {"a": "b"}, "Check": {"TTL": "1s"}});
        with_service(&mut book, body, "");
        with_check(&mut book, json!({"Name": "mem", "TTL": "1s"}), "");
        let mut catalog = mirror(&book);
        change(&mut catalog);
        book.compare(&catalog);
        assert_eq!(pending(&book), wanted, "{name}");
    }
}

#[test]
fn on_a_server_the_leader_owns_service_consul() {
    let mut book = book(true);
    with_service(&mut book, json!({"Name": "consul"}), "");
    let catalog = mirror(&book);
    book.remove_service("consul").expect("there");
    push_all(&mut book);
    book.compare(&catalog);
    assert!(pending(&book).is_empty());
}

#[test]
fn tags_may_be_the_catalogs_and_server_addresses_are_kept() {
    let mut book = book(false);
    let body = json!({"Name": "web", "Tags": ["mine"], "EnableTagOverride": true,
        "Check": {"TTL": "1s"}});
    with_service(&mut book, body, "");
    let mut catalog = mirror(&book);
    let row = Arc::make_mut(&mut catalog.services[0]);
    row.tags = vec!["theirs".into()];
    let address = model::row::ServiceAddressV1 { address: "240.0.0.1".into(), port: 1 };
    row.tagged_addresses.insert("consul-virtual".into(), address);
    Arc::make_mut(&mut catalog.checks[0]).service_tags = vec!["theirs".into()];
    let before = book.version();
    book.compare(&catalog);
    assert!(pending(&book).is_empty());
    assert!(book.version() > before, "clients that wait for this service hear of it");
    let row = &book.services["web"].row;
    assert_eq!(row.tags, ["theirs".into()]);
    assert!(row.tagged_addresses.contains_key("consul-virtual"));
}

#[test]
fn what_changes_during_a_push_stays_to_be_pushed() {
    let mut book = book(false);
    push_all(&mut book);
    with_service(&mut book, json!({"Name": "web"}), "");
    let pushes = book.pending(&BTreeSet::new(), 1);
    with_service(&mut book, json!({"Name": "web", "Port": 1}), "");
    book.settle(&pushes[0], Settled::Done);
    assert_eq!(pending(&book), ["+web/"]);
    push_all(&mut book);
    book.remove_service("web").expect("there");
    assert_eq!(pending(&book), ["-web/"]);
    with_service(&mut book, json!({"Name": "web"}), "");
    assert_eq!(pending(&book), ["+web/"], "back before it was gone");
}

#[test]
fn a_failure_skips_its_own_and_a_refusal_counts_as_done() {
    let mut book = book(false);
    push_all(&mut book);
    with_service(&mut book, json!({"Name": "a"}), "");
    with_service(&mut book, json!({"Name": "b"}), "");
    let pushes = book.pending(&BTreeSet::new(), 100);
    book.settle(&pushes[0], Settled::Failed);
    book.settle(&pushes[1], Settled::Refused);
    assert_eq!(pending(&book), ["+a/"]);
    assert!(book.pending(&[Target::Service("a".into())].into(), 100).is_empty());
    let gone = Op::Deregister { node: "n1".into(), service_id: None, check_id: None };
    let error = || Err(RpcError::NotFound("Unknown check".into()));
    assert_eq!(Settled::of(&gone, &error()), Settled::Done);
    assert_eq!(Settled::of(&pushes[0].op, &error()), Settled::Failed);
    assert_eq!(Settled::of(&gone, &Err(RpcError::NoLeader)), Settled::Failed);
    assert_eq!(Settled::of(&gone, &Err(RpcError::AclNotFound)), Settled::Refused);
}

#[test]
fn an_output_alone_is_deferred_and_a_status_is_not() {
    let mut book = book(false);
    with_check(&mut book, json!({"Name": "mem", "TTL": "1h"}), "");
    push_all(&mut book);
    let catalog = mirror(&book);
    let heartbeat = |book: &mut Book, status, output: &str| {
        book.ttl_heartbeat("mem", status, output, now(), 0.5).expect("a TTL check")
    };
    assert!(heartbeat(&mut book, Status::Critical, "a"));
    assert!(!heartbeat(&mut book, Status::Critical, "a"), "nothing new");
    assert!(heartbeat(&mut book, Status::Critical, "b"));
    assert!(pending(&book).is_empty());
    assert_eq!(book.next_deferred(), Some(now() + 300 * SECOND), "not put off again");
    book.compare(&catalog);
    assert!(pending(&book).is_empty(), "a comparison leaves a deferred output alone");
    assert_eq!(book.due_deferred(now() + 299 * SECOND), Some(now() + 300 * SECOND));
    assert_eq!(book.due_deferred(now() + 300 * SECOND), None);
    assert_eq!(pending(&book), ["+/mem"]);
    push_all(&mut book);
    assert!(heartbeat(&mut book, Status::Critical, "c"));
    assert!(heartbeat(&mut book, Status::Passing, "d"));
    assert_eq!((pending(&book), book.next_deferred()), (vec!["+/mem".into()], None));
}

#[test]
fn critical_time_counts_from_the_first_moment_whatever_the_output() {
    let mut book = book(false);
    let check = json!({"TTL": "1h", "DeregisterCriticalServiceAfter": "60s"});
    with_service(&mut book, json!({"Name": "web", "Check": check}), "");
    let node_check = json!({"Name": "n", "TTL": "1h", "DeregisterCriticalServiceAfter": "60s"});
    with_check(&mut book, node_check, "");
    let at = |seconds: u32| now() + seconds * SECOND;
    let tell = |book: &mut Book, seconds, status, output: &str| {
        book.ttl_heartbeat("service:web", status, output, at(seconds), 0.0).expect("a TTL check");
    };
    tell(&mut book, 30, Status::Critical, "other words");
    assert!(book.to_reap(at(60)).is_empty());
    assert_eq!(book.to_reap(at(61)), [("web".into(), "service:web".into())], "never the node's");
    tell(&mut book, 62, Status::Passing, "");
    tell(&mut book, 63, Status::Critical, "");
    assert!(book.to_reap(at(120)).is_empty());
    assert_eq!(book.to_reap(at(124)).len(), 1);
}

#[test]
fn a_restored_ttl_check_runs_out_when_it_would_have() {
    let mut book = book(false);
    with_check(&mut book, json!({"Name": "mem", "TTL": "60s"}), "");
    book.restore_ttl("mem", Status::Passing, "up", 3 * SECOND, now());
    let touched = book.take_touched();
    let job = touched[0].1.as_ref().expect("registered");
    assert_eq!(job.deadline, Some(now() + 3 * SECOND));
    assert!(book.ttl_tick("mem", job.generation, now() + 3 * SECOND, 0.0).is_some());
    assert_eq!(book.checks["mem"].row.status, Status::Critical);
}

#[test]
fn a_service_with_several_checks_overdue_is_reaped_once() {
    let mut book = book(false);
    let check =
        |id: &str| json!({"CheckID": id, "TTL": "10s", "DeregisterCriticalServiceAfter": "1m"});
    with_service(&mut book, json!({"Name": "web", "Checks": [check("a"), check("c")]}), "");
    with_service(&mut book, json!({"Name": "db", "Check": check("b")}), "");
    let due = book.to_reap(now() + 61 * SECOND);
    let row = |service: &str, check: &str| (Name::from(service), Name::from(check));
    assert_eq!(due, [row("db", "b"), row("web", "a")]);
}

//! How the fields of a key move, and the indexes of its reads.

use model::LogIndex;
use model::command::KvCommandV1::{Cas, Delete, DeleteCas, DeleteTree, Lock, Set, Unlock};
use model::command::{Command, EnvelopeV1, KvCommandV1, KvPutV1, Outcome, Rejection};
use model::row::SessionBehavior;
use model::rpc::{Body, Op};

use super::fixture::{Machine, bytes, envelope, get, list, put, sid};
use crate::{State, apply, query};

/// One row of the table of Consul api-docs/kv: what is there, what is done, what comes out.
struct Case {
    what: &'static str,
    before: &'static [fn() -> KvCommandV1],
    step: fn() -> KvCommandV1,
    held: bool,
    /// Create, modify, lock index, held by session 1, flags, value, version; steps are counted
    /// from 1 at the first of `before`.
    after: Option<(u64, u64, u64, bool, u64, &'static str, u64)>,
}

fn flagged(key: &str, value: &str, flags: u64) -> KvPutV1 {
    KvPutV1 { flags, ..put(key, value) }
}

const CASES: &[Case] = &[
    Case {
        what: "set on a new key",
        before: &[],
        step: || Set(flagged("k", "x", u64::MAX)),
        held: true,
        after: Some((1, 1, 0, false, u64::MAX, "x", 1)),
    },
    Case {
        what: "set on an existing key takes value and flags",
        before: &[|| Set(flagged("k", "x", 7))],
        step: || Set(put("k", "y")),
        held: true,
        after: Some((1, 2, 0, false, 0, "y", 2)),
    },
    Case {
        what: "set of the same changes nothing",
        before: &[|| Set(flagged("k", "x", 7))],
        step: || Set(flagged("k", "x", 7)),
        held: true,
        after: Some((1, 1, 0, false, 7, "x", 1)),
    },
    Case {
        what: "set of the same on a locked key loses the count, so it is a change",
        before: &[|| Lock(put("k", "x"), sid(1))],
        step: || Set(put("k", "x")),
        held: true,
        after: Some((1, 2, 0, true, 0, "x", 2)),
    },
    Case {
        what: "cas=0 on a new key",
        before: &[],
        step: || Cas(put("k", "x"), LogIndex(0)),
        held: true,
        after: Some((1, 1, 0, false, 0, "x", 1)),
    },
    Case {
        what: "cas=0 on an existing key",
        before: &[|| Set(put("k", "x"))],
        step: || Cas(put("k", "y"), LogIndex(0)),
        held: false,
        after: Some((1, 1, 0, false, 0, "x", 1)),
    },
    Case {
        what: "cas with an index on a missing key",
        before: &[],
        step: || Cas(put("k", "y"), LogIndex(100)),
        held: false,
        after: None,
    },
    Case {
        what: "cas with another index",
        before: &[|| Set(put("k", "x"))],
        step: || Cas(put("k", "y"), LogIndex(99)),
        held: false,
        after: Some((1, 1, 0, false, 0, "x", 1)),
    },
    Case {
        what: "cas with the right index",
        before: &[|| Set(put("k", "x"))],
        step: || Cas(put("k", "y"), LogIndex(101)),
        held: true,
        after: Some((1, 2, 0, false, 0, "y", 2)),
    },
    Case {
        what: "cas with the right index and the same content",
        before: &[|| Set(put("k", "x"))],
        step: || Cas(put("k", "x"), LogIndex(101)),
        held: true,
        after: Some((1, 1, 0, false, 0, "x", 1)),
    },
    Case {
        what: "acquire of a new key",
        before: &[],
        step: || Lock(put("k", "x"), sid(1)),
        held: true,
        after: Some((1, 1, 1, true, 0, "x", 1)),
    },
    Case {
        what: "acquire of a free key",
        before: &[|| Set(put("k", "x"))],
        step: || Lock(put("k", "y"), sid(1)),
        held: true,
        after: Some((1, 2, 1, true, 0, "y", 2)),
    },
    Case {
        what: "acquire again after release counts up",
        before: &[|| Lock(put("k", "x"), sid(1)), || Unlock(put("k", "x"), sid(1))],
        step: || Lock(put("k", "x"), sid(1)),
        held: true,
        after: Some((1, 3, 2, true, 0, "x", 3)),
    },
    Case {
        what: "acquire by the holder updates the value",
        before: &[|| Lock(put("k", "x"), sid(1))],
        step: || Lock(put("k", "y"), sid(1)),
        held: true,
        after: Some((1, 2, 1, true, 0, "y", 2)),
    },
    Case {
        what: "acquire by the holder with the same value changes nothing",
        before: &[|| Lock(put("k", "x"), sid(1))],
        step: || Lock(put("k", "x"), sid(1)),
        held: true,
        after: Some((1, 1, 1, true, 0, "x", 1)),
    },
    Case {
        what: "acquire of a key that another holds",
        before: &[|| Lock(put("k", "x"), sid(1))],
        step: || Lock(put("k", "y"), sid(2)),
        held: false,
        after: Some((1, 1, 1, true, 0, "x", 1)),
    },
    Case {
        what: "release by the holder takes value and flags of the request",
        before: &[|| Lock(flagged("k", "x", 7), sid(1))],
        step: || Unlock(put("k", ""), sid(1)),
        held: true,
        after: Some((1, 2, 1, false, 0, "", 2)),
    },
    Case {
        what: "release by another",
        before: &[|| Lock(put("k", "x"), sid(1))],
        step: || Unlock(put("k", ""), sid(2)),
        held: false,
        after: Some((1, 1, 1, true, 0, "x", 1)),
    },
    Case {
        what: "release by a session that does not exist is no error",
        before: &[|| Set(put("k", "x"))],
        step: || Unlock(put("k", ""), sid(99)),
        held: false,
        after: Some((1, 1, 0, false, 0, "x", 1)),
    },
    Case {
        what: "release of a missing key",
        before: &[],
        step: || Unlock(put("k", ""), sid(1)),
        held: false,
        after: None,
    },
    Case {
        what: "delete of a locked key",
        before: &[|| Lock(put("k", "x"), sid(1))],
        step: || Delete(bytes("k")),
        held: true,
        after: None,
    },
    Case {
        what: "delete of a missing key is success",
        before: &[],
        step: || Delete(bytes("k")),
        held: true,
        after: None,
    },
    Case {
        what: "delete-cas of a missing key is success",
        before: &[],
        step: || DeleteCas(bytes("k"), LogIndex(7)),
        held: true,
        after: None,
    },
    Case {
        what: "delete-cas with 0 on an existing key",
        before: &[|| Set(put("k", "x"))],
        step: || DeleteCas(bytes("k"), LogIndex(0)),
        held: false,
        after: Some((1, 1, 0, false, 0, "x", 1)),
    },
    Case {
        what: "delete-cas with the right index",
        before: &[|| Set(put("k", "x"))],
        step: || DeleteCas(bytes("k"), LogIndex(101)),
        held: true,
        after: None,
    },
    Case {
        what: "a key that was deleted starts again",
        before: &[|| Lock(put("k", "x"), sid(1)), || Delete(bytes("k"))],
        step: || Set(put("k", "x")),
        held: true,
        after: Some((3, 3, 0, false, 0, "x", 1)),
    },
    Case {
        what: "a tree is a prefix of bytes",
        before: &[|| Set(put("kx", "x")), || Set(put("k", "x"))],
        step: || DeleteTree(bytes("k")),
        held: true,
        after: None,
    },
];

#[test]
fn fields_move_as_documented() {
    for case in CASES {
        let mut machine = Machine::at(50);
        machine.with_session(1, SessionBehavior::Release);
        machine.with_session(2, SessionBehavior::Release);
        machine.index = 100;
        for step in case.before {
            assert!(machine.kv(step()), "{}", case.what);
        }
        let before = machine.row("k");
        assert_eq!(machine.kv((case.step)()), case.held, "{}", case.what);
        let after = machine.row("k").map(|row| {
            assert!(row.session.is_none_or(|id| id == sid(1)), "{}", case.what);
            let value = String::from_utf8_lossy(&row.value).into_owned();
            let (create, modify) = (row.create_index.0 - 100, row.modify_index.0 - 100);
            (create, modify, row.lock_index, row.session.is_some(), row.flags, value, row.version)
        });
        let wanted = case.after.map(|(c, m, l, s, f, v, n)| (c, m, l, s, f, v.to_owned(), n));
        assert_eq!(after, wanted, "{}", case.what);
        let changed = before != machine.row("k");
        assert_eq!(!machine.changes.is_empty(), changed, "{}: changes tell", case.what);
    }
}

#[test]
fn a_lock_needs_a_session_that_exists_and_keys_have_names() {
    let mut machine = Machine::default();
    let lock = |id| Command::KvV1(Lock(put("k", "x"), sid(id)));
    let unknown = Rejection::InvalidSession(sid(9).to_string());
    assert_eq!(machine.run(lock(9)), Outcome::Rejected(unknown.clone()));
    assert_eq!(
        unknown.to_string(),
        "raft apply failed: invalid session \"09090909-0909-0909-0909-090909090909\""
    );
    for command in [Set(put("", "x")), Delete(bytes("")), DeleteCas(bytes(""), LogIndex(0))] {
        let refused = Outcome::Rejected(Rejection::Other("Missing key name".into()));
        assert_eq!(machine.run(Command::KvV1(command)), refused);
    }
    assert!(machine.state.spaces.is_empty(), "nothing was written");
}

/// The worked timeline of the specification (spec/http-api-2.md §11.2).
#[test]
fn indexes_follow_the_worked_timeline() {
    let mut machine = Machine::at(0);
    // The session exists from the start; its entries are far below.
    machine.with_session(1, SessionBehavior::Release);
    machine.index = 10;
    assert_eq!(machine.index_of(&get("a")), 1);
    assert!(machine.ask(&get("a")).missing);
    machine.set("a", "x"); // 11
    machine.set("a", "x"); // 12
    assert_eq!(machine.index_of(&get("a")), 11);
    assert!(!machine.ask(&get("a")).missing);
    assert_eq!(machine.index_of(&get("b")), 11);
    machine.set("a", "y"); // 13
    assert!(machine.ask(&get("b")).missing);
    machine.set("b/1", "z"); // 14
    assert_eq!(machine.index_of(&list("b")), 14);
    assert!(machine.kv(Cas(put("b", ""), LogIndex(0)))); // 15
    assert_eq!(machine.index_of(&get("b")), 15);
    assert!(machine.kv(Lock(put("a", "y"), sid(1)))); // 16
    assert!(machine.kv(Lock(put("a", "y"), sid(1)))); // 17
    assert_eq!(machine.index_of(&get("a")), 16);
    machine.set("a", "y"); // 18
    let row = machine.row("a").expect("exists");
    assert_eq!((row.lock_index, row.session, row.modify_index.0), (0, Some(sid(1)), 18));
    assert!(machine.kv(Unlock(put("a", ""), sid(1)))); // 19
    let row = machine.row("a").expect("exists");
    assert_eq!((row.lock_index, row.session, row.modify_index.0), (0, None, 19));
    assert!(machine.kv(DeleteTree(bytes("b")))); // 20
    assert_eq!(machine.index_of(&list("b")), 20);
    assert_eq!(machine.index_of(&list("b/")), 20);
    machine.set("c", "1"); // 21
    assert_eq!(machine.index_of(&list("b")), 20);
    assert_eq!(machine.index_of(&list("b/")), 21);
    assert_eq!(machine.state.tombstone_max(), Some(LogIndex(20)));
    assert_eq!(machine.run(Command::TombstoneReapV1(LogIndex(20))), Outcome::Done); // 22
    assert_eq!(machine.state.tombstone_max(), None);
    assert_eq!(machine.index_of(&list("b")), 21);
    assert!(machine.kv(Delete(bytes("nothere")))); // 23
    assert_eq!(machine.index_of(&list("")), 21);
    let Body::KvEntries(rows) = machine.ask(&list("")).body else { panic!("rows") };
    assert_eq!(rows.iter().map(|row| row.key.clone()).collect::<Vec<_>>(), ["a", "c"]);
}

#[test]
fn a_list_below_a_deleted_prefix_sees_the_deletion_despite_older_tombstones() {
    for (prefix, below) in [("web/", "web/a/"), ("", "web/a/"), ("we", "web/a/")] {
        let mut machine = Machine::default();
        machine.set("web/a/x", "1"); // 1
        machine.set("web/a/y", "1"); // 2
        assert!(machine.kv(Delete(bytes("web/a/x")))); // 3
        assert_eq!(machine.index_of(&list(below)), 3);
        assert!(machine.kv(DeleteTree(bytes(prefix)))); // 4
        machine.set("zzz", "1"); // 5
        assert_eq!(machine.index_of(&list(below)), 4, "after the end of {prefix:?}");
    }
}

#[test]
fn keys_are_folded_at_the_separator() {
    let mut machine = Machine::default();
    for key in ["bar", "baz", "foo/sub1", "foo/sub2", "zip"] {
        machine.set(key, "");
    }
    for (prefix, separator, wanted) in [
        ("", "", vec!["bar", "baz", "foo/sub1", "foo/sub2", "zip"]),
        ("", "/", vec!["bar", "baz", "foo/", "zip"]),
        ("foo", "/", vec!["foo/"]),
        ("foo/", "/", vec!["foo/sub1", "foo/sub2"]),
        ("foo", "sub", vec!["foo/sub"]),
        ("ba", "longer than any rest", vec!["bar", "baz"]),
        ("x", "/", vec![]),
    ] {
        let op = Op::KvKeys { prefix: bytes(prefix), separator: bytes(separator) };
        let answer = machine.ask(&op);
        let wanted = wanted.into_iter().map(bytes).collect();
        assert_eq!(answer.body, Body::Keys(wanted), "{prefix:?} {separator:?}");
        assert_eq!(answer.index, machine.ask(&list(prefix)).index, "{prefix:?} {separator:?}");
    }
}

#[test]
fn namespaces_know_nothing_of_each_other() {
    let mut state = State::default();
    for (index, namespace) in [(1, "default"), (2, "other"), (3, "other")] {
        let command = Command::KvV1(Set(put("k", &index.to_string())));
        let namespace = namespace.into();
        let envelope = EnvelopeV1 { namespace, ..envelope(command, None, 0) };
        apply(&mut state, &[(LogIndex(index), envelope)]);
    }
    let version = |namespace| state.kv(namespace, b"k").map(|row| row.version);
    assert_eq!((version("default"), version("other"), version("none")), (Some(1), Some(2), None));
    let index = |namespace| query(&state, namespace, &list("")).map(|answer| answer.index.0);
    assert_eq!((index("default"), index("other"), index("none")), (Some(1), Some(3), Some(1)));
    state.verify().expect("invariants hold");
}

#[test]
fn values_do_not_pin_the_buffer_they_came_in() {
    let mut machine = Machine::default();
    let frame = bytes(&"x".repeat(1 << 20));
    let slice = KvPutV1 { key: frame.slice(0..3), value: frame.slice(3..6), flags: 0 };
    assert!(machine.kv(Set(slice)));
    assert!(frame.is_unique(), "the table copied what it keeps");
}

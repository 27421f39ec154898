//! Transactions: texts of the errors, and what is left after them.

use model::command::{Command, Outcome};
use model::row::{CheckV1, NodeV1, ServiceV1, SessionBehavior, Status};
use model::rpc::{Body, Op, TxnOp};
use model::txn::{CatalogVerbV1, KvTxnV1, KvVerbV1, TxnOpV1, TxnOutcomeV1, TxnResultV1};
use model::{LogIndex, Name};

use super::fixture::{Machine, bytes, check, list, node, service, sid};
use super::random::key_op;

impl Machine {
    fn txn(&mut self, ops: &[TxnOpV1]) -> TxnOutcomeV1 {
        match self.run(Command::TxnV1(ops.to_vec())) {
            Outcome::Txn(done) => done,
            other => panic!("{other:?}"),
        }
    }

    /// Texts of the errors, after a look that nothing at all has changed.
    fn refused(&mut self, ops: &[TxnOpV1]) -> Vec<(u32, String)> {
        let (rows, index) = (self.ask(&list("")).body, self.index_of(&list("")));
        let errors = self.txn(ops).expect_err("refused");
        assert_eq!((self.ask(&list("")).body, self.index_of(&list(""))), (rows, index));
        assert_eq!(self.changes, []);
        errors.into_iter().map(|error| (error.op_index, error.what)).collect()
    }

    fn refusal(&mut self, op: TxnOpV1) -> String {
        let mut errors = self.refused(&[op]);
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors.remove(0).1
    }
}

fn kv(verb: KvVerbV1, key: &str) -> TxnOpV1 {
    TxnOpV1::Kv(key_op(verb, key))
}

fn at(verb: KvVerbV1, key: &str, index: u64) -> TxnOpV1 {
    TxnOpV1::Kv(KvTxnV1 { index: LogIndex(index), ..key_op(verb, key) })
}

fn by(verb: KvVerbV1, key: &str, session: impl Into<Name>) -> TxnOpV1 {
    TxnOpV1::Kv(KvTxnV1 { session: session.into(), ..key_op(verb, key) })
}

fn set(key: &str, value: &str) -> TxnOpV1 {
    TxnOpV1::Kv(KvTxnV1 { value: bytes(value), ..key_op(KvVerbV1::Set, key) })
}

#[test]
fn every_failing_verb_on_keys_says_consuls_text() {
    use KvVerbV1::{Cas, CheckIndex, CheckNotExists, CheckSession, DeleteCas, Get, Lock, Unlock};
    let mut machine = Machine::default();
    machine.with_session(1, SessionBehavior::Release);
    machine.set("held", "x");
    let (one, two) = (sid(1).to_string(), sid(2).to_string());
    machine.txn(&[by(KvVerbV1::Lock, "held", &*one)]).expect("free");
    let index = machine.row("held").expect("there").modify_index.0;
    for (op, text) in [
        (at(Cas, "held", 1), "failed to set key \"held\", index is stale".to_owned()),
        (at(Cas, "held", 0), "failed to set key \"held\", index is stale".into()),
        (at(Cas, "none", 1), "failed to set key \"none\", index is stale".into()),
        (kv(Lock, "a"), "missing session".into()),
        (by(Lock, "a", "odd"), "invalid session \"odd\"".into()),
        (by(Lock, "a", &*two), format!("invalid session \"{two}\"")),
        (kv(Unlock, "a"), "missing session".into()),
        (
            by(Unlock, "held", &*two),
            "failed to unlock key \"held\", lock isn't held, or is held by another session".into(),
        ),
        (kv(Get, "none"), "key \"none\" doesn't exist".into()),
        (at(CheckIndex, "none", 1), "failed to check index, key \"none\" doesn't exist".into()),
        (
            at(CheckIndex, "held", 1),
            format!("failed index check for key \"held\", current modify index {index} != 1"),
        ),
        (
            by(CheckSession, "none", ""),
            "failed to check session, key \"none\" doesn't exist".into(),
        ),
        (
            by(CheckSession, "held", &*two),
            format!(
                "failed session check for key \"held\", current session \"{one}\" != \"{two}\""
            ),
        ),
        (kv(CheckNotExists, "held"), "key \"held\" exists".into()),
        (at(DeleteCas, "held", 1), "failed to delete key \"held\", index is stale".into()),
    ] {
        assert_eq!(machine.refusal(op), text);
    }
}

#[test]
fn all_errors_are_gathered_and_nothing_is_done() {
    let mut machine = Machine::default();
    machine.set("a", "1");
    let errors = machine.refused(&[
        by(KvVerbV1::Lock, "a", ""),
        set("b", "2"),
        kv(KvVerbV1::Get, "b"),
        kv(KvVerbV1::Get, "c"),
        kv(KvVerbV1::DeleteTree, ""),
    ]);
    assert_eq!(errors, [(0, "missing session".into()), (3, "key \"c\" doesn't exist".into())]);
    assert_eq!(machine.row("b"), None);
}

#[test]
fn operations_see_earlier_ones_and_share_one_index() {
    let mut machine = Machine::default();
    machine.set("tree/old", "1");
    let results = machine
        .txn(&[
            set("a", "x"),
            kv(KvVerbV1::Get, "a"),
            kv(KvVerbV1::GetTree, "tree/"),
            kv(KvVerbV1::DeleteTree, "tree/"),
            kv(KvVerbV1::GetTree, "tree/"),
            kv(KvVerbV1::CheckNotExists, "tree/old"),
            kv(KvVerbV1::GetOrEmpty, "none"),
            kv(KvVerbV1::Delete, "none"),
        ])
        .expect("all can be done");
    let seen: Vec<(String, String, u64)> = results
        .iter()
        .map(|result| match result {
            TxnResultV1::Kv(row) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                (text(&row.key), text(&row.value), row.modify_index.0)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let index = machine.index;
    let wanted =
        [("a", "", index), ("a", "x", index), ("tree/old", "1", index - 1), ("none", "", 0)];
    assert_eq!(seen, wanted.map(|(key, value, at)| (key.to_owned(), value.to_owned(), at)));
    assert_eq!(machine.index_of(&list("tree/")), index);
    // What is set again unchanged keeps its index, which the answer tells.
    machine.txn(&[set("a", "x")]).expect("done");
    assert_eq!(machine.row("a").expect("there").modify_index.0, index);
}

#[test]
fn lock_delay_is_found_before_anything_else() {
    let mut machine = Machine::default();
    machine.with_session(1, SessionBehavior::Release);
    let id = sid(1).to_string();
    machine.txn(&[by(KvVerbV1::Lock, "a", &*id)]).expect("free");
    machine.run(Command::SessionDestroyV1(sid(1)));
    machine.with_session(2, SessionBehavior::Release);
    let id = sid(2).to_string();
    let errors = machine.refused(&[kv(KvVerbV1::Get, "none"), by(KvVerbV1::Lock, "a", &*id)]);
    assert_eq!(errors, [(1, "failed to lock key \"a\" due to lock delay".into())]);
    machine.now_ms += 61_000;
    machine.txn(&[by(KvVerbV1::Lock, "a", &*id)]).expect("the delay has passed");
}

#[test]
fn nodes_services_and_checks_are_written_compared_and_removed() {
    use CatalogVerbV1::{Cas, Delete, DeleteCas, Get, Set};
    let mut machine = Machine::default();
    let of = |verb, name: &str, modify: u64| {
        TxnOpV1::Node(verb, NodeV1 { modify_index: LogIndex(modify), ..node(name, 0) })
    };
    let web = |verb, on: &str, modify: u64| {
        let row = service("web1", "web", &[]);
        TxnOpV1::Service(verb, ServiceV1 { node: on.into(), modify_index: LogIndex(modify), ..row })
    };
    let alive = |verb, on: &str, modify: u64, of: &str| {
        let row = check(on, "alive", Status::Passing, of);
        TxnOpV1::Check(verb, CheckV1 { modify_index: LogIndex(modify), ..row })
    };
    for (op, text) in [
        (of(Get, "n", 0), "node \"n\" doesn't exist"),
        (of(Cas, "n", 5), "failed to set node \"n\", index is stale"),
        (of(DeleteCas, "n", 5), "failed to delete node \"n\", index is stale"),
        (web(Get, "n", 0), "service \"web1\" on node \"n\" doesn't exist"),
        (web(Set, "n", 0), "Missing node registration"),
        (web(Cas, "n", 5), "failed to set service \"web1\" on node \"n\", index is stale"),
        (web(DeleteCas, "n", 5), "failed to delete service \"web1\" on node \"n\", index is stale"),
        (alive(Get, "n", 0, ""), "check \"alive\" on node \"n\" doesn't exist"),
        (alive(Set, "n", 0, ""), "Missing node registration"),
        (alive(Cas, "n", 5, ""), "failed to set check \"alive\" on node \"n\", index is stale"),
        (
            alive(DeleteCas, "n", 5, ""),
            "failed to delete check \"alive\" on node \"n\", index is stale",
        ),
    ] {
        assert_eq!(machine.refusal(op), text);
    }
    let done = [of(Cas, "n", 0), web(Set, "n", 0), alive(Cas, "n", 0, "web1"), of(Get, "N", 0)];
    let results = machine.txn(&done).expect("all can be done");
    assert!(matches!(
        &results[..],
        [TxnResultV1::Node(_), TxnResultV1::Service(_), TxnResultV1::Check(check), TxnResultV1::Node(_)]
            if &*check.service_name == "web"
    ));
    let index = machine.index;
    assert_eq!(machine.refusal(alive(Set, "n", 0, "none")), "Missing service registration");
    machine.txn(&[web(DeleteCas, "n", index), of(DeleteCas, "n", index)]).expect("unchanged");
    assert_eq!(machine.refusal(of(Get, "n", 0)), "node \"n\" doesn't exist");
    machine
        .txn(&[of(Delete, "n", 0), web(Delete, "n", 0), alive(Delete, "n", 0, "")])
        .expect("gone");
}

#[test]
fn a_transaction_without_writes_is_a_read() {
    let mut machine = Machine::default();
    machine.set("a", "x");
    let ops = [kv(KvVerbV1::Get, "a"), kv(KvVerbV1::GetTree, "none/")];
    let body = machine.ask(&Op::Txn(ops.into_iter().map(TxnOp::Do).collect())).body;
    let Body::Txn(Ok(results)) = body else { panic!("{body:?}") };
    assert!(matches!(&results[..], [TxnResultV1::Kv(row)] if &*row.value == b"x"));
    let body = machine.ask(&Op::Txn(vec![TxnOp::Do(kv(KvVerbV1::Get, "b"))])).body;
    assert!(matches!(body, Body::Txn(Err(errors)) if errors[0].what == "key \"b\" doesn't exist"));
}

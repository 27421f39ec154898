//! Keys and sessions against a model that is as plain as can be: vectors and scans.

use model::command::{Command, KvCommandV1, KvPutV1, Outcome};
use model::row::{KvV1, SessionBehavior, SessionV1};
use model::rpc::Body;
use model::txn::{KvTxnV1, KvVerbV1, TxnOpV1, TxnResultV1};
use model::{LogIndex, SessionId};
use proptest::prelude::*;

use super::fixture::{Machine, list, node, session, sid};
use super::random::{PREFIXES, key_ops, kv};

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    key: Vec<u8>,
    value: Vec<u8>,
    flags: u64,
    lock: u64,
    session: Option<SessionId>,
    create: u64,
    modify: u64,
}

#[derive(Clone, Default)]
struct Naive {
    entries: Vec<Entry>,
    tombs: Vec<(Vec<u8>, u64)>,
    sessions: Vec<(SessionId, SessionBehavior, u64)>,
    delays: Vec<(Vec<u8>, u64)>,
    table: u64,
}

impl Naive {
    fn find(&mut self, key: &[u8]) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.key == key)
    }

    fn put(&mut self, put: &KvPutV1, lock: u64, session: Option<SessionId>, at: u64) {
        let (value, flags) = (put.value.to_vec(), put.flags);
        match self.find(&put.key) {
            None => {
                let key = put.key.to_vec();
                self.entries.push(Entry {
                    key,
                    value,
                    flags,
                    lock,
                    session,
                    create: at,
                    modify: at,
                });
            }
            Some(e)
                if e.value == value
                    && e.flags == flags
                    && e.lock == lock
                    && e.session == session =>
            {
                return;
            }
            Some(e) => {
                let key = e.key.clone();
                *e = Entry { key, value, flags, lock, session, create: e.create, modify: at };
            }
        }
        self.table = at;
    }

    fn delete(&mut self, gone: impl Fn(&[u8]) -> bool, tomb: &[u8], at: u64) {
        let before = self.entries.len();
        self.entries.retain(|entry| !gone(&entry.key));
        if self.entries.len() < before {
            self.table = at;
            if !tomb.is_empty() {
                self.tombs.retain(|(key, _)| key != tomb);
                self.tombs.push((tomb.to_vec(), at));
            }
        }
    }

    /// `None`: rejected.
    fn apply(&mut self, command: &KvCommandV1, at: u64, now: u64) -> Option<bool> {
        Some(match command {
            KvCommandV1::Set(put) => {
                let session = self.find(&put.key).and_then(|e| e.session);
                self.put(put, 0, session, at);
                true
            }
            KvCommandV1::Cas(put, index) => {
                let found = self.find(&put.key).map(|e| (e.modify, e.session));
                let held = found.map_or(0, |(modify, _)| modify) == index.0;
                if held {
                    self.put(put, 0, found.and_then(|(_, session)| session), at);
                }
                held
            }
            KvCommandV1::Lock(put, id) => {
                if self.delays.iter().any(|(key, until)| *key == put.key && *until > now) {
                    return Some(false);
                }
                self.sessions.iter().find(|(known, ..)| known == id)?;
                let (lock, holder) = self.find(&put.key).map_or((0, None), |e| (e.lock, e.session));
                if holder.is_some() && holder != Some(*id) {
                    return Some(false);
                }
                self.put(put, lock + u64::from(holder.is_none()), Some(*id), at);
                true
            }
            KvCommandV1::Unlock(put, id) => {
                let Some(entry) = self.find(&put.key) else { return Some(false) };
                let (lock, held) = (entry.lock, entry.session == Some(*id));
                if held {
                    self.put(put, lock, None, at);
                }
                held
            }
            KvCommandV1::Delete(key) => {
                self.delete(|k| k == key, key, at);
                true
            }
            KvCommandV1::DeleteCas(key, index) => {
                let held = self.find(key).is_none_or(|e| e.modify == index.0);
                if held {
                    self.delete(|k| k == key, key, at);
                }
                held
            }
            KvCommandV1::DeleteTree(prefix) => {
                self.delete(|k| k.starts_with(prefix), prefix, at);
                true
            }
        })
    }

    /// Results without values where one only wrote, or the places of the errors.
    fn transaction(&mut self, ops: &[KvTxnV1], at: u64, now: u64) -> Result<Vec<Entry>, Vec<u32>> {
        let delayed = |op: &KvTxnV1| {
            op.verb == KvVerbV1::Lock
                && self.delays.iter().any(|(key, until)| *key == op.key && *until > now)
        };
        let places = |hit: &dyn Fn(&KvTxnV1) -> bool| -> Vec<u32> {
            (0..).zip(ops).filter(|(_, op)| hit(op)).map(|(place, _)| place).collect()
        };
        let early = places(&delayed);
        if !early.is_empty() {
            return Err(early);
        }
        let before = self.clone();
        let (mut results, mut errors) = (Vec::new(), Vec::new());
        for (place, op) in (0..).zip(ops) {
            match self.operation(op, at, now) {
                Some(more) => results.extend(more),
                None => errors.push(place),
            }
        }
        if errors.is_empty() {
            return Ok(results);
        }
        *self = before;
        Err(errors)
    }

    fn operation(&mut self, op: &KvTxnV1, at: u64, now: u64) -> Option<Vec<Entry>> {
        let put = KvPutV1 { key: op.key.clone(), value: op.value.clone(), flags: op.flags };
        let key = op.key.clone();
        let id = op.session.parse().ok();
        let command = match op.verb {
            KvVerbV1::Set => KvCommandV1::Set(put),
            KvVerbV1::Cas => KvCommandV1::Cas(put, op.index),
            KvVerbV1::Lock => KvCommandV1::Lock(put, id?),
            KvVerbV1::Unlock => KvCommandV1::Unlock(put, id?),
            KvVerbV1::Delete => KvCommandV1::Delete(key),
            KvVerbV1::DeleteCas => KvCommandV1::DeleteCas(key, op.index),
            KvVerbV1::DeleteTree => KvCommandV1::DeleteTree(key),
            _ => return self.look(op, id),
        };
        if self.apply(&command, at, now) != Some(true) {
            return None;
        }
        let tree = op.verb == KvVerbV1::DeleteTree;
        let left = if tree { None } else { self.find(&op.key).cloned() };
        Some(left.into_iter().map(|entry| Entry { value: vec![], ..entry }).collect())
    }

    fn look(&mut self, op: &KvTxnV1, id: Option<SessionId>) -> Option<Vec<Entry>> {
        let found = self.find(&op.key).cloned();
        let bare = |entry: Entry| vec![Entry { value: vec![], ..entry }];
        match op.verb {
            KvVerbV1::Get => Some(vec![found?]),
            KvVerbV1::GetOrEmpty => Some(vec![found.unwrap_or_else(|| Entry {
                key: op.key.to_vec(),
                value: vec![],
                flags: op.flags,
                lock: 0,
                session: id,
                create: 0,
                modify: 0,
            })]),
            KvVerbV1::GetTree => {
                let mut under = self.entries.clone();
                under.retain(|entry| entry.key.starts_with(&op.key));
                under.sort_by(|a, b| a.key.cmp(&b.key));
                Some(under)
            }
            KvVerbV1::CheckIndex => found.filter(|entry| entry.modify == op.index.0).map(bare),
            KvVerbV1::CheckSession => found.filter(|entry| entry.session == id).map(bare),
            KvVerbV1::CheckNotExists => found.is_none().then(Vec::new),
            _ => panic!("{op:?} writes"),
        }
    }

    fn end(&mut self, id: SessionId, at: u64, now: u64) {
        let Some(found) = self.sessions.iter().position(|(known, ..)| *known == id) else { return };
        let (_, behavior, delay) = self.sessions.remove(found);
        let mut held: Vec<Vec<u8>> =
            self.entries.iter().filter(|e| e.session == Some(id)).map(|e| e.key.clone()).collect();
        held.sort();
        for key in held {
            match behavior {
                SessionBehavior::Delete => self.delete(|k| k == key, &key, at),
                SessionBehavior::Release => {
                    let entry = self.find(&key).expect("held");
                    (entry.session, entry.modify) = (None, at);
                    self.table = at;
                }
            }
            if delay > 0 {
                self.delays.retain(|(k, _)| *k != key);
                self.delays.push((key, now + delay));
            }
        }
    }

    /// Index of a list: spec/http-api-2.md §1.8; the exception for deleted parents is ours.
    fn index(&self, prefix: &[u8]) -> u64 {
        let entries = self.entries.iter().filter(|e| e.key.starts_with(prefix)).map(|e| e.modify);
        let tombs = self.tombs.iter().filter(|(k, _)| k.starts_with(prefix)).map(|(_, at)| *at);
        let found = entries.chain(tombs).max().filter(|_| !prefix.is_empty());
        found.unwrap_or(self.table).max(1)
    }
}

fn entry(row: &KvV1) -> Entry {
    Entry {
        key: row.key.to_vec(),
        value: row.value.to_vec(),
        flags: row.flags,
        lock: row.lock_index,
        session: row.session,
        create: row.create_index.0,
        modify: row.modify_index.0,
    }
}

fn result(result: &TxnResultV1) -> Entry {
    match result {
        TxnResultV1::Kv(row) => entry(row),
        other => panic!("{other:?} is no key"),
    }
}

#[derive(Debug, Clone)]
enum Action {
    Kv(KvCommandV1),
    Txn(Vec<KvTxnV1>),
    Create(SessionV1),
    Destroy(u8),
    Wait(u64),
    Reap(u64),
}

fn action() -> impl Strategy<Value = Action> {
    let create = (1_u8..5, any::<bool>(), 0_u64..3).prop_map(|(id, delete, delay)| {
        let behavior = if delete { SessionBehavior::Delete } else { SessionBehavior::Release };
        let lock_delay_ns = delay * 10_000_000_000;
        Action::Create(SessionV1 { behavior, lock_delay_ns, ..session(id, "n1", &[]) })
    });
    prop_oneof![
        10 => kv().prop_map(Action::Kv),
        5 => key_ops().prop_map(Action::Txn),
        3 => create,
        2 => (1_u8..5).prop_map(Action::Destroy),
        2 => (1_u64..30_000).prop_map(Action::Wait),
        1 => (0_u64..80).prop_map(Action::Reap),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn keys_and_sessions_behave_like_the_plain_model(
        actions in prop::collection::vec(action(), 1..80),
    ) {
        let mut machine = Machine::default();
        machine.register(node("n1", 1), vec![], vec![]);
        let mut naive = Naive::default();
        for action in actions {
            let (at, now) = (machine.index + 1, machine.now_ms);
            match action {
                Action::Wait(ms) => machine.now_ms += ms,
                Action::Kv(command) => {
                    let wanted = naive.apply(&command, at, now);
                    let found = machine.run(Command::KvV1(command.clone()));
                    let found = match found {
                        model::command::Outcome::Bool(held) => Some(held),
                        _ => None,
                    };
                    prop_assert_eq!(found, wanted, "{:?}", command);
                }
                Action::Txn(ops) => {
                    let wanted = naive.transaction(&ops, at, now);
                    let found = machine.run(Command::TxnV1(ops.iter().cloned().map(TxnOpV1::Kv).collect()));
                    let Outcome::Txn(found) = found else { panic!("{found:?}") };
                    let found = found
                        .map(|results| results.iter().map(result).collect::<Vec<_>>())
                        .map_err(|errors| errors.iter().map(|e| e.op_index).collect::<Vec<_>>());
                    prop_assert_eq!(found, wanted, "{:?}", ops);
                }
                Action::Create(row) => {
                    if !naive.sessions.iter().any(|(id, ..)| *id == row.id) {
                        naive.sessions.push((row.id, row.behavior, row.lock_delay_ns / 1_000_000));
                    }
                    machine.run(Command::SessionCreateV1(row));
                }
                Action::Destroy(id) => {
                    naive.end(sid(id), at, now);
                    machine.run(Command::SessionDestroyV1(sid(id)));
                }
                Action::Reap(up_to) => {
                    naive.tombs.retain(|(_, index)| *index > up_to);
                    machine.run(Command::TombstoneReapV1(LogIndex(up_to)));
                }
            }
            naive.entries.sort_by(|a, b| a.key.cmp(&b.key));
            let Body::KvEntries(rows) = machine.ask(&list("")).body else { panic!("rows") };
            let rows: Vec<Entry> = rows
                .iter()
                .map(|row| entry(row))
                .collect();
            prop_assert_eq!(&rows, &naive.entries);
            for prefix in PREFIXES {
                let (found, wanted) = (machine.index_of(&list(prefix)), naive.index(prefix.as_bytes()));
                let emptied = !naive.entries.iter().any(|e| e.key.starts_with(prefix.as_bytes()));
                prop_assert!(found == wanted || (emptied && found > wanted), "{:?}", prefix);
            }
        }
    }
}

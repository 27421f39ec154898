//! Random commands over a world small enough for them to meet.

use model::command::{
    AutopilotCommandV1, Command, DeregisterV1, KvCommandV1, KvPutV1, RegisterV1, RetryV1,
};
use model::row::{AutopilotV1, CheckV1, NodeV1, ServiceV1, SessionBehavior, SessionV1, Status};
use model::rpc::{CheckStateFilter, Op};
use model::txn::{CatalogVerbV1, KvTxnV1, KvVerbV1, TxnOpV1};
use model::{LogIndex, Name, NodeId};
use proptest::prelude::*;
use proptest::sample::select;

use super::fixture::{bytes, check, node, proxy, put, service, session, sid};

pub(super) const KEYS: [&str; 8] = ["a", "a/", "a/b", "a/b/c", "a/c", "b", "b/1", "\u{e9}"];
pub(super) const PREFIXES: [&str; 6] = ["", "a", "a/", "a/b", "b", "z"];
const NODES: [&str; 4] = ["n1", "N1", "n2", "n3"];
const SERVICE_IDS: [&str; 4] = ["s1", "s2", "S2", "s3"];
const NAMES: [&str; 4] = ["web", "WEB", "db", "api"];
const CHECKS: [&str; 3] = ["serfHealth", "c1", "C1"];

/// A command, its retry stamp, and the milliseconds since the one before.
pub(super) type Step = (Command, Option<RetryV1>, u64);

pub(super) fn steps(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    let pause = prop_oneof![8 => 0_u64..20, 2 => 5_000_u64..20_000, 1 => 60_000_u64..70_000];
    prop::collection::vec((command(), prop::option::weighted(0.3, retry()), pause), count)
}

fn retry() -> impl Strategy<Value = RetryV1> {
    (1_u8..3, 1_u64..12, 0_u64..4).prop_map(|(origin, seq, behind)| RetryV1 {
        origin: NodeId([origin; 16]),
        seq,
        oldest_open: seq.saturating_sub(behind).max(1),
    })
}

pub(super) fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        6 => kv().prop_map(Command::KvV1),
        5 => registration().prop_map(Command::RegisterV1),
        2 => deregistration().prop_map(Command::DeregisterV1),
        2 => new_session().prop_map(Command::SessionCreateV1),
        1 => (1_u8..5).prop_map(|id| Command::SessionDestroyV1(sid(id))),
        1 => (0_u64..60).prop_map(|up_to| Command::TombstoneReapV1(LogIndex(up_to))),
        1 => Just(Command::TickV1),
        3 => transaction().prop_map(Command::TxnV1),
        1 => (1_u32..4).prop_map(Command::StateVersionV1),
        1 => autopilot().prop_map(Command::AutopilotV1),
    ]
}

fn autopilot() -> impl Strategy<Value = AutopilotCommandV1> {
    let row =
        (0_u64..3).prop_map(|min_quorum| AutopilotV1 { min_quorum, ..AutopilotV1::default() });
    prop_oneof![
        row.clone().prop_map(AutopilotCommandV1::Set),
        row.clone().prop_map(AutopilotCommandV1::Seed),
        (row, (0_u64..40).prop_map(LogIndex))
            .prop_map(|(row, at)| AutopilotCommandV1::Cas(row, at)),
    ]
}

fn transaction() -> impl Strategy<Value = Vec<TxnOpV1>> {
    let verb = select(
        &[
            CatalogVerbV1::Get,
            CatalogVerbV1::Set,
            CatalogVerbV1::Set,
            CatalogVerbV1::Cas,
            CatalogVerbV1::Delete,
            CatalogVerbV1::DeleteCas,
        ][..],
    );
    let at = (0_u64..40).prop_map(LogIndex);
    let of_node = (verb.clone(), select(&NODES[..]), 0_u8..4, at.clone()).prop_map(
        |(verb, name, id, modify_index)| {
            TxnOpV1::Node(verb, NodeV1 { modify_index, ..node(name, id) })
        },
    );
    let of_service = (verb.clone(), select(&NODES[..]), instance(), at.clone()).prop_map(
        |(verb, node, row, modify_index)| {
            TxnOpV1::Service(verb, ServiceV1 { node: node.into(), modify_index, ..row })
        },
    );
    let of_check = (verb, select(&NODES[..]), health_check(), at).prop_map(
        |(verb, node, row, modify_index)| {
            TxnOpV1::Check(verb, CheckV1 { node: node.into(), modify_index, ..row })
        },
    );
    let of_keys = key_ops().prop_map(|ops| ops.into_iter().map(TxnOpV1::Kv).collect::<Vec<_>>());
    let of_catalog = prop::collection::vec(prop_oneof![of_node, of_service, of_check], 0..4);
    (of_keys, of_catalog).prop_map(|(keys, catalog)| [keys, catalog].concat())
}

pub(super) fn kv() -> impl Strategy<Value = KvCommandV1> {
    let one = (select(&KEYS[..]), select(&["", "x", "y"][..]), 0_u64..2)
        .prop_map(|(key, value, flags)| model::command::KvPutV1 { flags, ..put(key, value) });
    let index = (0_u64..40).prop_map(LogIndex);
    let holder = (1_u8..5).prop_map(sid);
    prop_oneof![
        3 => one.clone().prop_map(KvCommandV1::Set),
        2 => (one.clone(), index.clone()).prop_map(|(put, at)| KvCommandV1::Cas(put, at)),
        4 => (one.clone(), holder.clone()).prop_map(|(put, id)| KvCommandV1::Lock(put, id)),
        2 => (one, holder).prop_map(|(put, id)| KvCommandV1::Unlock(put, id)),
        1 => select(&KEYS[..]).prop_map(|key| KvCommandV1::Delete(bytes(key))),
        1 => (select(&KEYS[..]), index).prop_map(|(key, at)| KvCommandV1::DeleteCas(bytes(key), at)),
        1 => select(&PREFIXES[..]).prop_map(|prefix| KvCommandV1::DeleteTree(bytes(prefix))),
    ]
}

/// Operations on keys, reads too, as a transaction has them.
pub(super) fn key_ops() -> impl Strategy<Value = Vec<KvTxnV1>> {
    let read = select(
        &[
            KvVerbV1::Get,
            KvVerbV1::GetOrEmpty,
            KvVerbV1::GetTree,
            KvVerbV1::CheckIndex,
            KvVerbV1::CheckSession,
            KvVerbV1::CheckNotExists,
        ][..],
    );
    let holder = prop_oneof![
        1 => Just(Name::default()),
        2 => (1_u8..5).prop_map(|id| Name::from(sid(id).to_string())),
    ];
    let read = (read, select(&KEYS[..]), (0_u64..40).prop_map(LogIndex), holder)
        .prop_map(|(verb, key, index, session)| KvTxnV1 { index, session, ..key_op(verb, key) });
    let op = prop_oneof![3 => kv().prop_map(|command| as_op(&command)), 1 => read];
    prop::collection::vec(op, 1..5)
}

pub(super) fn key_op(verb: KvVerbV1, key: &str) -> KvTxnV1 {
    let (value, session) = (bytes(""), Name::default());
    KvTxnV1 { verb, key: bytes(key), value, flags: 0, index: LogIndex::ZERO, session }
}

fn as_op(command: &KvCommandV1) -> KvTxnV1 {
    let put = |verb, put: &KvPutV1| KvTxnV1 {
        key: put.key.clone(),
        value: put.value.clone(),
        flags: put.flags,
        ..key_op(verb, "")
    };
    let bare = |verb, key: &bytes::Bytes| KvTxnV1 { key: key.clone(), ..key_op(verb, "") };
    match command {
        KvCommandV1::Set(row) => put(KvVerbV1::Set, row),
        KvCommandV1::Cas(row, index) => KvTxnV1 { index: *index, ..put(KvVerbV1::Cas, row) },
        KvCommandV1::Lock(row, id) => {
            KvTxnV1 { session: id.to_string().into(), ..put(KvVerbV1::Lock, row) }
        }
        KvCommandV1::Unlock(row, id) => {
            KvTxnV1 { session: id.to_string().into(), ..put(KvVerbV1::Unlock, row) }
        }
        KvCommandV1::Delete(key) => bare(KvVerbV1::Delete, key),
        KvCommandV1::DeleteCas(key, index) => {
            KvTxnV1 { index: *index, ..bare(KvVerbV1::DeleteCas, key) }
        }
        KvCommandV1::DeleteTree(prefix) => bare(KvVerbV1::DeleteTree, prefix),
    }
}

fn registration() -> impl Strategy<Value = RegisterV1> {
    (
        (select(&NODES[..]), 0_u8..4, select(&["10.0.0.1", "10.0.0.2"][..]), any::<bool>()),
        prop::option::weighted(0.2, select(&["east", "west"][..])),
        prop::collection::vec(instance(), 0..3),
        prop::collection::vec(health_check(), 0..3),
    )
        .prop_map(|((name, id, address, skip_node_update), zone, services, checks)| {
            RegisterV1 {
                node: NodeV1 {
                    address: address.into(),
                    meta: zone.map(|zone| [("zone".into(), zone.into())].into()),
                    ..node(name, id)
                },
                skip_node_update,
                services,
                checks,
            }
        })
}

fn instance() -> impl Strategy<Value = ServiceV1> {
    let tags = prop::collection::vec(select(&["v1", "V2"][..]), 0..2);
    (select(&SERVICE_IDS[..]), select(&NAMES[..]), tags, 0_u8..4).prop_map(
        |(id, name, tags, form)| match form {
            0 => proxy(id, "side", name),
            1 => ServiceV1 { connect_native: true, ..service(id, name, &tags) },
            _ => service(id, name, &tags),
        },
    )
}

fn health_check() -> impl Strategy<Value = CheckV1> {
    let status = select(&[Status::Passing, Status::Warning, Status::Critical][..]);
    let of = prop_oneof![2 => Just(""), 1 => select(&SERVICE_IDS[..])];
    (select(&CHECKS[..]), status, of).prop_map(|(id, status, of)| check("", id, status, of))
}

fn deregistration() -> impl Strategy<Value = DeregisterV1> {
    let service = prop::option::of(select(&SERVICE_IDS[..]).prop_map(Name::from));
    let gone = prop::option::of(select(&CHECKS[..]).prop_map(Name::from));
    (select(&NODES[..]), service, gone).prop_map(|(node, service_id, check_id)| DeregisterV1 {
        node: node.into(),
        service_id,
        check_id,
    })
}

fn new_session() -> impl Strategy<Value = SessionV1> {
    let checks = prop::collection::vec(select(&CHECKS[..]), 0..2);
    (1_u8..5, select(&NODES[..]), checks, any::<bool>(), select(&[0_u64, 15_000_000_000][..]))
        .prop_map(|(id, node, checks, delete, lock_delay_ns)| SessionV1 {
            lock_delay_ns,
            behavior: match delete {
                true => SessionBehavior::Delete,
                false => SessionBehavior::Release,
            },
            ..session(id, node, &checks)
        })
}

/// Every read worth asking in this world.
pub(super) fn reads() -> Vec<Op> {
    let mut reads = vec![Op::SessionList];
    reads.extend(KEYS.iter().map(|key| Op::KvGet { key: bytes(key) }));
    for prefix in PREFIXES.into_iter().chain(["a/b/"]) {
        reads.push(Op::KvList { prefix: bytes(prefix) });
        reads.push(Op::KvKeys { prefix: bytes(prefix), separator: bytes("/") });
    }
    reads.extend((1..5).map(|id| Op::SessionGet { id: sid(id).to_string().into() }));
    for name in NODES {
        reads.push(Op::SessionsOfNode { node: name.into() });
        reads.push(Op::NodeServices { node: name.into() });
        reads.push(Op::HealthNode { node: name.into() });
    }
    for id in 1..4 {
        reads.push(Op::NodeServices { node: NodeId([id; 16]).to_string().into() });
    }
    for meta in [[].into(), [("zone".into(), "east".into())].into()] {
        reads.push(Op::Nodes { meta: Clone::clone(&meta) });
        reads.push(Op::Services { meta: Clone::clone(&meta) });
        reads.push(Op::AllInstances { meta: Clone::clone(&meta) });
        for name in ["web", "DB", "api", "side", "none"] {
            let service: Name = name.into();
            reads.push(Op::HealthChecks { service: Name::clone(&service), meta: meta.clone() });
            for connect in [false, true] {
                let (service, tags, meta) = (Name::clone(&service), vec![], meta.clone());
                reads.push(Op::HealthService { service, tags, meta, connect });
            }
            let tags = vec!["v2".into()];
            reads.push(Op::ServiceNodes { service, tags, meta: meta.clone(), connect: false });
        }
        for state in [
            None,
            Some(CheckStateFilter::Only(Status::Passing)),
            Some(CheckStateFilter::Only(Status::Critical)),
            Some(CheckStateFilter::Nothing),
        ] {
            reads.push(Op::HealthState { state, meta: meta.clone() });
        }
    }
    reads
}

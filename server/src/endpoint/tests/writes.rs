//! Writes on the leader.

use model::Name;
use model::command::{Command, RegisterV1, Rejection};
use model::rpc::TxnOp;
use model::rpc::{KvWrite, NewSession, Registration};
use model::seam::Backend;
use model::txn::{KvTxnV1, KvVerbV1, TxnOpV1};

use super::super::fake::rows;
use super::*;
use crate::consensus::Proposal;

fn new_session(ttl: &str) -> Op {
    Op::SessionCreate(NewSession {
        name: "".into(),
        node: "n1".into(),
        lock_delay_ns: 0,
        behavior: "delete".into(),
        ttl: ttl.into(),
        node_checks: Some(vec![]),
        service_checks: None,
        checks: vec![],
    })
}

fn registration(name: &str, n: u8) -> Op {
    Op::Register(Box::new(Registration {
        node: rows::node(name, n),
        skip_node_update: false,
        services: vec![rows::service(name, "web", "web")],
        checks: vec![rows::check(name, "alive", "web")],
    }))
}

async fn backend() -> (Stage, LocalBackend) {
    let stage = Stage::leading();
    let backend = LocalBackend::new(Arc::clone(&stage.endpoint), NodeId([8; 16]));
    let registered = backend.ask(Request::new(registration("n1", 1))).await;
    assert!(matches!(registered, Ok(Reply { body: Body::Done, .. })), "{registered:?}");
    stage.duties.timers.begin(&[], Instant::now());
    (stage, backend)
}

async fn write(backend: &LocalBackend, op: Op) -> Result<Body, RpcError> {
    backend.ask(Request::new(op)).await.map(|reply| reply.body)
}

fn acquire(session: &str) -> Op {
    let (key, value) = (Bytes::from_static(b"my-key"), Bytes::copy_from_slice(session.as_bytes()));
    Op::Kv(KvWrite::Acquire { key, value, flags: 0, session: session.into() })
}

#[tokio::test(start_paused = true)]
async fn one_of_many_gets_the_lock() {
    let (_stage, backend) = backend().await;
    let mut held = Vec::new();
    for _ in 0..10 {
        let Ok(Body::Session(id)) = write(&backend, new_session("10s")).await else {
            panic!("a session is created");
        };
        held.push(write(&backend, acquire(&id.to_string())).await);
    }
    assert_eq!(held.iter().filter(|held| **held == Ok(Body::Bool(true))).count(), 1);
    assert_eq!(held.iter().filter(|held| **held == Ok(Body::Bool(false))).count(), 9);
    let invalid = write(&backend, acquire("nonsense")).await.expect_err("refused");
    assert_eq!(invalid, RpcError::Rejected(Rejection::InvalidSession("nonsense".into())));
}

#[tokio::test(start_paused = true)]
async fn a_retried_creation_makes_one_session_and_answers_with_its_id() {
    let (stage, backend) = backend().await;
    // It is applied, but the answer is lost; then the same again.
    let lost = RpcError::Broken("cut".into());
    *stage.consensus.faults.lock().expect("no panic") = vec![(true, lost.clone()), (true, lost)];
    let Ok(Body::Session(id)) = write(&backend, new_session("10s")).await else {
        panic!("a session is created");
    };
    let sessions = stage.consensus.state().sessions_with_ttl();
    assert_eq!(sessions, [(id, 10_000)]);
}

#[tokio::test(start_paused = true)]
async fn sessions_are_renewed_and_unknown_ones_are_not_found() {
    let (_stage, backend) = backend().await;
    let Ok(Body::Session(id)) = write(&backend, new_session("10s")).await else {
        panic!("a session is created");
    };
    let renew = |id: &str| Op::SessionRenew { id: Name::from(id) };
    let before = backend.ask(Request::new(Op::SessionList)).await.expect("answers").meta.index;
    let upper = id.to_string().to_uppercase();
    let renewed = write(&backend, renew(&upper)).await.expect("renewed");
    assert!(matches!(&renewed, Body::Sessions(list) if list.len() == 1 && list[0].id == id));
    let after = backend.ask(Request::new(Op::SessionList)).await.expect("answers").meta.index;
    assert_eq!(before, after);
    for unknown in ["nonsense", "00000000-0000-4000-8000-000000000000"] {
        let error = write(&backend, renew(unknown)).await.expect_err("unknown");
        assert_eq!(error, RpcError::NotFound(format!("Session id '{unknown}' not found")));
    }
    for gone in [id.to_string(), id.to_string(), "nonsense".to_owned()] {
        let destroy = Op::SessionDestroy { id: gone.into() };
        assert_eq!(write(&backend, destroy).await, Ok(Body::Done));
    }
    assert!(matches!(write(&backend, renew(&id.to_string())).await, Err(RpcError::NotFound(_))));
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_refuses_nothing_for_what_it_has_yet_to_apply() {
    let (stage, backend) = backend().await;
    let registration = |services, service_id: &str| Registration {
        node: rows::node("n1", 1),
        skip_node_update: false,
        services,
        checks: vec![rows::check("n1", "lives", service_id)],
    };
    let committed = registration(vec![rows::service("n1", "db", "db")], "db");
    stage.consensus.unapplied.lock().expect("no panic").push(Proposal {
        namespace: "default".into(),
        retry: None,
        actor: "".into(),
        reason: "".into(),
        command: Command::RegisterV1(RegisterV1 {
            node: committed.node,
            skip_node_update: false,
            services: committed.services,
            checks: committed.checks,
        }),
    });
    let check = |id| Op::Register(Box::new(registration(vec![], id)));
    assert_eq!(write(&backend, check("db")).await, Ok(Body::Done));
    let refused = write(&backend, check("other")).await.expect_err("there is no such service");
    assert_eq!(refused.to_string(), "Unknown service ID 'other' for check ID 'lives'");
}

#[tokio::test(start_paused = true)]
async fn a_batch_applies_each_on_its_own() {
    let (stage, backend) = backend().await;
    let no_node = Op::Deregister { node: "".into(), service_id: None, check_id: None };
    let set = Op::Kv(KvWrite::Delete { key: Bytes::from_static(b"k") });
    let ops = vec![registration("n2", 2), no_node, set, Op::Batch(vec![]), registration("n3", 3)];
    let Ok(Body::Batch(results)) = write(&backend, Op::Batch(ops)).await else {
        panic!("the batch is answered");
    };
    let ok: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(ok, [true, false, false, false, true]);
    assert_eq!(stage.consensus.state().nodes("default").len(), 3);
    let long = Op::Batch(vec![Op::SessionRenew { id: "x".into() }; 2_000]);
    assert!(matches!(write(&backend, long).await, Err(RpcError::Rejected(_))));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_lost_its_leader_is_tried_again_as_a_whole() {
    let (stage, backend) = backend().await;
    *stage.consensus.faults.lock().expect("no panic") = vec![(false, RpcError::NoLeader)];
    let proposed = stage.consensus.proposed();
    let ops = vec![registration("n2", 2), registration("n3", 3)];
    assert_eq!(
        write(&backend, Op::Batch(ops)).await,
        Ok(Body::Batch(vec![Ok(Body::Done), Ok(Body::Done)]))
    );
    assert_eq!(stage.consensus.proposed(), proposed + 4);
}

#[tokio::test(start_paused = true)]
async fn status_and_configuration_are_answered() {
    let (stage, backend) = backend().await;
    stage.consensus.add_server(NodeId([2; 16]), "n2".into(), fake::address(2)).await.expect("ok");
    stage.consensus.promote(NodeId([2; 16])).await.expect("ok");
    let leader = Body::Address("127.0.0.1:8300".into());
    assert_eq!(write(&backend, Op::StatusLeader).await, Ok(leader));
    let peers = Body::Names(vec!["127.0.0.1:8300".into(), "127.0.0.2:8300".into()]);
    assert_eq!(write(&backend, Op::StatusPeers).await, Ok(peers));
    assert_eq!(write(&backend, Op::Datacenters).await, Ok(Body::Names(vec!["dc1".into()])));
    let Ok(Body::RaftServers { servers, .. }) = write(&backend, Op::RaftConfiguration).await else {
        panic!("the configuration is answered");
    };
    let names: Vec<&str> = servers.iter().map(|server| &*server.node).collect();
    assert_eq!(names, ["n1", "(unknown)"]);
    let unknown = Op::RemovePeer { id: NodeId([7; 16]) };
    let text = write(&backend, unknown).await.expect_err("unknown").to_string();
    assert!(text.ends_with("was not found in the Raft configuration"), "{text}");
    let known = Op::RemovePeer { id: NodeId([2; 16]) };
    assert_eq!(write(&backend, known).await, Ok(Body::Done));
}

#[tokio::test(start_paused = true)]
async fn a_leaving_leader_hands_over_and_asks_to_be_removed() {
    let stage = Stage::new(FakePeers::new(|_, _| {
        Box::pin(async {
            let meta = Meta {
                index: LogIndex(1),
                known_leader: true,
                last_contact_ms: 0,
                consistency: Consistency::Default,
            };
            Ok(Reply { meta, body: Body::Done })
        })
    }));
    stage.consensus.lead(Some(1));
    let backend = LocalBackend::new(Arc::clone(&stage.endpoint), NodeId([8; 16]));
    // Alone: nobody to leave to.
    assert_eq!(backend.leave().await, Ok(()));
    assert!(stage.peers.asked.lock().expect("no panic").is_empty());
    stage.consensus.add_server(NodeId([2; 16]), "n2".into(), fake::address(2)).await.expect("ok");
    stage.consensus.promote(NodeId([2; 16])).await.expect("ok");
    assert_eq!(backend.leave().await, Ok(()));
    let asked = stage.peers.asked.lock().expect("no panic");
    assert_eq!(asked[0].0, fake::address(2));
    assert_eq!(asked[0].1.op, Op::RemovePeer { id: fake::US });
    assert!(stage.endpoint.is_leaving());
}

#[tokio::test(start_paused = true)]
async fn the_link_says_since_when() {
    let stage = Stage::new(FakePeers::silent());
    let backend = LocalBackend::new(Arc::clone(&stage.endpoint), NodeId([8; 16]));
    sleep(Duration::from_secs(3)).await;
    let link = backend.link();
    assert_eq!((link.leader_known, link.since_ms), (false, 3_000));
    stage.consensus.lead(Some(2));
    let link = backend.link();
    assert_eq!((link.leader_known, link.since_ms), (true, 0));
    let stats = backend.stats();
    assert_eq!(stats["consul"]["leader"], "false");
    assert_eq!(stats["consul"]["leader_addr"], "127.0.0.2:8300");
}

fn txn_op(verb: KvVerbV1, key: &'static str) -> TxnOp {
    TxnOp::Do(TxnOpV1::Kv(KvTxnV1 {
        verb,
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::from_static(b"x"),
        flags: 0,
        index: LogIndex::ZERO,
        session: "".into(),
    }))
}

#[tokio::test(start_paused = true)]
async fn a_transaction_is_vetted_whole_and_applied_once() {
    let (stage, backend) = backend().await;
    let applied = stage.consensus.state().applied();
    // What is wrong in itself is found without a log entry, all of it.
    let ops = vec![
        txn_op(KvVerbV1::Set, "a"),
        TxnOp::Wrong(false, "unknown KV operation: odd".into()),
        txn_op(KvVerbV1::Set, ""),
    ];
    let Ok(Body::Txn(Err(errors))) = write(&backend, Op::Txn(ops)).await else {
        panic!("refused");
    };
    let found: Vec<_> = errors.iter().map(|error| (error.op_index, &*error.what)).collect();
    assert_eq!(found, [(1, "unknown KV operation: odd"), (2, "Must provide key")]);
    assert_eq!(stage.consensus.state().applied(), applied);

    // Applied, but the answer is lost: the second try must not find its own work in the way.
    let lost = RpcError::Broken("cut".into());
    *stage.consensus.faults.lock().expect("no panic") = vec![(true, lost)];
    let ops = vec![txn_op(KvVerbV1::Cas, "a"), txn_op(KvVerbV1::Get, "a")];
    let done = write(&backend, Op::Txn(ops)).await;
    assert!(matches!(&done, Ok(Body::Txn(Ok(results))) if results.len() == 2), "{done:?}");
    let ops = vec![txn_op(KvVerbV1::Get, "a"), txn_op(KvVerbV1::CheckNotExists, "b")];
    let done = write(&backend, Op::Txn(ops)).await;
    assert!(matches!(&done, Ok(Body::Txn(Ok(results))) if results.len() == 1), "{done:?}");

    let many = vec![txn_op(KvVerbV1::Set, "a"); 129];
    let refused = write(&backend, Op::Txn(many)).await.expect_err("too many").to_string();
    assert_eq!(refused, "Transaction contains too many operations (129 > 128)");
}

/// May read everything and write nothing but `mine`.
struct OnlyMine;

impl Authorizer for OnlyMine {
    fn authorize(&self, _token: &str, need: &Need) -> Result<(), RpcError> {
        match need {
            Need::KeyWrite(key) if key != "mine" => {
                Err(RpcError::PermissionDenied("lacks 'key:write'".into()))
            }
            _ => Ok(()),
        }
    }

    fn filter(&self, _token: &str, _op: &Op, body: Body) -> Body {
        body
    }
}

#[test]
fn each_operation_is_authorised_for_itself() {
    let mut ops = [
        txn_op(KvVerbV1::Set, "mine"),
        txn_op(KvVerbV1::Get, "other"),
        txn_op(KvVerbV1::Delete, "other"),
        txn_op(KvVerbV1::CheckNotExists, "other"),
    ];
    let errors = txn::check(&mut ops, &OnlyMine, "", 8).expect("a list");
    let found: Vec<_> = errors.iter().map(|error| (error.op_index, &*error.what)).collect();
    let denied = "Permission denied: lacks 'key:write'";
    assert_eq!(found, [(2, denied), (3, denied)]);
}

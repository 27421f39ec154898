//! Looking for a leader: hold, retry, forward.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

fn meta() -> Meta {
    Meta {
        index: LogIndex(5),
        known_leader: true,
        last_contact_ms: 0,
        consistency: Consistency::Default,
    }
}

/// Peers that give these answers, one after the other.
fn answering(answers: Vec<Answer>) -> Arc<FakePeers> {
    let answers = Mutex::new(answers.into_iter());
    FakePeers::new(move |_, _| {
        let next = answers.lock().expect("no panic").next();
        Box::pin(async move {
            match next {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        })
    })
}

fn done() -> Answer {
    Ok(Reply { meta: meta(), body: Body::Done })
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_out_an_election() {
    let stage = Stage::new(FakePeers::silent());
    put(&stage.consensus, "a");
    let start = Instant::now();
    let held = spawn(&stage, get("a"), Caller::Agent);
    sleep(Duration::from_secs(2)).await;
    assert!(!held.is_finished());
    stage.consensus.lead(Some(1));
    assert!(found(&held.await.expect("no panic")));
    // The change of leadership cuts the pause short.
    assert!(Instant::now() - start < Duration::from_millis(2_050));
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_the_hold_time_is_the_limit() {
    let stage = Stage::new(FakePeers::silent());
    for hold_ms in [0, 700, 7_000] {
        let mut request = get("a");
        request.hold_ms = hold_ms;
        let start = Instant::now();
        assert_eq!(ask(&stage, request).await, Err(RpcError::NoLeader));
        let took = u64::try_from((Instant::now() - start).as_millis()).expect("small");
        assert!((hold_ms..hold_ms + 50).contains(&took), "{hold_ms}: {took}");
    }
    // A request of another server is never held here.
    let start = Instant::now();
    let answer = stage.endpoint.ask(get("a"), Caller::Server, || None).await;
    assert_eq!((answer, Instant::now()), (Err(RpcError::NoLeader), start));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_only_where_it_is_harmless() {
    let lost = || Err(RpcError::Broken("cut".into()));
    let write =
        || Request::new(Op::Deregister { node: "x".into(), service_id: None, check_id: None });
    let stamped = || {
        let retry = Some(RetryV1 { origin: NodeId([9; 16]), seq: 1, oldest_open: 1 });
        Request { retry, ..write() }
    };
    let transfer = || Request::new(Op::TransferLeader { to: None });
    for (request, asked, answer) in [
        (get("a"), 2, done()),
        (stamped(), 2, done()),
        (write(), 1, lost()),
        (transfer(), 1, lost()),
    ] {
        let stage = Stage::new(answering(vec![lost(), done()]));
        stage.consensus.lead(Some(2));
        assert_eq!(ask(&stage, request).await, answer);
        assert_eq!(stage.peers.asked.lock().expect("no panic").len(), asked);
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_may_have_happened_says_so_in_the_end() {
    let lost = RpcError::Broken("cut".into());
    let answers = std::iter::once(Err(lost.clone()))
        .chain(std::iter::repeat_n(Err(RpcError::NoLeader), 100))
        .collect();
    let stage = Stage::new(answering(answers));
    stage.consensus.lead(Some(2));
    let retry = Some(RetryV1 { origin: NodeId([9; 16]), seq: 1, oldest_open: 1 });
    let op = Op::SessionDestroy { id: "x".into() };
    assert_eq!(ask(&stage, Request { retry, ..Request::new(op) }).await, Err(lost));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_replaced_is_not_waited_for() {
    let stage = Stage::new(FakePeers::new(|at, _| {
        Box::pin(async move {
            if at == fake::address(2) { std::future::pending().await } else { done() }
        })
    }));
    stage.consensus.lead(Some(2));
    let asked = spawn(&stage, get("a"), Caller::Agent);
    sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    stage.consensus.lead(Some(3));
    assert_eq!(asked.await.expect("no panic"), done());
    assert!(Instant::now() - start < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn refused_early_is_refused() {
    let stage = Stage::new(answering(vec![Err(RpcError::Busy)]));
    stage.consensus.lead(Some(2));
    let start = Instant::now();
    assert_eq!(ask(&stage, get("a")).await, Err(RpcError::Busy));
    assert_eq!(Instant::now(), start);
}

#[tokio::test(start_paused = true)]
async fn each_attempt_carries_a_new_stamp() {
    let stage = Stage::new(answering(vec![Err(RpcError::NoLeader), done()]));
    stage.consensus.lead(Some(2));
    let oldest = AtomicU64::new(0);
    let restamp = || {
        let oldest_open = oldest.fetch_add(1, Ordering::SeqCst) + 1;
        Some(RetryV1 { origin: NodeId([9; 16]), seq: 7, oldest_open })
    };
    let request = Request::new(Op::SessionDestroy { id: "x".into() });
    assert_eq!(stage.endpoint.ask(request, Caller::Agent, restamp).await, done());
    let asked = stage.peers.asked.lock().expect("no panic");
    let stamps: Vec<u64> =
        asked.iter().filter_map(|(_, request)| Some(request.retry?.oldest_open)).collect();
    assert_eq!(stamps, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_consistent_read_on_a_follower_waits_for_the_leaders_index() {
    let stage = Stage::new(FakePeers::silent());
    stage.consensus.lead(Some(2));
    let index = put(&stage.consensus, "a");
    stage.peers.read_index.store(index.0 + 1, Ordering::SeqCst);
    let mut request = get("a");
    request.consistency = Consistency::Consistent;
    let held = spawn(&stage, request, Caller::Agent);
    sleep(Duration::from_secs(1)).await;
    assert!(!held.is_finished());
    let newer = put(&stage.consensus, "a");
    let reply = held.await.expect("no panic").expect("answers");
    assert_eq!((reply.meta.index, reply.meta.consistency), (newer, Consistency::Consistent));
    assert!(stage.peers.asked.lock().expect("no panic").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lone_survivor_is_not_mute() {
    let stage = Stage::new(FakePeers::silent());
    put(&stage.consensus, "a");
    stage.consensus.ready.store(false, Ordering::SeqCst);
    let mut request = get("a");
    request.consistency = Consistency::Stale;
    assert_eq!(ask(&stage, request.clone()).await, Err(RpcError::NoLeader));
    let status = ask(&stage, Request::new(Op::StatusLeader)).await.expect("answers at once");
    assert_eq!(status.body, Body::Address("".into()));
    sleep(Duration::from_secs(25)).await;
    let answer = ask(&stage, request).await;
    assert!(found(&answer));
    assert!(!answer.expect("answers").meta.known_leader);
}

#[tokio::test(start_paused = true)]
async fn other_datacenters_and_namespaces_are_refused() {
    let stage = Stage::leading();
    let dc = |dc: &str| Request { dc: dc.into(), ..get("a") };
    assert_eq!(ask(&stage, dc("dc2")).await, Err(RpcError::NoPathToDatacenter));
    assert!(ask(&stage, dc("DC1")).await.is_ok());
    let other = Request { namespace: "other".into(), ..get("a") };
    assert!(matches!(ask(&stage, other).await, Err(RpcError::Rejected(_))));
}

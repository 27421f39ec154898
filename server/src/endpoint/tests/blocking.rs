//! Blocking reads.

use std::sync::atomic::Ordering;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_read_at_or_below_its_index_waits_and_a_change_wakes_it() {
    let stage = Stage::leading();
    let index = put(&stage.consensus, "a");
    // Behind: at once.
    let reply = ask(&stage, blocking(get("a"), index.0 - 1, 60_000)).await.expect("answers");
    assert_eq!(reply.meta.index, index);
    let parked = spawn(&stage, blocking(get("a"), index.0, 60_000), Caller::Agent);
    settle().await;
    assert_eq!(stage.consensus.registry().parked(), 1);
    // A neighbour does not wake it.
    put(&stage.consensus, "b");
    settle().await;
    assert!(!parked.is_finished());
    let confirmed = stage.consensus.confirmations.load(Ordering::SeqCst);
    let start = Instant::now();
    let newer = put(&stage.consensus, "a");
    let reply = parked.await.expect("no panic").expect("answers");
    assert_eq!((reply.meta.index, Instant::now()), (newer, start));
    // Once for the answer, however long it was parked.
    assert_eq!(stage.consensus.confirmations.load(Ordering::SeqCst), confirmed + 1);
    assert_eq!(stage.consensus.registry().parked(), 0);
}

#[tokio::test(start_paused = true)]
async fn spurious_wake_ups_are_not_seen() {
    let stage = Stage::leading();
    let index = put(&stage.consensus, "a");
    // An index from the future, as after a restore: it waits for all of its time.
    let parked = spawn(&stage, blocking(get("a"), index.0 + 100, 60_000), Caller::Agent);
    let start = Instant::now();
    for _ in 0..5 {
        settle().await;
        put(&stage.consensus, "a");
    }
    settle().await;
    assert!(!parked.is_finished());
    let reply = parked.await.expect("no panic").expect("answers");
    assert_eq!(Instant::now() - start, Duration::from_secs(60));
    // With the data of then, not of when it parked.
    assert_eq!(reply.meta.index, LogIndex(index.0 + 5));
}

#[tokio::test(start_paused = true)]
async fn what_is_still_missing_is_no_news() {
    let stage = Stage::leading();
    let index = put(&stage.consensus, "a");
    let parked = spawn(&stage, blocking(get("no"), index.0, 60_000), Caller::Agent);
    settle().await;
    // Everything that waits is woken; the table's index, which a missing key reports, has risen.
    put(&stage.consensus, "a");
    stage.consensus.registry().wake_all();
    settle().await;
    assert!(!parked.is_finished());
    let created = put(&stage.consensus, "no");
    let answer = parked.await.expect("no panic");
    assert!(found(&answer));
    assert_eq!(answer.expect("answers").meta.index, created);
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_capped_and_a_read_without_index_never_waits() {
    let stage = Stage::leading();
    let index = put(&stage.consensus, "a");
    let start = Instant::now();
    ask(&stage, blocking(get("a"), index.0, u64::MAX)).await.expect("answers");
    assert_eq!(Instant::now() - start, Duration::from_millis(637_500));
    let start = Instant::now();
    ask(&stage, blocking(get("a"), 0, 60_000)).await.expect("answers");
    assert_eq!(Instant::now(), start);
}

#[tokio::test(start_paused = true)]
async fn the_index_is_at_least_one() {
    let stage = Stage::leading();
    let reply = ask(&stage, Request::new(Op::SessionList)).await.expect("answers");
    assert_eq!(reply.meta.index, LogIndex(1));
}

#[tokio::test(start_paused = true)]
async fn a_parked_read_goes_on_at_the_new_leader() {
    let answered = Reply {
        meta: Meta {
            index: LogIndex(99),
            known_leader: true,
            last_contact_ms: 0,
            consistency: Consistency::Default,
        },
        body: Body::KvEntry(None),
    };
    let reply = answered.clone();
    let stage = Stage::new(FakePeers::new(move |_, _| {
        let reply = reply.clone();
        Box::pin(async move {
            sleep(Duration::from_secs(5)).await;
            Ok(reply)
        })
    }));
    stage.consensus.lead(Some(1));
    let index = put(&stage.consensus, "a");
    let parked = spawn(&stage, blocking(get("a"), index.0, 60_000), Caller::Agent);
    let forwarded = spawn(&stage, blocking(get("a"), index.0, 60_000), Caller::Server);
    sleep(Duration::from_secs(20)).await;
    stage.consensus.lead(None);
    settle().await;
    // Who forwarded looks for itself.
    assert_eq!(forwarded.await.expect("no panic"), Err(RpcError::NoLeader));
    sleep(Duration::from_secs(2)).await;
    stage.consensus.lead(Some(2));
    assert_eq!(parked.await.expect("no panic"), Ok(answered));
    let asked = stage.peers.asked.lock().expect("no panic");
    let (at, request) = &asked[0];
    assert_eq!((asked.len(), *at), (1, fake::address(2)));
    // With what is left of its wait.
    assert!((37_000..=38_000).contains(&request.wait_ms), "{}", request.wait_ms);
    assert_eq!(request.min_index, index);
}

#[tokio::test(start_paused = true)]
async fn without_a_new_leader_a_parked_read_fails_after_the_hold_time() {
    let stage = Stage::leading();
    let index = put(&stage.consensus, "a");
    let parked = spawn(&stage, blocking(get("a"), index.0, 300_000), Caller::Agent);
    sleep(Duration::from_secs(30)).await;
    let start = Instant::now();
    stage.consensus.lead(None);
    assert_eq!(parked.await.expect("no panic"), Err(RpcError::NoLeader));
    let held = Instant::now() - start;
    assert!((6_900..7_600).contains(&held.as_millis()), "{held:?}");
}

#[tokio::test(start_paused = true)]
async fn dropping_a_parked_read_unregisters_it() {
    let stage = Stage::leading();
    let index = put(&stage.consensus, "a");
    let parked = spawn(&stage, blocking(get("a"), index.0, 60_000), Caller::Agent);
    settle().await;
    assert_eq!(stage.consensus.registry().parked(), 1);
    parked.abort();
    let _ = parked.await;
    assert_eq!(stage.consensus.registry().parked(), 0);
}

#[tokio::test(start_paused = true)]
async fn stale_reads_park_and_answer_without_a_leader() {
    let stage = Stage::new(FakePeers::silent());
    let index = put(&stage.consensus, "a");
    let mut request = blocking(get("a"), index.0, 60_000);
    request.consistency = Consistency::Stale;
    let parked = spawn(&stage, request, Caller::Agent);
    settle().await;
    let newer = put(&stage.consensus, "a");
    let meta = parked.await.expect("no panic").expect("answers").meta;
    let wanted = (newer, false, Consistency::Stale);
    assert_eq!((meta.index, meta.known_leader, meta.consistency), wanted);
}

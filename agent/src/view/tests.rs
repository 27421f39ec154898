use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use model::id::LogIndex;
use model::rpc::{Answer as RpcAnswer, Body, Meta};
use model::seam::{BoxFuture, ByteStream, Link};
use tokio::sync::watch;

use super::*;

/// Servers that hold one list of names, and count what they are asked.
struct Servers {
    /// Index and names.
    names: watch::Sender<(u64, Vec<Name>)>,
    /// `Some`: every request fails with it.
    failure: watch::Sender<Option<RpcError>>,
    connected: AtomicBool,
    asked: AtomicUsize,
    parked: Arc<AtomicUsize>,
}

impl Servers {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            names: watch::Sender::new((1, Vec::new())),
            failure: watch::Sender::new(None),
            connected: AtomicBool::new(true),
            asked: AtomicUsize::new(0),
            parked: Arc::default(),
        })
    }

    fn put(&self, index: u64, names: &[&str]) {
        self.names.send_replace((index, names.iter().map(|name| Name::from(*name)).collect()));
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

struct Parked(Arc<AtomicUsize>);

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Backend for Servers {
    fn ask(&self, request: Request) -> BoxFuture<'static, RpcAnswer> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (mut names, mut failure) = (self.names.subscribe(), self.failure.subscribe());
        let parked = Arc::clone(&self.parked);
        Box::pin(async move {
            // Long enough for others to ask while it is under way.
            tokio::time::sleep(Duration::from_millis(5)).await;
            parked.fetch_add(1, Ordering::SeqCst);
            let _parked = Parked(parked);
            let min = request.min_index.0;
            let wait = Duration::from_millis(request.wait_ms);
            let moved = names.wait_for(|(index, _)| min == 0 || *index != min);
            tokio::select! {
                biased;
                failed = failure.wait_for(Option::is_some) => {
                    return Err(failed.expect("held").clone().expect("is some"));
                }
                _ = moved => {}
                () = tokio::time::sleep(wait) => {}
            }
            let (index, list) = names.borrow().clone();
            let meta = Meta {
                index: LogIndex(index),
                known_leader: true,
                last_contact_ms: 3,
                consistency: request.consistency,
            };
            Ok(Reply { meta, body: Body::Names(list) })
        })
    }

    fn stream(
        &self,
        _: Request,
        _: ByteStream,
    ) -> BoxFuture<'static, Result<(Reply, ByteStream), RpcError>> {
        Box::pin(async { Err(RpcError::NoServers) })
    }

    fn link(&self) -> Link {
        let connected = self.connected.load(Ordering::SeqCst);
        Link { connected, leader_known: connected, since_ms: 60_000 }
    }

    fn leave(&self) -> BoxFuture<'static, Result<(), RpcError>> {
        Box::pin(async { Ok(()) })
    }

    fn stats(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        BTreeMap::new()
    }
}

fn question(service: &str) -> Question {
    Question::new(Op::HealthService {
        service: service.into(),
        tags: Vec::new(),
        meta: BTreeMap::new(),
        connect: false,
    })
}

struct House {
    servers: Arc<Servers>,
    view: Arc<View>,
    tasks: Tasks,
}

fn house() -> House {
    let (servers, tasks) = (Servers::new(), Tasks::new());
    let backend: Arc<dyn Backend> = Arc::<Servers>::clone(&servers);
    let view = View::new(backend, Clock::system(), Rng::from_seed(7), &tasks);
    House { servers, view, tasks }
}

fn names(answer: &Answer) -> Vec<String> {
    let Body::Names(names) = &answer.reply.body else { panic!("names were put") };
    names.iter().map(|name| name.to_string()).collect()
}

/// Lets tasks run until `done`, in paused time.
async fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never came true");
}

#[tokio::test(start_paused = true)]
async fn equal_first_questions_are_asked_once_and_then_held() {
    let House { servers, view, tasks } = house();
    servers.put(5, &["a"]);
    let asked = (0..50).map(|_| view.ask(question("web")));
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(names(&answer.expect("answered")), ["a"]);
    }
    // One for the askers, and one that waits for a change.
    until(|| servers.parked.load(Ordering::SeqCst) == 1).await;
    for _ in 0..100 {
        view.ask(question("web")).await.expect("held");
    }
    assert_eq!(servers.asked(), 2);
    assert_eq!(view.len(), 1);
    assert!(tasks.stop_and_wait(Duration::from_secs(1)).await.unfinished.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_change_arrives_and_moves_the_version_only_if_rows_changed() {
    let House { servers, view, .. } = house();
    servers.put(5, &["a"]);
    let (held, answer) = view.hold(question("web"), ASK_HOLD).await.expect("answered");
    let first = held.version_of(&answer).expect("held");
    servers.put(6, &["a", "b"]);
    until(|| held.version() != Some(first)).await;
    let (_, answer) = view.held(&question("web")).expect("held");
    assert_eq!(names(&answer), ["a", "b"]);
    // The index moved, the rows did not.
    let second = held.version();
    let asked = servers.asked();
    servers.put(7, &["a", "b"]);
    until(|| servers.asked() > asked).await;
    assert_eq!(held.version(), second);
    // An index that went back is followed too.
    servers.put(2, &["c"]);
    until(|| held.version() != second).await;
    let (_, answer) = view.held(&question("web")).expect("held");
    assert_eq!(names(&answer), ["c"]);
    assert_eq!(held.age(), Duration::from_millis(3));
}

#[tokio::test(start_paused = true)]
async fn errors_are_not_held() {
    let House { servers, view, .. } = house();
    servers.failure.send_replace(Some(RpcError::NoLeader));
    let failed = view.ask(question("web")).await;
    assert_eq!(failed, Err(ViewError::Rpc(RpcError::NoLeader)));
    until(|| view.is_empty()).await;
    servers.failure.send_replace(None);
    servers.put(5, &["a"]);
    assert_eq!(names(&view.ask(question("web")).await.expect("answered")), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_held_answers_age_and_new_questions_fail_at_once() {
    let House { servers, view, .. } = house();
    servers.put(5, &["a"]);
    let (held, _) = view.hold(question("web"), ASK_HOLD).await.expect("answered");
    servers.connected.store(false, Ordering::SeqCst);
    servers.failure.send_replace(Some(RpcError::NoServers));
    until(|| !held.current()).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(names(&view.ask(question("web")).await.expect("held")), ["a"]);
    assert!(held.age() >= Duration::from_secs(30));
    let before = tokio::time::Instant::now();
    assert_eq!(view.ask(question("db")).await, Err(ViewError::Outage));
    assert_eq!(before.elapsed(), Duration::ZERO);
    // The servers come back with a change.
    servers.connected.store(true, Ordering::SeqCst);
    servers.put(9, &["b"]);
    servers.failure.send_replace(None);
    until(|| held.current()).await;
    assert_eq!(names(&view.ask(question("web")).await.expect("held")), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_what_was_held() {
    let House { servers, view, .. } = house();
    let (held, _) = view.hold(question("web"), ASK_HOLD).await.expect("answered");
    let refusal = RpcError::PermissionDenied("service:read".into());
    servers.failure.send_replace(Some(refusal.clone()));
    until(|| held.version().is_none()).await;
    assert_eq!(view.ask(question("web")).await, Err(ViewError::Rpc(refusal)));
}

#[tokio::test(start_paused = true)]
async fn unused_questions_are_dropped() {
    let House { servers, view, .. } = house();
    let (held, _) = view.hold(question("web"), ASK_HOLD).await.expect("answered");
    view.ask(question("db")).await.expect("answered");
    for _ in 0..20 {
        tokio::time::sleep(IDLE_MAX / 10).await;
        held.touch();
    }
    assert_eq!(view.len(), 1);
    assert_eq!(servers.parked.load(Ordering::SeqCst), 1);
    tokio::time::sleep(IDLE_MAX * 2).await;
    assert_eq!(view.len(), 0);
    assert_eq!(held.version(), None);
    assert_eq!(servers.parked.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_sweep_over_names_stays_within_bounds_and_spares_what_is_used() {
    let House { servers, view, .. } = house();
    for _ in 0..2 {
        view.ask(question("web")).await.expect("answered");
    }
    let asked = (0..ENTRIES_MAX * 2).map(|i| view.ask(question(&format!("sweep-{i}"))));
    let _ = futures_util::future::join_all(asked).await;
    assert!(view.len() <= ENTRIES_MAX);
    assert!(view.held(&question("web")).is_some());
    until(|| servers.parked.load(Ordering::SeqCst) <= ENTRIES_MAX).await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_while_the_agent_stops_is_told() {
    let House { view, tasks, .. } = house();
    let (asked, ()) = tokio::join!(view.ask(question("web")), async { tasks.stop() });
    assert_eq!(asked, Err(ViewError::Busy));
    assert!(view.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_must_be_fresh_is_asked_each_time() {
    let House { servers, view, .. } = house();
    let fresh = Question { consistency: Consistency::Default, ..question("web") };
    for wanted in 1..=3 {
        view.ask(fresh.clone()).await.expect("answered");
        assert_eq!(servers.asked(), wanted);
    }
    assert!(view.is_empty());
}

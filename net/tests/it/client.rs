//! A client agent against servers that change under it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use model::rpc::{Answer, Body, Consistency, KvWrite, Meta, Op, Reply, Request, RpcError};
use model::seam::{Backend, BoxFuture, ByteStream, Cluster};
use model::{LogIndex, NodeId, wire};
use net::{Channel, Client, Handler, Limits, NetError, Peer, Role, method};
use rt::{Clock, Rng, Tasks};
use tokio::sync::Semaphore;

use crate::fake::{Dropped, FakeCluster, LONG, Server, identity, pool_as, until};

const BOOT: NodeId = NodeId([42; 16]);

fn reply(body: Body) -> Reply {
    let meta = Meta {
        index: LogIndex(1),
        known_leader: true,
        last_contact_ms: 0,
        consistency: Consistency::Default,
    };
    Reply { meta, body }
}

type OnAsk = dyn Fn(Request) -> BoxFuture<'static, Answer> + Send + Sync;

/// A server's endpoint: says who leads, and leaves the rest to a closure.
struct Endpoint {
    leader: Arc<Mutex<Option<SocketAddr>>>,
    on_ask: Box<OnAsk>,
}

impl Handler for Endpoint {
    fn call(
        &self,
        _: &Peer,
        channel: Channel,
        number: u16,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, NetError>> {
        assert_eq!((channel, number), (Channel::Rpc, method::ASK));
        let request: Request = wire::decode(wire::Kind::Request, &body, 1 << 24).expect("sound");
        let answer = if request.op == Op::StatusLeader {
            let leader = *self.leader.lock().expect("no panic");
            let text = leader.map_or(String::new(), |leader| leader.to_string());
            Box::pin(std::future::ready(Ok(reply(Body::Address(text.into())))))
        } else {
            (self.on_ask)(request)
        };
        Box::pin(async move { Ok(wire::encode(wire::Kind::Answer, &answer.await).into()) })
    }

    fn stream(
        &self,
        _: &Peer,
        _: Channel,
        number: u16,
        _: Bytes,
        incoming: ByteStream,
    ) -> BoxFuture<'static, Result<ByteStream, NetError>> {
        assert_eq!(number, method::STREAM);
        let answer: Answer = Ok(reply(Body::Done));
        let first = Ok(wire::encode(wire::Kind::Answer, &answer).into());
        let messages = stream::iter([first]).chain(incoming);
        Box::pin(std::future::ready(Ok(Box::pin(messages) as ByteStream)))
    }
}

/// Servers, gossip that knows them, and a client agent.
struct House {
    servers: Vec<Server>,
    leader: Arc<Mutex<Option<SocketAddr>>>,
    cluster: Arc<FakeCluster>,
    client: Arc<Client>,
    _tasks: Tasks,
}

impl House {
    /// The closure gets the place of the asked server and the request. Server 0 leads.
    async fn new(
        count: usize,
        on_ask: impl Fn(usize, Request) -> BoxFuture<'static, Answer> + Send + Sync + Clone + 'static,
    ) -> Self {
        let leader = Arc::new(Mutex::new(None));
        let mut servers = Vec::new();
        for place in 0..count {
            let on_ask = on_ask.clone();
            let endpoint = Endpoint {
                leader: Arc::clone(&leader),
                on_ask: Box::new(move |request| on_ask(place, request)),
            };
            servers.push(Server::start(Arc::new(endpoint)).await);
        }
        let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
        *leader.lock().expect("no panic") = addresses.first().copied();
        let cluster = FakeCluster::new();
        cluster.set(&addresses);
        let tasks = Tasks::new();
        let (clock, rng) = (Clock::system(), Rng::from_seed(5));
        let pool = pool_as(identity(200, Role::Client), Limits::default(), &tasks);
        let seam = Arc::clone(&cluster) as Arc<dyn Cluster>;
        let client = Client::start(seam, pool, BOOT, rng, clock, &tasks);
        Self { servers, leader, cluster, client, _tasks: tasks }
    }

    fn leads(&self, place: Option<usize>) {
        *self.leader.lock().expect("no panic") = place.map(|place| self.servers[place].address);
    }

    async fn linked(&self) {
        until("the client knows a leader", || {
            let link = self.client.link();
            link.connected && link.leader_known
        })
        .await;
    }
}

fn put() -> Request {
    let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(b"v"));
    Request::new(Op::Kv(KvWrite::Set { key, value, flags: 0 }))
}

fn get() -> Request {
    Request::new(Op::KvGet { key: Bytes::from_static(b"k") })
}

fn ready(answer: Answer) -> BoxFuture<'static, Answer> {
    Box::pin(std::future::ready(answer))
}

#[tokio::test]
async fn writes_and_fresh_reads_go_to_the_leader_and_stale_ones_stay_on_one_server() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let ask = Arc::clone(&asked);
    let house = House::new(3, move |place, request| {
        ask.lock().expect("no panic").push((place, request.op.is_write(), request.retry));
        ready(Ok(reply(Body::Done)))
    })
    .await;
    house.linked().await;
    for _ in 0..3 {
        house.client.ask(put()).await.expect("answered");
        house.client.ask(get()).await.expect("answered");
    }
    let all = std::mem::take(&mut *asked.lock().expect("no panic"));
    assert!(all.iter().all(|(place, _, _)| *place == 0), "{all:?}");
    let seqs: Vec<_> = all.iter().filter_map(|(_, _, retry)| *retry).collect();
    assert!(seqs.iter().all(|retry| retry.origin == BOOT && retry.oldest_open == retry.seq));
    assert_eq!(seqs.iter().map(|retry| retry.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(all.iter().all(|(_, write, retry)| *write == retry.is_some()));

    for _ in 0..10 {
        let stale = Request { consistency: Consistency::Stale, ..get() };
        house.client.ask(stale).await.expect("answered");
    }
    let all = asked.lock().expect("no panic");
    assert!(all.windows(2).all(|two| two[0].0 == two[1].0), "{all:?}");
    let stats = house.client.stats();
    assert_eq!(stats["consul"]["known_servers"], "3");
}

#[tokio::test]
async fn a_write_follows_the_leader_and_keeps_its_number() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let ask = Arc::clone(&asked);
    let house = House::new(3, move |place, request| {
        let mut asked = ask.lock().expect("no panic");
        asked.push((place, request.retry.map(|retry| retry.seq)));
        // An election: nobody leads for the first tries, then server 2 does.
        ready(if asked.len() > 4 && place == 2 {
            Ok(reply(Body::Bool(true)))
        } else {
            Err(RpcError::NoLeader)
        })
    })
    .await;
    house.linked().await;
    house.leads(Some(2));
    let answer = house.client.ask(put()).await.expect("a leader was found in time");
    assert_eq!(answer.body, Body::Bool(true));
    let asked = asked.lock().expect("no panic");
    assert!(asked.len() >= 5);
    assert!(asked.iter().all(|(_, seq)| *seq == Some(1)), "one write, one number: {asked:?}");
    assert_eq!(asked[0].0, 0, "first the leader as known");
}

#[tokio::test]
async fn without_a_leader_the_hold_time_ends_it() {
    let tries = Arc::new(AtomicUsize::new(0));
    let tried = Arc::clone(&tries);
    let house = House::new(1, move |_, _| {
        tried.fetch_add(1, Ordering::SeqCst);
        ready(Err(RpcError::NoLeader))
    })
    .await;
    house.leads(None);
    let request = Request { hold_ms: 300, ..put() };
    assert_eq!(house.client.ask(request).await, Err(RpcError::NoLeader));
    let tries = tries.load(Ordering::SeqCst);
    assert!((2..=30).contains(&tries), "tried again, but not in a hurry: {tries}");
    until("the link says so", || {
        let link = house.client.link();
        link.connected && !link.leader_known
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_helped_is_not_tried_again() {
    let tries = Arc::new(AtomicUsize::new(0));
    let tried = Arc::clone(&tries);
    let house = House::new(3, move |_, _| {
        tried.fetch_add(1, Ordering::SeqCst);
        ready(Err(RpcError::NotFound("unknown".into())))
    })
    .await;
    assert_eq!(house.client.ask(get()).await, Err(RpcError::NotFound("unknown".into())));
    assert_eq!(tries.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_blocking_read_goes_on_elsewhere_with_the_time_that_is_left() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (ask, parked) = (Arc::clone(&asked), Arc::new(Semaphore::new(0)));
    let park = Arc::clone(&parked);
    let house = House::new(3, move |place, request| {
        let mut asked = ask.lock().expect("no panic");
        asked.push((place, request.wait_ms, request.hold_ms));
        if asked.len() == 1 {
            park.add_permits(1);
            return Box::pin(std::future::pending());
        }
        ready(Ok(reply(Body::KvEntry(None))))
    })
    .await;
    house.linked().await;
    let request = Request { min_index: LogIndex(7), wait_ms: 60_000, hold_ms: 2_000, ..get() };
    let (answer, ()) = tokio::join!(house.client.ask(request), async {
        parked.acquire().await.expect("open").forget();
        // Long enough to be seen in the milliseconds left.
        tokio::time::sleep(Duration::from_millis(20)).await;
        house.servers[0].stop().await;
    });
    assert_eq!(answer.expect("answered elsewhere").body, Body::KvEntry(None));
    let asked = asked.lock().expect("no panic").clone();
    let [(first, wait, hold), (second, wait_left, hold_left)] = asked[..] else {
        panic!("{asked:?}");
    };
    assert!(first == 0 && second != 0);
    assert!(wait_left < wait && wait_left > 50_000, "{wait_left}");
    assert_eq!((hold, hold_left), (2_000, 2_000), "the wait runs first");
    until("gossip is told", || {
        house.cluster.probed.lock().expect("no panic").contains(&NodeId([0; 16]))
    })
    .await;
}

#[tokio::test]
async fn a_server_that_hangs_is_left_when_gossip_gives_it_up() {
    let parked = Arc::new(Semaphore::new(0));
    let park = Arc::clone(&parked);
    let house = House::new(2, move |place, _| {
        if place == 0 {
            park.add_permits(1);
            return Box::pin(std::future::pending());
        }
        ready(Ok(reply(Body::Bool(true))))
    })
    .await;
    house.linked().await;
    let request = Request { hold_ms: 60_000, ..put() };
    let (answer, ()) = tokio::join!(house.client.ask(request), async {
        parked.acquire().await.expect("open").forget();
        house.cluster.set(&[house.servers[1].address]);
    });
    assert_eq!(answer.expect("answered elsewhere").body, Body::Bool(true));
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_unnoticed_gets_only_a_part_of_the_time() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let ask = Arc::clone(&asked);
    let house = House::new(2, move |place, request| {
        ask.lock().expect("no panic").push((place, request.hold_ms));
        if place == 0 {
            return Box::pin(std::future::pending());
        }
        ready(Ok(reply(Body::Bool(true))))
    })
    .await;
    house.linked().await;
    let answer = house.client.ask(put()).await.expect("answered elsewhere");
    assert_eq!(answer.body, Body::Bool(true));
    let asked = asked.lock().expect("no panic");
    let [(0, 3_000), (1, hold)] = asked[..] else {
        panic!("{asked:?}");
    };
    assert!(hold <= 3_000, "{hold}");
}

#[tokio::test]
async fn a_dropped_request_is_dropped_at_the_server() {
    let (dropped, parked) = (Dropped::default(), Arc::new(Semaphore::new(0)));
    let (drops, park) = (dropped.clone(), Arc::clone(&parked));
    let house = House::new(1, move |_, _| {
        let guard = drops.guard();
        park.add_permits(1);
        Box::pin(async move {
            let _guard = guard;
            std::future::pending().await
        })
    })
    .await;
    let request = Request { min_index: LogIndex(7), wait_ms: 60_000, ..get() };
    tokio::select! {
        answer = house.client.ask(request) => panic!("answered: {answer:?}"),
        permit = parked.acquire() => permit.expect("open").forget(),
    }
    until("the server stops waiting", || dropped.yes()).await;
}

#[tokio::test]
async fn no_server_is_an_error_and_one_that_comes_up_is_found() {
    let house = House::new(1, |_, _| ready(Ok(reply(Body::Done)))).await;
    let address = house.servers[0].address;
    house.linked().await;
    house.cluster.set(&[]);
    until("the link says so", || !house.client.link().connected).await;
    let request = Request { hold_ms: 50, ..put() };
    assert_eq!(house.client.ask(request.clone()).await, Err(RpcError::NoServers));
    let patient = Request { hold_ms: 7_000, ..put() };
    let (answer, ()) = tokio::join!(house.client.ask(patient), async {
        assert_eq!(house.client.ask(request).await, Err(RpcError::NoServers));
        house.cluster.set(&[address]);
    });
    assert!(answer.is_ok(), "{answer:?}");
    house.linked().await;
}

#[tokio::test]
async fn the_link_tells_when_the_last_server_goes_and_when_it_comes_back() {
    let house = House::new(1, |_, _| ready(Ok(reply(Body::Done)))).await;
    house.linked().await;
    house.servers[0].stop().await;
    until("the link is down", || {
        let link = house.client.link();
        !link.connected && !link.leader_known
    })
    .await;
    let address = house.servers[0].address;
    let endpoint = Endpoint {
        leader: Arc::clone(&house.leader),
        on_ask: Box::new(|_| ready(Ok(reply(Body::Done)))),
    };
    // Asked while nobody is there: tried again until somebody is.
    let (answer, server) = tokio::join!(house.client.ask(put()), async {
        Server::start_at(address, Arc::new(endpoint), Limits::default()).await
    });
    assert!(answer.is_ok(), "{answer:?}");
    house.linked().await;
    server.stop().await;
}

#[tokio::test]
async fn bodies_go_both_ways() {
    let house = House::new(3, |_, _| ready(Ok(reply(Body::Done)))).await;
    house.linked().await;
    // Those that are gone are passed over before the body is touched.
    house.servers[0].stop().await;
    house.servers[1].stop().await;
    until("their ends are seen", || house.cluster.probed.lock().expect("no panic").len() == 2)
        .await;
    let blocks: Vec<_> = (0..50).map(|n| Bytes::from(vec![n; 1_000])).collect();
    let body = Box::pin(stream::iter(blocks.clone()).map(Ok));
    let streaming = tokio::time::timeout(LONG, house.client.stream(get(), body));
    let (answer, messages) = streaming.await.expect("in time").expect("answered");
    assert_eq!(answer.body, Body::Done);
    let back: Vec<_> = messages.map(|message| message.expect("sound")).collect().await;
    assert!(back == blocks);
}

//! The network between servers: each message is delayed on its own, so that calls overtake each
//! other; some are lost, some come twice; ways are cut in one direction or both; connections break.
//! A stream keeps its order and loses nothing but its end, as TCP does.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use model::NodeId;
use model::rpc::RpcError;
use model::seam::{BoxFuture, ByteStream};
use net::{Channel, Handler, NetError, Peer, Role, method};
use rt::{Rng, Tasks};
use server::sim::Wire;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::trace::Trace;

/// Messages of a stream that are under way in one direction.
const WINDOW: usize = 4;
/// A stream whose way is cut breaks after this long at most.
const STALL_MAX: Duration = Duration::from_millis(1_500);
/// How long connecting over a way that is cut takes to fail.
const CONNECT_MAX: Duration = Duration::from_millis(1_000);

/// How bad the network is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// Of 1,000 messages so many are lost.
    pub(crate) lost: u64,
    /// And so many come twice.
    pub(crate) twice: u64,
    /// Bounds of a message's way, in microseconds.
    pub(crate) delay_us: (u64, u64),
}

impl Weather {
    pub(crate) const FAIR: Weather = Weather { lost: 0, twice: 0, delay_us: (100, 1_500) };
}

struct Attached {
    handler: Arc<dyn Handler>,
    up: CancellationToken,
}

struct Inner {
    servers: BTreeMap<u8, Attached>,
    /// Ways that are cut: from, to.
    cut: BTreeSet<(u8, u8)>,
    /// Breaks all connections of one pair.
    pairs: BTreeMap<(u8, u8), CancellationToken>,
    weather: Weather,
}

/// The network.
pub(crate) struct Net {
    inner: Mutex<Inner>,
    rng: Rng,
    trace: Arc<Trace>,
    tasks: Tasks,
}

/// Number of the server that listens here.
fn number(at: SocketAddr) -> u8 {
    match at.ip() {
        std::net::IpAddr::V4(ip) => ip.octets()[3],
        std::net::IpAddr::V6(_) => 0,
    }
}

pub(crate) fn address(number: u8) -> SocketAddr {
    ([127, 0, 0, number], 8300).into()
}

pub(crate) fn node_id(number: u8) -> NodeId {
    NodeId([number; 16])
}

fn pair(a: u8, b: u8) -> (u8, u8) {
    (a.min(b), a.max(b))
}

impl Net {
    pub(crate) fn new(rng: Rng, trace: Arc<Trace>, tasks: Tasks) -> Arc<Self> {
        let inner = Inner {
            servers: BTreeMap::new(),
            cut: BTreeSet::new(),
            pairs: BTreeMap::new(),
            weather: Weather::FAIR,
        };
        Arc::new(Self { inner: Mutex::new(inner), rng, trace, tasks })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The wire of a server that runs while `up` is not cancelled.
    pub(crate) fn wire(self: &Arc<Self>, from: u8, up: CancellationToken) -> Arc<dyn Wire> {
        Arc::new(From { net: Arc::clone(self), from, up })
    }

    pub(crate) fn attach(&self, server: u8, handler: Arc<dyn Handler>, up: CancellationToken) {
        self.inner().servers.insert(server, Attached { handler, up });
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.inner().weather = weather;
    }

    pub(crate) fn cut(&self, from: u8, to: u8) {
        self.inner().cut.insert((from, to));
    }

    pub(crate) fn heal(&self, from: u8, to: u8) {
        self.inner().cut.remove(&(from, to));
    }

    pub(crate) fn heal_all(&self) {
        let mut inner = self.inner();
        inner.cut.clear();
        inner.weather = Weather::FAIR;
    }

    /// Breaks all connections between two servers; new ones may be made at once.
    pub(crate) fn break_pair(&self, a: u8, b: u8) {
        if let Some(token) = self.inner().pairs.remove(&pair(a, b)) {
            token.cancel();
        }
    }

    fn is_cut(&self, from: u8, to: u8) -> bool {
        self.inner().cut.contains(&(from, to))
    }

    fn pair_token(&self, a: u8, b: u8) -> CancellationToken {
        self.inner().pairs.entry(pair(a, b)).or_default().clone()
    }

    fn target(&self, to: u8) -> Option<(Arc<dyn Handler>, CancellationToken)> {
        let inner = self.inner();
        let attached = inner.servers.get(&to).filter(|attached| !attached.up.is_cancelled())?;
        Some((Arc::clone(&attached.handler), attached.up.clone()))
    }

    fn chance(&self, of_thousand: u64) -> bool {
        of_thousand > 0 && self.rng.below(1_000) < of_thousand
    }

    /// A message's way. False: it does not arrive.
    async fn travel(&self, from: u8, to: u8) -> bool {
        let weather = self.inner().weather;
        let (least, most) = weather.delay_us;
        let lost = self.chance(weather.lost);
        sleep(Duration::from_micros(least + self.rng.below(most - least + 1))).await;
        !lost && !self.is_cut(from, to)
    }
}

fn refused(to: SocketAddr, kind: io::ErrorKind) -> NetError {
    NetError::Connect { address: to, cause: Arc::new(io::Error::from(kind)) }
}

/// The wire of one server.
struct From {
    net: Arc<Net>,
    from: u8,
    up: CancellationToken,
}

/// One message of a call.
struct Letter {
    net: Arc<Net>,
    from: u8,
    to: u8,
    channel: Channel,
    method: u16,
    body: Bytes,
}

fn peer(from: u8) -> Peer {
    let (address, node_id) = (address(from), node_id(from));
    Peer { address, node_id, role: Role::Server, state_version: model::command::STATE_VERSION }
}

impl Letter {
    /// There, into the handler, and back.
    async fn carry(self, answer: oneshot::Sender<Result<Bytes, NetError>>) {
        let Letter { net, from, to, channel, method, body } = self;
        let mut answer = answer;
        let at = address(to);
        if !net.travel(from, to).await {
            return;
        }
        let Some((handler, up)) = net.target(to) else {
            if net.travel(to, from).await {
                let _ = answer.send(Err(refused(at, io::ErrorKind::ConnectionRefused)));
            }
            return;
        };
        let size = body.len();
        net.trace.note(format_args!("net {from}>{to} {channel:?} {method} {size}"));
        let broken = net.pair_token(from, to);
        let call = handler.call(&peer(from), channel, method, body);
        let given_up = async {
            // Raft's messages are not taken back; a request is cancelled with its asker.
            if channel == Channel::RaftControl {
                std::future::pending::<()>().await;
            }
            answer.closed().await;
        };
        let result = tokio::select! {
            biased;
            () = up.cancelled() => Err(NetError::Closed(at)),
            () = broken.cancelled() => Err(NetError::Closed(at)),
            () = given_up => return,
            result = call => result,
        };
        if net.travel(to, from).await {
            let _ = answer.send(result);
        }
    }
}

/// What may come twice without an application's harm: Raft's own messages, but for the order to
/// take over leadership, which TCP delivers once.
fn may_come_twice(channel: Channel, number: u16) -> bool {
    channel == Channel::RaftControl && number != method::RAFT + 3
}

impl Wire for From {
    fn call(
        &self,
        to: SocketAddr,
        channel: Channel,
        method: u16,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Bytes, NetError>> {
        let (net, from, up) = (Arc::clone(&self.net), self.from, self.up.clone());
        Box::pin(async move {
            if up.is_cancelled() {
                return Err(NetError::Stopping);
            }
            let to_number = number(to);
            let letter = |body: Bytes| Letter {
                net: Arc::clone(&net),
                from,
                to: to_number,
                channel,
                method,
                body,
            };
            let twice = net.inner().weather.twice;
            if may_come_twice(channel, method) && net.chance(twice) {
                let (nobody, _) = oneshot::channel();
                net.tasks.spawn_until_stop("second copy", letter(body.clone()).carry(nobody));
            }
            let (answer, answered) = oneshot::channel();
            net.tasks.spawn_until_stop("message", letter(body).carry(answer));
            let waiting = async {
                match answered.await {
                    Ok(answer) => answer,
                    // Lost: nobody says so.
                    Err(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = up.cancelled() => Err(NetError::Stopping),
                answer = timeout(limit, waiting) => answer.unwrap_or(Err(NetError::Timeout(to))),
            }
        })
    }

    fn stream(
        &self,
        to: SocketAddr,
        channel: Channel,
        method: u16,
        first: Bytes,
        outgoing: ByteStream,
        limit: Duration,
    ) -> BoxFuture<'static, Result<ByteStream, NetError>> {
        let (net, from, up) = (Arc::clone(&self.net), self.from, self.up.clone());
        Box::pin(async move {
            let target = number(to);
            if !net.travel(from, target).await || net.is_cut(target, from) {
                sleep(limit.min(CONNECT_MAX)).await;
                return Err(refused(to, io::ErrorKind::TimedOut));
            }
            let Some((handler, target_up)) = net.target(target) else {
                return Err(refused(to, io::ErrorKind::ConnectionRefused));
            };
            let broken = net.pair_token(from, target).child_token();
            for end in [up, target_up] {
                let broken = broken.clone();
                net.tasks.spawn_until_stop("end of stream", async move {
                    tokio::select! {
                        biased;
                        () = broken.cancelled() => {}
                        () = end.cancelled() => broken.cancel(),
                    }
                });
            }
            net.trace.note(format_args!("net {from}>{target} {channel:?} {method} stream"));
            let (sent, incoming) = mpsc::channel(WINDOW);
            let way = Way { net: Arc::clone(&net), from, to: target, broken: broken.clone() };
            net.tasks.spawn_until_stop("stream out", way.pump(outgoing, sent));
            let answers =
                handler.stream(&peer(from), channel, method, first, items(incoming)).await?;
            let (sent, answered) = mpsc::channel(WINDOW);
            let way = Way { net: Arc::clone(&net), from: target, to: from, broken: broken.clone() };
            net.tasks.spawn_until_stop("stream back", way.pump(answers, sent));
            let guard = broken.drop_guard();
            Ok(Box::pin(items(answered).map(move |item| {
                let _held = &guard;
                item
            })) as ByteStream)
        })
    }
}

fn items(items: mpsc::Receiver<Result<Bytes, RpcError>>) -> ByteStream {
    Box::pin(stream::unfold(items, |mut items| async {
        let item = items.recv().await?;
        Some((item, items))
    }))
}

/// One direction of a stream.
struct Way {
    net: Arc<Net>,
    from: u8,
    to: u8,
    broken: CancellationToken,
}

impl Way {
    async fn pump(self, mut source: ByteStream, sink: mpsc::Sender<Result<Bytes, RpcError>>) {
        loop {
            let item = tokio::select! {
                biased;
                () = self.broken.cancelled() => {
                    let _ = sink.try_send(Err(RpcError::Broken("connection broke".to_owned())));
                    return;
                }
                () = sink.closed() => return,
                item = source.next() => item,
            };
            let Some(item) = item else { return };
            tokio::select! {
                biased;
                () = self.broken.cancelled() => {
                    let _ = sink.try_send(Err(RpcError::Broken("connection broke".to_owned())));
                    return;
                }
                () = self.pass() => {}
            }
            if let Ok(item) = &item {
                let (from, to, size) = (self.from, self.to, item.len());
                self.net.trace.note(format_args!("net {from}>{to} item {size}"));
            }
            if sink.send(item).await.is_err() {
                return;
            }
        }
    }

    /// A lost packet is sent again; a way that stays cut breaks the connection.
    async fn pass(&self) {
        let mut stalled = Duration::ZERO;
        while !self.net.travel(self.from, self.to).await {
            let pause = Duration::from_millis(50);
            stalled += pause;
            if stalled >= STALL_MAX {
                self.broken.cancel();
                return std::future::pending().await;
            }
            sleep(pause).await;
        }
    }
}

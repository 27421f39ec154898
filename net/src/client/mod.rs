//! The way of a client agent to its servers: which server, which connection, what to do when one
//! fails. `servers` decides, `tend` keeps connections, this file asks.

mod servers;
mod tend;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use model::rpc::{ARCHIVE_TIME_MAX, Answer, Consistency, Op, Reply, Request, RpcError};
use model::seam::{Backend, BoxFuture, ByteStream, Cluster, Link};
use model::{NodeId, wire};
use rt::{Clock, Rng, Tasks};
use servers::Servers;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::{Channel, Limits, NetError, OpenRetry, Pool, RetryLedger, method};

/// Pause before the second try; doubles.
const PAUSE_MIN: Duration = Duration::from_millis(25);
/// Longest pause between tries: an election takes about half a second.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long a request waits for gossip to find a first server.
const FIRST_SERVER_WAIT: Duration = Duration::from_secs(1);
/// Most of the hold time that one try gets while there are other servers: a process that hangs
/// keeps its connections, and only a try elsewhere helps.
const TRY_HOLD_MAX: Duration = Duration::from_secs(3);
/// What the network may take beyond the time that the server has: the server's own verdict on a
/// request is better than a timeout here.
const ANSWER_GRACE: Duration = Duration::from_millis(500);

/// Backend of a client agent.
///
/// Writes and fresh reads go to the leader when it is known, other reads to the first connected
/// server; any server forwards what it cannot answer. A request that fails in a way that may pass
/// is tried again elsewhere, with the time that is left, until its time is up.
pub struct Client(Arc<Inner>);

struct Inner {
    cluster: Arc<dyn Cluster>,
    pool: Pool,
    ledger: Arc<RetryLedger>,
    rng: Rng,
    clock: Clock,
    servers: Mutex<Servers>,
    /// Counts changes of the list of servers.
    found: watch::Sender<u64>,
    link: Mutex<LinkState>,
    /// Something is wrong with what we know: look again.
    look: Notify,
}

struct LinkState {
    connected: bool,
    leader_known: bool,
    since: Instant,
}

impl Client {
    /// Starts to keep connections to the servers that gossip finds.
    pub fn start(
        cluster: Arc<dyn Cluster>,
        pool: Pool,
        boot_id: NodeId,
        rng: Rng,
        clock: Clock,
        tasks: &Tasks,
    ) -> Arc<Client> {
        let since = clock.now();
        let inner = Arc::new(Inner {
            ledger: Arc::new(RetryLedger::new(boot_id)),
            servers: Mutex::default(),
            found: watch::Sender::new(0),
            link: Mutex::new(LinkState { connected: false, leader_known: false, since }),
            look: Notify::new(),
            cluster,
            pool,
            rng,
            clock,
        });
        inner.update_servers(&inner.cluster.members());
        tasks.spawn_until_stop("rpc servers", tend::run(Arc::clone(&inner)));
        Arc::new(Client(inner))
    }
}

impl Inner {
    fn with_servers<T>(&self, act: impl FnOnce(&mut Servers) -> T) -> T {
        act(&mut self.servers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn connected(&self, address: SocketAddr) -> bool {
        self.pool.connected(address, Channel::Rpc)
    }

    /// A server said whether it knows a leader; or nobody is there to say.
    fn heard(&self, leader_known: bool) -> Link {
        let connected = self.any_connected();
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let leader_known = leader_known && connected;
        if (connected, leader_known) != (link.connected, link.leader_known) {
            link.since = self.clock.now();
            (link.connected, link.leader_known) = (connected, leader_known);
        }
        Link { connected, leader_known, since_ms: millis(self.clock.now() - link.since) }
    }

    fn any_connected(&self) -> bool {
        self.with_servers(|servers| {
            servers.list().iter().any(|server| self.connected(server.address))
        })
    }

    fn link_now(&self) -> Link {
        let leader_known = self.link.lock().unwrap_or_else(PoisonError::into_inner).leader_known;
        self.heard(leader_known)
    }

    /// The server to ask next. Waits for gossip to find one until the deadline.
    async fn pick(
        &self,
        request: &Request,
        failed: &[SocketAddr],
        deadline: Instant,
    ) -> Result<SocketAddr, RpcError> {
        let leader = request.op.is_write() || request.consistency != Consistency::Stale;
        let pick = || {
            self.with_servers(|servers| {
                servers.pick(leader, failed, |address| self.connected(address))
            })
        };
        if let Some(address) = pick() {
            return Ok(address);
        }
        let mut found = self.found.subscribe();
        loop {
            if let Some(address) = pick() {
                return Ok(address);
            }
            if !matches!(timeout_at(deadline, found.changed()).await, Ok(Ok(()))) {
                return Err(RpcError::NoServers);
            }
        }
    }

    async fn ask_within(&self, mut request: Request) -> Answer {
        let start = self.clock.now();
        let time = Time::of(&request, start);
        let retry = self.open_retry(&request)?;
        let mut failed = Vec::new();
        let mut tries = 0_u32;
        let mut last = None;
        loop {
            let wait =
                if last.is_some() { time.end } else { time.end.min(start + FIRST_SERVER_WAIT) };
            // The first failure says more than that its server has left the list since.
            let address = match self.pick(&request, &failed, wait).await {
                Ok(address) => address,
                Err(error) => return Err(last.unwrap_or(error)),
            };
            if let Some(retry) = &retry {
                request.retry = Some(retry.stamp());
            }
            let error = match self.try_at(address, &mut request, &time).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let now = self.clock.now();
            if !error.may_retry() || now >= time.end || self.pool.is_stopping() {
                return Err(error);
            }
            tries += 1;
            metrics::counter!("muster.rpc.retries").increment(1);
            if !failed.contains(&address) {
                failed.push(address);
            }
            if self.all_failed(&failed) {
                failed.clear();
            }
            let pause = self.pause(tries);
            tracing::debug!(%address, %error, ?pause, trace_id = request.trace_id, "asking again");
            last = Some(error);
            sleep(pause.min(time.end - now)).await;
        }
    }

    /// One try at one server, with the time that is left.
    async fn try_at(&self, address: SocketAddr, request: &mut Request, time: &Time) -> Answer {
        let now = self.clock.now();
        let (wait, mut hold) = time.left(now);
        if self.with_servers(|servers| servers.list().len() > 1) {
            hold = hold.min(TRY_HOLD_MAX);
        }
        (request.wait_ms, request.hold_ms) = (millis(wait), millis(hold));
        let body = wire::encode(wire::Kind::Request, &*request).into();
        let limit = wait + hold + ANSWER_GRACE;
        let asking = self.pool.call(address, Channel::Rpc, method::ASK, body, limit);
        let result = tokio::select! {
            biased;
            result = asking => result,
            () = self.gone(address) => Err(NetError::Closed(address)),
        };
        let answer = match result {
            Ok(bytes) => decode_answer(&bytes),
            Err(error) => {
                self.note_failure(address, &error);
                self.look.notify_one();
                Err(error.into())
            }
        };
        match &answer {
            Ok(reply) => {
                self.heard(reply.meta.known_leader);
                if !reply.meta.known_leader {
                    self.look.notify_one();
                }
            }
            Err(error @ (RpcError::NoLeader | RpcError::Leaving)) => {
                self.with_servers(|servers| {
                    servers.set_leader(None);
                    if *error == RpcError::Leaving {
                        servers.failed(address);
                    }
                });
                self.heard(false);
                self.look.notify_one();
            }
            Err(_) => {}
        }
        answer
    }

    /// Returns when gossip no longer holds the server at this address alive: a host that is gone
    /// may be noticed there sooner than by its silence here.
    async fn gone(&self, address: SocketAddr) {
        let mut found = self.found.subscribe();
        while self.with_servers(|servers| servers.at(address).is_some()) {
            if found.changed().await.is_err() {
                return;
            }
        }
    }

    fn note_failure(&self, address: SocketAddr, error: &NetError) {
        // An answer, even a refusing one, is a sign of life.
        if !matches!(error, NetError::Remote(_) | NetError::TooLarge { .. } | NetError::Stopping) {
            self.with_servers(|servers| servers.failed(address));
        }
    }

    fn open_retry(&self, request: &Request) -> Result<Option<OpenRetry>, RpcError> {
        if request.op.is_write() && request.retry.is_none() {
            self.ledger.open().map(Some)
        } else {
            Ok(None)
        }
    }

    /// Between half and all of a doubling pause.
    fn pause(&self, tries: u32) -> Duration {
        let pause = PAUSE_MIN.saturating_mul(1 << (tries - 1).min(10)).min(PAUSE_MAX);
        pause / 2 + self.rng.jitter(pause / 2)
    }

    /// A server that we have a connection to, made if need be.
    async fn connected_server(
        &self,
        request: &Request,
        start: Instant,
        time: &Time,
    ) -> Result<SocketAddr, RpcError> {
        let mut failed = Vec::new();
        loop {
            let wait = time.end.min(start + FIRST_SERVER_WAIT);
            let address = self.pick(request, &failed, wait).await?;
            let left = time.end.saturating_duration_since(self.clock.now());
            let error = match self.pool.connect(address, Channel::Rpc, left).await {
                Ok(()) => return Ok(address),
                Err(error) => error,
            };
            self.note_failure(address, &error);
            failed.push(address);
            if self.all_failed(&failed) {
                return Err(error.into());
            }
        }
    }

    fn all_failed(&self, failed: &[SocketAddr]) -> bool {
        self.with_servers(|servers| {
            servers.list().iter().all(|server| failed.contains(&server.address))
        })
    }

    async fn stream_within(
        &self,
        mut request: Request,
        body: ByteStream,
    ) -> Result<(Reply, ByteStream), RpcError> {
        let start = self.clock.now();
        let time = Time::of(&request, start);
        let retry = self.open_retry(&request)?;
        // The body can be read once only, so there is no second try after this.
        let address = self.connected_server(&request, start, &time).await?;
        request.retry = retry.as_ref().map(OpenRetry::stamp).or(request.retry);
        let first = wire::encode(wire::Kind::Request, &request).into();
        let limit = match request.op {
            // Answered when all of it was received, checked and restored.
            Op::SnapshotRestore => ARCHIVE_TIME_MAX,
            _ => time.end.saturating_duration_since(self.clock.now()) + ANSWER_GRACE,
        };
        let stream = self.pool.stream(address, Channel::Rpc, method::STREAM, first, body, limit);
        let answering = async {
            let mut messages =
                stream.await.inspect_err(|error| self.note_failure(address, error))?;
            let reply = match messages.next().await {
                Some(answer) => decode_answer(&answer?)?,
                None => return Err(RpcError::Protocol("a stream without an answer".into())),
            };
            Ok((reply, messages))
        };
        timeout(limit, answering).await.unwrap_or_else(|_| Err(NetError::Timeout(address).into()))
    }
}

fn decode_answer(bytes: &Bytes) -> Answer {
    let limit = Limits::default().frame_bytes_max;
    wire::decode::<Answer>(wire::Kind::Answer, bytes, limit)
        .unwrap_or_else(|error| Err(RpcError::Protocol(error.to_string())))
}

/// How long a request may take: first its wait runs, then its hold.
struct Time {
    wait_end: Instant,
    end: Instant,
    hold: Duration,
}

impl Time {
    fn of(request: &Request, start: Instant) -> Self {
        let wait = if request.min_index.0 > 0 { request.wait_ms } else { 0 };
        // A day is longer than any door allows; it keeps the sums within range.
        let bounded = |ms: u64| Duration::from_millis(ms.min(86_400_000));
        let wait_end = start + bounded(wait);
        let hold = bounded(request.hold_ms);
        Self { wait_end, end: wait_end + hold, hold }
    }

    /// Wait and hold that a try starting now has.
    fn left(&self, now: Instant) -> (Duration, Duration) {
        let wait = self.wait_end.saturating_duration_since(now);
        (wait, self.hold.min(self.end.saturating_duration_since(now)))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Backend for Client {
    fn ask(&self, request: Request) -> BoxFuture<'static, Answer> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.ask_within(request).await })
    }

    fn stream(
        &self,
        request: Request,
        body: ByteStream,
    ) -> BoxFuture<'static, Result<(Reply, ByteStream), RpcError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.stream_within(request, body).await })
    }

    fn link(&self) -> Link {
        self.0.link_now()
    }

    fn leave(&self) -> BoxFuture<'static, Result<(), RpcError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn stats(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let known = self.0.with_servers(|servers| servers.list().len());
        let consul = [("known_servers", known.to_string()), ("server", "false".to_owned())];
        let consul = consul.map(|(key, value)| (key.to_owned(), value)).into();
        BTreeMap::from([("consul".to_owned(), consul)])
    }
}

//! Connections that we opened, shared by all who ask the same address on the same channel.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use model::seam::{BoxFuture, ByteStream};
use rt::{Clock, Rng, Tasks};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout_at};

use crate::outbound::{End, Outbound, connect};
use crate::{Channel, Identity, Limits, NetError, Peer, Refusal, Role};

/// First pause after a failed attempt; doubles.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause of a server: it may be what an election waits for.
const PAUSE_MAX_SERVER: Duration = Duration::from_millis(500);
/// Longest pause of a client agent, of which there are thousands.
const PAUSE_MAX_CLIENT: Duration = Duration::from_secs(2);
/// First pause after a refused handshake, which only an operator can help; doubles.
const PAUSE_REFUSED_MIN: Duration = Duration::from_secs(5);
/// Longest pause after a refused handshake.
const PAUSE_REFUSED_MAX: Duration = Duration::from_secs(60);
/// Longest time that a call may be given: longer than any door allows, and no overflow.
const TIMEOUT_MAX: Duration = Duration::from_secs(86_400);
/// Addresses remembered; those in use are few.
const SLOTS_MAX: usize = 1_024;
/// Broken connections that a slow listener may lag behind; beyond that it misses hints.
const BROKEN_WAITING_MAX: usize = 64;

/// Opens connections on demand and shares them. Clones are the same pool.
///
/// After a failed attempt further calls fail at once until a growing, jittered pause is over: who
/// has a choice of servers goes elsewhere without waiting.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    identity: Identity,
    limits: Limits,
    clock: Clock,
    rng: Rng,
    tasks: Tasks,
    slots: Mutex<BTreeMap<(SocketAddr, Channel), Slot>>,
    broken: broadcast::Sender<SocketAddr>,
}

type Slot = Arc<watch::Sender<State>>;

#[derive(Clone)]
enum State {
    /// Nobody has asked yet.
    New,
    Connecting {
        failures: u32,
    },
    Ready(Arc<Outbound>),
    /// Try again from then on.
    Failed {
        failures: u32,
        retry_at: Instant,
        error: NetError,
    },
}

impl Pool {
    /// An empty pool whose connections introduce themselves so and stop with these tasks.
    pub fn new(identity: Identity, limits: Limits, clock: Clock, rng: Rng, tasks: &Tasks) -> Self {
        let (broken, _) = broadcast::channel(BROKEN_WAITING_MAX);
        let tasks = tasks.clone();
        let slots = Mutex::default();
        Self(Arc::new(Inner { identity, limits, clock, rng, tasks, slots, broken }))
    }

    /// How its connections introduce themselves.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Asks and waits for the answer, connecting first if need be. Dropping the future cancels the
    /// call at the other side.
    pub fn call(
        &self,
        address: SocketAddr,
        channel: Channel,
        method: u16,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, NetError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let deadline = inner.clock.now() + timeout.min(TIMEOUT_MAX);
            let outbound = inner.connection(address, channel, deadline).await?;
            outbound.call(method, body, inner.clock.now(), deadline).await
        })
    }

    /// Makes sure that there is a connection.
    pub fn connect(
        &self,
        address: SocketAddr,
        channel: Channel,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(), NetError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let deadline = inner.clock.now() + timeout.min(TIMEOUT_MAX);
            inner.connection(address, channel, deadline).await.map(drop)
        })
    }

    /// Opens a stream of messages both ways, connecting first if need be; `timeout` is for its
    /// acceptance. Dropping the future or the stream cancels it at the other side. `outgoing` is
    /// dropped when the other side has ended its direction.
    pub fn stream(
        &self,
        address: SocketAddr,
        channel: Channel,
        method: u16,
        first: Bytes,
        outgoing: ByteStream,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<ByteStream, NetError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let deadline = inner.clock.now() + timeout.min(TIMEOUT_MAX);
            let outbound = inner.connection(address, channel, deadline).await?;
            let now = inner.clock.now();
            outbound.stream(method, first, outgoing, now, deadline, &inner.tasks).await
        })
    }

    /// Addresses whose connection broke or was closed by the other side: a hint that the node may
    /// be gone. Who reads too slowly misses some.
    pub fn broken(&self) -> broadcast::Receiver<SocketAddr> {
        self.0.broken.subscribe()
    }

    /// Whether this process is stopping.
    pub(crate) fn is_stopping(&self) -> bool {
        self.0.tasks.is_stopping()
    }

    /// Whether there is a connection to this address now.
    pub fn connected(&self, address: SocketAddr, channel: Channel) -> bool {
        self.peer(address, channel).is_some()
    }

    /// How the other end of the connection to this address introduced itself, if there is one.
    pub fn peer(&self, address: SocketAddr, channel: Channel) -> Option<Peer> {
        let slots = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slots.get(&(address, channel))?.borrow() {
            State::Ready(outbound) => Some(outbound.peer.clone()),
            _ => None,
        }
    }
}

impl Inner {
    fn slot(&self, address: SocketAddr, channel: Channel) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= SLOTS_MAX && !slots.contains_key(&(address, channel)) {
            let now = self.clock.now();
            slots.retain(|_, slot| match &*slot.borrow() {
                State::Failed { retry_at, .. } => *retry_at > now,
                State::New => false,
                State::Connecting { .. } | State::Ready(_) => true,
            });
        }
        Arc::clone(
            slots
                .entry((address, channel))
                .or_insert_with(|| Arc::new(watch::Sender::new(State::New))),
        )
    }

    async fn connection(
        self: &Arc<Self>,
        address: SocketAddr,
        channel: Channel,
        deadline: Instant,
    ) -> Result<Arc<Outbound>, NetError> {
        if self.tasks.is_stopping() {
            return Err(NetError::Stopping);
        }
        let slot = self.slot(address, channel);
        if let State::Ready(outbound) = &*slot.borrow()
            && !outbound.is_closed()
        {
            return Ok(Arc::clone(outbound));
        }
        let mut states = slot.subscribe();
        let mut asked = false;
        loop {
            match &*states.borrow_and_update() {
                // One that has just ended will say so in a moment.
                State::Ready(outbound) if !outbound.is_closed() => return Ok(Arc::clone(outbound)),
                // We waited for an attempt, and this is how it ended.
                State::Failed { error, failures, .. } if asked && *failures > 0 => {
                    return Err(error.clone());
                }
                State::Failed { error, retry_at, .. } if *retry_at > self.clock.now() => {
                    return Err(error.clone());
                }
                _ => {}
            }
            asked = true;
            self.start(&slot, address, channel);
            match timeout_at(deadline, states.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(NetError::Stopping),
                Err(_) => {
                    let cause = Arc::new(std::io::ErrorKind::TimedOut.into());
                    return Err(NetError::Connect { address, cause });
                }
            }
        }
    }

    /// Starts to connect unless someone already has. The attempt outlives the one who asked: the
    /// next one needs the connection too.
    fn start(self: &Arc<Self>, slot: &Slot, address: SocketAddr, channel: Channel) {
        let mut before = 0;
        let ours = slot.send_if_modified(|state| {
            before = match state {
                State::New => 0,
                State::Failed { failures, .. } => *failures,
                State::Connecting { .. } | State::Ready(_) => return false,
            };
            *state = State::Connecting { failures: before };
            true
        });
        if ours {
            let (inner, slot) = (Arc::clone(self), Arc::clone(slot));
            self.tasks.spawn("rpc connection", async move {
                let stop = inner.tasks.token();
                let stopped = stop.run_until_cancelled(inner.run(&slot, address, channel)).await;
                if stopped.is_none() {
                    inner.fail(&slot, 0, NetError::Stopping);
                }
            });
        }
    }

    /// Connects and serves the connection until it ends.
    async fn run(&self, slot: &Slot, address: SocketAddr, channel: Channel) {
        // Whoever waits must learn of it even if this task dies of a defect.
        let mut unless = OnPanic { inner: self, slot, address, armed: true };
        let failures = match &*slot.borrow() {
            State::Connecting { failures } => *failures,
            _ => 0,
        };
        match connect(address, channel, &self.identity, &self.limits).await {
            Err(error) => {
                if let NetError::Refused { reason, .. } = &error {
                    log_refusal(address, channel, reason);
                } else {
                    tracing::debug!(%address, ?channel, %error, "RPC connection failed");
                }
                self.fail(slot, failures + 1, error);
            }
            Ok((outbound, socket)) => {
                tracing::debug!(%address, ?channel, node = %outbound.peer.node_id, "RPC connected");
                slot.send_replace(State::Ready(Arc::clone(&outbound)));
                let end = outbound.run(socket).await;
                tracing::debug!(%address, ?channel, ?end, "RPC connection ended");
                self.fail(slot, 0, NetError::Closed(address));
                if !matches!(end, Ok(End::Idle)) {
                    metrics::counter!("muster.rpc.connections_lost").increment(1);
                    // Nobody listening is fine.
                    let _ = self.broken.send(address);
                }
            }
        }
        unless.armed = false;
    }

    /// `failures` 0: an established connection was lost, the next attempt may come at once.
    fn fail(&self, slot: &Slot, failures: u32, error: NetError) {
        let (shortest, longest) = match (&error, self.identity.role) {
            (NetError::Refused { .. }, _) => (PAUSE_REFUSED_MIN, PAUSE_REFUSED_MAX),
            (_, Role::Server) => (PAUSE_MIN, PAUSE_MAX_SERVER),
            (_, Role::Client) => (PAUSE_MIN, PAUSE_MAX_CLIENT),
        };
        let pause = match failures {
            0 => Duration::ZERO,
            n => shortest.saturating_mul(1 << (n - 1).min(10)).min(longest),
        };
        let pause = pause / 2 + self.rng.jitter(pause / 2);
        let retry_at = self.clock.now() + pause;
        slot.send_replace(State::Failed { failures, retry_at, error });
    }
}

struct OnPanic<'a> {
    inner: &'a Inner,
    slot: &'a Slot,
    address: SocketAddr,
    armed: bool,
}

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.inner.fail(self.slot, 1, NetError::Closed(self.address));
        }
    }
}

fn log_refusal(address: SocketAddr, channel: Channel, reason: &Refusal) {
    metrics::counter!("muster.rpc.handshakes_refused").increment(1);
    tracing::warn!(%address, ?channel, %reason, "a server refuses our RPC connection");
}

//! Servers and a gossip that do what a test says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use model::seam::{BoxFuture, ByteStream, Cluster, ClusterError, Member, MemberState, Members};
use model::{Name, NodeId};
use net::{Channel, Handler, Identity, Limits, NetError, Peer, Pool, Role};
use rt::{Clock, Rng, Tasks};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Waits for a condition, at most 10 s.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never came true: {what}");
}

pub(crate) fn identity(n: u8, role: Role) -> Identity {
    Identity { node_id: NodeId([n; 16]), role, datacenter: "dc1".into(), state_version: 1 }
}

pub(crate) fn pool_as(identity: Identity, limits: Limits, tasks: &Tasks) -> Pool {
    Pool::new(identity, limits, Clock::system(), Rng::from_seed(7), tasks)
}

pub(crate) fn pool(tasks: &Tasks) -> Pool {
    pool_as(identity(9, Role::Server), Limits::default(), tasks)
}

type OnCall = dyn Fn(Peer, u16, Bytes) -> BoxFuture<'static, Result<Bytes, NetError>> + Send + Sync;
type OnStream =
    dyn Fn(Bytes, ByteStream) -> BoxFuture<'static, Result<ByteStream, NetError>> + Send + Sync;

/// A handler made of closures.
pub(crate) struct Closures {
    pub(crate) on_call: Box<OnCall>,
    pub(crate) on_stream: Box<OnStream>,
}

impl Handler for Closures {
    fn call(
        &self,
        peer: &Peer,
        _: Channel,
        method: u16,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, NetError>> {
        (self.on_call)(peer.clone(), method, body)
    }

    fn stream(
        &self,
        _: &Peer,
        channel: Channel,
        method: u16,
        first: Bytes,
        incoming: ByteStream,
    ) -> BoxFuture<'static, Result<ByteStream, NetError>> {
        if method == 0 {
            return Box::pin(std::future::ready(Err(NetError::unknown_method(channel, method))));
        }
        (self.on_stream)(first, incoming)
    }
}

pub(crate) fn calls(
    on_call: impl Fn(Peer, u16, Bytes) -> BoxFuture<'static, Result<Bytes, NetError>>
    + Send
    + Sync
    + 'static,
) -> Arc<dyn Handler> {
    let on_stream = Box::new(|_, _| -> BoxFuture<'static, Result<ByteStream, NetError>> {
        Box::pin(std::future::pending())
    });
    Arc::new(Closures { on_call: Box::new(on_call), on_stream })
}

pub(crate) fn streams(
    on_stream: impl Fn(Bytes, ByteStream) -> BoxFuture<'static, Result<ByteStream, NetError>>
    + Send
    + Sync
    + 'static,
) -> Arc<dyn Handler> {
    let on_call = Box::new(|_, _, body| -> BoxFuture<'static, Result<Bytes, NetError>> {
        Box::pin(std::future::ready(Ok(body)))
    });
    Arc::new(Closures { on_call, on_stream: Box::new(on_stream) })
}

pub(crate) fn echo() -> Arc<dyn Handler> {
    calls(|_, _, body| Box::pin(std::future::ready(Ok(body))))
}

/// A server that can be stopped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    tasks: Tasks,
}

impl Server {
    pub(crate) async fn start(handler: Arc<dyn Handler>) -> Self {
        Self::with(handler, Limits::default()).await
    }

    pub(crate) async fn with(handler: Arc<dyn Handler>, limits: Limits) -> Self {
        // An address of its own: a stopped server's port cannot be taken by another test.
        static SERVERS: AtomicU16 = AtomicU16::new(1);
        let [high, low] = SERVERS.fetch_add(1, Ordering::SeqCst).to_be_bytes();
        Self::start_at(SocketAddr::from(([127, 77, high, low], 0)), handler, limits).await
    }

    pub(crate) async fn start_at(
        address: SocketAddr,
        handler: Arc<dyn Handler>,
        limits: Limits,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let tasks = Tasks::new();
        let serving = tasks.clone();
        tasks.spawn("serve", async move {
            net::serve(listener, identity(1, Role::Server), handler, limits, &serving).await;
        });
        Self { address, tasks }
    }

    pub(crate) async fn stop(&self) {
        let stopped = self.tasks.stop_and_wait(Duration::from_secs(10)).await;
        assert!(stopped.unfinished.is_empty(), "{stopped:?}");
    }
}

/// Says when it is dropped.
#[derive(Clone, Default)]
pub(crate) struct Dropped(Arc<AtomicBool>);

pub(crate) struct Guard(Dropped);

impl Dropped {
    pub(crate) fn guard(&self) -> Guard {
        Guard(self.clone())
    }

    pub(crate) fn yes(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::SeqCst);
    }
}

/// Gossip whose members are what the test says.
pub(crate) struct FakeCluster {
    members: watch::Sender<Arc<Members>>,
    pub(crate) probed: Mutex<Vec<NodeId>>,
}

impl FakeCluster {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { members: watch::Sender::default(), probed: Mutex::default() })
    }

    /// These are the servers now; the id of the one at place `i` is `[i; 16]`.
    pub(crate) fn set(&self, servers: &[SocketAddr]) {
        let list = servers
            .iter()
            .enumerate()
            .map(|(i, address)| {
                let port = address.port().to_string();
                let tags = [("role", "consul"), ("dc", "dc1"), ("port", &*port)];
                Arc::new(Member {
                    id: NodeId([u8::try_from(i).expect("few"); 16]),
                    name: format!("s{i}").into(),
                    address: SocketAddr::new(address.ip(), 1),
                    tags: tags.map(|(key, value)| (key.into(), value.into())).into(),
                    state: MemberState::Alive,
                })
            })
            .collect();
        self.members.send_modify(|members| {
            *members = Arc::new(Members { sequence: members.sequence + 1, list });
        });
    }
}

impl Cluster for FakeCluster {
    fn members(&self) -> Arc<Members> {
        self.members.borrow().clone()
    }

    fn changed(&self, after: u64) -> BoxFuture<'static, Arc<Members>> {
        let mut members = self.members.subscribe();
        Box::pin(async move {
            if let Ok(members) = members.wait_for(|members| members.sequence > after).await {
                return members.clone();
            }
            std::future::pending().await
        })
    }

    fn set_tags(&self, _: BTreeMap<Name, Name>) {}

    fn probe_now(&self, node: NodeId) {
        self.probed.lock().expect("no panic").push(node);
    }

    fn join(&self, _: Vec<String>) -> BoxFuture<'static, Result<usize, ClusterError>> {
        Box::pin(std::future::ready(Err(ClusterError::Stopped)))
    }

    fn force_leave(&self, _: &str, _: bool) -> BoxFuture<'static, Result<(), ClusterError>> {
        Box::pin(std::future::ready(Err(ClusterError::Stopped)))
    }

    fn leave(&self) -> BoxFuture<'static, Result<(), ClusterError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn wan_members(&self) -> Arc<Members> {
        Arc::default()
    }

    fn stats(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

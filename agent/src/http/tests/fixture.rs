//! A door with a fake backend behind it, and a client that shows raw responses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use metrics_exporter_prometheus::PrometheusBuilder;
use model::rpc::{Answer as RpcAnswer, Body, Consistency, Meta, Reply, Request, RpcError};
use model::seam::{Backend, BoxFuture, ByteStream, Cluster, ClusterError, Link, Members};
use model::{LogIndex, Name, NodeId};
use rt::{Clock, Rng, Tasks};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};

use crate::config::{Config, DnsSettings, HttpListen, Join, Reloadable};
use crate::http::{AllowAll, Context, Listener, Route, start};

/// Answers every request with what the script says, and remembers what it was asked.
pub(super) struct Fake {
    script: Box<dyn Fn(&Request) -> RpcAnswer + Send + Sync>,
    asked: Mutex<Vec<Request>>,
    /// Body of the last request that had one to stream.
    uploaded: Mutex<Vec<u8>>,
    /// Requests with an index wait for this.
    pub(super) released: Notify,
    /// Counts parked requests that were dropped before they were answered.
    pub(super) cancelled: watch::Sender<usize>,
    pub(super) parked: watch::Sender<usize>,
}

struct CountDrop(Arc<Fake>, bool);

impl Drop for CountDrop {
    fn drop(&mut self) {
        if self.1 {
            self.0.cancelled.send_modify(|n| *n += 1);
        }
    }
}

/// The handle that the door gets.
struct Handle(Arc<Fake>);

impl Backend for Handle {
    fn ask(&self, request: Request) -> BoxFuture<'static, RpcAnswer> {
        let fake = Arc::clone(&self.0);
        Box::pin(async move {
            let answer = (fake.script)(&request);
            let parks = request.min_index > LogIndex::ZERO;
            fake.asked.lock().expect("not poisoned").push(request);
            if parks {
                let mut guard = CountDrop(Arc::clone(&fake), true);
                fake.parked.send_modify(|n| *n += 1);
                fake.released.notified().await;
                guard.1 = false;
            }
            answer
        })
    }

    fn stream(
        &self,
        request: Request,
        mut body: ByteStream,
    ) -> BoxFuture<'static, Result<(Reply, ByteStream), RpcError>> {
        let fake = Arc::clone(&self.0);
        Box::pin(async move {
            let answer = (fake.script)(&request);
            fake.asked.lock().expect("not poisoned").push(request);
            let reply = answer?;
            let mut all = Vec::new();
            while let Some(part) = body.next().await {
                all.extend_from_slice(&part?);
            }
            *fake.uploaded.lock().expect("not poisoned") = all;
            let parts = [Ok(Bytes::from_static(b"one,")), Ok(Bytes::from_static(b"two"))];
            Ok((reply, Box::pin(stream::iter(parts)) as ByteStream))
        })
    }

    fn link(&self) -> Link {
        Link { connected: true, leader_known: true, since_ms: 0 }
    }

    fn leave(&self) -> BoxFuture<'static, Result<(), RpcError>> {
        Box::pin(async { Ok(()) })
    }

    fn stats(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        BTreeMap::new()
    }
}

struct NoCluster;

impl Cluster for NoCluster {
    fn members(&self) -> Arc<Members> {
        Arc::default()
    }
    fn changed(&self, _after: u64) -> BoxFuture<'static, Arc<Members>> {
        Box::pin(std::future::pending())
    }
    fn set_tags(&self, _tags: BTreeMap<Name, Name>) {}
    fn probe_now(&self, _node: NodeId) {}
    fn join(&self, _addresses: Vec<String>) -> BoxFuture<'static, Result<usize, ClusterError>> {
        Box::pin(async { Err(ClusterError::Stopped) })
    }
    fn force_leave(
        &self,
        _name: &str,
        _prune: bool,
    ) -> BoxFuture<'static, Result<(), ClusterError>> {
        Box::pin(async { Err(ClusterError::Stopped) })
    }
    fn leave(&self) -> BoxFuture<'static, Result<(), ClusterError>> {
        Box::pin(async { Ok(()) })
    }
    fn wan_members(&self) -> Arc<Members> {
        Arc::default()
    }
    fn stats(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

pub(super) fn meta() -> Meta {
    Meta {
        index: LogIndex(42),
        known_leader: true,
        last_contact_ms: 7,
        consistency: Consistency::Default,
    }
}

pub(super) fn reply(body: Body) -> RpcAnswer {
    Ok(Reply { meta: meta(), body })
}

pub(super) fn config() -> Config {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    Config {
        node_id: NodeId([1; 16]),
        node_name: "own".into(),
        datacenter: "dc1".into(),
        domain: "consul".into(),
        alt_domain: String::new(),
        server: true,
        dev: false,
        bind: local.ip(),
        advertise: local.ip(),
        serf_lan_bind: local,
        serf_lan_advertise: local,
        serf_wan_port: None,
        server_port: 8300,
        http: vec![],
        dns: vec![],
        grpc_port: None,
        data_dir: None,
        bootstrap: false,
        bootstrap_expect: 0,
        non_voter: false,
        join: Join { addresses: vec![], interval: Duration::from_secs(30), attempts_max: 0 },
        rejoin_after_leave: false,
        reconnect_timeout: Duration::from_secs(1),
        enable_script_checks: false,
        enable_local_script_checks: false,
        check_update_interval: Duration::ZERO,
        check_output_bytes_max: 4096,
        default_query_time: Duration::from_secs(300),
        max_query_time: Duration::from_secs(600),
        rpc_hold_timeout: Duration::from_secs(7),
        kv_value_bytes_max: 1_000,
        http_max_conns_per_client: 100,
        http_max_header_bytes: 64 << 10,
        rpc_handshake_timeout: Duration::from_secs(5),
        discovery_max_stale: Duration::ZERO,
        disable_http_unprintable_char_filter: false,
        ui: false,
        leave_drain_time: Duration::ZERO,
        reloadable: reloadable(),
    }
}

fn reloadable() -> Reloadable {
    Reloadable {
        log_level: "info".into(),
        services: vec![],
        checks: vec![],
        node_meta: BTreeMap::new(),
        discard_check_output: false,
        dns: DnsSettings::default(),
        http_response_headers: [("X-Site".to_owned(), "ours".to_owned())].into(),
    }
}

/// An open door.
pub(super) struct Open {
    pub(super) address: SocketAddr,
    pub(super) fake: Arc<Fake>,
    pub(super) tasks: Tasks,
    _reload: watch::Sender<Arc<Reloadable>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

pub(super) async fn open(script: impl Fn(&Request) -> RpcAnswer + Send + Sync + 'static) -> Open {
    open_with(config(), vec![], script).await
}

pub(super) async fn open_with(
    config: Config,
    more: Vec<Route>,
    script: impl Fn(&Request) -> RpcAnswer + Send + Sync + 'static,
) -> Open {
    let listen = HttpListen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
    let listener = Listener::bind(&listen).await.expect("a free port");
    let address = listener.tcp_address().expect("TCP");
    open_on(vec![listener], address, config, more, script)
}

pub(super) fn open_on(
    listeners: Vec<Listener>,
    address: SocketAddr,
    config: Config,
    more: Vec<Route>,
    script: impl Fn(&Request) -> RpcAnswer + Send + Sync + 'static,
) -> Open {
    let fake = Arc::new(Fake {
        script: Box::new(script),
        asked: Mutex::default(),
        uploaded: Mutex::default(),
        released: Notify::new(),
        cancelled: watch::Sender::new(0),
        parked: watch::Sender::new(0),
    });
    let tasks = Tasks::new();
    let (reload, reloadable) = watch::channel(Arc::new(config.reloadable.clone()));
    let context = Context {
        config: Arc::new(config),
        reloadable,
        backend: Arc::new(Handle(Arc::clone(&fake))),
        cluster: Arc::new(NoCluster),
        control: mpsc::channel(1).0,
        authorizer: Arc::new(AllowAll),
        clock: Clock::system(),
        rng: Rng::from_seed(1),
        metrics: PrometheusBuilder::new().build_recorder().handle(),
    };
    start(context, more, listeners, &tasks);
    Open { address, fake, tasks, _reload: reload }
}

/// A response: status, head in lower case, body.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Seen {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn of(bytes: &[u8]) -> Self {
        let at = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole head");
        let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
        let status = head.get(9..12).and_then(|s| s.parse().ok()).expect("a status");
        // Names only: values keep their case.
        let head = head
            .lines()
            .map(|line| match line.split_once(':') {
                Some((name, value)) => format!("{}:{value}\n", name.to_ascii_lowercase()),
                None => format!("{line}\n"),
            })
            .collect();
        Self { status, head, body: bytes[at + 4..].to_vec() }
    }
}

impl Open {
    /// Sends raw bytes on a connection of their own, and reads until the door closes it.
    pub(super) async fn raw(&self, bytes: &[u8]) -> Seen {
        let mut stream = TcpStream::connect(self.address).await.expect("listening");
        stream.write_all(bytes).await.expect("sent");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.expect("read");
        Seen::of(&all)
    }

    pub(super) async fn send(&self, method: &str, path: &str, more: &str, body: &[u8]) -> Seen {
        let mut bytes = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}Content-Length: \
             {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        self.raw(&bytes).await
    }

    pub(super) async fn get(&self, path: &str) -> Seen {
        self.send("GET", path, "", b"").await
    }

    pub(super) async fn put(&self, path: &str, body: impl AsRef<[u8]>) -> Seen {
        self.send("PUT", path, "", body.as_ref()).await
    }

    /// What the backend was asked last.
    pub(super) fn asked(&self) -> Request {
        self.fake.asked.lock().expect("not poisoned").last().cloned().expect("asked")
    }

    pub(super) fn uploaded(&self) -> Vec<u8> {
        self.fake.uploaded.lock().expect("not poisoned").clone()
    }

    pub(super) fn asked_count(&self) -> usize {
        self.fake.asked.lock().expect("not poisoned").len()
    }
}

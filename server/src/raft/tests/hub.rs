//! A transport between servers of one process, and the servers themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use model::command::{Command, KvCommandV1, KvPutV1, Outcome, RetryV1};
use model::rpc::RpcError;
use model::seam::{BoxFuture, ByteStream};
use model::{LogIndex, NodeId};
use net::{Channel, NetError};
use rt::{Clock, Tasks};
use tokio_util::sync::CancellationToken;

use crate::consensus::{Consensus as _, Proposal};
use crate::raft::fault::{OnFault, StartError};
use crate::raft::inbound::Inbound;
use crate::raft::log::{Disk, Stepping};
use crate::raft::transport::{Transport, method};
use crate::raft::{Parts, Raft, RaftConfig};

/// Real time that a test may take. One that spins never lets virtual time pass, so that no timeout
/// of its own can end it.
const REAL_TIME_MAX: Duration = Duration::from_secs(300);

/// Which server raised what.
pub(super) type Faults = Arc<Mutex<Vec<(NodeId, String)>>>;

/// Where servers find each other.
pub(super) struct Hub {
    wires: Arc<Mutex<Wires>>,
    /// What servers raised, when that is what the test is about; else a fault ends it.
    faults: Option<Faults>,
    /// Held by the test itself, not by its servers; dropped at its end.
    _watchdog: Option<mpsc::Sender<()>>,
}

impl Default for Hub {
    fn default() -> Self {
        Self { wires: Arc::default(), faults: None, _watchdog: Some(watchdog()) }
    }
}

impl Clone for Hub {
    fn clone(&self) -> Self {
        Self { wires: Arc::clone(&self.wires), faults: self.faults.clone(), _watchdog: None }
    }
}

/// Ends the process if what it returns is not dropped in time.
fn watchdog() -> mpsc::Sender<()> {
    let (held, gone) = mpsc::channel();
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let watch = move || {
        if gone.recv_timeout(REAL_TIME_MAX) == Err(RecvTimeoutError::Timeout) {
            #[expect(clippy::print_stderr, reason = "the last words of the process")]
            {
                eprintln!("{test} has not ended after {REAL_TIME_MAX:?} of real time: it spins");
            }
            std::process::abort();
        }
    };
    // A thread of its own, since the test's may be the one that spins.
    std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch).expect("a thread");
    held
}

#[derive(Default)]
struct Wires {
    servers: BTreeMap<SocketAddr, (Inbound, CancellationToken)>,
    cut: BTreeSet<SocketAddr>,
    /// Bytes of each snapshot that was sent, whether it arrived or not.
    snapshots: Vec<u64>,
    /// A server is cut off when so many bytes of a snapshot were sent to it.
    cut_within: Option<(SocketAddr, u64)>,
}

impl Hub {
    fn wires(&self) -> MutexGuard<'_, Wires> {
        self.wires.lock().expect("no test panics while it holds the wires")
    }

    /// A hub for tests that are about faults.
    pub(super) fn watching() -> (Self, Faults) {
        let faults = Faults::default();
        (Self { faults: Some(Arc::clone(&faults)), ..Self::default() }, faults)
    }

    /// Cuts a server off from all others; what is under way to it breaks.
    pub(super) fn cut(&self, server: SocketAddr) {
        let mut wires = self.wires();
        wires.cut.insert(server);
        for (_, broken) in wires.servers.values_mut() {
            std::mem::take(broken).cancel();
        }
    }

    /// Cuts a server off within the next snapshot that is sent to it.
    pub(super) fn cut_within_snapshot(&self, server: SocketAddr, bytes: u64) {
        self.wires().cut_within = Some((server, bytes));
    }

    /// Bytes of each snapshot that was sent, whether it arrived or not.
    pub(super) fn snapshots(&self) -> Vec<u64> {
        self.wires().snapshots.clone()
    }

    fn note_snapshot(&self, number: usize, to: SocketAddr, bytes: usize) {
        let mut wires = self.wires();
        wires.snapshots[number] += bytes as u64;
        let sent = wires.snapshots[number];
        if wires.cut_within.is_some_and(|(server, upto)| server == to && sent >= upto) {
            wires.cut_within = None;
            drop(wires);
            self.cut(to);
        }
    }

    /// Counts what is sent of a snapshot.
    fn counted(&self, to: SocketAddr, outgoing: ByteStream) -> ByteStream {
        let number = {
            let mut wires = self.wires();
            wires.snapshots.push(0);
            wires.snapshots.len() - 1
        };
        let hub = self.clone();
        Box::pin(outgoing.inspect(move |block| {
            hub.note_snapshot(number, to, block.as_ref().map_or(0, Bytes::len));
        }))
    }

    /// Lets it back in.
    pub(super) fn heal(&self, server: SocketAddr) {
        self.wires().cut.remove(&server);
    }

    /// Makes a server say that it knows this state version.
    pub(super) fn announce(&self, server: SocketAddr, version: u32) {
        let mut wires = self.wires();
        let (inbound, _) = wires.servers.get_mut(&server).expect("it runs");
        inbound.state_version = version;
    }

    fn on_fault(&self, id: NodeId) -> OnFault {
        let faults = self.faults.clone();
        OnFault::told(move |what, place, _| match &faults {
            Some(faults) => {
                faults.lock().expect("not poisoned").push((id, format!("{place}: {what}")));
            }
            None => panic!("{place}: {what}"),
        })
    }

    fn way(
        &self,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<(Inbound, CancellationToken), NetError> {
        let wires = self.wires();
        let refused = || NetError::Connect {
            address: to,
            cause: Arc::new(io::Error::from(io::ErrorKind::ConnectionRefused)),
        };
        if wires.cut.contains(&from) || wires.cut.contains(&to) {
            return Err(refused());
        }
        wires.servers.get(&to).cloned().ok_or_else(refused)
    }
}

struct Wire {
    hub: Hub,
    from: SocketAddr,
}

impl Transport for Wire {
    fn call(
        &self,
        to: SocketAddr,
        _channel: Channel,
        method: u16,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, NetError>> {
        let way = self.hub.way(self.from, to);
        Box::pin(async move {
            let (inbound, broken) = way?;
            tokio::select! {
                biased;
                () = broken.cancelled() => Err(NetError::Closed(to)),
                answer = tokio::time::timeout(timeout, inbound.call(method, body)) => {
                    answer.unwrap_or(Err(NetError::Timeout(to)))
                }
            }
        })
    }

    fn stream(
        &self,
        to: SocketAddr,
        _channel: Channel,
        number: u16,
        first: Bytes,
        outgoing: ByteStream,
        _timeout: Duration,
    ) -> BoxFuture<'static, Result<ByteStream, NetError>> {
        let (way, hub) = (self.hub.way(self.from, to), self.hub.clone());
        Box::pin(async move {
            let (inbound, broken) = way?;
            let outgoing = match number {
                method::SNAPSHOT => hub.counted(to, outgoing),
                _ => outgoing,
            };
            let outgoing = Box::pin(outgoing.take_until(broken.clone().cancelled_owned()));
            let answers = match number {
                method::APPEND_STREAM => inbound.append_stream(outgoing),
                _ => inbound.snapshot(first, outgoing),
            };
            let until = broken.clone().cancelled_owned();
            let end = stream::once(async move {
                broken.is_cancelled().then(|| Err(RpcError::Broken("cut".to_owned())))
            });
            let answers: ByteStream =
                Box::pin(answers.take_until(until).chain(end.filter_map(std::future::ready)));
            Ok(answers)
        })
    }
}

/// A server of a test.
pub(super) struct Server {
    pub(super) id: NodeId,
    pub(super) address: SocketAddr,
    pub(super) directory: Option<tempfile::TempDir>,
    pub(super) raft: Arc<Raft>,
    hub: Hub,
}

pub(super) fn node_id(number: u8) -> NodeId {
    NodeId([number; 16])
}

pub(super) fn address(number: u8) -> SocketAddr {
    ([127, 0, 0, number], 8300).into()
}

/// Settings of a server.
pub(super) fn config(number: u8, address: SocketAddr, data_dir: &std::path::Path) -> RaftConfig {
    RaftConfig {
        node_id: node_id(number),
        node_name: format!("node{number}").into(),
        advertise: address,
        data_dir: Some(data_dir.to_owned()),
        multiplier: 1,
        snapshot_threshold: 50_000,
        disk_reserve: 0,
    }
}

impl Server {
    /// Starts a server on a fresh directory.
    pub(super) async fn start(hub: &Hub, number: u8) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        Self::start_at(hub, number, address(number), directory).await
    }

    /// Starts a server on what a directory holds.
    pub(super) async fn start_at(
        hub: &Hub,
        number: u8,
        address: SocketAddr,
        directory: tempfile::TempDir,
    ) -> Self {
        let started = Self::try_start_at(hub, number, address, directory).await;
        started.unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// The same where it may be refused.
    pub(super) async fn try_start_at(
        hub: &Hub,
        number: u8,
        address: SocketAddr,
        directory: tempfile::TempDir,
    ) -> Result<Self, StartError> {
        let config = config(number, address, directory.path());
        let parts = Parts {
            transport: Arc::new(Wire { hub: hub.clone(), from: address }),
            disk: Disk::Directory(directory.path().to_owned()),
            stepping: Stepping::Inline,
            on_fault: hub.on_fault(node_id(number)),
        };
        let raft = Raft::assemble(config, parts, Clock::system(), &Tasks::new()).await?;
        let inbound = raft.0.inbound.clone();
        hub.wires().servers.insert(address, (inbound, CancellationToken::new()));
        let (id, directory, hub) = (node_id(number), Some(directory), hub.clone());
        Ok(Self { id, address, directory, raft, hub })
    }

    /// Stops it as a crash would; its directory is as it was at that moment.
    pub(super) async fn crash(mut self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().expect("temporary directory");
        let directory = self.directory.take().expect("it has a directory");
        copy_tree(directory.path(), copy.path());
        if let Some((_, broken)) = self.hub.wires().servers.remove(&self.address) {
            broken.cancel();
        }
        self.raft.shutdown().await;
        copy
    }

    pub(super) async fn set(&self, key: &str, value: &str) -> Result<LogIndex, RpcError> {
        self.set_retried(key, value, None).await.map(|(index, _)| index)
    }

    pub(super) async fn set_retried(
        &self,
        key: &str,
        value: &str,
        retry: Option<RetryV1>,
    ) -> Result<(LogIndex, Outcome), RpcError> {
        let put = KvPutV1 { key: key.to_owned().into(), value: value.to_owned().into(), flags: 0 };
        let proposal = Proposal {
            namespace: "default".into(),
            retry,
            actor: "".into(),
            reason: "".into(),
            command: Command::KvV1(KvCommandV1::Set(put)),
        };
        self.raft.propose(proposal).await
    }

    pub(super) fn get(&self, key: &str) -> Option<String> {
        let entry = self.raft.state().kv("default", key.as_bytes())?;
        Some(String::from_utf8_lossy(&entry.value).into_owned())
    }
}

pub(super) fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    for item in std::fs::read_dir(from).expect("directory") {
        let item = item.expect("item");
        let target = to.join(item.file_name());
        if item.file_type().expect("type").is_dir() {
            std::fs::create_dir(&target).expect("made");
            copy_tree(&item.path(), &target);
        } else {
            std::fs::copy(item.path(), &target).expect("copied");
        }
    }
}

/// Waits for a condition on virtual time.
pub(super) async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(value) = condition() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("{what}"))
}

/// The position of the one server that leads and has a quorum.
pub(super) async fn leader(servers: &[Server]) -> usize {
    let leading = || {
        let leads = |server: &Server| {
            let known = *server.raft.leadership().borrow();
            known.is_leader && server.raft.0.core.is_leader()
        };
        let mut leaders: Vec<(u64, usize)> = servers
            .iter()
            .enumerate()
            .filter(|(_, server)| leads(server))
            .map(|(at, server)| (server.raft.leadership().borrow().term, at))
            .collect();
        leaders.sort_unstable();
        leaders.pop().map(|(_, at)| at)
    };
    until("a leader", leading).await
}

/// Starts servers and makes them one cluster.
pub(super) async fn cluster(hub: &Hub, count: u8) -> Vec<Server> {
    let mut servers = Vec::new();
    for number in 1..=count {
        servers.push(Server::start(hub, number).await);
    }
    let voters = (1..=count)
        .map(|number| (node_id(number), format!("node{number}").into(), address(number)))
        .collect();
    assert!(servers.iter().all(|server| server.raft.pristine()));
    servers[0].raft.initialize(voters).await.expect("initialised");
    servers
}

//! Stand-ins for Raft, gossip and the other servers, for tests. The state is the real one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use model::command::{EnvelopeV1, Outcome};
use model::row::AutopilotV1;
use model::rpc::{Answer, RaftServer, Reply, Request, RpcError};
use model::seam::{BoxFuture, ByteStream, Cluster, ClusterError, Member, MemberState, Members};
use model::{LogIndex, Name, NodeId};
use rt::{Clock, Rng};
use state::{Registry, State};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{AllowAll, Endpoint, Info, InfoQuestion, Parts, Peers};
use crate::config::{Bootstrap, Config};
use crate::consensus::{Census, Consensus, Leadership, Proposal};
use crate::leader::Duties;

pub(crate) const US: NodeId = NodeId([1; 16]);

pub(crate) fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, n], 8300))
}

pub(crate) fn config() -> Config {
    Config {
        node_id: US,
        node_name: "n1".into(),
        datacenter: "dc1".into(),
        rpc_bind: SocketAddr::from(([127, 0, 0, 1], 0)),
        rpc_advertise: address(1),
        data_dir: None,
        bootstrap: Bootstrap::Alone,
        raft_multiplier: 1,
        raft_snapshot_threshold: 50_000,
        disk_reserve_bytes: 0,
        rpc_hold_timeout: Duration::from_secs(7),
        rpc_max_conns_per_client: 100,
        rpc_handshake_timeout: Duration::from_secs(5),
        session_ttl_min: Duration::from_secs(10),
        kv_value_bytes_max: 1_024,
        leave_drain_time: Duration::from_secs(5),
        reconnect_timeout: Duration::from_secs(72 * 3_600),
        non_voter: false,
        autopilot: AutopilotV1::default(),
        snapshot_schedule: None,
        grpc_port: None,
    }
}

/// Raft of one server: what is proposed is applied at once.
pub(crate) struct FakeConsensus {
    state: Mutex<Arc<State>>,
    registry: Arc<Registry>,
    leadership: watch::Sender<Leadership>,
    pub(crate) proposals: Mutex<Vec<Proposal>>,
    pub(crate) confirmations: AtomicU64,
    pub(crate) ready: AtomicBool,
    /// Errors that the next proposals meet; after them all is well.
    pub(crate) faults: Mutex<Vec<(bool, RpcError)>>,
    /// Committed, but applied only once the lease is confirmed: as on a new leader.
    pub(crate) unapplied: Mutex<Vec<Proposal>>,
    pub(crate) servers: Mutex<Vec<RaftServer>>,
    pub(crate) census: watch::Sender<Arc<Census>>,
    pub(crate) epoch: watch::Sender<u64>,
}

impl FakeConsensus {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            registry: Arc::default(),
            leadership: watch::Sender::new(Leadership::default()),
            proposals: Mutex::default(),
            confirmations: AtomicU64::new(0),
            ready: AtomicBool::new(true),
            faults: Mutex::default(),
            unapplied: Mutex::default(),
            servers: Mutex::new(vec![raft_server(1, true)]),
            census: watch::Sender::new(Arc::default()),
            epoch: watch::Sender::new(0),
        })
    }

    /// Who leads from now on; a new term.
    pub(crate) fn lead(&self, leader: Option<u8>) {
        self.leadership.send_modify(|now| {
            *now = Leadership {
                term: now.term + 1,
                leader: leader.map(|n| (NodeId([n; 16]), address(n))),
                is_leader: leader == Some(1),
            };
        });
    }

    /// Applies without proposing, as a follower does.
    pub(crate) fn apply(&self, proposal: Proposal) -> (LogIndex, Outcome) {
        let Proposal { namespace, retry, actor, reason, command } = proposal;
        let mut guard = self.state.lock().expect("no panic");
        let mut state = State::clone(&guard);
        // The first index is Raft's own.
        let index = LogIndex(state.applied().0.max(1) + 1);
        let envelope = EnvelopeV1 {
            namespace,
            retry,
            actor,
            reason,
            cluster_time_ms: index.0,
            wall_ms: 0,
            command,
        };
        let mut done = state::apply(&mut state, &[(index, envelope)]);
        let (outcome, changes) = done.pop().expect("one entry");
        *guard = Arc::new(state);
        drop(guard);
        self.registry.wake(&changes);
        (index, outcome)
    }

    pub(crate) fn proposed(&self) -> usize {
        self.proposals.lock().expect("no panic").len()
    }

    fn is_leader(&self) -> bool {
        self.leadership.borrow().is_leader
    }
}

fn ready<T: Send + 'static>(value: T) -> BoxFuture<'static, T> {
    Box::pin(std::future::ready(value))
}

impl Consensus for FakeConsensus {
    fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.lock().expect("no panic"))
    }

    fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn last_contact_ms(&self) -> Option<u64> {
        self.ready.load(Ordering::SeqCst).then_some(0)
    }

    fn propose(
        &self,
        proposal: Proposal,
    ) -> BoxFuture<'static, Result<(LogIndex, Outcome), RpcError>> {
        if !self.is_leader() {
            return ready(Err(RpcError::NoLeader));
        }
        self.proposals.lock().expect("no panic").push(proposal.clone());
        let fault = self.faults.lock().expect("no panic").pop();
        match fault {
            Some((applied, error)) => {
                if applied {
                    self.apply(proposal);
                }
                ready(Err(error))
            }
            None => ready(Ok(self.apply(proposal))),
        }
    }

    fn confirm_lease(&self) -> BoxFuture<'static, Result<(), RpcError>> {
        self.confirmations.fetch_add(1, Ordering::SeqCst);
        let unapplied = std::mem::take(&mut *self.unapplied.lock().expect("no panic"));
        for proposal in unapplied {
            self.apply(proposal);
        }
        ready(if self.is_leader() { Ok(()) } else { Err(RpcError::NoLeader) })
    }

    fn read_index(&self) -> BoxFuture<'static, Result<LogIndex, RpcError>> {
        self.confirmations.fetch_add(1, Ordering::SeqCst);
        let applied = self.state().applied();
        ready(if self.is_leader() { Ok(applied) } else { Err(RpcError::NoLeader) })
    }

    fn applied(&self, index: LogIndex) -> BoxFuture<'static, Result<(), RpcError>> {
        ready(if self.state().applied() >= index { Ok(()) } else { Err(RpcError::NotReady) })
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }

    fn configuration(&self) -> (u64, Vec<RaftServer>) {
        (1, self.servers.lock().expect("no panic").clone())
    }

    fn census(&self) -> watch::Receiver<Arc<Census>> {
        self.census.subscribe()
    }

    fn add_server(
        &self,
        id: NodeId,
        _node: Name,
        address: SocketAddr,
    ) -> BoxFuture<'static, Result<(), RpcError>> {
        let mut servers = self.servers.lock().expect("no panic");
        match servers.iter_mut().find(|server| server.id == id) {
            Some(server) => server.address = address.to_string().into(),
            None => servers.push(raft_server(id.0[0], false)),
        }
        ready(Ok(()))
    }

    fn promote(&self, id: NodeId) -> BoxFuture<'static, Result<(), RpcError>> {
        let mut servers = self.servers.lock().expect("no panic");
        servers.iter_mut().filter(|server| server.id == id).for_each(|server| server.voter = true);
        ready(Ok(()))
    }

    fn remove_server(&self, id: NodeId) -> BoxFuture<'static, Result<(), RpcError>> {
        self.servers.lock().expect("no panic").retain(|server| server.id != id);
        ready(Ok(()))
    }

    fn transfer(&self, to: Option<NodeId>) -> BoxFuture<'static, Result<(), RpcError>> {
        self.lead(Some(to.map_or(2, |id| id.0[0])));
        ready(Ok(()))
    }

    fn pristine(&self) -> bool {
        self.state().applied() == LogIndex::ZERO
    }

    fn initialize(
        &self,
        _voters: Vec<(NodeId, Name, SocketAddr)>,
    ) -> BoxFuture<'static, Result<(), RpcError>> {
        self.lead(Some(1));
        ready(Ok(()))
    }

    fn epoch(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    fn archive(&self) -> Result<(LogIndex, ByteStream), RpcError> {
        let archive = stream::iter([Ok(Bytes::from_static(b"archive"))]);
        Ok((self.state().applied(), Box::pin(archive)))
    }

    fn restore(&self, mut archive: ByteStream) -> BoxFuture<'static, Result<LogIndex, RpcError>> {
        let epoch = self.epoch.clone();
        Box::pin(async move {
            let mut all = Vec::new();
            while let Some(part) = archive.next().await {
                all.extend_from_slice(&part?);
            }
            if all != b"archive" {
                return Err(RpcError::Protocol("no archive".to_owned()));
            }
            epoch.send_modify(|epoch| *epoch += 1);
            Ok(LogIndex(77))
        })
    }

    fn stats(&self) -> Vec<(String, String)> {
        vec![("state".into(), "Leader".into())]
    }
}

/// A server `n<n>` of the configuration.
pub(crate) fn raft_server(n: u8, voter: bool) -> RaftServer {
    RaftServer {
        id: NodeId([n; 16]),
        node: format!("n{n}").into(),
        address: address(n).to_string().into(),
        leader: false,
        voter,
        last_index: 0,
    }
}

/// A member `n<n>` of datacenter dc1; `tags` go over the usual ones.
pub(crate) fn member(
    n: u8,
    state: MemberState,
    server: bool,
    tags: &[(&str, &str)],
) -> Arc<Member> {
    let role = if server { "consul" } else { "node" };
    let usual = [("role", role), ("dc", "dc1"), ("build", "1.21.4:abc")];
    let port = server.then_some(("port", "8300"));
    let all = usual.into_iter().chain(port).chain(tags.iter().copied());
    Arc::new(Member {
        id: NodeId([n; 16]),
        name: format!("n{n}").into(),
        address: SocketAddr::from(([127, 0, 0, n], 8301)),
        tags: all.map(|(key, value)| (key.into(), value.into())).collect(),
        state,
    })
}

/// Gossip with settable members.
pub(crate) struct FakeCluster(watch::Sender<Arc<Members>>);

impl FakeCluster {
    pub(crate) fn new(list: Vec<Arc<Member>>) -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(Arc::new(Members { sequence: 1, list }))))
    }

    pub(crate) fn set(&self, list: Vec<Arc<Member>>) {
        self.0.send_modify(|now| {
            *now = Arc::new(Members { sequence: now.sequence + 1, list });
        });
    }
}

impl Cluster for FakeCluster {
    fn members(&self) -> Arc<Members> {
        Arc::clone(&self.0.borrow())
    }

    fn changed(&self, after: u64) -> BoxFuture<'static, Arc<Members>> {
        let mut members = self.0.subscribe();
        Box::pin(async move {
            loop {
                let now = Arc::clone(&members.borrow_and_update());
                if now.sequence > after {
                    return now;
                }
                if members.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        })
    }

    fn set_tags(&self, _tags: BTreeMap<Name, Name>) {}

    fn probe_now(&self, _node: NodeId) {}

    fn join(&self, _addresses: Vec<String>) -> BoxFuture<'static, Result<usize, ClusterError>> {
        ready(Ok(0))
    }

    fn force_leave(
        &self,
        _name: &str,
        _prune: bool,
    ) -> BoxFuture<'static, Result<(), ClusterError>> {
        ready(Ok(()))
    }

    fn leave(&self) -> BoxFuture<'static, Result<(), ClusterError>> {
        ready(Ok(()))
    }

    fn wan_members(&self) -> Arc<Members> {
        Arc::default()
    }

    fn stats(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

type Answering = dyn Fn(SocketAddr, Request) -> BoxFuture<'static, Answer> + Send + Sync;

/// The other servers: a function answers for them.
pub(crate) struct FakePeers {
    pub(crate) asked: Mutex<Vec<(SocketAddr, Request)>>,
    answer: Box<Answering>,
    pub(crate) read_index: AtomicU64,
}

impl FakePeers {
    pub(crate) fn new(
        answer: impl Fn(SocketAddr, Request) -> BoxFuture<'static, Answer> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (asked, read_index) = (Mutex::default(), AtomicU64::new(0));
        Arc::new(Self { asked, answer: Box::new(answer), read_index })
    }

    pub(crate) fn silent() -> Arc<Self> {
        Self::new(|_, _| Box::pin(std::future::pending()))
    }
}

impl Peers for FakePeers {
    fn ask(
        &self,
        server: SocketAddr,
        request: Request,
        limit: Duration,
    ) -> BoxFuture<'static, Answer> {
        self.asked.lock().expect("no panic").push((server, request.clone()));
        let answer = (self.answer)(server, request);
        Box::pin(async move {
            let late = || Err(RpcError::Broken("too late".into()));
            tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| late())
        })
    }

    fn exchange(
        &self,
        server: SocketAddr,
        request: Request,
        body: ByteStream,
        _limit: Duration,
    ) -> BoxFuture<'static, Result<(Reply, ByteStream), RpcError>> {
        let asked = self.ask(server, request, Duration::ZERO);
        // Who reads the body is who answers it.
        Box::pin(async move { Ok((asked.await?, body)) })
    }

    fn read_index(&self, _leader: SocketAddr) -> BoxFuture<'static, Result<LogIndex, RpcError>> {
        ready(Ok(LogIndex(self.read_index.load(Ordering::SeqCst))))
    }

    fn info(
        &self,
        _server: SocketAddr,
        _question: InfoQuestion,
    ) -> BoxFuture<'static, Result<Info, RpcError>> {
        ready(Err(RpcError::NoLeader))
    }
}

/// An endpoint over fakes.
pub(crate) struct Stage {
    pub(crate) consensus: Arc<FakeConsensus>,
    pub(crate) peers: Arc<FakePeers>,
    pub(crate) duties: Arc<Duties>,
    pub(crate) endpoint: Arc<Endpoint>,
}

impl Stage {
    pub(crate) fn new(peers: Arc<FakePeers>) -> Self {
        let consensus = FakeConsensus::new();
        let cluster = FakeCluster::new(vec![member(1, MemberState::Alive, true, &[])]);
        let duties = Arc::new(Duties::default());
        let endpoint = Endpoint::new(Parts {
            config: Arc::new(config()),
            consensus: consensus.clone(),
            cluster,
            peers: peers.clone(),
            duties: duties.clone(),
            authorizer: AllowAll::shared(),
            clock: Clock::system(),
            rng: Rng::from_seed(7),
            stop: CancellationToken::new(),
        });
        Self { consensus, peers, duties, endpoint }
    }

    /// One that leads.
    pub(crate) fn leading() -> Self {
        let stage = Self::new(FakePeers::silent());
        stage.consensus.lead(Some(1));
        stage
    }
}

/// Rows with little in them.
pub(crate) mod rows {
    use model::row::{CheckV1, NodeV1, ServiceV1, Status, WeightsV1};
    use model::{LogIndex, NodeId};

    pub(crate) fn node(name: &str, n: u8) -> NodeV1 {
        NodeV1 {
            name: name.into(),
            id: Some(NodeId([n; 16])),
            address: format!("127.0.0.{n}").into(),
            tagged_addresses: None,
            meta: None,
            locality: None,
            create_index: LogIndex::ZERO,
            modify_index: LogIndex::ZERO,
        }
    }

    pub(crate) fn service(node: &str, id: &str, name: &str) -> ServiceV1 {
        ServiceV1 {
            node: node.into(),
            id: id.into(),
            name: name.into(),
            kind: "".into(),
            tags: Vec::new(),
            address: "".into(),
            port: 80,
            socket_path: "".into(),
            tagged_addresses: Default::default(),
            meta: None,
            weights: WeightsV1::default(),
            enable_tag_override: false,
            proxy_json: None,
            connect_native: false,
            locality: None,
            create_index: LogIndex::ZERO,
            modify_index: LogIndex::ZERO,
        }
    }

    pub(crate) fn check(node: &str, id: &str, service_id: &str) -> CheckV1 {
        CheckV1 {
            node: node.into(),
            id: id.into(),
            name: id.into(),
            status: Status::Passing,
            notes: "".into(),
            output: "".into(),
            service_id: service_id.into(),
            service_name: "".into(),
            service_tags: Vec::new(),
            kind: "".into(),
            interval: "".into(),
            timeout: "".into(),
            exposed_port: 0,
            definition_json: None,
            create_index: LogIndex::ZERO,
            modify_index: LogIndex::ZERO,
        }
    }
}

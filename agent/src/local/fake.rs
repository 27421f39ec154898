//! Servers and gossip for tests: a catalog of one node, in memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::row::{CheckV1, NodeV1, ServiceV1, Status};
use model::rpc::{Answer, Body, Consistency, Meta, Op, Reply, Request, RpcError};
use model::seam::{
    Backend, BoxFuture, ByteStream, Cluster, ClusterError, Link, Member, MemberState, Members,
};
use model::{LogIndex, Name, NodeId};
use tokio::sync::watch;

use crate::config::{Config, DnsSettings, Join, Reloadable};

/// What the servers hold and have been asked.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) node: Option<Arc<NodeV1>>,
    pub(crate) services: BTreeMap<Name, Arc<ServiceV1>>,
    pub(crate) checks: BTreeMap<Name, Arc<CheckV1>>,
    /// Writes in order, batches taken apart.
    pub(crate) writes: Vec<Op>,
    /// Answers every write of a service with this id.
    pub(crate) refuse: BTreeMap<Name, RpcError>,
    /// Fails every read.
    pub(crate) unreadable: bool,
}

/// A backend over [`Catalog`].
#[derive(Debug)]
pub(crate) struct Servers {
    catalog: Mutex<Catalog>,
    up: watch::Sender<bool>,
    writes: watch::Sender<usize>,
}

impl Servers {
    pub(crate) fn new(up: bool) -> Arc<Self> {
        Arc::new(Self {
            catalog: Mutex::default(),
            up: watch::Sender::new(up),
            writes: watch::Sender::new(0),
        })
    }

    pub(crate) fn set_up(&self, up: bool) {
        self.up.send_replace(up);
    }

    pub(crate) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the catalog is so.
    pub(crate) async fn until(&self, what: &str, mut so: impl FnMut(&Catalog) -> bool) {
        let mut writes = self.writes.subscribe();
        let wait = async {
            while !so(&self.catalog()) {
                writes.changed().await.expect("the sender is here");
            }
        };
        let limit = std::time::Duration::from_secs(600);
        tokio::time::timeout(limit, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    pub(crate) fn status_of(&self, check: &str) -> Option<Status> {
        self.catalog().checks.get(check).map(|check| check.status)
    }

    fn answer(&self, op: Op) -> Result<Body, RpcError> {
        if !*self.up.borrow() {
            return Err(RpcError::NoLeader);
        }
        let mut catalog = self.catalog();
        match op {
            Op::NodeServices { .. } | Op::HealthNode { .. } if catalog.unreadable => {
                Err(RpcError::NoLeader)
            }
            Op::NodeServices { .. } => Ok(Body::Node(
                catalog
                    .node
                    .clone()
                    .map(|node| (node, catalog.services.values().cloned().collect())),
            )),
            Op::HealthNode { .. } => Ok(Body::Checks(catalog.checks.values().cloned().collect())),
            Op::Batch(ops) => {
                drop(catalog);
                Ok(Body::Batch(ops.into_iter().map(|op| self.answer(op)).collect()))
            }
            op => {
                catalog.writes.push(op.clone());
                let result = catalog.write(op);
                drop(catalog);
                self.writes.send_modify(|count| *count += 1);
                result
            }
        }
    }
}

impl Catalog {
    fn write(&mut self, op: Op) -> Result<Body, RpcError> {
        match op {
            Op::Register(registration) => {
                for service in &registration.services {
                    if let Some(error) = self.refuse.get(&service.id) {
                        return Err(error.clone());
                    }
                }
                if !registration.skip_node_update || self.node.is_none() {
                    self.node = Some(Arc::new(registration.node));
                }
                for service in registration.services {
                    self.services.insert(Arc::clone(&service.id), Arc::new(service));
                }
                for check in registration.checks {
                    self.checks.insert(Arc::clone(&check.id), Arc::new(check));
                }
            }
            Op::Deregister { service_id: Some(id), .. } => {
                self.services.remove(&id);
                self.checks.retain(|_, check| check.service_id != id);
            }
            Op::Deregister { check_id: Some(id), .. } => _ = self.checks.remove(&id),
            other => {
                return Err(RpcError::Protocol(format!("not asked for by this room: {other:?}")));
            }
        }
        Ok(Body::Done)
    }
}

impl Backend for Servers {
    fn ask(&self, request: Request) -> BoxFuture<'static, Answer> {
        let answer = self.answer(request.op);
        Box::pin(async move {
            let meta = Meta {
                index: LogIndex(1),
                known_leader: true,
                last_contact_ms: 0,
                consistency: Consistency::Default,
            };
            answer.map(|body| Reply { meta, body })
        })
    }

    fn stream(
        &self,
        _request: Request,
        _body: ByteStream,
    ) -> BoxFuture<'static, Result<(Reply, ByteStream), RpcError>> {
        Box::pin(async { Err(RpcError::Protocol("no streams here".into())) })
    }

    fn link(&self) -> Link {
        let up = *self.up.borrow();
        Link { connected: up, leader_known: up, since_ms: 0 }
    }

    fn leave(&self) -> BoxFuture<'static, Result<(), RpcError>> {
        Box::pin(async { Ok(()) })
    }

    fn stats(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let consul = [("server", "true"), ("leader", "true")];
        let consul = consul.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        [("consul".to_owned(), consul)].into()
    }
}

/// Gossip that only remembers.
#[derive(Debug)]
pub(crate) struct Gossip(pub(crate) watch::Sender<Arc<Members>>);

impl Gossip {
    pub(crate) fn alone() -> Arc<Self> {
        let member = member("n1", 1, MemberState::Alive);
        Arc::new(Self(watch::Sender::new(Arc::new(Members { sequence: 1, list: vec![member] }))))
    }
}

/// A server of this name.
pub(crate) fn member(name: &str, id: u8, state: MemberState) -> Arc<Member> {
    let tags = [("role", "consul"), ("dc", "dc1"), ("port", "8300")];
    Arc::new(Member {
        id: NodeId([id; 16]),
        name: name.into(),
        address: SocketAddr::from(([127, 0, 0, id], 8301)),
        tags: tags.map(|(key, value)| (Name::from(key), Name::from(value))).into(),
        state,
    })
}

impl Cluster for Gossip {
    fn members(&self) -> Arc<Members> {
        self.0.borrow().clone()
    }

    fn changed(&self, after: u64) -> BoxFuture<'static, Arc<Members>> {
        let mut members = self.0.subscribe();
        Box::pin(async move {
            let found = members.wait_for(|members| members.sequence > after).await;
            Arc::clone(&found.expect("the sender is here"))
        })
    }

    fn set_tags(&self, _tags: BTreeMap<Name, Name>) {}

    fn probe_now(&self, _node: NodeId) {}

    fn join(&self, addresses: Vec<String>) -> BoxFuture<'static, Result<usize, ClusterError>> {
        Box::pin(async move {
            match addresses.first() {
                Some(address) if address.starts_with("127.0.0.1") => Ok(1),
                _ => Err(ClusterError::Join("nobody answers there".into())),
            }
        })
    }

    fn force_leave(
        &self,
        name: &str,
        _prune: bool,
    ) -> BoxFuture<'static, Result<(), ClusterError>> {
        let known = self.members().by_name(name).is_some();
        let name = name.to_owned();
        Box::pin(async move { if known { Ok(()) } else { Err(ClusterError::UnknownMember(name)) } })
    }

    fn leave(&self) -> BoxFuture<'static, Result<(), ClusterError>> {
        Box::pin(async { Ok(()) })
    }

    fn wan_members(&self) -> Arc<Members> {
        Arc::default()
    }

    fn stats(&self) -> BTreeMap<String, String> {
        [("members".to_owned(), "1".to_owned())].into()
    }
}

/// Settings of node `n1`.
pub(crate) fn config() -> Config {
    let local: std::net::IpAddr = [127, 0, 0, 1].into();
    Config {
        node_id: NodeId([1; 16]),
        node_name: "n1".into(),
        datacenter: "dc1".into(),
        domain: "consul".into(),
        alt_domain: String::new(),
        server: true,
        dev: false,
        bind: local,
        advertise: local,
        serf_lan_bind: (local, 8301).into(),
        serf_lan_advertise: (local, 8301).into(),
        serf_wan_port: None,
        server_port: 8300,
        http: Vec::new(),
        dns: Vec::new(),
        grpc_port: None,
        data_dir: None,
        bootstrap: true,
        bootstrap_expect: 0,
        non_voter: false,
        join: Join {
            addresses: Vec::new(),
            interval: std::time::Duration::from_secs(30),
            attempts_max: 0,
        },
        rejoin_after_leave: false,
        reconnect_timeout: std::time::Duration::from_secs(72 * 3600),
        enable_script_checks: false,
        enable_local_script_checks: false,
        check_update_interval: std::time::Duration::from_secs(300),
        check_output_bytes_max: 4096,
        default_query_time: std::time::Duration::from_secs(300),
        max_query_time: std::time::Duration::from_secs(600),
        rpc_hold_timeout: std::time::Duration::from_secs(7),
        kv_value_bytes_max: 512 << 10,
        http_max_conns_per_client: 100,
        http_max_header_bytes: 1 << 20,
        rpc_handshake_timeout: std::time::Duration::from_secs(5),
        discovery_max_stale: std::time::Duration::ZERO,
        disable_http_unprintable_char_filter: false,
        ui: false,
        leave_drain_time: std::time::Duration::from_secs(5),
        reloadable: reloadable(),
    }
}

/// Nothing in the files.
pub(crate) fn reloadable() -> Reloadable {
    Reloadable {
        log_level: "info".into(),
        services: Vec::new(),
        checks: Vec::new(),
        node_meta: BTreeMap::new(),
        discard_check_output: false,
        dns: DnsSettings::default(),
        http_response_headers: BTreeMap::new(),
    }
}

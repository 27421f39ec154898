//! A state with short words for commands and reads.

use bytes::Bytes;
use model::command::{
    Command, DeregisterV1, EnvelopeV1, KvCommandV1, KvPutV1, Outcome, RegisterV1, RetryV1,
};
use model::row::{CheckV1, KvV1, NodeV1, ServiceV1, SessionBehavior, SessionV1, Status, WeightsV1};
use model::rpc::{Body, Op};
use model::{LogIndex, Name, NodeId, SessionId};

use crate::change::Changes;
use crate::{Answered, State, apply, query};

pub(super) const NS: &str = "default";

/// A state, the index of the last entry, and cluster time.
#[derive(Clone, Default)]
pub(super) struct Machine {
    pub(super) state: State,
    pub(super) index: u64,
    pub(super) now_ms: u64,
    pub(super) changes: Changes,
}

impl Machine {
    pub(super) fn at(index: u64) -> Self {
        Self { index, ..Self::default() }
    }

    /// Applies as the next entry; checks all invariants.
    pub(super) fn run(&mut self, command: Command) -> Outcome {
        self.run_retry(command, None)
    }

    pub(super) fn run_retry(&mut self, command: Command, retry: Option<RetryV1>) -> Outcome {
        self.index += 1;
        let envelope = envelope(command, retry, self.now_ms);
        let mut done = apply(&mut self.state, &[(LogIndex(self.index), envelope)]);
        let (outcome, changes) = done.pop().expect("one entry, one outcome");
        self.state.verify().expect("invariants hold");
        if let Outcome::Rejected(_) = outcome {
            assert_eq!(changes, [], "a rejected command changes nothing");
        }
        self.changes = changes;
        outcome
    }

    pub(super) fn kv(&mut self, command: KvCommandV1) -> bool {
        match self.run(Command::KvV1(command)) {
            Outcome::Bool(held) => held,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn set(&mut self, key: &str, value: &str) {
        assert!(self.kv(KvCommandV1::Set(put(key, value))));
    }

    pub(super) fn row(&self, key: &str) -> Option<KvV1> {
        self.state.kv(NS, key.as_bytes()).map(|row| KvV1::clone(&row))
    }

    /// Node with a passing `serfHealth`, and a session on it.
    pub(super) fn with_session(&mut self, id: u8, behavior: SessionBehavior) {
        self.register(node("n1", 1), vec![], vec![check("n1", "serfHealth", Status::Passing, "")]);
        let session = SessionV1 { behavior, ..session(id, "n1", &["serfHealth"]) };
        assert_eq!(self.run(Command::SessionCreateV1(session)), Outcome::Done);
    }

    pub(super) fn register(
        &mut self,
        node: NodeV1,
        services: Vec<ServiceV1>,
        checks: Vec<CheckV1>,
    ) -> Outcome {
        self.run(register(node, services, checks))
    }

    pub(super) fn deregister(&mut self, node: &str, service: Option<&str>, check: Option<&str>) {
        let gone = DeregisterV1 {
            node: node.into(),
            service_id: service.map(Name::from),
            check_id: check.map(Name::from),
        };
        assert_eq!(self.run(Command::DeregisterV1(gone)), Outcome::Done);
    }

    pub(super) fn ask(&self, op: &Op) -> Answered {
        query(&self.state, NS, op).expect("a read of tables")
    }

    pub(super) fn index_of(&self, op: &Op) -> u64 {
        self.ask(op).index.0
    }

    /// Names of the instances in an answer, as `node/id`.
    pub(super) fn instances(&self, op: &Op) -> Vec<String> {
        match self.ask(op).body {
            Body::Instances(found) => {
                found.iter().map(|i| format!("{}/{}", i.node.name, i.service.id)).collect()
            }
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn envelope(command: Command, retry: Option<RetryV1>, now_ms: u64) -> EnvelopeV1 {
    EnvelopeV1 {
        namespace: NS.into(),
        retry,
        actor: "".into(),
        reason: "".into(),
        cluster_time_ms: now_ms,
        wall_ms: 0,
        command,
    }
}

pub(super) fn register(node: NodeV1, services: Vec<ServiceV1>, checks: Vec<CheckV1>) -> Command {
    Command::RegisterV1(RegisterV1 { node, skip_node_update: false, services, checks })
}

pub(super) fn put(key: &str, value: &str) -> KvPutV1 {
    KvPutV1 {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        flags: 0,
    }
}

pub(super) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(super) fn sid(n: u8) -> SessionId {
    SessionId([n; 16])
}

/// A node; id 0: none.
pub(super) fn node(name: &str, id: u8) -> NodeV1 {
    NodeV1 {
        name: name.into(),
        id: (id != 0).then_some(NodeId([id; 16])),
        address: "10.0.0.1".into(),
        tagged_addresses: None,
        meta: None,
        locality: None,
        create_index: LogIndex::ZERO,
        modify_index: LogIndex::ZERO,
    }
}

pub(super) fn service(id: &str, name: &str, tags: &[&str]) -> ServiceV1 {
    ServiceV1 {
        node: "".into(),
        id: id.into(),
        name: name.into(),
        kind: "".into(),
        tags: tags.iter().map(|tag| Name::from(*tag)).collect(),
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

pub(super) fn proxy(id: &str, name: &str, target: &str) -> ServiceV1 {
    ServiceV1 {
        kind: "connect-proxy".into(),
        proxy_json: Some(format!("{{\"DestinationServiceName\":\"{target}\"}}").into()),
        ..service(id, name, &[])
    }
}

pub(super) fn check(node: &str, id: &str, status: Status, service_id: &str) -> CheckV1 {
    CheckV1 {
        node: node.into(),
        id: id.into(),
        name: id.into(),
        status,
        notes: "".into(),
        output: "".into(),
        service_id: service_id.into(),
        service_name: "ignored".into(),
        service_tags: vec!["ignored".into()],
        kind: "".into(),
        interval: "".into(),
        timeout: "".into(),
        exposed_port: 0,
        definition_json: None,
        create_index: LogIndex::ZERO,
        modify_index: LogIndex::ZERO,
    }
}

pub(super) fn session(id: u8, node: &str, checks: &[&str]) -> SessionV1 {
    SessionV1 {
        id: sid(id),
        name: "".into(),
        node: node.into(),
        lock_delay_ns: 15_000_000_000,
        behavior: SessionBehavior::Release,
        ttl: "".into(),
        ttl_ms: 0,
        node_checks: Some(checks.iter().map(|id| Name::from(*id)).collect()),
        service_checks: None,
        checks: vec![],
        create_index: LogIndex::ZERO,
        modify_index: LogIndex::ZERO,
    }
}

pub(super) fn get(key: &str) -> Op {
    Op::KvGet { key: bytes(key) }
}

pub(super) fn list(prefix: &str) -> Op {
    Op::KvList { prefix: bytes(prefix) }
}

pub(super) fn health(service: &str) -> Op {
    Op::HealthService {
        service: service.into(),
        tags: vec![],
        meta: Default::default(),
        connect: false,
    }
}

pub(super) fn connect(service: &str) -> Op {
    Op::HealthService {
        service: service.into(),
        tags: vec![],
        meta: Default::default(),
        connect: true,
    }
}

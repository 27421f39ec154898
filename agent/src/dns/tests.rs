//! The rules end to end: packets in, messages out, over rows made here and read back by
//! hickory-proto.

mod goldens;
mod packets;
mod sizes;
mod sockets;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, OpCode, Query as HickoryQuery};
use hickory_proto::rr::{Name as HickoryName, Record as HickoryRecord, RecordType};
use model::id::LogIndex;
use model::row::{CheckV1, NameMap, NodeV1, ServiceAddressV1, ServiceV1, Status, WeightsV1};
use model::rpc::{Body, Consistency, Instance, Meta, Op, Reply, RpcError};

use crate::config::DnsSettings;
use crate::view::{Answer, Question, ViewError};

use super::facts::Facts;
use super::query::{Screened, Transport, screen};
use super::render::{Scratch, Sending, render};
use super::settings::{Settings, Zone};
use super::{draft_of, write};

/// A catalog: what the servers would hold.
#[derive(Clone, Default)]
pub(super) struct Catalog {
    nodes: Vec<Arc<NodeV1>>,
    instances: Vec<Instance>,
    /// Every question fails with this.
    pub(super) down: Option<RpcError>,
}

pub(super) fn map<const N: usize>(pairs: [(&str, &str); N]) -> NameMap {
    pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}

fn node(name: &str, address: &str) -> NodeV1 {
    NodeV1 {
        name: name.into(),
        id: None,
        address: address.into(),
        tagged_addresses: None,
        meta: None,
        locality: None,
        create_index: LogIndex::ZERO,
        modify_index: LogIndex::ZERO,
    }
}

fn service(node: &str, id: &str, name: &str, port: u16) -> ServiceV1 {
    ServiceV1 {
        node: node.into(),
        id: id.into(),
        name: name.into(),
        kind: "".into(),
        tags: Vec::new(),
        address: "".into(),
        port,
        socket_path: "".into(),
        tagged_addresses: BTreeMap::new(),
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

fn check(service: &ServiceV1, status: Status) -> CheckV1 {
    CheckV1 {
        node: service.node.clone(),
        id: "check".into(),
        name: "".into(),
        status,
        notes: "".into(),
        output: "".into(),
        service_id: service.id.clone(),
        service_name: service.name.clone(),
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

impl Catalog {
    pub(super) fn node(mut self, name: &str, address: &str) -> Self {
        self.nodes.push(Arc::new(node(name, address)));
        self
    }

    /// Changes the node added last.
    pub(super) fn with_node(mut self, change: impl FnOnce(&mut NodeV1)) -> Self {
        change(Arc::make_mut(self.nodes.last_mut().expect("a node")));
        self
    }

    /// A service on the node added last.
    pub(super) fn service(mut self, name: &str, port: u16) -> Self {
        let node = self.nodes.last().expect("a node").clone();
        let id = format!("{name}-{}", self.instances.len());
        let service = Arc::new(service(&node.name, &id, name, port));
        self.instances.push(Instance { node, service, checks: Vec::new() });
        self
    }

    /// Changes the service added last.
    pub(super) fn with(mut self, change: impl FnOnce(&mut ServiceV1)) -> Self {
        let last = self.instances.last_mut().expect("a service");
        change(Arc::make_mut(&mut last.service));
        self
    }

    pub(super) fn tag(self, tag: &str) -> Self {
        self.with(|service| service.tags.push(tag.into()))
    }

    pub(super) fn at(self, address: &str) -> Self {
        self.with(|service| service.address = address.into())
    }

    /// A check of the service added last.
    pub(super) fn check(mut self, status: Status) -> Self {
        let last = self.instances.last_mut().expect("a service");
        last.checks.push(Arc::new(check(&last.service, status)));
        self
    }

    /// The answer of servers that hold this.
    pub(super) fn answer(&self, question: &Question) -> Result<Reply, RpcError> {
        if let Some(error) = &self.down {
            return Err(error.clone());
        }
        if !question.dc.is_empty() {
            return Err(RpcError::NoPathToDatacenter);
        }
        let body = match &question.op {
            Op::HealthService { service, connect: false, .. } => {
                let of_name = |i: &&Instance| i.service.name.eq_ignore_ascii_case(service);
                Body::Instances(self.instances.iter().filter(of_name).cloned().collect())
            }
            Op::HealthService { .. } => Body::Instances(Vec::new()),
            Op::AllInstances { .. } => Body::Instances(self.instances.clone()),
            Op::Nodes { .. } => Body::Nodes(self.nodes.clone()),
            Op::NodeServices { node } => {
                let found = self.nodes.iter().find(|have| {
                    let id = have.id.map(|id| id.to_string()).unwrap_or_default();
                    have.name.eq_ignore_ascii_case(node)
                        || node.len() > 1 && id.starts_with(&**node)
                });
                Body::Node(found.map(|node| (Arc::clone(node), Vec::new())))
            }
            op => panic!("not a question of DNS: {op:?}"),
        };
        let meta = Meta {
            index: LogIndex(7),
            known_leader: true,
            last_contact_ms: 0,
            consistency: Consistency::Stale,
        };
        Ok(Reply { meta, body })
    }
}

pub(super) fn zone() -> Zone {
    Zone { domain: "consul".into(), alt_domain: String::new(), datacenter: "dc1".into() }
}

/// A question as a resolver sends it.
pub(super) fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4_711;
    message.metadata.op_code = OpCode::Query;
    message.metadata.recursion_desired = true;
    let mut name = HickoryName::from_ascii(name).expect("a name");
    name.set_fqdn(true);
    message.add_query(HickoryQuery::query(name, kind));
    message
}

pub(super) fn with_edns(mut message: Message, size: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    message.set_edns(edns);
    message
}

/// All that one answer depends on.
pub(super) struct Asker {
    pub(super) catalog: Catalog,
    pub(super) zone: Zone,
    pub(super) dns: DnsSettings,
    pub(super) transport: Transport,
    pub(super) seed: u64,
}

impl Asker {
    pub(super) fn new(catalog: Catalog) -> Self {
        let (zone, dns) = (zone(), DnsSettings::default());
        Self { catalog, zone, dns, transport: Transport::Udp, seed: 0 }
    }

    /// The pure function: packet, settings and rows to bytes. `None`: not answered.
    pub(super) fn bytes(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let query = match screen(packet) {
            Screened::Silent => return None,
            Screened::Refused { id, flags, rcode } => {
                write::header_only(&mut out, id, flags, rcode);
                return Some(out);
            }
            Screened::Query(query) => query,
        };
        let settings = Settings::new(&self.zone, &self.dns).expect("good domains");
        let mut facts = Facts::default();
        let draft = loop {
            let draft = draft_of(&query, &settings, &mut facts, self.seed);
            let missing = facts.take_missing();
            if missing.is_empty() {
                break draft;
            }
            for question in missing {
                let reply = self.catalog.answer(&question);
                let fact = reply.map(|reply| Arc::new(Answer { reply })).map_err(ViewError::Rpc);
                facts.learn(question, fact);
            }
        };
        // In catalog order, so that the expectations can be written down.
        let mut sending =
            Sending { transport: self.transport, now_unix: 1_700_000_000, shuffle: &mut |_| {} };
        render(&draft, &query, &settings, &mut sending, &mut Scratch::default(), &mut out);
        Some(out)
    }

    pub(super) fn send(&self, question: &Message) -> Message {
        let packet = question.to_vec().expect("a question can be encoded");
        let bytes = self.bytes(&packet).expect("a question is answered");
        Message::from_vec(&bytes).expect("our answers can be read")
    }

    pub(super) fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.send(&question(name, kind))
    }
}

/// `owner ttl type data`, as the goldens write it.
pub(super) fn line(record: &HickoryRecord) -> String {
    let data = record.data.to_string();
    format!("{} {} {} {data}", record.name, record.ttl, record.record_type())
}

pub(super) fn lines(records: &[HickoryRecord]) -> Vec<String> {
    records.iter().map(line).collect()
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(super) fn tagged(address: &str, port: u16) -> ServiceAddressV1 {
    ServiceAddressV1 { address: address.into(), port }
}

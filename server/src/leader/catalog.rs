//! What gossip's membership means for the catalog (core; spec: agent §32, http-api-1 §7).
//!
//! Gossip is a hint about liveness, the catalog is the authority: a node that gossip knows nothing
//! of is given time, because after a start gossip knows nobody yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::command::{Command, DeregisterV1, RegisterV1};
use model::row::{CheckV1, NodeV1, ServiceV1, Status, WeightsV1};
use model::seam::{Member, MemberState, Members};
use model::{CONSUL_VERSION, LogIndex, Name, NodeId};
use state::State;
use tokio::time::Instant;

use super::NAMESPACE;

/// Id of the check that says what gossip thinks of a node.
pub(super) const SERF_HEALTH: &str = "serfHealth";
/// Time without any word from gossip after which a node counts as failed.
const UNKNOWN_CRITICAL_AFTER: Duration = Duration::from_secs(60);
/// Time without any word from gossip after which a node is deregistered.
const UNKNOWN_GONE_AFTER: Duration = Duration::from_secs(600);

/// Compares gossip with the catalog.
#[derive(Debug)]
pub(super) struct CatalogReconcile {
    us: NodeId,
    datacenter: String,
    /// Nodes of the catalog (lower case) that gossip does not know: since when.
    unknown: BTreeMap<String, Unknown>,
    /// Nodes (lower case) that gossip knew when we last looked.
    known: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy)]
struct Unknown {
    since: Instant,
    /// Gossip knew it under this leader: it has forgotten it on purpose.
    reaped: bool,
}

impl CatalogReconcile {
    pub(super) fn new(us: NodeId, datacenter: String) -> Self {
        Self { us, datacenter, unknown: BTreeMap::new(), known: BTreeSet::new() }
    }

    /// What to propose. Nothing, when the catalog says what gossip says.
    ///
    /// `voters` are Raft's. We lead, so a quorum of them hears us: when gossip holds fewer than
    /// that for alive, it is gossip that is cut off. Then nobody is called failed or gone on its
    /// word; who it does see is still taken in.
    pub(super) fn plan(
        &mut self,
        members: &Members,
        voters: &[NodeId],
        state: &State,
        now: Instant,
    ) -> Vec<Command> {
        let ours: Vec<&Member> = members
            .list
            .iter()
            .map(|member| &**member)
            .filter(|member| member.tag("dc") == self.datacenter)
            .collect();
        let blind = self.is_blind(&ours, voters);
        let trusted = |member: &&&Member| !blind || member.state != MemberState::Failed;
        let mut plan: Vec<Command> = ours
            .iter()
            .filter(trusted)
            .filter_map(|member| self.of_member(member, &ours, state))
            .collect();
        if blind {
            // Their time begins when gossip sees again.
            self.unknown.clear();
        } else {
            plan.extend(self.of_unknown(&ours, state, now));
        }
        plan
    }

    fn is_blind(&self, ours: &[&Member], voters: &[NodeId]) -> bool {
        let alive = |id: &NodeId| {
            let says = |member: &&Member| member.id == *id && member.state == MemberState::Alive;
            *id == self.us || ours.iter().any(says)
        };
        let seen = voters.iter().filter(|id| alive(id)).count();
        seen < voters.len() / 2 + usize::from(!voters.is_empty())
    }

    fn of_member(&self, member: &Member, all: &[&Member], state: &State) -> Option<Command> {
        let node = state.node(NAMESPACE, &member.name);
        match member.state {
            MemberState::Alive => alive(member, node.as_deref(), state),
            // It says itself when it has left.
            MemberState::Leaving => None,
            MemberState::Failed => {
                let node = node.filter(|node| is_of(node, member, state))?;
                critical(&node, state)
            }
            MemberState::Left => {
                let node = node.filter(|node| is_of(node, member, state))?;
                let replaced = all.iter().any(|other| {
                    other.state == MemberState::Alive
                        && other.name.eq_ignore_ascii_case(&member.name)
                });
                // A leader that leaves is deregistered by the next one.
                (!replaced && member.id != self.us).then(|| gone(&node.name))
            }
        }
    }

    /// Nodes with serfHealth of which gossip knows nothing.
    fn of_unknown(&mut self, ours: &[&Member], state: &State, now: Instant) -> Vec<Command> {
        let known: BTreeSet<String> =
            ours.iter().map(|member| member.name.to_ascii_lowercase()).collect();
        let before = std::mem::replace(&mut self.known, known);
        let mut unknown = BTreeMap::new();
        let mut plan = Vec::new();
        for node in state.nodes(NAMESPACE) {
            let key = node.name.to_ascii_lowercase();
            if self.known.contains(&key) || state.check(NAMESPACE, &key, SERF_HEALTH).is_none() {
                continue;
            }
            let fresh = Unknown { since: now, reaped: before.contains(&key) };
            let entry = self.unknown.get(&key).copied().unwrap_or(fresh);
            unknown.insert(key, entry);
            let age = now.saturating_duration_since(entry.since);
            if entry.reaped || age >= UNKNOWN_GONE_AFTER {
                plan.push(gone(&node.name));
            } else if age >= UNKNOWN_CRITICAL_AFTER {
                plan.extend(critical(&node, state));
            }
        }
        self.unknown = unknown;
        plan
    }
}

/// Whether this node of the catalog is the member's: gossip feeds it, and it is not another
/// machine that took the name.
fn is_of(node: &NodeV1, member: &Member, state: &State) -> bool {
    match node.id {
        Some(id) => id == member.id,
        None => state.check(NAMESPACE, &node.name, SERF_HEALTH).is_some(),
    }
}

fn alive(member: &Member, node: Option<&NodeV1>, state: &State) -> Option<Command> {
    let address: Name = member.address.ip().to_string().into();
    let service = consul_service(member);
    let healthy = state
        .check(NAMESPACE, &member.name, SERF_HEALTH)
        .is_some_and(|check| same_health(&check, Status::Passing));
    let served = service.as_ref().is_none_or(|wanted| {
        let found = state.service(NAMESPACE, &member.name, "consul");
        found.is_some_and(|found| same_service(wanted, &found))
    });
    let right = node.is_some_and(|node| node.id == Some(member.id) && node.address == address);
    if right && healthy && served {
        return None;
    }
    // What the agent itself has said about its node stays; it may be known by another name yet.
    let before = node
        .filter(|node| node.id.is_none_or(|id| id == member.id))
        .cloned()
        .or_else(|| state.node_by_id(NAMESPACE, member.id).map(|node| (*node).clone()));
    let (tagged_addresses, meta, locality) =
        before.map_or((None, None, None), |n| (n.tagged_addresses, n.meta, n.locality));
    let meta = meta.or_else(|| Some([("consul-version".into(), version(member))].into()));
    Some(Command::RegisterV1(RegisterV1 {
        node: NodeV1 {
            name: member.name.clone(),
            id: Some(member.id),
            address,
            tagged_addresses,
            meta,
            locality,
            create_index: LogIndex::ZERO,
            modify_index: LogIndex::ZERO,
        },
        skip_node_update: false,
        services: service.into_iter().collect(),
        checks: vec![health(&member.name, Status::Passing)],
    }))
}

fn critical(node: &NodeV1, state: &State) -> Option<Command> {
    let check = state.check(NAMESPACE, &node.name, SERF_HEALTH);
    if check.is_some_and(|check| same_health(&check, Status::Critical)) {
        return None;
    }
    Some(Command::RegisterV1(RegisterV1 {
        node: node.clone(),
        skip_node_update: true,
        services: Vec::new(),
        checks: vec![health(&node.name, Status::Critical)],
    }))
}

fn gone(node: &Name) -> Command {
    Command::DeregisterV1(DeregisterV1 { node: node.clone(), service_id: None, check_id: None })
}

fn health(node: &Name, status: Status) -> CheckV1 {
    CheckV1 {
        node: node.clone(),
        id: SERF_HEALTH.into(),
        name: "Serf Health Status".into(),
        status,
        notes: "".into(),
        output: match status {
            Status::Passing => "Agent alive and reachable".into(),
            Status::Warning | Status::Critical => "Agent not live or unreachable".into(),
        },
        service_id: "".into(),
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

fn same_health(found: &CheckV1, status: Status) -> bool {
    let wanted = health(&found.node, status);
    found.status == status && found.output == wanted.output && found.service_id.is_empty()
}

/// Service `consul` of a server.
fn consul_service(member: &Member) -> Option<ServiceV1> {
    let port = member.rpc_address()?.port();
    let tag = |key: &str, default: &str| -> Name {
        let value = member.tag(key);
        if value.is_empty() { default.into() } else { value.into() }
    };
    let voter = |key: &str| -> Name { (member.tags.contains_key(key)).to_string().into() };
    let meta = [
        ("grpc_port", tag("grpc_port", "0")),
        ("grpc_tls_port", tag("grpc_tls_port", "0")),
        ("non_voter", voter("nonvoter")),
        ("raft_version", tag("raft_vsn", "3")),
        ("read_replica", voter("read_replica")),
        ("serf_protocol_current", "2".into()),
        ("serf_protocol_max", "5".into()),
        ("serf_protocol_min", "1".into()),
        ("version", version(member)),
    ];
    Some(ServiceV1 {
        node: member.name.clone(),
        id: "consul".into(),
        name: "consul".into(),
        kind: "".into(),
        tags: Vec::new(),
        address: "".into(),
        port,
        socket_path: "".into(),
        tagged_addresses: BTreeMap::new(),
        meta: Some(meta.into_iter().map(|(key, value)| (key.into(), value)).collect()),
        weights: WeightsV1::default(),
        enable_tag_override: false,
        proxy_json: None,
        connect_native: false,
        locality: None,
        create_index: LogIndex::ZERO,
        modify_index: LogIndex::ZERO,
    })
}

fn same_service(wanted: &ServiceV1, found: &ServiceV1) -> bool {
    found.name == wanted.name
        && found.port == wanted.port
        && found.meta == wanted.meta
        && found.tags == wanted.tags
        && found.address == wanted.address
}

/// Release that a member runs, from its `build` tag `version:revision`.
fn version(member: &Member) -> Name {
    match member.tag("build").split(':').next() {
        None | Some("") => CONSUL_VERSION.into(),
        Some(version) => version.into(),
    }
}

#[cfg(test)]
mod tests;

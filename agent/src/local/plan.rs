//! Book against catalog: what differs, what to push, and what a push has settled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::Name;
use model::row::{CheckV1, NameMap, NodeV1, ServiceV1};
use model::rpc::{Op, Registration, RpcError};
use tokio::time::Instant;

use super::book::{Book, CheckEntry, Gone, ServiceEntry};

/// Service that the leader registers for each server.
const SERVER_SERVICE: &str = "consul";
/// Check that the leader keeps for each member.
const SERF_HEALTH: &str = "serfHealth";
/// Leads tagged addresses that servers add.
const SERVER_ADDRESS_PREFIX: &str = "consul-";

/// What the catalog holds of this node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Catalog {
    pub(crate) node: Option<Arc<NodeV1>>,
    pub(crate) services: Vec<Arc<ServiceV1>>,
    pub(crate) checks: Vec<Arc<CheckV1>>,
}

/// A thing of this node that is pushed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Node,
    GoneService(Name),
    GoneCheck(Name),
    Service(Name),
    Check(Name),
}

/// One operation, and what of the book it brings to the catalog, each with its version.
#[derive(Debug, Clone)]
pub(crate) struct Push {
    pub(crate) op: Op,
    pub(crate) token: String,
    pub(crate) covers: Vec<(Target, u64)>,
}

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The catalog holds it.
    Done,
    /// Not allowed: not tried again before the next full comparison.
    Refused,
    /// To be tried again.
    Failed,
}

impl Settled {
    /// What an answer means for the operation that it answers.
    pub(crate) fn of(op: &Op, result: &Result<(), RpcError>) -> Self {
        match result {
            Ok(()) => Settled::Done,
            Err(RpcError::PermissionDenied(_) | RpcError::AclNotFound) => Settled::Refused,
            // spec: Consul, anti-entropy: removing what is not there is success.
            Err(RpcError::NotFound(_)) if matches!(op, Op::Deregister { .. }) => Settled::Done,
            Err(RpcError::Rejected(why))
                if matches!(op, Op::Deregister { .. })
                    && why.to_string().starts_with("Unknown ") =>
            {
                Settled::Done
            }
            Err(_) => Settled::Failed,
        }
    }
}

impl Book {
    /// Marks what differs from the catalog, and takes over what the catalog decides: tags of
    /// services that allow it, and tagged addresses that servers add.
    pub(crate) fn compare(&mut self, catalog: &Catalog) {
        let same = catalog.node.as_deref().is_some_and(|node| same_node(&self.node, node));
        self.node_sync.done = same;
        self.compare_services(catalog);
        self.compare_checks(catalog);
    }

    fn compare_services(&mut self, catalog: &Catalog) {
        let mut missing: BTreeSet<Name> = self.services.keys().cloned().collect();
        for remote in &catalog.services {
            if self.rules.server && &*remote.id == SERVER_SERVICE {
                continue;
            }
            missing.remove(&remote.id);
            let version = self.version() + 1;
            let Some(entry) = self.services.get_mut(&remote.id) else {
                self.mark_gone(Target::GoneService(Arc::clone(&remote.id)));
                continue;
            };
            let before = Arc::clone(&entry.row);
            if entry.row.enable_tag_override && entry.row.tags != remote.tags {
                Arc::make_mut(&mut entry.row).tags = remote.tags.clone();
            }
            for (key, address) in &remote.tagged_addresses {
                if key.starts_with(SERVER_ADDRESS_PREFIX)
                    && entry.row.tagged_addresses.get(key) != Some(address)
                {
                    let row = Arc::make_mut(&mut entry.row);
                    row.tagged_addresses.insert(Arc::clone(key), address.clone());
                }
            }
            let changed = before != entry.row;
            entry.sync.done = same_service(&entry.row, remote);
            if changed {
                entry.sync.version = version;
                self.bump();
            }
        }
        for id in missing {
            if let Some(entry) = self.services.get_mut(&id) {
                entry.sync.done = false;
            }
        }
    }

    fn compare_checks(&mut self, catalog: &Catalog) {
        let mut missing: BTreeSet<Name> = self.checks.keys().cloned().collect();
        for remote in &catalog.checks {
            let of_server = self.rules.server
                && (&*remote.id == SERVER_SERVICE || &*remote.service_id == SERVER_SERVICE);
            if &*remote.id == SERF_HEALTH || of_server {
                continue;
            }
            missing.remove(&remote.id);
            let Some(entry) = self.checks.get_mut(&remote.id) else {
                // Deregistering its service removes it too.
                if !self.gone_services.contains_key(&remote.service_id) {
                    self.mark_gone(Target::GoneCheck(Arc::clone(&remote.id)));
                }
                continue;
            };
            let tags_are_theirs = self
                .services
                .get(&entry.row.service_id)
                .is_some_and(|service| service.row.enable_tag_override);
            entry.sync.done =
                same_check(&entry.row, remote, entry.deferred.is_some(), tags_are_theirs);
        }
        for id in missing {
            if let Some(entry) = self.checks.get_mut(&id) {
                entry.sync.done = false;
            }
        }
    }

    fn mark_gone(&mut self, target: Target) {
        let version = self.bump();
        let gone = Gone { token: String::new(), version };
        match target {
            Target::GoneService(id) => _ = self.gone_services.entry(id).or_insert(gone),
            Target::GoneCheck(id) => _ = self.gone_checks.entry(id).or_insert(gone),
            Target::Node | Target::Service(_) | Target::Check(_) => {}
        }
    }

    /// What to push next: at most `limit` operations that use the same token, without those in
    /// `skip`. The node's own record goes first and alone: the rest hangs on it.
    pub(crate) fn pending(&self, skip: &BTreeSet<Target>, limit: usize) -> Vec<Push> {
        if !self.node_sync.done {
            if skip.contains(&Target::Node) {
                return Vec::new();
            }
            let covers = vec![(Target::Node, self.node_sync.version)];
            let op = self.registration(false, Vec::new(), Vec::new());
            return vec![Push { op, token: String::new(), covers }];
        }
        let mut pushes = self.pending_removals(skip);
        pushes.extend(self.pending_registrations(skip));
        if let Some(token) = pushes.first().map(|push| push.token.clone()) {
            pushes.retain(|push| push.token == token);
        }
        pushes.truncate(limit);
        pushes
    }

    fn pending_removals(&self, skip: &BTreeSet<Target>) -> Vec<Push> {
        let node = || Arc::clone(&self.node.name);
        let services = self.gone_services.iter().map(|(id, gone)| {
            let op =
                Op::Deregister { node: node(), service_id: Some(Arc::clone(id)), check_id: None };
            (Target::GoneService(Arc::clone(id)), op, gone)
        });
        let checks = self.gone_checks.iter().map(|(id, gone)| {
            let op =
                Op::Deregister { node: node(), service_id: None, check_id: Some(Arc::clone(id)) };
            (Target::GoneCheck(Arc::clone(id)), op, gone)
        });
        services
            .chain(checks)
            .filter(|(target, _, _)| !skip.contains(target))
            .map(|(target, op, gone)| Push {
                op,
                token: gone.token.clone(),
                covers: vec![(target, gone.version)],
            })
            .collect()
    }

    fn pending_registrations(&self, skip: &BTreeSet<Target>) -> Vec<Push> {
        let mut checks: BTreeMap<&str, Vec<(&Name, &CheckEntry)>> = BTreeMap::new();
        for (id, entry) in &self.checks {
            if !entry.sync.done && !skip.contains(&Target::Check(Arc::clone(id))) {
                checks.entry(&entry.row.service_id).or_default().push((id, entry));
            }
        }
        let mut pushes = Vec::new();
        for (id, service) in &self.services {
            let own = checks.remove(&**id).unwrap_or_default();
            let target = Target::Service(Arc::clone(id));
            if skip.contains(&target) {
                // Its checks need it.
                continue;
            }
            let (with, alone): (Vec<_>, Vec<_>) =
                own.into_iter().partition(|(_, check)| check.definition.token == service.token);
            if !service.sync.done || !with.is_empty() {
                let mut covers = vec![(target, service.sync.version)];
                covers.extend(with.iter().map(|check| covered(*check)));
                let rows = with.iter().map(|(_, check)| check.row.as_ref().clone()).collect();
                let op = self.registration(true, vec![service.row.as_ref().clone()], rows);
                pushes.push(Push { op, token: service.token.clone(), covers });
            }
            let alone = alone.into_iter().map(|check| (Some(service), check));
            pushes.extend(alone.map(|(service, check)| self.push_alone(service, check)));
        }
        let of_node = checks.remove("").unwrap_or_default();
        pushes.extend(of_node.into_iter().map(|check| self.push_alone(None, check)));
        pushes
    }

    /// A check that goes by itself, with the service that it needs.
    fn push_alone(&self, service: Option<&ServiceEntry>, check: (&Name, &CheckEntry)) -> Push {
        let services = service.map(|service| service.row.as_ref().clone()).into_iter().collect();
        let rows = vec![check.1.row.as_ref().clone()];
        Push {
            op: self.registration(true, services, rows),
            token: check.1.definition.token.clone(),
            covers: vec![covered(check)],
        }
    }

    fn registration(
        &self,
        skip_node_update: bool,
        services: Vec<ServiceV1>,
        checks: Vec<CheckV1>,
    ) -> Op {
        let node = self.node.as_ref().clone();
        Op::Register(Box::new(Registration { node, skip_node_update, services, checks }))
    }

    /// Notes what became of a push. What changed since it was made stays to be pushed.
    pub(crate) fn settle(&mut self, push: &Push, settled: Settled) {
        if settled == Settled::Failed {
            return;
        }
        for (target, version) in &push.covers {
            let sync = match target {
                Target::Node => Some(&mut self.node_sync),
                Target::Service(id) => self.services.get_mut(id).map(|entry| &mut entry.sync),
                Target::Check(id) => self.checks.get_mut(id).map(|entry| {
                    if entry.sync.version == *version {
                        entry.deferred = None;
                    }
                    &mut entry.sync
                }),
                Target::GoneService(id) => {
                    settle_gone(&mut self.gone_services, id, *version);
                    None
                }
                Target::GoneCheck(id) => {
                    settle_gone(&mut self.gone_checks, id, *version);
                    None
                }
            };
            if let Some(sync) = sync.filter(|sync| sync.version == *version) {
                sync.done = true;
            }
        }
    }

    /// What of a check's output is deferred now; for the driver's timer.
    pub(crate) fn next_deferred(&self) -> Option<Instant> {
        self.checks.values().filter_map(|entry| entry.deferred).min()
    }
}

fn covered((id, check): (&Name, &CheckEntry)) -> (Target, u64) {
    (Target::Check(Arc::clone(id)), check.sync.version)
}

fn settle_gone(gone: &mut BTreeMap<Name, Gone>, id: &Name, version: u64) {
    if gone.get(id).is_some_and(|entry| entry.version == version) {
        gone.remove(id);
    }
}

fn same_node(local: &NodeV1, remote: &NodeV1) -> bool {
    local.id == remote.id
        && local.name.eq_ignore_ascii_case(&remote.name)
        && local.address == remote.address
        && local.locality == remote.locality
        && same_map(local.tagged_addresses.as_ref(), remote.tagged_addresses.as_ref())
        && same_map(local.meta.as_ref(), remote.meta.as_ref())
}

/// An absent map and an empty one are the same.
fn same_map(left: Option<&NameMap>, right: Option<&NameMap>) -> bool {
    left.filter(|map| !map.is_empty()) == right.filter(|map| !map.is_empty())
}

fn same_service(local: &ServiceV1, remote: &ServiceV1) -> bool {
    local.name == remote.name
        && local.kind == remote.kind
        && local.tags == remote.tags
        && local.address == remote.address
        && local.port == remote.port
        && local.socket_path == remote.socket_path
        && local.tagged_addresses == remote.tagged_addresses
        && same_map(local.meta.as_ref(), remote.meta.as_ref())
        && local.weights == remote.weights
        && local.enable_tag_override == remote.enable_tag_override
        && local.proxy_json == remote.proxy_json
        && local.connect_native == remote.connect_native
        && local.locality == remote.locality
}

/// Equality of checks leaves out what only describes the probe: type, interval, timeout.
fn same_check(local: &CheckV1, remote: &CheckV1, ignore_output: bool, ignore_tags: bool) -> bool {
    local.node.eq_ignore_ascii_case(&remote.node)
        && local.name == remote.name
        && local.status == remote.status
        && local.notes == remote.notes
        && (ignore_output || local.output == remote.output)
        && local.service_id == remote.service_id
        && local.service_name == remote.service_name
        && (ignore_tags || local.service_tags == remote.service_tags)
        && local.definition_json == remote.definition_json
}

#[cfg(test)]
mod tests;

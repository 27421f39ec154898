//! Services and checks of this node, and which of them the catalog is known to hold.
//!
//! Invariant: a check with a service id belongs to a service of this book, and its row carries
//! that service's name and tags.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model::Name;
use model::row::{CheckV1, NodeV1, ServiceV1, Status};
use tokio::time::Instant;

use super::LocalError;
use super::definition::{CheckDefinition, Probe, ServiceDefinition};
use crate::checks::TtlCheck;

/// Services that one agent takes: far above any real node, low enough to bound memory.
pub(crate) const SERVICES_MAX: usize = 16_384;
/// Checks that one agent takes.
pub(crate) const CHECKS_MAX: usize = 65_536;

/// Check of a node in maintenance mode.
pub(crate) const NODE_MAINTENANCE: &str = "_node_maintenance";
/// Leads the check id of a service in maintenance mode.
pub(crate) const SERVICE_MAINTENANCE: &str = "_service_maintenance:";

/// Where a definition comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A configuration file: in memory only, wins over a stored one at start and reload.
    File,
    /// A client over HTTP: stored before the answer.
    Api,
}

/// How far the catalog is known to hold an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sync {
    /// The catalog holds it, or has refused it until the next full comparison.
    pub(crate) done: bool,
    /// Counts the changes of the whole book; the entry's is that of its last change.
    pub(crate) version: u64,
}

/// A service of this node.
#[derive(Debug, Clone)]
pub(crate) struct ServiceEntry {
    pub(crate) row: Arc<ServiceV1>,
    pub(crate) token: String,
    pub(crate) source: Source,
    pub(crate) sync: Sync,
}

/// A check of this node.
#[derive(Debug, Clone)]
pub(crate) struct CheckEntry {
    pub(crate) definition: Arc<CheckDefinition>,
    /// The definition's row with the present status and output.
    pub(crate) row: Arc<CheckV1>,
    pub(crate) source: Source,
    /// Changes with each registration; a result of an older one is void.
    pub(crate) generation: u64,
    pub(crate) ttl: Option<TtlCheck>,
    /// Since when it has been critical without a break.
    pub(crate) critical_since: Option<Instant>,
    pub(crate) sync: Sync,
    /// Its output alone changed; pushed at this time unless something else comes first.
    pub(crate) deferred: Option<Instant>,
}

/// Something removed here that the catalog may still hold.
#[derive(Debug, Clone)]
pub(crate) struct Gone {
    pub(crate) token: String,
    pub(crate) version: u64,
}

/// What must be written to, or removed from, the disk.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    PutService(Box<ServiceDefinition>),
    DropService(Name),
    PutCheck(Arc<CheckDefinition>),
    DropCheck(Name),
}

/// What the checks' driver must know of a check.
#[derive(Debug, Clone)]
pub(crate) struct CheckJob {
    pub(crate) generation: u64,
    pub(crate) definition: Arc<CheckDefinition>,
    /// When a check that waits to be told runs out.
    pub(crate) deadline: Option<Instant>,
}

/// Settings that decide what the book does.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// This process also runs a server: the leader owns service `consul`.
    pub(crate) server: bool,
    pub(crate) check_update_interval: Duration,
    pub(crate) output_bytes_max: usize,
    pub(crate) discard_output: bool,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Book {
    pub(crate) rules: Rules,
    pub(crate) node: Arc<NodeV1>,
    pub(crate) node_sync: Sync,
    pub(crate) services: BTreeMap<Name, ServiceEntry>,
    pub(crate) checks: BTreeMap<Name, CheckEntry>,
    pub(crate) gone_services: BTreeMap<Name, Gone>,
    pub(crate) gone_checks: BTreeMap<Name, Gone>,
    /// Checks registered or removed since their driver last asked.
    touched: BTreeSet<Name>,
    version: u64,
}

impl Book {
    pub(crate) fn new(node: NodeV1, rules: Rules) -> Self {
        Self {
            rules,
            node: Arc::new(node),
            node_sync: Sync { done: false, version: 0 },
            services: BTreeMap::new(),
            checks: BTreeMap::new(),
            gone_services: BTreeMap::new(),
            gone_checks: BTreeMap::new(),
            touched: BTreeSet::new(),
            version: 0,
        }
    }

    /// Counts every change.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn bump(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn dirty(&mut self) -> Sync {
        Sync { done: false, version: self.bump() }
    }

    /// Replaces the node's own record; a changed one is pushed.
    pub(crate) fn set_node(&mut self, node: NodeV1) {
        if *self.node != node {
            self.node = Arc::new(node);
            self.node_sync = self.dirty();
        }
    }

    /// Registers a service and its checks. Checks that exist keep status and output; checks of an
    /// earlier registration stay unless `replace_checks`.
    pub(crate) fn add_service(
        &mut self,
        mut definition: ServiceDefinition,
        source: Source,
        replace_checks: bool,
        now: Instant,
    ) -> Result<Vec<Edit>, LocalError> {
        let id = Arc::clone(&definition.service.id);
        if !self.services.contains_key(&id) && self.services.len() >= SERVICES_MAX {
            return Err(LocalError::Full { what: "services", limit: SERVICES_MAX });
        }
        let new = definition.checks.iter().filter(|c| !self.checks.contains_key(&c.check.id));
        if self.checks.len() + new.count() > CHECKS_MAX {
            return Err(LocalError::Full { what: "checks", limit: CHECKS_MAX });
        }
        let mut edits = Vec::new();
        let checks = std::mem::take(&mut definition.checks);
        if replace_checks {
            let keep: BTreeSet<&Name> = checks.iter().map(|check| &check.check.id).collect();
            let drop: Vec<Name> = self
                .checks_of(&id)
                .filter(|(other, entry)| {
                    !keep.contains(other) && entry.definition.probe != Probe::Maintenance
                })
                .map(|(other, _)| Arc::clone(other))
                .collect();
            for check in drop {
                edits.extend(self.forget_check(&check));
            }
        }
        definition.service.node = Arc::clone(&self.node.name);
        let row = Arc::new(definition.service.clone());
        let sync = match self.services.get(&id) {
            Some(old) if old.row == row && old.token == definition.token => old.sync,
            _ => self.dirty(),
        };
        self.gone_services.remove(&id);
        let was = self.services.get(&id).map(|old| old.source);
        let token = definition.token.clone();
        self.services.insert(Arc::clone(&id), ServiceEntry { row, token, source, sync });
        match (source, was) {
            (Source::Api, _) => edits.push(Edit::PutService(Box::new(definition))),
            (Source::File, Some(Source::Api)) => edits.push(Edit::DropService(Arc::clone(&id))),
            (Source::File, _) => {}
        }
        for check in checks {
            edits.extend(self.put_check(check, source, now));
        }
        self.refresh_checks(&id);
        Ok(edits)
    }

    /// Removes a service and its checks.
    pub(crate) fn remove_service(&mut self, id: &str) -> Result<Vec<Edit>, LocalError> {
        let Some((id, entry)) = self.services.remove_entry(id) else {
            return Err(LocalError::UnknownService(id.to_owned()));
        };
        let checks: Vec<Name> = self.checks_of(&id).map(|(id, _)| Arc::clone(id)).collect();
        let mut edits: Vec<Edit> =
            checks.iter().filter_map(|check| self.forget_check(check)).collect();
        // Deregistering the service removes its checks from the catalog too.
        for check in &checks {
            self.gone_checks.remove(check);
        }
        let version = self.bump();
        self.gone_services.insert(Arc::clone(&id), Gone { token: entry.token, version });
        edits.push(Edit::DropService(id));
        Ok(edits)
    }

    /// Registers a check that stands alone or names a service of this node.
    pub(crate) fn add_check(
        &mut self,
        definition: CheckDefinition,
        source: Source,
        now: Instant,
    ) -> Result<Vec<Edit>, LocalError> {
        let service = &definition.check.service_id;
        if !service.is_empty() && !self.services.contains_key(service) {
            return Err(LocalError::MissingService(service.to_string()));
        }
        if !self.checks.contains_key(&definition.check.id) && self.checks.len() >= CHECKS_MAX {
            return Err(LocalError::Full { what: "checks", limit: CHECKS_MAX });
        }
        Ok(self.put_check(definition, source, now).into_iter().collect())
    }

    /// Removes a check; the service that owns it stays.
    pub(crate) fn remove_check(&mut self, id: &str) -> Result<Vec<Edit>, LocalError> {
        match self.forget_check(id) {
            Some(edit) => Ok(vec![edit]),
            None => Err(LocalError::UnknownCheck(id.to_owned())),
        }
    }

    /// Takes a check's result. A result of an earlier registration is void. Whether anything
    /// changed.
    pub(crate) fn set_result(
        &mut self,
        id: &str,
        generation: u64,
        status: Status,
        output: &str,
        now: Instant,
        draw: f64,
    ) -> bool {
        match self.checks.get(id) {
            Some(entry) if entry.generation == generation => {
                self.set_status(id, status, output, now, draw)
            }
            _ => false,
        }
    }

    /// Takes the word of a TTL check's client. Whether its status or output changed.
    pub(crate) fn ttl_heartbeat(
        &mut self,
        id: &str,
        status: Status,
        output: &str,
        now: Instant,
        draw: f64,
    ) -> Result<bool, LocalError> {
        let Some(entry) = self.checks.get_mut(id) else {
            return Err(LocalError::UnknownCheck(id.to_owned()));
        };
        let Some(ttl) = &mut entry.ttl else {
            return Err(LocalError::NotTtl(id.to_owned()));
        };
        ttl.on_heartbeat(now);
        let limit = entry.definition.output_limit(self.rules.output_bytes_max);
        let output = crate::checks::output::cut_ttl(output, limit);
        Ok(self.set_status(id, status, &output, now, draw))
    }

    /// Looks whether a TTL check has run out. The time to look again; `None` when this
    /// registration is gone.
    pub(crate) fn ttl_tick(
        &mut self,
        id: &str,
        generation: u64,
        now: Instant,
        draw: f64,
    ) -> Option<Instant> {
        let entry = self.checks.get_mut(id).filter(|entry| entry.generation == generation)?;
        let ttl = entry.ttl.as_mut()?;
        let expired = ttl.on_tick(now);
        let next = ttl.next_deadline();
        if expired {
            let output = crate::checks::ttl_expired_text(&entry.row.output);
            self.set_status(id, Status::Critical, &output, now, draw);
        }
        Some(next)
    }

    /// Restores what a TTL check last said, with the time that was left to it.
    pub(crate) fn restore_ttl(
        &mut self,
        id: &str,
        status: Status,
        output: &str,
        left: Duration,
        now: Instant,
    ) {
        if let Some(entry) = self.checks.get_mut(id)
            && let Some(ttl) = &mut entry.ttl
        {
            ttl.restore(now, left);
            self.set_status(id, status, output, now, 0.0);
        }
    }

    /// Services with a check that has been critical for longer than it may.
    pub(crate) fn to_reap(&self, now: Instant) -> Vec<(Name, Name)> {
        let mut found: Vec<(Name, Name)> = Vec::new();
        for (id, entry) in &self.checks {
            let limit = entry.definition.deregister_critical_after;
            let over = entry.critical_since.is_some_and(|since| now - since > limit);
            let service = &entry.row.service_id;
            if !limit.is_zero() && over && !service.is_empty() {
                found.push((Arc::clone(service), Arc::clone(id)));
            }
        }
        found.sort_unstable();
        found.dedup_by(|a, b| a.0 == b.0);
        found
    }

    /// Checks registered or removed since the last call, with what to do for those that are there.
    pub(crate) fn take_touched(&mut self) -> Vec<(Name, Option<CheckJob>)> {
        std::mem::take(&mut self.touched)
            .into_iter()
            .map(|id| {
                let job = self.checks.get(&id).map(|entry| CheckJob {
                    generation: entry.generation,
                    definition: Arc::clone(&entry.definition),
                    deadline: entry.ttl.as_ref().map(TtlCheck::next_deadline),
                });
                (id, job)
            })
            .collect()
    }

    /// Deferred outputs whose time has come are pushed; the earliest that is left.
    pub(crate) fn due_deferred(&mut self, now: Instant) -> Option<Instant> {
        let mut next = None;
        let mut version = self.version;
        for entry in self.checks.values_mut() {
            match entry.deferred {
                Some(due) if due <= now => {
                    entry.deferred = None;
                    version += 1;
                    entry.sync = Sync { done: false, version };
                }
                Some(due) => next = Some(next.map_or(due, |next: Instant| next.min(due))),
                None => {}
            }
        }
        self.version = version;
        next
    }

    fn checks_of<'a>(
        &'a self,
        service: &'a str,
    ) -> impl Iterator<Item = (&'a Name, &'a CheckEntry)> + 'a {
        self.checks.iter().filter(move |(_, entry)| &*entry.row.service_id == service)
    }

    fn forget_check(&mut self, id: &str) -> Option<Edit> {
        let (id, entry) = self.checks.remove_entry(id)?;
        let version = self.bump();
        let token = entry.definition.token.clone();
        self.gone_checks.insert(Arc::clone(&id), Gone { token, version });
        self.touched.insert(Arc::clone(&id));
        Some(Edit::DropCheck(id))
    }

    fn put_check(
        &mut self,
        mut definition: CheckDefinition,
        source: Source,
        now: Instant,
    ) -> Option<Edit> {
        let id = Arc::clone(&definition.check.id);
        definition.check.node = Arc::clone(&self.node.name);
        let mut row = definition.check.clone();
        if let Some(service) = self.services.get(&row.service_id) {
            row.service_name = Arc::clone(&service.row.name);
            row.service_tags = service.row.tags.clone();
        }
        let old = self.checks.get(&id).cloned();
        if let Some(old) = &old {
            row.status = old.row.status;
            row.output = Arc::clone(&old.row.output);
        }
        let critical_since = match row.status {
            Status::Critical => old.as_ref().and_then(|old| old.critical_since).or(Some(now)),
            _ => None,
        };
        let row = Arc::new(row);
        let (sync, deferred) = match &old {
            Some(old) if old.row == row && old.definition.token == definition.token => {
                (old.sync, old.deferred)
            }
            _ => (self.dirty(), None),
        };
        let ttl = match definition.probe {
            Probe::Ttl(ttl) => Some(TtlCheck::new(ttl, now)),
            _ => None,
        };
        let definition = Arc::new(definition);
        let edit = match (source, old.map(|old| old.source)) {
            (Source::Api, _) => Some(Edit::PutCheck(Arc::clone(&definition))),
            (Source::File, Some(Source::Api)) => Some(Edit::DropCheck(Arc::clone(&id))),
            (Source::File, _) => None,
        };
        let generation = self.bump();
        let entry =
            CheckEntry { definition, row, source, generation, ttl, critical_since, sync, deferred };
        self.gone_checks.remove(&id);
        self.touched.insert(Arc::clone(&id));
        self.checks.insert(id, entry);
        edit
    }

    fn set_status(
        &mut self,
        id: &str,
        status: Status,
        output: &str,
        now: Instant,
        draw: f64,
    ) -> bool {
        let output = if self.rules.discard_output { "" } else { output };
        let interval = self.rules.check_update_interval;
        let version = self.version + 1;
        let Some(entry) = self.checks.get_mut(id) else { return false };
        let (same_status, same_output) = (entry.row.status == status, &*entry.row.output == output);
        if same_status && same_output {
            return false;
        }
        let row = Arc::make_mut(&mut entry.row);
        row.status = status;
        if !same_output {
            row.output = output.into();
        }
        if !same_status {
            entry.critical_since = (status == Status::Critical).then_some(now);
        }
        if !same_status || interval.is_zero() {
            entry.sync = Sync { done: false, version };
            entry.deferred = None;
        } else {
            // A pending push is not put off again; one that is not in sync goes anyway.
            entry.sync.version = version;
            if entry.sync.done && entry.deferred.is_none() {
                entry.deferred = Some(now + interval / 2 + interval.mul_f64(draw));
            }
        }
        self.version = version;
        true
    }

    /// Gives a service's checks its name and tags.
    fn refresh_checks(&mut self, service: &str) {
        let Some(owner) = self.services.get(service).map(|entry| Arc::clone(&entry.row)) else {
            return;
        };
        let mut version = self.version;
        for entry in self.checks.values_mut().filter(|e| &*e.row.service_id == service) {
            if entry.row.service_name != owner.name || entry.row.service_tags != owner.tags {
                let row = Arc::make_mut(&mut entry.row);
                row.service_name = Arc::clone(&owner.name);
                row.service_tags = owner.tags.clone();
                version += 1;
                entry.sync = Sync { done: false, version };
            }
        }
        self.version = version;
    }
}

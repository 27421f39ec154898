//! The door of this room: changes of this node's services and checks, durable before they are
//! answered, pushed at once.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::Name;
use model::row::{CheckV1, NodeV1, ServiceV1, Status};
use model::seam::{Backend, Cluster};
use rt::{Clock, Rng, Tasks};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::LocalError;
use super::book::{Book, CheckJob, Edit, NODE_MAINTENANCE, Rules, SERVICE_MAINTENANCE, Source};
use super::definition::{CheckDefinition, Probe, ServiceDefinition, maintenance_check};
use super::store::{self, Loaded, Store, StoreError, TtlRecord};
use super::sync::Syncer;
use crate::config::{Config, Reloadable};

/// Clients that may wait for one push; whoever comes then is not kept waiting.
const WAITING_MAX: usize = 1_024;

/// This node's services and checks. The agent is the authority for its node; the catalog is a copy.
#[derive(Debug)]
pub struct Local {
    book: Mutex<Book>,
    store: Option<Store>,
    changed: watch::Sender<u64>,
    /// Number of [`Paused`] guards.
    pub(super) paused: watch::Sender<usize>,
    pub(super) push_wanted: Notify,
    pub(super) full_wanted: Notify,
    checks_touched: Notify,
    waiting: mpsc::Sender<oneshot::Sender<()>>,
    clock: Clock,
    rng: Rng,
    hold: Duration,
    enable_script_checks: bool,
    enable_local_script_checks: bool,
    template: NodeTemplate,
}

/// Syncing rests while this is held; the last one's end starts a full comparison.
#[derive(Debug)]
pub struct Paused(Arc<Local>);

impl Drop for Paused {
    fn drop(&mut self) {
        self.0.paused.send_modify(|count| *count = count.saturating_sub(1));
        self.0.full_wanted.notify_one();
    }
}

/// Reads what is on the disk and in the files, then starts the checks and anti-entropy.
pub async fn start(
    config: &Config,
    backend: Arc<dyn Backend>,
    cluster: Arc<dyn Cluster>,
    clock: Clock,
    rng: Rng,
    tasks: &Tasks,
) -> Result<Arc<Local>, LocalError> {
    let (store, loaded) = match &config.data_dir {
        None => (None, Loaded::default()),
        Some(folder) => {
            let (open, loaded) = store::open(folder.join("local.redb")).await?;
            (Some(open.start(tasks)), loaded)
        }
    };
    let (waiting, waiters) = mpsc::channel(WAITING_MAX);
    let template = NodeTemplate::of(config);
    let rules = Rules {
        server: config.server,
        check_update_interval: config.check_update_interval,
        output_bytes_max: config.check_output_bytes_max,
        discard_output: config.reloadable.discard_check_output,
    };
    let local = Arc::new(Local {
        book: Mutex::new(Book::new(template.row(&config.reloadable), rules)),
        store,
        changed: watch::Sender::new(0),
        paused: watch::Sender::new(0),
        push_wanted: Notify::new(),
        full_wanted: Notify::new(),
        checks_touched: Notify::new(),
        waiting,
        clock: clock.clone(),
        rng: rng.clone(),
        hold: config.rpc_hold_timeout,
        enable_script_checks: config.enable_script_checks,
        enable_local_script_checks: config.enable_local_script_checks,
        template,
    });
    local.fill(&config.reloadable, loaded).await?;
    tasks.spawn_until_stop("checks", crate::checks::run(Arc::clone(&local), clock, rng));
    let syncer = Syncer::new(Arc::clone(&local), backend, cluster, waiters, config);
    tasks.spawn_until_stop("anti-entropy", syncer.run());
    Ok(local)
}

impl Local {
    /// The services of this node, by id.
    pub fn services(&self) -> Vec<Arc<ServiceV1>> {
        self.book().services.values().map(|entry| Arc::clone(&entry.row)).collect()
    }

    /// One service.
    pub fn service(&self, id: &str) -> Option<Arc<ServiceV1>> {
        self.book().services.get(id).map(|entry| Arc::clone(&entry.row))
    }

    /// The checks of this node and its services, by id.
    pub fn checks(&self) -> Vec<Arc<CheckV1>> {
        self.book().checks.values().map(|entry| Arc::clone(&entry.row)).collect()
    }

    /// One check.
    pub fn check(&self, id: &str) -> Option<Arc<CheckV1>> {
        self.book().checks.get(id).map(|entry| Arc::clone(&entry.row))
    }

    /// The record of this node as it is pushed.
    pub fn node(&self) -> Arc<NodeV1> {
        Arc::clone(&self.book().node)
    }

    /// Checks that probe, and checks that wait to be told.
    pub fn check_kinds(&self) -> (usize, usize) {
        let book = self.book();
        let waiting = book.checks.values().filter(|entry| entry.ttl.is_some()).count();
        let other = book
            .checks
            .values()
            .filter(|entry| entry.definition.probe == Probe::Maintenance)
            .count();
        (book.checks.len() - waiting - other, waiting)
    }

    /// A number that grows with every change; the receiver wakes at each.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Registers a service and its checks.
    pub async fn add_service(
        &self,
        definition: ServiceDefinition,
        source: Source,
        replace_existing_checks: bool,
    ) -> Result<(), LocalError> {
        for check in &definition.checks {
            self.permit(check, source)?;
        }
        let now = self.clock.now();
        self.edit(|book| book.add_service(definition, source, replace_existing_checks, now)).await
    }

    /// Removes a service and its checks.
    pub async fn remove_service(&self, id: &str) -> Result<(), LocalError> {
        self.edit(|book| book.remove_service(id)).await
    }

    /// Registers a check.
    pub async fn add_check(
        &self,
        definition: CheckDefinition,
        source: Source,
    ) -> Result<(), LocalError> {
        let service = &definition.check.service_id;
        if !service.is_empty() && self.service(service).is_none() {
            return Err(LocalError::MissingService(service.to_string()));
        }
        self.permit(&definition, source)?;
        let now = self.clock.now();
        self.edit(|book| book.add_check(definition, source, now)).await
    }

    /// Removes a check.
    pub async fn remove_check(&self, id: &str) -> Result<(), LocalError> {
        self.edit(|book| book.remove_check(id)).await
    }

    /// Takes the word of a TTL check's client and starts its timer again.
    pub async fn ttl_update(
        &self,
        id: &str,
        status: Status,
        output: &str,
    ) -> Result<(), LocalError> {
        // Before the lock: a change of status is durable before the answer.
        let place = match &self.store {
            None => None,
            Some(store) => Some(store.place().await?),
        };
        let (now, draw) = (self.clock.now(), self.rng.unit());
        let done = {
            let mut book = self.book();
            let before = book.checks.get(id).map(|entry| entry.row.status);
            let changed = book.ttl_heartbeat(id, status, output, now, draw)?;
            if changed {
                self.announce(&book);
            }
            self.note_heartbeat(&book, id);
            match place {
                Some(place) if before != Some(status) => Some(place.send(Vec::new())),
                _ => None,
            }
        };
        match done {
            None => Ok(()),
            Some(done) => Ok(done.await.unwrap_or(Err(StoreError::Stopped))?),
        }
    }

    /// Puts the node (`service`: `None`) or one service into maintenance mode, or with no reason
    /// takes it out. An empty reason is replaced by Consul's. Doing it twice keeps the first reason.
    pub async fn set_maintenance(
        &self,
        service: Option<&str>,
        reason: Option<&str>,
    ) -> Result<(), LocalError> {
        if let Some(service) = service
            && self.service(service).is_none()
        {
            return Err(LocalError::UnknownService(service.to_owned()));
        }
        let id = match service {
            None => NODE_MAINTENANCE.to_owned(),
            Some(service) => format!("{SERVICE_MAINTENANCE}{service}"),
        };
        let now = self.clock.now();
        self.edit(|book| match reason {
            Some(_) if book.checks.contains_key(id.as_str()) => Ok(Vec::new()),
            Some(reason) => {
                book.add_check(maintenance_check(&id, service, reason), Source::Api, now)
            }
            None if !book.checks.contains_key(id.as_str()) => Ok(Vec::new()),
            None => book.remove_check(&id),
        })
        .await
    }

    /// Pushes what the catalog lacks and waits for the attempt, as long as servers can be reached;
    /// its failure is logged and tried again later, never the caller's.
    pub async fn sync_now(&self) {
        let (done, attempt) = oneshot::channel();
        if self.waiting.try_send(done).is_ok() {
            let _ = tokio::time::timeout(self.hold, attempt).await;
        }
    }

    /// Stops syncing until the guard is dropped.
    pub fn pause(self: &Arc<Self>) -> Paused {
        self.paused.send_modify(|count| *count += 1);
        Paused(Arc::clone(self))
    }

    /// Stops syncing for good: a node that leaves must not put itself back into the catalog.
    pub fn retire(&self) {
        self.paused.send_modify(|count| *count += 1);
    }

    /// Returns once nobody holds a [`Paused`].
    pub async fn resumed(&self) {
        let _ = self.paused.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Takes over what changed in the configuration files. Checks that remain keep their state;
    /// with an error nothing is changed.
    pub async fn reload(self: &Arc<Self>, new: &Reloadable) -> Result<(), LocalError> {
        let _paused = self.pause();
        self.permit_files(new)?;
        let now = self.clock.now();
        self.edit(|book| {
            let mut draft = book.clone();
            draft.rules.discard_output = new.discard_check_output;
            draft.set_node(self.template.row(new));
            let mut edits = remove_absent_file_entries(&mut draft, new);
            edits.extend(add_files(&mut draft, new, now)?);
            *book = draft;
            Ok(edits)
        })
        .await
    }

    /// Results of probes and the tick of TTL checks come in here.
    pub(crate) fn check_result(&self, id: &str, generation: u64, status: Status, output: &str) {
        let (now, draw) = (self.clock.now(), self.rng.unit());
        let mut book = self.book();
        if book.set_result(id, generation, status, output, now, draw) {
            self.announce(&book);
        }
    }

    /// See [`Book::ttl_tick`].
    pub(crate) fn ttl_tick(&self, id: &str, generation: u64) -> Option<Instant> {
        let (now, draw) = (self.clock.now(), self.rng.unit());
        let mut book = self.book();
        let before = book.version();
        let next = book.ttl_tick(id, generation, now, draw);
        if book.version() != before {
            tracing::warn!(check = id, "TTL expired");
            self.announce(&book);
        }
        next
    }

    /// Removes the services that have been critical for too long.
    pub(crate) async fn reap(&self) {
        let overdue = self.book().to_reap(self.clock.now());
        for (service, check) in overdue {
            tracing::info!(%service, %check, "deregistering a service that stays critical");
            if let Err(error) = self.remove_service(&service).await {
                tracing::warn!(%service, %error, "could not deregister");
            }
        }
    }

    /// Waits until checks were registered or removed, and says which.
    pub(crate) async fn touched_checks(&self) -> Vec<(Name, Option<CheckJob>)> {
        loop {
            let touched = self.book().take_touched();
            if !touched.is_empty() {
                return touched;
            }
            self.checks_touched.notified().await;
        }
    }

    /// Bytes of output that a check may show.
    pub(crate) fn output_limit(&self, definition: &CheckDefinition) -> usize {
        definition.output_limit(self.book().rules.output_bytes_max)
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn rng(&self) -> &Rng {
        &self.rng
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the book, wakes whoever depends on it, and returns when the disk has it.
    async fn edit(
        &self,
        change: impl FnOnce(&mut Book) -> Result<Vec<Edit>, LocalError>,
    ) -> Result<(), LocalError> {
        let place = match &self.store {
            None => None,
            Some(store) => Some(store.place().await?),
        };
        let done = {
            let mut book = self.book();
            let edits = change(&mut book)?;
            self.announce(&book);
            match place {
                Some(place) if !edits.is_empty() => Some(place.send(edits)),
                _ => None,
            }
        };
        self.checks_touched.notify_one();
        match done {
            None => Ok(()),
            Some(done) => Ok(done.await.unwrap_or(Err(StoreError::Stopped))?),
        }
    }

    pub(super) fn announce(&self, book: &Book) {
        self.changed.send_replace(book.version());
        self.push_wanted.notify_one();
    }

    fn note_heartbeat(&self, book: &Book, id: &str) {
        let (Some(store), Some(entry)) = (&self.store, book.checks.get(id)) else { return };
        let Probe::Ttl(ttl) = entry.definition.probe else { return };
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let record = TtlRecord {
            status: entry.row.status,
            output: entry.row.output.to_string(),
            expires_wall_ms: self.clock.wall_ms().saturating_add(ttl_ms),
        };
        store.heartbeat(Arc::clone(&entry.row.id), record);
    }

    fn permit(&self, check: &CheckDefinition, source: Source) -> Result<(), LocalError> {
        match (&check.probe, source) {
            (Probe::Command(_), Source::Api) if !self.enable_script_checks => {
                Err(LocalError::ScriptsDisabledRemote)
            }
            (Probe::Command(_), Source::File)
                if !(self.enable_script_checks || self.enable_local_script_checks) =>
            {
                Err(LocalError::ScriptsDisabled)
            }
            _ => Ok(()),
        }
    }

    fn permit_files(&self, files: &Reloadable) -> Result<(), LocalError> {
        let of_services = files.services.iter().flat_map(|service| &service.checks);
        for check in of_services.chain(&files.checks) {
            self.permit(check, Source::File).map_err(|cause| LocalError::File {
                what: format!("check {:?}", &*check.check.id),
                cause: Box::new(cause),
            })?;
        }
        Ok(())
    }

    /// What the disk and the files hold, at start.
    async fn fill(&self, files: &Reloadable, loaded: Loaded) -> Result<(), LocalError> {
        self.permit_files(files)?;
        let now = self.clock.now();
        let wall_ms = self.clock.wall_ms();
        self.edit(|book| {
            let mut edits = add_stored(book, loaded.services, loaded.checks, files, now);
            edits.extend(add_files(book, files, now)?);
            for (id, record) in &loaded.ttl {
                let left_ms = record.expires_wall_ms.saturating_sub(wall_ms);
                if left_ms > 0 {
                    let left = Duration::from_millis(left_ms);
                    book.restore_ttl(id, record.status, &record.output, left, now);
                }
            }
            Ok(edits)
        })
        .await
    }
}

/// Stored definitions, except those that a file overrides or that lost their service: the edits
/// forget these.
fn add_stored(
    book: &mut Book,
    services: Vec<ServiceDefinition>,
    checks: Vec<CheckDefinition>,
    files: &Reloadable,
    now: Instant,
) -> Vec<Edit> {
    let (file_services, file_checks) = ids_in_files(files);
    let mut edits = Vec::new();
    for definition in services {
        let id = Arc::clone(&definition.service.id);
        if file_services.contains(&id) {
            edits.push(Edit::DropService(id));
        } else if let Err(error) = book.add_service(definition, Source::Api, false, now) {
            tracing::warn!(service = %id, %error, "a stored service is left out");
        }
    }
    for mut definition in checks {
        let id = Arc::clone(&definition.check.id);
        definition.check.status = Status::Critical;
        if file_checks.contains(&id) {
            edits.push(Edit::DropCheck(id));
        } else if let Err(error) = book.add_check(definition, Source::Api, now) {
            tracing::warn!(check = %id, %error, "a stored check is forgotten");
            edits.push(Edit::DropCheck(id));
        }
    }
    edits
}

fn add_files(book: &mut Book, files: &Reloadable, now: Instant) -> Result<Vec<Edit>, LocalError> {
    let mut edits = Vec::new();
    for definition in &files.services {
        edits.extend(book.add_service(definition.clone(), Source::File, false, now)?);
    }
    for definition in &files.checks {
        let added = book.add_check(definition.clone(), Source::File, now);
        edits.extend(added.map_err(|cause| LocalError::File {
            what: format!("check {:?}", &*definition.check.id),
            cause: Box::new(cause),
        })?);
    }
    Ok(edits)
}

fn remove_absent_file_entries(book: &mut Book, files: &Reloadable) -> Vec<Edit> {
    let (services, checks) = ids_in_files(files);
    let gone: Vec<Name> = book
        .services
        .iter()
        .filter(|(id, entry)| entry.source == Source::File && !services.contains(*id))
        .map(|(id, _)| Arc::clone(id))
        .collect();
    let mut edits = Vec::new();
    for id in gone {
        edits.extend(book.remove_service(&id).unwrap_or_default());
    }
    let gone: Vec<Name> = book
        .checks
        .iter()
        .filter(|(id, entry)| entry.source == Source::File && !checks.contains(*id))
        .map(|(id, _)| Arc::clone(id))
        .collect();
    for id in gone {
        edits.extend(book.remove_check(&id).unwrap_or_default());
    }
    edits
}

fn ids_in_files(files: &Reloadable) -> (BTreeSet<Name>, BTreeSet<Name>) {
    let services = files.services.iter().map(|d| Arc::clone(&d.service.id)).collect();
    let of_services = files.services.iter().flat_map(|definition| &definition.checks);
    let checks = of_services.chain(&files.checks).map(|d| Arc::clone(&d.check.id)).collect();
    (services, checks)
}

/// The parts of this node's record that do not change.
#[derive(Debug)]
struct NodeTemplate {
    row: NodeV1,
}

impl NodeTemplate {
    fn of(config: &Config) -> Self {
        let address: Name = config.advertise.to_string().into();
        let family = if config.advertise.is_ipv4() { "ipv4" } else { "ipv6" };
        let tagged = ["lan".into(), "wan".into(), format!("lan_{family}"), format!("wan_{family}")]
            .map(|key: String| (Name::from(key), Arc::clone(&address)));
        Self {
            row: NodeV1 {
                name: config.node_name.as_str().into(),
                id: Some(config.node_id),
                address,
                tagged_addresses: Some(tagged.into()),
                meta: None,
                locality: None,
                create_index: model::LogIndex::ZERO,
                modify_index: model::LogIndex::ZERO,
            },
        }
    }

    fn row(&self, settings: &Reloadable) -> NodeV1 {
        let pairs = settings.node_meta.iter();
        let mut meta: model::row::NameMap =
            pairs.map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect();
        meta.insert("consul-network-segment".into(), "".into());
        meta.insert("consul-version".into(), model::CONSUL_VERSION.into());
        NodeV1 { meta: Some(meta), ..self.row.clone() }
    }
}

#[cfg(test)]
mod tests;

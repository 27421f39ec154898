//! The servers of a run, what they stand on, and who watches them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::NodeId;
use model::seam::{Backend, MemberState};
use rt::{Clock, Rng, Tasks};
use server::sim::{Seams, Server, SimDisk};
use server::{Bootstrap, Config};
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::disk::{Death, Disk};
use crate::gossip::{Gossip, View, name};
use crate::history::History;
use crate::invariants::{Invariants, Sight};
use crate::net::{Net, address, node_id};
use crate::scenario::Scenario;
use crate::trace::Trace;

/// Between two looks of the observer.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Everything of one run.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) rng: Rng,
    pub(crate) trace: Arc<Trace>,
    pub(crate) net: Arc<Net>,
    pub(crate) gossip: Arc<Gossip>,
    pub(crate) tasks: Tasks,
    nodes: Mutex<BTreeMap<u8, Node>>,
    invariants: Mutex<Invariants>,
    history: Mutex<History>,
    failure: Mutex<Option<String>>,
    /// Cancelled once something is wrong.
    pub(crate) failed: CancellationToken,
    events: AtomicU64,
    values: AtomicU64,
    pub(crate) crashes: AtomicU64,
    hushed: AtomicBool,
}

struct Node {
    disk: Disk,
    directory: Arc<TempDir>,
    starts: u64,
    expects: bool,
    running: Option<Running>,
}

/// A server that runs.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) number: u8,
    pub(crate) start: u64,
    pub(crate) server: Arc<Server>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) up: CancellationToken,
    pub(crate) disk: Disk,
    tasks: Tasks,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn new(scenario: Scenario) -> Arc<Self> {
        let rng = Rng::from_seed(scenario.seed);
        let trace = Arc::new(Trace::new());
        let tasks = Tasks::new();
        Arc::new(Self {
            net: Net::new(Rng::from_seed(rng.u64()), Arc::clone(&trace), tasks.child()),
            scenario,
            rng,
            trace,
            gossip: Gossip::new(),
            tasks,
            nodes: Mutex::default(),
            invariants: Mutex::default(),
            history: Mutex::default(),
            failure: Mutex::default(),
            failed: CancellationToken::new(),
            events: AtomicU64::new(0),
            values: AtomicU64::new(0),
            crashes: AtomicU64::new(0),
            hushed: AtomicBool::new(false),
        })
    }

    /// Something is wrong. The first word counts.
    pub(crate) fn fail(&self, what: impl Into<String>) {
        let what = what.into();
        self.trace.note(format_args!("FAILED: {what}"));
        lock(&self.failure).get_or_insert(what);
        self.failed.cancel();
    }

    /// Clients only read while it is set.
    pub(crate) fn hush(&self, on: bool) {
        self.hushed.store(on, Ordering::Relaxed);
    }

    pub(crate) fn is_hushed(&self) -> bool {
        self.hushed.load(Ordering::Relaxed)
    }

    pub(crate) fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// Place of the next event in the order of all.
    pub(crate) fn event(&self) -> u64 {
        self.events.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A value that no other write has.
    pub(crate) fn value(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    pub(crate) fn invariants(&self) -> MutexGuard<'_, Invariants> {
        lock(&self.invariants)
    }

    /// A new server; `expects`: it makes the first configuration with the others.
    pub(crate) fn add(&self, number: u8, expects: bool) -> Result<(), String> {
        let directory = TempDir::new().map_err(|error| error.to_string())?;
        let node = Node {
            disk: Disk::new(),
            directory: Arc::new(directory),
            starts: 0,
            expects,
            running: None,
        };
        lock(&self.nodes).insert(number, node);
        Ok(())
    }

    pub(crate) fn numbers(&self) -> Vec<u8> {
        lock(&self.nodes).keys().copied().collect()
    }

    pub(crate) fn running(&self) -> Vec<Running> {
        lock(&self.nodes).values().filter_map(|node| node.running.clone()).collect()
    }

    pub(crate) fn server(&self, number: u8) -> Option<Running> {
        lock(&self.nodes).get(&number)?.running.clone()
    }

    /// The servers that are down.
    pub(crate) fn down(&self) -> Vec<u8> {
        let nodes = lock(&self.nodes);
        nodes.iter().filter(|(_, node)| node.running.is_none()).map(|(n, _)| *n).collect()
    }

    /// Any of those that run.
    pub(crate) fn any(&self) -> Option<Running> {
        let mut running = self.running();
        let at = self.rng.below(running.len() as u64) as usize;
        (at < running.len()).then(|| running.swap_remove(at))
    }

    fn config(&self, number: u8, expects: bool) -> Config {
        Config {
            node_id: node_id(number),
            node_name: name(number).to_string(),
            datacenter: "dc1".to_owned(),
            rpc_bind: address(number),
            rpc_advertise: address(number),
            data_dir: None,
            bootstrap: match expects {
                true => Bootstrap::Expect(self.scenario.voters.into()),
                false => Bootstrap::Wait,
            },
            raft_multiplier: 1,
            raft_snapshot_threshold: self.scenario.snapshot_every,
            rpc_hold_timeout: Duration::from_secs(7),
            rpc_max_conns_per_client: 100,
            rpc_handshake_timeout: Duration::from_secs(5),
            session_ttl_min: Duration::from_secs(1),
            kv_value_bytes_max: 4_096,
            leave_drain_time: Duration::from_secs(1),
            reconnect_timeout: Duration::from_secs(72 * 3_600),
            non_voter: false,
            autopilot: model::row::AutopilotV1::default(),
            disk_reserve_bytes: 0,
            grpc_port: None,
            snapshot_schedule: None,
        }
    }

    /// Starts a server on what its disk holds.
    pub(crate) async fn start(self: &Arc<Self>, number: u8) {
        let (disk, directory, start, expects) = {
            let mut nodes = lock(&self.nodes);
            let Some(node) = nodes.get_mut(&number) else { return };
            if node.running.is_some() {
                return;
            }
            node.starts += 1;
            (node.disk.clone(), Arc::clone(&node.directory), node.starts, node.expects)
        };
        self.trace.note(format_args!("server {number} starts ({start})"));
        let (up, tasks) = (CancellationToken::new(), Tasks::new());
        let seams = self.seams(number, start, &disk, directory.path(), up.clone());
        let started = server::sim::start(self.config(number, expects), seams, &tasks).await;
        let server = match started {
            Ok(server) => Arc::new(server),
            Err(error) => {
                let error = error.to_string().replace(&directory.path().display().to_string(), "");
                self.fail(format!("server {number} does not start again: {error}"));
                return;
            }
        };
        self.net.attach(number, Arc::clone(&server.handler), up.clone());
        let backend = Arc::clone(&server.backend);
        let running = Running { number, start, server, backend, up, disk, tasks };
        if let Some(node) = lock(&self.nodes).get_mut(&number) {
            node.running = Some(running);
        }
        self.gossip.set(number, MemberState::Alive, expects.then_some(self.scenario.voters.into()));
    }

    fn seams(
        self: &Arc<Self>,
        number: u8,
        start: u64,
        disk: &Disk,
        directory: &Path,
        up: CancellationToken,
    ) -> Seams {
        let handle = disk.open();
        let rng = Rng::from_seed(self.rng.u64());
        let witness = disk.witness();
        let told = {
            let handle = Arc::clone(&handle);
            move |bytes: &[u8; 32]| handle.write_witness(bytes)
        };
        let pace = {
            let (disk, rng) = (disk.clone(), rng.clone());
            move || disk.commit_time(&rng)
        };
        let on_fault = {
            let (world, up, disk) = (Arc::downgrade(self), up.clone(), disk.clone());
            move |what: &str| {
                // Openraft tells of the same death once more.
                if up.is_cancelled() {
                    return;
                }
                up.cancel();
                let Some(world) = world.upgrade() else { return };
                world.trace.note(format_args!("server {number} dies: {what}"));
                if !disk.is_doomed() {
                    world.fail(format!("server {number} died of a fault that nobody made: {what}"));
                }
                let this = Arc::clone(&world);
                world.tasks.spawn("death by fault", async move {
                    this.end(number, start, Death::Tear);
                });
            }
        };
        Seams {
            wire: self.net.wire(number, up),
            disk: SimDisk {
                backend: handle,
                witness,
                told: Arc::new(told),
                pace: Arc::new(pace),
                data_dir: directory.to_owned(),
            },
            on_fault: Arc::new(on_fault),
            cluster: Arc::new(View(Arc::clone(&self.gossip))),
            clock: Clock::with_wall(Arc::new(AtomicU64::new(1_700_000_000_000))),
            boot_id: NodeId(rng.bytes16()),
            rng,
        }
    }

    /// A server dies at once.
    pub(crate) fn crash(&self, number: u8, how: Death) {
        if let Some(running) = self.server(number) {
            self.end(number, running.start, how);
        }
    }

    fn end(&self, number: u8, start: u64, how: Death) {
        let mut nodes = lock(&self.nodes);
        let Some(node) = nodes.get_mut(&number) else { return };
        let Some(running) = node.running.take_if(|running| running.start == start) else { return };
        self.crashes.fetch_add(1, Ordering::Relaxed);
        running.up.cancel();
        node.disk.die(how, &self.rng);
        let (digest, syncs) = node.disk.digest();
        self.trace.note(format_args!(
            "server {number} crashed: {how:?}, disk {digest:08x} after {syncs} syncs"
        ));
        // What is left of it may still write into its old directory.
        match copy(node.directory.path(), how, &self.rng) {
            Ok(directory) => node.directory = Arc::new(directory),
            Err(error) => self.fail(format!("cannot copy a directory: {error}")),
        }
        drop(nodes);
        running.tasks.stop();
        self.tasks.spawn("burial", async move { running.server.bury().await });
    }

    /// Looks at all servers, again and again.
    pub(crate) async fn observe(self: Arc<Self>) {
        loop {
            for running in self.running() {
                self.look_at(&running).await;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    pub(crate) async fn look_at(&self, running: &Running) {
        let Running { number, start, server, up, .. } = running;
        let look = server.look();
        let from = self.invariants().read_from(*number, *start, &look);
        let end = look.last.map_or(0, |(_, index)| index + 1);
        let entries = match server.entries(from..end.max(from)).await {
            Ok(entries) => entries,
            Err(_) if up.is_cancelled() => return,
            Err(error) => return self.fail(format!("server {number}: log unreadable: {error}")),
        };
        if up.is_cancelled() {
            return;
        }
        let (now_us, state) = (self.trace.now_us(), server.state());
        let sight = Sight { server: *number, start: *start, now_us, look, entries, state };
        let judged = self.invariants().see(&sight);
        if let Err(what) = judged {
            self.fail(what);
        }
    }
}

/// Copies a dead server's snapshots. Unfinished ones were never synced.
fn copy(from: &Path, how: Death, rng: &Rng) -> std::io::Result<TempDir> {
    let to = TempDir::new()?;
    copy_tree(from, to.path(), how, rng, false)?;
    Ok(to)
}

fn copy_tree(
    from: &Path,
    to: &Path,
    how: Death,
    rng: &Rng,
    unfinished: bool,
) -> std::io::Result<()> {
    let mut items: Vec<_> = std::fs::read_dir(from)?.collect::<Result<_, _>>()?;
    items.sort_by_key(|item| item.file_name());
    for item in items {
        let (source, target) = (item.path(), to.join(item.file_name()));
        if item.file_type()?.is_dir() {
            let unfinished = unfinished || item.file_name().to_string_lossy().ends_with(".tmp");
            std::fs::create_dir(&target)?;
            copy_tree(&source, &target, how, rng, unfinished)?;
        } else {
            let mut bytes = std::fs::read(&source)?;
            if unfinished && how != Death::Kill {
                bytes.truncate(rng.below(bytes.len() as u64 + 1) as usize);
            }
            std::fs::write(&target, bytes)?;
        }
    }
    Ok(())
}

//! Raft: openraft behind [`Consensus`](crate::consensus::Consensus), its log in redb, its snapshots, its network.
//!
//! What it is not: it decides nothing about commands (crate `state`), asks nobody for permission
//! (room `endpoint`) and knows no duty of a leader (room `leader`). Formats: this folder's README.
//!
//! | module | what |
//! |---|---|
//! | `types`, `mirror` | openraft's types as filled in here; our own forms of them for disk and wire |
//! | `log/` | the log store: memory tail, one writer thread, witness of the last commit |
//! | `snapshot/` | the snapshot format and the shelf |
//! | `machine` | apply, publish, wake, answer |
//! | `recovery` | `peers.json`: going on after a majority is lost |
//! | `checkpoint`, `agreement` | whether replicas are still equal; the odd one out stops |
//! | `proposer` | admission by bytes, the leader's stamps |
//! | `transport`, `network`, `inbound` | messages out and in |
//! | `reception` | a snapshot that another server sends |
//! | `lane` | threads of Raft's own |
//! | `timing`, `policy` | times; when to take snapshots and purge (cores) |
//! | `space` | refuses writes before the disk is full |
//! | `leadership`, `upkeep` | who leads; snapshots, purges, death |
//! | `membership`, `handover` | who belongs; leadership in other hands |
//! | `restore` | archives out, and back in |
//! | `reset` | a damaged log is moved aside, and the server comes back as a new one |
//! | `census` | what each server says about itself; which commands all of them know |
//! | `consensus` | the seam to the rest of the server |

mod agreement;
mod census;
mod checkpoint;
mod consensus;
mod errors;
mod fault;
mod handover;
mod inbound;
mod lane;
mod leadership;
mod log;
mod machine;
mod membership;
mod mirror;
mod network;
mod policy;
mod proposer;
mod reception;
mod recovery;
mod reset;
mod restore;
mod snapshot;
mod space;
mod timing;
mod transport;
mod types;
mod upkeep;

#[cfg(test)]
mod tests;

/// Reads a record with its checksum as it is, and with the right one, so that what is behind it is
/// reached too.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_log_record(bytes: &[u8]) {
    log::fuzz_record(bytes);
}

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use model::command::STATE_VERSION;
use model::{Name, NodeId};
use net::Pool;
use openraft::async_runtime::WatchReceiver as _;
use rt::{Clock, Rng, Tasks};
use tokio::sync::{Semaphore, watch};

use self::agreement::Agreement;
use self::census::{Asking, Gate};
use self::fault::OnFault;
pub use self::fault::StartError;
use self::inbound::{Contact, Inbound};
use self::lane::Lane;
use self::log::{Disk, LogHandle, LogStore, Stepping};
use self::machine::{Machine, Published};
use self::network::{Addresses, Network};
use self::proposer::{Proposer, Stamping};
pub use self::reset::{ResetDone, ResetError, reset, retired};
use self::snapshot::Shelf;
pub use self::snapshot::archive;
use self::space::Space;
use self::timing::Timing;
pub(crate) use self::transport::Transport;
use self::types::{LogId, RaftId, TypeConfig};
use crate::consensus::{Census, Leadership};

type Core = openraft::Raft<TypeConfig, Machine>;

/// Settings of this room.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    /// Identity of this server.
    pub node_id: NodeId,
    /// Name of its node.
    pub node_name: Name,
    /// Where the others reach it.
    pub advertise: SocketAddr,
    /// Directory of all data; `None`: memory.
    pub data_dir: Option<PathBuf>,
    /// Scales all times, 1 to 10.
    pub multiplier: u32,
    /// Log entries after which a snapshot is taken.
    pub snapshot_threshold: u64,
    /// Bytes that stay free on the disk; 0: none.
    pub disk_reserve: u64,
}

/// What a simulation or a test replaces.
pub(crate) struct Parts {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) disk: Disk,
    pub(crate) stepping: Stepping,
    pub(crate) on_fault: OnFault,
}

/// This server's Raft.
pub struct Raft(pub(crate) Arc<Node>);

/// What futures hold on to that outlive a borrow of [`Raft`].
pub(crate) struct Node {
    pub(crate) core: Core,
    config: RaftConfig,
    timing: Timing,
    pub(crate) published: Arc<Published>,
    proposer: Proposer,
    pub(crate) log: LogHandle,
    pub(crate) inbound: Inbound,
    transport: Arc<dyn Transport>,
    census: watch::Receiver<Arc<Census>>,
    contact: Contact,
    leadership: watch::Receiver<Leadership>,
    /// Whether log and vote were empty at start: openraft's metrics say so only a moment later.
    began_empty: bool,
    /// The last entry that the log had at start. It may never have been committed, but then what
    /// took its place is of a later term, and so above it.
    ready_at: Option<LogId>,
    /// One configuration change at a time.
    changes: Semaphore,
    /// One restore at a time.
    restores: Arc<Semaphore>,
    /// See [`restore::ARCHIVES_MAX`].
    archives: Arc<Semaphore>,
    clock: Clock,
    stepping: Stepping,
    tasks: Tasks,
}

impl Raft {
    /// Opens log and snapshot, replays what was committed, and joins its peers' Raft.
    pub async fn start(
        config: RaftConfig,
        pool: Pool,
        clock: Clock,
        _rng: Rng,
        tasks: &Tasks,
    ) -> Result<Arc<Raft>, StartError> {
        let disk = config.data_dir.clone().map_or(Disk::Memory, Disk::Directory);
        let parts = Parts {
            transport: Arc::new(pool),
            disk,
            stepping: Stepping::Threads,
            on_fault: OnFault::fatal(),
        };
        Self::assemble(config, parts, clock, tasks).await
    }

    /// The same from given parts.
    pub(crate) async fn assemble(
        config: RaftConfig,
        parts: Parts,
        clock: Clock,
        tasks: &Tasks,
    ) -> Result<Arc<Raft>, StartError> {
        let Parts { transport, disk, stepping, on_fault } = parts;
        let tasks = tasks.child();
        let timing = Timing::new(config.multiplier)?;
        let settings = Arc::new(timing.config()?);
        let order = recovery::look(config.data_dir.as_deref(), stepping).await?;
        // Reading the whole log and the newest snapshot takes a core's time.
        let opening = {
            let (owner, tasks, on_fault) = (config.node_id, tasks.clone(), on_fault.clone());
            let data_dir = config.data_dir.clone();
            let open =
                move || open_storage(disk, data_dir.as_deref(), owner, stepping, on_fault, &tasks);
            match stepping {
                Stepping::Inline => open(),
                Stepping::Threads => tokio::task::spawn_blocking(open)
                    .await
                    .map_err(|cause| StartError::Raft(cause.to_string()))?,
            }
        };
        let mut opened = opening?;
        if let Some(order) = order {
            recovery::carry_out(order, &mut opened, &config, stepping).await?;
        }
        recovery::note(config.data_dir.as_deref(), stepping).await?;
        let Opened { store, log, shelf, machine, published } = opened;
        let bounds = log.bounds();
        let began_empty = log.vote().is_none() && bounds.last_log_id.is_none();
        let ready_at = bounds.last_log_id;
        let lane = match stepping {
            Stepping::Inline => None,
            Stepping::Threads => {
                Some(Lane::open().map_err(|cause| StartError::Raft(cause.to_string()))?)
            }
        };
        let addresses = Addresses::default();
        let network =
            Network { transport: Arc::clone(&transport), stepping, addresses: addresses.clone() };
        let core = Core::new(RaftId(config.node_id), settings, network, store, machine);
        let core = match &lane {
            Some(lane) => lane.run(&tasks, core).await.ok_or_else(stopped)?,
            None => core.await,
        };
        let core = core.map_err(|cause| StartError::Raft(cause.to_string()))?;
        let contact = Contact::new(clock.clone());
        tasks.spawn_until_stop("raft received", reception::sweep(shelf.clone(), stepping));
        let inbound = Inbound {
            us: config.node_id,
            raft: core.clone(),
            log: log.clone(),
            shelf,
            published: Arc::clone(&published),
            on_fault: on_fault.clone(),
            contact: contact.clone(),
            clock: clock.clone(),
            mute_until: (!began_empty).then(|| clock.now() + timing.election_max()),
            stepping,
            state_version: STATE_VERSION,
            receptions: Arc::new(AtomicU64::new(0)),
            lane,
        };
        let stamping = Stamping {
            raft: core.clone(),
            published: Arc::clone(&published),
            clock: clock.clone(),
            patience: timing.read_timeout(),
        };
        let (publish, census) = watch::channel(Arc::default());
        let gate = Gate::new(core.clone(), Arc::clone(&published), census.clone());
        let space = Space::watch(config.data_dir.as_deref(), config.disk_reserve, &tasks);
        let proposer = Proposer::start(stamping, gate, space, &tasks);
        let asking = Asking {
            core: core.clone(),
            inbound: inbound.clone(),
            transport: Arc::clone(&transport),
            published: Arc::clone(&published),
            proposer: proposer.clone(),
            publish,
        };
        tasks.spawn_until_stop("raft census", asking.run());
        let leadership =
            leadership::start(core.clone(), timing, contact.clone(), addresses, &tasks);
        let comparing = Agreement {
            core: core.clone(),
            published: Arc::clone(&published),
            transport: Arc::clone(&transport),
            on_fault: on_fault.clone(),
            us: RaftId(config.node_id),
        };
        agreement::start(comparing, &tasks);
        upkeep::start(&core, &published, &log, config.snapshot_threshold, on_fault, &tasks);
        let node = Node {
            core,
            config,
            timing,
            published,
            proposer,
            log,
            inbound,
            transport,
            census,
            contact,
            leadership,
            began_empty,
            ready_at,
            changes: Semaphore::new(1),
            restores: Arc::new(Semaphore::new(1)),
            archives: Arc::new(Semaphore::new(restore::ARCHIVES_MAX)),
            clock,
            stepping,
            tasks,
        };
        Ok(Arc::new(Raft(Arc::new(node))))
    }

    /// Answers the other servers, on channels RaftControl, RaftLog and Snapshot.
    pub fn handler(self: &Arc<Self>) -> Arc<dyn net::Handler> {
        Arc::new(self.0.inbound.clone())
    }

    /// Stops taking part and closes the log. Hand leadership over first.
    pub async fn shutdown(&self) {
        let node = &self.0;
        node.tasks.stop();
        // Ends openraft's tasks; the log is closed behind them.
        let _ = node.core.shutdown().await;
        if let Err(cause) = node.log.close().await {
            tracing::warn!(%cause, "the Raft log was not closed cleanly");
        }
    }
}

impl Node {
    fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    /// Whether openraft has no configuration, log or vote.
    fn is_pristine(&self) -> bool {
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        self.began_empty
            && metrics.last_log_index.is_none()
            && metrics.current_term == 0
            && metrics.membership_config.nodes().next().is_none()
    }
}

fn stopped() -> StartError {
    StartError::Raft("stopped while it started".to_owned())
}

/// What module `sim` of the crate needs of this room.
#[cfg(feature = "sim")]
pub(crate) mod sim {
    use std::sync::Arc;
    use std::time::Duration;

    pub(crate) use super::Parts;
    pub(crate) use super::fault::OnFault;
    use super::log::{Disk, Pace, Stepping};
    pub(crate) use super::log::{SharedBackend, WitnessMemory};
    pub(crate) use super::types::{LogId, Runtime};

    /// Everything runs on the runtime that calls.
    pub(crate) const INLINE: Stepping = Stepping::Inline;

    /// A simulated disk.
    pub(crate) fn disk(
        backend: SharedBackend,
        witness: WitnessMemory,
        pace: Arc<dyn Fn() -> Duration + Send + Sync>,
    ) -> Disk {
        Disk::Simulated { backend, witness, pace: Pace(Some(pace)) }
    }
}

struct Opened {
    store: LogStore,
    log: LogHandle,
    shelf: Shelf,
    machine: Machine,
    published: Arc<Published>,
}

/// A log that begins behind the newest snapshot lacks entries: openraft would take an empty state for
/// the purged entries' result.
fn must_meet(
    purged: Option<LogId>,
    covered: Option<LogId>,
    data_dir: Option<&Path>,
) -> Result<(), StartError> {
    match purged.filter(|purged| covered.is_none_or(|id| id.index < purged.index)) {
        None => Ok(()),
        Some(purged) => {
            let place = data_dir.map_or_else(|| PathBuf::from("snapshots"), log::raft_directory);
            let what =
                format!("no snapshot reaches log entry {}, where the log begins", purged.index);
            Err(StartError::damaged(&place.join("snapshots"), what))
        }
    }
}

fn open_storage(
    disk: Disk,
    data_dir: Option<&Path>,
    owner: NodeId,
    stepping: Stepping,
    on_fault: OnFault,
    tasks: &Tasks,
) -> Result<Opened, StartError> {
    let (store, log) = LogStore::open(disk, owner, stepping, on_fault, tasks)?;
    let (shelf, loaded) = Shelf::open(data_dir)?;
    let covered = loaded.as_ref().and_then(|(meta, _)| meta.last_log_id);
    must_meet(log.bounds().last_purged_log_id, covered, data_dir)?;
    let (machine, published) = Machine::new(shelf.clone(), loaded, stepping);
    Ok(Opened { store, log, shelf, machine, published })
}

//! The seams of a server, for tests/sim alone (feature `sim`): a whole server (Raft, endpoint,
//! duties of the leader) on a given network, disk, gossip, clock and random source, stepped by the
//! runtime that calls. A process that is built with this feature does not serve.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use model::NodeId;
use model::seam::{Backend, BoxFuture, ByteStream, Cluster};
use net::{Channel, Handler, NetError};
use openraft::async_runtime::WatchReceiver as _;
use openraft::storage::RaftLogReader as _;
use openraft::{EntryPayload, ServerState};
use rt::{Clock, Rng, Tasks};
use state::{Registry, State};

use crate::config::Config;
use crate::consensus::Consensus as _;
use crate::endpoint::AllowAll;
use crate::raft::sim::{LogId, OnFault, Parts, SharedBackend, WitnessMemory, disk};
use crate::raft::{Raft, RaftConfig, Transport};
use crate::start::{Rooms, StartError, assemble};

/// Elections are seeded by [`run`]; outside of it they would panic.
pub(crate) const REFUSES_TO_SERVE: bool = true;

/// A way to other servers: what a connection pool is in production.
pub trait Wire: Send + Sync + 'static {
    /// One call.
    fn call(
        &self,
        to: SocketAddr,
        channel: Channel,
        method: u16,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, NetError>>;

    /// A stream of messages, answered by another.
    fn stream(
        &self,
        to: SocketAddr,
        channel: Channel,
        method: u16,
        first: Bytes,
        outgoing: ByteStream,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<ByteStream, NetError>>;
}

struct OnWire(Arc<dyn Wire>);

impl Transport for OnWire {
    fn call(
        &self,
        to: SocketAddr,
        channel: Channel,
        method: u16,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, NetError>> {
        self.0.call(to, channel, method, body, timeout)
    }

    fn stream(
        &self,
        to: SocketAddr,
        channel: Channel,
        method: u16,
        first: Bytes,
        outgoing: ByteStream,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<ByteStream, NetError>> {
        self.0.stream(to, channel, method, first, outgoing, timeout)
    }
}

/// Sees each write of the witness file, and may refuse it.
pub type WitnessTold = dyn Fn(&[u8; 32]) -> io::Result<()> + Send + Sync;

/// A simulated disk, as one start of a server uses it.
#[derive(Clone)]
pub struct SimDisk {
    /// The log file.
    pub backend: Arc<dyn redb::StorageBackend>,
    /// What the file `commit-seq` says; `None`: the log is new.
    pub witness: Option<[u8; 32]>,
    /// Where writes of `commit-seq` go.
    pub told: Arc<WitnessTold>,
    /// How long the next commit takes.
    pub pace: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// Where snapshots are kept.
    pub data_dir: std::path::PathBuf,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimDisk")
    }
}

/// What a server stands on.
pub struct Seams {
    /// The network.
    pub wire: Arc<dyn Wire>,
    /// The disk.
    pub disk: SimDisk,
    /// Told when storage fails: the process would end.
    pub on_fault: Arc<dyn Fn(&str) + Send + Sync>,
    /// Gossip.
    pub cluster: Arc<dyn Cluster>,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// New at each start.
    pub boot_id: NodeId,
}

/// A running server.
pub struct Server {
    /// What its agent asks.
    pub backend: Arc<dyn Backend>,
    /// What the network calls.
    pub handler: Arc<dyn Handler>,
    raft: Arc<Raft>,
}

/// Starts a server. All that it starts stops with `tasks`.
pub async fn start(config: Config, seams: Seams, tasks: &Tasks) -> Result<Server, StartError> {
    let Seams { wire, disk: from, on_fault, cluster, clock, rng, boot_id } = seams;
    let config = Arc::new(config);
    let transport: Arc<dyn Transport> = Arc::new(OnWire(wire));
    let witness = WitnessMemory::told(from.witness, from.told);
    let parts = Parts {
        transport: Arc::clone(&transport),
        disk: disk(SharedBackend(from.backend), witness, from.pace),
        stepping: crate::raft::sim::INLINE,
        on_fault: OnFault::told(move |what, place, _| on_fault(&format!("{place}: {what}"))),
    };
    let raft_config = RaftConfig {
        node_id: config.node_id,
        node_name: config.node_name.as_str().into(),
        advertise: config.rpc_advertise,
        data_dir: Some(from.data_dir),
        multiplier: config.raft_multiplier,
        snapshot_threshold: config.raft_snapshot_threshold,
        disk_reserve: 0,
    };
    let raft = Raft::assemble(raft_config, parts, clock.clone(), tasks).await?;
    let rooms = Rooms {
        config,
        consensus: Arc::clone(&raft) as _,
        raft: raft.handler(),
        cluster,
        authorizer: AllowAll::shared(),
        transport,
        clock,
        rng,
    };
    let (backend, handler) = assemble(rooms, boot_id, tasks);
    Ok(Server { backend: Arc::new(backend), handler, raft })
}

/// Term and index.
pub type At = (u64, u64);

/// What a server's Raft holds at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Term, whom it votes for, whether a quorum did: as on disk.
    pub vote: Option<(u64, NodeId, bool)>,
    /// Whether it leads its term.
    pub leads: bool,
    /// Its term, as openraft's core has it.
    pub term: u64,
    /// Last entry of the log.
    pub last: Option<At>,
    /// Last entry known to be committed.
    pub committed: Option<At>,
    /// Last entry applied.
    pub applied: Option<At>,
    /// Last entry that the newest snapshot covers.
    pub snapshot: Option<At>,
    /// Last entry purged from the log.
    pub purged: Option<At>,
    /// Sets of voters; two while they change.
    pub voters: Vec<Vec<NodeId>>,
}

/// A log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Where it stands.
    pub at: At,
    /// An encoded [`model::command::EnvelopeV1`]; none for Raft's own entries.
    pub command: Option<Bytes>,
    /// What a configuration entry says.
    pub configuration: Option<String>,
}

fn at(id: Option<LogId>) -> Option<At> {
    id.map(|id| (id.leader_id.term, id.index))
}

impl Server {
    /// What its Raft holds now.
    pub fn look(&self) -> Look {
        let node = &self.raft.0;
        let metrics = node.core.metrics();
        let metrics = metrics.borrow_watched();
        let bounds = node.log.bounds();
        let vote = node
            .log
            .vote()
            .map(|vote| (vote.leader_id.term, vote.leader_id.voted_for.0, vote.committed));
        Look {
            vote,
            leads: metrics.state == ServerState::Leader,
            term: metrics.current_term,
            last: at(bounds.last_log_id),
            committed: at(metrics.local_committed.max(node.log.committed())),
            applied: at(node.published.applied()),
            snapshot: at(node.inbound.shelf.current().and_then(|stored| stored.meta.last_log_id)),
            purged: at(bounds.last_purged_log_id),
            voters: metrics
                .membership_config
                .get_joint_config()
                .iter()
                .map(|voters| voters.iter().map(|id| id.0).collect())
                .collect(),
        }
    }

    /// Entries of its log.
    pub async fn entries(&self, range: Range<u64>) -> Result<Vec<Seen>, io::Error> {
        let mut reader = self.raft.0.log.reader();
        let entries = reader.try_get_log_entries(range).await?;
        Ok(entries
            .into_iter()
            .map(|entry| {
                let (command, configuration) = match &entry.payload {
                    EntryPayload::Blank => (None, None),
                    EntryPayload::Normal(payload) => (Some(payload.0.clone()), None),
                    EntryPayload::Membership(membership) => (None, Some(membership.to_string())),
                };
                Seen {
                    at: (entry.log_id.leader_id.term, entry.log_id.index),
                    command,
                    configuration,
                }
            })
            .collect())
    }

    /// The published state.
    pub fn state(&self) -> Arc<State> {
        self.raft.state()
    }

    /// Who waits for changes.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(self.raft.registry())
    }

    /// Whether it says that it has caught up.
    pub fn ready(&self) -> bool {
        self.raft.ready()
    }

    /// Asks for a snapshot now.
    pub async fn snapshot(&self) {
        let _ = self.raft.0.core.trigger().snapshot().await;
    }

    /// Purges all that the newest snapshot covers.
    pub async fn purge(&self) {
        let snapshot = self.look().snapshot;
        if let Some((_, index)) = snapshot {
            let _ = self.raft.0.core.trigger().purge_log(index).await;
        }
    }

    /// Ends what a crash leaves over: its disk and network are gone already.
    pub async fn bury(&self) {
        self.raft.shutdown().await;
    }
}

/// Runs the main future of a simulation on a runtime of its own: one thread, paused time, and every
/// random choice of openraft drawn from the seed.
///
/// # Panics
/// If there can be no runtime.
pub fn run<T>(seed: u64, main: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // Else tokio's watch channels wake those who wait in an order that no seed decides.
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime with a timer alone needs nothing of the system");
    // Polled once, for the whole run: so every task finds the seed, whoever spawned it.
    let scoped = crate::raft::sim::Runtime::scope(seed, async { runtime.block_on(main) });
    scoped.now_or_never().expect("it blocks until it is done")
}

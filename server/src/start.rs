//! Joins the rooms of a server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use model::NodeId;
use model::command::STATE_VERSION;
use model::seam::{Backend, Cluster};
use net::{Handler, Identity, Limits, Pool, Role};
use rt::{Clock, Rng, Tasks};
use tokio::net::TcpListener;

use crate::bootstrap;
use crate::config::Config;
use crate::consensus::Consensus;
use crate::endpoint::{AllowAll, Authorizer, Endpoint, LocalBackend, NetPeers, Parts, RpcHandler};
use crate::leader::{self, Duties};
use crate::raft::{self, Raft, RaftConfig, Transport};

/// Why a server does not start. Each text is one line: what, why, the way out.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The RPC port cannot be had.
    #[error(
        "cannot listen for RPC on {address}: {cause}; \
         choose another address with -bind or another port with -server-port"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// Raft does not start.
    #[error(transparent)]
    Raft(#[from] raft::StartError),
    /// Cargo gave this build the features of tests/sim too.
    #[cfg(feature = "sim")]
    #[error("this build carries the simulator; build without crate sim (--exclude sim)")]
    Simulator,
}

/// Starts a server: takes its port, loads its data, answers RPC, and goes looking for a cluster as
/// its settings say. `boot_id` is new at each start of the process.
///
/// All that it starts stops with `tasks`; [`Backend::leave`] comes before a clean departure.
pub async fn start(
    config: Config,
    cluster: Arc<dyn Cluster>,
    clock: Clock,
    rng: Rng,
    boot_id: NodeId,
    tasks: &Tasks,
) -> Result<Arc<dyn Backend>, StartError> {
    // Its elections are seeded by the simulation alone.
    #[cfg(feature = "sim")]
    if crate::sim::REFUSES_TO_SERVE {
        return Err(StartError::Simulator);
    }
    let config = Arc::new(config);
    let address = config.rpc_bind;
    // Before the data is loaded: a port in use is the commonest fault and the cheapest to find.
    let listener =
        TcpListener::bind(address).await.map_err(|cause| StartError::Listen { address, cause })?;
    let pool = Pool::new(identity(&config), limits(&config), clock.clone(), rng.clone(), tasks);
    let raft = Raft::start(
        RaftConfig {
            node_id: config.node_id,
            node_name: config.node_name.as_str().into(),
            advertise: config.rpc_advertise,
            data_dir: config.data_dir.clone(),
            multiplier: config.raft_multiplier,
            snapshot_threshold: config.raft_snapshot_threshold,
            disk_reserve: config.disk_reserve_bytes,
        },
        pool.clone(),
        clock.clone(),
        rng.clone(),
        tasks,
    )
    .await?;
    let handler = raft.handler();
    let (closing, stop) = (Arc::clone(&raft), tasks.token());
    tasks.spawn("raft shutdown", async move {
        stop.cancelled().await;
        closing.shutdown().await;
    });
    let (identity, limits) = (identity(&config), limits(&config));
    tasks.spawn_until_stop("probe hints", hint(pool.clone(), Arc::clone(&cluster)));
    let rooms = Rooms {
        config,
        consensus: raft,
        raft: handler,
        cluster,
        authorizer: AllowAll::shared(),
        transport: Arc::new(pool),
        clock,
        rng,
    };
    let (backend, handler) = assemble(rooms, boot_id, tasks);
    let accepting = tasks.clone();
    tasks.spawn("rpc listener", async move {
        net::serve(listener, identity, handler, limits, &accepting).await;
    });
    Ok(Arc::new(backend))
}

/// What the endpoint, the duties and bootstrap share.
pub(crate) struct Rooms {
    pub(crate) config: Arc<Config>,
    pub(crate) consensus: Arc<dyn Consensus>,
    pub(crate) raft: Arc<dyn Handler>,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) clock: Clock,
    pub(crate) rng: Rng,
}

fn limits(config: &Config) -> Limits {
    Limits {
        handshake_timeout: config.rpc_handshake_timeout,
        connections_per_address: config.rpc_max_conns_per_client,
        ..Limits::default()
    }
}

fn identity(config: &Config) -> Identity {
    Identity {
        node_id: config.node_id,
        role: Role::Server,
        datacenter: config.datacenter.clone(),
        state_version: STATE_VERSION,
    }
}

/// Starts everything above Raft: what the agent asks, and what the network calls.
pub(crate) fn assemble(
    rooms: Rooms,
    boot_id: NodeId,
    tasks: &Tasks,
) -> (LocalBackend, Arc<dyn Handler>) {
    let Rooms { config, consensus, raft, cluster, authorizer, transport, clock, rng } = rooms;
    let duties = Arc::new(Duties::default());
    let peers = Arc::new(NetPeers::new(transport));
    let endpoint = Endpoint::new(Parts {
        config: Arc::clone(&config),
        consensus: Arc::clone(&consensus),
        cluster: Arc::clone(&cluster),
        peers: peers.clone(),
        duties: Arc::clone(&duties),
        authorizer,
        clock: clock.clone(),
        rng: rng.clone(),
        stop: tasks.token(),
    });
    let backend = LocalBackend::new(Arc::clone(&endpoint), boot_id);
    tasks.spawn_until_stop("link", backend.clone().follow());

    let handler: Arc<dyn Handler> = Arc::new(RpcHandler::new(endpoint, raft));
    let context = leader::Context {
        config: Arc::clone(&config),
        consensus: Arc::clone(&consensus),
        cluster: Arc::clone(&cluster),
        duties,
        clock: clock.clone(),
    };
    tasks.spawn("leader watch", leader::run(context, tasks.clone()));
    let context = bootstrap::Context { config, consensus, cluster, peers, clock, rng };
    tasks.spawn_until_stop("bootstrap", bootstrap::run(context));
    (backend, handler)
}

/// Tells gossip of servers whose connection broke: they may be gone.
async fn hint(pool: Pool, cluster: Arc<dyn Cluster>) {
    use tokio::sync::broadcast::error::RecvError;
    let mut broken = pool.broken();
    loop {
        match broken.recv().await {
            Ok(address) => {
                let members = cluster.members();
                let at = members.alive().find(|member| member.rpc_address() == Some(address));
                if let Some(member) = at {
                    cluster.probe_now(member.id);
                }
            }
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

#[cfg(test)]
mod tests;

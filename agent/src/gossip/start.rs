//! Starting a pool: sockets, the generation of this run, the thread.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::Name;
use model::seam::Members;
use rt::{Clock, Rng, Tasks};
use tokio::sync::{mpsc, oneshot, watch};

use super::config::{GossipConfig, GossipError};
use super::core::Core;
use super::driver::{Driver, Parts, load_peers};
use super::handle::{COMMANDS_MAX, Gossip, Link};
use super::identity::reachable;
use super::peers::{self, Peers};
use super::record::{RECORD_MAX, Record};

/// Bytes that the kernel may hold for us while the thread is busy.
const RECEIVE_BUFFER: usize = 2 * 1_024 * 1_024;
/// Free ports that are tried when port 0 is asked for: UDP and TCP must have the same.
const FREE_PORT_TRIES: usize = 16;

/// Binds the pool's sockets and starts its thread. It answers nobody until [`Gossip::open`].
pub async fn start(
    mut config: GossipConfig,
    clock: Clock,
    rng: Rng,
    tasks: &Tasks,
) -> Result<Arc<Gossip>, GossipError> {
    check_record(&config)?;
    let (udp, tcp, address) = bind(config.bind)?;
    config.bind = address;
    if config.advertise.port() == 0 {
        config.advertise.set_port(address.port());
    }
    if !reachable(&config.advertise) {
        return Err(GossipError::Advertise(config.advertise));
    }
    let peers_path = config.data_dir.as_deref().map(peers::path);
    let (generation, known) = begin_run(&config, peers_path.as_ref(), &clock).await?;

    let link = Arc::new(Link::default());
    let (commands, receive_commands) = mpsc::channel(COMMANDS_MAX);
    let (tags, receive_tags) = watch::channel(config.tags.clone());
    let (publish, members) = watch::channel(Arc::new(Members::default()));
    let parts = Parts {
        udp,
        tcp,
        commands: receive_commands,
        tags: receive_tags,
        members: publish,
        link: Arc::clone(&link),
        peers_path,
        clock,
        stop: tasks.token(),
    };
    let (ready, is_ready) = oneshot::channel();
    let (ending, ended) = oneshot::channel::<()>();
    let thread_rng = rng.clone();
    // A thread of its own, with nothing else on it: whatever keeps the other threads busy must not
    // make the cluster believe that this node is gone. (Its core is what simulations step.)
    std::thread::Builder::new()
        .name("gossip".to_owned())
        .spawn(move || {
            let _ending = ending;
            rt::fatal_on_panic("gossip", || run(config, generation, thread_rng, parts, ready));
        })
        .map_err(GossipError::Thread)?;
    tasks.spawn("gossip", async move {
        let _ = ended.await;
    });
    is_ready.await.map_err(|_| GossipError::Thread(io::Error::other("it ended at once")))?;
    Ok(Arc::new(Gossip {
        link,
        commands,
        tags,
        members,
        wan: Arc::default(),
        address,
        peers: known,
        rng,
    }))
}

fn run(config: GossipConfig, generation: u64, rng: Rng, parts: Parts, ready: oneshot::Sender<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "gossip has no runtime"),
    };
    runtime.block_on(async move {
        let epoch = parts.clock.now();
        let core = Core::new(config, generation, rng, Duration::ZERO);
        match Driver::new(core, parts, epoch) {
            Ok(driver) => driver.run(ready).await,
            Err(error) => tracing::error!(%error, "gossip cannot use its sockets"),
        }
    });
}

/// The generation of this run, durable before it is used, and the peers of the last run.
async fn begin_run(
    config: &GossipConfig,
    path: Option<&PathBuf>,
    clock: &Clock,
) -> Result<(u64, Vec<SocketAddr>), GossipError> {
    let Some(path) = path else {
        return Ok((clock.wall_ms().max(1), Vec::new()));
    };
    let last = load_peers(path.clone()).await?;
    // Not the clock alone: it may have been set back since.
    let generation = clock.wall_ms().max(last.generation.saturating_add(1));
    let peers = if last.left && !config.rejoin_after_leave { Vec::new() } else { last.members };
    let this = Peers { version: 0, generation, left: false, members: peers.clone() };
    let (place, name) = (path.clone(), path.clone());
    let written = tokio::task::spawn_blocking(move || peers::store(&place, &this)).await;
    written.map_err(|error| GossipError::Peers {
        verb: "write",
        path: name,
        cause: io::Error::other(error),
    })??;
    Ok((generation, peers))
}

fn check_record(config: &GossipConfig) -> Result<(), GossipError> {
    let record = Record {
        node: config.node_id,
        version: 0,
        name: Name::from(config.node_name.as_str()),
        tags: config.tags.clone(),
    };
    match record.too_large() {
        Some(found) => Err(GossipError::RecordTooLarge { found, limit: RECORD_MAX }),
        None => Ok(()),
    }
}

fn bind(address: SocketAddr) -> Result<(UdpSocket, TcpListener, SocketAddr), GossipError> {
    let mut tries = if address.port() == 0 { FREE_PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_once(address) {
            Err(_) if tries > 0 => {}
            result => return result,
        }
    }
}

fn bind_once(address: SocketAddr) -> Result<(UdpSocket, TcpListener, SocketAddr), GossipError> {
    let fail = |address, protocol| move |cause| GossipError::Bind { address, protocol, cause };
    let tcp = TcpListener::bind(address).map_err(fail(address, "tcp"))?;
    let bound = tcp.local_addr().map_err(fail(address, "tcp"))?;
    tcp.set_nonblocking(true).map_err(fail(bound, "tcp"))?;
    let udp = UdpSocket::bind(bound).map_err(fail(bound, "udp"))?;
    udp.set_nonblocking(true).map_err(fail(bound, "udp"))?;
    // Less than asked for is no failure: the kernel has its own limit.
    let _ = socket2::SockRef::from(&udp).set_recv_buffer_size(RECEIVE_BUFFER);
    Ok((udp, tcp, bound))
}

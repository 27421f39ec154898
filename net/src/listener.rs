//! The accepting side of the RPC port: who gets a connection.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rt::Tasks;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::handshake::{self, HandshakeError, PROTOCOL_TLS};
use crate::{Channel, Handler, Identity, Limits, Peer, inbound, socket};

/// Pause after a failure to accept (file descriptors used up), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until the tasks are stopped, each served by a task of its own.
pub async fn serve(
    listener: TcpListener,
    identity: Identity,
    handler: Arc<dyn Handler>,
    limits: Limits,
    tasks: &Tasks,
) {
    let shared = Arc::new(Shared { identity, handler, limits, held: Mutex::default() });
    let stop = tasks.token();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(cause) => {
                tracing::warn!(%cause, "cannot accept an RPC connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // An IPv4 client of an IPv6 socket is the same client.
        let Some(place) = Place::take(&shared, address.ip().to_canonical()) else {
            refused("too_many");
            tracing::debug!(%address, "RPC connection closed: too many from this address");
            continue;
        };
        let (shared, tasks_of_it) = (Arc::clone(&shared), tasks.clone());
        tasks.spawn("rpc connection", async move {
            connection(&shared, socket, address, &tasks_of_it, place).await;
        });
    }
}

struct Shared {
    identity: Identity,
    handler: Arc<dyn Handler>,
    limits: Limits,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// A connection's place among those that its address and all may hold.
struct Place {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl Place {
    fn take(shared: &Arc<Shared>, address: IpAddr) -> Option<Self> {
        let limits = &shared.limits;
        let mut held = shared.held.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = held.by_address.get(&address).copied().unwrap_or(0);
        if held.all >= limits.connections_max || of_address >= limits.connections_per_address {
            return None;
        }
        held.all += 1;
        held.by_address.insert(address, of_address + 1);
        metrics::gauge!("muster.rpc.connections").increment(1.0);
        Some(Self { shared: Arc::clone(shared), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.shared.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.all -= 1;
        if let Some(count) = held.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                held.by_address.remove(&self.address);
            }
        }
        metrics::gauge!("muster.rpc.connections").decrement(1.0);
        if std::thread::panicking() {
            metrics::counter!("muster.rpc.connection_panics").increment(1);
        }
    }
}

fn refused(reason: &'static str) {
    metrics::counter!("muster.rpc.connections_refused", "reason" => reason).increment(1);
}

async fn connection(
    shared: &Arc<Shared>,
    mut socket: TcpStream,
    address: SocketAddr,
    tasks: &Tasks,
    place: Place,
) {
    let stop = tasks.token();
    if let Err(cause) = socket::prepare(&socket, shared.limits.silence_max) {
        tracing::debug!(%address, %cause, "RPC connection closed: its options cannot be set");
        return;
    }
    let shaken = tokio::select! {
        biased;
        () = stop.cancelled() => return,
        shaken = timeout(
            shared.limits.handshake_timeout,
            handshake::accept(&mut socket, &shared.identity),
        ) => shaken,
    };
    let introduced = match shaken {
        Ok(Ok(introduced)) => introduced,
        Ok(Err(error)) => return log_refusal(address, &error),
        Err(_) => {
            refused("timeout");
            tracing::debug!(%address, "RPC connection closed: no handshake in time");
            return;
        }
    };
    let peer = Peer {
        address,
        node_id: introduced.node_id,
        role: introduced.role,
        state_version: introduced.state_version,
    };
    let channel = introduced.channel;
    if let Err(cause) = socket::prepare(&socket, shared.limits.silence(channel)) {
        tracing::debug!(%address, %cause, "RPC connection closed: its options cannot be set");
        return;
    }
    tracing::debug!(%address, node = %peer.node_id, ?channel, "RPC connection open");
    let Some(threads) = shared.handler.threads(channel) else {
        return attend(shared, socket, peer, channel, stop, place).await;
    };
    // A socket belongs to the threads that it was made on: it has to be made anew.
    let socket = match socket.into_std() {
        Ok(socket) => socket,
        Err(cause) => return tracing::debug!(%address, %cause, "RPC connection closed"),
    };
    let shared = Arc::clone(shared);
    let _there = threads.enter();
    tasks.spawn("rpc connection", async move {
        match TcpStream::from_std(socket) {
            Ok(socket) => attend(&shared, socket, peer, channel, stop, place).await,
            Err(cause) => tracing::debug!(%address, %cause, "RPC connection closed"),
        }
    });
}

/// Serves a connection whose other side has introduced itself.
async fn attend(
    shared: &Shared,
    socket: TcpStream,
    peer: Peer,
    channel: Channel,
    stop: CancellationToken,
    _place: Place,
) {
    let address = peer.address;
    let end = inbound::run(socket, peer, channel, &shared.handler, &shared.limits, stop).await;
    tracing::debug!(%address, ?channel, ?end, "RPC connection closed");
}

fn log_refusal(address: SocketAddr, error: &HandshakeError) {
    let reason = match error {
        HandshakeError::Refused(_) => "handshake",
        HandshakeError::Protocol(_) | HandshakeError::Garbage => "protocol",
        HandshakeError::Io(_) => "broken",
    };
    refused(reason);
    match error {
        // Someone of ours with a wrong setting: the operator of either side must see it.
        HandshakeError::Refused(refusal) => {
            tracing::warn!(%address, ?refusal, "RPC connection refused");
        }
        HandshakeError::Protocol(PROTOCOL_TLS) => {
            tracing::warn!(%address, "RPC connection closed: it speaks TLS, we do not");
        }
        _ => tracing::debug!(%address, %error, "RPC connection closed"),
    }
}

//! The sockets: bound before anything is answered, so that a port in use is said at start.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

/// UDP sockets for one address at most: the kernel spreads askers over them.
const UDP_SOCKETS_MAX: usize = 4;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;

/// Tries to find a port that is free for both transports, where the port is left to the kernel.
const FREE_PORT_TRIES: usize = 16;

/// Why DNS cannot listen.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot bind DNS to {address} ({transport}): {cause}; choose another port with -dns-port \
     (-1: no DNS) or another address with -client"
)]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// UDP or TCP.
    pub transport: &'static str,
    /// What the system said.
    pub cause: io::Error,
}

/// Bound sockets.
pub struct Listeners {
    addresses: Vec<SocketAddr>,
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

impl Listeners {
    /// Binds UDP and TCP on each address. Port 0: any that is free for both. Must be called within
    /// the runtime.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Self, BindError> {
        let mut listeners = Self { addresses: Vec::new(), udp: Vec::new(), tcp: Vec::new() };
        for address in addresses {
            let mut tries = if address.port() == 0 { FREE_PORT_TRIES } else { 1 };
            let (bound, udp, tcp) = loop {
                tries -= 1;
                match bind_both(*address) {
                    Ok(bound) => break bound,
                    Err(error) if tries == 0 => return Err(error),
                    Err(_) => {}
                }
            };
            listeners.addresses.push(bound);
            listeners.udp.extend(udp);
            listeners.tcp.push(tcp);
        }
        Ok(listeners)
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(super) fn into_parts(self) -> (Vec<UdpSocket>, Vec<TcpListener>) {
        (self.udp, self.tcp)
    }
}

fn bind_both(address: SocketAddr) -> Result<(SocketAddr, Vec<UdpSocket>, TcpListener), BindError> {
    // TCP first: it is bound for us alone. The UDP sockets share their port among themselves, and
    // so would share it with another process of the same user.
    let (bound, tcp) =
        bind_tcp(address).map_err(|cause| BindError { address, transport: "TCP", cause })?;
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = workers.min(UDP_SOCKETS_MAX);
    let udp = (0..workers).map(|_| bind_udp(bound, workers > 1)).collect::<io::Result<Vec<_>>>();
    let udp = udp.map_err(|cause| BindError { address: bound, transport: "UDP", cause })?;
    Ok((bound, udp, tcp))
}

fn bind_tcp(address: SocketAddr) -> io::Result<(SocketAddr, TcpListener)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the process before.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    Ok((listener.local_addr()?, listener))
}

fn bind_udp(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

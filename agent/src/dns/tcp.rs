//! Questions on streams: two bytes of length before each message (RFC 1035 §4.2.2).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rt::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::clerk::{Clerk, Now};
use super::query::Transport;
use super::render::Scratch;

/// Questions on one connection, then it is closed (Consul's limit).
const QUESTIONS_MAX: usize = 128;

/// Time for the first question, for the rest of one that began, and for writing an answer.
const IO_TIME: Duration = Duration::from_secs(2);

/// Time until the next question begins.
const IDLE_TIME: Duration = Duration::from_secs(8);

/// Connections that one address may hold, and all addresses together.
const PER_ADDRESS_MAX: usize = 256;
const CONNECTIONS_MAX: usize = 4_096;

/// Pause after a failed accept: most often there are no file descriptors left.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// Accepts for ever.
pub(super) async fn serve(listener: TcpListener, clerk: Clerk, tasks: Tasks) {
    let guests = Arc::new(Guests::default());
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "dns: cannot accept a connection");
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        let Some(guest) = guests.admit(from) else {
            metrics::counter!("muster.dns.connections_refused").increment(1);
            continue;
        };
        let clerk = clerk.clone();
        tasks.spawn_until_stop("dns-connection", async move {
            if let Err(end) = converse(stream, &clerk).await {
                tracing::trace!(%from, %end, "dns: connection ended");
            }
            drop(guest);
        });
    }
}

/// One question after the other until a limit or an error ends it.
async fn converse(mut stream: TcpStream, clerk: &Clerk) -> std::io::Result<()> {
    let received = metrics::counter!("muster.dns.questions", "network" => "tcp");
    stream.set_nodelay(true)?;
    let (mut packet, mut out, mut scratch) = (Vec::new(), Vec::new(), Scratch::default());
    let mut patience = IO_TIME;
    for _ in 0..QUESTIONS_MAX {
        let length = tokio::time::timeout(patience, stream.read_u16()).await??;
        packet.clear();
        packet.resize(usize::from(length), 0);
        tokio::time::timeout(IO_TIME, stream.read_exact(&mut packet)).await??;
        patience = IDLE_TIME;
        received.increment(1);
        match clerk.answer_now(&packet, Transport::Tcp, &mut scratch, &mut out) {
            Now::Silent => continue,
            Now::Written => {}
            Now::Later => out = clerk.answer_later(&packet, Transport::Tcp).await,
        }
        let Ok(length) = u16::try_from(out.len()) else { break };
        // One write, so that it leaves in one segment.
        out.splice(..0, length.to_be_bytes());
        tokio::time::timeout(IO_TIME, stream.write_all(&out)).await??;
    }
    Ok(())
}

/// Who is connected.
#[derive(Default)]
struct Guests(Mutex<BTreeMap<IpAddr, usize>>);

impl Guests {
    /// A place for a connection from there, if it may have one more.
    fn admit(self: &Arc<Self>, from: SocketAddr) -> Option<Guest> {
        let mut guests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if guests.values().sum::<usize>() >= CONNECTIONS_MAX {
            return None;
        }
        let address = from.ip().to_canonical();
        let held = guests.entry(address).or_insert(0);
        if *held >= PER_ADDRESS_MAX {
            return None;
        }
        *held += 1;
        Some(Guest { address, guests: Arc::clone(self) })
    }
}

struct Guest {
    address: IpAddr,
    guests: Arc<Guests>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = self.guests.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = guests.get_mut(&self.address) {
            *held -= 1;
            if *held == 0 {
                guests.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_holds_only_so_many_connections() {
        let guests = Arc::new(Guests::default());
        let from: SocketAddr = "127.0.0.1:5000".parse().expect("an address");
        let mut held: Vec<Guest> =
            std::iter::from_fn(|| guests.admit(from)).take(PER_ADDRESS_MAX + 1).collect();
        assert_eq!(held.len(), PER_ADDRESS_MAX);
        assert!(guests.admit("127.0.0.2:5000".parse().expect("an address")).is_some());
        held.pop();
        assert!(guests.admit(from).is_some());
        drop(held);
        assert!(guests.0.lock().expect("not poisoned").is_empty());
    }
}

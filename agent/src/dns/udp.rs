//! Questions in datagrams.
//!
//! A question whose rows are at hand is answered where it is read; the others each get a task, as
//! many as [`IN_FLIGHT_MAX`] at once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rt::Tasks;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

use super::clerk::{Clerk, Now};
use super::query::Transport;
use super::render::Scratch;

/// Questions that wait for rows; further ones are answered SERVFAIL, so that their askers go
/// elsewhere at once.
const IN_FLIGHT_MAX: usize = 1_024;

/// Largest datagram that is read.
const PACKET_MAX: usize = 65_535;

/// Datagrams read in a row before other tasks get their turn.
const BATCH_MAX: usize = 64;

/// Pause after a socket error, which would else be met again at once.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// What one socket's loop needs.
pub(super) struct Desk {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) clerk: Clerk,
    pub(super) in_flight: Arc<Semaphore>,
    pub(super) tasks: Tasks,
}

/// Room for questions that wait, shared by all sockets.
pub(super) fn in_flight() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(IN_FLIGHT_MAX))
}

/// Reads and answers for ever.
pub(super) async fn serve(desk: Desk) {
    let mut buffer = vec![0; PACKET_MAX];
    let (mut scratch, mut out) = (Scratch::default(), Vec::with_capacity(1_024));
    let received = metrics::counter!("muster.dns.questions", "network" => "udp");
    loop {
        let mut next = desk.socket.recv_from(&mut buffer).await;
        for _ in 0..BATCH_MAX {
            match next {
                Ok((length, from)) => {
                    received.increment(1);
                    let packet = buffer.get(..length).unwrap_or_default();
                    answer(&desk, packet, from, &mut scratch, &mut out).await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::warn!(%error, "dns: cannot read a datagram");
                    tokio::time::sleep(ERROR_PAUSE).await;
                    break;
                }
            }
            next = desk.socket.try_recv_from(&mut buffer);
        }
        tokio::task::yield_now().await;
    }
}

async fn answer(
    desk: &Desk,
    packet: &[u8],
    from: SocketAddr,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) {
    // Nobody listens there: a forged sender.
    if from.port() == 0 {
        return;
    }
    match desk.clerk.answer_now(packet, Transport::Udp, scratch, out) {
        Now::Silent => return,
        Now::Written => {}
        Now::Later => match Arc::clone(&desk.in_flight).try_acquire_owned() {
            Ok(permit) => {
                let (clerk, socket) = (desk.clerk.clone(), Arc::clone(&desk.socket));
                let packet = packet.to_vec();
                desk.tasks.spawn_until_stop("dns-question", async move {
                    let answer = clerk.answer_later(&packet, Transport::Udp).await;
                    send(&socket, &answer, from).await;
                    drop(permit);
                });
                return;
            }
            Err(_) => {
                metrics::counter!("muster.dns.busy").increment(1);
                desk.clerk.answer_busy(packet, Transport::Udp, out);
            }
        },
    }
    send(&desk.socket, out, from).await;
}

async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if answer.is_empty() {
        return;
    }
    if let Err(error) = socket.send_to(answer, to).await {
        tracing::debug!(%error, %to, "dns: cannot send an answer");
    }
}

//! The driver: sockets, timers and requests on a thread of their own; the core decides.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use model::Name;
use model::seam::{ClusterError, Members};
use rt::Clock;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::core::{Core, Effect, dropped};
use super::envelope::PACKET_MAX;
use super::handle::{Command, Contact, Link};
use super::peers::{self, Peers};
use super::stream::{self, Step, Stepped};

/// Streams open at the same time, both ways together.
const STREAMS_MAX: usize = 128;
/// Datagrams taken before timers are looked at: answers that wait in the socket come before the
/// verdicts over those who gave them, also after this process stood still.
const DATAGRAMS_PER_TURN: usize = 4_096;
/// How often the facts for people are renewed at most.
const STATS_EVERY: Duration = Duration::from_secs(1);
/// A turn that takes longer makes the others suspect us.
const SLOW_TURN: Duration = Duration::from_millis(50);

/// What the driver is made of.
pub(super) struct Parts {
    pub(super) udp: std::net::UdpSocket,
    pub(super) tcp: std::net::TcpListener,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) tags: watch::Receiver<BTreeMap<Name, Name>>,
    pub(super) members: watch::Sender<Arc<Members>>,
    pub(super) link: Arc<Link>,
    pub(super) peers_path: Option<PathBuf>,
    pub(super) clock: Clock,
    pub(super) stop: CancellationToken,
}

pub(super) struct Driver {
    core: Core,
    udp: UdpSocket,
    tcp: TcpListener,
    commands: mpsc::Receiver<Command>,
    tags: watch::Receiver<BTreeMap<Name, Name>>,
    members: watch::Sender<Arc<Members>>,
    link: Arc<Link>,
    peers_path: Option<PathBuf>,
    clock: Clock,
    stop: CancellationToken,
    epoch: Instant,
    open: bool,
    steps: FuturesUnordered<Step>,
    writing: bool,
    to_write: Option<Peers>,
    joining: BTreeMap<u64, oneshot::Sender<Result<Contact, ClusterError>>>,
    joined: VecDeque<(u64, Result<Contact, ClusterError>)>,
    leaving: Vec<oneshot::Sender<()>>,
    left: bool,
    stats_at: Option<Duration>,
    buffer: Vec<u8>,
}

enum Event {
    Stop,
    Opened,
    Readable,
    Stepped(Stepped),
    Accepted(TcpStream, SocketAddr),
    Asked(Command),
    Retagged,
    Time,
}

impl Driver {
    /// Must be called inside the thread's runtime.
    pub(super) fn new(core: Core, parts: Parts, epoch: Instant) -> io::Result<Self> {
        Ok(Self {
            core,
            udp: UdpSocket::from_std(parts.udp)?,
            tcp: TcpListener::from_std(parts.tcp)?,
            commands: parts.commands,
            tags: parts.tags,
            members: parts.members,
            link: parts.link,
            peers_path: parts.peers_path,
            clock: parts.clock,
            stop: parts.stop,
            epoch,
            open: false,
            steps: FuturesUnordered::new(),
            writing: false,
            to_write: None,
            joining: BTreeMap::new(),
            joined: VecDeque::new(),
            leaving: Vec::new(),
            left: false,
            stats_at: None,
            // One byte more than is allowed, to see what is too long.
            buffer: vec![0; PACKET_MAX + 1],
        })
    }

    fn now(&self) -> Duration {
        self.clock.now().saturating_duration_since(self.epoch)
    }

    /// Runs until the process stops. `ready` hears when the first snapshot is published.
    pub(super) async fn run(mut self, ready: oneshot::Sender<()>) {
        self.flush();
        let _ = ready.send(());
        loop {
            let event = self.next_event().await;
            let before = self.now();
            match event {
                Event::Stop => break,
                Event::Opened => self.open = true,
                // Done below on every turn, whatever woke us.
                Event::Readable | Event::Time => {}
                Event::Stepped(stepped) => self.on_stepped(stepped),
                Event::Accepted(stream, from) => self.on_accepted(stream, from),
                Event::Asked(command) => self.on_command(command),
                Event::Retagged => {
                    let tags = self.tags.borrow_and_update().clone();
                    self.core.set_tags(tags);
                }
            }
            self.drain_datagrams();
            self.core.on_time(self.now());
            self.flush();
            self.note_turn(before);
        }
        self.write_last_peers().await;
    }

    async fn next_event(&mut self) -> Event {
        let deadline = self.core.deadline().map(|at| self.epoch + at);
        let time = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // Datagrams last: they are drained on every turn, so that a flood of them holds up nobody.
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Event::Stop,
            () = self.link.open.notified(), if !self.open => Event::Opened,
            Some(command) = self.commands.recv() => Event::Asked(command),
            Ok(()) = self.tags.changed() => Event::Retagged,
            Some(stepped) = self.steps.next() => Event::Stepped(stepped),
            Ok((stream, from)) = self.tcp.accept(), if self.open && self.steps.len() < STREAMS_MAX =>
                Event::Accepted(stream, from),
            () = time => Event::Time,
            _ = self.udp.readable(), if self.open => Event::Readable,
        }
    }

    fn drain_datagrams(&mut self) {
        if !self.open {
            return;
        }
        for _ in 0..DATAGRAMS_PER_TURN {
            match self.udp.try_recv_from(&mut self.buffer) {
                Ok((length, _)) => {
                    let now = self.now();
                    match self.buffer.get(..length) {
                        Some(bytes) if length <= PACKET_MAX => self.core.on_datagram(now, bytes),
                        _ => dropped("length"),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP answer to something that we sent: the probe of that member fails anyway.
                Err(_) => dropped("socket"),
            }
        }
    }

    fn on_accepted(&mut self, stream: TcpStream, from: SocketAddr) {
        let limit = self.core.config.timing.stream_timeout;
        self.steps.push(stream::accept(stream, from, limit));
    }

    fn on_stepped(&mut self, stepped: Stepped) {
        let limit = self.core.config.timing.stream_timeout;
        let now = self.now();
        match stepped {
            Stepped::Hello { stream, from, hello } => match self.core.on_hello(now, &hello) {
                Ok(()) => self.steps.push(stream::read_state(stream, limit)),
                Err(refusal) => {
                    tracing::debug!(%from, "refused an exchange");
                    self.steps.push(stream::answer(stream, vec![refusal], limit));
                }
            },
            Stepped::State { stream, state } => match self.core.on_state(now, &state) {
                Ok((welcome, state)) => {
                    self.steps.push(stream::answer(stream, vec![welcome, state], limit));
                }
                Err(_) => dropped("state"),
            },
            Stepped::Dialed { token, answer } => self.core.on_dialed(now, token, answer),
            Stepped::Persisted(result) => {
                self.writing = false;
                if let Err(error) = result {
                    // Tried again, changed or not.
                    self.core.persisted = None;
                    tracing::warn!(%error, "known peers are not written; a restart finds the \
                        cluster by its join addresses alone");
                }
                if let Some(peers) = self.to_write.take() {
                    self.write_peers(peers);
                }
            }
            Stepped::Done => {}
            Stepped::Broken => dropped("stream"),
        }
    }

    fn on_command(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::Join { address, done } => {
                let token = self.core.join(now, address);
                self.joining.insert(token, done);
            }
            Command::Probe(node) => self.core.probe_now(now, &node),
            Command::ForceLeave { name, prune, done } => {
                let _ = done.send(self.core.force_leave(now, &name, prune));
            }
            Command::Leave { done } => {
                if self.left {
                    let _ = done.send(());
                } else {
                    self.leaving.push(done);
                    self.core.leave(now);
                }
            }
        }
    }

    /// Does all that the core asks for.
    fn flush(&mut self) {
        while let Some(effect) = self.core.effect() {
            match effect {
                Effect::Send { to, bytes } => {
                    // A full socket loses the datagram, as a full switch would.
                    if self.udp.try_send_to(&bytes, to).is_err() {
                        metrics::counter!("memberlist.udp.unsent").increment(1);
                    }
                }
                Effect::Dial { token, to, hello, state } => {
                    let limit = self.core.config.timing.stream_timeout;
                    self.steps.push(stream::dial(token, to, hello, state, limit));
                }
                Effect::Joined { token, result } => self.joined.push_back((token, result)),
                Effect::Publish(members) => {
                    self.members.send_replace(members);
                }
                Effect::Persist(peers) => self.write_peers(peers),
                Effect::Left => {
                    self.left = true;
                    for done in self.leaving.drain(..) {
                        let _ = done.send(());
                    }
                }
            }
        }
        // After the snapshot: who is told that it has joined finds the members there.
        for (token, result) in self.joined.drain(..) {
            if let Some(done) = self.joining.remove(&token) {
                let _ = done.send(result);
            }
        }
        self.renew_stats();
    }

    fn renew_stats(&mut self) {
        let now = self.now();
        if self.stats_at.is_none_or(|at| now >= at + STATS_EVERY) {
            self.stats_at = Some(now);
            let stats = self.core.stats();
            *self.link.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
        }
    }

    /// One write at a time, the latest content last.
    fn write_peers(&mut self, peers: Peers) {
        let Some(path) = self.peers_path.clone() else {
            return;
        };
        if self.writing {
            self.to_write = Some(peers);
        } else {
            self.writing = true;
            self.steps.push(stream::persist(path, peers));
        }
    }

    async fn write_last_peers(&mut self) {
        self.core.persist(false);
        self.flush();
        while self.writing {
            match self.steps.next().await {
                Some(persisted @ Stepped::Persisted(_)) => self.on_stepped(persisted),
                Some(_) => {}
                None => return,
            }
        }
    }

    fn note_turn(&self, before: Duration) {
        let took = self.now().saturating_sub(before);
        metrics::histogram!("memberlist.turn").record(took.as_secs_f64());
        if took > SLOW_TURN {
            tracing::warn!(?took, "gossip was held up");
        }
    }
}

/// Reads the known peers, off the caller's thread.
pub(super) async fn load_peers(path: PathBuf) -> Result<Peers, super::GossipError> {
    let name = path.clone();
    match tokio::task::spawn_blocking(move || peers::load(&path)).await {
        Ok(result) => result,
        Err(error) => Err(super::GossipError::Peers {
            verb: "read",
            path: name,
            cause: io::Error::other(error),
        }),
    }
}

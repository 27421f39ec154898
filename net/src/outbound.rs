//! One connection that we opened: calls and streams of many tasks on it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use model::rpc::RpcError;
use model::seam::ByteStream;
use rt::Tasks;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::codec::FramedRead;

use crate::flow::{Credit, Inbox, Incoming, decode_error, pump};
use crate::frame::{Frame, FrameDecoder, HEADER_BYTES_MAX, read_bytes};
use crate::outbox::{Closed, Outbox};
use crate::{Channel, Identity, Limits, NetError, Peer, handshake, socket};

/// A connection that calls and streams can be made on.
pub(crate) struct Outbound {
    pub(crate) peer: Peer,
    outbox: Arc<Outbox>,
    waiting: Mutex<Waiting>,
    channel: Channel,
    read_bytes: usize,
    limits: Limits,
}

/// How a connection ended that did not break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The other side closed it.
    Closed,
    /// We did, because nobody used it.
    Idle,
}

#[derive(Default)]
struct Waiting {
    last_id: u32,
    closed: bool,
    by_id: HashMap<u32, Waiter>,
}

enum Waiter {
    Call(oneshot::Sender<Result<Bytes, NetError>>),
    Stream {
        accepted: Option<oneshot::Sender<Result<Bytes, NetError>>>,
        inbox: Arc<Inbox>,
        credit: Arc<Credit>,
    },
}

impl Waiter {
    /// Ends with an error.
    fn fail(self, error: NetError) {
        match self {
            Waiter::Call(answer) => {
                // Nobody waits any more: nobody to tell.
                let _ = answer.send(Err(error));
            }
            Waiter::Stream { accepted, inbox, credit } => {
                inbox.end(Some(error.clone().into()));
                credit.close();
                if let Some(accepted) = accepted {
                    let _ = accepted.send(Err(error));
                }
            }
        }
    }
}

/// Connects and shakes hands, all within the limit's time. The socket is still to be driven by
/// [`Outbound::run`].
pub(crate) async fn connect(
    address: SocketAddr,
    channel: Channel,
    us: &Identity,
    limits: &Limits,
) -> Result<(Arc<Outbound>, TcpStream), NetError> {
    let failed = |cause: io::Error| NetError::Connect { address, cause: Arc::new(cause) };
    let connecting = async {
        let mut socket = TcpStream::connect(address).await.map_err(failed)?;
        socket::prepare(&socket, limits.silence(channel)).map_err(failed)?;
        match handshake::open(&mut socket, us, channel).await {
            Ok(introduced) => Ok((introduced, socket)),
            Err(handshake::HandshakeError::Refused(reason)) => {
                Err(NetError::Refused { address, reason })
            }
            Err(handshake::HandshakeError::Io(cause)) => Err(failed(cause)),
            Err(error) => Err(failed(io::Error::new(io::ErrorKind::InvalidData, error))),
        }
    };
    let (introduced, socket) = timeout(limits.connect_timeout, connecting)
        .await
        .unwrap_or_else(|_| Err(failed(io::ErrorKind::TimedOut.into())))?;
    let outbound = Outbound {
        peer: Peer {
            address,
            node_id: introduced.node_id,
            role: introduced.role,
            state_version: introduced.state_version,
        },
        outbox: Arc::new(Outbox::new(limits.unwritten_bytes_max)),
        waiting: Mutex::default(),
        channel,
        read_bytes: read_bytes(us.role),
        limits: limits.clone(),
    };
    Ok((Arc::new(outbound), socket))
}

impl Outbound {
    fn with<T>(&self, act: impl FnOnce(&mut Waiting) -> T) -> T {
        act(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads and writes until the connection ends, then fails all that waits.
    pub(crate) async fn run(&self, mut socket: TcpStream) -> io::Result<End> {
        let _fail_all = FailAll(self);
        let (reader, mut writer) = socket.split();
        let decoder = FrameDecoder::new(self.limits.frame_bytes_max);
        let mut reader = FramedRead::with_capacity(reader, decoder, self.read_bytes);
        let read = async {
            while let Some(frame) = reader.next().await {
                self.handle(frame?)?;
            }
            Ok(End::Closed)
        };
        tokio::select! {
            biased;
            written = self.outbox.write_to(&mut writer) => written.map(|()| End::Closed),
            read = read => read,
            () = self.idle(), if self.channel == Channel::Rpc => Ok(End::Idle),
        }
    }

    /// Returns when the connection has not been used for a while; then nobody can use it any more.
    async fn idle(&self) {
        let mut seen = None;
        loop {
            sleep(self.limits.idle_max).await;
            let idle = self.with(|waiting| {
                let idle = waiting.by_id.is_empty() && seen == Some(waiting.last_id);
                waiting.closed |= idle;
                seen = Some(waiting.last_id);
                idle
            });
            if idle {
                return;
            }
        }
    }

    /// Whether no call can be made any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.with(|waiting| waiting.closed)
    }

    fn handle(&self, frame: Frame) -> io::Result<()> {
        // What comes for a call that was given up crosses its cancel on the way.
        match frame {
            Frame::Answer { id, body } => self.with(|waiting| {
                if let Entry::Occupied(mut entry) = waiting.by_id.entry(id) {
                    if let Waiter::Stream { accepted, .. } = entry.get_mut() {
                        if let Some(accepted) = accepted.take() {
                            let _ = accepted.send(Ok(body));
                        }
                    } else if let Waiter::Call(answer) = entry.remove() {
                        let _ = answer.send(Ok(body));
                    }
                }
                Ok(())
            }),
            Frame::Error { id, body } => {
                if let Some(waiter) = self.with(|waiting| waiting.by_id.remove(&id)) {
                    waiter.fail(NetError::Remote(decode_error(&body)));
                }
                Ok(())
            }
            Frame::Data { id, body } => self.with(|waiting| match waiting.by_id.get(&id) {
                Some(Waiter::Stream { inbox, .. }) => {
                    inbox.push(body).map_err(|_| violation("more data than allowed"))
                }
                Some(Waiter::Call(_)) => Err(violation("data for a call")),
                None => Ok(()),
            }),
            Frame::Credit { id, bytes } => self.with(|waiting| {
                if let Some(Waiter::Stream { credit, .. }) = waiting.by_id.get(&id) {
                    credit.grant(bytes);
                }
                Ok(())
            }),
            Frame::End { id } => {
                let ended = self.with(|waiting| waiting.by_id.remove(&id));
                match ended {
                    Some(Waiter::Stream { inbox, credit, .. }) => {
                        inbox.end(None);
                        credit.close();
                        Ok(())
                    }
                    Some(Waiter::Call(_)) => Err(violation("the end of a call")),
                    None => Ok(()),
                }
            }
            Frame::Call { .. } | Frame::Open { .. } | Frame::Cancel { .. } => {
                Err(violation("a request from the accepting side"))
            }
        }
    }

    fn enter(self: &Arc<Self>, waiter: Waiter) -> Result<Cancel, NetError> {
        let id = self.with(|waiting| {
            if waiting.closed {
                return Err(NetError::Closed(self.peer.address));
            }
            if waiting.by_id.len() >= self.limits.in_flight_max {
                return Err(NetError::Remote(RpcError::Busy));
            }
            // Ends, because fewer ids are in use than there are.
            loop {
                waiting.last_id = waiting.last_id.wrapping_add(1);
                let id = waiting.last_id;
                if let Entry::Vacant(entry) = waiting.by_id.entry(id) {
                    entry.insert(waiter);
                    return Ok(id);
                }
            }
        })?;
        Ok(Cancel { outbound: Arc::clone(self), id })
    }

    fn fits(&self, body: &Bytes) -> Result<(), NetError> {
        let limit = self.limits.frame_bytes_max - HEADER_BYTES_MAX;
        if body.len() > limit {
            return Err(NetError::TooLarge { found: body.len(), limit });
        }
        Ok(())
    }

    async fn send(&self, frame: Frame, deadline: Instant) -> Result<(), NetError> {
        match timeout_at(deadline, self.outbox.push_when_room(&frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Closed)) => Err(NetError::Closed(self.peer.address)),
            Err(_) => Err(NetError::Timeout(self.peer.address)),
        }
    }

    /// Asks and waits for the answer until the deadline. Dropping it cancels the call over there.
    pub(crate) async fn call(
        self: &Arc<Self>,
        method: u16,
        body: Bytes,
        now: Instant,
        deadline: Instant,
    ) -> Result<Bytes, NetError> {
        self.fits(&body)?;
        let (sender, answer) = oneshot::channel();
        let cancel = self.enter(Waiter::Call(sender))?;
        let timeout_ms = millis(deadline - now);
        self.send(Frame::Call { id: cancel.id, method, timeout_ms, body }, deadline).await?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(NetError::Closed(self.peer.address)),
            Err(_) => Err(NetError::Timeout(self.peer.address)),
        }
    }

    /// Opens a stream and waits until it is accepted, until the deadline. Dropping the future or
    /// the stream cancels it over there.
    pub(crate) async fn stream(
        self: &Arc<Self>,
        method: u16,
        first: Bytes,
        outgoing: ByteStream,
        now: Instant,
        deadline: Instant,
        tasks: &Tasks,
    ) -> Result<ByteStream, NetError> {
        self.fits(&first)?;
        let (sender, accepted) = oneshot::channel();
        let inbox = Arc::new(Inbox::new(self.limits.stream_window_bytes));
        let credit = Arc::new(Credit::new(self.limits.stream_window_bytes));
        let mut cancel = Some(self.enter(Waiter::Stream {
            accepted: Some(sender),
            inbox: Arc::clone(&inbox),
            credit: Arc::clone(&credit),
        })?);
        let id = cancel.as_ref().map_or(0, |cancel| cancel.id);
        let timeout_ms = millis(deadline - now);
        self.send(Frame::Open { id, method, timeout_ms, body: first }, deadline).await?;
        let (outbox, frame_bytes_max) = (Arc::clone(&self.outbox), self.limits.frame_bytes_max);
        tasks.spawn_until_stop("rpc stream", async move {
            // An end without a reader is the reader's decision.
            let _ = pump(id, outgoing, &outbox, &credit, frame_bytes_max).await;
        });
        match timeout_at(deadline, accepted).await {
            Ok(Ok(result)) => {
                result?;
                let outbox = Arc::clone(&self.outbox);
                let on_drop = move || drop(cancel.take());
                Ok(Box::pin(Incoming { id, inbox, outbox, on_drop }))
            }
            Ok(Err(_)) => Err(NetError::Closed(self.peer.address)),
            Err(_) => Err(NetError::Timeout(self.peer.address)),
        }
    }
}

/// Forgets a call or stream when dropped, and says so to the other side if it is not over.
struct Cancel {
    outbound: Arc<Outbound>,
    id: u32,
}

impl Drop for Cancel {
    fn drop(&mut self) {
        let waiter = self.outbound.with(|waiting| waiting.by_id.remove(&self.id));
        if let Some(waiter) = waiter {
            if let Waiter::Stream { inbox, credit, .. } = waiter {
                inbox.end(None);
                credit.close();
            }
            // A closed connection has cancelled everything already.
            let _ = self.outbound.outbox.push(&Frame::Cancel { id: self.id });
        }
    }
}

/// Whatever way the connection's task ends, nobody goes on waiting.
struct FailAll<'a>(&'a Outbound);

impl Drop for FailAll<'_> {
    fn drop(&mut self) {
        let waiters = self.0.with(|waiting| {
            waiting.closed = true;
            std::mem::take(&mut waiting.by_id)
        });
        self.0.outbox.close();
        for waiter in waiters.into_values() {
            waiter.fail(NetError::Closed(self.0.peer.address));
        }
    }
}

fn violation(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

//! One accepted connection: reads frames, runs handlers, writes answers, all in one task.
//!
//! A handler's future is polled once where its frame was read. Most answers are ready then and cost
//! no task switch; the rest wait in a bounded set that the same task polls.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable, Aborted};
use futures_util::stream::FuturesUnordered;
use model::rpc::RpcError;
use model::seam::BoxFuture;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

use crate::flow::{Credit, Inbox, Incoming, decode_error, encode_error, pump};
use crate::frame::{Frame, FrameDecoder, HEADER_BYTES_MAX, read_bytes};
use crate::outbox::Outbox;
use crate::{Channel, Handler, Limits, NetError, Peer};

/// Frames handled before what they produced is written, when more keep coming.
const FRAMES_PER_WRITE: u32 = 64;
/// Time that answers which are ready have to be written when the connection ends.
const FLUSH_TIME: Duration = Duration::from_millis(200);
/// Time beyond its timeout after which a call is dropped though nobody cancelled it.
const TIMEOUT_GRACE: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug)]
#[expect(dead_code, reason = "the fields are for the log")]
pub(crate) enum Ended {
    /// By the other side.
    Closed,
    /// By us, because the process stops.
    Stopped,
    /// The socket failed, or what came was no frame.
    Io(io::Error),
    /// Frames that no peer of ours sends.
    Violation(&'static str),
}

/// Serves the connection until it ends.
pub(crate) async fn run(
    mut socket: TcpStream,
    peer: Peer,
    channel: Channel,
    handler: &Arc<dyn Handler>,
    limits: &Limits,
    stop: CancellationToken,
) -> Ended {
    let (reader, mut writer) = socket.split();
    let decoder = FrameDecoder::new(limits.frame_bytes_max);
    let mut reader = FramedRead::with_capacity(reader, decoder, read_bytes(peer.role));
    let outbox = Arc::new(Outbox::new(limits.unwritten_bytes_max));
    let mut exchanges = Exchanges::new(peer, channel, handler, limits, Arc::clone(&outbox));
    let mut writing = pin!(outbox.write_to(&mut writer));
    let mut unwritten = 0;
    let ended = loop {
        if unwritten >= FRAMES_PER_WRITE {
            unwritten = 0;
            if let Poll::Ready(written) = poll_once(writing.as_mut()).await {
                break written.map_or_else(Ended::Io, |()| Ended::Closed);
            }
        }
        let room = outbox.has_room();
        tokio::select! {
            biased;
            () = stop.cancelled() => break Ended::Stopped,
            Some(done) = exchanges.running.next(), if room => {
                unwritten += 1;
                exchanges.finish(done);
            }
            frame = reader.next(), if room => {
                unwritten += 1;
                match frame {
                    Some(Ok(frame)) => if let Err(violation) = exchanges.handle(frame).await {
                        break Ended::Violation(violation);
                    },
                    Some(Err(cause)) => break Ended::Io(cause),
                    None => break Ended::Closed,
                }
            }
            written = &mut writing => {
                break written.map_or_else(Ended::Io, |()| Ended::Closed);
            }
            () = outbox.room(), if !room => {}
        }
    };
    if matches!(ended, Ended::Violation(_) | Ended::Io(_)) {
        metrics::counter!("muster.rpc.connections_broken").increment(1);
    }
    outbox.close();
    drop(exchanges);
    if matches!(ended, Ended::Stopped | Ended::Closed) {
        let _ = timeout(FLUSH_TIME, writing).await;
    }
    ended
}

async fn poll_once<F: Future + Unpin>(mut future: F) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut future).poll(context))).await
}

/// How a call or stream ended that was not answered at once; `None` for a stream, which has sent
/// its own end.
type Done = (u32, Option<Result<Bytes, NetError>>);

/// The calls and streams of one connection.
struct Exchanges<'a> {
    peer: Peer,
    channel: Channel,
    handler: &'a Arc<dyn Handler>,
    limits: &'a Limits,
    outbox: Arc<Outbox>,
    running: FuturesUnordered<Abortable<BoxFuture<'static, Done>>>,
    open: HashMap<u32, Open>,
    open_bytes: usize,
}

struct Open {
    abort: AbortHandle,
    bytes: usize,
    stream: Option<(Arc<Inbox>, Arc<Credit>)>,
}

impl<'a> Exchanges<'a> {
    fn new(
        peer: Peer,
        channel: Channel,
        handler: &'a Arc<dyn Handler>,
        limits: &'a Limits,
        outbox: Arc<Outbox>,
    ) -> Self {
        Self {
            peer,
            channel,
            handler,
            limits,
            outbox,
            running: FuturesUnordered::new(),
            open: HashMap::new(),
            open_bytes: 0,
        }
    }

    /// Acts on a frame. `Err`: the peer broke the protocol.
    async fn handle(&mut self, frame: Frame) -> Result<(), &'static str> {
        match frame {
            Frame::Call { id, method, timeout_ms, body } => {
                if self.admit(id, body.len())? {
                    self.call(id, method, timeout_ms, body).await;
                }
            }
            Frame::Open { id, method, timeout_ms, body } => {
                if self.admit(id, body.len())? {
                    self.stream(id, method, timeout_ms, body);
                }
            }
            Frame::Cancel { id } => self.close(id),
            // What comes for an exchange that has just ended is nobody's fault.
            Frame::Data { id, body } => {
                if let Some(open) = self.open.get(&id) {
                    let (inbox, _) = open.stream.as_ref().ok_or("data for a call")?;
                    inbox.push(body).map_err(|_| "more data than allowed")?;
                }
            }
            Frame::End { id } => self.end(id, None),
            Frame::Error { id, body } => self.end(id, Some(decode_error(&body))),
            Frame::Credit { id, bytes } => {
                if let Some((_, credit)) = self.open.get(&id).and_then(|open| open.stream.as_ref())
                {
                    credit.grant(bytes);
                }
            }
            Frame::Answer { .. } => return Err("an answer to nothing"),
        }
        Ok(())
    }

    /// Whether one more exchange may start; if not, it has been refused.
    fn admit(&self, id: u32, bytes: usize) -> Result<bool, &'static str> {
        if self.open.contains_key(&id) {
            return Err("an id used twice");
        }
        let full = self.open.len() >= self.limits.in_flight_max
            || self.open_bytes.saturating_add(bytes) > self.limits.in_flight_bytes_max;
        if full {
            metrics::counter!("muster.rpc.calls_refused").increment(1);
            self.answer(id, Err(RpcError::Busy.into()));
        }
        Ok(!full)
    }

    async fn call(&mut self, id: u32, method: u16, timeout_ms: u32, body: Bytes) {
        let bytes = body.len();
        let mut future = self.handler.call(&self.peer, self.channel, method, body);
        if let Poll::Ready(result) = poll_once(&mut future).await {
            return self.answer(id, result);
        }
        let address = self.peer.address;
        let done = async move { (id, Some(in_time(timeout_ms, address, future).await)) };
        self.run(id, bytes, None, Box::pin(done));
    }

    fn stream(&mut self, id: u32, method: u16, timeout_ms: u32, first: Bytes) {
        let bytes = first.len();
        let inbox = Arc::new(Inbox::new(self.limits.stream_window_bytes));
        let credit = Arc::new(Credit::new(self.limits.stream_window_bytes));
        let incoming = Box::pin(Incoming {
            id,
            inbox: Arc::clone(&inbox),
            outbox: Arc::clone(&self.outbox),
            on_drop: || {},
        });
        let accepted = self.handler.stream(&self.peer, self.channel, method, first, incoming);
        let (outbox, address) = (Arc::clone(&self.outbox), self.peer.address);
        let (sending, frame_bytes_max) = (Arc::clone(&credit), self.limits.frame_bytes_max);
        let done = async move {
            match in_time(timeout_ms, address, accepted).await {
                Err(error) => (id, Some(Err(error))),
                Ok(messages) => {
                    // Errors mean that the connection is gone, and this future with it.
                    let _ = outbox.push(&Frame::Answer { id, body: Bytes::new() });
                    let _ = pump(id, messages, &outbox, &sending, frame_bytes_max).await;
                    (id, None)
                }
            }
        };
        self.run(id, bytes, Some((inbox, credit)), Box::pin(done));
    }

    fn run(
        &mut self,
        id: u32,
        bytes: usize,
        stream: Option<(Arc<Inbox>, Arc<Credit>)>,
        done: BoxFuture<'static, Done>,
    ) {
        let (abort, registration) = AbortHandle::new_pair();
        self.running.push(Abortable::new(done, registration));
        self.open_bytes += bytes;
        self.open.insert(id, Open { abort, bytes, stream });
    }

    fn finish(&mut self, done: Result<Done, Aborted>) {
        // An aborted one was closed where it was aborted; its id may be in use again.
        if let Ok((id, result)) = done {
            self.close(id);
            if let Some(result) = result {
                self.answer(id, result);
            }
        }
    }

    /// The peer's direction of a stream is complete.
    fn end(&mut self, id: u32, error: Option<RpcError>) {
        if let Some((inbox, _)) = self.open.get(&id).and_then(|open| open.stream.as_ref()) {
            inbox.end(error);
        }
    }

    fn close(&mut self, id: u32) {
        if let Some(open) = self.open.remove(&id) {
            self.open_bytes -= open.bytes;
            open.abort.abort();
            if let Some((inbox, credit)) = open.stream {
                inbox.end(Some(RpcError::Broken("the stream was closed".into())));
                credit.close();
            }
        }
    }

    fn answer(&self, id: u32, result: Result<Bytes, NetError>) {
        let limit = self.limits.frame_bytes_max - HEADER_BYTES_MAX;
        let frame = match result {
            Ok(body) if body.len() > limit => {
                let error = NetError::TooLarge { found: body.len(), limit };
                Frame::Error { id, body: encode_error(&error.into()) }
            }
            Ok(body) => Frame::Answer { id, body },
            Err(error) => Frame::Error { id, body: encode_error(&error.into()) },
        };
        // A closed outbox means that the connection is ending.
        let _ = self.outbox.push(&frame);
    }
}

impl Drop for Exchanges<'_> {
    fn drop(&mut self) {
        // A handler may have given its incoming stream to someone who lives on.
        for open in self.open.values() {
            if let Some((inbox, _)) = &open.stream {
                inbox.end(Some(NetError::Closed(self.peer.address).into()));
            }
        }
    }
}

/// The caller gives up after its timeout and says so; this is for one that cannot.
async fn in_time<T>(
    timeout_ms: u32,
    address: std::net::SocketAddr,
    future: BoxFuture<'static, Result<T, NetError>>,
) -> Result<T, NetError> {
    let limit = Duration::from_millis(timeout_ms.into()) + TIMEOUT_GRACE;
    timeout(limit, future).await.unwrap_or(Err(NetError::Timeout(address)))
}

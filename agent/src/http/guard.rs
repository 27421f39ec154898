//! A connection's stream under guard: clients that send their request's head too slowly, stay idle
//! too long or do not read what they asked for are cut off.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Time for a request's head once its first byte is there.
pub(crate) const HEAD: Duration = Duration::from_secs(10);

/// Time that a connection may do nothing between requests. Consul has no limit; ours is beyond
/// what pools of clients keep.
const IDLE: Duration = Duration::from_secs(600);

/// Time in which a client must take at least one byte of its answer.
const WRITE_STALL: Duration = Duration::from_secs(30);

/// How many requests of a connection are being answered, and how many ever were.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    busy: AtomicUsize,
    begun: AtomicUsize,
}

impl Activity {
    /// Counts a request until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    fn busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }
}

/// A request is being answered.
pub(crate) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The stream, with what was already read of it put back in front.
pub(crate) struct Guarded<S> {
    inner: S,
    front: Bytes,
    activity: Arc<Activity>,
    /// Requests begun when bytes that may be part of a head were read; `None`: none were.
    head_since: Option<usize>,
    read: Timer,
    write: Timer,
}

/// A deadline that is cheap to move: the sleep below is only touched when it fires too early or
/// would fire too late.
#[derive(Default)]
struct Timer {
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Whether `limit` has passed since the timer was first polled after a stop.
    fn poll(&mut self, cx: &mut Context<'_>, limit: Duration) -> bool {
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + limit);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return true;
            }
            sleep.as_mut().reset(deadline);
        }
        false
    }

    fn stop(&mut self) {
        self.deadline = None;
    }
}

impl<S> Guarded<S> {
    /// Guards `inner`, of which `front` was already read.
    pub(crate) fn new(inner: S, front: Bytes, activity: Arc<Activity>) -> Self {
        Self {
            inner,
            front,
            activity,
            head_since: None,
            read: Timer::default(),
            write: Timer::default(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.front.is_empty() {
            let take = this.front.len().min(buf.remaining());
            buf.put_slice(&this.front.split_to(take));
            this.head_since = Some(this.activity.begun());
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        // While a request is being answered, bodies have limits of their own, and a read only
        // waits for the client to go away.
        if this.activity.busy() {
            this.head_since = None;
            this.read.stop();
            return read;
        }
        let begun = this.activity.begun();
        if this.head_since.is_some_and(|since| since != begun) {
            this.head_since = None;
            this.read.stop();
        }
        if read.is_ready() {
            if this.head_since.is_none() {
                this.head_since = Some(begun);
                this.read.stop();
            }
            return read;
        }
        let limit = if this.head_since.is_some() { HEAD } else { IDLE };
        if this.read.poll(cx, limit) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> Guarded<S> {
    fn watch_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write.stop();
            return written;
        }
        if self.write.poll(cx, WRITE_STALL) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watch_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch_write(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = ready!(Pin::new(&mut self.inner).poll_shutdown(cx));
        Poll::Ready(done)
    }
}

//! What waits to be written on a connection. All that is queued goes into one write.

use std::io;
use std::sync::{Mutex, PoisonError};

use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use crate::frame::Frame;

/// Room that an idle connection keeps.
const IDLE_BYTES: usize = 64 << 10;

/// Encoded frames between those who send and the one task that writes.
///
/// Invariant: at most the mark and one frame wait here, plus the frames that cost their sender
/// nothing to hold back and that are limited by open calls (credit, cancel, errors).
#[derive(Debug)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
    drained: Notify,
    mark: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: BytesMut,
    closed: bool,
}

/// The connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

impl Outbox {
    /// Takes frames while less than `mark` bytes wait.
    pub(crate) fn new(mark: usize) -> Self {
        Self { waiting: Mutex::default(), filled: Notify::new(), drained: Notify::new(), mark }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Waiting) -> T) -> T {
        act(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Queues a frame whatever waits already.
    pub(crate) fn push(&self, frame: &Frame) -> Result<(), Closed> {
        self.with(|waiting| {
            if waiting.closed {
                return Err(Closed);
            }
            frame.encode(&mut waiting.bytes);
            Ok(())
        })?;
        self.filled.notify_one();
        Ok(())
    }

    /// Queues a frame once there is room for it.
    pub(crate) async fn push_when_room(&self, frame: &Frame) -> Result<(), Closed> {
        loop {
            let drained = self.drained.notified();
            let pushed = self.with(|waiting| {
                if waiting.closed {
                    return Err(Closed);
                }
                let room = waiting.bytes.len() < self.mark;
                if room {
                    frame.encode(&mut waiting.bytes);
                }
                Ok(room)
            })?;
            if pushed {
                self.filled.notify_one();
                return Ok(());
            }
            drained.await;
        }
    }

    /// Whether less than the mark waits.
    pub(crate) fn has_room(&self) -> bool {
        self.with(|waiting| waiting.closed || waiting.bytes.len() < self.mark)
    }

    /// Returns once [`Outbox::has_room`].
    pub(crate) async fn room(&self) {
        loop {
            let drained = self.drained.notified();
            if self.has_room() {
                return;
            }
            drained.await;
        }
    }

    /// Takes no more frames; what waits is still written.
    pub(crate) fn close(&self) {
        self.with(|waiting| waiting.closed = true);
        self.filled.notify_one();
        self.drained.notify_waiters();
    }

    /// Writes what is queued, until the outbox is closed and empty.
    pub(crate) async fn write_to(&self, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut batch = BytesMut::new();
        loop {
            let closed = self.with(|waiting| {
                std::mem::swap(&mut waiting.bytes, &mut batch);
                waiting.closed
            });
            if batch.is_empty() {
                if closed {
                    return Ok(());
                }
                self.filled.notified().await;
                continue;
            }
            writer.write_all(&batch).await?;
            if batch.capacity() > IDLE_BYTES {
                batch = BytesMut::new();
            } else {
                batch.clear();
            }
            self.drained.notify_waiters();
        }
    }
}

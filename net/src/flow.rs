//! Flow control of streams: the sender spends credit, the reader gives it back as it consumes.
//! So a slow reader costs its peer a bounded number of bytes, and other streams nothing.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt;
use model::rpc::{Answer, RpcError};
use model::seam::ByteStream;
use model::wire;
use tokio::sync::Notify;

use crate::frame::{Frame, HEADER_BYTES_MAX};
use crate::outbox::{Closed, Outbox};

/// What a message costs beyond its bytes, so that empty ones are limited too.
const MESSAGE_COST: u32 = 64;
/// Longest error text that we send or read.
const ERROR_BYTES_MAX: usize = 64 << 10;

fn cost(message: &Bytes) -> u32 {
    u32::try_from(message.len()).unwrap_or(u32::MAX).saturating_add(MESSAGE_COST)
}

/// Body of an error frame.
pub(crate) fn encode_error(error: &RpcError) -> Bytes {
    let bytes = wire::encode(wire::Kind::Answer, &Answer::Err(error.clone()));
    if bytes.len() <= ERROR_BYTES_MAX {
        return bytes.into();
    }
    let short = RpcError::Protocol("the error's text was too long to be sent".into());
    wire::encode(wire::Kind::Answer, &Answer::Err(short)).into()
}

/// The error in the body of an error frame.
pub(crate) fn decode_error(body: &Bytes) -> RpcError {
    match wire::decode::<Answer>(wire::Kind::Answer, body, ERROR_BYTES_MAX) {
        Ok(Err(error)) => error,
        Ok(Ok(_)) => RpcError::Protocol("an answer came as an error".into()),
        Err(error) => RpcError::Protocol(error.to_string()),
    }
}

/// What the sender of a stream may still send.
#[derive(Debug)]
pub(crate) struct Credit {
    left: Mutex<CreditLeft>,
    changed: Notify,
}

#[derive(Debug)]
struct CreditLeft {
    bytes: i64,
    closed: bool,
}

impl Credit {
    pub(crate) fn new(window_bytes: u32) -> Self {
        let left = CreditLeft { bytes: window_bytes.into(), closed: false };
        Self { left: Mutex::new(left), changed: Notify::new() }
    }

    fn with<T>(&self, act: impl FnOnce(&mut CreditLeft) -> T) -> T {
        act(&mut self.left.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The reader consumed this much.
    pub(crate) fn grant(&self, bytes: u32) {
        self.with(|left| left.bytes = left.bytes.saturating_add(bytes.into()));
        self.changed.notify_waiters();
    }

    /// Nobody reads any more.
    pub(crate) fn close(&self) {
        self.with(|left| left.closed = true);
        self.changed.notify_waiters();
    }

    /// Waits until there is some credit, then spends this much of it.
    async fn spend(&self, bytes: u32) -> Result<(), Closed> {
        loop {
            let changed = self.changed.notified();
            let spent = self.with(|left| {
                if left.closed {
                    return Err(Closed);
                }
                let enough = left.bytes > 0;
                if enough {
                    left.bytes -= i64::from(bytes);
                }
                Ok(enough)
            })?;
            if spent {
                return Ok(());
            }
            changed.await;
        }
    }

    async fn closed(&self) {
        loop {
            let changed = self.changed.notified();
            if self.with(|left| left.closed) {
                return;
            }
            changed.await;
        }
    }
}

/// Sends all messages of a stream, then its end; stops when nobody reads any more.
pub(crate) async fn pump(
    id: u32,
    mut messages: ByteStream,
    outbox: &Outbox,
    credit: &Credit,
    frame_bytes_max: usize,
) -> Result<(), Closed> {
    loop {
        let message = tokio::select! {
            biased;
            () = credit.closed() => return Err(Closed),
            message = messages.next() => message,
        };
        let message = match message {
            Some(Ok(body)) if body.len() + HEADER_BYTES_MAX > frame_bytes_max => Err(
                RpcError::Protocol(format!("a message of {} bytes exceeds the frame", body.len())),
            ),
            Some(message) => message,
            None => return outbox.push(&Frame::End { id }),
        };
        match message {
            Ok(body) => {
                credit.spend(cost(&body)).await?;
                outbox.push_when_room(&Frame::Data { id, body }).await?;
            }
            Err(error) => {
                return outbox.push(&Frame::Error { id, body: encode_error(&error) });
            }
        }
    }
}

/// Messages of a stream that have arrived and are not consumed yet.
#[derive(Debug)]
pub(crate) struct Inbox(Mutex<Arrived>);

#[derive(Debug)]
struct Arrived {
    messages: VecDeque<Result<Bytes, RpcError>>,
    /// What the sender may still send, as far as we granted it.
    allowed: i64,
    /// Consumed and not granted again yet.
    owed: u32,
    window: u32,
    ended: bool,
    abandoned: bool,
    reader: Option<Waker>,
}

/// The peer sent more than it was allowed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overrun;

impl Inbox {
    pub(crate) fn new(window_bytes: u32) -> Self {
        Self(Mutex::new(Arrived {
            messages: VecDeque::new(),
            allowed: window_bytes.into(),
            owed: 0,
            window: window_bytes,
            ended: false,
            abandoned: false,
            reader: None,
        }))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Arrived) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A message arrived.
    pub(crate) fn push(&self, message: Bytes) -> Result<(), Overrun> {
        let reader = self.with(|arrived| {
            if arrived.allowed <= 0 {
                return Err(Overrun);
            }
            arrived.allowed -= i64::from(cost(&message));
            if !arrived.ended && !arrived.abandoned {
                arrived.messages.push_back(Ok(message));
            }
            Ok(arrived.reader.take())
        })?;
        if let Some(reader) = reader {
            reader.wake();
        }
        Ok(())
    }

    /// No more will arrive; with an error, that is what the reader sees last.
    pub(crate) fn end(&self, error: Option<RpcError>) {
        let reader = self.with(|arrived| {
            if !arrived.ended && !arrived.abandoned {
                arrived.messages.extend(error.map(Err));
            }
            arrived.ended = true;
            arrived.reader.take()
        });
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// The next message, and what to grant the sender for it.
    fn poll(&self, context: &mut Context<'_>) -> Poll<Option<(Result<Bytes, RpcError>, u32)>> {
        self.with(|arrived| match arrived.messages.pop_front() {
            Some(message) => {
                if let Ok(bytes) = &message {
                    arrived.owed = arrived.owed.saturating_add(cost(bytes));
                }
                let mut grant = 0;
                if arrived.owed > arrived.window / 2 && !arrived.ended {
                    grant = std::mem::take(&mut arrived.owed);
                    arrived.allowed += i64::from(grant);
                }
                Poll::Ready(Some((message, grant)))
            }
            None if arrived.ended => Poll::Ready(None),
            None => {
                arrived.reader = Some(context.waker().clone());
                Poll::Pending
            }
        })
    }

    /// The reader is gone.
    fn abandon(&self) {
        self.with(|arrived| {
            arrived.abandoned = true;
            arrived.messages.clear();
        });
    }
}

/// The reading end of a stream.
pub(crate) struct Incoming<F: FnMut() + Send + Unpin> {
    pub(crate) id: u32,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) outbox: Arc<Outbox>,
    /// Called when the reader is gone.
    pub(crate) on_drop: F,
}

impl<F: FnMut() + Send + Unpin> Stream for Incoming<F> {
    type Item = Result<Bytes, RpcError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inbox.poll(context).map(|next| {
            let (message, grant) = next?;
            if grant > 0 {
                // A closed connection has already put its error into the inbox.
                let _ = self.outbox.push(&Frame::Credit { id: self.id, bytes: grant });
            }
            Some(message)
        })
    }
}

impl<F: FnMut() + Send + Unpin> Drop for Incoming<F> {
    fn drop(&mut self) {
        self.inbox.abandon();
        (self.on_drop)();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn credit_is_spent_granted_and_closed() {
        let credit = Credit::new(10);
        assert_eq!(credit.spend(100).now_or_never(), Some(Ok(())), "one message may exceed it");
        assert_eq!(credit.spend(1).now_or_never(), None);
        credit.grant(90);
        assert_eq!(credit.spend(1).now_or_never(), None, "still nothing left");
        credit.grant(1);
        assert_eq!(credit.spend(1).now_or_never(), Some(Ok(())));
        credit.close();
        assert_eq!(credit.spend(1).now_or_never(), Some(Err(Closed)));
    }

    #[test]
    fn a_sender_beyond_its_credit_is_noticed_also_with_empty_messages() {
        let inbox = Inbox::new(3 * MESSAGE_COST);
        for _ in 0..3 {
            assert_eq!(inbox.push(Bytes::new()), Ok(()));
        }
        assert_eq!(inbox.push(Bytes::new()), Err(Overrun));
    }

    #[test]
    fn the_last_error_is_seen_after_the_messages() {
        let inbox = Arc::new(Inbox::new(1_000));
        inbox.push(Bytes::from_static(b"a")).expect("credit");
        inbox.end(Some(RpcError::NoLeader));
        let outbox = Arc::new(Outbox::new(1_000));
        let incoming = Incoming { id: 1, inbox, outbox, on_drop: || {} };
        let all = incoming.collect::<Vec<_>>().now_or_never().expect("all is there");
        assert_eq!(all, [Ok(Bytes::from_static(b"a")), Err(RpcError::NoLeader)]);
    }
}

//! Streams: messages both ways, slow readers, ends and cancellation.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use model::rpc::RpcError;
use model::seam::ByteStream;
use net::{Channel, Limits, NetError, Pool};
use rt::Tasks;

use crate::fake::{Dropped, LONG, Server, pool, streams, until};

const BLOCK: usize = 64 << 10;

async fn open(pool: &Pool, server: &Server, outgoing: ByteStream) -> Result<ByteStream, NetError> {
    let first = Bytes::from_static(b"first");
    pool.stream(server.address, Channel::Snapshot, 1, first, outgoing, LONG).await
}

fn nothing() -> ByteStream {
    Box::pin(stream::empty())
}

/// Endless blocks; counts those that were taken.
fn blocks(taken: &Arc<AtomicUsize>) -> ByteStream {
    let taken = Arc::clone(taken);
    Box::pin(stream::repeat_with(move || {
        taken.fetch_add(1, Ordering::SeqCst);
        Ok(Bytes::from(vec![1; BLOCK]))
    }))
}

/// Most blocks that a sender may take while nobody reads: the window, what one write may hold
/// beyond it, and the one at hand.
fn blocks_max() -> usize {
    Limits::default().stream_window_bytes as usize / BLOCK + 2
}

#[tokio::test]
async fn messages_go_both_ways() {
    let server = Server::start(streams(|first, incoming| {
        assert_eq!(first, "first");
        Box::pin(std::future::ready(Ok(incoming)))
    }))
    .await;
    let tasks = Tasks::new();
    let pool = pool(&tasks);
    let messages = (0..3_000_u32).map(|n| Bytes::from(vec![n as u8; n as usize]));
    let sent: Vec<_> = messages.collect();
    let outgoing = Box::pin(stream::iter(sent.clone()).map(Ok));
    let echoed = open(&pool, &server, outgoing).await.expect("accepted");
    let back: Vec<_> = echoed.map(|message| message.expect("sound")).collect().await;
    assert!(back == sent, "all of them, in order");
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back_and_nobody_else() {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let server =
        Server::start(streams(move |_, _| Box::pin(std::future::ready(Ok(blocks(&counted))))))
            .await;
    let tasks = Tasks::new();
    let pool = pool(&tasks);
    let mut messages = open(&pool, &server, nothing()).await.expect("accepted");
    until("the window is full", || taken.load(Ordering::SeqCst) >= blocks_max() - 2).await;
    // Calls on the same connection pass, so the sender has had every chance to go on.
    for _ in 0..100 {
        let call = pool.call(server.address, Channel::Snapshot, 1, Bytes::new(), LONG);
        call.await.expect("not held back");
    }
    assert!(taken.load(Ordering::SeqCst) <= blocks_max());
    for _ in 0..5 * blocks_max() {
        assert_eq!(messages.next().await.expect("endless").expect("sound").len(), BLOCK);
    }
    assert!(taken.load(Ordering::SeqCst) >= 5 * blocks_max());
}

#[tokio::test]
async fn a_handler_that_does_not_read_holds_the_caller_back() {
    let server = Server::start(streams(|_, incoming| {
        Box::pin(async move {
            let kept: ByteStream = Box::pin(stream::once(async move {
                let _incoming = incoming;
                std::future::pending().await
            }));
            Ok(kept)
        })
    }))
    .await;
    let tasks = Tasks::new();
    let pool = pool(&tasks);
    let taken = Arc::new(AtomicUsize::new(0));
    let messages = open(&pool, &server, blocks(&taken)).await.expect("accepted");
    until("the window is full", || taken.load(Ordering::SeqCst) >= blocks_max() - 2).await;
    for _ in 0..100 {
        let call = pool.call(server.address, Channel::Snapshot, 1, Bytes::new(), LONG);
        call.await.expect("not held back");
    }
    assert!(taken.load(Ordering::SeqCst) <= blocks_max());
    drop(messages);
    assert!(tasks.stop_and_wait(LONG).await.unfinished.is_empty());
}

#[tokio::test]
async fn dropping_the_stream_drops_the_handlers_end() {
    let (dropped, reader_dropped) = (Dropped::default(), Dropped::default());
    let (drops, reader_drops) = (dropped.clone(), reader_dropped.clone());
    let server = Server::start(streams(move |_, _| {
        let guard = drops.guard();
        let endless = stream::repeat_with(move || {
            let _guard = &guard;
            Ok(Bytes::from_static(b"more"))
        });
        Box::pin(std::future::ready(Ok(Box::pin(endless) as ByteStream)))
    }))
    .await;
    let tasks = Tasks::new();
    let pool = pool(&tasks);
    let guard = reader_drops.guard();
    let outgoing = Box::pin(stream::once(async move {
        let _guard = guard;
        std::future::pending().await
    }));
    let mut messages = open(&pool, &server, outgoing).await.expect("accepted");
    assert!(messages.next().await.is_some());
    drop(messages);
    until("the handler's stream is dropped", || dropped.yes()).await;
    until("the caller's own stream is dropped", || reader_dropped.yes()).await;
}

#[tokio::test]
async fn an_answer_may_end_before_the_question_does() {
    let server = Server::start(streams(|_, mut incoming| {
        Box::pin(async move {
            let one = incoming.next().await.expect("endless");
            Ok(Box::pin(stream::once(std::future::ready(one))) as ByteStream)
        })
    }))
    .await;
    let tasks = Tasks::new();
    let pool = pool(&tasks);
    let taken = Arc::new(AtomicUsize::new(0));
    let messages = open(&pool, &server, blocks(&taken)).await.expect("accepted");
    assert_eq!(messages.count().await, 1);
    assert!(tasks.stop_and_wait(LONG).await.unfinished.is_empty());
}

#[tokio::test]
async fn errors_travel_both_ways_and_a_broken_connection_is_one() {
    let server = Server::start(streams(|_, mut incoming| {
        Box::pin(async move {
            match incoming.next().await {
                Some(Err(error)) => Err(NetError::Remote(error)),
                _ => Ok(Box::pin(
                    stream::iter([Ok(Bytes::from_static(b"a")), Err(RpcError::NoLeader)])
                        .chain(stream::pending()),
                ) as ByteStream),
            }
        })
    }))
    .await;
    let tasks = Tasks::new();
    let pool = pool(&tasks);
    let damaged = Box::pin(stream::iter([Err(RpcError::NotReady)]));
    let refused = open(&pool, &server, damaged).await.map(drop);
    assert!(matches!(refused, Err(NetError::Remote(RpcError::NotReady))), "{refused:?}");

    let messages = open(&pool, &server, nothing()).await.expect("accepted");
    let all: Vec<_> = messages.collect().await;
    assert_eq!(all, [Ok(Bytes::from_static(b"a")), Err(RpcError::NoLeader)]);

    let server = Server::start(streams(|_, _| {
        Box::pin(std::future::ready(Ok(Box::pin(stream::pending()) as ByteStream)))
    }))
    .await;
    let mut messages = open(&pool, &server, nothing()).await.expect("accepted");
    let (last, ()) = tokio::join!(messages.next(), server.stop());
    assert!(matches!(last, Some(Err(RpcError::Broken(_)))), "{last:?}");
    assert!(messages.next().await.is_none());
}

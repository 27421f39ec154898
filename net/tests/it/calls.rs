//! Calls, their cancellation and their limits.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use model::rpc::RpcError;
use net::{Channel, Limits, NetError, Role};
use rt::Tasks;
use tokio::sync::Semaphore;

use crate::fake::{Closures, Dropped, LONG, Server, calls, echo, identity, pool, pool_as, until};

const RPC: Channel = Channel::Rpc;

#[tokio::test]
async fn calls_of_many_tasks_share_a_connection_for_each_channel() {
    let peers = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&peers);
    let server = Server::start(calls(move |peer, method, body| {
        seen.lock().expect("no panic").insert((peer.address, peer.node_id, peer.role));
        Box::pin(async move {
            // Half of the answers are ready at once, half come later, in another order.
            if method % 2 == 0 {
                tokio::task::yield_now().await;
            }
            Ok([&method.to_be_bytes()[..], &body].concat().into())
        })
    }))
    .await;
    let tasks = Tasks::new();
    let pool = pool(&tasks);
    for channel in [RPC, Channel::RaftLog] {
        let answers = join_all((0..500_u16).map(|method| {
            pool.call(server.address, channel, method, Bytes::from_static(b"x"), LONG)
        }))
        .await;
        for (method, answer) in (0_u16..).zip(answers) {
            let wanted = [&method.to_be_bytes()[..], b"x"].concat();
            assert_eq!(answer.expect("answered"), wanted);
        }
    }
    let peers = peers.lock().expect("no panic");
    assert_eq!(peers.len(), 2, "one connection for each channel: {peers:?}");
    assert!(
        peers
            .iter()
            .all(|(_, id, role)| *id == identity(9, Role::Server).node_id && *role == Role::Server)
    );
    let peer = pool.peer(server.address, RPC).expect("connected");
    assert_eq!(peer.node_id, identity(1, Role::Server).node_id);
}

#[tokio::test]
async fn a_dropped_call_and_one_out_of_time_are_dropped_over_there() {
    let (entered, dropped) = (Arc::new(Semaphore::new(0)), Dropped::default());
    let (enter, drops) = (Arc::clone(&entered), dropped.clone());
    let server = Server::start(calls(move |_, _, _| {
        let guard = drops.guard();
        enter.add_permits(1);
        Box::pin(async move {
            let _guard = guard;
            std::future::pending().await
        })
    }))
    .await;
    let tasks = Tasks::new();
    let pool = pool(&tasks);
    let mut call = pool.call(server.address, RPC, 1, Bytes::new(), LONG);
    tokio::select! {
        answer = &mut call => panic!("answered: {answer:?}"),
        permit = entered.acquire() => permit.expect("open").forget(),
    }
    assert!(!dropped.yes());
    drop(call);
    until("the handler's future is dropped", || dropped.yes()).await;

    let short = Duration::from_millis(20);
    let error = pool.call(server.address, RPC, 1, Bytes::new(), short).await;
    assert!(matches!(error, Err(NetError::Timeout(_))), "{error:?}");
}

#[tokio::test]
async fn calls_beyond_the_cap_are_refused_as_busy_and_the_others_go_on() {
    let open = Arc::new(Semaphore::new(0));
    let (gate, entered) = (Arc::clone(&open), Arc::new(Semaphore::new(0)));
    let enter = Arc::clone(&entered);
    let handler = calls(move |_, _, body| {
        let gate = Arc::clone(&gate);
        enter.add_permits(1);
        Box::pin(async move {
            gate.acquire().await.expect("open").forget();
            Ok(body)
        })
    });
    let limits = Limits { in_flight_max: 2, in_flight_bytes_max: 100, ..Limits::default() };
    let server = Server::with(handler, limits).await;
    let tasks = Tasks::new();
    let pool = pool(&tasks);
    let call =
        |body: &'static [u8]| pool.call(server.address, RPC, 1, Bytes::from_static(body), LONG);
    let (first, second, ()) = tokio::join!(call(b"1"), call(b"2"), async {
        entered.acquire_many(2).await.expect("open").forget();
        let third = call(b"3").await;
        assert!(matches!(third, Err(NetError::Remote(RpcError::Busy))), "{third:?}");
        open.add_permits(2);
    });
    assert_eq!(first.expect("answered"), "1");
    assert_eq!(second.expect("answered"), "2");
    let big = call(&[0; 101]).await;
    assert!(matches!(big, Err(NetError::Remote(RpcError::Busy))), "{big:?}");
    open.add_permits(1);
    assert_eq!(call(b"4").await.expect("room again"), "4");
}

#[tokio::test]
async fn errors_and_sizes() {
    let server = Server::start(calls(|_, method, body| {
        Box::pin(std::future::ready(match method {
            1 => Err(RpcError::PermissionDenied("key:write".into()).into()),
            2 => Ok(Bytes::from(vec![0; 17 << 20])),
            _ => Ok(body),
        }))
    }))
    .await;
    let tasks = Tasks::new();
    let pool = pool(&tasks);
    let call = |method, body| pool.call(server.address, RPC, method, body, LONG);
    let denied = call(1, Bytes::new()).await;
    assert!(
        matches!(&denied, Err(NetError::Remote(RpcError::PermissionDenied(p))) if p == "key:write"),
        "{denied:?}"
    );
    let large = call(2, Bytes::new()).await;
    assert!(matches!(large, Err(NetError::Remote(RpcError::Protocol(_)))), "{large:?}");
    let large = call(3, Bytes::from(vec![0; 16 << 20])).await;
    assert!(matches!(large, Err(NetError::TooLarge { .. })), "{large:?}");
    let most = Bytes::from(vec![7; (16 << 20) - 11]);
    assert_eq!(call(3, most.clone()).await.expect("fits"), most);
}

#[tokio::test]
async fn an_address_may_hold_so_many_connections_and_no_more() {
    let limits = Limits { connections_per_address: 1, ..Limits::default() };
    let server = Server::with(echo(), limits).await;
    let (one, two) = (Tasks::new(), Tasks::new());
    let (first, second) = (pool(&one), pool(&two));
    let call = |pool: &net::Pool| pool.call(server.address, RPC, 1, Bytes::new(), LONG);
    assert!(call(&first).await.is_ok());
    let refused = call(&second).await;
    assert!(matches!(refused, Err(NetError::Connect { .. })), "{refused:?}");
    assert!(call(&first).await.is_ok(), "the first one is not disturbed");
    one.stop_and_wait(LONG).await;
    // The pool's pause and the server's notice take a moment.
    let mut answered = false;
    for _ in 0..200 {
        answered = call(&second).await.is_ok();
        if answered {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(answered, "its place is free again");
}

#[tokio::test]
async fn a_broken_connection_fails_its_calls_is_announced_and_replaced() {
    let entered = Arc::new(Semaphore::new(0));
    let enter = Arc::clone(&entered);
    let server = Server::start(calls(move |_, _, _| {
        enter.add_permits(1);
        Box::pin(std::future::pending())
    }))
    .await;
    let tasks = Tasks::new();
    let pool = pool(&tasks);
    let mut broken = pool.broken();
    let address = server.address;
    let call = pool.call(address, RPC, 1, Bytes::new(), LONG);
    let (failed, ()) = tokio::join!(call, async {
        entered.acquire().await.expect("open").forget();
        assert!(pool.connected(address, RPC));
        server.stop().await;
    });
    assert!(matches!(failed, Err(NetError::Closed(_))), "{failed:?}");
    assert_eq!(broken.recv().await, Ok(address));
    assert!(!pool.connected(address, RPC));

    let nobody = pool.call(address, RPC, 1, Bytes::new(), LONG).await.expect_err("nobody there");
    assert!(matches!(nobody, NetError::Connect { .. }) && nobody.nothing_sent(), "{nobody:?}");
    let _again = Server::start_at(address, echo(), Limits::default()).await;
    let mut answered = false;
    for _ in 0..400 {
        answered = pool.call(address, RPC, 1, Bytes::new(), LONG).await.is_ok();
        if answered {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(answered);
}

#[tokio::test]
async fn a_panic_in_a_handler_ends_its_connection_only() {
    let server = Server::start(calls(|_, method, body| {
        assert_ne!(method, 666, "planted");
        Box::pin(std::future::ready(Ok(body)))
    }))
    .await;
    let tasks = Tasks::new();
    let (one, two) = (pool(&tasks), pool(&tasks));
    let call =
        |pool: &net::Pool, method| pool.call(server.address, RPC, method, Bytes::new(), LONG);
    assert!(call(&two, 1).await.is_ok());
    let closed = call(&one, 666).await;
    assert!(matches!(closed, Err(NetError::Closed(_))), "{closed:?}");
    assert!(two.connected(server.address, RPC), "the other connection lives");
    assert!(call(&two, 1).await.is_ok());
    assert!(call(&one, 1).await.is_ok(), "a new connection is made at once");
}

#[tokio::test]
async fn a_stopped_pool_says_so_and_its_peer_sees_the_end() {
    let server = Server::start(echo()).await;
    let tasks = Tasks::new();
    let pool = pool_as(identity(3, Role::Client), Limits::default(), &tasks);
    assert!(pool.call(server.address, RPC, 1, Bytes::new(), LONG).await.is_ok());
    assert!(tasks.stop_and_wait(LONG).await.unfinished.is_empty());
    let stopped = pool.call(server.address, RPC, 1, Bytes::new(), LONG).await;
    assert!(matches!(stopped, Err(NetError::Stopping)), "{stopped:?}");
    server.stop().await;
}

#[tokio::test]
async fn unknown_methods_are_refused_by_name() {
    let server = Server::start(Arc::new(Closures {
        on_call: Box::new(|_, _, body| Box::pin(std::future::ready(Ok(body)))),
        on_stream: Box::new(|_, _| Box::pin(std::future::pending())),
    }))
    .await;
    let tasks = Tasks::new();
    let pool = pool(&tasks);
    let nothing = Box::pin(futures_util::stream::empty());
    let refused = pool.stream(server.address, RPC, 0, Bytes::new(), nothing, LONG).await;
    let text = refused.map(drop).expect_err("refused").to_string();
    assert!(text.contains("method 0 is unknown"), "{text}");
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_alarm_and_one_with_a_parked_call_is_not() {
    let server = Server::start(calls(|_, method, body| {
        Box::pin(async move { if method == 1 { Ok(body) } else { std::future::pending().await } })
    }))
    .await;
    let limits = Limits { idle_max: Duration::from_millis(20), ..Limits::default() };
    let tasks = Tasks::new();
    let pool = pool_as(identity(9, Role::Server), limits, &tasks);
    let mut broken = pool.broken();
    let call = |method, timeout| pool.call(server.address, RPC, method, Bytes::new(), timeout);
    let parked = call(2, Duration::from_millis(300)).await;
    assert!(matches!(parked, Err(NetError::Timeout(_))), "{parked:?}");
    until("the connection is closed", || !pool.connected(server.address, RPC)).await;
    assert!(broken.try_recv().is_err(), "nobody is to be probed for that");
    assert!(call(1, LONG).await.is_ok(), "opened again on demand");
}

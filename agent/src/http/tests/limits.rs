use std::time::Duration;

use model::rpc::{Body, Consistency, Op};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::fixture::{config, open, open_on, open_with, reply};
use crate::config::HttpListen;
use crate::http::Listener;

#[tokio::test]
async fn bodies_over_the_limit_are_refused_announced_or_not() {
    let door = open(|_| reply(Body::Bool(true))).await;
    assert_eq!(door.put("/v1/kv/a", vec![b'x'; 1_000]).await.text(), "true");
    let seen = door.put("/v1/kv/a", vec![b'x'; 1_001]).await;
    assert_eq!(seen.status, 413);
    assert!(
        seen.text().starts_with("Request body(1001 bytes) too large, max size: 1000 bytes. See "),
        "{}",
        seen.text()
    );
    let mut chunked = b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
        Transfer-Encoding: chunked\r\n\r\n"
        .to_vec();
    for _ in 0..20 {
        chunked.extend_from_slice(b"64\r\n");
        chunked.extend_from_slice(&[b'x'; 100]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(door.raw(&chunked).await.status, 413);
    // A client that asks first is told before it sends.
    let asking = b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
        Content-Length: 99999999\r\n\r\n";
    assert_eq!(door.raw(asking).await.status, 413);
    assert_eq!(door.asked_count(), 1);
}

#[tokio::test]
async fn connections_of_one_client_are_limited() {
    let mut config = config();
    config.http_max_conns_per_client = 1;
    let door = open_with(config, vec![], |_| reply(Body::Address("a:1".into()))).await;
    let mut first = TcpStream::connect(door.address).await.expect("listening");
    first.write_all(b"GET /v1/status/leader HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let mut byte = [0; 1];
    first.read_exact(&mut byte).await.expect("answered");
    let seen = door.get("/v1/status/leader").await;
    assert_eq!(seen.status, 429);
    assert!(seen.text().starts_with("Your IP is issuing too many concurrent connections"));
    drop(first);
    // The first connection's end is noticed in its own time.
    while door.get("/v1/status/leader").await.status != 200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_wait() {
    let door = open(|_| reply(Body::Nodes(vec![]))).await;
    let mut stream = TcpStream::connect(door.address).await.expect("listening");
    stream
        .write_all(b"GET /v1/catalog/nodes?index=9 HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .expect("sent");
    door.fake.parked.subscribe().wait_for(|n| *n == 1).await.expect("parked");
    assert_eq!(*door.fake.cancelled.borrow(), 0);
    drop(stream);
    door.fake.cancelled.subscribe().wait_for(|n| *n == 1).await.expect("cancelled");
}

#[tokio::test]
async fn a_stopping_agent_answers_parked_reads_and_closes() {
    let door = open(|_| reply(Body::Nodes(vec![]))).await;
    let mut stream = TcpStream::connect(door.address).await.expect("listening");
    stream
        .write_all(b"GET /v1/catalog/nodes?index=9 HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .expect("sent");
    door.fake.parked.subscribe().wait_for(|n| *n == 1).await.expect("parked");
    let stopped = door.tasks.stop_and_wait(Duration::from_secs(10)).await;
    assert_eq!(stopped.unfinished, []);
    let mut all = String::new();
    stream.read_to_string(&mut all).await.expect("closed");
    assert!(all.starts_with("HTTP/1.1 500 ") && all.ends_with("No cluster leader"), "{all}");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_and_a_silent_client_are_cut_off() {
    let door = open(|_| reply(Body::Address("a:1".into()))).await;
    for bytes in [&b""[..], b"G", b"GET /v1/status/leader HT"] {
        let mut stream = TcpStream::connect(door.address).await.expect("listening");
        stream.write_all(bytes).await.expect("sent");
        let mut all = Vec::new();
        let before = tokio::time::Instant::now();
        let _ = stream.read_to_end(&mut all).await;
        assert!(before.elapsed() >= Duration::from_secs(9), "{bytes:?}");
        assert!(before.elapsed() < Duration::from_secs(60), "{bytes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_may_rest_between_requests() {
    let door = open(|_| reply(Body::Address("a:1".into()))).await;
    let mut stream = TcpStream::connect(door.address).await.expect("listening");
    for _ in 0..3 {
        stream.write_all(b"GET /v1/status/leader HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        let mut seen = Vec::new();
        while !seen.ends_with(b"\"a:1\"") {
            seen.push(stream.read_u8().await.expect("still open"));
        }
        tokio::time::sleep(Duration::from_secs(120)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    let door = open(|_| reply(Body::Bool(true))).await;
    let mut stream = TcpStream::connect(door.address).await.expect("listening");
    stream
        .write_all(b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
        .await
        .expect("sent");
    let mut all = String::new();
    stream.read_to_string(&mut all).await.expect("closed");
    assert!(all.starts_with("HTTP/1.1 408 "), "{all}");
    assert_eq!(door.asked_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_its_answer_is_cut_off() {
    const BYTES: usize = 32 << 20;
    let door = open(|_| {
        reply(Body::KvEntry(Some(std::sync::Arc::new(model::row::KvV1 {
            key: bytes::Bytes::from_static(b"a"),
            value: vec![b'x'; BYTES].into(),
            flags: 0,
            lock_index: 0,
            session: None,
            version: 1,
            lease: None,
            create_index: model::LogIndex(1),
            modify_index: model::LogIndex(1),
        }))))
    })
    .await;
    let mut stream = TcpStream::connect(door.address).await.expect("listening");
    stream.write_all(b"GET /v1/kv/a?raw HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    tokio::time::sleep(Duration::from_secs(120)).await;
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    assert!(!all.is_empty() && all.len() < BYTES, "{} bytes", all.len());
}

#[tokio::test]
async fn a_unix_socket_is_served_and_a_dead_one_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("http.sock");
    let listen = HttpListen::Unix(path.clone());
    drop(Listener::bind(&listen).await.expect("new"));
    let again = Listener::bind(&listen).await.expect("left over from a crash");
    assert!(Listener::bind(&listen).await.is_err(), "somebody listens");
    let nowhere = ([127, 0, 0, 1], 0).into();
    let door =
        open_on(vec![again], nowhere, config(), vec![], |_| reply(Body::Address("a:1".into())));
    let mut stream = tokio::net::UnixStream::connect(&path).await.expect("listening");
    stream
        .write_all(b"GET /v1/status/leader HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n")
        .await
        .expect("sent");
    let mut all = String::new();
    stream.read_to_string(&mut all).await.expect("answered");
    assert!(all.starts_with("HTTP/1.1 200 ") && all.ends_with("\"a:1\""), "{all}");
    door.tasks.stop_and_wait(Duration::from_secs(10)).await;
    std::fs::remove_file(&path).expect("there");
    std::fs::write(&path, "a file").expect("written");
    assert!(Listener::bind(&listen).await.is_err(), "a file is not replaced");
}

#[tokio::test]
async fn http2_without_upgrade_is_understood() {
    let door = open(|_| reply(Body::Address("a:1".into()))).await;
    let stream = TcpStream::connect(door.address).await.expect("listening");
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(executor, io).await.expect("HTTP/2");
    let driver = async {
        let _ = connection.await;
    };
    let ask = async {
        let request = http::Request::get("http://x/v1/status/leader")
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .expect("valid");
        let response = send.send_request(request).await.expect("answered");
        assert_eq!(response.status(), 200);
        let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("body");
        assert_eq!(body.to_bytes(), "\"a:1\"");
    };
    tokio::select! {
        () = ask => {}
        () = driver => panic!("the connection ended early"),
    }
}

#[tokio::test]
async fn a_configured_staleness_applies_to_discovery_alone() {
    let mut config = config();
    config.discovery_max_stale = Duration::from_secs(1);
    let door = open_with(config, vec![], |request| match request.op {
        Op::KvGet { .. } => reply(Body::KvEntry(None)),
        _ => reply(Body::Nodes(vec![])),
    })
    .await;
    for (path, consistency) in [
        ("/v1/catalog/nodes", Consistency::Stale),
        ("/v1/catalog/nodes?leader", Consistency::Default),
        ("/v1/catalog/nodes?consistent", Consistency::Consistent),
        ("/v1/kv/a", Consistency::Default),
    ] {
        door.get(path).await;
        assert_eq!(door.asked().consistency, consistency, "{path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes as path, query and body, the door answers and lives.
    #[test]
    fn nothing_sent_makes_it_panic(
        path in "/v1/(kv|catalog/service|health/service|session/info|catalog/register)/[!-~]{0,20}",
        query in "[!-~]{0,30}",
        body in proptest::collection::vec(any::<u8>(), 0..60),
        method in prop_oneof![Just("GET"), Just("PUT"), Just("DELETE")],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let door = open(|_| reply(Body::Done)).await;
            door.fake.released.notify_one();
            let seen = door.send(method, &format!("{path}?{query}"), "", &body).await;
            assert!((200..600).contains(&seen.status));
        });
    }

    #[test]
    fn no_body_makes_the_decoders_panic(body in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(value) = model::api::input::first_value(&body) {
            let _ = model::api::registration::register(&value);
            let _ = model::api::registration::deregister(&value);
            let _ = model::api::kv::new_session(Some(&value), "n");
        }
    }
}

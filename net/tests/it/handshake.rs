//! Who gets in, and what happens to the rest.

use std::time::Duration;

use bytes::Bytes;
use net::{Channel, Limits, NetError, Refusal, Role};
use rt::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::fake::{LONG, Server, echo, identity, pool, pool_as, streams};

#[tokio::test]
async fn a_refusal_says_why() {
    let server = Server::start(echo()).await;
    let tasks = Tasks::new();
    let mut foreign = identity(2, Role::Server);
    foreign.datacenter = "dc2".into();
    let cases = [
        (foreign, Channel::Rpc, Refusal::Datacenter { theirs: "dc1".into() }),
        (
            identity(3, Role::Client),
            Channel::RaftControl,
            Refusal::Role { role: Role::Client, channel: Channel::RaftControl },
        ),
    ];
    for (us, channel, wanted) in cases {
        let pool = pool_as(us, Limits::default(), &tasks);
        // The second call fails from memory, without a connection.
        for _ in 0..2 {
            match pool.call(server.address, channel, 1, Bytes::new(), LONG).await {
                Err(NetError::Refused { reason, .. }) => assert_eq!(reason, wanted),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// The bytes that a pool introduces itself with.
async fn introduction() -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let tasks = Tasks::new();
    let call = pool(&tasks).call(address, Channel::Rpc, 1, Bytes::new(), LONG);
    let reading = async {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        let mut head = [0; 8];
        socket.read_exact(&mut head).await.expect("a head");
        let mut body = vec![0; usize::from(u16::from_be_bytes([head[6], head[7]]))];
        socket.read_exact(&mut body).await.expect("a body");
        [&head[..], &body].concat()
    };
    tokio::select! {
        answer = call => panic!("answered: {answer:?}"),
        bytes = reading => bytes,
    }
}

/// Sends bytes, closes our direction, and returns all that comes.
async fn exchange(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(server.address).await.expect("connected");
    socket.write_all(bytes).await.expect("sent");
    socket.shutdown().await.expect("half closed");
    rest(socket).await
}

/// Sends bytes and returns all that comes until the server closes of its own accord.
async fn provoke(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(server.address).await.expect("connected");
    socket.write_all(bytes).await.expect("sent");
    rest(socket).await
}

async fn rest(mut socket: TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    // A reset is also an end.
    let _ = tokio::time::timeout(LONG, socket.read_to_end(&mut answer)).await.expect("closed");
    answer
}

#[tokio::test]
async fn garbage_is_closed_without_a_word_and_versions_are_refused_with_one() {
    let server = Server::start(echo()).await;
    let good = introduction().await;
    assert_eq!(good[..6], *b"MSTR\x01\x01");
    let accepted = exchange(&server, &good).await;
    assert!(!accepted.is_empty());
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"T", b"\x00", b"MSTX\x01\x01\x00\x00"] {
        assert_eq!(provoke(&server, bytes).await, b"", "{bytes:?}");
    }
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        bytes
    };
    // Too new a version, none at all, a body that is cut, one that is too long.
    let mut newer = changed(4, 2);
    newer[5] = 3;
    for bytes in [newer, changed(5, 0), changed(7, 5), changed(6, 0xff), changed(8, 99)] {
        let refused = provoke(&server, &bytes).await;
        assert!(!refused.is_empty() && refused != accepted, "{bytes:?}");
    }
    assert!(
        pool(&Tasks::new()).call(server.address, Channel::Rpc, 1, Bytes::new(), LONG).await.is_ok()
    );
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let limits = Limits { handshake_timeout: Duration::from_millis(50), ..Limits::default() };
    let server = Server::with(echo(), limits).await;
    let mut socket = TcpStream::connect(server.address).await.expect("connected");
    let read = tokio::time::timeout(LONG, socket.read_u8()).await.expect("closed");
    assert!(read.is_err());
}

#[tokio::test]
async fn nonsense_after_the_handshake_closes_the_connection() {
    let server = Server::start(echo()).await;
    let good = introduction().await;
    let accepted = exchange(&server, &good).await;
    let call = b"\0\0\0\x0d\x01\0\0\0\x01\0\x01\0\0\0\x09hi";
    let answer = exchange(&server, &[&good[..], call].concat()).await;
    assert_eq!(answer[accepted.len()..], *b"\0\0\0\x07\x02\0\0\0\x01hi");
    let frames: [&[u8]; 5] = [
        b"\xff\xff\xff\xff",
        b"\0\0\0\x01\x01",
        b"\0\0\0\x05\x63\0\0\0\x01",
        b"\0\0\0\x05\x02\0\0\0\x01",
        b"\0\0\0\x06\x04\0\0\0\x01\0",
    ];
    for frame in frames {
        let answer = provoke(&server, &[&good[..], frame].concat()).await;
        assert_eq!(answer, accepted, "{frame:?}");
    }
}

#[tokio::test]
async fn a_peer_that_breaks_the_rules_of_streams_is_closed() {
    let limits = Limits { stream_window_bytes: 100, ..Limits::default() };
    let server = Server::with(streams(|_, _| Box::pin(std::future::pending())), limits).await;
    let good = introduction().await;
    let accepted = exchange(&server, &good).await;
    let open = &b"\0\0\0\x0b\x05\0\0\0\x01\0\x01\0\0\xff\xff"[..];
    let data = &b"\0\0\0\x05\x06\0\0\0\x01"[..];
    let cases: [&[&[u8]]; 2] = [
        // An id that is in use.
        &[&good, open, open],
        // Two empty messages use the window up, the third is too much.
        &[&good, open, data, data, data],
    ];
    for case in cases {
        assert_eq!(provoke(&server, &case.concat()).await, accepted, "{case:?}");
    }
    // Credit, data and ends of exchanges that are over are nobody's fault.
    let late =
        b"\0\0\0\x09\x08\0\0\0\x07\0\0\0\x01\0\0\0\x05\x06\0\0\0\x07\0\0\0\x05\x07\0\0\0\x07";
    let call = b"\0\0\0\x0d\x01\0\0\0\x01\0\x01\0\0\0\x09hi";
    let answer = exchange(&server, &[&good[..], late, call].concat()).await;
    assert_eq!(answer[accepted.len()..], *b"\0\0\0\x07\x02\0\0\0\x01hi");
}

#[tokio::test]
async fn a_server_that_is_none_is_no_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let tasks = Tasks::new();
    let call = pool(&tasks).call(address, Channel::Rpc, 1, Bytes::new(), LONG);
    let (failed, ()) = tokio::join!(call, async {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("sent");
    });
    assert!(matches!(failed, Err(NetError::Connect { .. })), "{failed:?}");
}

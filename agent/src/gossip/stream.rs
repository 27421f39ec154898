//! Frames on a TCP stream: a 32-bit length, then the body. One exchange per connection.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::exchange::{HELLO_MAX, STATE_MAX, frame};
use super::peers::{self, Peers};

/// What a stream's next step is, as a future that the driver polls.
pub(super) type Step = Pin<Box<dyn Future<Output = Stepped> + Send>>;

/// A step has ended.
pub(super) enum Stepped {
    /// Somebody who contacted us has introduced itself.
    Hello { stream: TcpStream, from: SocketAddr, hello: Vec<u8> },
    /// And sent its state.
    State { stream: TcpStream, state: Vec<u8> },
    /// An exchange of ours has ended.
    Dialed { token: u64, answer: Result<(Vec<u8>, Option<Vec<u8>>), String> },
    /// The file of known peers is written, or not.
    Persisted(Result<(), String>),
    /// Nothing more to do.
    Done,
    /// The other side broke the rules, or off.
    Broken,
}

/// Reads the hello of somebody who contacted us.
pub(super) fn accept(mut stream: TcpStream, from: SocketAddr, limit: Duration) -> Step {
    Box::pin(async move {
        match timeout(limit, read_frame(&mut stream, HELLO_MAX)).await {
            Ok(Ok(hello)) => Stepped::Hello { stream, from, hello },
            _ => Stepped::Broken,
        }
    })
}

/// Reads its state.
pub(super) fn read_state(mut stream: TcpStream, limit: Duration) -> Step {
    Box::pin(async move {
        match timeout(limit, read_frame(&mut stream, STATE_MAX)).await {
            Ok(Ok(state)) => Stepped::State { stream, state },
            _ => Stepped::Broken,
        }
    })
}

/// Answers, and ends the stream.
pub(super) fn answer(mut stream: TcpStream, frames: Vec<Vec<u8>>, limit: Duration) -> Step {
    Box::pin(async move {
        let sent = timeout(limit, async {
            for body in &frames {
                write_frame(&mut stream, body).await?;
            }
            stream.shutdown().await?;
            // What it still sends is read away, or closing would reset the stream before the
            // answer was read.
            tokio::io::copy(&mut (&mut stream).take(STATE_MAX as u64), &mut tokio::io::sink()).await
        })
        .await;
        if matches!(sent, Ok(Ok(_))) { Stepped::Done } else { Stepped::Broken }
    })
}

/// Contacts somebody.
pub(super) fn dial(
    token: u64,
    to: SocketAddr,
    hello: Vec<u8>,
    state: Vec<u8>,
    limit: Duration,
) -> Step {
    Box::pin(async move {
        let answer = match timeout(limit, exchange(to, &hello, &state)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(cause)) => Err(cause.to_string()),
            Err(_) => Err(format!("no answer within {limit:?}")),
        };
        Stepped::Dialed { token, answer }
    })
}

/// Writes the file of known peers off this thread.
pub(super) fn persist(path: std::path::PathBuf, peers: Peers) -> Step {
    Box::pin(async move {
        let written = tokio::task::spawn_blocking(move || peers::store(&path, &peers)).await;
        Stepped::Persisted(match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        })
    })
}

async fn exchange(
    to: SocketAddr,
    hello: &[u8],
    state: &[u8],
) -> io::Result<(Vec<u8>, Option<Vec<u8>>)> {
    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    write_frame(&mut stream, hello).await?;
    // A refusal can come, and the stream end, while the state is still being sent.
    let sent = write_frame(&mut stream, state).await;
    let welcome = read_frame(&mut stream, HELLO_MAX).await;
    let welcome = welcome.map_err(|cause| sent.err().unwrap_or(cause))?;
    if welcome.first() == Some(&frame::REFUSAL) {
        return Ok((welcome, None));
    }
    let state = read_frame(&mut stream, STATE_MAX).await?;
    Ok((welcome, Some(state)))
}

async fn write_frame(stream: &mut TcpStream, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(body).await
}

/// Memory grows with what has come, not with what is announced.
async fn read_frame(stream: &mut TcpStream, limit: usize) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    if length as usize > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame is too long"));
    }
    let mut body = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut body).await?;
    if body.len() != length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}

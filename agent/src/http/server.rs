//! Listeners and connections: accepts within the limits, tells HTTP/1.1 from HTTP/2, and stops
//! cleanly.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rt::Tasks;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_util::sync::CancellationToken;

use super::guard::{Activity, Busy, Guarded, HEAD};
use crate::config::{Config, HttpListen};

/// Pause after an accept that failed: the usual cause is a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time that requests under way get when the agent stops.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Streams of one HTTP/2 connection at a time.
const STREAMS_MAX: u32 = 1_024;

/// Executor of HTTP/2: streams are tasks of the agent.
#[derive(Clone)]
struct Executor(Tasks);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn("http.stream", future);
    }
}

/// Why the door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A TCP address.
    #[error(
        "cannot listen for HTTP on {address}: {cause}; choose another port with -http-port or another \
         address with -client"
    )]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
    /// A Unix socket.
    #[error("cannot listen for HTTP on unix://{}: {cause}", path.display())]
    Unix {
        /// The path.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// A bound listener.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// Unix socket.
    Unix(UnixListener),
}

impl Listener {
    /// Binds. A socket file that nobody answers on is left over from a crash and replaced.
    pub async fn bind(listen: &HttpListen) -> Result<Self, BindError> {
        match listen {
            HttpListen::Tcp(address) => TcpListener::bind(address)
                .await
                .map(Listener::Tcp)
                .map_err(|cause| BindError::Tcp { address: *address, cause }),
            HttpListen::Unix(path) => bind_unix(path)
                .await
                .map(Listener::Unix)
                .map_err(|cause| BindError::Unix { path: path.clone(), cause }),
        }
    }

    /// The TCP address, with the port that was really bound.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(_) => None,
        }
    }
}

async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            use std::os::unix::fs::FileTypeExt as _;
            let is_socket = tokio::fs::symlink_metadata(path).await?.file_type().is_socket();
            if !is_socket || tokio::net::UnixStream::connect(path).await.is_ok() {
                return Err(error);
            }
            tokio::fs::remove_file(path).await?;
            UnixListener::bind(path)
        }
        bound => bound,
    }
}

/// Connections by client address.
#[derive(Debug, Default)]
struct Clients(Mutex<BTreeMap<IpAddr, usize>>);

/// A connection that is counted until dropped.
struct Counted {
    clients: Arc<Clients>,
    ip: IpAddr,
}

impl Clients {
    /// `None` when the address already has `limit` connections.
    fn enter(self: &Arc<Self>, ip: IpAddr, limit: usize) -> Option<Counted> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(ip).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Counted { clients: Arc::clone(self), ip })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.ip);
            }
        }
    }
}

/// Limits of connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections of one client address.
    per_client: usize,
    /// Bytes of a request's head.
    head_bytes: usize,
}

impl Limits {
    /// As configured.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            per_client: config.http_max_conns_per_client,
            head_bytes: config.http_max_header_bytes,
        }
    }
}

/// Accepts until the tasks are stopped.
pub(crate) async fn accept(listener: Listener, router: Router, limits: Limits, tasks: Tasks) {
    let stop = tasks.token();
    let clients = Arc::new(Clients::default());
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = next(&listener) => accepted,
        };
        match accepted {
            Ok(Accepted::Tcp(stream, peer)) => {
                let ip = peer.ip().to_canonical();
                let Some(counted) = clients.enter(ip, limits.per_client) else {
                    metrics::counter!("consul_http_connections_refused").increment(1);
                    tasks.spawn_until_stop("http.refuse", refuse(stream));
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let work = serve(stream, router.clone(), limits, tasks.clone());
                tasks.spawn("http.connection", async move {
                    let _counted = counted;
                    work.await;
                });
            }
            Ok(Accepted::Unix(stream)) => {
                let work = serve(stream, router.clone(), limits, tasks.clone());
                tasks.spawn("http.connection", work);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(tokio::net::UnixStream),
}

async fn next(listener: &Listener) -> io::Result<Accepted> {
    match listener {
        Listener::Tcp(listener) => {
            listener.accept().await.map(|(stream, peer)| Accepted::Tcp(stream, peer))
        }
        Listener::Unix(listener) => listener.accept().await.map(|(s, _)| Accepted::Unix(s)),
    }
}

/// Tells a client that it has too many connections, and hangs up.
async fn refuse(mut stream: TcpStream) {
    const TEXT: &str =
        "Your IP is issuing too many concurrent connections, please rate limit your calls\n";
    let answer = format!(
        "HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{TEXT}",
        TEXT.len()
    );
    let work = async {
        // The request is read first: closing with unread bytes would reset the connection before
        // the client has seen the answer.
        let mut scratch = [0; 4096];
        let _ = stream.read(&mut scratch).await;
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), work).await;
}

/// A handler panicked; the connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("a request's handler panicked")]
struct Panicked;

/// Waits for the answer to one request; dropping the future cancels what it does. A panic becomes
/// an error, which ends the connection and no other.
async fn answer(
    answered: impl Future<Output = Result<Response, Infallible>>,
    busy: Busy,
) -> Result<Response, Panicked> {
    let answered = AssertUnwindSafe(answered).catch_unwind().await;
    drop(busy);
    match answered {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(never)) => match never {},
        Err(_) => {
            metrics::counter!("consul_http_panics").increment(1);
            tracing::error!("a request's handler panicked; its connection is closed");
            Err(Panicked)
        }
    }
}

/// Serves one connection to its end.
async fn serve<S>(mut stream: S, router: Router, limits: Limits, tasks: Tasks)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stop = tasks.token();
    let first = tokio::select! {
        biased;
        () = stop.cancelled() => return,
        first = tokio::time::timeout(HEAD, preface(&mut stream)) => first,
    };
    let Ok(Ok(front)) = first else { return };
    let two = front.starts_with(b"PRI");
    let activity = Arc::new(Activity::default());
    let io = TokioIo::new(Guarded::new(stream, front, Arc::clone(&activity)));
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        let busy = activity.begin();
        answer(router.call(request), busy)
    });
    if two {
        let connection = http2::Builder::new(Executor(tasks))
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(Duration::from_secs(20)))
            .keep_alive_timeout(Duration::from_secs(20))
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .serve_connection(io, service);
        run(connection, &stop, |c| c.graceful_shutdown()).await;
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // The guard times the head; hyper's own timer would also cut idle connections.
            .header_read_timeout(None)
            .title_case_headers(true)
            .max_buf_size(limits.head_bytes.max(8192))
            .serve_connection(io, service);
        run(connection, &stop, |c| c.graceful_shutdown()).await;
    }
}

/// The first three bytes, which tell HTTP/2's preface from every method.
async fn preface<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Bytes> {
    let mut front = BytesMut::with_capacity(4096);
    while front.len() < 3 {
        if stream.read_buf(&mut front).await? == 0 {
            break;
        }
    }
    Ok(front.freeze())
}

/// Runs a connection to its end; when the agent stops, requests under way get a moment.
async fn run<C>(connection: C, stop: &CancellationToken, shut: impl FnOnce(std::pin::Pin<&mut C>))
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            shut(connection.as_mut());
            match tokio::time::timeout(STOP_GRACE, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP connection ended early");
    }
}

//! Closed-loop load: each client sends its next request when the last one was answered.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::cluster::Kind;
use super::http::Http;

/// Keys that are written and read over and over.
const KEYS: u64 = 10_000;
/// Bytes of a value.
pub(crate) const VALUE_BYTES: usize = 256;
/// Load before the measured part.
const WARM_UP: Duration = Duration::from_millis(500);
/// Appends of which the median sync is taken.
const SYNCS: usize = 200;

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Put,
    Get,
}

impl Work {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
        }
    }
}

/// What a run came to.
pub(crate) struct Run {
    pub(crate) took: Duration,
    pub(crate) latencies: Vec<Duration>,
}

/// One client: how it asks a kind of server.
pub(crate) struct Client {
    kind: Kind,
    http: Http,
    value: Vec<u8>,
    random: u64,
}

impl Client {
    pub(crate) async fn connect(kind: Kind, to: SocketAddr, seed: u64) -> Result<Self, String> {
        let http = Http::connect(to).await.map_err(|cause| format!("{to}: {cause}"))?;
        // Odd, so that no client's numbers are all zero.
        let mut client = Self { kind, http, value: Vec::new(), random: seed * 2 + 1 };
        // No repeated bytes: compression must not flatter anyone.
        client.value = (0..VALUE_BYTES).map(|_| b'a' + (client.draw() % 26) as u8).collect();
        Ok(client)
    }

    /// Marsaglia's xorshift64.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    async fn step(&mut self, work: Work) -> Result<(), String> {
        let key = self.draw() % KEYS;
        match work {
            Work::Put => self.put(key).await,
            // A key that no put has met yet is answered with 404, which is an answer.
            Work::Get => self.get(key).await.map(|_| ()),
        }
    }

    pub(crate) async fn put(&mut self, key: u64) -> Result<(), String> {
        let path = format!("/v1/kv/bench/{key}");
        let asked = match self.kind {
            Kind::Muster | Kind::Consul => self.http.ask("PUT", &path, &self.value).await,
            Kind::Etcd => {
                let value = super::table::base64(&self.value);
                let body = format!("{{\"key\":\"{}\",\"value\":\"{value}\"}}", etcd_key(key));
                self.http.ask("POST", "/v3/kv/put", body.as_bytes()).await
            }
        };
        match asked.map_err(|cause| cause.to_string())? {
            (200, _) => Ok(()),
            (status, body) => Err(format!("put: {status} {}", String::from_utf8_lossy(&body))),
        }
    }

    /// Whether the key is there.
    pub(crate) async fn get(&mut self, key: u64) -> Result<bool, String> {
        let path = format!("/v1/kv/bench/{key}");
        let asked = match self.kind {
            Kind::Muster | Kind::Consul => self.http.ask("GET", &path, b"").await,
            Kind::Etcd => {
                let body = format!("{{\"key\":\"{}\"}}", etcd_key(key));
                self.http.ask("POST", "/v3/kv/range", body.as_bytes()).await
            }
        };
        match asked.map_err(|cause| cause.to_string())? {
            (200, body) => {
                Ok(self.kind != Kind::Etcd || body.windows(5).any(|part| part == b"\"kvs\""))
            }
            (404, _) => Ok(false),
            (status, body) => Err(format!("get: {status} {}", String::from_utf8_lossy(&body))),
        }
    }
}

fn etcd_key(key: u64) -> String {
    super::table::base64(format!("bench/{key}").as_bytes())
}

/// Runs this many clients for this long.
pub(crate) async fn run(
    kind: Kind,
    to: SocketAddr,
    work: Work,
    clients: usize,
    time: Duration,
) -> Result<Run, String> {
    let mut all = JoinSet::new();
    let begin = Instant::now() + WARM_UP;
    for seed in 0..clients {
        let mut client = Client::connect(kind, to, seed as u64).await?;
        all.spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let asked = Instant::now();
                if asked >= begin + time {
                    return Ok::<_, String>(latencies);
                }
                client.step(work).await?;
                if asked >= begin {
                    latencies.push(asked.elapsed());
                }
            }
        });
    }
    let mut latencies = Vec::new();
    while let Some(ended) = all.join_next().await {
        latencies.extend(ended.map_err(|cause| cause.to_string())??);
    }
    Ok(Run { took: time, latencies })
}

/// Median time of an append of 512 bytes with its fdatasync.
pub(crate) fn fdatasync_us(dir: &Path) -> Result<f64, String> {
    let path = dir.join("fdatasync");
    let measured = || -> std::io::Result<f64> {
        let mut file = File::create(&path)?;
        let mut times = Vec::with_capacity(SYNCS);
        for _ in 0..SYNCS {
            let before = Instant::now();
            file.write_all(&[7; 512])?;
            file.sync_data()?;
            times.push(before.elapsed());
        }
        std::fs::remove_file(&path)?;
        times.sort_unstable();
        Ok(times.get(SYNCS / 2).map_or(0.0, Duration::as_secs_f64) * 1e6)
    };
    measured().map_err(|cause| format!("cannot sync in {}: {cause}", dir.display()))
}

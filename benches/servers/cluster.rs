//! Processes that are measured: started in a directory of their own, killed when dropped.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::http::Http;

/// Time that servers have to form a cluster, or to read what they stored.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Ports of one server.
const PORTS: usize = 6;

/// Whose servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Muster,
    Consul,
    Etcd,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Muster, Self::Consul, Self::Etcd];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Muster => "muster",
            Self::Consul => "consul",
            Self::Etcd => "etcd",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Muster => env!("CARGO_BIN_EXE_muster"),
            Self::Consul | Self::Etcd => self.name(),
        }
    }

    /// Whether its program can be run.
    pub(crate) fn is_there(self) -> bool {
        let mut asked = Command::new(self.program());
        asked.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        asked.status().is_ok()
    }
}

/// Servers of one kind on loopback.
pub(crate) struct Cluster {
    kind: Kind,
    dir: PathBuf,
    ports: Vec<[u16; PORTS]>,
    children: Vec<Child>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Gone already: that is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Cluster {
    /// Starts this many servers and waits until they answer.
    pub(crate) async fn start(kind: Kind, count: usize, dir: &Path) -> Result<Self, String> {
        let ports = free_ports(count).map_err(|cause| format!("no free ports: {cause}"))?;
        let mut cluster = Self { kind, dir: dir.to_owned(), ports, children: Vec::new() };
        for n in 0..count {
            let child = cluster.spawn(n)?;
            cluster.children.push(child);
        }
        cluster.leader().await?;
        Ok(cluster)
    }

    fn spawn(&self, n: usize) -> Result<Child, String> {
        let failed = |cause: io::Error| format!("cannot start {}: {cause}", self.kind.name());
        let dir = self.dir.join(n.to_string());
        fs::create_dir_all(&dir).map_err(failed)?;
        let log =
            File::options().create(true).append(true).open(dir.join("log")).map_err(failed)?;
        let mut command = Command::new(self.kind.program());
        match self.kind {
            Kind::Muster | Kind::Consul => self.agent(&mut command, n, &dir).map_err(failed)?,
            Kind::Etcd => self.etcd(&mut command, n, &dir),
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log);
        command.spawn().map_err(failed)
    }

    fn agent(&self, command: &mut Command, n: usize, dir: &Path) -> io::Result<()> {
        let [http, server, lan, wan, dns, _] = self.ports[n];
        let join: Vec<String> = self.ports.iter().map(|p| format!("127.0.0.1:{}", p[2])).collect();
        let settings = serde_json::json!({
            "server": true,
            "bootstrap_expect": self.ports.len(),
            "node_name": format!("s{n}"),
            "data_dir": dir.join("data"),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "retry_join": join,
            "log_level": "WARN",
            "performance": { "raft_multiplier": 1 },
            "limits": { "http_max_conns_per_client": 4_096 },
            "ports": {
                "http": http, "server": server, "serf_lan": lan, "serf_wan": wan, "dns": dns,
            },
        });
        let path = dir.join("settings.json");
        fs::write(&path, settings.to_string())?;
        command.arg("agent").arg("-config-file").arg(path);
        Ok(())
    }

    fn etcd(&self, command: &mut Command, n: usize, dir: &Path) {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let peers = self.ports.iter().enumerate();
        let peers: Vec<String> = peers.map(|(n, p)| format!("s{n}={}", url(p[1]))).collect();
        let [client, peer, ..] = self.ports[n];
        command.arg("--name").arg(format!("s{n}")).arg("--data-dir").arg(dir.join("data"));
        command.args(["--log-level", "error", "--quota-backend-bytes", "8589934592"]);
        for (option, value) in [
            ("--listen-client-urls", url(client)),
            ("--advertise-client-urls", url(client)),
            ("--listen-peer-urls", url(peer)),
            ("--initial-advertise-peer-urls", url(peer)),
            ("--initial-cluster", peers.join(",")),
        ] {
            command.arg(option).arg(value);
        }
    }

    /// Where clients reach server `n`.
    pub(crate) fn address(&self, n: usize) -> SocketAddr {
        ([127, 0, 0, 1], self.ports[n][0]).into()
    }

    /// Waits until there is a leader that all servers know, and says where it is.
    pub(crate) async fn leader(&self) -> Result<SocketAddr, String> {
        let looks = PATIENCE.as_millis() / LOOK.as_millis();
        for _ in 0..looks {
            if let Some(leader) = self.look().await {
                return Ok(leader);
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(format!(
            "{} found no leader; its logs were in {}",
            self.kind.name(),
            self.dir.display()
        ))
    }

    async fn look(&self) -> Option<SocketAddr> {
        let mut leader = None;
        for n in 0..self.ports.len() {
            let mut server = Http::connect(self.address(n)).await.ok()?;
            match self.kind {
                Kind::Muster | Kind::Consul => {
                    let (status, body) = server.ask("GET", "/v1/status/leader", b"").await.ok()?;
                    let text = String::from_utf8_lossy(&body).trim().trim_matches('"').to_owned();
                    let port: u16 = text.rsplit(':').next()?.parse().ok()?;
                    let of = self.ports.iter().position(|ports| ports[1] == port)?;
                    leader = (status == 200).then(|| self.address(of));
                }
                Kind::Etcd => {
                    let (_, body) = server.ask("GET", "/metrics", b"").await.ok()?;
                    let text = String::from_utf8_lossy(&body).into_owned();
                    if !text.contains("etcd_server_has_leader 1") {
                        return None;
                    }
                    if text.contains("etcd_server_is_leader 1") {
                        leader = Some(self.address(n));
                    }
                }
            }
        }
        leader
    }

    /// Processor time of all servers so far.
    pub(crate) fn cpu(&self) -> Duration {
        /// Ticks of /proc in a second, on every Linux that this runs on.
        const TICKS: u64 = 100;
        let ticks = |child: &Child| {
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
            let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
            let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
            Some(number(11)? + number(12)?)
        };
        let all: u64 = self.children.iter().filter_map(ticks).sum();
        Duration::from_millis(all * 1_000 / TICKS)
    }

    /// Resident memory of server 0, in MiB.
    pub(crate) fn resident_mib(&self) -> u64 {
        let of = |child: &Child| {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
            let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        self.children.first().and_then(of).unwrap_or(0) / 1_024
    }

    /// Kills server 0 without a warning and starts it again.
    pub(crate) fn crash(&mut self) -> Result<(), String> {
        let failed = |cause: io::Error| format!("cannot kill {}: {cause}", self.kind.name());
        if let Some(mut child) = self.children.pop() {
            child.kill().map_err(failed)?;
            child.wait().map_err(failed)?;
        }
        let child = self.spawn(0)?;
        self.children.push(child);
        Ok(())
    }

    /// Ends it and forgets its data.
    pub(crate) fn stop(self) {
        let dir = self.dir.clone();
        drop(self);
        // The directory above goes at the end in any case.
        let _ = fs::remove_dir_all(dir);
    }
}

/// Ports that nobody listens on now.
fn free_ports(count: usize) -> io::Result<Vec<[u16; PORTS]>> {
    // All are held until the last is found, so that none is given twice.
    let held: io::Result<Vec<TcpListener>> =
        (0..count * PORTS).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let ports: io::Result<Vec<u16>> =
        held?.iter().map(|listener| Ok(listener.local_addr()?.port())).collect();
    Ok(ports?.as_chunks::<PORTS>().0.to_vec())
}

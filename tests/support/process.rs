//! Real `muster` processes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::http::{Answer, http};
use super::{Network, eventually, within};

/// The program under test.
pub(crate) fn program() -> &'static str {
    env!("CARGO_BIN_EXE_muster")
}

/// Runs a command of the command line to its end: exit code, stdout, stderr.
pub(crate) fn cli(args: &[&str]) -> (i32, String, String) {
    cli_with(&[], args)
}

/// The same with environment variables; none of ours comes from outside.
pub(crate) fn cli_with(variables: &[(&str, &str)], args: &[&str]) -> (i32, String, String) {
    let output = Command::new(program())
        .args(args)
        .env_remove("CONSUL_HTTP_ADDR")
        .env_remove("MUSTER_HTTP_ADDR")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("the program runs");
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// A `muster agent` that is killed when dropped.
#[derive(Debug)]
pub(crate) struct Muster {
    child: Option<Child>,
    args: Vec<String>,
    /// What it is started by.
    wrap: Vec<String>,
    /// Further variables of its environment.
    pub(crate) variables: Vec<(String, String)>,
    /// Its address.
    pub(crate) ip: String,
    /// Where its output goes.
    pub(crate) log: PathBuf,
}

impl Muster {
    /// `agent -dev` on this address with these further arguments.
    pub(crate) fn dev(dir: &Path, ip: &str, args: &[&str]) -> Self {
        let mut all = vec!["-dev".to_owned(), format!("-bind={ip}"), format!("-client={ip}")];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        let mut muster = Self::prepare(dir, ip, "dev", all);
        muster.start();
        muster
    }

    /// Server `n` of a cluster of `expect` on this network.
    pub(crate) fn server(dir: &Path, network: &Network, n: u8, expect: u8) -> Self {
        let expect = format!("-bootstrap-expect={expect}");
        Self::member(dir, network, n, &format!("s{n}"), &["-server", &expect])
    }

    /// A client agent on address `n` of this network.
    pub(crate) fn client(dir: &Path, network: &Network, n: u8) -> Self {
        Self::member(dir, network, n, &format!("c{n}"), &[])
    }

    /// An agent named `name` on address `n` that joins address 1.
    pub(crate) fn member(dir: &Path, network: &Network, n: u8, name: &str, args: &[&str]) -> Self {
        let mut muster = Self::prepare_member(dir, network, n, name, args);
        muster.start();
        muster
    }

    /// Server `n` of a cluster of `expect` that is not started yet and knows all the others.
    pub(crate) fn prepare_server(dir: &Path, network: &Network, n: u8, expect: u8) -> Self {
        let mut args = vec!["-server".to_owned(), format!("-bootstrap-expect={expect}")];
        args.extend((2..=expect).map(|other| format!("-retry-join={}", network.ip(other))));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Self::prepare_member(dir, network, n, &format!("s{n}"), &args)
    }

    fn prepare_member(dir: &Path, network: &Network, n: u8, name: &str, args: &[&str]) -> Self {
        let ip = network.ip(n);
        let data = dir.join(name);
        let mut all = vec![
            format!("-node={name}"),
            format!("-bind={ip}"),
            format!("-client={ip}"),
            format!("-data-dir={}", data.display()),
            format!("-retry-join={}", network.ip(1)),
            "-retry-interval=2s".to_owned(),
        ];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        Self::prepare(dir, &ip, name, all)
    }

    /// A process that is not started yet.
    pub(crate) fn prepare(dir: &Path, ip: &str, name: &str, args: Vec<String>) -> Self {
        let log = dir.join(format!("{name}.log"));
        let (wrap, variables) = (Vec::new(), Vec::new());
        Self { child: None, args, wrap, variables, ip: ip.to_owned(), log }
    }

    /// Is started by this program, which becomes it.
    pub(crate) fn wrapped(mut self, wrap: Vec<String>) -> Self {
        self.wrap = wrap;
        self
    }

    /// Is started with this environment variable.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it, again after a stop with the same arguments.
    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "already running");
        let log = File::options().create(true).append(true).open(&self.log).expect("a log file");
        let mut line = self.wrap.clone();
        line.push(program().to_owned());
        let child = Command::new(&line[0])
            .args(&line[1..])
            .arg("agent")
            .args(&self.args)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the program runs");
        self.child = Some(child);
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        // SAFETY: kill takes two numbers and touches no memory of ours; the child is not yet
        // reaped, so the id is still its own.
        #[expect(unsafe_code, reason = "the standard library sends no signals but SIGKILL")]
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(result, 0, "signal {signal} to {pid}");
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("running");
        within(limit, "the process ends", || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("still running".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Whether it runs.
    pub(crate) fn running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// `ip:8500`.
    pub(crate) fn address(&self) -> String {
        format!("{}:8500", self.ip)
    }

    /// One HTTP request; fails the test when there is no answer.
    #[track_caller]
    pub(crate) fn http(&self, method: &str, path: &str, body: impl AsRef<[u8]>) -> Answer {
        match http(&self.address(), method, path, body.as_ref()) {
            Ok(answer) => answer,
            Err(error) => panic!("{method} {path} at {}: {error}; log:\n{}", self.ip, self.tail()),
        }
    }

    /// GET.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.http("GET", path, "")
    }

    /// GET, 200, JSON.
    #[track_caller]
    pub(crate) fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// PUT that must be answered 200; its body as text.
    #[track_caller]
    pub(crate) fn put(&self, path: &str, body: impl AsRef<[u8]>) -> String {
        let answer = self.http("PUT", path, body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.text()
    }

    /// Waits until a leader is known here.
    #[track_caller]
    pub(crate) fn wait_for_leader(&self) -> String {
        eventually("a leader", || {
            let answer = http(&self.address(), "GET", "/v1/status/leader", b"")?;
            let leader = answer.text();
            if answer.status == 200 && leader.len() > 2 { Ok(leader) } else { Err(leader) }
        })
    }

    /// Waits until the members that this agent holds in `status` are these.
    #[track_caller]
    pub(crate) fn wait_for_members(&self, limit: Duration, status: u64, names: &[&str]) {
        within(limit, &format!("members {names:?} in status {status} at {}", self.ip), || {
            let answer = http(&self.address(), "GET", "/v1/agent/members", b"")?;
            let members: Vec<Value> =
                serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
            let mut found: Vec<&str> = members
                .iter()
                .filter(|member| member["Status"] == status)
                .filter_map(|member| member["Name"].as_str())
                .collect();
            found.sort_unstable();
            if found == names { Ok(()) } else { Err(format!("{found:?}")) }
        });
    }

    /// The end of its log.
    pub(crate) fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Muster {
    #[expect(clippy::print_stderr, reason = "a failed test shows what its processes said")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.log.display(), self.tail());
        }
        self.kill();
    }
}

/// Three servers that have a leader, on addresses 1 to 3 of a network of their own.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The servers. First, so that a failed test shows their logs before they are deleted.
    pub(crate) servers: Vec<Muster>,
    /// Their data and logs.
    pub(crate) dir: tempfile::TempDir,
    /// Their network.
    pub(crate) network: Network,
}

impl Cluster {
    /// Starts them and waits for a leader everywhere.
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let network = Network::new();
        let servers: Vec<Muster> =
            (1..=3).map(|n| Muster::server(dir.path(), &network, n, 3)).collect();
        for server in &servers {
            server.wait_for_leader();
        }
        Self { dir, network, servers }
    }

    /// `size` servers that know each other, each as `change` wants it, on this network.
    pub(crate) fn start_as(
        size: u8,
        network: Network,
        change: impl Fn(u8, Muster) -> Muster,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let prepare = |n| change(n, Muster::prepare_server(dir.path(), &network, n, size));
        let mut servers: Vec<Muster> = (1..=size).map(prepare).collect();
        for server in &mut servers {
            server.start();
        }
        for server in &servers {
            server.wait_for_leader();
        }
        Self { dir, network, servers }
    }

    /// Term, and whether this server says that it leads in it; `None` without an answer.
    pub(crate) fn standing(&self, i: usize) -> Option<(u64, bool)> {
        standing(&self.servers[i].address())
    }

    /// The term in which all servers are, with one leader among them.
    pub(crate) fn settled_term(&self) -> u64 {
        eventually("one leader, one term", || {
            let seen: Vec<_> = (0..self.servers.len()).map(|i| self.standing(i)).collect();
            let term = seen[0].map_or(0, |(term, _)| term);
            let agree = seen.iter().all(|one| one.is_some_and(|(its, _)| its == term));
            let leaders = seen.iter().flatten().filter(|(_, leads)| *leads).count();
            if agree && leaders == 1 { Ok(term) } else { Err(format!("{seen:?}")) }
        })
    }

    /// A further client agent on address `n`, joined, able to write, and a healthy node of the
    /// catalog: before that nobody can bind a session to it.
    pub(crate) fn client(&self, n: u8) -> Muster {
        let client = Muster::client(self.dir.path(), &self.network, n);
        client.wait_for_leader();
        eventually("the client's node is healthy", || {
            let path = format!("/v1/health/node/c{n}");
            let answer = http(&client.address(), "GET", &path, b"")?;
            if answer.text().contains("\"passing\"") { Ok(()) } else { Err(answer.text()) }
        });
        client
    }

    /// Index of the server that leads.
    pub(crate) fn leader(&self) -> usize {
        eventually("a leader among the running servers", || {
            for (i, server) in self.servers.iter().enumerate() {
                let Ok(answer) = http(&server.address(), "GET", "/v1/status/leader", b"") else {
                    continue;
                };
                let text = answer.text();
                for (j, other) in self.servers.iter().enumerate() {
                    if text == format!("\"{}:8300\"", other.ip) && (i == j || self.answers(j)) {
                        return Ok(j);
                    }
                }
            }
            Err("none".to_owned())
        })
    }

    fn answers(&self, i: usize) -> bool {
        http(&self.servers[i].address(), "GET", "/v1/status/leader", b"").is_ok()
    }
}

/// Term, and whether the server at this address says that it leads in it.
pub(crate) fn standing(address: &str) -> Option<(u64, bool)> {
    let limit = Duration::from_secs(2);
    let answer = super::http::request(address, "GET", "/v1/agent/self", &[], b"", limit).ok()?;
    let facts: Value = serde_json::from_slice(&answer.body).ok()?;
    let raft = &facts["Stats"]["raft"];
    let term = raft["term"].as_str()?.parse().ok()?;
    Some((term, raft["state"] == "Leader"))
}

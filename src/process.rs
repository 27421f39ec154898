//! The running process: starts gossip, server and agent in their order, obeys signals and orders,
//! and stops everything in reverse.

use std::sync::Arc;
use std::time::Duration;

use agent::config::{Config, HttpListen, Reloadable};
use agent::gossip::{Gossip, GossipConfig};
use agent::http::Control;
use agent::{Agent, Outside};
use model::rpc::{Body, Op, Request};
use model::seam::{Backend, Cluster};
use model::{CONSUL_VERSION, MUSTER_VERSION, NodeId};
use rt::{Clock, Rng, Tasks};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::agent::banner;
use crate::config::Settings;
use crate::log::LogLevel;

/// Orders that may wait for the process: each comes from one HTTP request, which waits for it.
const ORDERS_MAX: usize = 16;

/// Longest time that stopping may take before the process ends all the same.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Longest time of a graceful leave (spec/agent.md §1).
const LEAVE_MAX: Duration = Duration::from_secs(15);

/// How long `-dev` waits for its own service before it says ready all the same.
const READY_MAX: Duration = Duration::from_secs(5);

type Reload = Box<dyn Fn() -> Result<Reloadable, String> + Send + Sync>;

/// Runs until a signal or an order ends it; the exit code, or one line saying why it did not start.
pub(crate) fn run(
    settings: Settings,
    rng: Rng,
    level: &LogLevel,
    reload: Reload,
) -> Result<u8, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start threads: {error}"))?;
    let code = runtime.block_on(async {
        let tasks = Tasks::new();
        let ended = serve(settings, &rng, level, &reload, &tasks).await;
        let stopped = tasks.stop_and_wait(STOP_MAX).await;
        if !stopped.unfinished.is_empty() {
            tracing::warn!(unfinished = ?stopped.unfinished, "stopped without waiting for all tasks");
        }
        ended
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn serve(
    settings: Settings,
    rng: &Rng,
    level: &LogLevel,
    reload: &Reload,
    tasks: &Tasks,
) -> Result<u8, String> {
    let mut signals = Signals::listen()?;
    let (control, orders) = mpsc::channel(ORDERS_MAX);
    // Gossip outlives the rest: it must still say that we leave.
    let (server_tasks, gossip_tasks) = (Tasks::new(), Tasks::new());
    let started = tokio::select! {
        biased;
        () = signals.abort() => {
            tracing::info!("told to stop before the start was finished");
            Ok(None)
        }
        started = start(settings, rng, control, tasks, &server_tasks, &gossip_tasks) => {
            started.map(Some)
        }
    };
    let ended = match started {
        Ok(Some(running)) => Ok(running.run(orders, &mut signals, level, reload).await),
        Ok(None) => Ok(1),
        Err(error) => Err(error),
    };
    tasks.stop_and_wait(STOP_MAX).await;
    server_tasks.stop_and_wait(STOP_MAX).await;
    gossip_tasks.stop_and_wait(STOP_MAX).await;
    if let Ok(code) = &ended {
        tracing::info!("Exit code: code={code}");
    }
    ended
}

/// Starts gossip, then the server or the way to servers, then the agent.
async fn start(
    settings: Settings,
    rng: &Rng,
    control: mpsc::Sender<Control>,
    tasks: &Tasks,
    server_tasks: &Tasks,
    gossip_tasks: &Tasks,
) -> Result<Running, String> {
    let clock = Clock::system();
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new()
        .install_recorder()
        .map_err(|error| format!("cannot start metrics: {error}"))?;
    let config = settings.agent;
    let build = format!("{CONSUL_VERSION}:{MUSTER_VERSION}");
    let gossip = agent::gossip::start(
        GossipConfig::lan(&config, &build),
        clock.clone(),
        rng.clone(),
        gossip_tasks,
    )
    .await
    .map_err(|error| one_line(&error))?;
    let boot_id = NodeId::from_random(rng.bytes16());
    let backend: Arc<dyn Backend> = match settings.server {
        Some(server) => server::start(
            server,
            Arc::clone(&gossip) as Arc<dyn Cluster>,
            clock.clone(),
            rng.clone(),
            boot_id,
            server_tasks,
        )
        .await
        .map_err(|error| one_line(&error))?,
        None => client_backend(&config, &gossip, boot_id, &clock, rng, server_tasks),
    };
    let outside = Outside {
        gossip: Arc::clone(&gossip),
        backend: Arc::clone(&backend),
        control,
        metrics: metrics.clone(),
        clock,
        rng: rng.clone(),
    };
    let agent =
        agent::start(config.clone(), outside, tasks).await.map_err(|error| one_line(&error))?;
    tasks.spawn_until_stop("metrics upkeep", async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            metrics.run_upkeep();
        }
    });
    if config.dev {
        ready(&config, backend.as_ref()).await;
    }
    // Who reads the log as JSON wants nothing else among its lines (spec/agent.md §1).
    if !settings.log_json {
        announce(&config);
    }
    Ok(Running {
        config,
        agent,
        backend,
        gossip,
        skip_leave_on_interrupt: settings.skip_leave_on_interrupt,
        leave_on_terminate: settings.leave_on_terminate,
    })
}

/// A process that has started.
struct Running {
    config: Config,
    agent: Agent,
    backend: Arc<dyn Backend>,
    gossip: Arc<Gossip>,
    skip_leave_on_interrupt: bool,
    leave_on_terminate: bool,
}

impl Running {
    /// Obeys orders and signals until one of them ends the process; the exit code.
    async fn run(
        &self,
        mut orders: mpsc::Receiver<Control>,
        signals: &mut Signals,
        level: &LogLevel,
        reload: &Reload,
    ) -> u8 {
        let mut joined = self.agent.join();
        loop {
            tokio::select! {
                biased;
                // Nobody can give orders while HTTP is off: then only signals count.
                Some(order) = orders.recv() => match order {
                    Control::Reload(answer) => {
                        let _ = answer.send(self.reload_now(level, reload).await);
                    }
                    Control::Leave(answer) => {
                        tracing::info!("Gracefully shutting down agent...");
                        let left = self.leave(signals).await;
                        let code = u8::from(left.is_err());
                        let _ = answer.send(left);
                        return code;
                    }
                },
                signalled = signals.next() => match signalled {
                    Signalled::Hangup => {
                        if let Err(error) = self.reload_now(level, reload).await {
                            tracing::error!(%error, "reload failed, the old settings stay in force");
                        }
                    }
                    Signalled::Interrupt if self.skip_leave_on_interrupt => {
                        tracing::info!("Graceful shutdown disabled. Exiting");
                        self.resign(signals).await;
                        return 1;
                    }
                    Signalled::Terminate if !self.leave_on_terminate => {
                        tracing::info!("Graceful shutdown disabled. Exiting");
                        self.resign(signals).await;
                        return 1;
                    }
                    Signalled::Interrupt | Signalled::Terminate => {
                        return self.leave_in_time(signals).await;
                    }
                },
                ended = &mut joined => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "cannot join");
                        return 1;
                    }
                }
            }
        }
    }

    /// Reads the settings again and puts them into force; files are read off the async threads.
    async fn reload_now(&self, level: &LogLevel, reload: &Reload) -> Result<(), String> {
        let new = tokio::task::block_in_place(reload)?;
        let log_level = new.log_level.clone();
        self.agent.reload(new).await.map_err(|error| one_line(&error))?;
        level.set(&log_level);
        tracing::info!("configuration reloaded");
        Ok(())
    }

    async fn leave_in_time(&self, signals: &mut Signals) -> u8 {
        tracing::info!("Gracefully shutting down agent...");
        match tokio::time::timeout(LEAVE_MAX, self.leave(signals)).await {
            Ok(Ok(())) => {
                tracing::info!("Graceful exit completed");
                0
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "graceful exit failed");
                1
            }
            Err(_) => {
                tracing::error!(limit = ?LEAVE_MAX, "graceful exit took too long");
                1
            }
        }
    }

    /// Stays a member, but not its leader: the others need not find out by its silence. A further
    /// signal cuts that short.
    async fn resign(&self, signals: &mut Signals) {
        tokio::select! {
            biased;
            _ = signals.next() => {}
            () = self.backend.resign() => {}
        }
    }

    /// Leaves; a signal that comes meanwhile ends that at once.
    async fn leave(&self, signals: &mut Signals) -> Result<(), String> {
        tokio::select! {
            biased;
            _ = signals.next() => Err("a further signal: exiting at once".to_owned()),
            left = self.hand_over() => left,
        }
    }

    /// Hands over, says goodbye, and goes on answering for a moment.
    async fn hand_over(&self) -> Result<(), String> {
        self.agent.retire();
        if let Err(error) = self.backend.leave().await {
            tracing::warn!(%error, "left without the servers' consent");
        }
        self.gossip.leave().await.map_err(|error| one_line(&error))?;
        if self.config.server {
            tokio::time::sleep(self.config.leave_drain_time).await;
        }
        Ok(())
    }
}

fn client_backend(
    config: &Config,
    gossip: &Arc<Gossip>,
    boot_id: NodeId,
    clock: &Clock,
    rng: &Rng,
    tasks: &Tasks,
) -> Arc<dyn Backend> {
    let identity = net::Identity {
        node_id: config.node_id,
        role: net::Role::Client,
        datacenter: config.datacenter.clone(),
        state_version: u32::from(model::wire::VERSION),
    };
    let limits =
        net::Limits { handshake_timeout: config.rpc_handshake_timeout, ..net::Limits::default() };
    let pool = net::Pool::new(identity, limits, clock.clone(), rng.clone(), tasks);
    let cluster = Arc::clone(gossip) as Arc<dyn Cluster>;
    net::Client::start(cluster, pool, boot_id, rng.clone(), clock.clone(), tasks)
}

/// Waits until this node's own service is in the catalog with its health.
async fn ready(config: &Config, backend: &dyn Backend) {
    let op = Op::HealthService {
        service: "consul".into(),
        tags: Vec::new(),
        meta: Default::default(),
        connect: false,
    };
    let look = async {
        let mut request = Request::new(op);
        loop {
            if let Ok(reply) = backend.ask(request.clone()).await {
                let Body::Instances(found) = &reply.body else { return };
                let own = found.iter().any(|instance| {
                    *instance.node.name == *config.node_name && !instance.checks.is_empty()
                });
                if own {
                    return;
                }
                request.min_index = reply.meta.index;
                request.wait_ms = 1_000;
            }
        }
    };
    if tokio::time::timeout(READY_MAX, look).await.is_err() {
        tracing::warn!(waited = ?READY_MAX, "our own service is not in the catalog yet");
    }
}

fn announce(config: &Config) {
    let doors = |list: Vec<String>| {
        if list.is_empty() { "off".to_owned() } else { list.join(", ") }
    };
    let http: Vec<String> = config
        .http
        .iter()
        .map(|listen| match listen {
            HttpListen::Tcp(address) => format!("http://{address}"),
            HttpListen::Unix(path) => format!("unix://{}", path.display()),
        })
        .collect();
    let dns: Vec<String> = config.dns.iter().map(|address| format!("{address}")).collect();
    let mut lines = vec![
        ("Version".to_owned(), format!("{MUSTER_VERSION} (interface of Consul {CONSUL_VERSION})")),
        ("Node name".to_owned(), config.node_name.clone()),
        ("Node ID".to_owned(), config.node_id.to_string()),
        ("Datacenter".to_owned(), config.datacenter.clone()),
        ("Server".to_owned(), if config.server { "yes" } else { "no" }.to_owned()),
        ("HTTP".to_owned(), doors(http.clone())),
        ("DNS".to_owned(), doors(dns.clone())),
        ("Gossip".to_owned(), config.serf_lan_advertise.to_string()),
    ];
    if config.server {
        lines.push(("RPC".to_owned(), format!("{}:{}", config.advertise, config.server_port)));
    }
    let mut hints = Vec::new();
    if config.dev {
        if let Some(http) = http.first().filter(|http| http.starts_with("http")) {
            hints.push(format!("curl -X PUT -d hello {http}/v1/kv/greeting"));
            hints.push(format!("curl {http}/v1/health/service/consul?pretty"));
        }
        if let Some(dns) = config.dns.first() {
            let (ip, port) = (dns.ip(), dns.port());
            hints.push(format!("dig @{ip} -p {port} consul.service.{}", config.domain));
        }
    }
    banner(&lines, &hints);
}

/// An error and its causes in one line; a cause that the text before it already holds is left out.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signalled {
    Hangup,
    Interrupt,
    Terminate,
}

struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Self, String> {
        let listen =
            |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
        Ok(Self {
            hangup: listen(SignalKind::hangup())?,
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Returns when the process is told to stop while it still starts.
    async fn abort(&mut self) {
        while self.next().await == Signalled::Hangup {
            tracing::error!("cannot reload before the agent has started");
        }
    }

    async fn next(&mut self) -> Signalled {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => Signalled::Interrupt,
            _ = self.terminate.recv() => Signalled::Terminate,
            _ = self.hangup.recv() => Signalled::Hangup,
        }
    }
}

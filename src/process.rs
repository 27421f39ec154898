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
    let clock = Clock::system();
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new()
        .install_recorder()
        .map_err(|error| format!("cannot start metrics: {error}"))?;
    let config = settings.agent;
    let build = format!("{CONSUL_VERSION}:{MUSTER_VERSION}");
    // Gossip outlives the rest: it must still say that we leave.
    let gossip_tasks = Tasks::new();
    let gossip = agent::gossip::start(
        GossipConfig::lan(&config, &build),
        clock.clone(),
        rng.clone(),
        &gossip_tasks,
    )
    .await
    .map_err(|error| one_line(&error))?;
    let boot_id = NodeId::from_random(rng.bytes16());
    let server_tasks = Tasks::new();
    let backend: Arc<dyn Backend> = match settings.server {
        Some(server) => server::start(
            server,
            Arc::clone(&gossip) as Arc<dyn Cluster>,
            clock.clone(),
            rng.clone(),
            boot_id,
            &server_tasks,
        )
        .await
        .map_err(|error| one_line(&error))?,
        None => client_backend(&config, &gossip, boot_id, &clock, rng, &server_tasks),
    };
    let (control, mut orders) = mpsc::channel(ORDERS_MAX);
    let outside = Outside {
        gossip: Arc::clone(&gossip),
        backend: Arc::clone(&backend),
        control,
        metrics: metrics.clone(),
        clock: clock.clone(),
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
    announce(&config);

    let mut joined = agent.join();
    let code = loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Control::Reload(answer)) => {
                    let _ = answer.send(reload_now(&agent, level, reload).await);
                }
                Some(Control::Leave(answer)) => {
                    let left = leave(&config, backend.as_ref(), &gossip).await;
                    let fine = left.is_ok();
                    let _ = answer.send(left);
                    break u8::from(!fine);
                }
                None => break 1,
            },
            signalled = signals.next() => match signalled {
                Signalled::Hangup => {
                    if let Err(error) = reload_now(&agent, level, reload).await {
                        tracing::error!(%error, "reload failed, the old settings stay in force");
                    }
                }
                Signalled::Interrupt if settings.skip_leave_on_interrupt => {
                    tracing::info!("Graceful shutdown disabled. Exiting");
                    break 1;
                }
                Signalled::Terminate if !settings.leave_on_terminate => {
                    tracing::info!("Graceful shutdown disabled. Exiting");
                    break 1;
                }
                Signalled::Interrupt | Signalled::Terminate => {
                    tracing::info!("Gracefully shutting down agent...");
                    break gracefully(&config, backend.as_ref(), &gossip, &mut signals).await;
                }
            },
            ended = &mut joined => {
                if let Err(error) = ended {
                    tracing::error!(%error, "cannot join");
                    break 1;
                }
            }
        }
    };
    tasks.stop_and_wait(STOP_MAX).await;
    server_tasks.stop_and_wait(STOP_MAX).await;
    gossip_tasks.stop_and_wait(STOP_MAX).await;
    tracing::info!("Exit code: code={code}");
    Ok(code)
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

/// Reads the settings again and puts them into force; files are read off the async threads.
async fn reload_now(agent: &Agent, level: &LogLevel, reload: &Reload) -> Result<(), String> {
    let new = tokio::task::block_in_place(reload)?;
    level.set(&new.log_level);
    agent.reload(new).await.map_err(|error| one_line(&error))?;
    tracing::info!("configuration reloaded");
    Ok(())
}

/// Hands over, says goodbye, and goes on answering for a moment.
async fn leave(config: &Config, backend: &dyn Backend, gossip: &Gossip) -> Result<(), String> {
    if let Err(error) = backend.leave().await {
        tracing::warn!(%error, "left without the servers' consent");
    }
    gossip.leave().await.map_err(|error| one_line(&error))?;
    if config.server {
        tokio::time::sleep(config.leave_drain_time).await;
    }
    Ok(())
}

async fn gracefully(
    config: &Config,
    backend: &dyn Backend,
    gossip: &Gossip,
    signals: &mut Signals,
) -> u8 {
    tokio::select! {
        biased;
        _ = signals.next() => {
            tracing::warn!("a second signal: exiting at once");
            1
        }
        left = tokio::time::timeout(LEAVE_MAX, leave(config, backend, gossip)) => match left {
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
        },
    }
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

    async fn next(&mut self) -> Signalled {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => Signalled::Interrupt,
            _ = self.terminate.recv() => Signalled::Terminate,
            _ = self.hangup.recv() => Signalled::Hangup,
        }
    }
}

//! Wires the rooms of an agent: this node's definitions, the view, the doors, and joining.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use model::seam::{Backend, Cluster};
use rt::{Clock, Rng, Tasks};
use tokio::sync::{mpsc, watch};

use crate::config::{Config, DnsSettings, Reloadable};
use crate::gossip::join::{self, JoinExhausted};
use crate::gossip::{Gossip, announce};
use crate::http::{AllowAll, Context, Control};
use crate::local::{self, Local, LocalError};
use crate::view::View;
use crate::{dns, http};

/// What an agent is given from outside.
pub struct Outside {
    /// Who is alive; bound, and not yet open.
    pub gossip: Arc<Gossip>,
    /// The way to the servers.
    pub backend: Arc<dyn Backend>,
    /// Orders to the process.
    pub control: mpsc::Sender<Control>,
    /// Metrics as Prometheus text.
    pub metrics: PrometheusHandle,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
}

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// This node's definitions.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The HTTP door.
    #[error(transparent)]
    Http(#[from] http::BindError),
    /// The DNS door.
    #[error(transparent)]
    Dns(#[from] dns::BindError),
    /// A domain that DNS cannot serve.
    #[error(transparent)]
    Domain(#[from] dns::BadDomain),
}

/// A running agent.
pub struct Agent {
    config: Arc<Config>,
    local: Arc<Local>,
    reloadable: watch::Sender<Arc<Reloadable>>,
    dns: watch::Sender<Arc<DnsSettings>>,
    gossip: Arc<Gossip>,
    clock: Clock,
    rng: Rng,
}

/// Starts an agent: its definitions, then its doors, then gossip answers others. Everything runs
/// until `tasks` stop.
pub async fn start(config: Config, outside: Outside, tasks: &Tasks) -> Result<Agent, StartError> {
    let Outside { gossip, backend, control, metrics, clock, rng } = outside;
    let config = Arc::new(config);
    let cluster = Arc::clone(&gossip) as Arc<dyn Cluster>;
    // Both doors are bound before anything answers, so that a port in use stops the start.
    let mut listeners = Vec::new();
    for listen in &config.http {
        listeners.push(http::Listener::bind(listen).await?);
    }
    let dns_listeners = dns::Listeners::bind(&config.dns)?;
    let local = local::start(
        &config,
        Arc::clone(&backend),
        Arc::clone(&cluster),
        clock.clone(),
        rng.clone(),
        tasks,
    )
    .await?;
    let (reloadable, reloadable_seen) = watch::channel(Arc::new(config.reloadable.clone()));
    let (dns, dns_seen) = watch::channel(Arc::new(config.reloadable.dns.clone()));
    let view = View::new(Arc::clone(&backend), clock.clone(), rng.clone(), tasks);
    let sources = dns::Sources {
        zone: dns::Zone {
            domain: config.domain.clone(),
            alt_domain: config.alt_domain.clone(),
            datacenter: config.datacenter.clone(),
        },
        settings: dns_seen,
        view,
        clock: clock.clone(),
        rng: rng.clone(),
    };
    dns::start(dns_listeners, sources, tasks)?;
    let context = Context {
        config: Arc::clone(&config),
        reloadable: reloadable_seen,
        backend,
        cluster,
        control,
        authorizer: Arc::new(AllowAll),
        clock: clock.clone(),
        rng: rng.clone(),
        metrics,
    };
    http::start(context, http::agent::routes(&local), listeners, tasks);
    let told = Arc::clone(&gossip) as Arc<dyn Cluster>;
    tasks.spawn_until_stop("member log", announce::run(told));
    gossip.open();
    Ok(Agent { config, local, reloadable, dns, gossip, clock, rng })
}

impl Agent {
    /// Joins as the settings say, and again whenever this node ends up alone. Ends only with an
    /// error: when the attempts allowed to the first join are used up.
    pub fn join(&self) -> Pin<Box<dyn Future<Output = Result<(), JoinExhausted>> + Send>> {
        let gossip = Arc::clone(&self.gossip);
        let (settings, clock, rng) =
            (self.config.join.clone(), self.clock.clone(), self.rng.clone());
        Box::pin(async move {
            join::run(Arc::clone(&gossip), settings.clone(), clock.clone(), rng.clone()).await?;
            match join::keep(gossip, settings, clock, rng).await {}
        })
    }

    /// This node leaves: from now on nothing is pushed to the catalog, where the leader removes it.
    pub fn retire(&self) {
        self.local.retire();
    }

    /// Puts new settings into force; with an error the old ones stay.
    pub async fn reload(&self, new: Reloadable) -> Result<(), LocalError> {
        self.local.reload(&new).await?;
        self.dns.send_replace(Arc::new(new.dns.clone()));
        self.reloadable.send_replace(Arc::new(new));
        Ok(())
    }
}

//! The one driver of all checks of the node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use model::Name;
use rt::{Clock, Rng};
use tokio::time::Instant;

use super::schedule::Schedule;
use super::threshold::Threshold;
use super::{Finding, command, http, tcp};
use crate::local::definition::{CheckDefinition, Probe};
use crate::local::{CheckJob, Local};

/// Probes under way at once: each holds a socket or a process. More wait for their turn.
const PROBES_MAX: usize = 256;
/// How often overdue critical services are looked for. // spec: Consul, critical-service reaping
const REAP_INTERVAL: Duration = Duration::from_secs(30);

/// A check that this driver looks after.
struct Job {
    definition: Arc<CheckDefinition>,
    threshold: Threshold,
    output_bytes_max: usize,
}

struct Runner {
    local: Arc<Local>,
    clock: Clock,
    rng: Rng,
    clients: http::Clients,
    schedule: Schedule,
    jobs: BTreeMap<Name, Job>,
}

/// What a probe that ended found.
struct Ended {
    id: Name,
    generation: u64,
    finding: Finding,
}

/// Runs the checks of this node until it is dropped; probes under way are dropped with it.
pub(crate) async fn run(local: Arc<Local>, clock: Clock, rng: Rng) {
    let mut runner = Runner {
        local: Arc::clone(&local),
        clock,
        rng,
        clients: http::Clients::default(),
        schedule: Schedule::default(),
        jobs: BTreeMap::new(),
    };
    let mut probes = FuturesUnordered::new();
    let mut reap = tokio::time::interval(REAP_INTERVAL);
    reap.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        while probes.len() < PROBES_MAX
            && let Some((id, generation)) = runner.next_probe()
        {
            probes.push(runner.probe(id, generation));
        }
        let next = runner.schedule.next().filter(|_| probes.len() < PROBES_MAX);
        tokio::select! {
            biased;
            touched = local.touched_checks() => runner.on_touched(touched),
            Some(ended) = probes.next() => runner.on_ended(&ended),
            _ = reap.tick() => local.reap().await,
            () = until(next) => {}
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Runner {
    fn on_touched(&mut self, touched: Vec<(Name, Option<CheckJob>)>) {
        let now = self.clock.now();
        for (id, job) in touched {
            self.schedule.forget(&id);
            self.jobs.remove(&id);
            let Some(CheckJob { generation, definition, deadline }) = job else { continue };
            let first = match (&definition.probe, deadline) {
                (Probe::Maintenance, _) => continue,
                // Sooner than a whole TTL when it was restored.
                (_, Some(deadline)) => deadline,
                (_, None) => now + self.rng.jitter(definition.interval),
            };
            self.schedule.plan(&id, generation, first);
            let threshold = Threshold::new(
                definition.success_before_passing,
                definition.failures_before_warning,
                definition.failures_before_critical,
            );
            let output_bytes_max = self.local.output_limit(&definition);
            self.jobs.insert(id, Job { definition, threshold, output_bytes_max });
        }
    }

    /// The next check to probe; TTL checks whose turn has come are looked at on the way.
    fn next_probe(&mut self) -> Option<(Name, u64)> {
        loop {
            let (id, generation) = self.schedule.pop_due(self.clock.now())?;
            match self.jobs.get(&id).map(|job| &job.definition.probe) {
                Some(Probe::Ttl(_)) => {
                    if let Some(next) = self.local.ttl_tick(&id, generation) {
                        self.schedule.plan(&id, generation, next);
                    }
                }
                Some(_) => return Some((id, generation)),
                None => {}
            }
        }
    }

    fn probe(&mut self, id: Name, generation: u64) -> impl Future<Output = Ended> + Send + use<> {
        let job = self.jobs.get(&id).map(|job| (Arc::clone(&job.definition), job.output_bytes_max));
        let client = match job.as_ref().map(|(definition, _)| &definition.probe) {
            Some(Probe::Http { disable_redirects, tls_skip_verify, .. }) => {
                Some(self.clients.get(*disable_redirects, *tls_skip_verify))
            }
            _ => None,
        };
        async move {
            let finding = match job {
                Some((definition, limit)) => find(&definition, client, limit).await,
                None => Finding::new(model::row::Status::Critical, String::new()),
            };
            Ended { id, generation, finding }
        }
    }

    fn on_ended(&mut self, ended: &Ended) {
        let Ended { id, generation, finding } = ended;
        if !self.schedule.is_live(id, *generation) {
            return;
        }
        let Some(job) = self.jobs.get_mut(id) else { return };
        tracing::debug!(check = %id, status = finding.status.as_str(), "check ran");
        metrics::counter!("consul_checks_run", "status" => finding.status.as_str()).increment(1);
        if let Some(status) = job.threshold.on_finding(finding) {
            self.local.check_result(id, *generation, status, &finding.output);
        }
        self.schedule.plan(id, *generation, self.clock.now() + job.definition.interval);
    }
}

async fn find(
    definition: &CheckDefinition,
    client: Option<Result<reqwest::Client, String>>,
    limit: usize,
) -> Finding {
    match &definition.probe {
        Probe::Tcp { address, .. } => tcp::probe(address, definition.timeout, limit).await,
        Probe::Http { url, method, headers, body, .. } => {
            let question = http::Question { url, method, headers, body };
            http::probe(client, &question, definition.timeout, limit).await
        }
        Probe::Command(argv) => command::probe(argv, definition.timeout, limit).await,
        Probe::Ttl(_) | Probe::Maintenance => {
            unreachable!("these are never given to a probe: see next_probe and on_touched")
        }
    }
}

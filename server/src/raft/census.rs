//! What each server says about itself, asked by the leader: how far its log is, when it heard us,
//! and which commands it knows. From it follow the state version of the cluster and the gate in
//! front of the log: a command that some voter does not know would stop that voter.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use model::NodeId;
use model::command::{Command, Rejection, STATE_VERSION};
use model::rpc::RpcError;
use net::{Channel, NetError};
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::Core;
use super::inbound::Inbound;
use super::machine::Published;
use super::mirror::{StatsV1, read_message};
use super::proposer::Proposer;
use super::transport::{Transport, method};
use super::types::{LogId, RaftId};
use crate::consensus::{Census, Proposal, Report, ServerStats};

/// Time between rounds of questions. Consul: server health poll, 2 s.
const ROUND_EVERY: Duration = Duration::from_secs(2);
/// Time for an answer: one that takes longer than a round is none.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Rounds for which a voter that has not answered is waited for before writers are told of it.
const PATIENT_ROUNDS: u64 = 3;
/// Version of releases from before servers were asked about themselves.
const FIRST_VERSION: u32 = 1;

/// Asks one server. `None` says that it is of a release that does not know the question.
pub(super) async fn ask(
    transport: &dyn Transport,
    at: SocketAddr,
) -> Result<Option<ServerStats>, NetError> {
    let call = transport.call(at, Channel::RaftControl, method::STATS, Bytes::new(), ANSWER_MAX);
    let answer = match call.await {
        Ok(answer) => answer,
        Err(NetError::Remote(RpcError::Protocol(_))) => return Ok(None),
        Err(cause) => return Err(cause),
    };
    let stats: StatsV1 =
        read_message(&answer).map_err(|cause| RpcError::Protocol(cause.to_string()))?;
    Ok(Some(stats.stats()))
}

/// The task that asks.
pub(super) struct Asking {
    pub(super) core: Core,
    /// Answers for ourselves.
    pub(super) inbound: Inbound,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) published: Arc<Published>,
    pub(super) proposer: Proposer,
    pub(super) publish: watch::Sender<Arc<Census>>,
}

/// A term that we lead and the configuration in it: when either changes, we ask at once.
type Reign = Option<(u64, Option<LogId>)>;

impl Asking {
    pub(super) async fn run(self) {
        let mut metrics = self.core.metrics();
        let mut census = Census::default();
        let mut asked: Reign = None;
        let mut due = Instant::now();
        loop {
            let (reign, servers) = {
                let metrics = metrics.borrow_and_update();
                let leads = metrics.current_leader == Some(metrics.id);
                let configuration = &metrics.membership_config;
                let reign = leads.then(|| (metrics.current_term, *configuration.log_id()));
                let servers: Vec<(NodeId, SocketAddr, bool)> = configuration
                    .nodes()
                    .map(|(id, node)| (id.0, node.address, votes(configuration, id)))
                    .collect();
                (reign, servers)
            };
            if reign.map(|(term, _)| term) != asked.map(|(term, _)| term) {
                census = Census::default();
                self.publish.send_replace(Arc::new(census.clone()));
            }
            if reign.is_some() && (reign != asked || due <= Instant::now()) {
                due = Instant::now() + ROUND_EVERY;
                census = self.round(&census, &servers).await;
                self.publish.send_replace(Arc::new(census.clone()));
                self.raise(&census, &servers).await;
            }
            asked = reign;
            tokio::select! {
                biased;
                changed = metrics.changed() => if changed.is_err() { return },
                () = sleep_until(due), if reign.is_some() => {}
            }
        }
    }

    async fn round(&self, before: &Census, servers: &[(NodeId, SocketAddr, bool)]) -> Census {
        let us = self.inbound.stats().stats();
        let answers = join_all(servers.iter().map(|(id, at, _)| {
            let us = us.clone();
            async move {
                if *id == us.id {
                    return (*id, Some(us));
                }
                let stats = match ask(&*self.transport, *at).await {
                    Ok(Some(stats)) if stats.id == *id => Some(stats),
                    Ok(Some(stats)) => {
                        let found = stats.id;
                        tracing::warn!(server = %id, %at, %found, "another server is at its address");
                        None
                    }
                    Ok(None) => Some(first_release(*id)),
                    Err(error) => {
                        tracing::debug!(server = %id, %at, %error, "does not answer");
                        None
                    }
                };
                (*id, stats)
            }
        }));
        let mut reports = BTreeMap::new();
        for (id, answer) in answers.await {
            let report = match answer {
                Some(stats) => Some(Report { stats, fresh: true }),
                None => before.reports.get(&id).map(|last| Report { fresh: false, ..last.clone() }),
            };
            reports.extend(report.map(|report| (id, report)));
        }
        Census { round: before.round + 1, reports }
    }

    /// Once all voters, and all learners that we heard of, know a newer version, it counts.
    async fn raise(&self, census: &Census, servers: &[(NodeId, SocketAddr, bool)]) {
        let Some(common) = common(census, servers) else { return };
        let common = common.min(STATE_VERSION);
        if common <= self.published.state().version() {
            return;
        }
        let proposal = Proposal {
            namespace: "default".into(),
            retry: None,
            actor: "state version".into(),
            reason: "".into(),
            command: Command::StateVersionV1(common),
        };
        match timeout(ROUND_EVERY, self.proposer.propose(proposal)).await {
            Ok(Ok(_)) => tracing::info!(version = common, "all servers know this state version"),
            Ok(Err(error)) => tracing::debug!(%error, "state version not raised yet"),
            Err(_) => tracing::debug!("state version not raised in time"),
        }
    }
}

fn votes(configuration: &super::types::StoredMembership, id: &RaftId) -> bool {
    configuration.get_joint_config().iter().any(|voters| voters.contains(id))
}

fn first_release(id: NodeId) -> ServerStats {
    // Its log cannot be known this way: zeros make it unhealthy, which is a reason to upgrade it.
    let (last_term, last_index, contact_ms) = (0, 0, None);
    ServerStats { id, state_version: FIRST_VERSION, last_term, last_index, contact_ms }
}

/// The newest version that all know; `None` while a voter has not said.
fn common(census: &Census, servers: &[(NodeId, SocketAddr, bool)]) -> Option<u32> {
    let mut common = u32::MAX;
    for (id, _, voter) in servers {
        match census.reports.get(id) {
            Some(report) => common = common.min(report.stats.state_version),
            None if *voter => return None,
            None => {}
        }
    }
    (common < u32::MAX).then_some(common)
}

/// Lets only such commands into the log as every voter knows.
#[derive(Clone)]
pub(crate) struct Gate {
    core: Core,
    published: Arc<Published>,
    census: watch::Receiver<Arc<Census>>,
}

impl Gate {
    pub(super) fn new(
        core: Core,
        published: Arc<Published>,
        census: watch::Receiver<Arc<Census>>,
    ) -> Self {
        Self { core, published, census }
    }

    /// An error if the command may not stand in the log yet.
    pub(super) fn admit(&self, command: &Command) -> Result<(), RpcError> {
        // A version is only proposed after all have been asked.
        let raises = matches!(command, Command::StateVersionV1(_));
        if raises || command.needs() <= self.published.state().version() {
            return Ok(());
        }
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        let servers = metrics
            .membership_config
            .nodes()
            .map(|(id, node)| (id.0, node.name.to_string(), votes(&metrics.membership_config, id)));
        Err(refusal(command, &self.census.borrow(), servers))
    }
}

/// What a writer is told: which server is in the way, or to come again.
fn refusal(
    command: &Command,
    census: &Census,
    servers: impl Iterator<Item = (NodeId, String, bool)>,
) -> RpcError {
    let (needed, kind) = (command.needs(), command.kind());
    let rejected = |text| RpcError::Rejected(Rejection::Other(text));
    let mut silent = None;
    for (id, name, voter) in servers {
        match census.reports.get(&id) {
            Some(report) if report.stats.state_version < needed => {
                let known = report.stats.state_version;
                return rejected(format!(
                    "\"{kind}\" needs state version {needed}, but server {name} ({id}) knows only \
                     {known}: upgrade it first"
                ));
            }
            None if voter => silent = Some((id, name)),
            _ => {}
        }
    }
    match silent {
        Some((id, name)) if census.round >= PATIENT_ROUNDS => rejected(format!(
            "\"{kind}\" needs state version {needed}, and server {name} ({id}) has not said whether \
             it knows that: start it, or remove it"
        )),
        _ => RpcError::NotReady,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> NodeId {
        NodeId([n; 16])
    }

    fn census(round: u64, versions: &[(u8, u32)]) -> Census {
        let report = |(n, state_version): &(u8, u32)| {
            let stats = ServerStats { state_version: *state_version, ..first_release(id(*n)) };
            (id(*n), Report { stats, fresh: true })
        };
        Census { round, reports: versions.iter().map(report).collect() }
    }

    #[test]
    fn the_common_version_is_that_of_the_oldest_and_waits_for_voters_alone() {
        let at = SocketAddr::from(([127, 0, 0, 1], 8300));
        let servers = [(id(1), at, true), (id(2), at, true), (id(3), at, false)];
        for (versions, wanted) in [
            (&[][..], None),
            (&[(1, 2)], None),
            (&[(1, 2), (2, 3)], Some(2)),
            (&[(1, 2), (2, 3), (3, 1)], Some(1)),
            (&[(1, 3), (2, 3), (3, 4)], Some(3)),
        ] {
            assert_eq!(common(&census(1, versions), &servers), wanted, "{versions:?}");
        }
    }

    #[test]
    fn a_writer_is_told_which_server_is_in_the_way() {
        let command = Command::StateVersionV1(2);
        let told = |census: &Census| {
            let servers = [(id(1), "n1", true), (id(2), "n2", true), (id(3), "n3", false)];
            let servers = servers.map(|(id, name, voter)| (id, name.to_owned(), voter));
            refusal(&command, census, servers.into_iter())
        };
        let names = |error: RpcError, name: &str| {
            let text = error.to_string();
            assert!(text.contains(name) && text.contains("state version 2"), "{text}");
        };
        assert_eq!(told(&census(0, &[])), RpcError::NotReady);
        assert_eq!(told(&census(1, &[(1, 2)])), RpcError::NotReady);
        names(told(&census(3, &[(1, 2)])), "n2");
        names(told(&census(1, &[(1, 2), (2, 1)])), "n2");
        // A learner that does not answer is not waited for; one that is too old would stop.
        assert_eq!(told(&census(9, &[(1, 2), (2, 2)])), RpcError::NotReady);
        names(told(&census(9, &[(1, 2), (2, 2), (3, 1)])), "n3");
    }
}

//! The seam: [`Consensus`] on top of this room.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::command::Outcome;
use model::rpc::{RaftServer, RpcError};
use model::seam::{BoxFuture, ByteStream};
use model::{LogIndex, Name, NodeId};
use openraft::async_runtime::WatchReceiver as _;
use openraft::{LinearizerOption, ReadPolicy, ServerState};
use state::{Registry, State};
use tokio::sync::watch;

use super::machine::Published;
use super::timing::Timing;
use super::types::{RaftId, RaftNode};
use super::{Core, Raft};
use super::{errors, leadership};
use crate::consensus::{Census, Consensus, Leadership, Proposal};

/// Time beyond its own limits in which openraft must have answered.
const CORE_GRACE: Duration = Duration::from_millis(500);

/// Asks for a quorum's word as the option says, then waits until the state has it.
async fn linearize(
    core: Core,
    option: LinearizerOption,
    timing: Timing,
) -> Result<LogIndex, RpcError> {
    let option = option.with_wait_timeout(timing.read_timeout());
    let asking = async {
        let linearizer = core.get_read_linearizer(option).await.map_err(errors::of_read)?;
        let index = LogIndex(linearizer.read_log_id().index());
        match linearizer.try_await_ready(&core, Some(timing.read_timeout())).await {
            Ok(Ok(_)) => Ok(index),
            Ok(Err(_)) => Err(RpcError::NotReady),
            Err(fatal) => Err(errors::of_fatal(&fatal)),
        }
    };
    // openraft's limits are its core's to keep, and it may be the core that does not answer.
    let limit = timing.read_timeout() * 2 + CORE_GRACE;
    tokio::time::timeout(limit, asking).await.unwrap_or(Err(RpcError::NotReady))
}

async fn wait_applied(
    published: Arc<Published>,
    index: LogIndex,
    limit: Duration,
) -> Result<(), RpcError> {
    let mut applied = published.watch_applied();
    let reached = applied.wait_for(|id| id.map_or(0, |id| id.index) >= index.0);
    match tokio::time::timeout(limit, reached).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(RpcError::Leaving),
        Err(_) => Err(RpcError::NotReady),
    }
}

impl Consensus for Raft {
    fn state(&self) -> Arc<State> {
        self.0.published.state()
    }

    fn registry(&self) -> &Arc<Registry> {
        self.0.published.registry()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    fn last_contact_ms(&self) -> Option<u64> {
        let metrics = self.0.core.metrics();
        let metrics = metrics.borrow_watched();
        leadership::contact_ms(&metrics, &self.0.contact, self.0.timing)
    }

    fn propose(
        &self,
        proposal: Proposal,
    ) -> BoxFuture<'static, Result<(LogIndex, Outcome), RpcError>> {
        if !self.0.core.is_leader() {
            return Box::pin(std::future::ready(Err(RpcError::NoLeader)));
        }
        let proposer = self.0.proposer.clone();
        Box::pin(async move { proposer.propose(proposal).await })
    }

    fn confirm_lease(&self) -> BoxFuture<'static, Result<(), RpcError>> {
        let (core, timing) = (self.0.core.clone(), self.0.timing);
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Bug::LeaseNotChecked)
            && core.metrics().borrow_watched().state == ServerState::Leader
        {
            return Box::pin(std::future::ready(Ok(())));
        }
        Box::pin(async move {
            let option = LinearizerOption::new(Some(timing.lease()), true);
            linearize(core, option, timing).await.map(|_| ())
        })
    }

    fn read_index(&self) -> BoxFuture<'static, Result<LogIndex, RpcError>> {
        let (core, timing) = (self.0.core.clone(), self.0.timing);
        Box::pin(linearize(core, ReadPolicy::ReadIndex.into(), timing))
    }

    fn applied(&self, index: LogIndex) -> BoxFuture<'static, Result<(), RpcError>> {
        let published = Arc::clone(&self.0.published);
        Box::pin(wait_applied(published, index, self.0.timing.read_timeout()))
    }

    fn ready(&self) -> bool {
        let heard = self.0.contact.ago_ms().is_some() || self.0.core.is_leader();
        heard && self.0.published.applied() >= self.0.ready_at
    }

    fn configuration(&self) -> (u64, Vec<RaftServer>) {
        self.0.servers()
    }

    fn add_server(
        &self,
        id: NodeId,
        node: Name,
        address: SocketAddr,
    ) -> BoxFuture<'static, Result<(), RpcError>> {
        let this = Arc::clone(&self.0);
        Box::pin(async move { this.admit(id, node, address).await })
    }

    fn promote(&self, id: NodeId) -> BoxFuture<'static, Result<(), RpcError>> {
        let node = Arc::clone(&self.0);
        Box::pin(async move { node.promote(id).await })
    }

    fn census(&self) -> watch::Receiver<Arc<Census>> {
        self.0.census.clone()
    }

    fn remove_server(&self, id: NodeId) -> BoxFuture<'static, Result<(), RpcError>> {
        let node = Arc::clone(&self.0);
        Box::pin(async move { node.dismiss(id).await })
    }

    fn transfer(&self, to: Option<NodeId>) -> BoxFuture<'static, Result<(), RpcError>> {
        let node = Arc::clone(&self.0);
        Box::pin(async move { node.hand_over(to).await })
    }

    fn pristine(&self) -> bool {
        self.0.is_pristine()
    }

    fn initialize(
        &self,
        voters: Vec<(NodeId, Name, SocketAddr)>,
    ) -> BoxFuture<'static, Result<(), RpcError>> {
        let core = self.0.core.clone();
        let voters: BTreeMap<RaftId, RaftNode> = voters
            .into_iter()
            .map(|(id, name, address)| (RaftId(id), RaftNode { name, address }))
            .collect();
        Box::pin(async move { core.initialize(voters).await.map_err(errors::of_initialize) })
    }

    fn epoch(&self) -> watch::Receiver<u64> {
        self.0.published.watch_epoch()
    }

    fn archive(&self) -> Result<(LogIndex, ByteStream), RpcError> {
        self.0.archive()
    }

    fn restore(&self, archive: ByteStream) -> BoxFuture<'static, Result<LogIndex, RpcError>> {
        Box::pin(Arc::clone(&self.0).restore(archive))
    }

    fn stats(&self) -> Vec<(String, String)> {
        let metrics = self.0.core.metrics();
        let metrics = metrics.borrow_watched();
        let state = match metrics.state {
            ServerState::Leader => "Leader",
            ServerState::Candidate => "Candidate",
            ServerState::Follower | ServerState::Learner => "Follower",
            ServerState::Shutdown => "Shutdown",
        };
        let index = |id: Option<super::types::LogId>| id.map_or(0, |id| id.index).to_string();
        let term =
            |id: Option<super::types::LogId>| id.map_or(0, |id| id.leader_id.term).to_string();
        // Not by `last_contact_ms`: a second borrow waits behind a writer that waits for this one.
        let contact = leadership::contact_ms(&metrics, &self.0.contact, self.0.timing);
        let last_contact = match contact {
            Some(0) => "0".to_owned(),
            Some(ms) => format!("{ms}ms"),
            None => "never".to_owned(),
        };
        let bounds = self.0.log.bounds();
        let configuration = &metrics.membership_config;
        let peers = configuration.voter_ids().filter(|id| *id != metrics.id).count();
        let facts = [
            ("cluster_state_version", self.0.published.state().version().to_string()),
            ("state_version", self.0.inbound.state_version.to_string()),
            ("applied_index", index(self.0.published.applied())),
            ("commit_index", index(metrics.local_committed)),
            ("last_contact", last_contact),
            ("last_log_index", index(bounds.last_log_id)),
            ("last_log_term", term(bounds.last_log_id)),
            ("last_snapshot_index", index(metrics.snapshot)),
            ("last_snapshot_term", term(metrics.snapshot)),
            ("latest_configuration_index", index(*configuration.log_id())),
            ("num_peers", peers.to_string()),
            ("oldest_change_index", self.0.published.ring().complete_after().to_string()),
            ("state", state.to_owned()),
            ("term", metrics.current_term.to_string()),
        ];
        facts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

//! Who belongs to the cluster: servers are added as learners, become voters when the leader's
//! autopilot says so, change addresses, are removed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use model::command::Rejection;
use model::rpc::{RaftServer, RpcError};
use model::{Name, NodeId};
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver as _;

use super::Node;
use super::census;
use super::errors;
use super::types::{RaftId, RaftNode, StoredMembership};

/// Entries by which a learner may lag and still become a voter.
const CAUGHT_UP_ENTRIES: u64 = 1_000;

/// Time that one change may take until it is committed, with those before it.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two tries of a change that another one holds up.
const RETRY_CHANGE: Duration = Duration::from_millis(20);

/// Whether a server votes for good. A change from one set of voters to another goes by a joint
/// configuration, in which both have to agree; if its leader is lost between the two, or waits for a
/// quorum for too long, the cluster stays there until the next change. So a server that is a voter
/// in one of two sets counts as none: then the change is made again, and ends it.
fn is_voter(configuration: &StoredMembership, id: &RaftId) -> bool {
    configuration.get_joint_config().iter().all(|voters| voters.contains(id))
}

pub(super) fn rejected(text: impl Into<String>) -> RpcError {
    RpcError::Rejected(Rejection::Other(text.into()))
}

fn not_found(id: RaftId) -> RpcError {
    rejected(format!("id \"{id}\" was not found in the Raft configuration"))
}

impl Node {
    /// Servers of the configuration and the index of its entry.
    pub(super) fn servers(&self) -> (u64, Vec<RaftServer>) {
        // Before the metrics are borrowed: who holds one must not wait for the other.
        let leader = self.leadership.borrow().leader.map(|(id, _)| id);
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        let configuration = &metrics.membership_config;
        let replicated = |id: &RaftId| {
            if *id == metrics.id {
                return metrics.last_log_index;
            }
            let matched = metrics.replication.as_ref()?.get(id)?.as_ref()?;
            Some(matched.index)
        };
        let servers = configuration.nodes().map(|(id, node)| RaftServer {
            id: id.0,
            node: node.name.clone(),
            address: node.address.to_string().into(),
            leader: leader == Some(id.0),
            voter: is_voter(configuration, id),
            last_index: replicated(id).unwrap_or(0),
        });
        let index = configuration.log_id().map_or(0, |id| id.index);
        (index, servers.collect())
    }

    pub(super) fn must_lead(&self) -> Result<(), RpcError> {
        if self.core.is_leader() { Ok(()) } else { Err(RpcError::NoLeader) }
    }

    /// Applies one change and waits until it is committed. While the one before it, or a fresh
    /// leader's first entry, is not committed yet, it is tried again.
    async fn change(&self, change: ChangeMembers<RaftId, RaftNode>) -> Result<(), RpcError> {
        let retain = !matches!(change, ChangeMembers::RemoveVoters(_));
        let tries = async {
            loop {
                let changed = self.core.change_membership(change.clone(), retain).await;
                match changed.map_err(errors::of_change) {
                    Err(RpcError::NotReady) => tokio::time::sleep(RETRY_CHANGE).await,
                    changed => return changed.map(|_| ()),
                }
            }
        };
        tokio::time::timeout(CHANGE_TIMEOUT, tries).await.unwrap_or(Err(RpcError::NotReady))
    }

    /// See [`crate::consensus::Consensus::add_server`].
    pub(super) async fn admit(
        &self,
        id: NodeId,
        name: Name,
        address: SocketAddr,
    ) -> Result<(), RpcError> {
        self.must_lead()?;
        let node = RaftNode { name, address };
        if self.known(&RaftId(id)).as_ref() == Some(&node) {
            return Ok(());
        }
        self.prove(id, &node).await?;
        let _one = self.changes.acquire().await.map_err(|_| RpcError::Leaving)?;
        self.must_lead()?;
        let nodes = BTreeMap::from([(RaftId(id), node.clone())]);
        match self.known(&RaftId(id)) {
            Some(known) if known == node => Ok(()),
            Some(_) => self.change(ChangeMembers::SetNodes(nodes)).await,
            None => self.change(ChangeMembers::AddNodes(nodes)).await,
        }
    }

    fn known(&self, id: &RaftId) -> Option<RaftNode> {
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.get_node(id).cloned()
    }

    /// The server itself must say that it is the one, and that it knows all commands that the log
    /// may hold. An address that leads to another server would give that one a vote which it did
    /// not earn: it counts for entries that the right one has never seen.
    async fn prove(&self, id: NodeId, node: &RaftNode) -> Result<(), RpcError> {
        if id == self.config.node_id {
            return Ok(());
        }
        let RaftNode { name, address } = node;
        let said = census::ask(&*self.transport, *address).await.map_err(RpcError::from)?;
        let (found, knows) = said.map_or((id, 1), |stats| (stats.id, stats.state_version));
        if found != id {
            return Err(rejected(format!("at {address} is server {found}, not {id}")));
        }
        let needed = self.published.state().version();
        if knows < needed {
            return Err(rejected(format!(
                "server {name} ({id}) knows state version {knows}, but the cluster is at {needed}: \
                 upgrade it"
            )));
        }
        Ok(())
    }

    /// See [`crate::consensus::Consensus::promote`].
    pub(super) async fn promote(&self, id: NodeId) -> Result<(), RpcError> {
        let _one = self.changes.acquire().await.map_err(|_| RpcError::Leaving)?;
        self.must_lead()?;
        let id = RaftId(id);
        {
            let metrics = self.core.metrics();
            let metrics = metrics.borrow_watched();
            let configuration = &metrics.membership_config;
            if configuration.get_node(&id).is_none() {
                return Err(not_found(id));
            }
            if is_voter(configuration, &id) {
                return Ok(());
            }
            let replication = metrics.replication.as_ref().ok_or(RpcError::NoLeader)?;
            let matched = replication.get(&id).copied().flatten().map_or(0, |at| at.index);
            if matched + CAUGHT_UP_ENTRIES < metrics.last_log_index.unwrap_or(0) {
                return Err(rejected(format!("server {id} has not caught up; it stays a learner")));
            }
        }
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
    }

    /// See [`crate::consensus::Consensus::remove_server`].
    pub(super) async fn dismiss(&self, id: NodeId) -> Result<(), RpcError> {
        let _one = self.changes.acquire().await.map_err(|_| RpcError::Leaving)?;
        self.must_lead()?;
        let id = RaftId(id);
        let (known, voter) = {
            let metrics = self.core.metrics();
            let metrics = metrics.borrow_watched();
            let configuration = &metrics.membership_config;
            let voter = configuration.voter_ids().any(|voter| voter == id);
            (configuration.get_node(&id).is_some(), voter)
        };
        let gone = BTreeSet::from([id]);
        match (known, voter) {
            (false, _) => Ok(()),
            (true, true) => self.change(ChangeMembers::RemoveVoters(gone)).await,
            (true, false) => self.change(ChangeMembers::RemoveNodes(gone)).await,
        }
    }
}

//! Who belongs to the cluster: servers are added as learners, become voters when they have caught
//! up, change addresses, are removed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use model::command::Rejection;
use model::rpc::{RaftServer, RpcError};
use model::{Name, NodeId};
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver as _;

use super::Node;
use super::errors;
use super::types::{RaftId, RaftNode, StoredMembership};

/// Entries by which a learner may lag and still become a voter.
const CAUGHT_UP_ENTRIES: u64 = 1_000;

/// Time for which one call waits until a learner has caught up. It goes on catching up meanwhile and
/// afterwards, and the caller comes back to it: until then other changes must not wait for it.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(10);

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

pub(super) fn rejected(text: String) -> RpcError {
    RpcError::Rejected(Rejection::Other(text))
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
        let one = self.changes.acquire().await.map_err(|_| RpcError::Leaving)?;
        self.must_lead()?;
        let id = RaftId(id);
        let node = RaftNode { name, address };
        let (known, voter) = {
            let metrics = self.core.metrics();
            let metrics = metrics.borrow_watched();
            let configuration = &metrics.membership_config;
            (configuration.get_node(&id).cloned(), is_voter(configuration, &id))
        };
        match known {
            Some(known) if known == node => {}
            Some(_) => self.change(ChangeMembers::SetNodes(BTreeMap::from([(id, node)]))).await?,
            None => self.change(ChangeMembers::AddNodes(BTreeMap::from([(id, node)]))).await?,
        }
        if voter {
            return Ok(());
        }
        drop(one);
        self.caught_up(id).await?;
        let _one = self.changes.acquire().await.map_err(|_| RpcError::Leaving)?;
        self.must_lead()?;
        // Refused, if it was removed meanwhile.
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
    }

    /// Waits until a learner's log is close to ours.
    async fn caught_up(&self, id: RaftId) -> Result<(), RpcError> {
        let mut metrics = self.core.metrics();
        let wait = async {
            loop {
                {
                    let metrics = metrics.borrow_and_update();
                    let Some(replication) = &metrics.replication else {
                        return Err(RpcError::NoLeader);
                    };
                    let last = metrics.last_log_index.unwrap_or(0);
                    let matched = replication.get(&id).copied().flatten();
                    if matched.is_some_and(|at| at.index + CAUGHT_UP_ENTRIES >= last) {
                        return Ok(());
                    }
                }
                metrics.changed().await.map_err(|_| RpcError::Leaving)?;
            }
        };
        let late = || rejected(format!("server {id} has not caught up; it stays a learner"));
        tokio::time::timeout(CATCH_UP_TIMEOUT, wait).await.unwrap_or_else(|_| Err(late()))
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

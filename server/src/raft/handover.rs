//! Leadership in other hands: on an operator's order, before a leave, before a stop.
//!
//! openraft cannot take a transfer back: from its first moment the leader sends no heartbeats and
//! takes no writes until somebody else leads. So only a server is chosen that has answered since
//! the wish was made and has, on its disk, all that our log held then; else nothing is begun.

use std::time::Duration;

use model::NodeId;
use model::rpc::RpcError;
use openraft::Instant as _;
use openraft::RaftMetrics;
use openraft::async_runtime::WatchReceiver as _;

use super::Node;
use super::errors;
use super::membership::rejected;
use super::types::{RaftId, TypeConfig};

/// Time in which a leader must be replaced when it hands over.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(1);

/// How often is looked whether a successor has caught up, besides each change of the metrics.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Another voter, as this leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Candidate {
    id: RaftId,
    /// It has answered since the wish was made.
    answers: bool,
    /// Index of the last entry that is on its disk.
    matched: u64,
}

/// The one to lead next: it answers and has what our log held, `goal`; of several the one whose log
/// is the longest.
fn successor(candidates: &[Candidate], goal: u64) -> Option<RaftId> {
    let able = candidates.iter().filter(|one| one.answers && one.matched >= goal);
    able.max_by_key(|one| one.matched).map(|one| one.id)
}

/// Why none of these can lead.
fn refusal(candidates: &[Candidate], goal: u64) -> RpcError {
    let reason = |one: &Candidate| {
        if one.answers {
            let behind = goal.saturating_sub(one.matched);
            format!("server {} is {behind} entries behind", one.id)
        } else {
            format!("server {} does not answer", one.id)
        }
    };
    let reasons: Vec<String> = candidates.iter().map(reason).collect();
    rejected(format!("leadership stays where it is: {}", reasons.join(", ")))
}

impl Node {
    /// See [`crate::consensus::Consensus::transfer`].
    pub(super) async fn hand_over(&self, to: Option<NodeId>) -> Result<(), RpcError> {
        self.must_lead()?;
        let to = self.await_successor(to.map(RaftId)).await?;
        let mut metrics = self.core.metrics();
        self.core.trigger().transfer_leader(to).await.map_err(|e| errors::of_fatal(&e))?;
        let us = RaftId(self.config.node_id);
        let replaced = async {
            loop {
                let leader = metrics.borrow_and_update().current_leader;
                if leader.is_some_and(|leader| leader != us) {
                    return Ok(());
                }
                metrics.changed().await.map_err(|_| RpcError::Leaving)?;
            }
        };
        let late = || RpcError::Broken(format!("server {to} did not take over leadership in time"));
        tokio::time::timeout(TRANSFER_TIMEOUT, replaced).await.unwrap_or_else(|_| Err(late()))
    }

    /// Waits until the wanted voter, or any, can take over.
    async fn await_successor(&self, wanted: Option<RaftId>) -> Result<RaftId, RpcError> {
        let began = self.inbound.clock.now();
        let mut metrics = self.core.metrics();
        let goal = metrics.borrow_watched().last_log_index.unwrap_or(0);
        // Answers to the last heartbeat may be as old as that: one that has just died gave one.
        self.core.trigger().heartbeat().await.map_err(|e| errors::of_fatal(&e))?;
        loop {
            let since = self.inbound.clock.now().saturating_duration_since(began);
            let candidates = candidates(&metrics.borrow_and_update(), wanted, since);
            if candidates.is_empty() {
                return Err(rejected(wanted.map_or_else(
                    || "there is no other voter to take over leadership".to_owned(),
                    |id| format!("server {id} is not another voter of this cluster"),
                )));
            }
            if let Some(found) = successor(&candidates, goal) {
                return Ok(found);
            }
            if since >= self.timing.election_max() {
                return Err(refusal(&candidates, goal));
            }
            tokio::select! {
                biased;
                changed = metrics.changed() => changed.map_err(|_| RpcError::Leaving)?,
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            self.must_lead()?;
        }
    }
}

/// The other voters, or the wanted one of them; `since` the wish was made.
fn candidates(
    metrics: &RaftMetrics<TypeConfig>,
    wanted: Option<RaftId>,
    since: Duration,
) -> Vec<Candidate> {
    let matched = |id: &RaftId| metrics.replication.as_ref()?.get(id)?.as_ref().map(|at| at.index);
    let answers = |id: &RaftId| {
        let acked = metrics.heartbeat.as_ref().and_then(|acked| acked.get(id)?.as_ref());
        acked.is_some_and(|acked| acked.elapsed() <= since)
    };
    let voters = metrics.membership_config.voter_ids();
    voters
        .filter(|id| *id != metrics.id && wanted.is_none_or(|wanted| wanted == *id))
        .map(|id| Candidate { id, answers: answers(&id), matched: matched(&id).unwrap_or(0) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(n: u8, answers: bool, matched: u64) -> Candidate {
        Candidate { id: RaftId(NodeId([n; 16])), answers, matched }
    }

    #[test]
    fn only_one_that_answers_and_has_everything_can_lead_next() {
        let chosen = |list: &[Candidate]| successor(list, 10).map(|id| id.0.0[0]);
        assert_eq!(chosen(&[]), None);
        assert_eq!(chosen(&[candidate(1, false, 10), candidate(2, true, 9)]), None);
        assert_eq!(chosen(&[candidate(1, false, 12), candidate(2, true, 10)]), Some(2));
        assert_eq!(chosen(&[candidate(1, true, 12), candidate(2, true, 10)]), Some(1));
    }

    #[test]
    fn a_refusal_says_why_for_each() {
        let text = refusal(&[candidate(1, false, 10), candidate(2, true, 7)], 10).to_string();
        assert!(text.contains("does not answer") && text.contains("3 entries behind"), "{text}");
    }
}

//! Compares the replicas' hashes while this server leads, and ends the one that went astray (driver
//! of `checkpoint`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use net::Channel;
use openraft::async_runtime::WatchReceiver as _;
use rt::Tasks;

use super::Core;
use super::checkpoint::{Checkpoint, Verdict, judge};
use super::fault::OnFault;
use super::machine::Published;
use super::mirror::{AddressedV1, CheckpointsV1, DifferenceV1, message, read_message};
use super::transport::{Transport, method};
use super::types::RaftId;

/// Time between two looks whether there is a new checkpoint: bounds what comparing costs.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Time that another server has to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What comparing stands on.
pub(super) struct Agreement {
    pub(super) core: Core,
    pub(super) published: Arc<Published>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) on_fault: OnFault,
    pub(super) us: RaftId,
}

/// Starts the watch.
pub(super) fn start(agreement: Agreement, tasks: &Tasks) {
    tasks.spawn_until_stop("raft agreement", agreement.run());
}

impl Agreement {
    async fn run(self) {
        let mut compared = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let newest = self.published.checkpoints().last().map(|one| one.index);
            if newest.is_none() || newest == compared || !self.core.is_leader() {
                continue;
            }
            let (voters, servers) = self.configuration();
            let Some(verdict) = judge(&voters, &self.ask(&servers).await) else { continue };
            // A follower that was a little behind is compared on the next look.
            if let Verdict::Agreed { index, servers: agreeing } = &verdict
                && Some(*index) == newest
                && *agreeing == servers.len()
            {
                compared = newest;
            }
            self.tell(verdict, voters.len(), &servers).await;
        }
    }

    fn configuration(&self) -> (BTreeSet<RaftId>, BTreeMap<RaftId, SocketAddr>) {
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        let configuration = &metrics.membership_config;
        let servers = configuration.nodes().map(|(id, node)| (*id, node.address)).collect();
        (configuration.voter_ids().collect(), servers)
    }

    /// Everyone's checkpoints; who does not answer in time is left out.
    async fn ask(
        &self,
        servers: &BTreeMap<RaftId, SocketAddr>,
    ) -> BTreeMap<RaftId, Vec<Checkpoint>> {
        let asked = servers.iter().map(|(id, address)| async move {
            if *id == self.us {
                return Some((*id, self.published.checkpoints()));
            }
            let body = message(&AddressedV1 { to: id.0, request: () });
            let channel = Channel::RaftControl;
            let call =
                self.transport.call(*address, channel, method::CHECKPOINTS, body, ANSWER_MAX);
            let said: CheckpointsV1 = read_message(&call.await.ok()?).ok()?;
            Some((*id, said.into()))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn tell(&self, verdict: Verdict, voters: usize, servers: &BTreeMap<RaftId, SocketAddr>) {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        match verdict {
            Verdict::Agreed { index, servers } => {
                tracing::debug!(index, servers, "the states are equal");
            }
            Verdict::Odd { index, hash, agreeing, servers: odd } => {
                for id in odd {
                    tracing::error!(
                        server = %id, index, agreeing, voters,
                        "its state differs from that of a majority: it is told to stop"
                    );
                    let difference = DifferenceV1 {
                        index,
                        hash,
                        agreeing: count(agreeing),
                        voters: count(voters),
                        decided: true,
                    };
                    self.say(id, difference, servers).await;
                }
            }
            Verdict::Split { index, groups } => {
                let ours = self.published.checkpoint_at(index).unwrap_or_default();
                let agreeing = groups.get(&ours).map_or(0, Vec::len);
                for (hash, ids) in groups.iter().filter(|(hash, _)| **hash != ours) {
                    tracing::error!(
                        servers = ?ids, index, hash, ours,
                        "states differ, and no majority says which is right"
                    );
                    for id in ids {
                        let difference = DifferenceV1 {
                            index,
                            hash: ours,
                            agreeing: count(agreeing),
                            voters: count(voters),
                            decided: false,
                        };
                        self.say(*id, difference, servers).await;
                    }
                }
            }
        }
    }

    async fn say(
        &self,
        id: RaftId,
        difference: DifferenceV1,
        servers: &BTreeMap<RaftId, SocketAddr>,
    ) {
        if id == self.us {
            hear(&difference, &self.published, &self.on_fault);
            return;
        }
        let Some(address) = servers.get(&id) else { return };
        let body = message(&AddressedV1 { to: id.0, request: difference });
        let (channel, number) = (Channel::RaftControl, method::DIFFERENCE);
        let told = self.transport.call(*address, channel, number, body, ANSWER_MAX).await;
        if let Err(cause) = told {
            // It may have ended before it could answer; else it is told again on the next look.
            tracing::info!(server = %id, %cause, "no answer of the server whose state differs");
        }
    }
}

/// Takes note that others have another hash than this server. What they say counts only where our
/// own checkpoint really differs.
pub(super) fn hear(difference: &DifferenceV1, published: &Published, on_fault: &OnFault) {
    let DifferenceV1 { index, hash, agreeing, voters, decided } = difference;
    let Some(ours) = published.checkpoint_at(*index).filter(|ours| ours != hash) else { return };
    let what = format!(
        "the state differs from that of {agreeing} of {voters} voters after log entry {index}: \
         hash {ours:016x} here, {hash:016x} there"
    );
    if *decided {
        let remedy = "keep the data directory for a report; then run `muster operator raft reset \
                      -force -data-dir=…` here and start again: this server refetches all data";
        on_fault.raise(&what, "state machine", remedy);
    } else {
        tracing::error!("{what}; no majority says which is right, so neither server stops");
    }
}

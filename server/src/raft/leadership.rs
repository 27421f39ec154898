//! Who leads, as far as this server can tell: openraft's view, corrected by silence. A follower
//! that is cut off would else name its old leader for ever, since pre-votes change no term.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::{Instant as _, RaftMetrics};
use rt::Tasks;
use tokio::sync::watch;

use super::Core;
use super::inbound::Contact;
use super::network::Addresses;
use super::timing::Timing;
use super::types::TypeConfig;
use crate::consensus::Leadership;

/// Follows openraft's metrics.
pub(super) fn start(
    core: Core,
    timing: Timing,
    contact: Contact,
    addresses: Addresses,
    tasks: &Tasks,
) -> watch::Receiver<Leadership> {
    let (publish, leadership) = watch::channel(Leadership::default());
    tasks.spawn_until_stop("raft leadership", async move {
        let mut metrics = core.metrics();
        loop {
            let seen = {
                let metrics = metrics.borrow_and_update();
                addresses.follow(metrics.membership_config.nodes());
                view(&metrics, silence(&metrics, &contact), timing)
            };
            publish.send_if_modified(|known| {
                let changed = *known != seen;
                *known = seen;
                changed
            });
            // Silence changes no metric: look again now and then.
            let look_again = tokio::time::sleep(timing.election_max() / 2);
            tokio::select! {
                biased;
                changed = metrics.changed() => if changed.is_err() { return },
                () = look_again => {}
            }
        }
    });
    leadership
}

/// How long nothing was heard from the leader (as follower) or from a quorum (as leader).
fn silence(metrics: &RaftMetrics<TypeConfig>, contact: &Contact) -> Option<Duration> {
    if metrics.current_leader == Some(metrics.id) {
        let alone = metrics.membership_config.voter_ids().all(|id| id == metrics.id);
        if alone {
            return Some(Duration::ZERO);
        }
        let acked = metrics.last_quorum_acked?;
        return Some(acked.elapsed());
    }
    contact.ago_ms().map(Duration::from_millis)
}

/// Milliseconds since the leader was last heard; `None`: never. 0 on a leader with a quorum. One that
/// is cut off is no better than its followers: what it has is as old as its quorum's last word.
pub(super) fn contact_ms(
    metrics: &RaftMetrics<TypeConfig>,
    contact: &Contact,
    timing: Timing,
) -> Option<u64> {
    if metrics.current_leader != Some(metrics.id) {
        return contact.ago_ms();
    }
    let Some(silence) = silence(metrics, contact) else { return contact.ago_ms() };
    if silence < timing.election_max() {
        return Some(0);
    }
    Some(u64::try_from(silence.as_millis()).unwrap_or(u64::MAX))
}

/// What is reported.
fn view(
    metrics: &RaftMetrics<TypeConfig>,
    silence: Option<Duration>,
    timing: Timing,
) -> Leadership {
    let heard = silence.is_some_and(|silence| silence < timing.leader_lost());
    let leader = metrics.current_leader.filter(|_| heard);
    let leader = leader.and_then(|id| {
        let node = metrics.membership_config.get_node(&id)?;
        Some((id.0, node.address))
    });
    let is_leader = leader.is_some_and(|(id, _)| id == metrics.id.0);
    Leadership { term: metrics.current_term, leader, is_leader }
}

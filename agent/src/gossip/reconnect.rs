//! Contacting members that are gone, perhaps; and what the next start needs to find the cluster.

use std::time::Duration;

use model::NodeId;
use model::seam::MemberState;

use super::core::{Core, Effect};
use super::dial::Purpose;
use super::peers::{PEERS_MAX, Peers};
use super::timers::Due;

/// While members come back, this many of the gone are tried every second.
const HEAL_TRIES: usize = 2;
const HEAL_EVERY: Duration = Duration::from_secs(1);
const HEAL_FOR: Duration = Duration::from_secs(30);

impl Core {
    /// A member came back: others probably do too.
    pub(super) fn start_heal(&mut self, now: Duration) {
        let healing = self.dial.heal_until.is_some_and(|until| now < until);
        self.dial.heal_until = Some(now + HEAL_FOR);
        if !healing {
            self.schedule_reconnect(now);
        }
    }

    /// Tries members that failed.
    pub(super) fn on_reconnect_due(&mut self, now: Duration) {
        if now < self.dial.next_round {
            return; // this round was moved
        }
        let healing = self.dial.heal_until.is_some_and(|until| now < until);
        let mut failed: Vec<(Duration, NodeId)> = self
            .table
            .iter()
            .filter(|(_, entry)| entry.state == MemberState::Failed)
            .map(|(node, entry)| (now.saturating_sub(entry.since), *node))
            .collect();
        let youngest = failed.iter().map(|(age, _)| *age).min();
        self.rng.shuffle(&mut failed);
        // serf: probability failed / alive of one attempt, so that the cluster as a whole makes
        // about one per failed member and round.
        let probability = failed.len() as f64 / (self.others() + 1).max(1) as f64;
        let tries = if healing { HEAL_TRIES } else { usize::from(self.rng.unit() < probability) };
        for (_, node) in failed.iter().take(tries) {
            self.contact(now, node, Purpose::Reconnect);
        }
        let pause = if healing { HEAL_EVERY } else { pause(youngest) };
        self.schedule_reconnect(now + pause);
    }

    /// Sets the time of the next round. The timer of one that was set before finds itself early.
    pub(super) fn schedule_reconnect(&mut self, at: Duration) {
        self.dial.next_round = at;
        self.timers.push(at, Due::Reconnect);
    }

    /// Hands the driver what the next start needs, unless it has it.
    pub(super) fn persist(&mut self, left: bool) {
        if self.config.data_dir.is_none() || (self.leaving.is_some() && !left) {
            return;
        }
        let own = self.own();
        let version = self.table.get(&own.node).map_or(0, |entry| entry.version());
        let members = self
            .table
            .iter()
            .filter(|(node, entry)| entry.live && **node != own.node)
            .map(|(_, entry)| entry.id.addr)
            .take(PEERS_MAX)
            .collect();
        let generation = own.generation.max(version);
        let peers = Peers { version: 0, generation, left, members };
        if self.persisted.as_ref() != Some(&peers) {
            self.persisted = Some(peers.clone());
            self.effects.push_back(Effect::Persist(peers));
        }
    }
}

/// Pause between rounds by the age of the latest failure: quick while it may be a hiccup, then
/// serf's 30 s.
fn pause(youngest: Option<Duration>) -> Duration {
    match youngest.map(|age| age.as_secs()) {
        Some(0..10) => Duration::from_secs(2),
        Some(10..300) => Duration::from_secs(10),
        Some(_) => Duration::from_secs(30),
        // Nothing to do: look often, so that a first failure is tried soon. Costs nothing.
        None => Duration::from_secs(2),
    }
}

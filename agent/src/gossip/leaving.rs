//! Leaving, and being told that somebody leaves.

use std::time::Duration;

use model::seam::{ClusterError, MemberState};

use super::core::{Core, Effect};
use super::envelope::Extension;
use super::record::Intent;
use super::timers::Due;

/// Our own departure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaving {
    /// When foca says Down for us; before that the intent travels.
    down_at: Duration,
    /// When we may go.
    end: Duration,
    down: bool,
}

impl Core {
    /// Leaves: says so, then declares itself down, then lingers until [`Effect::Left`], passing
    /// both on.
    pub(super) fn leave(&mut self, now: Duration) {
        if self.leaving.is_some() {
            return;
        }
        let own = self.own();
        let linger = self.config.timing.leave_linger;
        let linger = if self.others() == 0 { Duration::ZERO } else { linger };
        self.leaving = Some(Leaving { down_at: now + linger / 3, end: now + linger, down: false });
        let intent = Intent {
            node: own.node,
            generation: own.generation,
            ltime: self.lamport.tick(),
            by_itself: true,
            prune: false,
        };
        self.table.update(&own.node, |entry| {
            entry.intent = Some(intent);
            entry.state = MemberState::Leaving;
        });
        self.spread_intent(&intent);
        self.persist(true);
        self.on_leave_due(now);
    }

    /// The next step of it.
    pub(super) fn on_leave_due(&mut self, now: Duration) {
        let Some(mut leaving) = self.leaving else {
            return;
        };
        if now >= leaving.down_at && !leaving.down {
            leaving.down = true;
            self.leaving = Some(leaving);
            self.leave_foca(now);
        }
        if now >= leaving.end {
            let node = self.config.node_id;
            self.table.update(&node, |entry| entry.state = MemberState::Left);
            self.effects.push_back(Effect::Left);
            return;
        }
        // foca's own timers end when it has left; what is queued still has to go out.
        self.gossip(now);
        self.timers.push(now + self.config.timing.gossip_period, Due::Leave);
    }

    fn spread_intent(&mut self, intent: &Intent) {
        let sendings = self.sendings();
        self.broadcasts.add(Extension::Intent, intent.node, intent.encode(), sendings);
    }

    /// Says for a failed member that it left.
    pub(super) fn force_leave(
        &mut self,
        now: Duration,
        name: &str,
        prune: bool,
    ) -> Result<(), ClusterError> {
        let entry = self.table.by_name(name);
        let entry = entry.ok_or_else(|| ClusterError::UnknownMember(name.to_owned()))?;
        let (node, generation) = (entry.id.node, entry.id.generation);
        if node != self.config.node_id {
            let ltime = self.lamport.tick();
            self.take_intent(now, Intent { node, generation, ltime, by_itself: false, prune });
        }
        Ok(())
    }

    /// Somebody leaves, by its own word or an operator's. News is passed on; node and Lamport time
    /// tell it from what is known.
    pub(super) fn take_intent(&mut self, now: Duration, intent: Intent) {
        self.lamport.witness(intent.ltime);
        if intent.node == self.config.node_id {
            // Said for us while we live: come back as a run that is not meant.
            if intent.generation >= self.own().generation {
                self.renew(now, intent.generation);
            }
            return;
        }
        let taken = self.table.update(&intent.node, |entry| {
            let stale = intent.generation < entry.id.generation;
            let known = entry.intent.is_some_and(|known| known.ltime >= intent.ltime);
            if stale || known {
                return None;
            }
            entry.intent = Some(intent);
            match entry.state {
                MemberState::Alive if intent.by_itself => entry.state = MemberState::Leaving,
                MemberState::Failed => {
                    entry.state = MemberState::Left;
                    entry.since = now;
                }
                MemberState::Alive | MemberState::Leaving | MemberState::Left => {}
            }
            Some(entry.live)
        });
        let Some(Some(live)) = taken else {
            return;
        };
        self.spread_intent(&intent);
        if intent.prune && !live {
            self.prune(now, &intent.node);
        }
    }
}

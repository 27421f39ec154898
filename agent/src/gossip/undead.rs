//! Being held down by others while we live: refuting, and as a last resort a new identity.

use std::time::Duration;

use foca::{Incarnation, Member as Update, State};

use super::core::{Core, TURN_UNDEAD_EVERY};
use super::identity::Id;

/// TurnUndead of different members count together within this time.
const VOTES_WITHIN: Duration = Duration::from_secs(10);
/// We take a new identity at most this often.
const RENEW_EVERY: Duration = Duration::from_secs(1);

impl Core {
    /// Somebody holds us down. One voice makes us refute; only several members together, or the
    /// only one there is, make us take a new identity: one that hears nothing of the others must
    /// not drive all of them through it.
    pub(super) fn on_turn_undead(&mut self, now: Duration, from: &Id, incarnation: Incarnation) {
        if self.leaving.is_some() {
            return;
        }
        metrics::counter!("memberlist.turn_undead").increment(1);
        self.votes.retain(|_, at| now < *at + VOTES_WITHIN);
        self.votes.insert(from.node, now);
        let alive = Update::new(*from, incarnation, State::Alive);
        let alive = self.known.borrow_mut().admit(&alive, None);
        self.apply(now, vec![alive], true);
        if self.votes.len() >= self.others().clamp(1, 2) {
            self.votes.clear();
            self.renew(now, 0);
        } else if self.refuted.is_none_or(|at| now >= at + TURN_UNDEAD_EVERY) {
            self.refuted = Some(now);
            self.refute(now, None);
        }
    }

    /// Raises our incarnation above the one at which we are accused (`None`: above our own).
    pub(super) fn refute(&mut self, now: Duration, accused: Option<Incarnation>) {
        let own_incarnation = self.own_incarnation();
        let accused = accused.unwrap_or(own_incarnation);
        if accused >= own_incarnation {
            metrics::counter!("memberlist.msg.refute").increment(1);
            let own = self.own();
            self.apply(now, vec![Update::new(own, accused, State::Suspect)], true);
        }
    }

    /// Takes a new identity of a generation above ours and `above`.
    pub(super) fn renew(&mut self, now: Duration, above: u64) {
        if self.leaving.is_some() || self.renewed.is_some_and(|at| now < at + RENEW_EVERY) {
            return;
        }
        self.renewed = Some(now);
        let own = self.own();
        let generation = own.generation.max(above).saturating_add(1);
        let new = Id { generation, ..own };
        tracing::info!(generation, "the others hold this node down; rejoining");
        // First: the codec must already announce the new one where foca buries the old one.
        self.known.borrow_mut().own = new;
        let _ = self.with_foca(now, |foca, turn| foca.change_identity(new, turn));
        self.own_renewed(new);
        // A new identity starts unconnected; this connects it to the members that foca holds.
        self.apply(now, Vec::new(), false);
    }

    /// foca or we have taken a new identity.
    pub(super) fn own_renewed(&mut self, id: Id) {
        {
            let mut known = self.known.borrow_mut();
            known.own = id;
            known.own_incarnation = 0;
        }
        metrics::counter!("memberlist.rejoin").increment(1);
        self.table.update(&id.node, |entry| entry.id = id);
        self.persist(false);
    }
}

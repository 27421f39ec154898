//! Asking one member now: because its connection broke ([`Core::probe_now`]), or because our probe
//! of it failed and it should hear, while there is time to refute, that it is suspected.

use std::time::Duration;

use foca::{Incarnation, Member as Update, State};
use model::NodeId;

use super::core::Core;
use super::envelope::Extension;
use super::identity::Id;
use super::timers::Due;
use super::wire::{Malformed, Reader};

/// Questions to a member that may be gone, and the pause between them.
const HINT_TRIES: u8 = 3;
const HINT_EVERY: Duration = Duration::from_millis(250);
/// Pause between questions to a suspect.
const SUSPECT_EVERY: Duration = Duration::from_millis(500);
/// Members that are asked at the same time.
const CHECKS_MAX: usize = 1_024;
/// In pools up to this size the member that has been silent longest is asked once per probe
/// period, beside foca's probe. Random probes alone leave a tail in which a dead member of ten is
/// found by nobody for 6 s; in larger pools the many probers make it short enough.
const SILENCE_MEMBERS_MAX: usize = 32;
/// Says "not suspected" in the question.
const UNSUSPECTED: u16 = u16::MAX;

/// A member that is being asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Check {
    id: Id,
    nonce: u32,
    /// The incarnation at which it is suspected; `None`: not yet.
    suspected: Option<Incarnation>,
    tries_left: u8,
}

impl Core {
    /// This node may be gone: ask it now, and suspect it if it does not answer.
    pub(super) fn probe_now(&mut self, now: Duration, node: &NodeId) {
        let live = self.table.get(node).is_some_and(|entry| entry.live);
        if !live || *node == self.config.node_id || self.checks.contains_key(node) {
            return;
        }
        let id = self.known.borrow().get(node).map(|seen| seen.id);
        if let Some(id) = id {
            self.start_check(now, id, None, HINT_TRIES);
        }
    }

    /// Asks the member that has been silent longest.
    pub(super) fn check_silent(&mut self, now: Duration) {
        if self.others() > SILENCE_MEMBERS_MAX {
            return;
        }
        let eligible = |node: &NodeId| {
            !self.checks.contains_key(node) && self.table.get(node).is_some_and(|entry| entry.live)
        };
        let silent = self.known.borrow().longest_silent(eligible);
        if let Some(node) = silent {
            self.probe_now(now, &node);
        }
    }

    /// Our probe failed, foca holds it suspect: tell it.
    pub(super) fn check_suspect(&mut self, now: Duration, id: Id, incarnation: Incarnation) {
        let time = self.config.timing.suspicion.as_millis() / SUSPECT_EVERY.as_millis();
        let tries = u8::try_from(time).unwrap_or(u8::MAX).max(1);
        self.start_check(now, id, Some(incarnation), tries);
    }

    fn start_check(&mut self, now: Duration, id: Id, suspected: Option<Incarnation>, tries: u8) {
        if self.checks.len() >= CHECKS_MAX {
            return;
        }
        let nonce = (self.rng.u64() & u64::from(u32::MAX)) as u32;
        let pending =
            self.checks.insert(id.node, Check { id, nonce, suspected, tries_left: tries });
        if pending.is_none() {
            self.timers.push(now, Due::Check(id.node));
        }
    }

    /// Asks once more, or draws the conclusion.
    pub(super) fn on_check_due(&mut self, now: Duration, node: &NodeId) {
        let Some(check) = self.checks.get(node).copied() else {
            return;
        };
        let seen = self.known.borrow().get(node).copied();
        let Some(seen) = seen.filter(|seen| seen.id == check.id && seen.down_at.is_none()) else {
            self.checks.remove(node);
            return;
        };
        if check.suspected.is_some_and(|suspected| seen.incarnation > suspected) {
            self.checks.remove(node); // refuted
            return;
        }
        if check.tries_left == 0 {
            self.checks.remove(node);
            if check.suspected.is_none() {
                self.suspect(now, check.id, seen.incarnation);
            }
            return;
        }
        if let Some(check) = self.checks.get_mut(node) {
            check.tries_left -= 1;
        }
        let mut body = check.nonce.to_be_bytes().to_vec();
        body.extend(check.suspected.unwrap_or(UNSUSPECTED).to_be_bytes());
        self.send_extra(now, check.id, Extension::Check, body);
        let pause = if check.suspected.is_some() { SUSPECT_EVERY } else { HINT_EVERY };
        self.timers.push(now + pause, Due::Check(*node));
    }

    /// It answered none of our questions: say so, and give it the usual time to refute.
    fn suspect(&mut self, now: Duration, id: Id, incarnation: Incarnation) {
        self.apply(now, vec![Update::new(id, incarnation, State::Suspect)], true);
        self.timers.push(now + self.config.timing.suspicion, Due::Verdict(id, incarnation));
        self.check_suspect(now, id, incarnation);
    }

    /// Somebody asks whether we are there.
    pub(super) fn on_check(
        &mut self,
        now: Duration,
        from: &NodeId,
        body: &[u8],
    ) -> Result<(), Malformed> {
        let mut reader = Reader(body);
        let nonce = reader.u32()?;
        let suspected = reader.u16()?;
        if self.leaving.is_some() {
            return Ok(());
        }
        if suspected != UNSUSPECTED {
            self.refute(now, Some(suspected));
        }
        let id = self.known.borrow().get(from).map(|seen| seen.id);
        if let Some(id) = id {
            self.send_extra(now, id, Extension::Checked, nonce.to_be_bytes().to_vec());
        }
        Ok(())
    }

    /// It is there. What it says of its incarnation came in the header.
    pub(super) fn on_checked(&mut self, from: &NodeId, body: &[u8]) -> Result<(), Malformed> {
        let nonce = Reader(body).u32()?;
        let answered = |check: &Check| check.nonce == nonce && check.suspected.is_none();
        if self.checks.get(from).is_some_and(answered) {
            self.checks.remove(from);
        }
        Ok(())
    }
}

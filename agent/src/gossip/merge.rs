//! Merging another node's state into ours.

use std::time::Duration;

use foca::{Member as Update, State};
use model::NodeId;
use model::seam::MemberState;

use super::core::Core;
use super::exchange::{FullState, SyncEntry};
use super::identity::Id;
use super::record::{Intent, Record, age_seconds};
use super::table::Entry;
use super::wire::Malformed;

/// News from one exchange that is passed on by gossip. More than that is a merge of clusters or a
/// mass start, which the digests settle by further exchanges.
const PASS_ON_MAX: usize = 64;

impl Core {
    /// All that we hold.
    pub(super) fn full_state(&mut self, now: Duration) -> FullState {
        let own_incarnation = self.own_incarnation();
        let known = self.known.borrow();
        let entries = self
            .table
            .iter()
            .map(|(node, entry)| SyncEntry {
                id: entry.id,
                incarnation: match known.get(node) {
                    Some(seen) => seen.down_at.unwrap_or(seen.incarnation),
                    None => own_incarnation,
                },
                state: entry.state,
                age: age_seconds(now, entry.since),
                intent: entry.intent,
                record: entry.record().cloned(),
            })
            .collect();
        FullState { ltime: self.lamport.now(), entries }
    }

    /// Takes what is newer. Members that the other side holds as gone while we hold them live
    /// become suspects, which refute if they can: a view that was cut off buries nobody.
    pub(super) fn merge(&mut self, now: Duration, state: FullState) {
        self.lamport.witness(state.ltime);
        let mut live = Vec::new();
        let mut accused = Vec::new();
        let mut records = Vec::new();
        let mut intents = Vec::new();
        for entry in state.entries {
            if entry.id.node == self.config.node_id {
                self.merge_own(now, &entry);
                continue;
            }
            intents.extend(entry.intent);
            records.extend(entry.record.clone());
            match entry.state {
                MemberState::Alive | MemberState::Leaving => {
                    if self.is_news(&entry) {
                        live.push(Update::new(entry.id, entry.incarnation, State::Alive));
                    }
                }
                MemberState::Left | MemberState::Failed => {
                    accused.extend(self.merge_gone(now, &entry));
                }
            }
        }
        let pass_on = live.len() <= PASS_ON_MAX && records.len() <= PASS_ON_MAX;
        self.apply_admitted(now, live, pass_on);
        self.apply_admitted(now, accused, true);
        for record in records {
            let record = Record::clone(&record);
            if self.table.set_record(record.clone()) && pass_on {
                self.spread_record(&record);
            }
        }
        for intent in intents {
            self.take_intent(now, intent);
        }
    }

    fn apply_admitted(&mut self, now: Duration, updates: Vec<Update<Id>>, broadcast: bool) {
        let updates: Vec<_> = {
            let mut known = self.known.borrow_mut();
            updates.iter().map(|update| known.admit(update, None)).collect()
        };
        if !updates.is_empty() {
            self.apply(now, updates, broadcast);
        }
    }

    /// Whether foca must hear of this live member.
    fn is_news(&self, entry: &SyncEntry) -> bool {
        if self.pruned.contains(&(entry.id.node, entry.id.generation)) {
            return false;
        }
        self.known.borrow().get(&entry.id.node).is_none_or(|seen| {
            entry.id.generation > seen.id.generation || entry.incarnation > seen.incarnation
        })
    }

    /// A member that the other side holds as gone: a suspicion when we hold it live, else it is
    /// remembered as the other side does.
    fn merge_gone(&mut self, now: Duration, entry: &SyncEntry) -> Option<Update<Id>> {
        let node = entry.id.node;
        if self.pruned.contains(&(node, entry.id.generation)) {
            return None;
        }
        match self.table.get(&node) {
            Some(held) if held.live => {
                let known = entry.id.generation >= held.id.generation;
                known.then(|| Update::new(entry.id, entry.incarnation, State::Suspect))
            }
            Some(held) if entry.id.generation < held.id.generation => None,
            Some(held) if held.id.same_run(&entry.id) => {
                if entry.state == MemberState::Left && held.state == MemberState::Failed {
                    self.table.update(&node, |held| held.state = MemberState::Left);
                }
                None
            }
            _ => {
                self.remember_gone(now, entry);
                None
            }
        }
    }

    /// A run that we never saw alive.
    fn remember_gone(&mut self, now: Duration, entry: &SyncEntry) {
        let (node, id) = (entry.id.node, entry.id);
        {
            let mut known = self.known.borrow_mut();
            if known.get(&node).is_none() && known.len() >= super::known::MEMBERS_MAX {
                return;
            }
            known.register(id, entry.incarnation);
            if let Some(seen) = known.get_mut(&node) {
                seen.down_at = Some(entry.incarnation);
                seen.goodbye = entry.state == MemberState::Left;
            }
        }
        let since = now.saturating_sub(Duration::from_secs(entry.age.into()));
        let known = self.table.update(&node, |held| {
            (held.id, held.state, held.since) = (id, entry.state, since);
        });
        if known.is_none() {
            self.table.insert(Entry::new(id, entry.state, false, since));
        }
        self.apply(now, vec![Update::new(id, entry.incarnation, State::Down)], false);
    }

    /// What the other side holds us for.
    fn merge_own(&mut self, now: Duration, entry: &SyncEntry) {
        let own = self.own();
        if let Some(record) = &entry.record {
            self.outbid_record(record);
        }
        if entry.id.generation > own.generation {
            self.renew(now, entry.id.generation);
        } else if entry.id.generation == own.generation
            && matches!(entry.state, MemberState::Left | MemberState::Failed)
            && self.leaving.is_none()
        {
            self.refute(now, Some(entry.incarnation));
        }
        if let Some(intent) = entry.intent {
            self.take_intent(now, intent);
        }
    }

    /// A record of ours that is newer than ours: written by an earlier run whose clock was ahead.
    fn outbid_record(&mut self, theirs: &Record) {
        let ours = self.table.get(&theirs.node).and_then(Entry::record).cloned();
        if let Some(ours) = ours
            && (theirs.version > ours.version
                || (theirs.version == ours.version && *theirs != *ours))
        {
            let version = theirs.version.saturating_add(1);
            self.set_own_record(Record { version, ..(*ours).clone() });
            self.persist(false);
        }
    }

    /// A record came with a packet.
    pub(super) fn on_record(&mut self, body: &[u8]) -> Result<(), Malformed> {
        let record = Record::decode(body)?;
        if record.node == self.config.node_id {
            self.outbid_record(&record);
        } else if self.table.set_record(record.clone()) {
            self.spread_record(&record);
        }
        Ok(())
    }

    /// An intent came with a packet.
    pub(super) fn on_intent(&mut self, now: Duration, body: &[u8]) -> Result<(), Malformed> {
        self.take_intent(now, Intent::decode(body)?);
        Ok(())
    }

    /// Removes a member on request and remembers not to take it back from others' states.
    pub(super) fn prune(&mut self, now: Duration, node: &NodeId) {
        const PRUNED_MAX: usize = 1_024;
        if let Some(id) = self.table.get(node).map(|entry| entry.id) {
            if self.pruned.len() >= PRUNED_MAX {
                self.pruned.pop_front();
            }
            self.pruned.push_back((*node, id.generation));
            self.forget(now, &id);
        }
    }
}

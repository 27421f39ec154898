//! What the codec knows of every node: it sees each update before foca does and decides what foca
//! is told.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use foca::{Incarnation, Member, State};
use model::NodeId;

use super::identity::Id;

/// Members at most: bounds memory whatever peers send.
pub(super) const MEMBERS_MAX: usize = 65_536;
/// New nodes per second that packets may introduce, in all and from one sender.
const NEW_PER_SECOND: u32 = 2_000;
const NEW_PER_SENDER: u32 = 200;

/// Incarnation of a Down that the node itself (or an operator for it) declared. foca writes such
/// news with incarnation 0, which would be taken for stale.
pub(super) const GOODBYE: Incarnation = Incarnation::MAX;

/// Shared by the core and the codec inside foca; both live on one thread.
pub(super) type Shared = Rc<RefCell<Known>>;

/// The latest run of a node that we heard of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// As foca holds it, its life included.
    pub(super) id: Id,
    /// The highest heard.
    pub(super) incarnation: Incarnation,
    /// The incarnation at which foca holds it down.
    pub(super) down_at: Option<Incarnation>,
    /// It is down because it left.
    pub(super) goodbye: bool,
    /// When it last sent us anything.
    pub(super) heard: Duration,
    /// When it was last told that we hold it down.
    pub(super) told_down: Option<Duration>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Known {
    /// Our own identity.
    pub(super) own: Id,
    /// Our incarnation, as of the last header that foca wrote.
    pub(super) own_incarnation: Incarnation,
    /// We are leaving: our own Down is true.
    pub(super) leaving: bool,
    /// A later run of our node than ours, if one was heard of.
    pub(super) superseded_by: Option<u64>,
    members: BTreeMap<NodeId, Seen>,
    /// As of the last event.
    pub(super) now: Duration,
    second: u64,
    new_left: u32,
    new_by_sender: BTreeMap<NodeId, u32>,
}

impl Known {
    pub(super) fn new(own: Id) -> Self {
        Self {
            own,
            own_incarnation: 0,
            leaving: false,
            superseded_by: None,
            members: BTreeMap::new(),
            now: Duration::ZERO,
            second: 0,
            new_left: NEW_PER_SECOND,
            new_by_sender: BTreeMap::new(),
        }
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<&Seen> {
        self.members.get(node)
    }

    pub(super) fn get_mut(&mut self, node: &NodeId) -> Option<&mut Seen> {
        self.members.get_mut(node)
    }

    /// The member for which `eligible` holds that has been silent longest.
    pub(super) fn longest_silent(&self, eligible: impl Fn(&NodeId) -> bool) -> Option<NodeId> {
        let members = self.members.iter().filter(|(node, _)| eligible(node));
        members.min_by_key(|(_, seen)| seen.heard).map(|(node, _)| *node)
    }

    /// This node sent us something.
    pub(super) fn note_heard(&mut self, node: &NodeId, now: Duration) {
        if let Some(seen) = self.members.get_mut(node) {
            seen.heard = now;
        }
    }

    pub(super) fn forget(&mut self, node: &NodeId) {
        self.members.remove(node);
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&NodeId) -> bool) {
        self.members.retain(|node, _| keep(node));
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// A packet of this sender is about to be decoded: may it introduce further nodes?
    pub(super) fn begin_packet(&mut self, now: Duration) {
        self.now = now;
        if self.second != now.as_secs() {
            self.second = now.as_secs();
            self.new_left = NEW_PER_SECOND;
            self.new_by_sender.clear();
        }
    }

    /// Takes one new node from the budget.
    fn admit_new(&mut self, by: Option<&NodeId>) -> bool {
        if self.members.len() >= MEMBERS_MAX {
            return false;
        }
        let Some(by) = by else {
            return true;
        };
        if self.new_left == 0 {
            return false;
        }
        let by_sender = self.new_by_sender.entry(*by).or_insert(0);
        if *by_sender >= NEW_PER_SENDER {
            return false;
        }
        *by_sender += 1;
        self.new_left -= 1;
        true
    }

    /// An update that foca ignores.
    fn nothing(&self) -> Member<Id> {
        Member::new(self.own, 0, State::Alive)
    }

    /// What foca is told of this update. `by`: the sender of the packet it came in; `None` when it
    /// came by stream or from ourselves, where the rate of new nodes is not limited.
    pub(super) fn admit(&mut self, update: &Member<Id>, by: Option<&NodeId>) -> Member<Id> {
        if update.id().node == self.own.node {
            return self.admit_own(update);
        }
        let (id, incarnation, state) = (*update.id(), update.incarnation(), update.state());
        let Some(seen) = self.members.get(&id.node).copied() else {
            // News that somebody whom we never knew is gone is no news.
            if state == State::Down || !self.admit_new(by) {
                return self.nothing();
            }
            self.register(id, incarnation);
            return update.clone();
        };
        if id.generation < seen.id.generation {
            return self.nothing();
        }
        if id.generation > seen.id.generation {
            let id = Id { life: 0, ..id };
            self.register(id, incarnation);
            self.note_goodbye(&id.node, incarnation, state);
            return Member::new(id, incarnation, state);
        }
        self.admit_known(seen, incarnation, state)
    }

    /// Another word on the run that we know. Its address is the one that we know.
    fn admit_known(&mut self, seen: Seen, incarnation: Incarnation, state: State) -> Member<Id> {
        let mut id = seen.id;
        match state {
            // SWIM §4.2 orders Down above all; but then a node that was cut off could bury the
            // living with what it believed long ago. memberlist compares incarnations; so do we.
            State::Down if incarnation < seen.incarnation => return self.nothing(),
            // Refuted after we had declared it down: take that back.
            State::Alive
                if !seen.goodbye && seen.down_at.is_some_and(|down_at| incarnation > down_at) =>
            {
                id.life = id.life.saturating_add(1);
            }
            State::Alive | State::Suspect | State::Down => {}
        }
        if let Some(seen) = self.members.get_mut(&id.node) {
            if id.life != seen.id.life {
                seen.id = id;
                seen.down_at = None;
            }
            seen.incarnation = seen.incarnation.max(incarnation);
        }
        self.note_goodbye(&id.node, incarnation, state);
        Member::new(id, incarnation, state)
    }

    fn note_goodbye(&mut self, node: &NodeId, incarnation: Incarnation, state: State) {
        if let Some(seen) = self.members.get_mut(node)
            && state == State::Down
            && incarnation == GOODBYE
        {
            seen.goodbye = true;
        }
    }

    /// News about ourselves. We live, so Down becomes a suspicion, which foca refutes.
    fn admit_own(&mut self, update: &Member<Id>) -> Member<Id> {
        let generation = update.id().generation;
        if generation > self.own.generation {
            self.superseded_by = self.superseded_by.max(Some(generation));
            return self.nothing();
        }
        let about_this_run = generation == self.own.generation && !self.leaving;
        if !about_this_run || update.state() == State::Alive {
            return self.nothing();
        }
        Member::new(self.own, update.incarnation(), State::Suspect)
    }

    /// A run that is new to us.
    pub(super) fn register(&mut self, id: Id, incarnation: Incarnation) {
        let seen = Seen {
            id,
            incarnation,
            down_at: None,
            goodbye: false,
            heard: self.now,
            told_down: None,
        };
        self.members.insert(id.node, seen);
    }

    /// The identity that we hold for what a message names.
    pub(super) fn resolve(&self, id: Id) -> Id {
        if id.node == self.own.node {
            return if id.generation == self.own.generation { self.own } else { id };
        }
        match self.members.get(&id.node) {
            Some(seen) if seen.id.generation == id.generation => seen.id,
            _ => id,
        }
    }
}

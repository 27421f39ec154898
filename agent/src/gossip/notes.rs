//! What foca says of the membership, put into our table.

use std::time::Duration;

use model::seam::MemberState;

use super::core::Core;
use super::identity::Id;
use super::table::Entry;
use super::timers::Due;
use super::turn::Note;

/// A new member is worth writing down sooner, but not each of many by itself.
const PERSIST_SOON: Duration = Duration::from_secs(5);

impl Core {
    /// Keeps the table as foca says.
    pub(super) fn on_note(&mut self, now: Duration, note: Note) {
        match note {
            Note::Up(id) => self.member_up(now, id),
            Note::Down(id) => self.member_down(now, id),
            Note::Renamed(id) => {
                self.table.update(&id.node, |entry| {
                    entry.id = id;
                    if entry.live && entry.state == MemberState::Leaving && !entry.leaves() {
                        entry.state = MemberState::Alive;
                    }
                });
                self.checks.remove(&id.node);
            }
            Note::Rejoined(id) => self.own_renewed(id),
            // foca never gives up by itself: our identities can always be renewed.
            Note::Defunct => {}
            Note::ProbeFailed => metrics::counter!("memberlist.degraded.probe").increment(1),
        }
    }

    fn member_up(&mut self, now: Duration, id: Id) {
        let change = |entry: &mut Entry| {
            entry.id = id;
            entry.live = true;
            entry.since = now;
            entry.state = if entry.leaves() { MemberState::Leaving } else { MemberState::Alive };
        };
        if self.table.update(&id.node, change).is_none() {
            self.table.insert(Entry::new(id, MemberState::Alive, true, now));
        }
        if let Some(seen) = self.known.borrow_mut().get_mut(&id.node) {
            seen.down_at = None;
        }
        self.votes.remove(&id.node);
        if self.next_persist > now + PERSIST_SOON {
            self.next_persist = now + PERSIST_SOON;
            self.timers.push(self.next_persist, Due::Persist);
        }
        metrics::counter!("serf.member.join").increment(1);
        self.resize();
    }

    fn member_down(&mut self, now: Duration, id: Id) {
        let mut goodbye = false;
        if let Some(seen) = self.known.borrow_mut().get_mut(&id.node) {
            seen.down_at = Some(seen.incarnation);
            goodbye = seen.goodbye;
        }
        let state = self.table.update(&id.node, |entry| {
            entry.id = id;
            entry.live = false;
            entry.since = now;
            let left = goodbye || entry.leaves();
            entry.state = if left { MemberState::Left } else { MemberState::Failed };
            entry.state
        });
        self.checks.remove(&id.node);
        match state {
            Some(MemberState::Left) => metrics::counter!("serf.member.left").increment(1),
            _ => metrics::counter!("serf.member.failed").increment(1),
        }
        self.resize();
    }
}

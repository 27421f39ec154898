//! What one call into foca asks for.

use std::time::Duration;

use foca::{Notification, Runtime, Timer};

use super::identity::Id;

/// Collects foca's call-backs of one call, to be acted on when it has returned.
#[derive(Debug, Default)]
pub(super) struct Turn {
    pub(super) notes: Vec<Note>,
    pub(super) timers: Vec<(Timer<Id>, Duration)>,
    pub(super) packets: Vec<(Id, Vec<u8>)>,
}

/// What foca says of the membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    Up(Id),
    Down(Id),
    Renamed(Id),
    /// We have a new identity.
    Rejoined(Id),
    /// We are out of the cluster.
    Defunct,
    ProbeFailed,
}

impl Runtime<Id> for Turn {
    fn notify(&mut self, notification: Notification<'_, Id>) {
        self.notes.push(match notification {
            Notification::MemberUp(id) => Note::Up(*id),
            Notification::MemberDown(id) => Note::Down(*id),
            Notification::Rename(_, id) => Note::Renamed(*id),
            Notification::Rejoin(id) => Note::Rejoined(*id),
            Notification::Defunct => Note::Defunct,
            Notification::ProbeFailed(..) => Note::ProbeFailed,
            _ => return,
        });
    }

    fn send_to(&mut self, to: Id, data: &[u8]) {
        self.packets.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Id>, after: Duration) {
        self.timers.push((event, after));
    }
}

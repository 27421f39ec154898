//! Sessions: creation, and all that their end brings.

use std::sync::Arc;

use bytes::Bytes;
use model::command::{Outcome, Rejection};
use model::row::{SessionBehavior, SessionV1, Status};
use model::{Name, SessionId};

use super::Work;
use crate::change::{Key, Row, Table};
use crate::fold::fold;

/// Longest time in milliseconds for which a lost lock is refused to all.
/// Consul: a larger lock-delay is accepted and clamped when used.
pub(crate) const LOCK_DELAY_MS_MAX: u64 = 60_000;

impl Work<'_> {
    pub(super) fn session_create(&mut self, session: &SessionV1) -> Result<Outcome, Rejection> {
        if self.space.sessions.get(session.id).is_some() {
            return Err(Rejection::Other(format!("session {} exists already", session.id)));
        }
        let node = fold(&session.node);
        if self.space.nodes.get(&node).is_none() {
            return Err(Rejection::SessionNode);
        }
        for id in session.check_ids() {
            match self.space.checks.get(&node, &fold(id)) {
                None => return Err(Rejection::SessionCheck(id.to_string())),
                Some(check) if check.status == Status::Critical => {
                    return Err(Rejection::SessionCheckCritical(id.to_string()));
                }
                Some(_) => {}
            }
        }
        let mut row = session.clone();
        self.names.session(&mut row);
        row.create_index = self.index;
        row.modify_index = self.index;
        let row = Arc::new(row);
        self.space.sessions.put(Arc::clone(&row));
        self.raise(Table::Sessions);
        self.changed(Table::Sessions, Key::Session(row.id), None, Some(Row::Session(row)), None);
        Ok(Outcome::Done)
    }

    /// Removes the session, frees or deletes its keys, and keeps others from locking them for its
    /// lock-delay. Nothing when there is no such session.
    pub(super) fn end_session(&mut self, id: SessionId) {
        let Some(session) = self.space.sessions.remove(id) else { return };
        self.raise(Table::Sessions);
        let before = Some(Row::Session(Arc::clone(&session)));
        self.changed(Table::Sessions, Key::Session(id), before, None, None);

        let keys: Vec<Bytes> = self.space.kv.held_by(id).cloned().collect();
        // Rounded up: a delay that was asked for must not vanish.
        let delay_ms = session.lock_delay_ns.div_ceil(1_000_000).min(LOCK_DELAY_MS_MAX);
        for key in &keys {
            match session.behavior {
                SessionBehavior::Release => self.release_key(key),
                SessionBehavior::Delete => self.delete_key(key),
            }
            if delay_ms > 0 {
                let until_ms = self.now_ms.saturating_add(delay_ms);
                self.space.lock_delays.put(key.clone(), until_ms);
            }
        }
    }

    /// Ends the sessions that depend on a check.
    pub(super) fn end_sessions_of_check(&mut self, node: &Name, check: &Name) {
        let ids: Vec<SessionId> = self.space.sessions.on_check(node, check).collect();
        ids.into_iter().for_each(|id| self.end_session(id));
    }

    /// Ends the sessions of a node.
    pub(super) fn end_sessions_of_node(&mut self, node: &Name) {
        let ids: Vec<SessionId> = self.space.sessions.on_node(node).map(|row| row.id).collect();
        ids.into_iter().for_each(|id| self.end_session(id));
    }
}

//! A session lives at least its TTL from the last time that its client was told so.

use std::collections::BTreeMap;

use model::SessionId;
use model::command::{Command, EnvelopeV1};
use model::wire::{self, Kind};
use server::sim::Seen;

/// Who ends sessions whose TTL is over.
const DUTY: &str = "session-ttl";

#[derive(Default)]
pub(crate) struct Expiry {
    /// When the TTL began at the earliest (the client asked then), and how long it is.
    alive: BTreeMap<SessionId, (u64, u64)>,
    /// When it was ended by its TTL.
    ended: BTreeMap<SessionId, u64>,
}

impl Expiry {
    /// A client was told that the session lives; it asked at `since_us`.
    pub(crate) fn told(&mut self, id: SessionId, since_us: u64, ttl_us: u64) -> Result<(), String> {
        let known = self.alive.entry(id).or_insert((since_us, ttl_us));
        known.0 = known.0.max(since_us);
        match self.ended.get(&id).copied() {
            Some(ended_us) => self.judge(id, ended_us),
            None => Ok(()),
        }
    }

    /// A restore may have brought ended ones back.
    pub(super) fn restored(&mut self) {
        self.ended.clear();
    }

    /// How many were ended.
    pub(crate) fn count(&self) -> usize {
        self.ended.len()
    }

    fn judge(&self, id: SessionId, ended_us: u64) -> Result<(), String> {
        let Some((since, ttl)) = self.alive.get(&id) else { return Ok(()) };
        if ended_us >= since + ttl {
            return Ok(());
        }
        Err(format!(
            "session {id} was ended early: at {ended_us} us, though its client was told after \
             {since} us that it lives for {ttl} us"
        ))
    }

    pub(super) fn see(&mut self, entry: &Seen, now_us: u64) -> Result<(), String> {
        let Some(bytes) = &entry.command else { return Ok(()) };
        let envelope = wire::decode::<EnvelopeV1>(Kind::Envelope, bytes, usize::MAX)
            .map_err(|error| error.to_string())?;
        let Command::SessionDestroyV1(id) = envelope.command else { return Ok(()) };
        if &*envelope.actor != DUTY {
            return Ok(());
        }
        self.ended.entry(id).or_insert(now_us);
        self.judge(id, now_us)
    }
}

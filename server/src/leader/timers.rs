//! TTLs of sessions on the leader (core).
//!
//! A session ends between its TTL and about twice its TTL after it was created or renewed, never
//! earlier. A new leader gives each its full time anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use model::SessionId;
use model::rpc::RpcError;
use tokio::time::Instant;

/// How often the driver looks. The timers' own clock moves by at most twice this per look: while a
/// process is paused its clients cannot renew, so this time does not count.
pub(crate) const TICK: Duration = Duration::from_millis(500);
const STEP_MAX: Duration = Duration::from_secs(1);
/// Sessions whose end is proposed at once.
const ENDING_MAX: usize = 256;
/// Pause after a failed proposal; doubles. Consul: 10 s, 20 s, 40 s ...
const RETRY_PAUSE_MS: u64 = 10_000;
/// Doublings of that pause.
const RETRY_DOUBLINGS_MAX: u32 = 5;

/// The timers of all sessions that have a TTL. Empty and refusing while this server does not lead.
#[derive(Debug, Default)]
pub(crate) struct SessionTimers(Mutex<Option<Timers>>);

#[derive(Debug)]
struct Timers {
    /// Milliseconds that have counted since leadership was gained.
    clock_ms: u64,
    last: Instant,
    by_id: BTreeMap<SessionId, Timer>,
    /// Those that are not being ended, by deadline.
    due: BTreeSet<(u64, SessionId)>,
}

#[derive(Debug, Clone, Copy)]
struct Timer {
    deadline_ms: u64,
    failures: u32,
    /// Its end has been proposed.
    ending: bool,
}

impl SessionTimers {
    /// Leadership was gained: all sessions get their full time anew.
    pub(crate) fn begin(&self, sessions: &[(SessionId, u64)], now: Instant) {
        let mut timers =
            Timers { clock_ms: 0, last: now, by_id: BTreeMap::new(), due: BTreeSet::new() };
        for (id, ttl_ms) in sessions {
            timers.start(*id, *ttl_ms);
        }
        *self.lock() = Some(timers);
    }

    /// Leadership was lost.
    pub(crate) fn end(&self) {
        *self.lock() = None;
    }

    /// The session's time begins again. False: its end has been proposed already.
    pub(crate) fn renew(&self, id: SessionId, ttl_ms: u64, now: Instant) -> Result<bool, RpcError> {
        let mut timers = self.lock();
        let timers = timers.as_mut().ok_or(RpcError::NotReady)?;
        timers.advance(now);
        if timers.by_id.get(&id).is_some_and(|timer| timer.ending) {
            return Ok(false);
        }
        timers.start(id, ttl_ms);
        Ok(true)
    }

    /// The sessions that there are now: new ones get a timer, vanished ones lose theirs.
    pub(crate) fn sync(&self, sessions: &[(SessionId, u64)], now: Instant) {
        let mut timers = self.lock();
        let Some(timers) = timers.as_mut() else { return };
        timers.advance(now);
        let there: BTreeMap<SessionId, u64> = sessions.iter().copied().collect();
        let gone: Vec<SessionId> =
            timers.by_id.keys().filter(|id| !there.contains_key(id)).copied().collect();
        gone.into_iter().for_each(|id| timers.remove(id));
        for (id, ttl_ms) in there {
            if !timers.by_id.contains_key(&id) {
                timers.start(id, ttl_ms);
            }
        }
    }

    /// Time passes. The sessions to be ended now.
    pub(crate) fn tick(&self, now: Instant) -> Vec<SessionId> {
        let mut timers = self.lock();
        let Some(timers) = timers.as_mut() else { return Vec::new() };
        timers.advance(now);
        let mut ending = Vec::new();
        while ending.len() < ENDING_MAX
            && let Some((deadline, id)) = timers.due.first().copied()
            && deadline <= timers.clock_ms
        {
            timers.due.pop_first();
            if let Some(timer) = timers.by_id.get_mut(&id) {
                timer.ending = true;
                ending.push(id);
            }
        }
        ending
    }

    /// A proposed end was applied, or not.
    pub(crate) fn ended(&self, id: SessionId, applied: bool) {
        let mut timers = self.lock();
        let Some(timers) = timers.as_mut() else { return };
        if applied {
            timers.remove(id);
        } else if let Some(timer) = timers.by_id.get_mut(&id) {
            let pause = RETRY_PAUSE_MS << timer.failures.min(RETRY_DOUBLINGS_MAX);
            timer.failures += 1;
            timer.ending = false;
            timer.deadline_ms = timers.clock_ms + pause;
            timers.due.insert((timer.deadline_ms, id));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Timers>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Timers {
    fn advance(&mut self, now: Instant) {
        let step = now.saturating_duration_since(self.last).min(STEP_MAX);
        self.clock_ms += u64::try_from(step.as_millis()).unwrap_or(0);
        // What is below a millisecond is not lost, however often this is called.
        self.last = if step == STEP_MAX {
            now
        } else {
            self.last + Duration::from_millis(u64::try_from(step.as_millis()).unwrap_or(0))
        };
    }

    fn start(&mut self, id: SessionId, ttl_ms: u64) {
        self.remove(id);
        // Consul: twice the TTL.
        let deadline_ms = self.clock_ms.saturating_add(ttl_ms.saturating_mul(2));
        #[cfg(feature = "planted")]
        let deadline_ms = match crate::planted::is(crate::planted::Bug::SessionEndedEarly) {
            true => self.clock_ms.saturating_add(ttl_ms / 2),
            false => deadline_ms,
        };
        self.by_id.insert(id, Timer { deadline_ms, failures: 0, ending: false });
        self.due.insert((deadline_ms, id));
    }

    fn remove(&mut self, id: SessionId) {
        if let Some(timer) = self.by_id.remove(&id) {
            self.due.remove(&(timer.deadline_ms, id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: SessionId = SessionId([1; 16]);
    const TTL_MS: u64 = 10_000;

    /// Ticks regularly until `ms`; the times at which the session was to be ended.
    fn run(timers: &SessionTimers, start: Instant, from_ms: u64, to_ms: u64) -> Vec<u64> {
        (from_ms..=to_ms)
            .step_by(500)
            .filter(|ms| !timers.tick(start + Duration::from_millis(*ms)).is_empty())
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_after_twice_its_ttl_unless_renewed() {
        let start = Instant::now();
        let timers = SessionTimers::default();
        assert_eq!(timers.renew(ONE, TTL_MS, start), Err(RpcError::NotReady));
        timers.begin(&[(ONE, TTL_MS)], start);
        assert_eq!(run(&timers, start, 0, 19_500), [0_u64; 0]);
        assert_eq!(timers.renew(ONE, TTL_MS, start + Duration::from_millis(19_600)), Ok(true));
        assert_eq!(run(&timers, start, 20_000, 50_000), [40_000]);
        // Its end is under way: a client must not believe that it lives on.
        assert_eq!(timers.renew(ONE, TTL_MS, start + Duration::from_secs(51)), Ok(false));
        timers.ended(ONE, true);
        assert_eq!(run(&timers, start, 51_000, 120_000), [0_u64; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_term_gives_the_full_time_anew() {
        let start = Instant::now();
        let timers = SessionTimers::default();
        timers.begin(&[(ONE, TTL_MS)], start);
        assert_eq!(run(&timers, start, 0, 19_000), [0_u64; 0]);
        timers.end();
        assert_eq!(run(&timers, start, 19_500, 40_000), [0_u64; 0]);
        let again = start + Duration::from_secs(40);
        timers.begin(&[(ONE, TTL_MS)], again);
        assert_eq!(run(&timers, again, 0, 30_000), [20_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_the_process_was_paused_does_not_count() {
        let start = Instant::now();
        let timers = SessionTimers::default();
        timers.begin(&[(ONE, TTL_MS)], start);
        assert_eq!(run(&timers, start, 0, 15_000), [0_u64; 0]);
        // Paused for a minute: only one step of it counts.
        let ended = run(&timers, start, 75_000, 90_000);
        assert_eq!(ended, [79_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_end_is_tried_again_later_and_later() {
        let start = Instant::now();
        let timers = SessionTimers::default();
        timers.begin(&[(ONE, 0)], start);
        let mut tries = Vec::new();
        for second in 0..200_u64 {
            if !timers.tick(start + Duration::from_secs(second)).is_empty() {
                tries.push(second);
                timers.ended(ONE, false);
            }
        }
        assert_eq!(tries, [0, 10, 30, 70, 150]);
    }

    #[tokio::test(start_paused = true)]
    async fn timers_follow_the_sessions_that_there_are() {
        let start = Instant::now();
        let timers = SessionTimers::default();
        timers.begin(&[(ONE, TTL_MS)], start);
        let two = SessionId([2; 16]);
        timers.sync(&[(two, TTL_MS)], start + Duration::from_millis(900));
        assert_eq!(run(&timers, start, 1_000, 20_500), [0_u64; 0]);
        assert_eq!(timers.tick(start + Duration::from_millis(20_900)), [two]);
    }
}

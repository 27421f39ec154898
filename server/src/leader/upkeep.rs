//! Tombstones and cluster time.

use std::collections::VecDeque;
use std::time::Duration;

use model::LogIndex;
use model::command::Command;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Context;

/// How long a tombstone lives. Consul: 15 min, rounded up to 30 s.
const TOMBSTONE_TTL: Duration = Duration::from_secs(15 * 60);
/// Granularity of these duties.
const ROUND: Duration = Duration::from_secs(30);
/// Rounds without a log entry of others after which cluster time need not move: by then lock-delays
/// (60 s at most) and the origins of retries (60 s) that the last one left are over.
const QUIET_ROUNDS: u32 = 3;
/// Time for a proposal.
const PROPOSE_MAX: Duration = Duration::from_secs(10);

/// When which tombstones are to be reaped (core).
#[derive(Debug, Default)]
struct Tombstones {
    bins: VecDeque<(Instant, LogIndex)>,
}

impl Tombstones {
    /// What to reap now; `newest`: the highest index of a tombstone.
    fn round(&mut self, newest: Option<LogIndex>, now: Instant) -> Option<LogIndex> {
        let known = self.bins.back().map_or(LogIndex::ZERO, |(_, index)| *index);
        if let Some(newest) = newest.filter(|newest| *newest > known) {
            self.bins.push_back((now + TOMBSTONE_TTL, newest));
        }
        let mut reap = None;
        while let Some((_, index)) = self.bins.front().filter(|(at, _)| *at <= now) {
            reap = Some(*index);
            self.bins.pop_front();
        }
        reap
    }
}

/// Whether cluster time must move by itself (core): what waits for it would otherwise wait on after
/// a change of leadership, since a new leader goes on from the last stamp.
#[derive(Debug, Default)]
struct Pulse {
    seen: LogIndex,
    quiet: u32,
}

impl Pulse {
    fn round(&mut self, applied: LogIndex) -> bool {
        self.quiet = if applied == self.seen { self.quiet + 1 } else { 0 };
        self.seen = applied;
        self.quiet < QUIET_ROUNDS
    }

    /// Our own entry is no news.
    fn ticked(&mut self, at: LogIndex) {
        if at.0 == self.seen.0 + 1 {
            self.seen = at;
        }
    }
}

pub(super) async fn run(context: Context) {
    let mut tombstones = Tombstones::default();
    let mut pulse = Pulse::default();
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let state = context.consensus.state();
        let (newest, applied) = (state.tombstone_max(), state.applied());
        drop(state);
        if let Some(index) = tombstones.round(newest, context.clock.now()) {
            propose(&context, "tombstones", Command::TombstoneReapV1(index)).await;
        } else if pulse.round(applied)
            && let Some(at) = propose(&context, "cluster-time", Command::TickV1).await
        {
            pulse.ticked(at);
        }
    }
}

async fn propose(context: &Context, duty: &'static str, command: Command) -> Option<LogIndex> {
    context
        .propose(duty, command, PROPOSE_MAX)
        .await
        .inspect_err(|error| tracing::debug!(duty, %error, "left for the next round"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tombstones_are_reaped_after_their_time_and_once() {
        let start = Instant::now();
        let at = |round: u32| start + ROUND * round;
        let mut tombstones = Tombstones::default();
        assert_eq!(tombstones.round(None, at(0)), None);
        assert_eq!(tombstones.round(Some(LogIndex(5)), at(1)), None);
        assert_eq!(tombstones.round(Some(LogIndex(5)), at(2)), None);
        assert_eq!(tombstones.round(Some(LogIndex(9)), at(3)), None);
        assert_eq!(tombstones.round(Some(LogIndex(9)), at(30)), None);
        assert_eq!(tombstones.round(Some(LogIndex(9)), at(31)), Some(LogIndex(5)));
        assert_eq!(tombstones.round(Some(LogIndex(9)), at(32)), None);
        assert_eq!(tombstones.round(Some(LogIndex(9)), at(33)), Some(LogIndex(9)));
        assert_eq!(tombstones.round(None, at(100)), None);
        assert!(tombstones.bins.is_empty());
    }

    #[test]
    fn cluster_time_moves_for_a_while_after_the_last_entry_of_others() {
        let mut pulse = Pulse::default();
        let mut applied = LogIndex(10);
        let mut ticks = 0;
        for _ in 0..10 {
            if pulse.round(applied) {
                ticks += 1;
                applied = LogIndex(applied.0 + 1);
                pulse.ticked(applied);
            }
        }
        assert_eq!(ticks, QUIET_ROUNDS);
        // Something happened.
        assert!(pulse.round(LogIndex(applied.0 + 2)));
    }
}

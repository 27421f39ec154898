//! When to compare with the catalog in full, and when to try again.

use std::time::Duration;

use tokio::time::Instant;

/// Pause between full comparisons of a small cluster. Consul: 1 min up to 128 nodes.
const INTERVAL: Duration = Duration::from_secs(60);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(15);
/// Longest pause after a server appeared or a leader was found.
const SERVER_UP: Duration = Duration::from_secs(3);
/// Nodes up to which nothing is scaled.
const SCALE_FROM: usize = 128;

/// Decides when the next full comparison and the next retry are due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timetable {
    full: Instant,
    retry: Option<Instant>,
}

/// How much rarer the rounds of a large cluster are.
pub(crate) fn scale(members: usize) -> u32 {
    if members <= SCALE_FROM {
        return 1;
    }
    // ceil(log2(members)) - log2(128) + 1
    members.next_power_of_two().ilog2() - SCALE_FROM.ilog2() + 1
}

impl Timetable {
    /// The first full comparison is due at once.
    pub(crate) fn new(now: Instant) -> Self {
        Self { full: now, retry: None }
    }

    /// `draw`: uniform in [0, 1).
    pub(crate) fn on_full_done(&mut self, now: Instant, members: usize, draw: f64) {
        let interval = INTERVAL * scale(members);
        self.full = now + INTERVAL + interval.mul_f64(draw);
        self.retry = None;
    }

    /// A full comparison failed.
    pub(crate) fn on_full_failed(&mut self, now: Instant, members: usize, draw: f64) {
        self.full = now + RETRY + (RETRY * scale(members)).mul_f64(draw);
        self.retry = None;
    }

    /// Something could not be pushed.
    pub(crate) fn on_push_failed(&mut self, now: Instant, members: usize, draw: f64) {
        let retry = now + RETRY + (RETRY * scale(members)).mul_f64(draw);
        self.retry = Some(self.retry.map_or(retry, |earlier| earlier.min(retry)));
    }

    /// All that was due is pushed.
    pub(crate) fn on_pushed(&mut self) {
        self.retry = None;
    }

    /// A server appeared, or there is a leader again.
    pub(crate) fn on_server_up(&mut self, now: Instant, members: usize, draw: f64) {
        self.full = self.full.min(now + (SERVER_UP * scale(members)).mul_f64(draw));
    }

    /// A full comparison is wanted now.
    pub(crate) fn on_demand(&mut self, now: Instant) {
        self.full = now;
    }

    /// Whether a full comparison is due.
    pub(crate) fn full_due(&self, now: Instant) -> bool {
        self.full <= now
    }

    /// Whether a push that failed is due again.
    pub(crate) fn retry_due(&self, now: Instant) -> bool {
        self.retry.is_some_and(|due| due <= now)
    }

    /// When something is due next.
    pub(crate) fn next(&self) -> Instant {
        self.retry.map_or(self.full, |retry| retry.min(self.full))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn large_clusters_compare_more_rarely() {
        for (members, factor) in
            [(0, 1), (1, 1), (128, 1), (129, 2), (256, 2), (257, 3), (512, 3), (513, 4)]
        {
            assert_eq!(scale(members), factor, "{members}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rounds_failures_and_servers() {
        let now = Instant::now();
        let mut table = Timetable::new(now);
        assert!(table.full_due(now));
        table.on_full_failed(now, 1, 0.5);
        assert_eq!(table.next(), now + 22 * SECOND + SECOND / 2);
        table.on_server_up(now, 1, 0.5);
        assert_eq!(table.next(), now + SECOND + SECOND / 2);
        table.on_full_done(now, 1, 0.5);
        assert_eq!(table.next(), now + 90 * SECOND);
        table.on_push_failed(now, 1, 0.0);
        table.on_push_failed(now + 10 * SECOND, 1, 0.0);
        assert_eq!(table.next(), now + 15 * SECOND);
        assert!(table.retry_due(now + 15 * SECOND));
        table.on_pushed();
        assert_eq!(table.next(), now + 90 * SECOND);
        table.on_demand(now + SECOND);
        assert!(table.full_due(now + SECOND));
    }
}

//! A check that waits to be told.

use std::time::Duration;

use tokio::time::Instant;

/// Decides when a TTL check runs out. It never becomes passing on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TtlCheck {
    ttl: Duration,
    deadline: Instant,
    expired: bool,
}

impl TtlCheck {
    /// Starts the timer.
    pub(crate) fn new(ttl: Duration, now: Instant) -> Self {
        Self { ttl, deadline: now + ttl, expired: false }
    }

    /// Starts the timer again.
    pub(crate) fn on_heartbeat(&mut self, now: Instant) {
        self.deadline = now + self.ttl;
        self.expired = false;
    }

    /// Whether the time has run out since the last heartbeat: said once. The next look is a whole
    /// TTL away then.
    pub(crate) fn on_tick(&mut self, now: Instant) -> bool {
        if now < self.deadline {
            return false;
        }
        self.deadline = now + self.ttl;
        !std::mem::replace(&mut self.expired, true)
    }

    /// When to look next.
    pub(crate) fn next_deadline(&self) -> Instant {
        self.deadline
    }

    /// The timer as it stood before a restart, never longer than a TTL.
    pub(crate) fn restore(&mut self, now: Instant, left: Duration) {
        self.deadline = now + left.min(self.ttl);
    }
}

/// What an expired check shows.
pub(crate) fn expired_text(last_output: &str) -> String {
    if last_output.is_empty() {
        "TTL expired".to_owned()
    } else {
        format!("TTL expired (last output before timeout follows): {last_output}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_expires_once_a_ttl_after_the_last_heartbeat() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut check = TtlCheck::new(10 * second, start);
        assert!(!check.on_tick(start + 9 * second));
        check.on_heartbeat(start + 9 * second);
        assert_eq!(check.next_deadline(), start + 19 * second);
        assert!(!check.on_tick(start + 18 * second));
        assert!(check.on_tick(start + 19 * second));
        assert!(!check.on_tick(start + 20 * second));
        assert!(!check.on_tick(start + 29 * second), "it was said once");
        check.on_heartbeat(start + 30 * second);
        assert!(check.on_tick(start + 40 * second));
    }

    #[tokio::test(start_paused = true)]
    async fn a_restored_timer_is_never_longer_than_the_ttl() {
        let now = Instant::now();
        let mut check = TtlCheck::new(Duration::from_secs(10), now);
        check.restore(now, Duration::from_secs(3));
        assert_eq!(check.next_deadline(), now + Duration::from_secs(3));
        check.restore(now, Duration::from_secs(300));
        assert_eq!(check.next_deadline(), now + Duration::from_secs(10));
    }

    #[test]
    fn the_text_keeps_what_was_said_last() {
        assert_eq!(expired_text(""), "TTL expired");
        assert_eq!(expired_text("busy"), "TTL expired (last output before timeout follows): busy");
    }
}

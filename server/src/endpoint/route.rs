//! Where a request goes (core).

use std::net::SocketAddr;
use std::time::Duration;

use model::rpc::{Consistency, RpcError};
use tokio::time::Instant;

use super::table::{Again, Place, Rule};
use crate::consensus::Leadership;

/// Time without a leader after which a server that has not caught up answers `stale` reads all the
/// same: a lone survivor must not be mute.
pub(crate) const LONELY_AFTER: Duration = Duration::from_secs(30);
/// Longest wait of a blocking read: Consul's 600 s and its jitter of a sixteenth.
const WAIT_MAX: Duration = Duration::from_millis(637_500);
/// Longest hold; no door allows more.
const HOLD_MAX: Duration = Duration::from_secs(60);

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The agent in this process, or another agent.
    Agent,
    /// Another server, which forwards and holds.
    Server,
}

/// What this server knows about itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) leadership: Leadership,
    /// It has applied what it had and heard a leader once.
    pub(crate) ready: bool,
    /// Time since a leader was last heard, or since the start.
    pub(crate) leaderless: Duration,
}

/// What must be confirmed before an answer from this server's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confirm {
    /// Nothing.
    No,
    /// That this leader holds its lease.
    Lease,
    /// A fresh quorum round of this leader.
    Round,
    /// A read index from the leader, wherever it is by then.
    AskLeader,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Answered here.
    Here(Confirm),
    /// To the leader.
    Forward(SocketAddr),
}

/// The route, or why there is none now.
pub(crate) fn route(
    rule: &Rule,
    consistency: Consistency,
    caller: Caller,
    standing: &Standing,
) -> Result<Route, RpcError> {
    match (rule.place, consistency) {
        (Place::Here, _) | (Place::LeaderUnlessStale, Consistency::Stale) => {
            Ok(Route::Here(Confirm::No))
        }
        (Place::Tables, Consistency::Stale) => {
            caught_up(standing)?;
            Ok(Route::Here(Confirm::No))
        }
        #[cfg(feature = "planted")]
        (Place::Tables, Consistency::Consistent)
            if !standing.leadership.is_leader
                && crate::planted::is(crate::planted::Bug::StaleAsConsistent) =>
        {
            caught_up(standing)?;
            Ok(Route::Here(Confirm::No))
        }
        (Place::Tables, Consistency::Consistent) if !standing.leadership.is_leader => {
            standing.leadership.leader.ok_or(RpcError::NoLeader)?;
            Ok(Route::Here(Confirm::AskLeader))
        }
        (Place::Tables, Consistency::Consistent) => Ok(Route::Here(Confirm::Round)),
        (Place::Tables, Consistency::Default) => to_leader(Confirm::Lease, caller, standing),
        (Place::Archive, Consistency::Stale) => {
            caught_up(standing)?;
            Ok(Route::Here(Confirm::No))
        }
        (Place::Leader | Place::LeaderUnlessStale | Place::Archive, _) => {
            to_leader(Confirm::No, caller, standing)
        }
    }
}

fn caught_up(standing: &Standing) -> Result<(), RpcError> {
    if standing.ready || standing.leaderless >= LONELY_AFTER {
        return Ok(());
    }
    Err(if standing.leadership.leader.is_some() { RpcError::NotReady } else { RpcError::NoLeader })
}

fn to_leader(confirm: Confirm, caller: Caller, standing: &Standing) -> Result<Route, RpcError> {
    if standing.leadership.is_leader {
        return Ok(Route::Here(confirm));
    }
    match (caller, standing.leadership.leader) {
        (Caller::Agent, Some((_, address))) => Ok(Route::Forward(address)),
        // Who forwarded looks for the leader itself: two servers that each take the other for it
        // must not play ball.
        (Caller::Server, _) | (_, None) => Err(RpcError::NoLeader),
    }
}

/// Whether the same request may be tried again after this error.
pub(crate) fn may_retry(error: &RpcError, again: Again, stamped: bool) -> bool {
    match error {
        // Nothing happened.
        RpcError::NoLeader | RpcError::NotReady | RpcError::Leaving => true,
        RpcError::Broken(_) => match again {
            Again::Harmless => true,
            Again::Stamped => stamped,
            Again::Never => false,
        },
        // Refused early in order to stay alive: trying again here would add to the load.
        _ => false,
    }
}

/// How long a request may take: its wait, and for looking for a leader its hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time {
    pub(crate) wait_end: Instant,
    pub(crate) hold: Duration,
    /// When the present streak of failures began.
    failing_since: Option<Instant>,
}

impl Time {
    pub(crate) fn new(wait_ms: u64, hold_ms: u64, now: Instant) -> Self {
        let wait = Duration::from_millis(wait_ms).min(WAIT_MAX);
        let hold = Duration::from_millis(hold_ms).min(HOLD_MAX);
        Self { wait_end: now + wait, hold, failing_since: None }
    }

    /// An attempt that began at `began` failed now. Until when others may be made; `None`: no more.
    ///
    /// The hold runs from the first failure of a streak: a read that was parked for minutes still
    /// gets all of it when its leader dies.
    pub(crate) fn failed(&mut self, began: Instant, now: Instant) -> Option<Instant> {
        let since = match self.failing_since {
            Some(since) if now - began < self.hold => since,
            _ if now - began < self.hold => began,
            _ => now,
        };
        self.failing_since = Some(since);
        let end = since + self.hold;
        (now < end).then_some(end)
    }

    /// Wait and hold that an attempt starting now has, in milliseconds.
    pub(crate) fn left_ms(&self, now: Instant) -> (u64, u64) {
        let hold_end = self.failing_since.map_or(now + self.hold, |since| since + self.hold);
        let ms = |end: Instant| {
            u64::try_from(end.saturating_duration_since(now).as_millis()).unwrap_or(u64::MAX)
        };
        (ms(self.wait_end), ms(hold_end))
    }
}

#[cfg(test)]
mod tests {
    use model::NodeId;
    use model::rpc::{KvWrite, Op};

    use super::super::table::rule;
    use super::*;

    const LEADER: ([u8; 16], &str) = ([9; 16], "127.0.0.9:8300");

    fn standing(leads: bool, leader: bool) -> Standing {
        let address = LEADER.1.parse().expect("valid");
        let leader = (leads || leader).then_some((NodeId(LEADER.0), address));
        Standing {
            leadership: Leadership { term: 1, leader, is_leader: leads },
            ready: true,
            leaderless: Duration::ZERO,
        }
    }

    #[test]
    fn each_kind_of_request_finds_its_server() {
        use Consistency::{Consistent, Default, Stale};
        let read = Op::KvGet { key: "a".into() };
        let write = Op::Kv(KvWrite::Delete { key: "a".into() });
        let (here, forward) =
            (|confirm| Ok(Route::Here(confirm)), Ok(Route::Forward(LEADER.1.parse().expect("v"))));
        let none = || Err(RpcError::NoLeader);
        // op, consistency, caller: on the leader, on a follower, without a leader
        for (op, consistency, caller, on_leader, on_follower, alone) in [
            (&read, Default, Caller::Agent, here(Confirm::Lease), forward.clone(), none()),
            (&read, Default, Caller::Server, here(Confirm::Lease), none(), none()),
            (
                &read,
                Consistent,
                Caller::Agent,
                here(Confirm::Round),
                here(Confirm::AskLeader),
                none(),
            ),
            (&read, Stale, Caller::Agent, here(Confirm::No), here(Confirm::No), here(Confirm::No)),
            (&write, Default, Caller::Agent, here(Confirm::No), forward.clone(), none()),
            (&write, Stale, Caller::Agent, here(Confirm::No), forward.clone(), none()),
            (&write, Default, Caller::Server, here(Confirm::No), none(), none()),
            (
                &Op::StatusLeader,
                Default,
                Caller::Agent,
                here(Confirm::No),
                here(Confirm::No),
                here(Confirm::No),
            ),
            (&Op::RaftConfiguration, Default, Caller::Agent, here(Confirm::No), forward, none()),
            (
                &Op::RaftConfiguration,
                Stale,
                Caller::Agent,
                here(Confirm::No),
                here(Confirm::No),
                here(Confirm::No),
            ),
        ] {
            let go = |standing| route(&rule(op), consistency, caller, &standing);
            assert_eq!(go(standing(true, true)), on_leader, "{op:?} {consistency:?} leader");
            assert_eq!(go(standing(false, true)), on_follower, "{op:?} {consistency:?} follower");
            assert_eq!(go(standing(false, false)), alone, "{op:?} {consistency:?} alone");
        }
    }

    #[test]
    fn a_server_that_has_not_caught_up_answers_stale_only_when_long_alone() {
        let read = rule(&Op::Nodes { meta: Default::default() });
        let mut fresh = Standing { ready: false, ..standing(false, false) };
        let go = |s: &Standing| route(&read, Consistency::Stale, Caller::Agent, s);
        assert_eq!(go(&fresh), Err(RpcError::NoLeader));
        fresh.leaderless = LONELY_AFTER;
        assert_eq!(go(&fresh), Ok(Route::Here(Confirm::No)));
        let catching_up = Standing { ready: false, ..standing(false, true) };
        assert_eq!(go(&catching_up), Err(RpcError::NotReady));
    }

    #[test]
    fn only_what_is_safe_twice_is_tried_again_after_a_lost_answer() {
        let lost = RpcError::Broken("x".into());
        assert!(may_retry(&lost, Again::Harmless, false));
        assert!(may_retry(&lost, Again::Stamped, true));
        assert!(!may_retry(&lost, Again::Stamped, false));
        assert!(!may_retry(&lost, Again::Never, true));
        assert!(may_retry(&RpcError::NoLeader, Again::Never, false));
        assert!(!may_retry(&RpcError::Busy, Again::Harmless, true));
    }

    #[tokio::test(start_paused = true)]
    async fn hold_runs_from_the_first_failure_of_a_streak() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut time = Time::new(60_000, 7_000, start);
        assert_eq!(time.failed(start, after(10)), Some(after(7_000)));
        assert_eq!(time.left_ms(after(1_000)), (59_000, 6_000));
        assert_eq!(time.failed(after(6_000), after(7_000)), None);
        // It was parked for half a minute: a new streak.
        assert_eq!(time.failed(after(7_000), after(40_000)), Some(after(47_000)));
        assert_eq!(Time::new(u64::MAX, u64::MAX, start).left_ms(start), (637_500, 60_000));
    }
}

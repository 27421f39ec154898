//! Which servers are healthy, since when, and which learners become voters (core; spec: agent §31).

use std::collections::BTreeMap;
use std::time::Duration;

use model::NodeId;
use model::row::{AutopilotV1, NameMap};
use model::rpc::{AutopilotServer, AutopilotState, RaftServer};
use model::seam::{MemberState, Members};
use tokio::time::Instant;

use crate::consensus::Census;

/// What is known of the servers now.
pub(super) struct Facts<'a> {
    /// The leader.
    pub(super) us: NodeId,
    pub(super) servers: &'a [RaftServer],
    pub(super) members: &'a Members,
    pub(super) census: &'a Census,
    pub(super) settings: &'a AutopilotV1,
    /// Silence of a leader that is all is well: below it nothing counts as unhealthy.
    pub(super) silence_min: Duration,
    /// Metadata of a node in the catalog.
    pub(super) meta: &'a (dyn Fn(&str) -> NameMap + Sync),
}

/// When a verdict was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) now: Instant,
    pub(super) wall_ms: u64,
}

#[derive(Debug, Clone, Copy)]
struct Verdict {
    healthy: bool,
    since: Moment,
}

/// What this leader has seen of the servers.
#[derive(Debug, Default)]
pub(super) struct Health {
    verdicts: BTreeMap<NodeId, Verdict>,
}

/// A duration of the configuration; a negative one is none.
fn duration(ns: i64) -> Duration {
    Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
}

impl Health {
    /// Judges all servers.
    pub(super) fn look(&mut self, facts: &Facts<'_>, at: Moment) -> AutopilotState {
        let mut servers: Vec<AutopilotServer> =
            facts.servers.iter().map(|server| describe(server, facts)).collect();
        servers.sort_by_key(|server| server.id);
        self.verdicts.retain(|id, _| servers.iter().any(|server| server.id == *id));
        for server in &mut servers {
            let verdict = self
                .verdicts
                .entry(server.id)
                .or_insert(Verdict { healthy: server.healthy, since: at });
            if verdict.healthy != server.healthy {
                *verdict = Verdict { healthy: server.healthy, since: at };
            }
            server.stable_since_ms = verdict.since.wall_ms;
        }
        let voters = servers.iter().filter(|server| server.voter).count();
        let well = servers.iter().filter(|server| server.voter && server.healthy).count();
        AutopilotState {
            healthy: !servers.is_empty() && servers.iter().all(|server| server.healthy),
            failure_tolerance: well.saturating_sub(voters / 2 + 1) as u64,
            servers,
        }
    }

    /// Learners that have been healthy for long enough. `age`: of the cluster; while it is younger
    /// than the time that they have to prove themselves, its first servers need not.
    pub(super) fn promotions(
        &self,
        state: &AutopilotState,
        settings: &AutopilotV1,
        age: Duration,
        now: Instant,
    ) -> Vec<NodeId> {
        let wanted = duration(settings.server_stabilization_time_ns);
        // A tenth more: the first looks at a server come a little late.
        let young = age < wanted.saturating_mul(11) / 10;
        let stable = |server: &&AutopilotServer| {
            let since = self.verdicts.get(&server.id).map(|verdict| verdict.since.now);
            young || since.is_some_and(|since| now.saturating_duration_since(since) >= wanted)
        };
        state
            .servers
            .iter()
            .filter(|server| !server.voter && !server.read_replica && server.healthy)
            .filter(stable)
            .map(|server| server.id)
            .collect()
    }
}

fn describe(server: &RaftServer, facts: &Facts<'_>) -> AutopilotServer {
    let Facts { us, census, settings, .. } = facts;
    let member = facts.members.list.iter().find(|member| member.id == server.id);
    let status = member.map(|member| member.state);
    let tag = |key: &str| member.is_some_and(|member| member.tags.contains_key(key));
    let report = census.reports.get(&server.id);
    let stats = report.map(|report| &report.stats);
    let leader = server.id == *us;
    let fresh = report.is_some_and(|report| report.fresh);
    let contact_ms =
        if leader { Some(0) } else { stats.filter(|_| fresh).and_then(|s| s.contact_ms) };
    let silence_max = duration(settings.last_contact_threshold_ns).max(facts.silence_min);
    let heard = contact_ms.is_some_and(|ms| u128::from(ms) <= silence_max.as_millis());
    let (term, index) = stats.map_or((0, 0), |stats| (stats.last_term, stats.last_index));
    let ours = census.reports.get(us).map(|report| &report.stats);
    let follows = ours.is_some_and(|ours| {
        term == ours.last_term
            && index.saturating_add(settings.max_trailing_logs) >= ours.last_index
    });
    let alive = matches!(status, Some(MemberState::Alive | MemberState::Leaving));
    let build = member.map_or("", |member| member.tag("build"));
    let name = member.map_or_else(|| server.node.clone(), |member| member.name.clone());
    AutopilotServer {
        id: server.id,
        meta: (facts.meta)(&name),
        name,
        address: server.address.clone(),
        node_status: status.map_or("none", MemberState::as_str).into(),
        version: build.split(':').next().unwrap_or("").into(),
        last_contact_ms: contact_ms,
        last_term: term,
        last_index: index,
        healthy: alive && heard && follows,
        stable_since_ms: 0,
        read_replica: tag("read_replica") || tag("nonvoter"),
        leader,
        voter: server.voter,
        state_version: stats.map_or(0, |stats| stats.state_version),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{census, member, raft_server};
    use super::*;
    use crate::consensus::ServerStats;

    type Change = fn(&mut ServerStats);
    type Row = (u8, MemberState, &'static [(&'static str, &'static str)]);

    struct Case {
        servers: Vec<RaftServer>,
        states: Vec<Row>,
        census: Census,
        health: Health,
        start: Instant,
    }

    impl Case {
        /// Three voters, all well.
        fn new() -> Self {
            Self {
                servers: (1..=3).map(|n| raft_server(n, true)).collect(),
                states: (1..=3).map(|n| (n, MemberState::Alive, &[][..])).collect(),
                census: census(&[1, 2, 3], &[]),
                health: Health::default(),
                start: Instant::now(),
            }
        }

        fn moment(&self, ms: u64) -> Moment {
            Moment { now: self.start + Duration::from_millis(ms), wall_ms: 1_000_000 + ms }
        }

        fn look(&mut self, ms: u64) -> AutopilotState {
            let list =
                self.states.iter().map(|(n, state, tags)| member(*n, *state, true, tags)).collect();
            let at = self.moment(ms);
            let facts = Facts {
                us: NodeId([1; 16]),
                servers: &self.servers,
                members: &Members { sequence: 1, list },
                census: &self.census,
                settings: &AutopilotV1::default(),
                silence_min: Duration::from_millis(140),
                meta: &|_| NameMap::new(),
            };
            self.health.look(&facts, at)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_sign_of_illness_makes_a_server_unhealthy_and_nothing_else_does() {
        use MemberState::{Alive, Failed, Leaving, Left};
        let fine: Change = |_| {};
        // What gossip says of server 3, what it says itself, whether it is healthy.
        for (n, (status, change, wanted)) in [
            (Alive, fine, true),
            (Leaving, fine, true),
            (Failed, fine, false),
            (Left, fine, false),
            (Alive, |stats| stats.contact_ms = Some(200), true),
            (Alive, |stats| stats.contact_ms = Some(201), false),
            (Alive, |stats| stats.contact_ms = None, false),
            (Alive, |stats| stats.last_term -= 1, false),
            (Alive, |stats| stats.last_term += 1, false),
            (Alive, |stats| stats.last_index -= 250, true),
            (Alive, |stats| stats.last_index -= 251, false),
            (Alive, |stats| stats.last_index += 10, true),
        ]
        .into_iter()
        .enumerate()
        {
            let mut case = Case::new();
            case.states[2].1 = status;
            case.census = census(&[1, 2, 3], &[(3, change)]);
            let state = case.look(0);
            assert_eq!(state.servers[2].healthy, wanted, "case {n}");
            assert_eq!(state.healthy, wanted, "case {n}");
            assert_eq!(state.failure_tolerance, u64::from(wanted), "case {n}");
        }
        let mut case = Case::new();
        case.census = census(&[1, 2], &[]);
        assert!(!case.look(0).servers[2].healthy, "it does not answer");
        case.states.pop();
        assert_eq!(&*case.look(0).servers[2].node_status, "none");
    }

    #[tokio::test(start_paused = true)]
    async fn stable_since_is_when_the_verdict_changed_last() {
        let mut case = Case::new();
        let since = |state: AutopilotState| state.servers[2].stable_since_ms - 1_000_000;
        assert_eq!(since(case.look(5)), 5);
        assert_eq!(since(case.look(1_000)), 5);
        case.states[2].1 = MemberState::Failed;
        assert_eq!(since(case.look(2_000)), 2_000);
        assert_eq!(since(case.look(3_000)), 2_000);
        case.states[2].1 = MemberState::Alive;
        assert_eq!(since(case.look(4_000)), 4_000);
    }

    #[tokio::test(start_paused = true)]
    async fn failure_tolerance_counts_healthy_voters_above_the_quorum() {
        for (voters, well, wanted) in
            [(1, 1, 0), (2, 2, 0), (3, 3, 1), (3, 2, 0), (5, 5, 2), (5, 4, 1), (5, 3, 0), (5, 2, 0)]
        {
            let mut case = Case::new();
            case.servers = (1..=voters).map(|n| raft_server(n, true)).collect();
            case.states = (1..=voters).map(|n| (n, MemberState::Alive, &[][..])).collect();
            case.census = census(&(1..=well).collect::<Vec<_>>(), &[]);
            // A learner counts for nothing.
            case.servers.push(raft_server(9, false));
            assert_eq!(case.look(0).failure_tolerance, wanted, "{well} of {voters}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_learner_is_promoted_after_its_time_or_at_once_in_a_young_cluster() {
        let (young, old) = (Duration::from_secs(5), Duration::from_secs(3_600));
        let settings = AutopilotV1::default();
        let mut case = Case::new();
        case.servers[2].voter = false;
        let promoted = |case: &mut Case, ms: u64, age: Duration| {
            let state = case.look(ms);
            let now = case.moment(ms).now;
            case.health.promotions(&state, &settings, age, now)
        };
        let third = [NodeId([3; 16])];
        assert_eq!(promoted(&mut case, 0, old), []);
        assert_eq!(promoted(&mut case, 9_999, old), []);
        assert_eq!(promoted(&mut case, 10_000, old), third);
        assert_eq!(promoted(&mut case, 10_001, young), third);
        // A moment of illness starts its time again.
        case.census = census(&[1, 2], &[]);
        assert_eq!(promoted(&mut case, 11_000, old), []);
        assert_eq!(promoted(&mut case, 11_000, young), []);
        case.census = census(&[1, 2, 3], &[]);
        assert_eq!(promoted(&mut case, 12_000, old), []);
        assert_eq!(promoted(&mut case, 22_000, old), third);
        for tag in ["nonvoter", "read_replica"] {
            case.states[2].2 =
                if tag == "nonvoter" { &[("nonvoter", "1")] } else { &[("read_replica", "1")] };
            assert_eq!(promoted(&mut case, 99_000, old), [], "{tag}");
            assert_eq!(promoted(&mut case, 99_000, young), [], "{tag}");
        }
    }
}

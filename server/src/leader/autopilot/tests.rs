//! The driver over a fake Raft, and rows for the cores.

use std::time::Duration;

use model::NodeId;
use model::row::AutopilotV1;
use model::seam::MemberState;
use rt::{Clock, Tasks};
use tokio::time::sleep;

use super::*;
use crate::consensus::{Consensus as _, Report, ServerStats};
use crate::endpoint::fake::{self, FakeCluster, FakeConsensus};
use crate::leader::Duties;

pub(super) use crate::endpoint::fake::{member, raft_server};

type Change = fn(&mut ServerStats);

/// Answers of these servers, all at term 2 and entry 1,000; some changed.
pub(super) fn census(answering: &[u8], changes: &[(u8, Change)]) -> Census {
    let report = |n: &u8| {
        let mut stats = ServerStats {
            id: NodeId([*n; 16]),
            state_version: 2,
            last_term: 2,
            last_index: 1_000,
            contact_ms: Some(50),
        };
        for (_, change) in changes.iter().filter(|(which, _)| which == n) {
            change(&mut stats);
        }
        (stats.id, Report { stats, fresh: true })
    };
    Census { round: 1, reports: answering.iter().map(report).collect() }
}

struct Stage {
    consensus: Arc<FakeConsensus>,
    cluster: Arc<FakeCluster>,
    duties: Arc<Duties>,
    _tasks: Tasks,
}

fn members(states: &[MemberState]) -> Vec<Arc<model::seam::Member>> {
    let numbered = states.iter().zip(1_u8..);
    numbered.map(|(state, n)| member(n, *state, true, &[])).collect()
}

/// A leader of servers that are all voters but the last.
fn stage(count: u8) -> Stage {
    let consensus = FakeConsensus::new();
    let cluster = FakeCluster::new(members(&vec![MemberState::Alive; count.into()]));
    let (duties, tasks) = (Arc::new(Duties::default()), Tasks::new());
    *consensus.servers.lock().expect("no panic") =
        (1..=count).map(|n| raft_server(n, n < count)).collect();
    consensus.lead(Some(1));
    let context = Context {
        config: Arc::new(fake::config()),
        consensus: consensus.clone(),
        cluster: cluster.clone(),
        duties: duties.clone(),
        clock: Clock::system(),
    };
    tasks.spawn_until_stop("seed", seed(context.clone()));
    tasks.spawn_until_stop("autopilot", run(context));
    Stage { consensus, cluster, duties, _tasks: tasks }
}

impl Stage {
    fn answer(&self, answering: &[u8]) {
        let next = census(answering, &[]);
        self.consensus.census.send_modify(|now| {
            *now = Arc::new(Census { round: now.round + 1, ..next });
        });
    }

    /// Rounds of two seconds.
    async fn rounds(&self, count: u32, answering: &[u8]) {
        for _ in 0..count {
            self.answer(answering);
            sleep(Duration::from_secs(2)).await;
        }
    }

    fn voters(&self) -> Vec<u8> {
        let servers = self.consensus.servers.lock().expect("no panic");
        servers.iter().filter(|server| server.voter).map(|server| server.id.0[0]).collect()
    }

    fn servers(&self) -> usize {
        self.consensus.servers.lock().expect("no panic").len()
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_leader_seeds_judges_and_promotes() {
    let stage = stage(3);
    sleep(Duration::from_secs(1)).await;
    let seeded = stage.consensus.state().autopilot().expect("seeded");
    let indexes = (seeded.create_index, seeded.modify_index);
    assert_eq!((seeded.server_stabilization_time_ns, indexes.0), (10_000_000_000, indexes.1));
    assert!(stage.duties.autopilot.state().is_none(), "nobody was asked yet");
    assert_eq!(stage.voters(), [1, 2]);
    // The cluster is young.
    stage.rounds(1, &[1, 2, 3]).await;
    assert_eq!(stage.voters(), [1, 2, 3]);
    stage.rounds(1, &[1, 2, 3]).await;
    let state = stage.duties.autopilot.state().expect("looked");
    assert!(state.healthy && state.failure_tolerance == 1, "{state:?}");
    assert_eq!(state.servers.iter().filter(|server| server.leader).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_learner_of_an_old_cluster_waits_until_it_is_stable() {
    let stage = stage(3);
    stage.rounds(10, &[1, 2]).await;
    assert_eq!(stage.voters(), [1, 2]);
    stage.rounds(5, &[1, 2, 3]).await;
    assert_eq!(stage.voters(), [1, 2]);
    stage.rounds(2, &[1, 2, 3]).await;
    assert_eq!(stage.voters(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn dead_servers_are_removed_one_majority_is_never_and_settings_count() {
    use MemberState::{Alive, Failed};
    let stage = stage(4);
    stage.rounds(1, &[1, 2, 3, 4]).await;
    assert_eq!(stage.voters(), [1, 2, 3, 4]);
    let keep = AutopilotV1 { cleanup_dead_servers: false, ..AutopilotV1::default() };
    stage.consensus.apply(set(keep));
    stage.cluster.set(members(&[Alive, Alive, Alive, Failed]));
    stage.rounds(10, &[1, 2, 3]).await;
    assert_eq!(stage.servers(), 4);
    stage.consensus.apply(set(AutopilotV1::default()));
    stage.rounds(6, &[1, 2, 3]).await;
    assert_eq!(stage.voters(), [1, 2, 3]);
    stage.cluster.set(members(&[Alive, Alive, Failed]));
    stage.rounds(6, &[1, 2]).await;
    assert_eq!(stage.voters(), [1, 2]);
    stage.cluster.set(members(&[Alive, Failed]));
    stage.rounds(20, &[1]).await;
    assert_eq!(stage.voters(), [1, 2], "a lost majority is not healed by counting it out");
}

fn set(row: AutopilotV1) -> crate::consensus::Proposal {
    crate::consensus::Proposal {
        namespace: NAMESPACE.into(),
        retry: None,
        actor: "".into(),
        reason: "".into(),
        command: Command::AutopilotV1(AutopilotCommandV1::Set(row)),
    }
}

//! The duties' drivers over a fake Raft and paused time.

use model::SessionId;
use model::row::{SessionBehavior, SessionV1};
use model::seam::MemberState;
use tokio::time::Instant;

use super::*;
use crate::endpoint::fake::{self, FakeCluster, FakeConsensus, member};

struct Stage {
    consensus: Arc<FakeConsensus>,
    cluster: Arc<FakeCluster>,
    duties: Arc<Duties>,
    tasks: Tasks,
}

fn stage() -> Stage {
    let consensus = FakeConsensus::new();
    let cluster = FakeCluster::new(vec![member(1, MemberState::Alive, true, &[])]);
    let (duties, tasks) = (Arc::new(Duties::default()), Tasks::new());
    let context = Context {
        config: Arc::new(fake::config()),
        consensus: consensus.clone(),
        cluster: cluster.clone(),
        duties: duties.clone(),
        clock: Clock::system(),
    };
    tasks.spawn("leader watch", run(context, tasks.clone()));
    Stage { consensus, cluster, duties, tasks }
}

impl Stage {
    fn session(&self, id: SessionId) {
        let row = SessionV1 {
            id,
            name: "".into(),
            node: "n1".into(),
            lock_delay_ns: 0,
            behavior: SessionBehavior::Delete,
            ttl: "10s".into(),
            ttl_ms: 10_000,
            node_checks: None,
            service_checks: None,
            checks: vec![],
            create_index: LogIndex::ZERO,
            modify_index: LogIndex::ZERO,
        };
        let (_, outcome) = self.consensus.apply(Proposal {
            namespace: NAMESPACE.into(),
            retry: None,
            actor: "".into(),
            reason: "".into(),
            command: Command::SessionCreateV1(row),
        });
        assert_eq!(outcome, Outcome::Done);
    }

    fn sessions(&self) -> usize {
        self.consensus.state().sessions_with_ttl().len()
    }

    /// When the last session ended.
    async fn ended(&self) -> Duration {
        let start = Instant::now();
        while self.sessions() > 0 {
            sleep(Duration::from_millis(100)).await;
        }
        start.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_registers_its_members_and_follows_them() {
    let stage = stage();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(stage.consensus.proposed(), 0);
    stage.consensus.lead(Some(1));
    sleep(Duration::from_secs(1)).await;
    assert!(stage.consensus.state().service(NAMESPACE, "n1", "consul").is_some());

    let three = |state| {
        let [one, other] = [1, 3].map(|number| member(number, MemberState::Alive, true, &[]));
        vec![one, member(2, state, true, &[]), other]
    };
    stage.cluster.set(three(MemberState::Alive));
    sleep(Duration::from_secs(1)).await;
    let status = || {
        let check = stage.consensus.state().check(NAMESPACE, "n2", catalog::SERF_HEALTH);
        check.map(|check| check.status.as_str())
    };
    let servers = || stage.consensus.configuration().1.len();
    assert_eq!((status(), servers()), (Some("passing"), 3));
    stage.cluster.set(three(MemberState::Failed));
    sleep(Duration::from_secs(1)).await;
    assert_eq!((status(), servers()), (Some("critical"), 3));
    stage.cluster.set(three(MemberState::Left));
    sleep(Duration::from_secs(1)).await;
    assert_eq!((status(), servers()), (None, 2));

    // Full passes find nothing to do; cluster time ticks a few times and rests.
    let proposed = stage.consensus.proposed();
    sleep(Duration::from_secs(3_600)).await;
    assert!(stage.consensus.proposed() - proposed <= 3);
    assert!(stage.tasks.stop_and_wait(Duration::from_secs(5)).await.unfinished.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_someone_else_broke_is_repaired_by_the_next_full_pass() {
    let stage = stage();
    stage.consensus.lead(Some(1));
    sleep(Duration::from_secs(1)).await;
    let deregister = model::command::DeregisterV1 {
        node: "n1".into(),
        service_id: Some("consul".into()),
        check_id: None,
    };
    stage.consensus.apply(Proposal {
        namespace: NAMESPACE.into(),
        retry: None,
        actor: "".into(),
        reason: "".into(),
        command: Command::DeregisterV1(deregister),
    });
    let there = || stage.consensus.state().service(NAMESPACE, "n1", "consul").is_some();
    assert!(!there());
    sleep(Duration::from_secs(61)).await;
    assert!(there());
    stage.tasks.stop_and_wait(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn sessions_end_by_their_ttl_and_a_change_of_leader_gives_it_anew() {
    let stage = stage();
    stage.consensus.lead(Some(1));
    sleep(Duration::from_secs(1)).await;
    stage.session(SessionId([1; 16]));
    let took = stage.ended().await.as_millis();
    assert!((20_000..22_500).contains(&took), "{took}");

    stage.session(SessionId([2; 16]));
    sleep(Duration::from_secs(18)).await;
    stage.consensus.lead(Some(2));
    sleep(Duration::from_secs(60)).await;
    // Only the leader ends sessions, and only the leader renews them.
    assert_eq!(stage.sessions(), 1);
    let renewed = stage.duties.timers.renew(SessionId([2; 16]), 10_000, Instant::now());
    assert_eq!(renewed, Err(RpcError::NotReady));
    stage.consensus.lead(Some(1));
    let took = stage.ended().await.as_millis();
    assert!((20_000..22_500).contains(&took), "{took}");
    stage.tasks.stop_and_wait(Duration::from_secs(5)).await;
}

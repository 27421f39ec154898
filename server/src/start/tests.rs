//! Real servers in one process: Raft, RPC over loopback, duties. Gossip is a stand-in.

use std::net::Ipv4Addr;
use std::time::Duration;

use model::rpc::{Answer, Body, KvWrite, Op, Request};
use model::seam::{Member, MemberState};
use tokio::time::{Instant, sleep};

use super::*;
use crate::config::Bootstrap;
use crate::endpoint::fake::{self, FakeCluster};

/// No condition of these tests takes longer on the slowest machine.
const LIMIT: Duration = Duration::from_secs(30);

struct Server {
    backend: Arc<dyn Backend>,
    tasks: Tasks,
}

impl Server {
    async fn write(&self, key: &str) -> Answer {
        let (key, value) = (key.to_owned().into(), "v".into());
        self.backend.ask(Request::new(Op::Kv(KvWrite::Set { key, value, flags: 0 }))).await
    }

    async fn body(&self, op: Op) -> Body {
        self.backend.ask(Request::new(op)).await.expect("answers").body
    }

    async fn stop(self) {
        let stopped = self.tasks.stop_and_wait(Duration::from_secs(10)).await;
        assert_eq!(stopped.unfinished, []);
    }
}

/// Address of server `n` of a test: each test has a network of its own.
fn address(test: u8, n: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 77, test, n), 8300))
}

fn member(test: u8, n: u8, tags: &[(&str, &str)]) -> Arc<Member> {
    let mut member = (*fake::member(n, MemberState::Alive, true, tags)).clone();
    member.address = SocketAddr::new(address(test, n).ip(), 8301);
    Arc::new(member)
}

async fn server(
    test: u8,
    n: u8,
    bootstrap: Bootstrap,
    members: &[Arc<Member>],
    data_dir: Option<&std::path::Path>,
) -> Result<Server, StartError> {
    let config = Config {
        node_id: NodeId([n; 16]),
        node_name: format!("n{n}"),
        rpc_bind: address(test, n),
        rpc_advertise: address(test, n),
        bootstrap,
        data_dir: data_dir.map(Into::into),
        ..fake::config()
    };
    let (tasks, rng) = (Tasks::new(), Rng::from_seed(u64::from(n)));
    let boot_id = NodeId::from_random(rng.bytes16());
    let cluster = FakeCluster::new(members.to_vec());
    let backend = start(config, cluster, Clock::system(), rng, boot_id, &tasks).await?;
    Ok(Server { backend, tasks })
}

/// Waits until the probe says yes.
async fn until<F: Future<Output = bool>>(what: &str, probe: impl Fn() -> F) {
    let end = Instant::now() + LIMIT;
    while !probe().await {
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_single_server_leads_soon_and_registers_itself() {
    let alone = [member(1, 1, &[("bootstrap", "1")])];
    let began = Instant::now();
    let server = server(1, 1, Bootstrap::Alone, &alone, None).await.expect("starts");
    until("a leader", || async { server.backend.link().leader_known }).await;
    // Within about 100 ms when the machine is idle; this limit is for one that is not.
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    until("its own registration", || async {
        let health = Op::HealthService {
            service: "consul".into(),
            tags: vec![],
            meta: Default::default(),
            connect: false,
        };
        match server.body(health).await {
            Body::Instances(list) => list.iter().any(|one| one.checks.len() == 1),
            _ => false,
        }
    })
    .await;
    assert_eq!(server.write("k").await.expect("written").body, Body::Bool(true));
    let read = server.body(Op::KvGet { key: "k".into() }).await;
    assert!(matches!(read, Body::KvEntry(Some(_))));
    let leader = Body::Address(address(1, 1).to_string().into());
    assert_eq!(server.body(Op::StatusLeader).await, leader);
    assert_eq!(server.backend.stats()["raft"]["state"], "Leader");
    assert_eq!(server.backend.leave().await, Ok(()));
    server.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let alone = [member(2, 1, &[])];
    let first = server(2, 1, Bootstrap::Wait, &alone, None).await.expect("starts");
    let Err(error) = server(2, 1, Bootstrap::Wait, &alone, None).await else {
        panic!("the port is in use");
    };
    let text = error.to_string();
    assert!(text.contains("127.77.2.1:8300") && text.contains("-server-port"), "{text}");
    first.stop().await;
}

#[tokio::test]
async fn data_is_back_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let alone = [member(3, 1, &[("bootstrap", "1")])];
    for round in 0..2 {
        let path = Some(directory.path());
        let server = loop {
            match server(3, 1, Bootstrap::Alone, &alone, path).await {
                // The last reader of the log may still be on its way out; a process that ends
                // takes it along.
                Err(StartError::Raft(raft::StartError::InUse { .. })) => {
                    sleep(Duration::from_millis(10)).await;
                }
                started => break started.expect("starts"),
            }
        };
        if round == 0 {
            server.write("k").await.expect("written");
        }
        let read = server.body(Op::KvGet { key: "k".into() }).await;
        assert!(matches!(read, Body::KvEntry(Some(_))), "round {round}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_become_a_cluster_and_survive_a_leader() {
    let members: Vec<_> = (1..=3).map(|n| member(4, n, &[("expect", "3")])).collect();
    let mut servers = Vec::new();
    for n in 1..=3 {
        let server = server(4, n, Bootstrap::Expect(3), &members, None).await;
        servers.push(server.expect("starts"));
    }
    // Held until there is a leader, and forwarded to it.
    for (n, server) in servers.iter().enumerate() {
        until("a write", || async { server.write(&format!("k{n}")).await.is_ok() }).await;
    }
    let Body::RaftServers { servers: voters, .. } = servers[1].body(Op::RaftConfiguration).await
    else {
        panic!("the configuration is answered");
    };
    assert_eq!(voters.iter().filter(|server| server.voter).count(), 3);
    // Reads of both kinds on every server see what another one wrote.
    for server in &servers {
        for consistency in [model::rpc::Consistency::Default, model::rpc::Consistency::Consistent] {
            let mut request = Request::new(Op::KvGet { key: "k0".into() });
            request.consistency = consistency;
            let reply = server.backend.ask(request).await.expect("answers");
            assert!(matches!(reply.body, Body::KvEntry(Some(_))));
            assert_eq!((reply.meta.consistency, reply.meta.known_leader), (consistency, true));
        }
    }
    // A read that waits on a follower outlives its leader.
    let Body::Address(leader) = servers[0].body(Op::StatusLeader).await else {
        panic!("the leader is known");
    };
    let leads = |n: usize| *address(4, n as u8 + 1).to_string() == *leader;
    let gone = (0..3).find(|n| leads(*n)).expect("one of them leads");
    let parked = {
        let mut request = Request::new(Op::KvGet { key: "later".into() });
        request.min_index = model::LogIndex(1_000_000);
        request.wait_ms = 60_000;
        let backend = Arc::clone(&servers[(gone + 1) % 3].backend);
        backend.ask(request)
    };
    let watching = Tasks::new();
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    watching.spawn("parked read", async move {
        let _ = tell.send(parked.await).await;
    });
    servers.remove(gone).stop().await;
    for server in &servers {
        until("a write after the leader's end", || async { server.write("after").await.is_ok() })
            .await;
    }
    assert!(told.try_recv().is_err(), "the parked read goes on waiting");
    for server in servers {
        server.stop().await;
    }
    // What waits on a server that stops is told so.
    assert!(told.recv().await.expect("told").is_err());
}

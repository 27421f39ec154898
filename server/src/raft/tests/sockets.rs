//! The real thing: `net` on loopback, threads, real time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::NodeId;
use model::command::Command;
use net::{Identity, Limits, Pool, Role};
use rt::{Clock, Rng, Tasks};
use tokio::net::TcpListener;

use crate::consensus::{Consensus as _, Proposal};
use crate::raft::{Raft, RaftConfig};

async fn start(
    number: u8,
    listener: TcpListener,
    data_dir: Option<&tempfile::TempDir>,
    tasks: &Tasks,
) -> Arc<Raft> {
    let advertise = listener.local_addr().expect("bound");
    let identity = Identity {
        node_id: NodeId([number; 16]),
        role: Role::Server,
        datacenter: "dc1".to_owned(),
        state_version: 1,
    };
    let (clock, rng) = (Clock::system(), Rng::from_seed(number.into()));
    let limits = Limits::default();
    let pool = Pool::new(identity.clone(), limits.clone(), clock.clone(), rng.clone(), tasks);
    let config = RaftConfig {
        node_id: identity.node_id,
        node_name: format!("node{number}").into(),
        advertise,
        data_dir: data_dir.map(|directory| directory.path().to_owned()),
        multiplier: 2,
        snapshot_threshold: 50_000,
        disk_reserve: 0,
    };
    let raft = Raft::start(config, pool, clock, rng, tasks).await.expect("starts");
    let handler = raft.handler();
    let serving = tasks.clone();
    tasks.spawn("listener", async move {
        net::serve(listener, identity, handler, limits, &serving).await;
    });
    raft
}

fn tick() -> Proposal {
    Proposal {
        namespace: "default".into(),
        retry: None,
        actor: "".into(),
        reason: "".into(),
        command: Command::TickV1,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_agree_over_sockets() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let tasks = Tasks::new();
    let mut listeners = Vec::new();
    for _ in 0..3 {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        listeners.push(TcpListener::bind(any).await.expect("a free port"));
    }
    let mut voters = Vec::new();
    for (listener, number) in listeners.iter().zip(1_u8..) {
        let at = listener.local_addr().expect("bound");
        voters.push((NodeId([number; 16]), format!("node{number}").into(), at));
    }
    let mut servers = Vec::new();
    for (listener, number) in listeners.into_iter().zip(1_u8..) {
        // One keeps its log on disk, behind the writer's thread; the others in memory.
        let on_disk = (number == 1).then_some(&directory);
        servers.push(start(number, listener, on_disk, &tasks).await);
    }
    servers[0].initialize(voters).await.expect("initialised");
    let agree = async {
        let mut written = 0;
        while written < 50 {
            for server in &servers {
                if server.propose(tick()).await.is_ok() {
                    written += 1;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let at = loop {
            let mut indexes = Vec::new();
            for server in &servers {
                indexes.push(server.read_index().await);
            }
            if let Some(index) = indexes.into_iter().find_map(Result::ok) {
                break index;
            }
        };
        for server in &servers {
            while server.applied(at).await.is_err() {}
        }
    };
    tokio::time::timeout(Duration::from_secs(60), agree).await.expect("they agree in time");
    let hash = servers[0].state().hash();
    assert!(servers.iter().all(|server| server.state().hash() == hash));
    for server in &servers {
        server.shutdown().await;
    }
    tasks.stop_and_wait(Duration::from_secs(10)).await;
}

//! The real thing: `net` on loopback, threads, real time.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use model::NodeId;
use model::command::{Command, KvCommandV1, KvPutV1};
use net::{Channel, Identity, Limits, Pool, Role};
use openraft::async_runtime::WatchReceiver as _;
use rt::{Clock, Rng, Tasks};
use tokio::net::TcpListener;

use crate::consensus::{Consensus as _, Proposal};
use crate::raft::mirror::{AddressedV1, SnapshotAnswerV1, SnapshotOpenV1, message, read_message};
use crate::raft::transport::method;
use crate::raft::{Raft, RaftConfig, StartError};

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
    let starting = async {
        loop {
            let (pool, clock, rng) = (pool.clone(), clock.clone(), rng.clone());
            match Raft::start(config.clone(), pool, clock, rng, tasks).await {
                // The writer of one that was just closed lets go of the file a moment later.
                Err(StartError::InUse { .. }) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                started => return started.expect("starts"),
            }
        }
    };
    let started = tokio::time::timeout(Duration::from_secs(60), starting).await;
    let raft = started.expect("the file is free in time");
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

/// Opens the transfer of a snapshot as its leader would, sends so many bytes of it and breaks off.
/// Returns what the receiver had before.
async fn send_in_part(from: &Raft, to: (NodeId, SocketAddr), bytes: u64) -> u64 {
    let stored = from.0.inbound.shelf.current().expect("a snapshot");
    let vote = from.0.core.metrics().borrow_watched().vote;
    let request = SnapshotOpenV1 {
        vote: (&vote).into(),
        meta: (&stored.meta).into(),
        bytes: stored.bytes(),
        outline: stored.outline().expect("read"),
    };
    let open = message(&AddressedV1 { to: to.0, request });
    let mut part = Vec::new();
    stored.read().expect("open").take(bytes).read_to_end(&mut part).expect("read");
    let parts: Vec<_> = part.chunks(100_000).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
    let outgoing = stream::iter(parts).chain(stream::pending());
    let limit = Duration::from_secs(60);
    let (channel, number) = (Channel::Snapshot, method::SNAPSHOT);
    let opening = from.0.transport.stream(to.1, channel, number, open, outgoing.boxed(), limit);
    let mut answers = opening.await.expect("accepted");
    let answer = answers.next().await.expect("an answer").expect("no error");
    let SnapshotAnswerV1::Held(held) = read_message(&answer).expect("an answer") else {
        panic!("it was installed")
    };
    // Long enough for most of it to arrive; how much does not matter.
    let _ = tokio::time::timeout(Duration::from_millis(500), answers.next()).await;
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_was_cut_goes_on_over_sockets() {
    let (one, two) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
    let tasks = Tasks::new();
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let first = TcpListener::bind(any).await.expect("a free port");
    let second = TcpListener::bind(any).await.expect("a free port");
    let (first_at, to) = (
        first.local_addr().expect("bound"),
        (NodeId([2; 16]), second.local_addr().expect("bound")),
    );
    let first = start(1, first, Some(&one), &tasks).await;
    let second = start(2, second, Some(&two), &tasks).await;
    first.initialize(vec![(NodeId([1; 16]), "node1".into(), first_at)]).await.expect("ok");
    let done = async {
        for number in 0..12 {
            let (key, value) = (format!("k{number}").into(), vec![number; 400_000].into());
            let put = KvCommandV1::Set(KvPutV1 { key, value, flags: 0 });
            let proposal = || Proposal { command: Command::KvV1(put.clone()), ..tick() };
            while first.propose(proposal()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        first.0.core.trigger().snapshot().await.expect("running");
        let upto = loop {
            let snapshot = first.0.core.metrics().borrow_watched().snapshot;
            if let Some(id) = snapshot {
                break id.index;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        first.0.core.trigger().purge_log(upto).await.expect("running");
        while first.0.log.bounds().last_purged_log_id.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Each time more is there, as soon as the end of the last one has been noticed.
        assert_eq!(send_in_part(&first, to, 3_000_000).await, 0);
        while send_in_part(&first, to, 0).await == 0 {
            send_in_part(&first, to, 3_000_000).await;
        }
        first.add_server(to.0, "node2".into(), to.1).await.expect("a learner");
        while second.state().hash() != first.state().hash() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), done).await.expect("in time");
    assert!(second.0.log.bounds().last_purged_log_id.is_some(), "it came by snapshot");
    let left = std::fs::read_dir(two.path().join("raft/snapshots")).expect("shelf");
    let left: Vec<_> = left.map(|item| item.expect("item").file_name()).collect();
    assert_eq!(left.len(), 1, "{left:?}");
    for server in [first, second] {
        server.shutdown().await;
    }
    tasks.stop_and_wait(Duration::from_secs(10)).await;
}

/// Binds an address that was in use a moment ago.
async fn bind_again(at: SocketAddr) -> TcpListener {
    let bound = async {
        loop {
            match TcpListener::bind(at).await {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), bound).await.expect("free again")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_server_at_the_address_of_another_does_not_count_for_it() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (tasks, lost) = (Tasks::new(), Tasks::new());
    let mut voters = Vec::new();
    let mut listeners = Vec::new();
    for number in 1..=2_u8 {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let listener = TcpListener::bind(any).await.expect("a free port");
        let at = listener.local_addr().expect("bound");
        voters.push((NodeId([number; 16]), format!("node{number}").into(), at));
        listeners.push(listener);
    }
    let (first_at, second_at) = (voters[0].2, voters[1].2);
    let second = listeners.pop().expect("two");
    let first = start(1, listeners.pop().expect("two"), Some(&directory), &lost).await;
    let second = start(2, second, None, &lost).await;
    first.initialize(voters).await.expect("initialised");
    let written = async {
        while first.propose(tick()).await.is_err() && second.propose(tick()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), written).await.expect("they agree in time");
    // Both end. The second is gone with all it had, and another server is where it was.
    first.shutdown().await;
    second.shutdown().await;
    drop((first, second));
    lost.stop_and_wait(Duration::from_secs(10)).await;
    let third = start(3, bind_again(second_at).await, None, &tasks).await;
    let first = start(1, bind_again(first_at).await, Some(&directory), &tasks).await;
    let reached = async {
        while first.0.transport.who(second_at, Channel::RaftControl) != Some(NodeId([3; 16])) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reached).await.expect("the first asks it");
    // Without the second there is no majority, though the third would give its vote.
    let wait = tokio::time::Instant::now() + Duration::from_secs(5);
    while tokio::time::Instant::now() < wait {
        assert!(!first.leadership().borrow().is_leader);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for raft in [first, third] {
        raft.shutdown().await;
    }
    tasks.stop_and_wait(Duration::from_secs(10)).await;
}

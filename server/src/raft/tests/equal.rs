//! Replicas stay equal, and one that does not is found; what they remember of recent changes.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use model::LogIndex;
use openraft::async_runtime::WatchReceiver as _;

use super::hub::{Hub, Server, address, cluster, leader, node_id, until};
use crate::consensus::Consensus as _;
use crate::raft::checkpoint::CHECKPOINT_ENTRIES;

async fn write(servers: &[Server], count: u64, name: &str) {
    let at = leader(servers).await;
    let writes = (0..count).map(|n| {
        let key = format!("{name}/{n}");
        async move { servers[at].set(&key, "v").await }
    });
    for written in join_all(writes).await {
        written.expect("written");
    }
    let last = servers[at].raft.0.published.applied();
    until("all follow", || {
        servers.iter().all(|one| one.raft.0.published.applied() >= last).then_some(())
    })
    .await;
}

async fn lead_astray(server: &Server) {
    let astray = server.raft.0.core.with_state_machine(|machine| {
        machine.lead_astray();
        std::future::ready(()).boxed()
    });
    astray.await.expect("running");
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_went_astray_is_found_by_the_majority_and_stops() {
    let (hub, faults) = Hub::watching();
    let servers = cluster(&hub, 3).await;
    write(&servers, CHECKPOINT_ENTRIES + 10, "good").await;
    let hashes: Vec<_> = servers.iter().map(|one| one.raft.0.published.checkpoints()).collect();
    assert!(!hashes[0].is_empty() && hashes.iter().all(|one| *one == hashes[0]), "{hashes:?}");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(faults.lock().expect("not poisoned").is_empty(), "equal ones go on");

    let odd = (leader(&servers).await + 1) % 3;
    lead_astray(&servers[odd]).await;
    write(&servers, CHECKPOINT_ENTRIES, "bad").await;
    let (id, said) =
        until("it is told", || faults.lock().expect("not poisoned").first().cloned()).await;
    assert_eq!(id, servers[odd].id);
    assert!(said.contains("differs from that of 2 of 3 voters after log entry 2000"), "{said}");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let faults = faults.lock().expect("not poisoned");
    assert!(faults.iter().all(|(id, _)| *id == servers[odd].id), "{faults:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_went_astray_stops_itself() {
    let (hub, faults) = Hub::watching();
    let servers = cluster(&hub, 3).await;
    write(&servers, 10, "good").await;
    let odd = leader(&servers).await;
    lead_astray(&servers[odd]).await;
    write(&servers, CHECKPOINT_ENTRIES, "bad").await;
    let (id, _) =
        until("it is told", || faults.lock().expect("not poisoned").first().cloned()).await;
    assert_eq!(id, servers[odd].id);
}

#[tokio::test(start_paused = true)]
async fn of_two_that_differ_neither_stops() {
    let (hub, faults) = Hub::watching();
    let servers = cluster(&hub, 2).await;
    write(&servers, 10, "good").await;
    lead_astray(&servers[(leader(&servers).await + 1) % 2]).await;
    write(&servers, CHECKPOINT_ENTRIES, "bad").await;
    let [one, other] = [0, 1].map(|n| servers[n].raft.0.published.checkpoint_at(1_000));
    assert!(one.is_some() && other.is_some() && one != other);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(faults.lock().expect("not poisoned").is_empty());
}

fn remembered(server: &Server, after: u64) -> Option<Vec<u64>> {
    let ring = server.raft.0.published.ring();
    let changes = ring.since(LogIndex(after))?;
    Some(changes.flat_map(|entry| entry.iter().map(|change| change.index.0)).collect())
}

#[tokio::test(start_paused = true)]
async fn recent_changes_are_remembered_rebuilt_by_the_replay_and_forgotten_at_an_install() {
    let hub = Hub::default();
    let mut servers = cluster(&hub, 1).await;
    write(&servers, 30, "k").await;
    let all = remembered(&servers[0], 0).expect("complete from the start");
    assert_eq!(all.len(), 30);
    assert!(all.is_sorted());
    assert_eq!(remembered(&servers[0], all[9]), Some(all[10..].to_vec()));

    // The replay of the log's tail brings them back.
    let server = servers.remove(0);
    let (id, at) = (server.id.0[0], server.address);
    let directory = server.crash().await;
    servers.push(Server::start_at(&hub, id, at, directory).await);
    leader(&servers).await;
    assert_eq!(remembered(&servers[0], 0), Some(all.clone()));

    // A snapshot holds states, not what led to them.
    let first = &servers[0].raft.0;
    first.core.trigger().snapshot().await.expect("running");
    let upto =
        until("a snapshot", || first.core.metrics().borrow_watched().snapshot.map(|id| id.index))
            .await;
    first.core.trigger().purge_log(upto).await.expect("running");
    until("a purge", || first.log.bounds().last_purged_log_id).await;
    servers.push(Server::start(&hub, 2).await);
    let added = servers[0].raft.add_server(node_id(2), "node2".into(), address(2));
    added.await.expect("it catches up and votes");
    write(&servers, 5, "later").await;
    assert_eq!(remembered(&servers[1], upto - 1), None);
    assert_eq!(remembered(&servers[1], upto).map(|all| all.len()), Some(5));
    let stats = servers[1].raft.stats();
    let oldest = stats.iter().find(|(key, _)| key == "oldest_change_index");
    assert_eq!(oldest.map(|(_, value)| value.clone()), Some(upto.to_string()));
}

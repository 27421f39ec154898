//! Transfers of snapshots that are cut and go on.

use std::path::PathBuf;

use openraft::async_runtime::WatchReceiver as _;

use super::cluster::{everywhere, join};
use super::hub::{Hub, Server, address, cluster, leader, node_id, until};
use crate::consensus::Consensus as _;

/// A server whose snapshot has several blocks, and another that needs it: it is cut off when a good
/// part of the snapshot has been sent to it.
async fn cut_off(hub: &Hub) -> (Vec<Server>, u64) {
    let mut servers = cluster(hub, 1).await;
    leader(&servers).await;
    let first = &servers[0].raft;
    for number in 0..20 {
        let value = format!("{number}").repeat(400_000 / if number < 10 { 1 } else { 2 });
        servers[0].set(&format!("k{number}"), &value).await.expect("written");
    }
    first.0.core.trigger().snapshot().await.expect("running");
    let upto =
        until("a snapshot", || first.0.core.metrics().borrow_watched().snapshot.map(|id| id.index))
            .await;
    first.0.core.trigger().purge_log(upto).await.expect("running");
    until("a purge", || first.0.log.bounds().last_purged_log_id).await;
    let bytes = first.0.inbound.shelf.current().expect("a snapshot").bytes();
    assert!(bytes > 6 << 20, "{bytes}");

    hub.cut_within_snapshot(address(2), 5 << 20);
    servers.push(Server::start(hub, 2).await);
    let raft = std::sync::Arc::clone(&servers[0].raft);
    raft.add_server(node_id(2), "node2".into(), address(2)).await.expect("a learner");
    until("a cut", || (hub.snapshots().first() == Some(&(5 << 20))).then_some(())).await;
    until("what came is kept", || (received(&servers[1]).len() == 1).then_some(())).await;
    (servers, bytes)
}

/// Files of unfinished snapshots.
fn received(server: &Server) -> Vec<PathBuf> {
    let directory = server.directory.as_ref().expect("it has one").path().join("raft/snapshots");
    let items = std::fs::read_dir(directory).expect("shelf").map(|item| item.expect("item").path());
    items
        .filter(|path| path.to_string_lossy().ends_with(".tmp"))
        .map(|path| path.join("state.bin"))
        .collect()
}

async fn arrives(hub: &Hub, servers: &[Server]) {
    hub.heal(address(2));
    join(&servers[0], 2, address(2)).await;
    servers[0].set("last", "v").await.expect("written");
    everywhere(servers, "last", "v").await;
    assert_eq!(servers[0].raft.state().hash(), servers[1].raft.state().hash());
    assert!(servers[1].raft.0.log.bounds().last_purged_log_id.is_some(), "it came by snapshot");
    assert!(received(&servers[1]).is_empty(), "nothing is left behind");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_was_cut_goes_on_where_it_was() {
    let hub = Hub::default();
    let (servers, bytes) = cut_off(&hub).await;
    arrives(&hub, &servers).await;
    let sent = hub.snapshots();
    assert_eq!(sent.len(), 2, "{sent:?}");
    // What was sent twice is the block within which it was cut, and the message that was under way.
    assert!(sent[1] < bytes - (2 << 20), "{sent:?} of {bytes}");
    assert!(sent[0] + sent[1] >= bytes, "{sent:?} of {bytes}");
}

#[tokio::test(start_paused = true)]
async fn what_was_kept_of_a_snapshot_is_not_used_when_it_is_damaged() {
    let hub = Hub::default();
    let (servers, bytes) = cut_off(&hub).await;
    let path = received(&servers[1]).pop().expect("kept");
    let mut kept = std::fs::read(&path).expect("read");
    let middle = kept.len() / 2;
    kept[middle] ^= 0x10;
    std::fs::write(&path, &kept).expect("written");
    arrives(&hub, &servers).await;
    assert_eq!(hub.snapshots()[1..], [bytes], "all of it, anew");
}

#[tokio::test(start_paused = true)]
async fn what_was_kept_of_a_snapshot_is_given_up_for_a_newer_one() {
    let hub = Hub::default();
    let (servers, _) = cut_off(&hub).await;
    let first = &servers[0].raft;
    let before = first.0.inbound.shelf.current().expect("a snapshot").meta.last_log_id;
    servers[0].set("more", "v").await.expect("written");
    first.0.core.trigger().snapshot().await.expect("running");
    let newest = until("a newer snapshot", || {
        first.0.inbound.shelf.current().filter(|stored| stored.meta.last_log_id > before)
    })
    .await;
    first
        .0
        .core
        .trigger()
        .purge_log(newest.meta.last_log_id.expect("one").index)
        .await
        .expect("ok");
    arrives(&hub, &servers).await;
    assert_eq!(hub.snapshots().last(), Some(&newest.bytes()), "all of it");
}

#[tokio::test(start_paused = true)]
async fn what_was_kept_of_a_snapshot_is_removed_after_some_minutes() {
    let hub = Hub::default();
    let (servers, bytes) = cut_off(&hub).await;
    tokio::time::sleep(std::time::Duration::from_secs(700)).await;
    assert!(received(&servers[1]).is_empty());
    arrives(&hub, &servers).await;
    assert_eq!(hub.snapshots()[1..], [bytes], "all of it, anew");
}

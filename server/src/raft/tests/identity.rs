//! A server is its id, not its address.

use std::time::Duration;

use super::hub::{Hub, Server, cluster, leader, node_id, until};
use crate::consensus::Consensus as _;

#[tokio::test(start_paused = true)]
async fn a_new_server_at_the_address_of_a_lost_one_never_counts_for_it() {
    let hub = Hub::default();
    let mut servers = cluster(&hub, 3).await;
    let at = leader(&servers).await;
    servers[at].set("k", "v").await.expect("written");
    let lost = servers.remove((at + 1) % 3);
    let (old, place) = (lost.id, lost.address);
    drop(lost.crash().await);
    let directory = tempfile::tempdir().expect("temporary directory");
    servers.push(Server::start_at(&hub, 9, place, directory).await);
    let new = servers.len() - 1;

    let at = leader(&servers[..new]).await;
    servers[at].set("k", "w").await.expect("two of three are there");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(servers[new].raft.pristine(), "it took what was meant for another");

    // Without the other follower there is no majority, whatever answers at the lost one's address.
    let other = (0..new).find(|one| *one != at).expect("one of two");
    hub.cut(servers[other].address);
    let write = servers[at].set("k", "x");
    let written = tokio::time::timeout(Duration::from_secs(30), write).await;
    assert!(!matches!(written, Ok(Ok(_))), "acknowledged by one of three");
    assert!(servers[new].raft.pristine());
    hub.heal(servers[other].address);

    // Added under its own id it counts, and the old one goes.
    let at = leader(&servers[..new]).await;
    let added = servers[at].raft.add_server(node_id(9), "node9".into(), place);
    added.await.expect("it is a learner");
    servers[at].raft.remove_server(old).await.expect("removed");
    while let Err(early) = servers[at].raft.promote(node_id(9)).await {
        tracing::debug!(%early, "it has not caught up yet");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    servers[at].set("k", "y").await.expect("written");
    until("it has all", || (servers[new].get("k").as_deref() == Some("y")).then_some(())).await;
    let (_, configuration) = servers[at].raft.configuration();
    assert_eq!(configuration.iter().filter(|one| one.voter).count(), 3);
}

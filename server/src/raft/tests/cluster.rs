//! Elections, crashes, snapshots, membership, transfer, retries.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use model::command::{AutopilotCommandV1, Command, Outcome, RetryV1};
use model::row::AutopilotV1;
use model::rpc::RpcError;
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver as _;

use super::hub::{Hub, Server, address, cluster, leader, node_id, until};
use crate::consensus::{Consensus as _, Proposal};
use crate::raft::types::{RaftId, RaftNode};

/// Adds a server that runs, and makes it a voter as soon as it has caught up.
pub(super) async fn join(leader: &Server, number: u8, at: SocketAddr) {
    let name = format!("node{number}").into();
    leader.raft.add_server(node_id(number), name, at).await.expect("a learner");
    for _ in 0..1_000 {
        match leader.raft.promote(node_id(number)).await {
            Ok(()) => return,
            Err(RpcError::Rejected(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("server {number} never caught up");
}

pub(super) async fn everywhere(servers: &[Server], key: &str, value: &str) {
    until(&format!("{key} everywhere"), || {
        servers.iter().all(|server| server.get(key).as_deref() == Some(value)).then_some(())
    })
    .await;
}

/// Writes on whoever leads, again and again until it is acknowledged.
pub(super) async fn set_anyhow(servers: &[Server], key: &str, value: &str) {
    for _ in 0..100 {
        let at = leader(servers).await;
        if servers[at].set(key, value).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{key} was never acknowledged");
}

#[tokio::test(start_paused = true)]
async fn three_servers_elect_and_apply_the_same() {
    let hub = Hub::default();
    let servers = cluster(&hub, 3).await;
    let at = leader(&servers).await;
    for number in 0..20 {
        servers[at].set(&format!("k{number}"), "v").await.expect("written");
    }
    everywhere(&servers, "k19", "v").await;
    let hash = servers[at].raft.state().hash();
    assert!(servers.iter().all(|server| server.raft.state().hash() == hash));
    assert!(servers.iter().all(|server| server.raft.ready() && !server.raft.pristine()));
    servers[at].raft.confirm_lease().await.expect("it has a quorum");
    let index = servers[at].raft.read_index().await.expect("it has a quorum");
    for server in &servers {
        server.raft.applied(index).await.expect("it follows");
    }
    let follower = &servers[(at + 1) % 3];
    assert_eq!(follower.set("k", "v").await, Err(RpcError::NoLeader));
    assert_eq!(follower.raft.confirm_lease().await, Err(RpcError::NoLeader));
    let (_, configuration) = follower.raft.configuration();
    assert_eq!(configuration.len(), 3);
    assert!(configuration.iter().all(|server| server.voter));
    assert_eq!(configuration.iter().filter(|server| server.leader).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_acknowledged_is_lost_when_leaders_crash_and_come_back() {
    let hub = Hub::default();
    let mut servers = cluster(&hub, 3).await;
    let mut number = 0;
    for round in 0..3 {
        for _ in 0..10 {
            set_anyhow(&servers, &format!("k{number}"), &round.to_string()).await;
            number += 1;
        }
        let crashed = servers.remove(leader(&servers).await);
        let (id, at) = (crashed.id.0[0], crashed.address);
        let time = crashed.raft.state().cluster_time_ms();
        let directory = crashed.crash().await;
        set_anyhow(&servers, &format!("after{round}"), "v").await;
        let now = servers[leader(&servers).await].raft.state().cluster_time_ms();
        assert!(now >= time, "cluster time never goes back: {now} after {time}");
        servers.push(Server::start_at(&hub, id, at, directory).await);
        everywhere(&servers, &format!("after{round}"), "v").await;
        for number in 0..number {
            let key = format!("k{number}");
            assert!(servers.iter().all(|server| server.get(&key).is_some()), "{key}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_whole_cluster_comes_back_from_disk() {
    let hub = Hub::default();
    let servers = cluster(&hub, 3).await;
    let at = leader(&servers).await;
    servers[at].set("k", "v").await.expect("written");
    everywhere(&servers, "k", "v").await;
    let hash = servers[at].raft.state().hash();
    let mut directories = Vec::new();
    for server in servers {
        directories.push((server.id.0[0], server.address, server.crash().await));
    }
    let mut servers = Vec::new();
    for (number, address, directory) in directories {
        servers.push(Server::start_at(&hub, number, address, directory).await);
    }
    assert!(servers.iter().all(|server| !server.raft.pristine()));
    everywhere(&servers, "k", "v").await;
    leader(&servers).await;
    assert!(servers.iter().all(|server| server.raft.state().hash() == hash));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_says_so_and_its_followers_find_another() {
    let hub = Hub::default();
    let servers = cluster(&hub, 3).await;
    let old = leader(&servers).await;
    servers[old].set("k", "before").await.expect("written");
    assert_eq!(servers[old].raft.last_contact_ms(), Some(0));
    hub.cut(servers[old].address);
    until("the cut-off leader knows none", || {
        servers[old].raft.leadership().borrow().leader.is_none().then_some(())
    })
    .await;
    assert_eq!(servers[old].raft.confirm_lease().await, Err(RpcError::NoLeader));
    assert_eq!(servers[old].raft.read_index().await, Err(RpcError::NoLeader));
    let contact = servers[old].raft.last_contact_ms();
    assert!(contact.is_some_and(|ms| ms > 1_000), "what it has grows old: {contact:?}");
    set_anyhow(&servers, "k", "after").await;
    assert_eq!(servers[old].get("k").as_deref(), Some("before"));
    hub.heal(servers[old].address);
    everywhere(&servers, "k", "after").await;

    // A follower that is cut off forgets its leader, too, and disturbs nobody when it is back.
    let at = leader(&servers).await;
    let term = servers[at].raft.leadership().borrow().term;
    let follower = &servers[(at + 1) % 3];
    hub.cut(follower.address);
    until("the cut-off follower knows none", || {
        follower.raft.leadership().borrow().leader.is_none().then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    hub.heal(follower.address);
    until("it is back", || {
        follower.raft.leadership().borrow().leader.map(|(id, _)| assert_eq!(id, servers[at].id))
    })
    .await;
    assert_eq!(servers[at].raft.leadership().borrow().term, term, "no election");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lags_behind_the_log_gets_a_snapshot_and_becomes_a_voter() {
    let hub = Hub::default();
    let mut servers = cluster(&hub, 1).await;
    leader(&servers).await;
    let first = &servers[0].raft;
    for number in 0..200 {
        servers[0].set(&format!("k{number}"), &"x".repeat(1_000)).await.expect("written");
    }
    first.0.core.trigger().snapshot().await.expect("running");
    let upto = until("a snapshot", || {
        first.stats().into_iter().find_map(|(key, value)| {
            let index: u64 = value.parse().ok()?;
            (key == "last_snapshot_index" && index > 0).then_some(index)
        })
    })
    .await;
    first.0.core.trigger().purge_log(upto).await.expect("running");
    until("a purge", || first.0.log.bounds().last_purged_log_id).await;

    servers.push(Server::start(&hub, 2).await);
    join(&servers[0], 2, address(2)).await;
    servers[0].set("last", "v").await.expect("written");
    everywhere(&servers, "last", "v").await;
    assert_eq!(servers[0].raft.state().hash(), servers[1].raft.state().hash());
    assert!(servers[1].raft.0.log.bounds().last_purged_log_id.is_some(), "it came by snapshot");

    // Both come back: one from its snapshot and the log behind it, the other from the received one.
    let mut again = Vec::new();
    for server in servers {
        again.push((server.id.0[0], server.address, server.crash().await));
    }
    let mut servers = Vec::new();
    for (number, address, directory) in again {
        servers.push(Server::start_at(&hub, number, address, directory).await);
    }
    everywhere(&servers, "last", "v").await;
    everywhere(&servers, "k0", &"x".repeat(1_000)).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_last_entries_were_never_committed_becomes_ready_again() {
    let hub = Hub::default();
    let mut servers = cluster(&hub, 3).await;
    let old = leader(&servers).await;
    servers[old].set("k", "v").await.expect("written");
    everywhere(&servers, "k", "v").await;
    let last = |server: &Server| server.raft.0.log.bounds().last_log_id.map_or(0, |id| id.index);
    let committed = last(&servers[old]);
    hub.cut(servers[old].address);
    for _ in 0..5 {
        let lost = servers[old].set("lost", "v");
        assert!(tokio::time::timeout(Duration::from_millis(10), lost).await.is_err());
    }
    until("they are in its log", || (last(&servers[old]) >= committed + 5).then_some(())).await;
    let crashed = servers.remove(old);
    let (number, address) = (crashed.id.0[0], crashed.address);
    let directory = crashed.crash().await;
    hub.heal(address);

    // A new leader writes one entry of its own, and then all is quiet.
    leader(&servers).await;
    let back = Server::start_at(&hub, number, address, directory).await;
    assert_eq!(last(&back), committed + 5);
    until("it is ready", || back.raft.ready().then_some(())).await;
    assert_eq!((back.get("k").as_deref(), back.get("lost")), (Some("v"), None));
}

#[tokio::test(start_paused = true)]
async fn a_learner_that_does_not_catch_up_holds_up_nobody() {
    let hub = Hub::default();
    let servers = cluster(&hub, 1).await;
    leader(&servers).await;
    let second = Server::start(&hub, 2).await;
    let raft = &servers[0].raft;
    let begun = tokio::time::Instant::now();
    let others = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        join(&servers[0], 2, address(2)).await;
        raft.remove_server(node_id(2)).await.expect("removed");
        begun.elapsed()
    };
    let third = Server::start(&hub, 3).await;
    let lagging = async {
        raft.add_server(node_id(3), "node3".into(), address(3)).await.expect("a learner");
        hub.cut(third.address);
        for number in 0..1_100 {
            servers[0].set(&format!("k{number}"), "v").await.expect("written");
        }
        raft.promote(node_id(3)).await
    };
    let (lagging, took) = tokio::join!(lagging, others);
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(matches!(lagging, Err(RpcError::Rejected(_))), "{lagging:?}");
    // One that cannot be asked who it is does not even become a learner.
    let absent = raft.add_server(node_id(9), "node9".into(), address(9)).await;
    assert!(absent.is_err() && !raft.configuration().1.iter().any(|s| s.id == node_id(9)));
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_voters_that_stopped_half_way_is_finished() {
    let hub = Hub::default();
    let mut servers = cluster(&hub, 1).await;
    leader(&servers).await;
    servers.push(Server::start(&hub, 2).await);
    servers[0].set("first", "v").await.expect("written");
    let core = &servers[0].raft.0.core;
    let second = RaftNode { name: "node2".into(), address: address(2) };
    let learner = ChangeMembers::AddNodes(BTreeMap::from([(RaftId(node_id(2)), second)]));
    core.change_membership(learner, true).await.expect("a learner");
    hub.cut(address(2));
    let voter = ChangeMembers::AddVoterIds(BTreeSet::from([RaftId(node_id(2))]));
    let change = core.change_membership(voter, true);
    assert!(tokio::time::timeout(Duration::from_millis(100), change).await.is_err());
    hub.heal(address(2));
    set_anyhow(&servers[..1], "k", "v").await;
    let sets = || {
        let metrics = core.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.get_joint_config().len()
    };
    assert_eq!(sets(), 2, "both must agree to everything");
    let votes = || servers[0].raft.configuration().1.iter().filter(|s| s.voter).count();
    assert_eq!(votes(), 1);
    servers[0].raft.promote(node_id(2)).await.expect("a voter");
    assert_eq!((sets(), votes()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn servers_are_added_moved_and_removed() {
    let hub = Hub::default();
    let mut servers = cluster(&hub, 1).await;
    leader(&servers).await;
    for number in 2..=3 {
        servers.push(Server::start(&hub, number).await);
        join(&servers[0], number, address(number)).await;
    }
    let voters = |servers: &[Server]| {
        let (_, configuration) = servers[0].raft.configuration();
        configuration.iter().filter(|server| server.voter).count()
    };
    assert_eq!(voters(&servers), 3);
    servers[0].raft.add_server(node_id(3), "node3".into(), address(3)).await.expect("known");

    // The third server moves to another address.
    let moved = servers.remove(2).crash().await;
    servers.push(Server::start_at(&hub, 3, address(33), moved).await);
    servers[0].raft.add_server(node_id(3), "node3".into(), address(33)).await.expect("moved");
    servers[0].set("moved", "v").await.expect("written");
    everywhere(&servers, "moved", "v").await;

    servers[0].raft.remove_server(node_id(3)).await.expect("removed");
    servers[0].raft.remove_server(node_id(3)).await.expect("gone already");
    assert_eq!(servers[0].raft.configuration().1.len(), 2);
    servers[0].set("removed", "v").await.expect("written");
    assert_eq!(servers[2].get("removed"), None);
    servers.pop();

    // The leader removes itself; the other goes on.
    servers[0].raft.remove_server(node_id(1)).await.expect("removed");
    let rest = servers.split_off(1);
    set_anyhow(&rest, "alone", "v").await;
    assert!(rest[0].raft.remove_server(node_id(2)).await.is_err(), "the last voter stays");
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over_without_a_gap_for_an_election() {
    let hub = Hub::default();
    let servers = cluster(&hub, 3).await;
    let old = leader(&servers).await;
    servers[old].set("k", "v").await.expect("written");
    let to = (old + 1) % 3;
    let begun = tokio::time::Instant::now();
    servers[old].raft.transfer(Some(servers[to].id)).await.expect("handed over");
    assert_eq!(leader(&servers).await, to);
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    servers[to].set("k", "w").await.expect("written");
    assert!(servers[to].raft.transfer(Some(node_id(9))).await.is_err(), "not a server");
    servers[to].raft.transfer(None).await.expect("handed over to whoever is closest");
    assert_ne!(leader(&servers).await, to);
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_to_a_server_that_answers() {
    let hub = Hub::default();
    let servers = cluster(&hub, 3).await;
    let old = leader(&servers).await;
    servers[old].set("k", "v").await.expect("written");
    everywhere(&servers, "k", "v").await;
    // Nothing is written any more: its log stays as close as the other one's.
    let gone = if old == 2 { 1 } else { 2 };
    hub.cut(servers[gone].address);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = tokio::time::Instant::now();
    servers[old].raft.transfer(None).await.expect("handed over");
    assert_eq!(leader(&servers).await, 3 - old - gone);
    // An election without it would take longer.
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_retried_write_applies_once_even_on_another_leader() {
    let hub = Hub::default();
    let servers = cluster(&hub, 3).await;
    let old = leader(&servers).await;
    let retry = Some(RetryV1 { origin: node_id(99), seq: 1, oldest_open: 1 });
    let (_, outcome) = servers[old].set_retried("k", "v", retry).await.expect("written");
    assert_eq!(outcome, Outcome::Bool(true));
    let before = servers[old].raft.state().kv("default", b"k").expect("there");
    let to = servers[(old + 1) % 3].id;
    servers[old].raft.transfer(Some(to)).await.expect("handed over");
    let new = leader(&servers).await;
    let (_, again) = servers[new].set_retried("k", "v", retry).await.expect("answered");
    assert_eq!(again, outcome);
    let after = servers[new].raft.state().kv("default", b"k").expect("there");
    assert_eq!(after.modify_index, before.modify_index, "applied once");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_server_gives_no_vote_for_one_election_timeout() {
    let hub = Hub::default();
    let servers = cluster(&hub, 3).await;
    let at = leader(&servers).await;
    servers[at].set("k", "v").await.expect("written");
    let follower = (at + 1) % 3;
    let mut servers = servers;
    let crashed = servers.remove(follower);
    let (number, address) = (crashed.id.0[0], crashed.address);
    let directory = crashed.crash().await;
    let back = Server::start_at(&hub, number, address, directory).await;
    let mute_until = back.raft.0.inbound.mute_until.expect("it may have promised something");
    let since = mute_until.saturating_duration_since(tokio::time::Instant::now());
    assert!(since <= Duration::from_millis(350) && since > Duration::from_millis(300), "{since:?}");
    let fresh = Server::start(&hub, 9).await;
    assert!(fresh.raft.0.inbound.mute_until.is_none(), "it has promised nothing");
}

#[tokio::test(start_paused = true)]
async fn an_address_that_leads_to_another_server_is_refused() {
    let hub = Hub::default();
    let mut servers = cluster(&hub, 3).await;
    let at = leader(&servers).await;
    let fourth = Server::start(&hub, 4).await;
    let raft = &servers[at].raft;
    let refused = raft.add_server(node_id(5), "node5".into(), address(4)).await;
    let text = refused.expect_err("it is another").to_string();
    assert!(text.contains(&node_id(4).to_string()), "{text}");
    // Nor is a voter moved to an address where another server is.
    let moved = servers[(at + 1) % 3].id;
    assert!(raft.add_server(moved, "moved".into(), address(4)).await.is_err());
    assert!(raft.configuration().1.iter().all(|server| *server.address != *"127.0.0.4:8300"));
    drop(fourth);
    servers.clear();
}

fn autopilot(min_quorum: u64) -> Proposal {
    let row = AutopilotV1 { min_quorum, ..AutopilotV1::default() };
    Proposal {
        namespace: "default".into(),
        retry: None,
        actor: "".into(),
        reason: "".into(),
        command: Command::AutopilotV1(AutopilotCommandV1::Set(row)),
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_is_proposed_only_once_every_voter_knows_it() {
    let hub = Hub::default();
    let mut servers = Vec::new();
    for number in 1..=3 {
        servers.push(Server::start(&hub, number).await);
    }
    hub.announce(address(3), 1);
    let voters = (1..=3).map(|n| (node_id(n), format!("node{n}").into(), address(n))).collect();
    servers[0].raft.initialize(voters).await.expect("initialised");
    let at = leader(&servers).await;
    until("all were asked", || (servers[at].raft.census().borrow().round > 0).then_some(())).await;
    let refused = servers[at].raft.propose(autopilot(1)).await.expect_err("one is too old");
    let text = refused.to_string();
    assert!(text.contains("node3") && text.contains("state version 2"), "{text}");
    // What is as old as the server goes on.
    servers[at].set("k", "v").await.expect("written");
    everywhere(&servers, "k", "v").await;

    hub.announce(address(3), 2);
    until("it is upgraded", || (servers[at].raft.state().version() == 2).then_some(())).await;
    servers[at].raft.propose(autopilot(1)).await.expect("all know it");

    // The version outlives the leader that found it, and one voter that is down does not matter.
    let old = servers.remove(at).crash().await;
    let next = leader(&servers).await;
    servers[next].raft.propose(autopilot(2)).await.expect("all knew it once");
    // A server from before is not let in any more.
    let fourth = Server::start(&hub, 4).await;
    hub.announce(address(4), 1);
    let refused = servers[next].raft.add_server(node_id(4), "node4".into(), address(4)).await;
    assert!(refused.expect_err("too old").to_string().contains("upgrade"));
    hub.announce(address(4), 2);
    servers[next].raft.add_server(node_id(4), "node4".into(), address(4)).await.expect("let in");
    drop((old, fourth));
}

#[tokio::test(start_paused = true)]
async fn the_census_says_how_far_each_server_is() {
    let hub = Hub::default();
    let servers = cluster(&hub, 3).await;
    let at = leader(&servers).await;
    servers[at].set("k", "v").await.expect("written");
    everywhere(&servers, "k", "v").await;
    let census = servers[at].raft.census();
    let current = |server: &Server| {
        let seen = census.borrow().clone();
        let report = seen.reports.get(&server.id)?.clone();
        let last = server.raft.0.log.bounds().last_log_id?;
        let same =
            (report.stats.last_term, report.stats.last_index) == (last.leader_id.term, last.index);
        (report.fresh && same && report.stats.contact_ms? < 100).then_some(())
    };
    until("all are known", || servers.iter().all(|s| current(s).is_some()).then_some(())).await;
    let silent = &servers[(at + 1) % 3];
    hub.cut(silent.address);
    until("silence is seen", || {
        let seen = census.borrow().clone();
        seen.reports.get(&silent.id).is_some_and(|report| !report.fresh).then_some(())
    })
    .await;
    assert_eq!(servers[(at + 2) % 3].raft.census().borrow().round, 0, "only the leader asks");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lost_its_log_is_sent_it_again_and_harms_nobody() {
    let hub = Hub::default();
    let mut servers = cluster(&hub, 3).await;
    let at = leader(&servers).await;
    for number in 0..30 {
        servers[at].set(&format!("k{number}"), "v").await.expect("written");
    }
    everywhere(&servers, "k29", "v").await;
    let lost = servers.remove((at + 1) % 3);
    let (number, at) = (lost.id.0[0], lost.address);
    drop(lost.crash().await);
    let empty = tempfile::tempdir().expect("temporary directory");
    servers.push(Server::start_at(&hub, number, at, empty).await);
    everywhere(&servers, "k0", "v").await;
    set_anyhow(&servers, "after", "v").await;
    everywhere(&servers, "after", "v").await;
    let hash = servers[0].raft.state().hash();
    assert!(servers.iter().all(|server| server.raft.state().hash() == hash));
}

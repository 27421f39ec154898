//! `peers.json`.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use rt::Tasks;

use super::cluster::{everywhere, join, set_anyhow};
use super::hub::{Hub, Server, address, cluster, config, leader, node_id};
use crate::consensus::Consensus as _;
use crate::raft::fault::OnFault;
use crate::raft::log::{Disk, Stepping};
use crate::raft::{open_storage, recovery};

fn file(directory: &tempfile::TempDir, name: &str) -> PathBuf {
    directory.path().join("raft").join(name)
}

fn entry(number: u8, voter: bool) -> String {
    let (id, at) = (node_id(number), address(number));
    format!(r#"{{"id": "{id}", "address": "{at}", "non_voter": {}}}"#, !voter)
}

fn order(directory: &tempfile::TempDir, peers: &[String]) {
    std::fs::write(file(directory, "peers.json"), format!("[{}]", peers.join(",")))
        .expect("written");
}

/// Three servers with a few keys, then one of their directories, as after a crash of all.
async fn lost(hub: &Hub) -> (u8, tempfile::TempDir) {
    let servers = cluster(hub, 3).await;
    for number in 0..20 {
        set_anyhow(&servers, &format!("k{number}"), "v").await;
    }
    everywhere(&servers, "k19", "v").await;
    let mut survivor = None;
    for server in servers {
        let number = server.id.0[0];
        survivor = Some((number, server.crash().await));
    }
    survivor.expect("three servers")
}

fn voters(server: &Server) -> Vec<u8> {
    let (_, servers) = server.raft.configuration();
    servers.iter().filter(|server| server.voter).map(|server| server.id.0[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn a_survivor_goes_on_alone_with_all_data_and_takes_in_new_servers() {
    let hub = Hub::default();
    let (number, directory) = lost(&hub).await;
    assert!(file(&directory, "peers.info").exists());
    order(&directory, &[entry(number, true)]);
    let mut servers = vec![Server::start_at(&hub, number, address(number), directory).await];
    assert_eq!(leader(&servers).await, 0);
    assert_eq!(voters(&servers[0]), [number]);
    everywhere(&servers, "k19", "v").await;
    assert_eq!(servers[0].get("k0").as_deref(), Some("v"));
    servers[0].set("after", "v").await.expect("it has a quorum");

    for new in [11, 12] {
        servers.push(Server::start(&hub, new).await);
        join(&servers[0], new, address(new)).await;
    }
    everywhere(&servers, "after", "v").await;
    everywhere(&servers, "k0", "v").await;
    let hash = servers[0].raft.state().hash();
    assert!(servers.iter().all(|server| server.raft.state().hash() == hash));

    // The order is carried out once, and what came of it survives a restart.
    let directory = servers.remove(0).crash().await;
    assert!(!file(&directory, "peers.json").exists());
    assert!(file(&directory, "peers.json.done").exists());
    servers.insert(0, Server::start_at(&hub, number, address(number), directory).await);
    set_anyhow(&servers, "again", "v").await;
    everywhere(&servers, "again", "v").await;
    assert_eq!(voters(&servers[0]), [number, 11, 12]);
}

#[tokio::test(start_paused = true)]
async fn of_several_named_the_one_that_lags_gets_what_the_other_has() {
    let hub = Hub::default();
    let mut servers = cluster(&hub, 3).await;
    let at = leader(&servers).await;
    set_anyhow(&servers, "k", "v").await;
    everywhere(&servers, "k", "v").await;
    let behind = servers.remove((at + 1) % 3);
    let (lag, behind) = (behind.id.0[0], behind.crash().await);
    set_anyhow(&servers, "late", "v").await;
    let ahead = servers.remove(leader(&servers).await);
    let (far, ahead) = (ahead.id.0[0], ahead.crash().await);
    drop(servers.remove(0).crash().await);
    // A third one is named that keeps out of votes; it comes back later with nothing.
    let peers = [entry(lag, true), entry(far, true), entry(9, false)];
    order(&behind, &peers);
    order(&ahead, &peers);
    let servers = [
        Server::start_at(&hub, lag, address(lag), behind).await,
        Server::start_at(&hub, far, address(far), ahead).await,
        Server::start(&hub, 9).await,
    ];
    everywhere(&servers, "late", "v").await;
    set_anyhow(&servers, "after", "v").await;
    everywhere(&servers, "after", "v").await;
    let mut both = [lag, far];
    both.sort_unstable();
    assert!(servers.iter().all(|server| voters(server) == both), "{:?}", voters(&servers[0]));
}

#[tokio::test(start_paused = true)]
async fn the_old_form_finds_identities_by_address() {
    let hub = Hub::default();
    let (number, directory) = lost(&hub).await;
    order(&directory, &[format!("\"{}\"", address(number))]);
    let servers = [Server::start_at(&hub, number, address(number), directory).await];
    leader(&servers).await;
    assert_eq!(voters(&servers[0]), [number]);
    everywhere(&servers, "k19", "v").await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_the_file_was_moved_only_moves_it() {
    let hub = Hub::default();
    let (number, directory) = lost(&hub).await;
    let data_dir = Some(directory.path());
    let config = config(number, address(number), directory.path());
    let mut places = Vec::new();
    for _ in 0..2 {
        order(&directory, &[entry(number, true)]);
        let tasks = Tasks::new();
        let disk = Disk::Directory(directory.path().to_owned());
        let (id, stepping) = (node_id(number), Stepping::Inline);
        let fault = OnFault::told(|what, place, _| panic!("{place}: {what}"));
        let mut opened =
            open_storage(disk, data_dir, id, stepping, fault, &tasks).expect("it opens");
        let order = recovery::look(data_dir, stepping).await.expect("valid").expect("there is one");
        recovery::carry_out(order, &mut opened, &config, stepping).await.expect("carried out");
        assert!(!file(&directory, "peers.json").exists());
        opened.log.close().await.expect("closed");
        let snapshots = std::fs::read_dir(file(&directory, "snapshots")).expect("a directory");
        let mut found: Vec<(PathBuf, u64)> = snapshots
            .map(|item| item.expect("an item").path().join("state.bin"))
            .map(|path| (path.clone(), std::fs::metadata(path).expect("a file").ino()))
            .collect();
        found.sort();
        places.push(found);
    }
    // The snapshot is all that is left of the state: it is not replaced without need.
    assert_eq!(places[0], places[1]);
    let servers = [Server::start_at(&hub, number, address(number), directory).await];
    leader(&servers).await;
    everywhere(&servers, "k19", "v").await;
}

#[tokio::test(start_paused = true)]
async fn an_order_that_cannot_be_right_is_refused_by_name_and_changes_nothing() {
    let hub = Hub::default();
    let (number, mut directory) = lost(&hub).await;
    for (text, said) in [
        ("{}".to_owned(), "not a list"),
        (format!("[{}]", entry(77, true)), "does not name this server"),
        (format!("[{}]", entry(number, false)), "no server that votes"),
        (r#"["10.9.9.9:8300"]"#.to_owned(), "no server is known at 10.9.9.9:8300"),
    ] {
        let copy = tempfile::tempdir().expect("a directory");
        super::hub::copy_tree(directory.path(), copy.path());
        std::fs::write(file(&directory, "peers.json"), text).expect("written");
        let Err(refused) = Server::try_start_at(&hub, number, address(number), directory).await
        else {
            panic!("{said}");
        };
        let refused = refused.to_string();
        assert!(refused.contains(said) && refused.contains("peers.json"), "{refused}");
        directory = copy;
    }
    // Nor is there anything to go on with in a fresh directory.
    let fresh = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(fresh.path().join("raft")).expect("made");
    order(&fresh, &[entry(5, true)]);
    let refused = Server::try_start_at(&hub, 5, address(5), fresh).await;
    assert!(refused.is_err_and(|refused| refused.to_string().contains("no Raft data")));
    // One from before the note is not taken.
    std::fs::remove_file(file(&directory, "peers.info")).expect("removed");
    order(&directory, &[entry(number, true)]);
    let server = Server::start_at(&hub, number, address(number), directory).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(voters(&server), [1, 2, 3]);
    let directory = server.crash().await;
    assert!(file(&directory, "peers.json.ignored").exists());
    assert!(file(&directory, "peers.info").exists());
}

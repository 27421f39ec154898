//! Real sockets and threads on loopback addresses of their own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::NodeId;
use model::seam::{Cluster as _, MemberState, Members};
use rt::{Clock, Rng, Tasks};

use crate::config::Join;
use crate::gossip::{Contact, Gossip, GossipConfig, GossipError, TOMBSTONE_TIMEOUT, Timing, join};

/// The same port on every address: what a bare IP in the join settings means.
const LIMIT: Duration = Duration::from_secs(20);

struct Node {
    gossip: Arc<Gossip>,
    tasks: Tasks,
}

fn config(host: u8, name: &str, data_dir: Option<PathBuf>) -> GossipConfig {
    let bind = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 77, 0, host)), 0);
    GossipConfig {
        node_id: NodeId([host; 16]),
        node_name: name.to_owned(),
        datacenter: "dc1".to_owned(),
        label: String::new(),
        bind,
        advertise: bind,
        tags: BTreeMap::from([("role".into(), "node".into())]),
        data_dir,
        rejoin_after_leave: false,
        reconnect_timeout: Duration::from_secs(3600),
        tombstone_timeout: TOMBSTONE_TIMEOUT,
        timing: Timing::lan(),
    }
}

async fn start(config: GossipConfig) -> Node {
    let tasks = Tasks::new();
    let gossip = crate::gossip::start(config, Clock::system(), Rng::from_seed(1), &tasks)
        .await
        .expect("starts");
    gossip.open();
    Node { gossip, tasks }
}

async fn wait(node: &Node, what: &str, condition: impl Fn(&Members) -> bool) {
    let found = tokio::time::timeout(LIMIT, async {
        let mut members = node.gossip.members();
        while !condition(&members) {
            members = node.gossip.changed(members.sequence).await;
        }
    })
    .await;
    assert!(found.is_ok(), "{what}: {:?}", node.gossip.members());
}

fn state(members: &Members, name: &str) -> Option<MemberState> {
    members.by_name(name).map(|member| member.state)
}

fn settings(addresses: &[SocketAddr]) -> Join {
    Join {
        addresses: addresses.iter().map(SocketAddr::to_string).collect(),
        interval: Duration::from_secs(30),
        attempts_max: 2,
    }
}

#[tokio::test]
async fn four_real_nodes_join_leave_fail_and_come_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_owned();
    let first = start(config(1, "a", None)).await;
    let seed = first.gossip.local_addr();
    assert_eq!(first.gossip.members().list.len(), 1, "ourselves, from the start");
    let mut others = Vec::new();
    for (host, name) in [(2, "b"), (3, "c")] {
        others.push(start(config(host, name, None)).await);
    }
    others.push(start(config(4, "d", Some(data.clone()))).await);
    for other in &others {
        let gossip = Arc::clone(&other.gossip);
        join::run(gossip, settings(&[seed]), Clock::system(), Rng::from_seed(2))
            .await
            .expect("joined");
        assert_eq!(state(&other.gossip.members(), "a"), Some(MemberState::Alive));
    }
    for node in others.iter().chain([&first]) {
        wait(node, "all alive", |members| members.alive().count() == 4).await;
    }

    others[0].gossip.set_tags(BTreeMap::from([("role".into(), "consul".into())]));
    wait(&first, "tags", |members| members.by_name("b").is_some_and(|b| b.is_server())).await;

    // c goes without a word, d on purpose.
    others[1].tasks.stop_and_wait(LIMIT).await;
    others[2].gossip.leave().await.expect("left");
    others[2].tasks.stop_and_wait(LIMIT).await;
    for node in [&first, &others[0]] {
        wait(node, "c failed, d left", |members| {
            state(members, "c") == Some(MemberState::Failed)
                && state(members, "d") == Some(MemberState::Left)
        })
        .await;
    }

    // d finds its peers by its file when told to rejoin, and forgets them when not.
    let mut again = config(4, "d", Some(data.clone()));
    let quiet = start(again.clone()).await;
    assert_eq!(quiet.gossip.known_peers(), []);
    quiet.tasks.stop_and_wait(LIMIT).await;
    again.rejoin_after_leave = true;
    let peers = crate::gossip::peers::path(&data);
    let mut known = crate::gossip::peers::load(&peers).expect("readable");
    assert!(!known.left, "the last run did not leave");
    known.members = vec![seed];
    crate::gossip::peers::store(&peers, &known).expect("writable");
    let back = start(again).await;
    join::run(Arc::clone(&back.gossip), settings(&[]), Clock::system(), Rng::from_seed(3))
        .await
        .expect("rejoined");
    wait(&first, "d is back", |members| state(members, "d") == Some(MemberState::Alive)).await;
    assert!(first.gossip.stats()["members"] == "4");
}

#[tokio::test]
async fn joining_oneself_succeeds_and_nobody_fails_in_the_end() {
    let node = start(config(11, "a", None)).await;
    let own = node.gossip.local_addr();
    assert_eq!(node.gossip.contact(own).await, Ok(Contact::Ourselves));
    assert_eq!(node.gossip.join(vec![own.to_string()]).await, Ok(1));
    let run = |addresses: &[SocketAddr]| {
        let gossip = Arc::clone(&node.gossip);
        join::run(gossip, settings(addresses), Clock::system(), Rng::from_seed(4))
    };
    run(&[own]).await.expect("ourselves only");
    let nobody: SocketAddr = "127.77.0.250:1".parse().expect("address");
    let error = run(&[nobody]).await.expect_err("nobody is there");
    assert!(error.to_string().starts_with("agent: max join LAN retry exhausted, exiting"));
    let error = node.gossip.join(vec![nobody.to_string()]).await.expect_err("nobody");
    assert!(error.to_string().contains("127.77.0.250:1"), "{error}");
}

#[tokio::test]
async fn a_node_that_is_alone_joins_again() {
    let first = start(config(51, "a", None)).await;
    let second = start(config(52, "b", None)).await;
    let keep = join::keep_after(
        Duration::from_millis(50),
        Arc::clone(&second.gossip),
        settings(&[first.gossip.local_addr()]),
        Clock::system(),
        Rng::from_seed(5),
    );
    let joined = async {
        wait(&second, "joined", |members| members.alive().count() == 2).await;
        first.tasks.stop_and_wait(LIMIT).await;
        wait(&second, "alone", |members| members.alive().count() == 1).await;
        // Another node, of which only the join address is known.
        let mut other = config(51, "c", None);
        other.node_id = NodeId([53; 16]);
        other.bind = first.gossip.local_addr();
        other.advertise = other.bind;
        let other = start(other).await;
        wait(&second, "joined again", |members| state(members, "c") == Some(MemberState::Alive))
            .await;
        other.tasks.stop();
    };
    tokio::select! {
        never = keep => match never {},
        () = joined => {}
    }
}

#[tokio::test]
async fn dead_peers_of_the_last_run_are_not_looked_for_once_others_are_here() {
    let dir = tempfile::tempdir().expect("a directory");
    let nobody: SocketAddr = "127.77.0.251:1".parse().expect("address");
    let known = crate::gossip::peers::Peers { members: vec![nobody], ..Default::default() };
    let path = crate::gossip::peers::path(dir.path());
    crate::gossip::peers::store(&path, &known).expect("writable");
    let node = start(config(61, "a", Some(dir.path().to_owned()))).await;
    assert_eq!(node.gossip.known_peers(), [nobody]);
    let other = start(config(62, "b", None)).await;
    other.gossip.contact(node.gossip.local_addr()).await.expect("joined");
    let gossip = Arc::clone(&node.gossip);
    let run = join::run(gossip, settings(&[]), Clock::system(), Rng::from_seed(6));
    tokio::time::timeout(LIMIT, run).await.expect("it ends").expect("joined");
}

#[tokio::test]
async fn a_bound_pool_answers_nobody_until_it_is_open() {
    let node = start(config(21, "a", None)).await;
    let tasks = Tasks::new();
    let closed =
        crate::gossip::start(config(22, "b", None), Clock::system(), Rng::from_seed(1), &tasks)
            .await
            .expect("starts");
    let to = closed.local_addr();
    let gossip = Arc::clone(&node.gossip);
    let mut asked = Box::pin(async move { gossip.contact(to).await });
    let early = tokio::time::timeout(Duration::from_millis(300), &mut asked).await;
    assert!(early.is_err(), "{early:?}");
    closed.open();
    assert_eq!(asked.await, Ok(Contact::Member("b".into())));
}

#[tokio::test]
async fn a_port_in_use_is_one_line_with_address_and_flag() {
    let node = start(config(31, "a", None)).await;
    let mut second = config(31, "b", None);
    second.bind = node.gossip.local_addr();
    let tasks = Tasks::new();
    let error = crate::gossip::start(second, Clock::system(), Rng::from_seed(1), &tasks)
        .await
        .err()
        .expect("in use");
    assert!(matches!(error, GossipError::Bind { .. }));
    let text = error.to_string();
    assert!(
        text.contains(&node.gossip.local_addr().to_string()) && text.contains("-bind"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1);
}

#[tokio::test]
async fn random_bytes_on_both_ports_change_nothing() {
    use tokio::io::AsyncWriteExt as _;

    let node = start(config(41, "a", None)).await;
    let to = node.gossip.local_addr();
    let socket = tokio::net::UdpSocket::bind("127.77.0.42:0").await.expect("bound");
    let rng = Rng::from_seed(9);
    for length in [0, 1, 31, 34, 600, 1_400, 1_401, 9_000] {
        let bytes: Vec<u8> = (0..length).map(|_| rng.below(256) as u8).collect();
        socket.send_to(&bytes, to).await.expect("sent");
        let mut stream = tokio::net::TcpStream::connect(to).await.expect("connected");
        let _ = stream.write_all(&bytes).await;
    }
    let other = start(config(43, "b", None)).await;
    assert_eq!(other.gossip.contact(to).await, Ok(Contact::Member("a".into())));
    wait(&node, "only b is new", |members| members.list.len() == 2).await;
}

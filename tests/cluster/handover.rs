//! Leadership that changes hands while others work: by wish without a pause worth speaking of, by
//! force without a failed request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::process::Cluster;
use crate::support::{http, now, thread, within};

/// What a writer may wait at most: an election by silence takes longer even on an idle machine, and
/// a handover far less, but this one may be busy.
const GAP_MAX: Duration = Duration::from_millis(500);

/// Uses one server over and over, until told to stop.
struct Worker {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(u32, Duration), String>>,
}

impl Worker {
    /// Writes, or reads with these parameters.
    fn start(address: String, read: Option<&'static str>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread(move || {
            let (mut done, mut longest) = (0_u32, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let began = now();
                let answer = match read {
                    Some(mode) => http(&address, "GET", &format!("/v1/kv/work{mode}"), b""),
                    None => http(&address, "PUT", "/v1/kv/work", done.to_string().as_bytes()),
                };
                let answer = answer.map_err(|error| format!("request {done}: {error}"))?;
                if answer.status != 200 {
                    return Err(format!("request {done}: {} {}", answer.status, answer.text()));
                }
                longest = longest.max(began.elapsed());
                done += 1;
            }
            Ok((done, longest))
        });
        Self { stop, thread }
    }

    /// Requests, and the longest that one took.
    fn end(self) -> Result<(u32, Duration), String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic")
    }
}

#[expect(clippy::print_stderr, reason = "the figure is worth reading even when it is good")]
fn say(what: &str, gap: Duration) {
    eprintln!("longest wait of a writer during {what}: {gap:?}");
}

/// Makes the leader give up its place while another server is written to.
fn during(cluster: &mut Cluster, what: &str, give_up: impl FnOnce(&mut Cluster, usize)) {
    let term = cluster.settled_term();
    let leader = cluster.leader();
    let other = &cluster.servers[(leader + 1) % 3];
    other.put("/v1/kv/work", "0");
    let address = other.address();
    let worker = Worker::start(address.clone(), None);
    give_up(cluster, leader);
    within(Duration::from_secs(10), "another leads", || {
        match crate::support::process::standing(&address) {
            Some((now, _)) if now > term => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    });
    let (writes, gap) = worker.end().expect("no failed write");
    say(what, gap);
    assert!(writes > 0 && gap < GAP_MAX, "{what}: {writes} writes, longest wait {gap:?}");
}

#[test]
fn a_transfer_a_stop_and_a_leave_of_the_leader_hardly_hold_up_writers() {
    let mut cluster = Cluster::start();
    during(&mut cluster, "a transfer", |cluster, leader| {
        let answer = cluster.servers[leader].http("POST", "/v1/operator/raft/transfer-leader", "");
        assert_eq!(answer.status, 200, "{}", answer.text());
    });
    for signal in [libc::SIGTERM, libc::SIGINT] {
        during(&mut cluster, "a stop by signal", |cluster, leader| {
            cluster.servers[leader].signal(signal);
            let status = cluster.servers[leader].wait(Duration::from_secs(20));
            assert_eq!(status.code(), Some(1));
            let log = cluster.servers[leader].tail();
            assert!(log.contains("leadership handed over before stopping"), "{log}");
            cluster.servers[leader].start();
        });
    }
    during(&mut cluster, "a leave", |cluster, leader| {
        let answer = cluster.servers[leader].http("PUT", "/v1/agent/leave", "");
        assert_eq!(answer.status, 200);
        cluster.servers[leader].wait(Duration::from_secs(30));
        cluster.servers[leader].start();
    });
}

#[test]
fn leadership_is_not_given_to_a_server_that_cannot_take_it() {
    let mut cluster = Cluster::start();
    let term = cluster.settled_term();
    let leader = cluster.leader();
    let (gone, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let peers = cluster.servers[leader].json("/v1/operator/raft/configuration");
    let id = |i: usize| {
        let address = format!("{}:8300", cluster.servers[i].ip);
        let list = peers["Servers"].as_array().expect("a list");
        let found = list.iter().find(|one| one["Address"] == address.as_str()).expect("a peer");
        found["ID"].as_str().expect("an id").to_owned()
    };
    let (gone_id, leader_id) = (id(gone), id(leader));
    cluster.servers[gone].kill();
    let worker = Worker::start(cluster.servers[other].address(), None);
    for (id, why) in [(&gone_id, "does not answer"), (&leader_id, "is not another voter")] {
        let path = format!("/v1/operator/raft/transfer-leader?id={id}");
        let answer = cluster.servers[leader].http("POST", &path, "");
        assert_eq!(answer.status, 500, "{}", answer.text());
        assert!(answer.text().contains(why), "{}", answer.text());
    }
    // Without a name the one is chosen that can.
    let answer = cluster.servers[leader].http("POST", "/v1/operator/raft/transfer-leader", "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    cluster.servers[gone].start();
    cluster.servers[gone].wait_for_leader();
    assert!(cluster.settled_term() > term);
    assert_eq!(cluster.leader(), other);
    let (_, gap) = worker.end().expect("no failed write");
    say("transfers to a dead server", gap);
    assert!(gap < Duration::from_secs(1), "{gap:?}");
}

#[test]
fn a_killed_leader_fails_no_request_through_the_others() {
    let mut cluster = Cluster::start();
    let client = cluster.client(11);
    client.put("/v1/kv/work", "0");
    for _ in 0..2 {
        let leader = cluster.leader();
        let doors: Vec<String> = (1..3)
            .map(|k| cluster.servers[(leader + k) % 3].address())
            .chain([client.address()])
            .collect();
        let kinds = [None, Some(""), Some("?consistent"), Some("?stale")];
        let workers: Vec<(String, Worker)> = doors
            .iter()
            .flat_map(|door| kinds.map(|kind| (door, kind)))
            .map(|(door, kind)| (format!("{door} {kind:?}"), Worker::start(door.clone(), kind)))
            .collect();
        let term = cluster.settled_term();
        cluster.servers[leader].kill();
        within(Duration::from_secs(10), "another leads", || {
            let seen = crate::support::process::standing(&doors[0]);
            match seen {
                Some((now, _)) if now > term => Ok(()),
                _ => Err(format!("{seen:?}")),
            }
        });
        // Also with the new leader for a while, and with the dead one back.
        cluster.servers[leader].start();
        cluster.servers[leader].wait_for_leader();
        let mut longest = Duration::ZERO;
        for (who, worker) in workers {
            match worker.end() {
                Ok((_, gap)) => longest = longest.max(gap),
                Err(error) => panic!("{who}: {error}"),
            }
        }
        say("the death of a leader", longest);
        assert!(longest < Duration::from_secs(7), "{longest:?}");
    }
}

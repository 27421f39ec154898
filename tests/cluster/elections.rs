//! What must not cost a leader its place: other work on the machine, a disk that is slow.
//!
//! `MUSTER_LOAD_SECONDS` sets how long each load lasts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::ground::Ground;
use crate::support::process::Cluster;
use crate::support::{Network, http, now, thread, within};

/// Load, when nothing else is asked for.
const SECONDS: u64 = 18;

#[expect(clippy::disallowed_methods, reason = "how long the load lasts is asked for outside")]
fn seconds() -> Duration {
    let asked = std::env::var("MUSTER_LOAD_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(SECONDS))
}

/// Writes and reads through a server for a while; the number of writes.
fn use_server(address: &str, time: Duration) -> u32 {
    let began = now();
    let mut writes = 0;
    while began.elapsed() < time {
        let wrote = http(address, "PUT", "/v1/kv/load", writes.to_string().as_bytes());
        let wrote = wrote.expect("an answer");
        assert_eq!((wrote.status, wrote.text().as_str()), (200, "true"));
        let read = http(address, "GET", "/v1/kv/load?raw&consistent", b"").expect("an answer");
        assert_eq!(read.text(), writes.to_string());
        writes += 1;
    }
    writes
}

#[test]
fn busy_processors_cause_no_election() {
    let cluster = Cluster::start();
    let term = cluster.settled_term();
    let stop = Arc::new(AtomicBool::new(false));
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let burners: Vec<_> = (0..2 * cores)
        .map(|_| {
            let stop = Arc::clone(&stop);
            thread(move || {
                let mut sum = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
                }
                sum
            })
        })
        .collect();
    let other = (cluster.leader() + 1) % 3;
    let writes = use_server(&cluster.servers[other].address(), seconds());
    stop.store(true, Ordering::Relaxed);
    for burner in burners {
        burner.join().expect("no panic");
    }
    assert_eq!(cluster.settled_term(), term, "an election");
    assert!(writes > 10, "only {writes} writes");
}

#[test]
fn a_leader_that_cannot_commit_does_not_keep_five_servers_from_electing() {
    // A thread of its own: it moves into another network.
    thread(reach_too_few).join().expect("no panic");
}

/// Of five servers one is dead, and the leader reaches only one of the other three. These could
/// elect, but that one hears the leader and so refuses, until the leader sees that it has no quorum.
#[expect(clippy::print_stderr, reason = "says why a test is not done")]
fn reach_too_few() {
    let ground = match Ground::new(5) {
        Ok(ground) => ground,
        Err(why) => return eprintln!("links are not cut: no namespaces here: {why}"),
    };
    ground.enter();
    let mut cluster =
        Cluster::start_as(5, Network::apart(), |n, server| server.wrapped(ground.wrap(n)));
    let term = cluster.settled_term();
    let leader = cluster.leader();
    let place = |k: usize| (leader + k) % 5;
    cluster.servers[place(1)].kill();
    let number = |server: usize| u8::try_from(server + 1).expect("few servers");
    for far in [place(2), place(3)] {
        ground.cut(number(leader), number(far));
        ground.cut(number(far), number(leader));
    }
    let cut = now();
    let address = cluster.servers[place(2)].address();
    within(Duration::from_secs(20), "another leads", || match cluster.standing(place(2)) {
        Some((its, _)) if its > term => {
            let answer = http(&address, "PUT", "/v1/kv/k", b"v")?;
            if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
        }
        seen => Err(format!("{seen:?}")),
    });
    eprintln!("elected past a leader that could not commit: {:?} after the cut", cut.elapsed());
    ground.mend();
    cluster.servers[place(1)].start();
    cluster.settled_term();
}

/// Delays fsyncs of whoever it is loaded into by half a second while a file exists.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
static void delay(void) {
    const char *path = getenv("SLOW_FSYNC_WHILE");
    if (path && access(path, F_OK) == 0) usleep(500000);
}
int fsync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    delay();
    return real(fd);
}
int fdatasync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    delay();
    return real(fd);
}
"#;

fn shim(dir: &Path) -> PathBuf {
    let (source, library) = (dir.join("slow.c"), dir.join("slow.so"));
    std::fs::write(&source, SHIM).expect("written");
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .arg(&library)
        .arg(&source)
        .arg("-ldl")
        .output()
        .expect("a C compiler: scripts/test installs one");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}

#[test]
fn a_slow_disk_of_any_one_server_causes_no_election() {
    let dir = tempfile::tempdir().expect("a directory");
    let library = shim(dir.path());
    let library = library.to_str().expect("UTF-8");
    let switch = |n: u8| dir.path().join(format!("slow-{n}"));
    let cluster = Cluster::start_as(3, Network::new(), |n, server| {
        let switch = switch(n);
        server
            .variable("LD_PRELOAD", library)
            .variable("SLOW_FSYNC_WHILE", switch.to_str().expect("UTF-8"))
    });
    let term = cluster.settled_term();
    for n in 1..=3_u8 {
        std::fs::write(switch(n), "").expect("written");
        // Through another one: its own local state is on the same disk.
        let through = &cluster.servers[usize::from(n) % 3];
        let writes = use_server(&through.address(), seconds() / 3);
        std::fs::remove_file(switch(n)).expect("removed");
        assert_eq!(cluster.settled_term(), term, "an election while server {n} was slow");
        // Two disks are fast: they commit.
        assert!(writes > 10, "only {writes} writes while server {n} was slow");
    }
    // It was the shim's delay that all this was done under: alone it holds up a server's own start.
    std::fs::write(switch(1), "").expect("written");
    let began = now();
    cluster.servers[0].put("/v1/agent/check/register", r#"{"Name": "c", "TTL": "60s"}"#);
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
}

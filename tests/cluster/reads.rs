//! What each consistency mode promises, on servers that lead, follow, and are left alone.

use std::time::Duration;

use crate::support::process::Cluster;
use crate::support::{eventually, http, now, within};

#[test]
fn a_consistent_read_on_any_server_sees_what_was_acknowledged_just_before() {
    let cluster = Cluster::start();
    for n in 0..60_usize {
        let text = n.to_string();
        cluster.servers[n % 3].put("/v1/kv/k", &text);
        for server in &cluster.servers {
            let answer = server.get("/v1/kv/k?consistent");
            assert_eq!(answer.header("X-Consul-Effective-Consistency"), "consistent");
            assert_eq!(answer.json()[0]["ModifyIndex"], answer.index());
            assert_eq!(server.get("/v1/kv/k?consistent&raw").text(), text);
            assert_eq!(server.get("/v1/kv/k?raw").text(), text);
        }
    }
}

#[test]
fn a_stale_answer_says_how_old_it_may_be_and_one_too_old_comes_from_the_leader() {
    let mut cluster = Cluster::start();
    let leader = cluster.leader();
    let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.servers[leader].put("/v1/kv/k", "v");
    let contact = |answer: &crate::support::http::Answer| {
        answer.header("X-Consul-LastContact").parse::<u64>().expect("a number")
    };
    let answer = cluster.servers[leader].get("/v1/kv/k?stale");
    assert_eq!((answer.status, contact(&answer)), (200, 0));
    eventually("the follower has it", || {
        let answer = cluster.servers[follower].get("/v1/kv/k?stale");
        let known = answer.header("X-Consul-KnownLeader") == "true";
        let stale = answer.header("X-Consul-Effective-Consistency") == "stale";
        let fresh = answer.status == 200 && contact(&answer) < 1_000;
        if known && stale && fresh { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    // Sooner or later a heartbeat is more than a nanosecond old.
    eventually("the leader answers instead", || {
        let answer = cluster.servers[follower].get("/v1/kv/k?max_stale=1ns");
        match answer.header("X-Consul-Effective-Consistency") {
            "leader" if answer.status == 200 && contact(&answer) == 0 => Ok(()),
            _ => Err(format!("{answer:?}")),
        }
    });
    let answer = cluster.servers[follower].get("/v1/kv/k?max_stale=1h");
    assert_eq!(answer.header("X-Consul-Effective-Consistency"), "stale");

    let killed = now();
    cluster.servers[leader].kill();
    cluster.servers[other].kill();
    let alone = &cluster.servers[follower];
    within(Duration::from_secs(10), "it knows no leader", || {
        let answer = alone.get("/v1/kv/k?stale&raw");
        let known = answer.header("X-Consul-KnownLeader");
        if (answer.text().as_str(), known) == ("v", "false") {
            Ok(())
        } else {
            Err(known.to_owned())
        }
    });
    let waited = Duration::from_millis(1_500);
    std::thread::sleep(waited.saturating_sub(killed.elapsed()));
    let upper = killed.elapsed() + Duration::from_secs(2);
    let age = contact(&alone.get("/v1/kv/k?stale"));
    assert!((1_000..upper.as_millis() as u64).contains(&age), "{age} ms after {upper:?}");
    // Too old, and no leader to ask.
    let answer = alone.get("/v1/kv/k?max_stale=500ms");
    assert_eq!((answer.status, answer.text().as_str()), (500, "No cluster leader"));
}

#[test]
fn a_lone_survivor_that_is_started_again_answers_stale_reads_after_a_while() {
    let mut cluster = Cluster::start();
    // What a server knows to be committed goes to its disk with the write after it.
    for key in ["k", "next", "last"] {
        cluster.servers[0].put(&format!("/v1/kv/{key}"), "v");
        eventually("all have it", || {
            for server in &cluster.servers {
                let path = format!("/v1/kv/{key}?stale&raw");
                let answer = http(&server.address(), "GET", &path, b"")?;
                if answer.text() != "v" {
                    return Err(answer.text());
                }
            }
            Ok(())
        });
    }
    for server in &mut cluster.servers {
        server.kill();
    }
    let started = now();
    cluster.servers[0].start();
    let server = &cluster.servers[0];
    eventually("it answers", || http(&server.address(), "GET", "/v1/agent/self", b"").map(|_| ()));
    // Data only when it has caught up, what concerns itself at once.
    let refused = server.get("/v1/kv/k?stale");
    assert_eq!((refused.status, refused.text().as_str()), (500, "No cluster leader"));
    for path in ["/v1/agent/self", "/v1/status/leader", "/v1/status/peers", "/v1/agent/metrics"] {
        let asked = now();
        assert_eq!(server.get(path).status, 200, "{path}");
        assert!(asked.elapsed() < Duration::from_secs(3), "{path}: {:?}", asked.elapsed());
    }
    let answer = within(Duration::from_secs(60), "it answers stale reads", || {
        let answer = server.get("/v1/kv/k?stale");
        if answer.status == 200 { Ok(answer) } else { Err(answer.text()) }
    });
    assert!(started.elapsed() >= Duration::from_secs(30), "{:?}", started.elapsed());
    assert_eq!(answer.json()[0]["Value"], "dg==");
    assert_eq!(answer.header("X-Consul-KnownLeader"), "false");
    let age: u64 = answer.header("X-Consul-LastContact").parse().expect("a number");
    assert!(age >= 30_000, "{age}");
    for mode in ["", "?consistent"] {
        assert_eq!(server.get(&format!("/v1/kv/k{mode}")).status, 500);
    }
}

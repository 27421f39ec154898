//! What a cluster survives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::support::process::Cluster;
use crate::support::{eventually, http, now, within};

#[test]
fn killing_the_leader_loses_no_acknowledged_write() {
    let mut cluster = Cluster::start();
    let client = cluster.client(11);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (address, stop) = (client.address(), Arc::clone(&stop));
        crate::support::thread(move || {
            let (mut acknowledged, mut longest) = (Vec::new(), Duration::ZERO);
            let mut n = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                let start = now();
                let path = format!("/v1/kv/w/{n:06}");
                if let Ok(answer) = http(&address, "PUT", &path, b"x")
                    && answer.status == 200
                    && answer.text() == "true"
                {
                    acknowledged.push(format!("w/{n:06}"));
                }
                longest = longest.max(start.elapsed());
                n += 1;
            }
            (acknowledged, longest)
        })
    };
    for _ in 0..2 {
        let count = |address: &str| {
            let answer = http(address, "GET", "/v1/kv/w/?keys&stale", b"")?;
            serde_json::from_slice::<Vec<String>>(&answer.body)
                .map(|keys| keys.len())
                .map_err(|error| error.to_string())
        };
        let before = eventually("writes", || count(&client.address()));
        let leader = cluster.leader();
        cluster.servers[leader].kill();
        let killed = now();
        let other = cluster.servers[(leader + 1) % 3].address();
        within(Duration::from_secs(10), "writes go on", || match count(&other)? {
            after if after > before + 20 => Ok(()),
            after => Err(after.to_string()),
        });
        assert!(killed.elapsed() < Duration::from_secs(10));
        cluster.servers[leader].start();
        cluster.servers[leader].wait_for_leader();
    }
    stop.store(true, Ordering::Relaxed);
    let (acknowledged, longest) = writer.join().expect("no panic");
    assert!(longest < Duration::from_secs(5), "one write took {longest:?}");
    let kept = client.json("/v1/kv/w/?keys&consistent");
    let kept: Vec<&str> =
        kept.as_array().into_iter().flatten().filter_map(|key| key.as_str()).collect();
    for key in &acknowledged {
        assert!(kept.binary_search(&key.as_str()).is_ok(), "{key} was acknowledged and is lost");
    }
    assert!(acknowledged.len() > 50, "only {} writes", acknowledged.len());
}

#[test]
fn a_killed_agent_turns_critical_and_its_locks_are_freed() {
    let cluster = Cluster::start();
    let mut dying = cluster.client(11);
    let watching = cluster.client(12);
    dying.put("/v1/agent/service/register", r#"{"Name": "web", "Port": 80}"#);
    eventually("web is healthy", || {
        let found = watching.json("/v1/health/service/web?passing");
        if found.as_array().is_some_and(|list| list.len() == 1) {
            Ok(())
        } else {
            Err(found.to_string())
        }
    });
    let session = dying.http("PUT", "/v1/session/create", r#"{"LockDelay": "1s"}"#).json();
    let session = session["ID"].as_str().expect("an id").to_owned();
    assert_eq!(dying.put(&format!("/v1/kv/lock?acquire={session}"), "x"), "true");
    let other = watching.http("PUT", "/v1/session/create", "{}").json();
    let other = other["ID"].as_str().expect("an id").to_owned();

    dying.kill();
    within(Duration::from_secs(30), "serfHealth of c11 is critical", || {
        let checks = watching.json("/v1/health/node/c11");
        if checks[0]["Status"] == "critical" { Ok(()) } else { Err(checks.to_string()) }
    });
    watching.wait_for_members(Duration::from_secs(20), 4, &["c11"]);
    assert_eq!(watching.json("/v1/health/service/web?passing"), json!([]));
    assert_eq!(watching.json("/v1/catalog/service/web").as_array().map(Vec::len), Some(1));
    within(Duration::from_secs(20), "the lock is free after its delay", || {
        match watching.put(&format!("/v1/kv/lock?acquire={other}"), "y") {
            won if won == "true" => Ok(()),
            won => Err(won),
        }
    });
    assert_eq!(watching.json(&format!("/v1/session/info/{session}")), json!([]));
    assert_eq!(watching.json("/v1/session/node/c11"), json!([]));
    dying.start();
    within(Duration::from_secs(30), "web is back", || {
        let found = watching.json("/v1/health/service/web?passing");
        if found.as_array().is_some_and(|list| list.len() == 1) {
            Ok(())
        } else {
            Err(found.to_string())
        }
    });
    watching.wait_for_members(Duration::from_secs(20), 1, &["c11", "c12", "s1", "s2", "s3"]);
}

#[test]
fn all_servers_stopped_and_started_are_back_with_everything() {
    let mut cluster = Cluster::start();
    let client = cluster.client(11);
    client.put("/v1/agent/service/register", r#"{"Name": "web", "Port": 80}"#);
    for n in 0..50 {
        client.put(&format!("/v1/kv/k/{n}"), n.to_string());
    }
    for server in &mut cluster.servers {
        server.kill();
    }
    let error = http(&client.address(), "GET", "/v1/agent/services", b"").expect("still answers");
    assert_eq!(error.status, 200, "what is local needs no server");
    for server in &mut cluster.servers {
        server.start();
    }
    for server in &cluster.servers {
        server.wait_for_leader();
    }
    within(Duration::from_secs(30), "the client reaches the servers", || {
        let answer = http(&client.address(), "GET", "/v1/kv/k/?keys&consistent", b"")?;
        let count =
            if answer.status == 200 { answer.json().as_array().map_or(0, Vec::len) } else { 0 };
        if count == 50 { Ok(()) } else { Err(answer.text()) }
    });
    within(Duration::from_secs(30), "web is healthy", || {
        let found = client.json("/v1/health/service/web?passing");
        if found.as_array().is_some_and(|list| list.len() == 1) {
            Ok(())
        } else {
            Err(found.to_string())
        }
    });
}

#[test]
fn without_a_quorum_writes_wait_and_then_say_no_leader() {
    let mut cluster = Cluster::start();
    let leader = cluster.leader();
    cluster.servers[(leader + 1) % 3].kill();
    cluster.servers[(leader + 2) % 3].kill();
    let start = now();
    let answer = cluster.servers[leader].http("PUT", "/v1/kv/k", "v");
    assert_eq!(
        (answer.status, answer.text().contains("No cluster leader")),
        (500, true),
        "{}",
        answer.text()
    );
    let waited = start.elapsed();
    assert!(waited > Duration::from_secs(5) && waited < Duration::from_secs(20), "{waited:?}");
}

#[test]
fn servers_restarted_one_by_one_are_not_noticed_by_a_client_that_waits() {
    let mut cluster = Cluster::start();
    let client = cluster.client(11);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (address, stop) = (client.address(), Arc::clone(&stop));
        crate::support::thread(move || {
            let mut index = 0;
            let mut writes = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                // A write that was applied twice would find its own index gone.
                let path = format!("/v1/kv/count?cas={index}");
                let wrote = http(&address, "PUT", &path, writes.to_string().as_bytes())?;
                if (wrote.status, wrote.text().as_str()) != (200, "true") {
                    return Err(format!("write {writes}: {} {}", wrote.status, wrote.text()));
                }
                let read = http(&address, "GET", "/v1/kv/count", b"")?;
                if read.status != 200 {
                    return Err(format!("read {writes}: {} {}", read.status, read.text()));
                }
                index = read.json()[0]["ModifyIndex"].as_u64().ok_or("no index")?;
                writes += 1;
            }
            Ok(writes)
        })
    };
    let count = |address: &str| {
        let answer = http(address, "GET", "/v1/kv/count?raw&stale", b"")?;
        answer.text().parse::<u32>().map_err(|error| format!("{error}: {}", answer.text()))
    };
    for i in 0..3 {
        cluster.servers[i].signal(libc::SIGTERM);
        cluster.servers[i].wait(Duration::from_secs(20));
        cluster.servers[i].start();
        cluster.servers[i].wait_for_leader();
        let address = cluster.servers[i].address();
        let before = eventually("it has the data", || count(&address));
        eventually("it follows", || match count(&address)? {
            now if now > before + 5 => Ok(()),
            now => Err(now.to_string()),
        });
        assert!(!writer.is_finished(), "{:?}", writer.join().expect("no panic"));
    }
    stop.store(true, Ordering::Relaxed);
    let writes = writer.join().expect("no panic");
    assert!(writes.as_ref().is_ok_and(|writes| *writes > 15), "{writes:?}");
}

#[test]
fn a_server_that_lost_its_disk_comes_back_under_its_name() {
    let mut cluster = Cluster::start();
    let lost = (cluster.leader() + 1) % 3;
    let other = (lost + 1) % 3;
    for n in 0..20 {
        cluster.servers[other].put(&format!("/v1/kv/k/{n}"), "x");
    }
    cluster.servers[lost].kill();
    let data = cluster.dir.path().join(format!("s{}", lost + 1));
    std::fs::rename(&data, cluster.dir.path().join("away")).expect("moved");
    cluster.servers[lost].start();
    let address = cluster.servers[lost].address();
    within(Duration::from_secs(40), "it has everything and votes", || {
        let answer = http(&address, "GET", "/v1/kv/k/?keys&stale", b"")?;
        let keys = if answer.status == 200 { answer.json() } else { json!([]) };
        let raft = http(&address, "GET", "/v1/operator/raft/configuration", b"")?;
        let raft = if raft.status == 200 { raft.json() } else { json!({}) };
        let place = format!("{}:8300", address.trim_end_matches(":8500"));
        let voters = raft["Servers"].as_array().map_or(0, |list| {
            list.iter()
                .filter(|one| one["Address"] == place.as_str() && one["Voter"] == true)
                .count()
        });
        match (keys.as_array().map_or(0, Vec::len), voters) {
            (20, 1) => Ok(()),
            _ => Err(format!("{keys} {raft}")),
        }
    });
}

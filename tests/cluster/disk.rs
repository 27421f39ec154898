//! Disks that are full, fail, or lose power: a server stops acknowledging, says so in one line, ends,
//! and comes back with all that it ever acknowledged.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::disk::{Disk, Shim};
use crate::support::http::request;
use crate::support::process::Muster;
use crate::support::{Network, eventually, http, within};

/// The one line in which a process says why it ended.
fn last_words(server: &Muster) -> String {
    let log = std::fs::read_to_string(&server.log).expect("a log");
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.starts_with("fatal:") || line.starts_with("error:"))
        .collect();
    assert_eq!(lines.len(), 1, "one line says it:\n{}", server.tail());
    assert!(!log.contains("panicked"), "{}", server.tail());
    lines[0].to_owned()
}

/// Writes distinct keys one after another until told to stop; what was acknowledged.
fn writer(
    address: String,
    stop: Arc<AtomicBool>,
    bytes: usize,
    round: usize,
) -> std::thread::JoinHandle<BTreeSet<String>> {
    crate::support::thread(move || {
        let mut acknowledged = BTreeSet::new();
        let value = vec![b'x'; bytes];
        let mut n = 0_u32;
        while !stop.load(Ordering::Relaxed) {
            let key = format!("w/{round}-{n:06}");
            let path = format!("/v1/kv/{key}");
            let limit = Duration::from_secs(10);
            match request(&address, "PUT", &path, &[], &value, limit) {
                Ok(answer) if answer.status == 200 && answer.text() == "true" => {
                    acknowledged.insert(key);
                }
                Ok(_) => {}
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
            n += 1;
        }
        acknowledged
    })
}

/// Everything that was acknowledged is there.
#[track_caller]
fn nothing_lost(server: &Muster, acknowledged: &BTreeSet<String>) {
    let kept: BTreeSet<String> = eventually("the keys", || {
        let answer = http(&server.address(), "GET", "/v1/kv/w/?keys&consistent", b"")?;
        serde_json::from_slice(&answer.body).map_err(|error| format!("{error}: {}", answer.text()))
    });
    let lost: Vec<&String> = acknowledged.difference(&kept).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), acknowledged.len());
}

fn settings(dir: &Path, text: &str) -> String {
    let file = dir.join("settings.json");
    std::fs::write(&file, text).expect("written");
    format!("-config-file={}", file.display())
}

#[test]
fn a_full_disk_ends_a_server_in_one_line_and_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(disk) = Disk::small(dir.path(), 24) else { return };
    let network = Network::new();
    let file = settings(dir.path(), r#"{"limits": {"disk_reserve": 0}}"#);
    let data = format!("-data-dir={}", disk.path.join("data").display());
    let args = ["-server", "-bootstrap", &file, &data];
    let mut server = Muster::member(dir.path(), &network, 1, "s1", &args);
    server.wait_for_leader();
    server.put("/v1/kv/w/first", "x");
    let stop = Arc::new(AtomicBool::new(false));
    let writing = writer(server.address(), Arc::clone(&stop), 20_000, 0);
    eventually("some writes", || {
        let count = http(&server.address(), "GET", "/v1/kv/w/?keys&stale", b"")?;
        if count.text().matches("w/").count() > 20 { Ok(()) } else { Err(count.text()) }
    });
    let filler = disk.fill();
    assert_eq!(server.wait(Duration::from_secs(60)).code(), Some(1), "{}", server.tail());
    stop.store(true, Ordering::Relaxed);
    let acknowledged = writing.join().expect("no panic");
    let line = last_words(&server);
    assert!(line.contains("raft.redb") && line.contains("No space left"), "{line}");
    assert!(line.contains("free space"), "it says what to do: {line}");

    // Space comes back, the server is started again: no other hand work.
    std::fs::remove_file(&filler).expect("removed");
    server.start();
    server.wait_for_leader();
    assert!(acknowledged.len() > 20, "only {}", acknowledged.len());
    nothing_lost(&server, &acknowledged);
    server.put("/v1/kv/w/last", "x");
    server.kill();
}

#[test]
fn near_the_end_of_the_disk_writes_are_refused_and_reads_go_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(disk) = Disk::small(dir.path(), 48) else { return };
    let network = Network::new();
    let file = settings(dir.path(), r#"{"limits": {"disk_reserve": 16000000}}"#);
    let data = format!("-data-dir={}", disk.path.join("data").display());
    let args = ["-server", "-bootstrap", &file, &data];
    let mut server = Muster::member(dir.path(), &network, 1, "s1", &args);
    server.wait_for_leader();
    server.put("/v1/kv/k", "before");
    let filler = disk.fill_but(8_000_000);
    let refusal = eventually("a refusal", || {
        let answer = http(&server.address(), "PUT", "/v1/kv/k", b"after")?;
        if answer.status == 500 { Ok(answer.text()) } else { Err(answer.status.to_string()) }
    });
    assert!(
        refusal.contains("disk space exhausted") && refusal.contains("free space"),
        "{refusal}"
    );
    server.get("/v1/kv/k?raw");
    assert_eq!(server.http("DELETE", "/v1/kv/other", "").text(), "true");
    assert_eq!(server.http("PUT", "/v1/session/create", "{}").status, 500);
    assert!(server.running());
    std::fs::remove_file(&filler).expect("removed");
    eventually("writes are taken again", || {
        let answer = http(&server.address(), "PUT", "/v1/kv/k", b"after")?;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    });
    server.kill();
}

#[test]
fn a_failed_write_or_sync_ends_a_server_and_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(shim) = Shim::build(dir.path()) else { return };
    let network = Network::new();
    let mut args: Vec<String> = ["-server", "-bootstrap", "-node=s1"].map(str::to_owned).to_vec();
    let ip = network.ip(1);
    args.extend([format!("-bind={ip}"), format!("-client={ip}")]);
    args.push(format!("-data-dir={}", dir.path().join("s1").display()));
    let mut server = Muster::prepare(dir.path(), &ip, "s1", args);
    server.variables = shim.variables();
    server.start();
    server.wait_for_leader();
    server.put("/v1/kv/w/first", "x");
    let mut all = BTreeSet::from(["w/first".to_owned()]);
    server.kill();
    let faults = [
        ('s', libc::EIO, "Input/output error"),
        ('w', libc::EIO, "Input/output error"),
        ('w', libc::EROFS, "Read-only file system"),
        ('s', libc::ENOSPC, "No space left"),
    ];
    for (round, (what, errno, said)) in faults.into_iter().enumerate() {
        let _ = std::fs::remove_file(&server.log);
        server.start();
        server.wait_for_leader();
        nothing_lost(&server, &all);
        let stop = Arc::new(AtomicBool::new(false));
        let writing = writer(server.address(), Arc::clone(&stop), 100, round);
        let before = server.json("/v1/agent/self")["Stats"]["raft"]["last_log_index"].clone();
        let before: u64 = before.as_str().and_then(|text| text.parse().ok()).expect("a number");
        eventually("some writes", || {
            let now = server.json("/v1/agent/self")["Stats"]["raft"]["last_log_index"].clone();
            let now: u64 = now.as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
            if now > before + 20 { Ok(()) } else { Err(now.to_string()) }
        });
        shim.order(what, errno);
        let code = server.wait(Duration::from_secs(30)).code();
        assert_eq!(code, Some(1), "{what}{errno}: {}", server.tail());
        stop.store(true, Ordering::Relaxed);
        all.extend(writing.join().expect("no panic"));
        let line = last_words(&server);
        assert!(line.contains("raft") && line.contains(said), "{what}{errno}: {line}");
        shim.heal();
    }
    assert!(all.len() > 40, "only {}", all.len());
    let _ = std::fs::remove_file(&server.log);
    server.start();
    server.wait_for_leader();
    nothing_lost(&server, &all);
}

#[test]
fn a_leader_whose_disk_fails_is_replaced_and_loses_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let mut servers = Vec::new();
    for n in 1..=3 {
        let own = dir.path().join(format!("of-s{n}"));
        std::fs::create_dir(&own).expect("a directory");
        let Some(shim) = Shim::build(&own) else { return };
        let ip = network.ip(n);
        let args = vec![
            format!("-node=s{n}"),
            format!("-bind={ip}"),
            format!("-client={ip}"),
            format!("-data-dir={}", own.join("data").display()),
            format!("-retry-join={}", network.ip(1)),
            "-retry-interval=2s".to_owned(),
            "-server".to_owned(),
            "-bootstrap-expect=3".to_owned(),
        ];
        let mut server = Muster::prepare(dir.path(), &ip, &format!("s{n}"), args);
        server.variables = shim.variables();
        server.start();
        servers.push((server, shim));
    }
    for (server, _) in &servers {
        server.wait_for_leader();
    }
    let mut all = BTreeSet::new();
    for round in 0..2 {
        let place = servers[0].0.wait_for_leader();
        let leads = |(server, _): &(Muster, Shim)| place == format!("\"{}:8300\"", server.ip);
        let leader = servers.iter().position(leads).expect("one of them");
        let asked = &servers[(leader + 1) % 3].0;
        let stop = Arc::new(AtomicBool::new(false));
        let writing = writer(asked.address(), Arc::clone(&stop), 100, round);
        let count = || {
            let answer = http(&asked.address(), "GET", "/v1/kv/w/?keys&stale", b"")?;
            Ok::<_, String>(answer.text().matches("w/").count())
        };
        let go_on = |from: usize| {
            within(Duration::from_secs(30), "writes", || match count()? {
                now if now > from + 20 => Ok(now),
                now => Err(now.to_string()),
            })
        };
        let before = go_on(count().expect("it answers"));
        servers[leader].1.order(if round == 0 { 's' } else { 'w' }, libc::EIO);
        go_on(before);
        let code = servers[leader].0.wait(Duration::from_secs(30)).code();
        assert_eq!(code, Some(1), "{}", servers[leader].0.tail());
        stop.store(true, Ordering::Relaxed);
        all.extend(writing.join().expect("no panic"));
        let line = last_words(&servers[leader].0);
        assert!(line.contains("raft.redb") && line.contains("Input/output error"), "{line}");
        servers[leader].1.heal();
        std::fs::remove_file(&servers[leader].0.log).expect("a log");
        servers[leader].0.start();
        for (server, _) in &servers {
            server.wait_for_leader();
            nothing_lost(server, &all);
        }
    }
    assert!(all.len() > 40, "only {}", all.len());
}

#[test]
fn after_a_power_cut_of_all_servers_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(disk) = Disk::ext4(dir.path(), 256) else { return };
    let network = Network::new();
    let mut servers: Vec<Muster> = (1..=3)
        .map(|n| {
            let data = format!("-data-dir={}", disk.path.join(format!("s{n}")).display());
            let args = ["-server", "-bootstrap-expect=3", &data];
            Muster::member(dir.path(), &network, n, &format!("s{n}"), &args)
        })
        .collect();
    for server in &servers {
        server.wait_for_leader();
    }
    let mut all = BTreeSet::new();
    for round in 0..2 {
        let stop = Arc::new(AtomicBool::new(false));
        let writing = writer(servers[round].address(), Arc::clone(&stop), 500, round);
        let path = format!("/v1/kv/round/{round}");
        servers[0].put(&path, "x");
        let reached = |count: usize| {
            let address = servers[2].address();
            within(Duration::from_secs(30), "writes", move || {
                let answer = http(&address, "GET", "/v1/kv/w/?keys&stale", b"")?;
                let now = answer.text().matches("w/").count();
                if now > count { Ok(()) } else { Err(now.to_string()) }
            });
        };
        reached(all.len() + 60);
        // What nobody synced must be gone: or the cut was none, and the test proves nothing.
        let unsynced = disk.path.join(format!("unsynced-{round}"));
        std::fs::write(&unsynced, b"x").expect("written");
        disk.cut_power();
        stop.store(true, Ordering::Relaxed);
        all.extend(writing.join().expect("no panic"));
        for server in &mut servers {
            server.kill();
        }
        disk.mount_again();
        assert!(!unsynced.exists(), "the power was not cut");
        for server in &mut servers {
            server.start();
        }
        for server in &servers {
            server.wait_for_leader();
            nothing_lost(server, &all);
        }
    }
    assert!(all.len() > 60, "only {}", all.len());
    for server in &mut servers {
        server.kill();
    }
}

#[test]
fn a_read_only_data_directory_is_refused_in_one_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(disk) = Disk::ext4(dir.path(), 32) else { return };
    let network = Network::new();
    let file = settings(dir.path(), r#"{"limits": {"disk_reserve": 0}}"#);
    let data = format!("-data-dir={}", disk.path.join("data").display());
    let args = ["-server", "-bootstrap", &file, &data];
    let mut server = Muster::member(dir.path(), &network, 1, "s1", &args);
    server.wait_for_leader();
    server.put("/v1/kv/w/k", "v");
    server.kill();
    disk.remount("ro");
    let _ = std::fs::remove_file(&server.log);
    server.start();
    assert_eq!(server.wait(Duration::from_secs(20)).code(), Some(1));
    let line = last_words(&server);
    assert!(line.contains("Read-only file system") && line.contains("data"), "{line}");
    disk.remount("rw");
    server.start();
    server.wait_for_leader();
    nothing_lost(&server, &BTreeSet::from(["w/k".to_owned()]));
    server.kill();
}

//! Archives of the whole state: saved, restored through every kind of agent, refused when damaged.

use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::http::{Answer, request};
use crate::support::process::{Cluster, cli};
use crate::support::{Muster, Network, eventually, http, thread, within};

/// Time for a restore of a small state on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn save(agent: &Muster, query: &str) -> Vec<u8> {
    let answer = agent.get(&format!("/v1/snapshot{query}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.index() > 0, "{:?}", answer.headers);
    assert_eq!(answer.header("X-Consul-KnownLeader"), "true");
    assert_eq!(answer.header("Content-Type"), "application/x-gzip");
    answer.body
}

fn restore(agent: &Muster, archive: &[u8]) {
    let answer = agent.http("PUT", "/v1/snapshot", archive);
    assert_eq!((answer.status, answer.text()), (200, String::new()));
}

/// A query that is answered when something changes, and not before a minute has passed otherwise.
fn waiting(agent: &Muster, path: &str, index: u64) -> JoinHandle<Result<Answer, String>> {
    let address = agent.address();
    let sign = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{sign}index={index}&wait=5m");
    thread(move || request(&address, "GET", &path, &[], b"", PATIENCE))
}

/// What a server holds itself: the keys under `a/`, and whether `db` is there.
fn held(address: &str) -> Result<(Value, usize), String> {
    let keys = http(address, "GET", "/v1/kv/a/?keys&stale", b"")?;
    let keys = if keys.status == 200 { keys.json() } else { json!([]) };
    let services = http(address, "GET", "/v1/health/service/db?stale", b"")?;
    if services.status != 200 {
        return Err(services.text());
    }
    Ok((keys, services.json().as_array().map_or(0, Vec::len)))
}

fn everywhere(cluster: &Cluster, keys: &Value, services: usize) {
    for server in &cluster.servers {
        within(PATIENCE, "the restored state on every server", || match held(&server.address())? {
            held if held == (keys.clone(), services) => Ok(()),
            held => Err(format!("{held:?} on {}", server.ip)),
        });
    }
}

const DATABASE: &str = r#"{"Node": "ext", "Address": "10.9.9.9",
    "Service": {"Service": "db", "Port": 5432}}"#;

#[test]
fn a_restore_replaces_everything_everywhere_and_wakes_everybody() {
    let mut cluster = Cluster::start();
    let client = cluster.client(11);
    let follower = (cluster.leader() + 1) % 3;
    client.put("/v1/kv/a/1", "old");
    client.put("/v1/catalog/register", DATABASE);
    let session = client.http("PUT", "/v1/session/create", r#"{"Name": "kept"}"#).json();
    let session = session["ID"].as_str().expect("an id").to_owned();
    let archive = save(&cluster.servers[follower], "");

    client.put("/v1/kv/a/1", "new");
    client.put("/v1/kv/a/2", "more");
    client.put("/v1/catalog/deregister", r#"{"Node": "ext"}"#);
    client.put(&format!("/v1/session/destroy/{session}"), "");
    let paths = ["/v1/kv/a/1", "/v1/kv/a/?recurse", "/v1/health/service/db", "/v1/session/list"];
    let waiting: Vec<_> = [&client, &cluster.servers[follower]]
        .into_iter()
        .flat_map(|agent| {
            paths.map(|path| {
                let index = agent.get(path).index();
                assert!(index > 0, "{path}");
                (path, index, waiting(agent, path, index))
            })
        })
        .collect();

    restore(&cluster.servers[follower], &archive);
    assert_eq!(client.get("/v1/kv/a/1?raw").text(), "old", "the next default read sees it");
    everywhere(&cluster, &json!(["a/1"]), 1);
    for (path, index, query) in waiting {
        let answer = query.join().expect("no panic");
        let answer = answer.unwrap_or_else(|error| panic!("{path} was not woken: {error}"));
        assert!(answer.index() > index, "{path}: {} after {index}", answer.index());
    }
    let info = client.json(&format!("/v1/session/info/{session}"));
    assert_eq!(info[0]["Name"], "kept", "{info}");
    assert_eq!(client.put(&format!("/v1/kv/lock?acquire={session}"), "mine"), "true");
    client.put("/v1/kv/a/3", "later");
    everywhere(&cluster, &json!(["a/1", "a/3"]), 1);

    // Through an agent without a server, and from the copy of a follower.
    let stale = save(&cluster.servers[follower], "?stale");
    client.put("/v1/kv/a/4", "lost");
    restore(&client, &stale);
    everywhere(&cluster, &json!(["a/1", "a/3"]), 1);

    for server in &mut cluster.servers {
        server.kill();
    }
    for server in &mut cluster.servers {
        server.start();
    }
    for server in &cluster.servers {
        server.wait_for_leader();
    }
    everywhere(&cluster, &json!(["a/1", "a/3"]), 1);
    assert_eq!(client.json(&format!("/v1/session/info/{session}"))[0]["Name"], "kept");
}

#[test]
fn a_server_that_was_down_during_a_restore_catches_up() {
    let mut cluster = Cluster::start();
    let leader = cluster.leader();
    let down = (leader + 1) % 3;
    cluster.servers[leader].put("/v1/kv/a/1", "old");
    let archive = save(&cluster.servers[leader], "");
    cluster.servers[leader].put("/v1/kv/a/2", "more");
    everywhere(&cluster, &json!(["a/1", "a/2"]), 0);
    cluster.servers[down].kill();
    restore(&cluster.servers[(leader + 2) % 3], &archive);
    cluster.servers[leader].put("/v1/kv/a/3", "later");
    cluster.servers[down].start();
    cluster.servers[down].wait_for_leader();
    everywhere(&cluster, &json!(["a/1", "a/3"]), 0);
}

#[test]
fn what_is_damaged_or_asked_wrongly_changes_nothing() {
    let cluster = Cluster::start();
    let server = &cluster.servers[(cluster.leader() + 1) % 3];
    server.put("/v1/kv/a/1", "old");
    let archive = save(server, "");
    server.put("/v1/kv/a/2", "new");
    let flipped = |at: usize| {
        let mut bytes = archive.clone();
        bytes[at] ^= 1;
        bytes
    };
    let refused = |query: &str, body: &[u8], said: &[&str]| {
        let answer = server.http("PUT", &format!("/v1/snapshot{query}"), body);
        let text = answer.text();
        assert_eq!(answer.status, 500, "{query}: {text}");
        assert!(said.iter().any(|said| text.contains(said)), "{query}: {text}");
    };
    let damaged = ["failed to decompress snapshot: ", "failed to read snapshot file: "];
    refused("", &archive[..archive.len() / 2], &damaged[..1]);
    refused("", &archive[..archive.len() - 1], &damaged[..1]);
    refused("", b"", &damaged[..1]);
    refused("", b"this is no archive", &damaged[..1]);
    for at in [archive.len() / 3, archive.len() / 2, archive.len() - 6] {
        refused("", &flipped(at), &damaged);
    }
    // Gzip of a tar whose only member has another name.
    refused("", &wrong_member(), &damaged[1..]);
    refused("?stale", &archive, &["stale not allowed for restore"]);
    refused("?dc=nowhere", &archive, &["No path to datacenter"]);
    let answer = server.get("/v1/snapshot?dc=nowhere");
    assert_eq!((answer.status, answer.text().contains("No path to datacenter")), (500, true));
    assert_eq!(server.json("/v1/kv/a/?keys"), json!(["a/1", "a/2"]));
    everywhere(&cluster, &json!(["a/1", "a/2"]), 0);
    restore(server, &archive);
    everywhere(&cluster, &json!(["a/1"]), 0);
}

/// Stored without compression, so that nothing but the format is needed: RFC 1952, RFC 1951 §3.2.4.
fn wrong_member() -> Vec<u8> {
    let mut tar = vec![0_u8; 512 * 3];
    tar[..9].copy_from_slice(b"other.txt");
    tar[100..107].copy_from_slice(b"0000600");
    tar[124..135].copy_from_slice(b"00000000000");
    tar[136..147].copy_from_slice(b"00000000000");
    tar[148..156].copy_from_slice(b"        ");
    tar[156] = b'0';
    tar[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = tar[..512].iter().map(|byte| u32::from(*byte)).sum();
    tar[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let length = u16::try_from(tar.len()).expect("short");
    let mut gzip = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    gzip.extend_from_slice(&length.to_le_bytes());
    gzip.extend_from_slice(&(!length).to_le_bytes());
    gzip.extend_from_slice(&tar);
    gzip.extend_from_slice(&crc32(&tar).to_le_bytes());
    gzip.extend_from_slice(&u32::from(length).to_le_bytes());
    gzip
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

#[test]
fn the_command_line_saves_inspects_and_restores() {
    let cluster = Cluster::start();
    let follower = &cluster.servers[(cluster.leader() + 1) % 3];
    for n in 0..5 {
        follower.put(&format!("/v1/kv/a/b/{n}"), "x".repeat(2_000));
    }
    let address = format!("-http-addr={}", follower.address());
    let dir = cluster.dir.path();
    let path = dir.join("state.snap");
    let file = path.to_str().expect("UTF-8");

    let (code, out, err) = cli(&["snapshot", "save", &address, file]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let index = out.trim().strip_prefix("Saved and verified snapshot to index ");
    let index: u64 = index.and_then(|index| index.parse().ok()).unwrap_or_else(|| panic!("{out}"));
    assert!(path.exists() && !dir.join("state.snap.unverified").exists());
    let arguments = ["snapshot", "save", "-stale", "-append-filename=version,dc", &address, file];
    assert_eq!(cli(&arguments).0, 0);
    assert!(dir.join("state-1.21.4-dc1.snap").exists());

    let (code, out, err) = cli(&["snapshot", "inspect", "-kvdetails", file]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains(&format!(" Index        {index}\n")), "{out}");
    let row = |name: &str| {
        let line = out.lines().find(|line| line.trim_start().starts_with(name));
        line.unwrap_or_else(|| panic!("{name} in {out}")).split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(row("KVS")[1], "5");
    assert_eq!(row("a/b")[1], "5");
    let (code, out, _) = cli(&["snapshot", "inspect", "-format=json", file]);
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &report["Meta"]["Index"]), (0, &json!(index)), "{out}");
    assert_eq!(report["Stats"][0]["Name"], "KVS", "{out}");

    follower.put("/v1/kv/a/b/5", "more");
    let (code, out, err) = cli(&["snapshot", "restore", &address, file]);
    assert_eq!((code, out.trim(), err.as_str()), (0, "Restored snapshot", ""));
    let keys = eventually("the restored keys", || {
        let keys = follower.json("/v1/kv/a/?keys");
        if keys.as_array().map(Vec::len) == Some(5) { Ok(keys) } else { Err(keys.to_string()) }
    });
    assert_eq!(keys[4], "a/b/4");

    let cut = dir.join("cut.snap");
    let whole = std::fs::read(&path).expect("an archive");
    std::fs::write(&cut, &whole[..whole.len() - 20]).expect("written");
    let cut = cut.to_str().expect("UTF-8");
    for (arguments, said) in [
        (&["snapshot", "inspect", cut][..], "cut.snap is damaged or none of ours: failed to"),
        (&["snapshot", "restore", &address, cut], "Unexpected response code: 500 (failed to"),
        (&["snapshot", "inspect", "/none/a.snap"], "cannot open archive /none/a.snap"),
        (&["snapshot", "save", &address, "/none/a.snap"], "/none/a.snap.unverified"),
        (&["snapshot", "save", &address], "Missing FILE argument"),
        (&["snapshot", "restore", &address, cut, cut], "Too many arguments (expected 1, got 2)"),
        (&["snapshot", "save", "-append-filename=x", &address, file], "-append-filename x"),
        (&["snapshot", "inspect", "-format=xml", file], "-format xml"),
        (&["snapshot", "inspect", "-kvdepth=0", file], "-kvdepth 0"),
    ] {
        let (code, out, err) = cli(arguments);
        assert_eq!((code, out.as_str(), err.lines().count()), (1, "", 1), "{arguments:?}: {err}");
        assert!(err.contains(said), "{arguments:?}: {err}");
    }
}

#[test]
fn a_leader_writes_what_its_schedule_says_and_it_can_be_restored() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let path = dir.path().join("backups");
    let file = dir.path().join("schedule.json");
    let schedule = json!({"interval": "1h", "retain": 3, "path": path});
    let text = json!({"snapshot_schedule": schedule}).to_string();
    std::fs::write(&file, text).expect("written");
    let file = format!("-config-file={}", file.display());
    let server = Muster::member(dir.path(), &network, 1, "s1", &["-server", "-bootstrap", &file]);
    server.wait_for_leader();
    server.put("/v1/kv/a/1", "later");
    let archive = eventually("the first archive", || {
        let entries = std::fs::read_dir(&path).map_err(|error| error.to_string())?;
        let mut names = entries.map(|entry| entry.expect("an entry").path());
        let name = names.next().ok_or("none yet")?;
        if name.extension().is_some_and(|end| end == "snap") {
            Ok(name)
        } else {
            Err("part".into())
        }
    });
    let archive = archive.to_str().expect("UTF-8");
    assert_eq!(cli(&["snapshot", "inspect", archive]).0, 0);
    let address = format!("-http-addr={}", server.address());
    let (code, out, err) = cli(&["snapshot", "restore", &address, archive]);
    assert_eq!((code, out.trim(), err.as_str()), (0, "Restored snapshot", ""));
    assert_eq!(server.put("/v1/kv/a/2", "after"), "true");
}

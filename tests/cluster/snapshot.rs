//! Snapshots are taken, used at a restart, and refused when they are damaged.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::process::Muster;
use crate::support::{Network, eventually};

fn files(shelf: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(shelf).expect("the shelf of snapshots");
    let whole = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_none_or(|extension| extension != "tmp"));
    whole.map(|path| path.join("state.bin")).collect()
}

#[test]
fn a_snapshot_is_taken_used_and_refused_by_name_when_damaged() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let file = dir.path().join("low.json");
    std::fs::write(&file, r#"{"raft_snapshot_threshold": 40}"#).expect("written");
    let file = format!("-config-file={}", file.display());
    let args = ["-server", "-bootstrap", &file];
    let mut server = Muster::member(dir.path(), &network, 1, "s1", &args);
    server.wait_for_leader();
    for n in 0..100 {
        server.put(&format!("/v1/kv/k/{n}"), n.to_string());
    }
    let shelf = dir.path().join("s1/raft/snapshots");
    eventually("two snapshots", || match files(&shelf).len() {
        2 => Ok(()),
        count => Err(count.to_string()),
    });
    server.kill();
    server.start();
    server.wait_for_leader();
    let keys = server.json("/v1/kv/k/?keys");
    assert_eq!(keys.as_array().map(Vec::len), Some(100));
    let taken = server.json("/v1/agent/self")["Stats"]["raft"]["last_snapshot_index"].clone();
    assert!(taken.as_str().is_some_and(|index| index != "0"), "{taken}");
    server.kill();

    let whole: Vec<(PathBuf, Vec<u8>)> = files(&shelf)
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).expect("a snapshot")))
        .collect();
    for damage in [
        |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2),
        |bytes: &mut Vec<u8>| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        },
    ] {
        for (path, bytes) in &whole {
            let mut bytes = bytes.clone();
            damage(&mut bytes);
            std::fs::write(path, bytes).expect("written");
        }
        std::fs::remove_file(&server.log).expect("a log");
        server.start();
        assert_eq!(server.wait(Duration::from_secs(20)).code(), Some(1), "{}", server.tail());
        let log = server.tail();
        let line = log.lines().find(|line| line.starts_with("error:"));
        let line = line.unwrap_or_else(|| panic!("no error line in:\n{log}"));
        assert!(line.contains("raft/snapshots/") && line.contains("state.bin"), "{line}");
    }
    for (path, bytes) in &whole {
        std::fs::write(path, bytes).expect("written");
    }
    server.start();
    server.wait_for_leader();
    assert_eq!(server.get("/v1/kv/k/99?raw").text(), "99");
}

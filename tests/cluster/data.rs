//! What a release has written is opened by every later one: tests/data, made by
//! `scripts/make-test-data` once for each release.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Muster, Network, eventually, http};

fn releases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let entries = std::fs::read_dir(folder).expect("tests/data is there");
    let mut found: Vec<PathBuf> =
        entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir()).collect();
    found.sort();
    assert!(found.iter().any(|path| path.ends_with("0.1.0")), "{found:?}");
    found
}

/// What `scripts/make-test-data` wrote before it saved the archive.
fn check_state(server: &Muster) {
    let raw = |key: &str| server.get(&format!("/v1/kv/{key}?raw")).text();
    assert_eq!((raw("first"), raw("txn/a")), ("one".to_owned(), "a".to_owned()));
    let many = server.json("/v1/kv/many/?recurse");
    let many = many.as_array().expect("a list");
    assert_eq!(many.len(), 59);
    for row in many {
        let n = row["Flags"].as_u64().expect("a number");
        assert_eq!(row["Key"], format!("many/{n}"));
        assert_eq!(raw(&format!("many/{n}")), format!("value {n}"));
    }
    let lock = &server.json("/v1/kv/lock")[0];
    let sessions = server.json("/v1/session/list");
    assert_eq!(sessions[0]["Name"], "holder");
    assert_eq!((&lock["Session"], &lock["LockIndex"]), (&sessions[0]["ID"], &1.into()));
    let web = &server.json("/v1/catalog/service/web")[0];
    assert_eq!((&web["ServiceID"], &web["ServicePort"]), (&"web-1".into(), &8080.into()));
    assert_eq!(
        (&web["ServiceTags"][0], &web["ServiceMeta"]["team"]),
        (&"v1".into(), &"shop".into())
    );
}

#[test]
fn data_directories_of_former_releases_open() {
    for release in releases() {
        let dir = tempfile::tempdir().expect("a folder");
        let unpacked = Command::new("tar")
            .arg("-C")
            .arg(dir.path())
            .arg("-xzf")
            .arg(release.join("data.tar.gz"))
            .status();
        assert!(unpacked.expect("tar runs").success());
        let ip = Network::new().ip(1);
        let args = ["-server", "-bootstrap", "-node=data"].map(str::to_owned).to_vec();
        let own = [
            format!("-bind={ip}"),
            format!("-client={ip}"),
            format!("-data-dir={}", dir.path().join("data").display()),
        ];
        let mut server =
            Muster::prepare(dir.path(), &ip, "data", args.into_iter().chain(own).collect());
        server.start();
        server.wait_for_leader();
        check_state(&server);
        assert_eq!(server.get("/v1/kv/last?raw").text(), "behind-the-archive");
        // What the agent itself kept: its own service, and the TTL of its check.
        eventually("the agent knows its service", || {
            let found = http(&server.address(), "GET", "/v1/agent/service/web-1", b"")?;
            if found.status == 200 { Ok(()) } else { Err(found.text()) }
        });
        let before = server.json("/v1/kv/last")[0]["ModifyIndex"].as_u64();
        assert_eq!(server.put("/v1/kv/last", "new"), "true");
        let after = server.json("/v1/kv/last")[0]["ModifyIndex"].as_u64();
        assert!(after > before, "{after:?} is above {before:?}");
    }
}

#[test]
fn archives_of_former_releases_are_restored() {
    for release in releases() {
        let dir = tempfile::tempdir().expect("a folder");
        let server = Muster::dev(dir.path(), &Network::new().ip(1), &[]);
        server.wait_for_leader();
        let archive = std::fs::read(release.join("archive.snap")).expect("it is there");
        eventually("it is restored", || {
            let answer = http(&server.address(), "PUT", "/v1/snapshot", &archive)?;
            if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
        });
        check_state(&server);
        assert_eq!(server.get("/v1/kv/last").status, 404);
    }
}

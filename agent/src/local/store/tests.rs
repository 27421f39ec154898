use super::*;

async fn opened(path: &Path) -> Result<Loaded, StoreError> {
    open(path.to_owned()).await.map(|(_, loaded)| loaded)
}

#[tokio::test]
async fn damage_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("local.redb");
    assert!(opened(&path).await.expect("created").services.is_empty());
    let whole = std::fs::read(&path).expect("it is there");
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("no database", b"hello".repeat(2000)),
        ("cut", whole[..whole.len() / 2].to_vec()),
    ] {
        std::fs::write(&path, bytes).expect("written");
        let text = opened(&path).await.expect_err(what).to_string();
        assert!(text.contains(path.to_str().expect("text")), "{what}: {text}");
    }
    std::fs::write(&path, whole).expect("written");
    opened(&path).await.expect("whole again");
}

#[tokio::test]
async fn another_programs_file_and_a_later_version_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("local.redb");
    opened(&path).await.expect("created");
    let set = |key: &str, value: &[u8]| {
        let database = Database::open(&path).expect("opens");
        let write = database.begin_write().expect("begins");
        write.open_table(META).expect("there").insert(key, value).expect("set");
        write.commit().expect("committed");
    };
    set("version", &2_u32.to_le_bytes());
    let text = opened(&path).await.expect_err("later").to_string();
    assert!(text.contains("has version 2 and was written by a later release"), "{text}");
    assert!(text.contains(model::MUSTER_VERSION), "{text}");
    set("magic", b"other");
    let text = opened(&path).await.expect_err("foreign").to_string();
    assert!(text.contains("another program's file"), "{text}");
}

#[tokio::test]
async fn a_damaged_record_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("local.redb");
    opened(&path).await.expect("created");
    {
        let database = Database::open(&path).expect("opens");
        let write = database.begin_write().expect("begins");
        let record =
            TtlRecord { status: Status::Passing, output: "fine".into(), expires_wall_ms: 1 };
        let mut bytes = encode(&record);
        assert_eq!(decode::<TtlRecord>(&bytes), Ok(record));
        *bytes.last_mut().expect("not empty") ^= 1;
        write.open_table(TTL).expect("there").insert("c", bytes.as_slice()).expect("set");
        write.commit().expect("committed");
    }
    let text = opened(&path).await.expect_err("damaged").to_string();
    assert!(text.contains("TTL of c: checksum"), "{text}");
    assert!(text.contains("move the file away"), "{text}");
}

#[tokio::test]
async fn a_flipped_bit_is_refused_or_harmless() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("local.redb");
    opened(&path).await.expect("created");
    {
        let database = Database::open(&path).expect("opens");
        let write = database.begin_write().expect("begins");
        for n in 0..50 {
            let output = format!("fine {n}");
            let record = TtlRecord { status: Status::Passing, output, expires_wall_ms: n };
            let (key, bytes) = (format!("c{n}"), encode(&record));
            write.open_table(TTL).expect("there").insert(&*key, bytes.as_slice()).expect("set");
        }
        write.commit().expect("committed");
    }
    let good = opened(&path).await.expect("whole").ttl;
    let whole = std::fs::read(&path).expect("it is there");
    let header = (0..512).step_by(7);
    let pages =
        (0..whole.len()).step_by(4_096).map(|at| (at + at / 4_096 % 512) * 8 + at / 4_096 % 8);
    let mut refused = 0;
    for bit in header.chain(pages) {
        let mut bad = whole.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &bad).expect("written");
        match opened(&path).await {
            Ok(loaded) => assert_eq!(loaded.ttl, good, "bit {bit}"),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("local.redb") && !text.contains('\n'), "{text}");
                refused += 1;
            }
        }
    }
    assert!(refused > 10, "only {refused} were refused");
}

#[tokio::test]
async fn what_the_disk_did_not_take_is_written_once_it_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, away) = (folder.path().join("local.redb"), folder.path().join("away"));
    let (store, _) = open(path.clone()).await.expect("created");
    let record = |n| TtlRecord { status: Status::Passing, output: "".into(), expires_wall_ms: n };
    let noted = |id: &str, n| BTreeMap::from([(Name::from(id), record(n))]);
    store.write(vec![], noted("a", 1)).expect("written");
    // redb refuses all work after a failure, and the file cannot be opened anew either.
    store.held.lock().expect("not poisoned").database = None;
    std::fs::rename(&path, &away).expect("moved");
    let refused = store.write(vec![Edit::DropCheck("a".into())], noted("b", 2));
    assert!(refused.expect_err("no file").to_string().contains("once the disk takes it"));
    assert!(store.write(vec![], noted("c", 3)).is_err() && store.behind());
    std::fs::rename(&away, &path).expect("moved back");
    store.write(vec![], BTreeMap::new()).expect("written");
    assert!(!store.behind());
    drop(store);
    let (store, loaded) = open(path.clone()).await.expect("opens");
    let ids: Vec<&str> = loaded.ttl.keys().map(|id| &**id).collect();
    assert_eq!(ids, ["b", "c"]);

    // What had to be dropped must not look as if it had been written.
    let many = (0..=UNSAVED_MAX).map(|n| Edit::DropService(n.to_string().into()));
    assert!(store.write(many.collect(), BTreeMap::new()).is_err());
    assert!(store.write(vec![], BTreeMap::new()).is_err() && !store.behind());
}

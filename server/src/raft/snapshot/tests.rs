//! Snapshots: what comes back, what is refused, what stays on the shelf.

use std::io::Read as _;
use std::path::Path;

use model::LogIndex;
use model::command::{Command, EnvelopeV1, KvCommandV1, KvPutV1};
use state::State;

use super::*;
use crate::raft::types::{SnapshotMeta, StoredMembership, log_id};

fn filled(count: u64) -> State {
    let mut state = State::default();
    let batch: Vec<(LogIndex, EnvelopeV1)> = (1..=count)
        .map(|index| {
            let put = KvPutV1 {
                key: format!("key/{index}").into(),
                value: vec![index as u8; 1_000].into(),
                flags: 0,
            };
            let envelope = EnvelopeV1 {
                namespace: "default".into(),
                retry: None,
                actor: "".into(),
                reason: "".into(),
                cluster_time_ms: index,
                wall_ms: 0,
                command: Command::KvV1(KvCommandV1::Set(put)),
            };
            (LogIndex(index), envelope)
        })
        .collect();
    state::apply(&mut state, &batch);
    state
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: Some(log_id(2, index)),
        last_membership: StoredMembership::default(),
    }
}

fn directories(data_dir: &Path) -> Vec<String> {
    let shelf = std::fs::read_dir(data_dir.join("raft/snapshots")).expect("shelf");
    let mut names: Vec<String> =
        shelf.map(|item| item.expect("item").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn read(stored: &Stored) -> Vec<u8> {
    let mut bytes = Vec::new();
    stored.read().expect("open").read_to_end(&mut bytes).expect("read");
    bytes
}

fn announced(stored: &Stored) -> Announced {
    let (meta, bytes) = (stored.meta.clone(), stored.bytes());
    Announced { meta, bytes, outline: stored.outline().expect("read") }
}

/// A snapshot that nobody has, told from others by its size.
fn some(bytes: u64) -> Announced {
    Announced { meta: meta(1), bytes, outline: [0; 32] }
}

#[test]
fn the_newest_comes_back_after_a_restart_and_two_are_kept() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (shelf, loaded) = Shelf::open(Some(directory.path())).expect("opens");
    assert!(loaded.is_none() && shelf.current().is_none());
    for index in [3_000, 3_500, 4_000] {
        shelf.dump(meta(index), &filled(index)).expect("dumped");
    }
    std::fs::create_dir(directory.path().join("raft/snapshots/dump-9-9.tmp")).expect("left over");
    let (shelf, loaded) = Shelf::open(Some(directory.path())).expect("opens");
    let (found, state) = loaded.expect("a snapshot");
    assert_eq!(found, meta(4_000));
    assert_eq!(shelf.current().map(|stored| stored.meta), Some(meta(4_000)));
    assert_eq!(state.hash(), filled(4_000).hash());
    assert_eq!(directories(directory.path()), ["2-3500", "2-4000"]);
}

#[test]
fn every_damage_is_refused_by_name() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (shelf, _) = Shelf::open(Some(directory.path())).expect("opens");
    shelf.dump(meta(50), &filled(50)).expect("dumped");
    let path = directory.path().join("raft/snapshots/2-50/state.bin");
    let good = std::fs::read(&path).expect("read");
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).expect("written");
        let text = Shelf::open(Some(directory.path())).map(|_| ()).expect_err(what).to_string();
        assert!(text.contains("2-50/state.bin"), "{what}: {text}");
    };
    for bit in (0..good.len() * 8).step_by(1_009).chain(0..512) {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        refused(&bad, &format!("bit {bit}"));
    }
    for cut in (0..good.len()).step_by(997).chain(good.len() - 24..good.len()) {
        refused(&good[..cut], &format!("cut at {cut}"));
    }
    let mut longer = good.clone();
    longer.push(0);
    refused(&longer, "longer");
    std::fs::write(&path, &good).expect("written");
    Shelf::open(Some(directory.path())).expect("whole again");
}

#[test]
fn a_received_snapshot_counts_only_when_it_is_whole() {
    for in_memory in [true, false] {
        let directory = tempfile::tempdir().expect("temporary directory");
        let place = (!in_memory).then(|| directory.path());
        let (from, _) = Shelf::open(None).expect("opens");
        let stored = from.dump(meta(60), &filled(60)).expect("dumped");
        let (bytes, whole) = (read(&stored), announced(&stored));

        let (to, _) = Shelf::open(place).expect("opens");
        let mut short = to.begin(whole.clone(), "received-0").expect("begun");
        short.push(&bytes[..100]).expect("pushed");
        assert!(matches!(to.verify(short), Err(SnapshotError::Damaged { .. })));
        let mut long = to.begin(some(10), "received-1").expect("begun");
        assert!(long.push(&bytes[..100]).is_err());
        assert!(to.current().is_none());

        let mut whole = to.begin(whole, "received-2").expect("begun");
        for block in bytes.chunks(1_000) {
            whole.push(block).expect("pushed");
        }
        let verified = to.verify(whole).expect("whole");
        assert!(to.current().is_none(), "verified is not installed");
        let state = to.install(verified).expect("installed");
        assert_eq!(state.hash(), filled(60).hash());
        assert_eq!(to.current().map(|stored| stored.meta), Some(meta(60)));
    }
}

#[test]
fn what_was_received_in_part_is_removed_when_the_next_comes() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (shelf, _) = Shelf::open(Some(directory.path())).expect("opens");
    let mut given_up = shelf.begin(some(1_000), "received-0").expect("begun");
    given_up.push(&[0; 100]).expect("pushed");
    drop(given_up);
    let one = shelf.begin(some(1_001), "received-1").expect("begun");
    let other = shelf.begin(some(1_002), "received-2").expect("begun");
    assert_eq!(directories(directory.path()), ["received-1.tmp", "received-2.tmp"]);
    drop(one);
    shelf.dump(meta(50), &filled(50)).expect("dumped");
    assert_eq!(directories(directory.path()), ["2-50", "received-2.tmp"]);
    // Verified, but not installed.
    drop(other);
    let stored = shelf.current().expect("dumped");
    let mut whole = shelf.begin(announced(&stored), "received-3").expect("begun");
    whole.push(&read(&stored)).expect("pushed");
    let verified = shelf.verify(whole).expect("whole");
    drop(shelf.begin(some(1_000), "received-4").expect("begun"));
    assert_eq!(directories(directory.path()), ["2-50", "received-3.tmp", "received-4.tmp"]);
    drop(verified);
    shelf.dump(meta(60), &filled(60)).expect("dumped");
    assert_eq!(directories(directory.path()), ["2-50", "2-60"]);
}

#[test]
fn a_cut_transfer_goes_on_behind_the_last_whole_block() {
    for in_memory in [true, false] {
        let directory = tempfile::tempdir().expect("temporary directory");
        let place = (!in_memory).then(|| directory.path());
        let (from, _) = Shelf::open(None).expect("opens");
        let stored = from.dump(meta(3_000), &filled(3_000)).expect("dumped");
        let (bytes, all) = (read(&stored), announced(&stored));
        let (to, _) = Shelf::open(place).expect("opens");
        let held_after = |came: usize, name: &str| {
            drop(to.begin(some(1), "other").expect("begun"));
            let mut cut = to.begin(all.clone(), name).expect("begun");
            assert_eq!(cut.held(), 0, "what was kept was another");
            for part in bytes[..came].chunks(70_001) {
                cut.push(part).expect("pushed");
            }
            drop(cut);
            to.begin(all.clone(), "unused").expect("begun")
        };
        let head = held_after(30, "a").held();
        assert_eq!(head, 0, "not even the header is whole");
        let header = held_after(1_000, "b").held();
        assert!(header > 0 && header < 100, "the header, not the block: {header}");
        let mut again = held_after(2_500_000, "c");
        let held = usize::try_from(again.held()).expect("small");
        assert!(held > 1_000_000 && held < 2_500_000, "{held}");
        again.push(&bytes[held..]).expect("pushed");
        let verified = to.verify(again).expect("whole");
        let state = to.install(verified).expect("installed");
        assert_eq!(state.hash(), filled(3_000).hash());
        if !in_memory {
            assert_eq!(directories(directory.path()), ["2-3000"]);
        }
        // All but the end came, and all.
        for left in [1, 0] {
            let mut again = held_after(bytes.len() - left, "d");
            let held = usize::try_from(again.held()).expect("small");
            assert_eq!(held, bytes.len() - 16);
            again.push(&bytes[held..]).expect("pushed");
            to.verify(again).expect("whole");
        }
    }
}

#[test]
fn what_was_kept_is_not_used_when_it_is_damaged_or_of_another() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (from, _) = Shelf::open(None).expect("opens");
    let stored = from.dump(meta(3_000), &filled(3_000)).expect("dumped");
    let (bytes, all) = (read(&stored), announced(&stored));
    let (to, _) = Shelf::open(Some(directory.path())).expect("opens");
    let cut = |announced: &Announced, name: &str| {
        let mut cut = to.begin(announced.clone(), name).expect("begun");
        cut.push(&bytes[..2_500_000]).expect("pushed");
    };
    let path = |name: &str| directory.path().join(format!("raft/snapshots/{name}.tmp/state.bin"));
    for (at, name) in [(10, "a"), (500_000, "b")] {
        cut(&all, name);
        let mut bad = std::fs::read(path(name)).expect("kept");
        bad[at] ^= 1;
        std::fs::write(path(name), &bad).expect("written");
        drop(to.begin(all.clone(), "next").expect("begun"));
        assert_eq!(directories(directory.path()), ["next.tmp"], "begun anew");
    }
    // Of the same entries and size, but not the same bytes; one with another configuration.
    let others = [
        Announced { outline: [7; 32], ..all.clone() },
        Announced { meta: meta(2_999), ..all.clone() },
        Announced { bytes: all.bytes + 1, ..all.clone() },
    ];
    for other in others {
        cut(&other, "c");
        assert_eq!(to.begin(all.clone(), "next").expect("begun").held(), 0);
        assert_eq!(directories(directory.path()), ["next.tmp"]);
    }
    // Whole and in order, but not what was announced.
    let other = Announced { outline: [7; 32], ..all.clone() };
    let mut whole = to.begin(other, "d").expect("begun");
    whole.push(&bytes).expect("pushed");
    let refused = to.verify(whole).expect_err("another").to_string();
    assert!(refused.contains("not the one that was announced"), "{refused}");
    // More than was announced: nothing of it is kept.
    let mut long = to.begin(all.clone(), "e").expect("begun");
    long.push(&bytes).expect("pushed");
    long.push(&[0]).expect_err("too much");
    drop(long);
    to.sweep().expect("swept");
    assert_eq!(directories(directory.path()), [""; 0]);
    // Kept over the first sweep, given up at the second; gone after a restart.
    cut(&all, "f");
    to.sweep().expect("swept");
    assert_eq!(directories(directory.path()), ["f.tmp"]);
    to.sweep().expect("swept");
    assert_eq!(directories(directory.path()), [""; 0]);
    assert_eq!(to.begin(all.clone(), "g").expect("begun").held(), 0);
    cut(&all, "h");
    Shelf::open(Some(directory.path())).expect("opens");
    assert_eq!(directories(directory.path()), [""; 0]);
}

#[test]
fn a_newer_format_is_refused_and_names_the_release_that_wrote_it() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (shelf, _) = Shelf::open(Some(directory.path())).expect("opens");
    shelf.dump(meta(50), &filled(50)).expect("dumped");
    let path = directory.path().join("raft/snapshots/2-50/state.bin");
    let mut bytes = std::fs::read(&path).expect("read");
    let length = u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes"));
    let end = 32 + length as usize;
    bytes[8] = 9;
    bytes[16..32].copy_from_slice(b"7.1.0\0\0\0\0\0\0\0\0\0\0\0");
    let crc = crc32fast::hash(&bytes[..end]);
    bytes[end..end + 4].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, &bytes).expect("written");
    let refused = Shelf::open(Some(directory.path())).map(|_| ()).expect_err("newer");
    let text = crate::raft::StartError::from(refused).to_string();
    assert!(text.contains("newer release (7.1.0) in format 9"), "{text}");
    assert!(text.contains("2-50/state.bin"), "{text}");
}

mod archives {
    use std::io::{self, Write as _};

    use super::super::archive::{self, ArchiveMeta, Configuration, Contents};
    use super::*;

    fn archive(state: &State) -> Vec<u8> {
        let description = ArchiveMeta {
            version: 1,
            id: "2-5-0".into(),
            index: 5,
            term: 2,
            peers: String::new(),
            configuration: Configuration { servers: Vec::new() },
            configuration_index: 1,
            size: 0,
        };
        let mut out = Vec::new();
        archive::write(&mut out, description, &meta(5), state).expect("written");
        out
    }

    fn refused(bytes: &[u8]) -> String {
        archive::inspect(bytes).expect_err("refused").to_string()
    }

    #[test]
    fn what_was_written_is_read_and_counted() {
        let Contents { meta, rows, bytes, .. } =
            archive::inspect(&archive(&filled(3_000))[..]).expect("whole");
        assert_eq!((meta.version, meta.index, meta.term), (1, 5, 2));
        assert_eq!(rows["KVS"].0, 3_000);
        assert!(rows["KVS"].1 > 3_000_000 && bytes > 3_000_000);
        let empty = archive::inspect(&archive(&State::default())[..]).expect("whole");
        assert!(empty.rows.is_empty());
    }

    #[test]
    fn each_flipped_byte_and_each_cut_is_refused() {
        let whole = archive(&filled(3));
        let mut harmless = 0;
        for at in 0..whole.len() {
            // Bytes of gzip's head say nothing about the content: time, system, flags of speed.
            if (4..10).contains(&at) {
                continue;
            }
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            if archive::inspect(&flipped[..]).is_ok() {
                // Zeros copied from other zeros: what comes out is the same to the last byte.
                assert_eq!(members(&flipped), members(&whole), "byte {at} is flipped");
                harmless += 1;
            }
        }
        assert!(harmless < whole.len() / 10, "{harmless} bytes can be flipped");
        for length in 0..whole.len() {
            assert!(archive::inspect(&whole[..length]).is_err(), "cut to {length}");
        }
        assert!(refused(b"").starts_with("failed to decompress snapshot: "));
        assert!(refused(b"no gzip at all, but text").starts_with("failed to decompress snapshot"));
    }

    /// A tar of these members, compressed.
    fn tarred(members: &[(&str, &[u8])]) -> Vec<u8> {
        let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gzip);
        for (name, bytes) in members {
            let mut header = tar::Header::new_ustar();
            // By hand: the library refuses what an attacker would write.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            tar.append(&header, *bytes).expect("in memory");
        }
        tar.into_inner().expect("in memory").finish().expect("in memory")
    }

    /// The members of an archive of ours.
    fn members(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(archive));
        let entries = tar.entries().expect("a tar");
        entries
            .map(|entry| {
                let mut entry = entry.expect("an entry");
                let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).expect("in memory");
                (name, bytes)
            })
            .collect()
    }

    #[test]
    fn foreign_members_orders_and_contents_are_refused() {
        let whole = members(&archive(&filled(3)));
        let [meta, state, sums] = &whole[..] else { panic!("three members") };
        let member = |(name, bytes): &(String, Vec<u8>)| (name.clone(), bytes.clone());
        let with = |list: Vec<(String, Vec<u8>)>| {
            let list: Vec<(&str, &[u8])> =
                list.iter().map(|(name, bytes)| (&name[..], &bytes[..])).collect();
            refused(&tarred(&list))
        };
        let named = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_owned());
        for (list, said) in [
            (vec![], "it ends before meta.json"),
            (vec![member(state), member(meta), member(sums)], "unexpected file \"state.bin\""),
            (vec![named("../../etc/passwd", b"x")], "unexpected file \"../../etc/passwd\""),
            (vec![member(meta), member(state)], "it ends before SHA256SUMS"),
            (
                vec![member(meta), member(state), member(sums), named("more", b"")],
                "unexpected file \"more\"",
            ),
            (vec![named("meta.json", b"{"), member(state), member(sums)], "not understood"),
            (vec![named("meta.json", &[b' '; 2 << 20])], "more than 1048576 bytes"),
            (
                vec![member(meta), named("state.bin", &vec![0; state.1.len()]), member(sums)],
                "mark of a snapshot",
            ),
            (vec![member(meta), named("state.bin", b"short"), member(sums)], "has 5 bytes, not"),
            (
                vec![member(meta), member(state), named("SHA256SUMS", b"")],
                "hash check failed for \"meta.json\"",
            ),
        ] {
            let text = with(list);
            assert!(text.contains(said), "{text}, not {said}");
            assert!(text.starts_with("failed to read snapshot file: "), "{text}");
        }
        // A description that says another version, with checksums that fit it.
        let text = String::from_utf8_lossy(&meta.1).replace("\"Version\":1", "\"Version\":9");
        assert!(with(vec![named("meta.json", text.as_bytes())]).contains("version 9, not 1"));
    }

    /// A little archive must not unfold to gigabytes before it is refused.
    #[test]
    fn nonsense_that_unfolds_is_refused_early() {
        struct Zeros(u64);
        impl io::Read for Zeros {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                let count = self.0.min(out.len() as u64);
                self.0 -= count;
                out[..count as usize].fill(0);
                Ok(count as usize)
            }
        }
        let mut description = members(&archive(&filled(3)))[0].1.clone();
        let huge = 64_u64 << 20;
        let text = String::from_utf8_lossy(&description).into_owned();
        let size = text.rsplit_once("\"Size\":").expect("last").0;
        description = format!("{size}\"Size\":{huge}}}").into_bytes();
        let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        let mut tar = tar::Builder::new(gzip);
        let mut header = tar::Header::new_ustar();
        header.set_path("meta.json").expect("short");
        header.set_size(description.len() as u64);
        header.set_cksum();
        tar.append(&header, &description[..]).expect("in memory");
        let mut header = tar::Header::new_ustar();
        header.set_path("state.bin").expect("short");
        header.set_size(huge);
        header.set_cksum();
        tar.append(&header, Zeros(huge)).expect("in memory");
        let bomb = tar.into_inner().expect("in memory").finish().expect("in memory");
        assert!(bomb.len() < 1 << 20);

        /// Counts what is asked of the archive.
        struct Counted<'a>(&'a [u8], &'a std::cell::Cell<usize>);
        impl io::Read for Counted<'_> {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                let count = io::Read::read(&mut self.0, out)?;
                self.1.set(self.1.get() + count);
                Ok(count)
            }
        }
        let read = std::cell::Cell::new(0);
        let text = archive::inspect(Counted(&bomb, &read)).expect_err("refused").to_string();
        assert!(text.contains("mark of a snapshot"), "{text}");
        assert!(read.get() <= 64 << 10, "{} of {} bytes were read", read.get(), bomb.len());
        io::sink().write_all(&bomb).expect("nothing fails there");
    }
}

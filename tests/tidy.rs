//! Matters of fact about the tree: what docs/ARCHITECTURE.md names exists, nothing is left over,
//! dependencies point the way the house wants, the released binary carries no simulator.
//! Prints the table of file sizes; does not fail on it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Rust files of ours.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for room in ["src", "agent", "server", "model", "net", "rt", "patches", "tests"] {
        walk(&root().join(room), &mut found);
    }
    found.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    found
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                walk(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

#[test]
fn folders_named_in_the_architecture_exist() {
    let text = read(&root().join("docs/ARCHITECTURE.md"));
    let mut named = 0;
    for word in text.split(['`', ' ', '|', '(', ')', '\n']) {
        if word.ends_with('/') && word.len() > 1 && !word.starts_with("http") && !word.contains('<')
        {
            assert!(
                root().join(word).is_dir(),
                "docs/ARCHITECTURE.md names {word}, which is no folder"
            );
            named += 1;
        }
    }
    assert!(named > 10, "only {named} folders are named");
}

#[test]
fn nothing_is_left_over() {
    // Put together here so that this file does not find itself.
    let words = [["to", "do!("], ["db", "g!("], ["unimple", "mented!("], ["#[ign", "ore"]];
    for path in sources() {
        let text = read(&path);
        for word in words.map(|halves| halves.concat()) {
            assert!(!text.contains(&word), "{} holds {word}", path.display());
        }
    }
}

#[test]
fn every_file_is_reached_by_a_module() {
    for path in sources() {
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        let dir = path.parent().expect("a folder");
        if matches!(name.as_str(), "main" | "lib" | "tidy") || dir.ends_with("bin") {
            continue;
        }
        let (module, parent_dir) = if name == "mod" {
            (
                dir.file_name().and_then(|name| name.to_str()).expect("a name").to_owned(),
                dir.parent(),
            )
        } else {
            (name, Some(dir))
        };
        let parent_dir = parent_dir.expect("a parent");
        let beside = parent_dir.with_extension("rs");
        let candidates = ["mod.rs", "lib.rs", "main.rs"]
            .map(|file| parent_dir.join(file))
            .into_iter()
            .chain([beside]);
        let declared = candidates.filter(|file| file.exists()).any(|file| {
            let text = read(&file);
            text.contains(&format!("mod {module};")) || text.contains(&format!("{module}/mod.rs"))
        });
        let shared = path.ends_with("support/mod.rs") || by_path(&path);
        assert!(declared || shared, "no module declares {}", path.display());
    }
}

/// Whether a test program takes a file of `tests/support` for itself.
fn by_path(path: &Path) -> bool {
    let line =
        format!("#[path = \"../support/{}\"]", path.file_name().unwrap_or_default().display());
    let tests = fs::read_dir(root().join("tests")).expect("a folder");
    tests
        .map(|entry| entry.expect("an entry").path().join("main.rs"))
        .any(|main| main.exists() && read(&main).contains(&line))
}

/// Which of our crates and of the shaping ones each crate may use (docs/ARCHITECTURE.md).
#[test]
fn dependencies_point_one_way() {
    let rules: [(&str, &[&str]); 6] = [
        (
            "model",
            &["tokio", "rt", "net", "state", "server", "agent", "foca", "openraft", "redb", "axum"],
        ),
        ("rt", &["model", "net", "state", "server", "agent"]),
        ("net", &["state", "server", "agent", "openraft", "foca", "redb"]),
        ("server/state", &["tokio", "rt", "net", "server", "agent", "openraft", "redb", "rand"]),
        ("server", &["agent", "foca", "axum", "hickory-proto"]),
        ("agent", &["server", "state", "openraft"]),
    ];
    for (room, banned) in rules {
        let manifest = read(&root().join(room).join("Cargo.toml"));
        let used: Vec<&str> = manifest
            .split("[dependencies]")
            .nth(1)
            .expect("dependencies")
            .split("\n[")
            .next()
            .expect("a section")
            .lines()
            .filter_map(|line| line.split(['.', ' ', '=']).next())
            .collect();
        for name in banned {
            assert!(!used.contains(name), "{room} must not use {name}");
        }
    }
}

/// Only tests/sim asks for the simulator, and no binary of ours has it. Each binary that has it
/// holds the text with which it refuses to serve.
#[test]
fn the_binary_carries_no_simulator_and_no_planted_bug() {
    let text = "this build carries the simulator";
    assert!(read(&root().join("server/src/start.rs")).contains(text), "the text has changed");
    for binary in [env!("CARGO_BIN_EXE_muster"), env!("CARGO_BIN_EXE_agent")] {
        let bytes = fs::read(binary).expect("the binary was built for this test");
        let found = bytes.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(!found, "{binary} was built with the features of tests/sim (--exclude sim)");
    }
    for room in [".", "model", "rt", "net", "server/state", "server", "agent"] {
        let manifest = read(&root().join(room).join("Cargo.toml"));
        for line in manifest.lines().filter(|line| line.contains("features = [")) {
            let asks = line.contains("\"sim\"") || line.contains("\"planted\"");
            assert!(!asks, "{room}/Cargo.toml: {line}");
        }
        assert!(!manifest.contains("default = ["), "{room} has default features");
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "the table is for people")]
fn sizes() {
    let mut rooms: BTreeMap<String, (usize, usize, usize)> = BTreeMap::new();
    let mut large = Vec::new();
    for path in sources() {
        let lines = read(&path).lines().count();
        let relative = path.strip_prefix(root()).expect("below the root");
        let room: PathBuf = relative.parent().expect("a folder").to_path_buf();
        let entry = rooms.entry(room.display().to_string()).or_default();
        entry.0 += 1;
        entry.1 += lines;
        entry.2 = entry.2.max(lines);
        if lines > 500 {
            large.push(format!("{lines} {}", relative.display()));
        }
    }
    println!("{:<28} {:>5} {:>7} {:>7}", "folder", "files", "lines", "largest");
    for (room, (files, lines, largest)) in &rooms {
        println!("{room:<28} {files:>5} {lines:>7} {largest:>7}");
    }
    println!("past 500 lines: {large:#?}");
}

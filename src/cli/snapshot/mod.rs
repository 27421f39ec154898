//! `snapshot save`, `snapshot restore`, `snapshot inspect`: archives of the whole state.

mod inspect;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use reqwest::Method;
use serde::Deserialize;
use server::raft::archive::{self, Contents};

use super::client::Agent;
use super::flags::{Flag, Given, Kind, flag};
use super::{Command, Done, Failure, out};

static SAVE: &[Flag] = &[flag(
    "append-filename",
    Kind::Value,
    "Add to the file's name, before its extension: version, dc, or both with a comma.",
)];

/// The verbs.
pub(super) const COMMANDS: [Command; 3] = [
    Command {
        name: "snapshot inspect",
        summary: "Checks an archive and shows what is in it; asks no agent.",
        arguments: "<file>",
        flags: || inspect::FLAGS.to_vec(),
        client: false,
        run: inspect::run,
    },
    Command {
        name: "snapshot restore",
        summary: "Puts the state of an archive in the place of the cluster's.",
        arguments: "<file>",
        flags: Vec::new,
        client: true,
        run: restore,
    },
    Command {
        name: "snapshot save",
        summary: "Saves the whole state of the cluster in an archive, and checks it.",
        arguments: "<file>",
        flags: || SAVE.to_vec(),
        client: true,
        run: save,
    },
];

/// The one argument.
fn file(given: &Given) -> Result<PathBuf, Failure> {
    match given.rest.as_slice() {
        [] => Err("Missing FILE argument".into()),
        [file] if !file.is_empty() => Ok(PathBuf::from(file)),
        rest => Err(format!("Too many arguments (expected 1, got {})", rest.len()).into()),
    }
}

/// Reads and checks an archive.
fn contents(path: &Path) -> Result<Contents, Failure> {
    let file = File::open(path)
        .map_err(|error| format!("cannot open archive {}: {error}", path.display()))?;
    archive::inspect(io::BufReader::new(file)).map_err(|error| {
        format!("archive {} is damaged or none of ours: {error}", path.display()).into()
    })
}

fn save(given: &Given) -> Done {
    let agent = Agent::new(given)?;
    let mut path = file(given)?;
    if let Some(additions) = given.get("append-filename") {
        path = appended(&path, additions, &agent)?;
    }
    let mut unverified = OsString::from(&path);
    unverified.push(".unverified");
    let unverified = PathBuf::from(unverified);
    let saved = download(&agent, &unverified).and_then(|()| {
        let contents = contents(&unverified)?;
        keep(&unverified, &path)
            .map_err(|error| format!("cannot move the archive to {}: {error}", path.display()))?;
        Ok(contents)
    });
    let contents = saved.inspect_err(|_| {
        // What is no archive must not be taken for one.
        let _ = std::fs::remove_file(&unverified);
    })?;
    out::line(format!("Saved and verified snapshot to index {}", contents.meta.index));
    Ok(())
}

fn download(agent: &Agent, path: &Path) -> Done {
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        // It holds everything that the cluster knows.
        options.mode(0o600);
    }
    let failed = |error: io::Error| format!("cannot write {}: {error}", path.display());
    let mut file = options.open(path).map_err(failed)?;
    agent.download("/v1/snapshot", &mut file, &failed)?;
    file.sync_all().map_err(failed)?;
    Ok(())
}

/// The name and what it names are on the disk when this returns.
fn keep(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    let directory = to.parent().filter(|directory| !directory.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Asked {
    config: AskedConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AskedConfig {
    datacenter: String,
    version: String,
}

/// The file's name with the parts that were asked for, always version first.
fn appended(path: &Path, additions: &str, agent: &Agent) -> Result<PathBuf, Failure> {
    let additions: Vec<&str> = additions.split(',').map(str::trim).collect();
    if let Some(other) = additions.iter().find(|part| !matches!(**part, "version" | "dc")) {
        return Err(format!("-append-filename {other}: say version, dc, or version,dc").into());
    }
    let AskedConfig { datacenter, version } = agent.get::<Asked>("/v1/agent/self", &[])?.config;
    let mut parts = Vec::new();
    if additions.contains(&"version") {
        parts.push(version);
    }
    if additions.contains(&"dc") {
        parts.push(datacenter);
    }
    Ok(renamed(path, &parts))
}

fn renamed(path: &Path, parts: &[String]) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    for part in parts {
        name.push("-");
        name.push(part);
    }
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

fn restore(given: &Given) -> Done {
    let path = file(given)?;
    let file = File::open(&path)
        .map_err(|error| format!("cannot open archive {}: {error}", path.display()))?;
    Agent::new(given)?.upload(Method::PUT, "/v1/snapshot", file)?;
    out::line("Restored snapshot");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stand_before_the_extension() {
        for (path, parts, name) in [
            ("/a/b.snap", &["1.2", "dc1"][..], "/a/b-1.2-dc1.snap"),
            ("b.snap", &["dc1"], "b-dc1.snap"),
            ("b", &["1.2"], "b-1.2"),
            ("b.snap", &[], "b.snap"),
        ] {
            let parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
            assert_eq!(renamed(Path::new(path), &parts), Path::new(name));
        }
    }
}

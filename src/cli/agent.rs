//! `agent`: settings, then the process itself.

use std::fs::File;
use std::path::{Path, PathBuf};

use model::NodeId;
use rt::Rng;

use super::flags::Given;
use super::{Command, Done, Failure, no_arguments, out};
use crate::config::{self, Machine, Settings, data_dir};
use crate::{log, process};

/// The verb.
pub(super) const COMMAND: Command = Command {
    name: "agent",
    summary: "Runs an agent, with -server also a server.",
    arguments: "",
    flags: config::flags,
    client: false,
    run,
};

fn run(given: &Given) -> Done {
    no_arguments(given)?;
    let rng = Rng::from_os();
    // Held to the end of the process.
    let (settings, _lock) = settings(given, &rng)?;
    let level = log::start(&settings.agent.reloadable.log_level, settings.log_json);
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let pid_file = settings.pid_file.clone();
    if let Some(path) = &pid_file {
        std::fs::write(path, std::process::id().to_string())
            .map_err(|error| format!("cannot write pid_file {}: {error}", path.display()))?;
    }
    let again = given.clone();
    let reload = move || {
        let tree = config::load(&again)?;
        config::reloadable(&tree)
    };
    let ended = process::run(settings, rng, &level, Box::new(reload));
    if let Some(path) = &pid_file {
        let _ = std::fs::remove_file(path);
    }
    match ended {
        Ok(0) => Ok(()),
        Ok(code) => Err(Failure::Code(code)),
        Err(error) => Err(error.into()),
    }
}

/// Everything that the process needs, and the lock of its data directory.
fn settings(given: &Given, rng: &Rng) -> Result<(Settings, Option<File>), String> {
    let tree = config::load(given)?;
    let dir = tree.text("data_dir").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let dir = dir.as_deref();
    let (mut lock, mut was_reset) = (None, false);
    let identity = |configured: Option<&str>| {
        lock = dir.map(|dir: &Path| data_dir::lock(dir)).transpose()?;
        let retired = dir.map(server::raft::retired).transpose();
        let retired = retired.map_err(|error| error.to_string())?.flatten();
        was_reset = retired.is_some();
        let fresh = || NodeId::from_random(rng.bytes16());
        data_dir::node_id(dir, configured, &retired.unwrap_or_default(), fresh)
    };
    let mut settings = config::build(&tree, given.is("dev"), &Machine::here()?, identity)?;
    // A server that was reset has no data of its own: it waits for the cluster that has it.
    if was_reset && settings.wait_to_be_added() {
        settings.warnings.push(
            "bootstrap and bootstrap_expect are ignored: this server's Raft log was once reset, so \
             it waits for the leader to add it"
                .to_owned(),
        );
    }
    Ok((settings, lock))
}

/// The table of addresses that a started agent prints.
pub(crate) fn banner(lines: &[(String, String)], hints: &[String]) {
    out::line("==> Muster agent running!");
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in lines {
        out::line(format!("    {name:>width$}: {value}"));
    }
    if !hints.is_empty() {
        out::line("");
        out::line("==> Try:");
        for hint in hints {
            out::line(format!("    {hint}"));
        }
    }
    out::line("");
    out::line("==> Log data will now stream in as it occurs:");
    out::line("");
}

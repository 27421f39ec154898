//! `operator raft reset`: gives up a damaged log of a stopped server.

use std::path::Path;

use super::flags::{Flag, Given, Kind, flag};
use super::{Command, Done, no_arguments, out};
use crate::config::data_dir;

static DATA_DIR: Flag = flag("data-dir", Kind::Value, "Data directory of the stopped server.");
static FORCE: Flag = flag(
    "force",
    Kind::Bool,
    "Also give up a log that is not damaged. Another server must have its data.",
);

/// The verb.
pub(super) const COMMAND: Command = Command {
    name: "operator raft reset",
    summary: "Gives up a damaged Raft log, so that this server rejoins as a new one.",
    arguments: "",
    flags: || vec![DATA_DIR, FORCE],
    client: false,
    run,
};

fn run(given: &Given) -> Done {
    no_arguments(given)?;
    let Some(dir) = given.get("data-dir").filter(|dir| !dir.is_empty()) else {
        return Err("name the data directory of the stopped server with -data-dir".into());
    };
    let dir = Path::new(dir);
    if !dir.is_dir() {
        return Err(format!("{} is no directory", dir.display()).into());
    }
    // Held to the end: no agent starts meanwhile.
    let _lock = data_dir::lock(dir)?;
    let done = server::raft::reset(dir, given.is("force")).map_err(|error| error.to_string())?;
    match &done.damage {
        Some(damage) => out::line(format!("Damage found: {damage}")),
        None => out::line("No damage found; given up by -force."),
    }
    out::line(format!("The log was moved to {}", done.aside.display()));
    if let Some(id) = done.retired {
        out::line(format!("Node id {id} is retired; the next start takes a new one."));
    }
    out::line(
        "Start the agent again with -retry-join: the leader adds it under its name, sends it all \
         data, and makes it a voter when it has caught up.",
    );
    out::line(
        "Until then it does not vote, and its old id counts as a server that is down: the others \
         must have a majority without it.",
    );
    Ok(())
}

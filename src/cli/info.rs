//! `info`: facts about the agent and its server.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::client::Agent;
use super::flags::Given;
use super::{Command, Done, no_arguments, out};

/// The verb.
pub(super) const COMMAND: Command = Command {
    name: "info",
    summary: "Shows facts about the agent for people who operate it.",
    arguments: "",
    flags: Vec::new,
    client: true,
    run,
};

#[derive(Deserialize)]
struct Myself {
    #[serde(rename = "Stats")]
    stats: BTreeMap<String, BTreeMap<String, String>>,
}

fn run(given: &Given) -> Done {
    no_arguments(given)?;
    let myself: Myself = Agent::new(given)?.get("/v1/agent/self", &[])?;
    for (group, facts) in &myself.stats {
        out::line(format!("{group}:"));
        for (name, value) in facts {
            out::line(format!("\t{name} = {value}"));
        }
    }
    Ok(())
}

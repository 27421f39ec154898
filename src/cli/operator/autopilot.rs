//! `operator autopilot`: who looks after the servers, and what it sees.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use model::duration::GoDuration;
use reqwest::Method;
use serde::{Deserialize, Serialize};

use super::super::client::{self, Agent};
use super::super::flags::{Flag, Given, Kind, flag, parse_bool};
use super::super::{Command, Done, Failure, no_arguments, out};

const CONFIGURATION: &str = "/v1/operator/autopilot/configuration";

static SET: [Flag; 8] = [
    flag("cleanup-dead-servers", Kind::Value, "true or false: remove servers that have failed."),
    flag("max-trailing-logs", Kind::Value, "Entries by which a healthy server may trail."),
    flag("min-quorum", Kind::Value, "Voters that a clean-up must leave."),
    flag("last-contact-threshold", Kind::Value, "Silence after which a server is unhealthy."),
    flag("server-stabilization-time", Kind::Value, "How long a server is healthy before it votes."),
    flag("redundancy-zone-tag", Kind::Value, "Kept, without effect."),
    flag("disable-upgrade-migration", Kind::Value, "Kept, without effect."),
    flag("upgrade-version-tag", Kind::Value, "Kept, without effect."),
];
static FORMAT: Flag = flag("format", Kind::Value, "pretty or json. Default pretty.");

/// The verbs.
pub(in crate::cli) const COMMANDS: [Command; 3] = [
    Command {
        name: "operator autopilot get-config",
        summary: "Shows autopilot's configuration.",
        arguments: "",
        flags: Vec::new,
        client: true,
        run: get_config,
    },
    Command {
        name: "operator autopilot set-config",
        summary: "Changes those parts of autopilot's configuration that are named.",
        arguments: "",
        flags: || SET.to_vec(),
        client: true,
        run: set_config,
    },
    Command {
        name: "operator autopilot state",
        summary: "Shows what autopilot sees of the servers.",
        arguments: "",
        flags: || vec![FORMAT],
        client: true,
        run: state,
    },
];

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Configuration {
    cleanup_dead_servers: bool,
    last_contact_threshold: String,
    max_trailing_logs: u64,
    min_quorum: u64,
    server_stabilization_time: String,
    redundancy_zone_tag: String,
    disable_upgrade_migration: bool,
    upgrade_version_tag: String,
    modify_index: u64,
}

fn read(agent: &Agent) -> Result<Configuration, Failure> {
    agent.get(CONFIGURATION, &[]).map_err(|error| {
        Failure::Verbatim(format!("Error querying Autopilot configuration: {error}"))
    })
}

fn get_config(given: &Given) -> Done {
    no_arguments(given)?;
    let found = read(&Agent::new(given)?)?;
    out::line(format!("CleanupDeadServers = {}", found.cleanup_dead_servers));
    out::line(format!("LastContactThreshold = {}", found.last_contact_threshold));
    out::line(format!("MaxTrailingLogs = {}", found.max_trailing_logs));
    out::line(format!("MinQuorum = {}", found.min_quorum));
    out::line(format!("ServerStabilizationTime = {}", found.server_stabilization_time));
    out::line(format!("RedundancyZoneTag = {:?}", found.redundancy_zone_tag));
    out::line(format!("DisableUpgradeMigration = {}", found.disable_upgrade_migration));
    out::line(format!("UpgradeVersionTag = {:?}", found.upgrade_version_tag));
    Ok(())
}

fn set_config(given: &Given) -> Done {
    no_arguments(given)?;
    let bool = |name: &str, to: &mut bool| -> Done {
        if let Some(text) = given.get(name) {
            *to = parse_bool(text).ok_or_else(|| invalid(text, name, "say true or false"))?;
        }
        Ok(())
    };
    let duration = |name: &str, to: &mut String| -> Done {
        if let Some(text) = given.get(name) {
            let parsed = GoDuration::parse(text);
            *to = parsed.map_err(|error| invalid(text, name, &error.to_string()))?.to_string();
        }
        Ok(())
    };
    let text = |name: &str, to: &mut String| {
        if let Some(text) = given.get(name) {
            text.clone_into(to);
        }
    };
    let agent = Agent::new(given)?;
    let mut row = read(&agent)?;
    bool("cleanup-dead-servers", &mut row.cleanup_dead_servers)?;
    bool("disable-upgrade-migration", &mut row.disable_upgrade_migration)?;
    duration("last-contact-threshold", &mut row.last_contact_threshold)?;
    duration("server-stabilization-time", &mut row.server_stabilization_time)?;
    text("redundancy-zone-tag", &mut row.redundancy_zone_tag);
    text("upgrade-version-tag", &mut row.upgrade_version_tag);
    row.max_trailing_logs = given.number("max-trailing-logs")?.unwrap_or(row.max_trailing_logs);
    row.min_quorum = given.number("min-quorum")?.unwrap_or(row.min_quorum);

    let index = row.modify_index.to_string();
    let body = serde_json::to_vec(&row).map_err(|error| {
        Failure::Verbatim(format!("Error setting Autopilot configuration: {error}"))
    })?;
    let answer = agent.put(CONFIGURATION, &[("cas", &index)], Some(body)).map_err(|error| {
        Failure::Verbatim(format!("Error setting Autopilot configuration: {error}"))
    })?;
    if client::parse(&answer)? {
        out::line("Configuration updated!");
        return Ok(());
    }
    // Somebody else wrote it between our reading and writing.
    out::line("Configuration could not be atomically updated, please try again");
    Err(Failure::Code(1))
}

fn invalid(text: &str, name: &str, why: &str) -> String {
    format!("invalid value \"{text}\" for flag -{name}: {why}")
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    healthy: bool,
    failure_tolerance: u64,
    optimistic_failure_tolerance: u64,
    servers: BTreeMap<String, Server>,
    leader: String,
    voters: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Server {
    name: String,
    address: String,
    version: String,
    status: String,
    node_type: String,
    node_status: String,
    healthy: bool,
    last_contact: String,
    last_term: u64,
    last_index: u64,
    #[serde(default)]
    meta: BTreeMap<String, String>,
}

fn state(given: &Given) -> Done {
    no_arguments(given)?;
    let format = given.get("format").unwrap_or("pretty");
    if !matches!(format, "pretty" | "json") {
        return Err(format!("Invalid format: {format}, choose pretty or json").into());
    }
    let body = Agent::new(given)?
        .ok(Method::GET, "/v1/operator/autopilot/state", &[], None)
        .map_err(|error| Failure::Verbatim(format!("Error querying Autopilot state: {error}")))?;
    if format == "json" {
        out::line(String::from_utf8_lossy(&model::api::json::indented(&body)));
        return Ok(());
    }
    out::line(pretty(&client::parse(&body)?).trim_end());
    Ok(())
}

fn pretty(state: &State) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "Healthy:                      {}", state.healthy);
    let _ = writeln!(text, "Failure Tolerance:            {}", state.failure_tolerance);
    let optimistic = state.optimistic_failure_tolerance;
    let _ = writeln!(text, "Optimistic Failure Tolerance: {optimistic}");
    let _ = writeln!(text, "Leader:                       {}", state.leader);
    text.push_str("Voters:\n");
    for voter in &state.voters {
        let _ = writeln!(text, "   {voter}");
    }
    text.push_str("Servers:\n");
    for (id, server) in &state.servers {
        let _ = writeln!(text, "   {id}");
        for (title, value) in [
            ("Name:", &server.name),
            ("Address:", &server.address),
            ("Version:", &server.version),
            ("Status:", &server.status),
            ("Node Type:", &server.node_type),
            ("Node Status:", &server.node_status),
            ("Healthy:", &server.healthy.to_string()),
            ("Last Contact:", &server.last_contact),
            ("Last Term:", &server.last_term.to_string()),
            ("Last Index:", &server.last_index.to_string()),
        ] {
            let _ = writeln!(text, "      {title:<16} {value}");
        }
        if !server.meta.is_empty() {
            text.push_str("      Meta\n");
        }
        for (key, value) in &server.meta {
            let _ = writeln!(text, "         {key:?}: {value:?}");
        }
    }
    text
}

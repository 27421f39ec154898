//! `members`: who is in the cluster, as this agent sees it.

use std::collections::BTreeMap;

use regex::Regex;
use serde::Deserialize;

use super::client::Agent;
use super::flags::{Flag, Given, Kind, flag};
use super::{Command, Done, Failure, no_arguments, out};

/// The verb.
pub(super) const COMMAND: Command = Command {
    name: "members",
    summary: "Lists the members of the cluster, servers first.",
    arguments: "",
    flags: || FLAGS.to_vec(),
    client: true,
    run,
};

static FLAGS: &[Flag] = &[
    flag("detailed", Kind::Bool, "Show all tags."),
    flag("wan", Kind::Bool, "Show the servers of all datacenters."),
    flag(
        "status",
        Kind::Value,
        "Show only members whose status (alive, leaving, left, failed) matches this regular expression.",
    ),
    flag("segment", Kind::Value, "Accepted and ignored."),
    flag("filter", Kind::Value, "Filter expression over members."),
];

#[derive(Deserialize)]
struct Member {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Addr")]
    address: String,
    #[serde(rename = "Port")]
    port: u16,
    #[serde(rename = "Tags")]
    tags: BTreeMap<String, String>,
    #[serde(rename = "Status")]
    status: u8,
}

impl Member {
    fn tag(&self, name: &str) -> &str {
        self.tags.get(name).map_or("", String::as_str)
    }

    fn status(&self) -> &'static str {
        match self.status {
            1 => "alive",
            2 => "leaving",
            3 => "left",
            4 => "failed",
            _ => "none",
        }
    }

    fn kind(&self) -> &'static str {
        match self.tag("role") {
            "consul" => "server",
            "node" => "client",
            _ => "unknown",
        }
    }

    fn place(&self) -> String {
        match self.address.parse() {
            Ok(ip) => std::net::SocketAddr::new(ip, self.port).to_string(),
            Err(_) => format!("{}:{}", self.address, self.port),
        }
    }
}

fn run(given: &Given) -> Done {
    no_arguments(given)?;
    let mut query = Vec::new();
    if given.is("wan") {
        query.push(("wan", "1"));
    }
    if let Some(filter) = given.get("filter") {
        query.push(("filter", filter));
    }
    let members: Option<Vec<Member>> = Agent::new(given)?.get("/v1/agent/members", &query)?;
    let mut members = members.unwrap_or_default();
    if let Some(wanted) = given.get("status") {
        let wanted = Regex::new(wanted)
            .map_err(|error| format!("Failed to compile status regexp: {error}"))?;
        members.retain(|member| wanted.is_match(member.status()));
    }
    if members.is_empty() {
        return Err(Failure::Code(2));
    }
    members.sort_by(|a, b| (a.kind() != "server", &a.name).cmp(&(b.kind() != "server", &b.name)));
    let detailed = given.is("detailed");
    let mut rows = vec![header(detailed)];
    rows.extend(members.iter().map(|member| row(member, detailed)));
    out::line(out::table(&rows));
    Ok(())
}

fn header(detailed: bool) -> Vec<String> {
    let names: &[&str] = if detailed {
        &["Node", "Address", "Status", "Tags"]
    } else {
        &["Node", "Address", "Status", "Type", "Build", "Protocol", "DC", "Partition", "Segment"]
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn row(member: &Member, detailed: bool) -> Vec<String> {
    let mut row = vec![member.name.clone(), member.place(), member.status().to_owned()];
    if detailed {
        let tags: Vec<String> =
            member.tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
        row.push(tags.join(","));
        return row;
    }
    let build = member.tag("build").split(':').next().unwrap_or("");
    let segment = if member.kind() == "server" { "<all>" } else { "<default>" };
    for cell in [
        member.kind(),
        if build.is_empty() { "< 0.3" } else { build },
        member.tag("vsn"),
        member.tag("dc"),
        "default",
        segment,
    ] {
        row.push(cell.to_owned());
    }
    row
}

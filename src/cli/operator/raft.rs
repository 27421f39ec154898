//! `operator raft`: who belongs to the servers' own cluster.

use reqwest::Method;
use serde::Deserialize;

use super::super::client::Agent;
use super::super::flags::{Flag, Given, Kind, flag};
use super::super::{Command, Done, Failure, no_arguments, out};

static ID: Flag = flag("id", Kind::Value, "Id of the server.");
static ADDRESS: Flag = flag("address", Kind::Value, "Address of the server, ip:port.");

/// The verbs.
pub(in crate::cli) const COMMANDS: [Command; 3] = [
    Command {
        name: "operator raft list-peers",
        summary: "Lists the servers of the Raft configuration.",
        arguments: "",
        flags: Vec::new,
        client: true,
        run: list_peers,
    },
    Command {
        name: "operator raft remove-peer",
        summary: "Removes a server from the Raft configuration.",
        arguments: "",
        flags: || vec![ID, ADDRESS],
        client: true,
        run: remove_peer,
    },
    Command {
        name: "operator raft transfer-leader",
        summary: "Hands leadership to another server.",
        arguments: "",
        flags: || vec![ID],
        client: true,
        run: transfer_leader,
    },
];

#[derive(Deserialize)]
struct Configuration {
    #[serde(rename = "Servers")]
    servers: Vec<Server>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Server {
    #[serde(rename = "ID")]
    id: String,
    node: String,
    address: String,
    leader: bool,
    voter: bool,
    protocol_version: String,
    #[serde(default)]
    last_index: u64,
}

fn list_peers(given: &Given) -> Done {
    no_arguments(given)?;
    let configuration: Configuration = Agent::new(given)?
        .get("/v1/operator/raft/configuration", &[])
        .map_err(|error| Failure::Verbatim(format!("Error getting peers: {error}")))?;
    let leader_index =
        configuration.servers.iter().find(|server| server.leader).map(|server| server.last_index);
    let header = [
        "Node",
        "ID",
        "Address",
        "State",
        "Voter",
        "RaftProtocol",
        "Commit Index",
        "Trails Leader By",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for server in &configuration.servers {
        let trails = match leader_index {
            _ if server.leader => "-".to_owned(),
            None => "-".to_owned(),
            Some(index) => match index.saturating_sub(server.last_index) {
                1 => "1 commit".to_owned(),
                behind => format!("{behind} commits"),
            },
        };
        rows.push(vec![
            server.node.clone(),
            server.id.clone(),
            server.address.clone(),
            if server.leader { "leader" } else { "follower" }.to_owned(),
            server.voter.to_string(),
            server.protocol_version.clone(),
            server.last_index.to_string(),
            trails,
        ]);
    }
    out::line(out::table(&rows));
    Ok(())
}

fn unremoved(why: &str) -> Failure {
    Failure::Verbatim(format!("Error removing peer: {why}"))
}

fn remove_peer(given: &Given) -> Done {
    no_arguments(given)?;
    let (name, value) = match (given.get("id"), given.get("address")) {
        (Some(id), None) => ("id", id),
        (None, Some(address)) => ("address", address),
        (None, None) => {
            return Err(unremoved("an address or id is required for the peer to remove"));
        }
        (Some(_), Some(_)) => {
            return Err(unremoved("cannot give both an address and id"));
        }
    };
    Agent::new(given)?
        .ok(Method::DELETE, "/v1/operator/raft/peer", &[(name, value)], None)
        .map_err(|error| unremoved(&error))?;
    out::line(format!("Removed peer with {name} \"{value}\""));
    Ok(())
}

fn transfer_leader(given: &Given) -> Done {
    no_arguments(given)?;
    let query: Vec<(&str, &str)> = given.get("id").map(|id| ("id", id)).into_iter().collect();
    let agent = Agent::new(given)?;
    agent
        .ok(Method::POST, "/v1/operator/raft/transfer-leader", &query, Some(Vec::new()))
        .map_err(|error| Failure::Verbatim(format!("Error transferring leadership: {error}")))?;
    out::line("Success");
    Ok(())
}

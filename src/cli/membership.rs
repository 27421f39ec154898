//! `join`, `leave`, `force-leave`, `reload`: orders to the agent.

use super::client::{Agent, escape};
use super::flags::{Flag, Given, Kind, flag};
use super::{Command, Done, no_arguments, out};

static WAN: Flag = flag("wan", Kind::Bool, "Over the WAN instead of the LAN.");
static PRUNE: Flag = flag("prune", Kind::Bool, "Forget the member at once.");

/// The verbs.
pub(super) const COMMANDS: [Command; 4] = [
    Command {
        name: "join",
        summary: "Makes the agent join the cluster of the addresses.",
        arguments: "<address>…",
        flags: || vec![WAN],
        client: true,
        run: join,
    },
    Command {
        name: "leave",
        summary: "Makes the agent leave the cluster and stop.",
        arguments: "",
        flags: Vec::new,
        client: true,
        run: leave,
    },
    Command {
        name: "force-leave",
        summary: "Turns a failed member into one that left.",
        arguments: "<node>",
        flags: || vec![PRUNE, WAN],
        client: true,
        run: force_leave,
    },
    Command {
        name: "reload",
        summary: "Makes the agent read its configuration again.",
        arguments: "",
        flags: Vec::new,
        client: true,
        run: reload,
    },
];

fn join(given: &Given) -> Done {
    if given.rest.is_empty() {
        return Err("name at least one address to join".into());
    }
    let agent = Agent::new(given)?;
    let query: &[(&str, &str)] = if given.is("wan") { &[("wan", "1")] } else { &[] };
    let mut joined = 0_usize;
    for address in &given.rest {
        let path = format!("/v1/agent/join/{}", escape(address.as_bytes(), false));
        match agent.put(&path, query, None) {
            Ok(_) => joined += 1,
            Err(error) => out::error(format!("Error joining address '{address}': {error}")),
        }
    }
    if joined == 0 {
        return Err("Failed to join any nodes.".into());
    }
    out::line(format!("Successfully joined cluster by contacting {joined} nodes."));
    Ok(())
}

fn leave(given: &Given) -> Done {
    no_arguments(given)?;
    Agent::new(given)?.put("/v1/agent/leave", &[], None)?;
    out::line("Graceful leave complete");
    Ok(())
}

fn force_leave(given: &Given) -> Done {
    let [name] = given.rest.as_slice() else {
        return Err("name exactly one node".into());
    };
    let mut query = Vec::new();
    if given.is("prune") {
        query.push(("prune", ""));
    }
    if given.is("wan") {
        query.push(("wan", ""));
    }
    let path = format!("/v1/agent/force-leave/{}", escape(name.as_bytes(), false));
    Agent::new(given)?.put(&path, &query, None)?;
    Ok(())
}

fn reload(given: &Given) -> Done {
    no_arguments(given)?;
    Agent::new(given)?.put("/v1/agent/reload", &[], None)?;
    out::line("Configuration reload triggered");
    Ok(())
}

//! `catalog`: what the servers know of nodes and services.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::client::{Agent, escape};
use super::flags::{Flag, Given, Kind, flag};
use super::{Command, Done, no_arguments, out};

static NODES: &[Flag] = &[
    flag("detailed", Kind::Bool, "Show tagged addresses and metadata too."),
    flag("near", Kind::Value, "Sort by distance from this node."),
    flag("node-meta", Kind::List, "Only nodes with this metadata, key=value."),
    flag("service", Kind::Value, "Only nodes that run this service."),
    flag("filter", Kind::Value, "Filter expression."),
];
static SERVICES: &[Flag] = &[
    flag("node", Kind::Value, "Only services of this node."),
    flag("node-meta", Kind::List, "Only services on nodes with this metadata, key=value."),
    flag("tags", Kind::Bool, "Show tags too."),
];

/// Blanks between names and tags (spec/agent.md §36).
const TAGS_GAP: usize = 6;

/// The verbs.
pub(super) const COMMANDS: [Command; 3] = [
    Command {
        name: "catalog datacenters",
        summary: "Lists the datacenters, nearest first.",
        arguments: "",
        flags: Vec::new,
        client: true,
        run: datacenters,
    },
    Command {
        name: "catalog nodes",
        summary: "Lists the nodes.",
        arguments: "",
        flags: || NODES.to_vec(),
        client: true,
        run: nodes,
    },
    Command {
        name: "catalog services",
        summary: "Lists the services.",
        arguments: "",
        flags: || SERVICES.to_vec(),
        client: true,
        run: services,
    },
];

fn datacenters(given: &Given) -> Done {
    no_arguments(given)?;
    let names: Vec<String> = Agent::new(given)?.get("/v1/catalog/datacenters", &[])?;
    for name in names {
        out::line(name);
    }
    Ok(())
}

/// A node in either of the two shapes that the catalog gives it.
#[derive(Deserialize)]
struct Node {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Node")]
    node: String,
    #[serde(rename = "Address")]
    address: String,
    #[serde(rename = "Datacenter")]
    datacenter: String,
    #[serde(rename = "TaggedAddresses", default)]
    tagged_addresses: Option<BTreeMap<String, String>>,
    #[serde(rename = "Meta", alias = "NodeMeta", default)]
    meta: Option<BTreeMap<String, String>>,
}

fn nodes(given: &Given) -> Done {
    no_arguments(given)?;
    let meta = meta_pairs(given)?;
    let mut query: Vec<(&str, &str)> =
        meta.iter().map(|pair| ("node-meta", pair.as_str())).collect();
    for name in ["near", "filter"] {
        if let Some(value) = given.get(name) {
            query.push((name, value));
        }
    }
    let path = match given.get("service") {
        Some(service) => format!("/v1/catalog/service/{}", escape(service.as_bytes(), false)),
        None => "/v1/catalog/nodes".to_owned(),
    };
    let mut nodes: Vec<Node> = Agent::new(given)?.get(&path, &query)?;
    nodes.sort_by(|a, b| a.node.cmp(&b.node));
    nodes.dedup_by(|a, b| a.node == b.node);
    if nodes.is_empty() {
        out::error("No nodes match the given query - try expanding your search.");
        return Ok(());
    }
    let detailed = given.is("detailed");
    let mut header =
        vec!["Node".to_owned(), "ID".to_owned(), "Address".to_owned(), "DC".to_owned()];
    if detailed {
        header.extend(["TaggedAddresses".to_owned(), "Meta".to_owned()]);
    }
    let mut rows = vec![header];
    for node in &nodes {
        let short = node.id.split('-').next().unwrap_or("");
        let id = if detailed { &node.id } else { short };
        let mut row =
            vec![node.node.clone(), id.to_owned(), node.address.clone(), node.datacenter.clone()];
        if detailed {
            row.push(pairs(node.tagged_addresses.as_ref()));
            row.push(pairs(node.meta.as_ref()));
        }
        rows.push(row);
    }
    out::line(out::table(&rows));
    Ok(())
}

fn pairs(map: Option<&BTreeMap<String, String>>) -> String {
    let pairs: Vec<String> =
        map.into_iter().flatten().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(", ")
}

fn meta_pairs(given: &Given) -> Result<Vec<String>, String> {
    given
        .list("node-meta")
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) => Ok(format!("{name}:{value}")),
            None => Err(format!("-node-meta {pair}: say key=value")),
        })
        .collect()
}

#[derive(Deserialize)]
struct NodeServices {
    #[serde(rename = "Services", default)]
    services: Option<BTreeMap<String, NodeService>>,
}

#[derive(Deserialize)]
struct NodeService {
    #[serde(rename = "Service")]
    name: String,
    #[serde(rename = "Tags", default)]
    tags: Option<Vec<String>>,
}

fn services(given: &Given) -> Done {
    no_arguments(given)?;
    let agent = Agent::new(given)?;
    let meta = meta_pairs(given)?;
    let query: Vec<(&str, &str)> = meta.iter().map(|pair| ("node-meta", pair.as_str())).collect();
    let services: BTreeMap<String, Vec<String>> = match given.get("node") {
        Some(node) => {
            let path = format!("/v1/catalog/node/{}", escape(node.as_bytes(), false));
            let answer: Option<NodeServices> = agent.get(&path, &query)?;
            let mut services = BTreeMap::<String, Vec<String>>::new();
            for service in answer.and_then(|answer| answer.services).into_iter().flatten() {
                services
                    .entry(service.1.name)
                    .or_default()
                    .extend(service.1.tags.unwrap_or_default());
            }
            services
        }
        None => agent.get("/v1/catalog/services", &query)?,
    };
    if !given.is("tags") {
        for name in services.keys() {
            out::line(name);
        }
        return Ok(());
    }
    let rows: Vec<Vec<String>> = services
        .into_iter()
        .map(|(name, mut tags)| {
            tags.sort();
            tags.dedup();
            vec![name, tags.join(",")]
        })
        .collect();
    out::line(out::table_with_gap(&rows, TAGS_GAP));
    Ok(())
}

//! What a parked read depends on.

use std::sync::LazyLock;

use model::row::NameMap;
use model::rpc::{CheckStateFilter, Op};
use model::{Name, SessionId};

use crate::change::Table;
use crate::fold::fold;
use crate::watch::{WatchKey, Watched};

/// What a parked read of this operation depends on; empty for operations that do not block.
///
/// A read that only time can end (a session whose id is no UUID) has no keys either.
pub fn watch_keys(namespace: &str, op: &Op) -> Vec<WatchKey> {
    // Nearly all readers are in one namespace: they need not each keep a copy of its name.
    static DEFAULT: LazyLock<Name> = LazyLock::new(|| "default".into());
    let namespace =
        if namespace == &**DEFAULT { Name::clone(&DEFAULT) } else { Name::from(namespace) };
    let watched = watched(op);
    watched
        .into_iter()
        .map(|w| WatchKey { namespace: Name::clone(&namespace), watched: w })
        .collect()
}

fn watched(op: &Op) -> Vec<Watched> {
    match op {
        Op::KvGet { key } => vec![Watched::KvKey(key.clone())],
        Op::KvList { prefix } | Op::KvKeys { prefix, .. } => {
            vec![Watched::KvPrefix(prefix.clone())]
        }
        Op::SessionGet { id } => {
            id.parse::<SessionId>().map(Watched::Session).into_iter().collect()
        }
        Op::SessionList => vec![Watched::Table(Table::Sessions)],
        Op::SessionsOfNode { node } => vec![Watched::NodeSessions(fold(node))],
        Op::Nodes { .. } => vec![Watched::Table(Table::Nodes)],
        Op::Services { meta } => with_nodes(meta, Watched::Table(Table::Services)),
        // Its answer carries nodes.
        Op::AllInstances { .. } => {
            vec![Watched::Table(Table::Services), Watched::Table(Table::Nodes)]
        }
        Op::ServiceNodes { service, connect, .. } | Op::HealthService { service, connect, .. } => {
            let service = fold(service);
            vec![if *connect { Watched::Connect(service) } else { Watched::Service(service) }]
        }
        Op::NodeServices { node } => {
            let mut keys = vec![Watched::Node(fold(node))];
            keys.extend(id_prefix(node).map(Watched::NodeIdPrefix));
            keys
        }
        Op::HealthNode { node } => vec![Watched::NodeChecks(fold(node))],
        // Narrowed by metadata its index is the service's, which its nodes move too.
        Op::HealthChecks { service, meta } => {
            let service = fold(service);
            vec![match meta.is_empty() {
                true => Watched::ServiceChecks(service),
                false => Watched::Service(service),
            }]
        }
        Op::HealthState { state: None, meta } => with_nodes(meta, Watched::Table(Table::Checks)),
        Op::HealthState { state: Some(CheckStateFilter::Only(status)), meta } => {
            with_nodes(meta, Watched::Status(*status))
        }
        Op::HealthState { state: Some(CheckStateFilter::Nothing), .. }
        | Op::StatusLeader
        | Op::StatusPeers
        | Op::Datacenters
        | Op::RaftConfiguration
        | Op::Register(_)
        | Op::Deregister { .. }
        | Op::Kv(_)
        | Op::SessionCreate(_)
        | Op::SessionDestroy { .. }
        | Op::SessionRenew { .. }
        | Op::TransferLeader { .. }
        | Op::RemovePeer { .. }
        | Op::Batch(_)
        | Op::AutopilotConfiguration
        | Op::AutopilotState
        | Op::AutopilotConfigure { .. }
        | Op::SnapshotSave
        | Op::SnapshotRestore
        // Reads of transactions do not block.
        | Op::Txn(_) => Vec::new(),
    }
}

/// Metadata of nodes decides what is found: then their changes matter too.
fn with_nodes(meta: &NameMap, key: Watched) -> Vec<Watched> {
    match meta.is_empty() {
        true => vec![key],
        false => vec![key, Watched::Table(Table::Nodes)],
    }
}

/// The text as the beginning of a node's id, without dashes, if it can be one.
fn id_prefix(text: &str) -> Option<Name> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let fits = (2..=32).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    fits.then(|| digits.to_ascii_lowercase().into())
}

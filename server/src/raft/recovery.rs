//! A cluster whose majority is lost for ever goes on with the servers that an operator names in
//! `raft/peers.json`.
//!
//! The file is read at start, before Raft runs. What the log holds is applied, also what was never
//! known to be committed: those who could tell are gone. Then a snapshot is written that says that
//! the named servers are the cluster, the log is purged up to it, and the file is moved away. In this
//! order: a crash in between only means that it is done again. With an empty log, a server that is
//! named too and lags behind gets the snapshot, and cannot take an old configuration from the log.
//!
//! Consul: `peers.info` is made on the first start of a data directory; a `peers.json` from before
//! it is not taken.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use futures_util::{StreamExt as _, TryStreamExt as _};
use model::api::peers::{self, Peer};
use openraft::storage::{
    RaftLogReader as _, RaftLogStorage as _, RaftSnapshotBuilder as _, RaftStateMachine as _,
};

use super::fault::StartError;
use super::log::{Stepping, raft_directory};
use super::machine::off_runtime;
use super::types::{Membership, RaftId, RaftNode};
use super::{Opened, RaftConfig};

const ORDER: &str = "peers.json";
const DONE: &str = "peers.json.done";
const IGNORED: &str = "peers.json.ignored";
const NOTE: &str = "peers.info";

/// Bytes of the file: far more than any cluster needs.
const ORDER_BYTES_MAX: u64 = 1 << 20;

const NOTE_TEXT: &str = "\
This directory holds the Raft log and snapshots of a Muster server.

When so many servers are lost for ever that no majority is left, stop the servers that remain,
write a file peers.json into this directory, and start them. The file names the servers that make up
the cluster from then on:

[
  {\"id\": \"<the server's node-id>\", \"address\": \"10.0.0.1:8300\", \"non_voter\": false}
]

Best name one server alone, the one with the most entries, and let all others join with empty data
directories. Servers that were left out must never be started again on their old data. At the next
start the file is taken and moved away.
";

/// What an operator asks for.
pub(super) struct Order {
    path: PathBuf,
    peers: Vec<Peer>,
}

/// Looks for an order, before the log is opened.
pub(super) async fn look(
    data_dir: Option<&Path>,
    stepping: Stepping,
) -> Result<Option<Order>, StartError> {
    let Some(data_dir) = data_dir.map(Path::to_owned) else { return Ok(None) };
    on_thread(stepping, move || read(&raft_directory(&data_dir))).await
}

fn read(directory: &Path) -> Result<Option<Order>, StartError> {
    let (path, note) = (directory.join(ORDER), directory.join(NOTE));
    let length = match fs::metadata(&path) {
        Ok(found) => found.len(),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(StartError::io("read", &path, cause)),
    };
    let refused = |what: String| StartError::Recovery { path: path.clone(), what };
    if !directory.join("raft.redb").exists() {
        return Err(refused("there is no Raft data here to go on with".to_owned()));
    }
    if !note.exists() {
        let ignored = directory.join(IGNORED);
        move_away(directory, &path, &ignored)?;
        tracing::warn!(
            file = %ignored.display(),
            "peers.json was not taken: it is from before this data directory's first start with a \
             release that knows it"
        );
        return Ok(None);
    }
    if length > ORDER_BYTES_MAX {
        return Err(refused(format!("{length} bytes are more than {ORDER_BYTES_MAX}")));
    }
    let text = fs::read(&path).map_err(|cause| StartError::io("read", &path, cause))?;
    let peers = peers::parse(&text).map_err(refused)?;
    Ok(Some(Order { path, peers }))
}

/// Carries an order out on what was opened.
pub(super) async fn carry_out(
    order: Order,
    opened: &mut Opened,
    config: &RaftConfig,
    stepping: Stepping,
) -> Result<(), StartError> {
    let Opened { store, log, machine, .. } = opened;
    let refused = |what: String| StartError::Recovery { path: order.path.clone(), what };
    let failed = |cause: io::Error| StartError::io("carry out", &order.path, cause);
    let last = log.bounds().last_log_id;
    let (Some(last), Some(vote)) = (last.max(machine.reached().0), log.vote()) else {
        return Err(refused("there is no Raft data here to go on with".to_owned()));
    };
    let begin = machine.reached().0.map_or(0, |applied| applied.index + 1);
    let mut reader = store.get_log_reader().await;
    let entries = reader.entries_stream(begin..last.index + 1).await;
    let entries = entries.map_ok(|entry| (entry, None)).boxed();
    machine.apply(entries).await.map_err(failed)?;

    let (applied, found) = machine.reached();
    let membership = membership(&order.peers, found.membership(), config).map_err(refused)?;
    // A crash came after the last step but one: the snapshot is all there is, and stays as it is.
    let done = found.membership() == &membership && log.bounds().last_purged_log_id == applied;
    if !done {
        machine.replace_membership(membership);
        let mut builder = machine.get_snapshot_builder().await;
        builder.build_snapshot().await.map_err(failed)?;
        store.purge(last).await.map_err(failed)?;
        // The purge rides on this, and it is durable when it returns.
        store.save_vote(&vote).await.map_err(failed)?;
    }
    let Order { path, peers } = order;
    let servers = peers.len();
    on_thread(stepping, move || {
        let directory = path.parent().unwrap_or(&path);
        move_away(directory, &path, &directory.join(DONE))
    })
    .await?;
    tracing::warn!(
        servers,
        last = last.index,
        "peers.json taken: these servers are the cluster now"
    );
    Ok(())
}

/// The configuration that the file asks for. Names, and identities where the file has none, come
/// from the one before.
fn membership(
    peers: &[Peer],
    before: &Membership,
    config: &RaftConfig,
) -> Result<Membership, String> {
    let us = RaftId(config.node_id);
    let (mut voters, mut nodes) = (BTreeSet::new(), BTreeMap::new());
    for peer in peers {
        let known = before.nodes().find(|(_, node)| node.address == peer.address);
        let id = match (peer.id, known) {
            (Some(id), _) => RaftId(id),
            (None, Some((id, _))) => *id,
            (None, None) if peer.address == config.advertise => us,
            (None, None) => {
                let address = peer.address;
                return Err(format!("no server is known at {address}; name its id beside it"));
            }
        };
        let name = if id == us { Some(&config.node_name) } else { None };
        let name = name.or_else(|| before.get_node(&id).map(|node| &node.name));
        let name = name.cloned().unwrap_or_else(|| "".into());
        if nodes.insert(id, RaftNode { name, address: peer.address }).is_some() {
            return Err(format!("it names server {id} twice"));
        }
        if !peer.non_voter {
            voters.insert(id);
        }
    }
    if !nodes.contains_key(&us) {
        return Err(format!("it does not name this server, {us}"));
    }
    Membership::new(vec![voters], nodes).map_err(|error| error.to_string())
}

/// Makes the note on the first start.
pub(super) async fn note(data_dir: Option<&Path>, stepping: Stepping) -> Result<(), StartError> {
    let Some(data_dir) = data_dir.map(Path::to_owned) else { return Ok(()) };
    on_thread(stepping, move || {
        let path = raft_directory(&data_dir).join(NOTE);
        if path.exists() {
            return Ok(());
        }
        fs::write(&path, NOTE_TEXT).map_err(|cause| StartError::io("write", &path, cause))
    })
    .await
}

fn move_away(directory: &Path, from: &Path, to: &Path) -> Result<(), StartError> {
    fs::rename(from, to).map_err(|cause| StartError::io("move", from, cause))?;
    fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|cause| StartError::io("sync", directory, cause))
}

async fn on_thread<T: Send + 'static>(
    stepping: Stepping,
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    off_runtime(stepping, "raft-recovery", work)
        .await
        .map_err(|cause| StartError::Raft(cause.to_string()))?
}

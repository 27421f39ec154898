//! Brings gossip's servers into Raft (driver of `servers`). Apart from the catalog's reconcile: a
//! server that catches up for minutes must not delay the news that a node has failed.

use std::time::Duration;

use model::rpc::RpcError;
use tokio::time::{sleep, timeout};

use super::Context;
use super::servers::{Change, ServerReconcile};

/// Time between full passes.
const PASS_EVERY: Duration = Duration::from_secs(10);
/// Time to the next pass when something failed.
const PASS_AGAIN: Duration = Duration::from_secs(2);
/// Changes of the membership that come within this time are one.
const GATHER: Duration = Duration::from_millis(100);

pub(super) async fn run(context: Context) {
    let (us, datacenter) = (context.config.node_id, context.config.datacenter.clone());
    let mut reconcile = ServerReconcile::new(us, datacenter);
    loop {
        let members = context.cluster.members();
        let (_, servers) = context.consensus.configuration();
        let shunned = &context.duties.shunned;
        let plan = reconcile.plan(&members, &servers, shunned, context.clock.now());
        let mut failed = false;
        // One after the other: Raft changes its configuration in single steps.
        for change in plan {
            failed |= carry_out(&context, change).await.is_err();
        }
        let pause = if failed { PASS_AGAIN } else { PASS_EVERY };
        let _ = timeout(pause, context.cluster.changed(members.sequence)).await;
        sleep(GATHER).await;
    }
}

async fn carry_out(context: &Context, change: Change) -> Result<(), RpcError> {
    match change {
        Change::Add { id, name, address } => {
            let added = context.consensus.add_server(id, name.clone(), address).await;
            match &added {
                Ok(()) => tracing::info!(server = %name, %id, %address, "server is in Raft"),
                Err(error) => {
                    tracing::warn!(server = %name, %id, %error, "server could not be added");
                }
            }
            added
        }
        Change::Remove { id } => {
            let removed = context.consensus.remove_server(id).await;
            match &removed {
                Ok(()) => tracing::info!(%id, "server removed from Raft"),
                Err(error) => tracing::warn!(%id, %error, "server could not be removed"),
            }
            removed
        }
    }
}

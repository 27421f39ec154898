//! Brings gossip's membership into the catalog (driver of `catalog`).

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use model::NodeId;
use model::command::Command;
use model::rpc::RpcError;
use tokio::time::{sleep, timeout};

use super::Context;
use super::catalog::CatalogReconcile;

/// Time between full passes. Consul: 60 s.
const PASS_EVERY: Duration = Duration::from_secs(60);
/// Time to the next pass when something failed.
const PASS_AGAIN: Duration = Duration::from_secs(2);
/// Changes of the membership that come within this time are one.
const GATHER: Duration = Duration::from_millis(20);
/// Proposals at once.
const PROPOSALS_MAX: usize = 64;
/// Time for a proposal.
const PROPOSE_MAX: Duration = Duration::from_secs(10);

pub(super) async fn run(context: Context) {
    let (us, datacenter) = (context.config.node_id, context.config.datacenter.clone());
    let mut reconcile = CatalogReconcile::new(us, datacenter);
    loop {
        let members = context.cluster.members();
        let state = context.consensus.state();
        let (_, servers) = context.consensus.configuration();
        let voters: Vec<NodeId> =
            servers.iter().filter(|server| server.voter).map(|server| server.id).collect();
        let plan = reconcile.plan(&members, &voters, &state, context.clock.now());
        drop(state);
        let failed = stream::iter(plan)
            .map(|command| propose(&context, command))
            .buffered(PROPOSALS_MAX)
            .filter(|done| std::future::ready(!done))
            .count()
            .await;
        let pause = if failed > 0 { PASS_AGAIN } else { PASS_EVERY };
        // A timeout is the full pass.
        let _ = timeout(pause, context.cluster.changed(members.sequence)).await;
        sleep(GATHER).await;
    }
}

async fn propose(context: &Context, command: Command) -> bool {
    let what = describe(&command);
    match context.propose("reconcile", command, PROPOSE_MAX).await {
        Ok(index) => {
            tracing::debug!(%what, %index, "member reconciled");
            true
        }
        Err(error) => {
            tracing::warn!(%what, %error, "member could not be reconciled with the catalog");
            // What the state refuses (a name that another live node holds) it will refuse again.
            matches!(error, RpcError::Rejected(_))
        }
    }
}

fn describe(command: &Command) -> String {
    match command {
        Command::RegisterV1(register) => {
            let status = register.checks.first().map_or("", |check| check.status.as_str());
            format!("node {} {status}", register.node.name)
        }
        Command::DeregisterV1(deregister) => format!("node {} gone", deregister.node),
        _ => String::new(),
    }
}

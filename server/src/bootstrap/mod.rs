//! How the first Raft configuration comes about (driver of `plan`).
//!
//! What it is not: it adds nobody to a cluster that there is; the leader does
//! ([`crate::leader`]).

mod plan;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use model::Name;
use model::rpc::RpcError;
use model::seam::Cluster;
use rt::{Clock, Rng};
use tokio::time::{sleep, timeout};

use self::plan::{Candidate, Verdict, View, judge, view};
use crate::config::{Bootstrap, Config};
use crate::consensus::Consensus;
use crate::endpoint::{Info, InfoQuestion, Peers};

/// Time between looks when nothing changes: a server may have become ready to answer, or Raft may
/// have been heard from.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// From the first pledge to the configuration. Pledges hold for 5 s at the others.
const PLEDGED_MAX: Duration = Duration::from_secs(3);

/// What bootstrap stands on.
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) consensus: Arc<dyn Consensus>,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) clock: Clock,
    pub(crate) rng: Rng,
}

/// Runs until this server belongs to a cluster or has to wait for one.
pub(crate) async fn run(context: Context) {
    if !context.consensus.pristine() {
        return;
    }
    match context.config.bootstrap {
        Bootstrap::Wait => {}
        Bootstrap::Alone => context.alone().await,
        Bootstrap::Expect(number) => context.expect(number).await,
    }
}

impl Context {
    async fn alone(&self) {
        let config = &self.config;
        let us = (config.node_id, Name::from(config.node_name.as_str()), config.rpc_advertise);
        match self.consensus.initialize(vec![us]).await {
            Ok(()) => tracing::info!("new cluster of one server"),
            Err(error) => tracing::error!(%error, "cannot make the first configuration"),
        }
    }

    async fn expect(&self, number: u32) {
        let (us, datacenter) = (self.config.node_id, &self.config.datacenter);
        let mut said = View::Known(usize::MAX);
        while self.consensus.pristine() {
            let members = self.cluster.members();
            let seen = view(us, datacenter, number, &members);
            if seen != said {
                say(number, &seen);
            }
            if let View::Ask(candidates) = &seen {
                match self.ask_all(number, candidates).await {
                    Verdict::Initialize => {}
                    Verdict::Joined(server) => {
                        tracing::info!(%server, "there is a cluster already: waiting to be added");
                        return;
                    }
                    Verdict::Later(reason) => tracing::info!(%reason, "cluster not made yet"),
                }
            }
            said = seen;
            let pause = LOOK_EVERY / 2 + self.rng.jitter(LOOK_EVERY / 2);
            let _ = timeout(pause, self.cluster.changed(members.sequence)).await;
            // Members come in bursts.
            sleep(self.rng.jitter(LOOK_EVERY / 10)).await;
        }
    }

    /// Asks the candidates and, if all agree, makes the configuration.
    async fn ask_all(&self, number: u32, candidates: &[Candidate]) -> Verdict {
        let began = self.clock.now();
        let answers = join_all(candidates.iter().map(|candidate| async move {
            let question = InfoQuestion { pledge: true };
            (candidate.clone(), self.info(candidate, question).await)
        }));
        let verdict = judge(number, &answers.await);
        if verdict != Verdict::Initialize {
            return verdict;
        }
        // A pause of this process may have outlived the others' word.
        if self.clock.now() - began > PLEDGED_MAX || !self.consensus.pristine() {
            return Verdict::Later("the answers came too late".into());
        }
        let voters = candidates.iter().map(|c| (c.id, c.name.clone(), c.address)).collect();
        match self.consensus.initialize(voters).await {
            Ok(()) => {
                tracing::info!(servers = candidates.len(), "new cluster");
                Verdict::Initialize
            }
            Err(error) => Verdict::Later(format!("no configuration could be made: {error}")),
        }
    }

    /// Ourselves too, by the network: so our own word is given in the same place, and our address
    /// is proved to reach us.
    async fn info(&self, candidate: &Candidate, question: InfoQuestion) -> Result<Info, RpcError> {
        self.peers.info(candidate.address, question).await
    }
}

fn say(number: u32, seen: &View) {
    match seen {
        View::Known(known) => tracing::info!(known, expected = number, "waiting for servers"),
        View::Contradiction { server, theirs } => tracing::error!(
            %server,
            "no cluster is made: it says {theirs} where we expect {number} servers"
        ),
        View::WaitFor(server) => tracing::info!(%server, "all servers known; it makes the cluster"),
        View::Ask(_) => tracing::info!("all servers known; asking each whether it is empty"),
    }
}

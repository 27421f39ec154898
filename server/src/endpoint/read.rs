//! Reads of tables. Blocking ones park at this server until something they depend on changes
//! (spec: http-api-1 §2, http-api-2 §1.8).

use model::LogIndex;
use model::rpc::{Answer, Reply, Request, RpcError};
use state::{Answered, State, query, watch_keys};
use tokio::time::{Instant, sleep_until};

use super::{Confirm, Endpoint, Entered, Visit, rejected};

impl Endpoint {
    /// Answers from this server's state, after the confirmation that the consistency asks for.
    ///
    /// The threshold in `request.min_index` may rise: whoever goes on elsewhere takes it along.
    pub(super) async fn read(
        &self,
        request: &mut Request,
        confirm: Confirm,
        wait_end: Instant,
        visit: &mut Visit,
        entered: &mut Entered,
    ) -> Answer {
        if request.min_index == LogIndex::ZERO {
            self.confirm(confirm).await?;
            return self.answer(request, look(&self.parts.consensus.state(), request)?);
        }
        let keys = watch_keys(&request.namespace, &request.op);
        let epoch = self.parts.consensus.state().epoch();
        loop {
            // Registered before the state is loaded: what changes in between wakes us.
            let waiter = self.parts.consensus.registry().register(&keys);
            let state = self.parts.consensus.state();
            let found = look(&state, request)?;
            if found.missing && visit.missing {
                // Consul: what is still missing is no news, whatever the table's index.
                request.min_index = request.min_index.max(found.index);
            }
            visit.missing = found.missing;
            let news = found.index > request.min_index || state.epoch() != epoch;
            if news || self.now() >= wait_end {
                drop((waiter, state));
                self.confirm(confirm).await?;
                // The confirmation may have brought us further.
                return self.answer(request, look(&self.parts.consensus.state(), request)?);
            }
            drop((state, found));
            entered.park()?;
            tokio::select! {
                biased;
                () = self.parts.stop.cancelled() => return Err(RpcError::Leaving),
                () = self.deposed(confirm) => return Err(RpcError::NoLeader),
                () = waiter => {}
                () = sleep_until(wait_end) => {}
            }
        }
    }

    async fn confirm(&self, confirm: Confirm) -> Result<(), RpcError> {
        let consensus = &self.parts.consensus;
        match confirm {
            Confirm::No => Ok(()),
            Confirm::Lease => consensus.confirm_lease().await,
            Confirm::Round => consensus.read_index().await.map(drop),
            Confirm::AskLeader => {
                let index = self.rounds.index(&self.parts).await?;
                consensus.applied(index).await
            }
        }
    }

    /// Waits until this server is no longer the leader that a parked read counts on.
    async fn deposed(&self, confirm: Confirm) {
        if !matches!(confirm, Confirm::Lease | Confirm::Round) {
            return std::future::pending().await;
        }
        let mut leadership = self.parts.consensus.leadership();
        // An error: Raft has stopped.
        let _ = leadership.wait_for(|now| !now.is_leader).await;
    }

    fn answer(&self, request: &Request, found: Answered) -> Answer {
        let body = self.parts.authorizer.filter(&request.token, &request.op, found.body);
        Ok(Reply { meta: self.meta(found.index, request.consistency), body })
    }
}

fn look(state: &State, request: &Request) -> Result<Answered, RpcError> {
    query(state, &request.namespace, &request.op)
        .ok_or_else(|| rejected("this operation does not read tables"))
}

//! The endpoint as the backend of the agent in the same process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::NodeId;
use model::rpc::{Answer, Op, Reply, Request, RpcError};
use model::seam::{Backend, BoxFuture, ByteStream, Link};
use net::{OpenRetry, RetryLedger};
use tokio::time::{Instant, timeout};

use super::{Caller, Endpoint};
use crate::config::Bootstrap;

/// Time for handing over leadership; Raft itself gives it a second.
const HAND_OVER_MAX: Duration = Duration::from_secs(3);
/// Time for the leader to remove us. Consul: a leaving server waits 5 s for it.
const REMOVAL_MAX: Duration = Duration::from_secs(5);

/// Backend of the agent in a server's process. Clones are the same one.
#[derive(Clone)]
pub(crate) struct LocalBackend(Arc<Inner>);

struct Inner {
    endpoint: Arc<Endpoint>,
    ledger: Arc<RetryLedger>,
    link: Mutex<LinkState>,
}

struct LinkState {
    leader_known: bool,
    since: Instant,
}

impl LocalBackend {
    /// `boot_id` is the origin of this process's writes: new at each start.
    pub(crate) fn new(endpoint: Arc<Endpoint>, boot_id: NodeId) -> Self {
        let since = endpoint.now();
        Self(Arc::new(Inner {
            endpoint,
            ledger: Arc::new(RetryLedger::new(boot_id)),
            link: Mutex::new(LinkState { leader_known: false, since }),
        }))
    }

    /// Follows changes of leadership, so that [`Backend::link`] knows since when.
    pub(crate) async fn follow(self) {
        let mut leadership = self.0.endpoint.parts.consensus.leadership();
        loop {
            let leader_known = leadership.borrow_and_update().leader.is_some();
            self.0.note(leader_known);
            if leadership.changed().await.is_err() {
                return;
            }
        }
    }

    /// Leaves the Raft configuration, with leadership in other hands before.
    async fn depart(&self) -> Result<(), RpcError> {
        let parts = &self.0.endpoint.parts;
        let us = parts.config.node_id;
        let member = || parts.consensus.configuration().1.iter().any(|server| server.id == us);
        let servers = parts.consensus.configuration().1;
        if !member() || !servers.iter().any(|server| server.voter && server.id != us) {
            return Ok(());
        }
        self.hand_over().await;
        let mut request = Request::new(Op::RemovePeer { id: us });
        request.hold_ms = u64::try_from(REMOVAL_MAX.as_millis()).unwrap_or(u64::MAX);
        match timeout(REMOVAL_MAX, self.clone().ask_now(request)).await {
            Ok(Ok(_)) => Ok(()),
            // It was done after all: by the leader's own reconcile, or the answer was lost.
            _ if !member() => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(RpcError::Broken("not removed from Raft in time".to_owned())),
        }
    }

    /// Puts leadership into other hands, if it is ours and there are others.
    async fn hand_over(&self) {
        let parts = &self.0.endpoint.parts;
        let us = parts.config.node_id;
        let others = parts.consensus.configuration().1;
        let others = others.iter().any(|server| server.voter && server.id != us);
        if !others || !parts.consensus.leadership().borrow().is_leader {
            return;
        }
        let began = self.0.endpoint.now();
        match timeout(HAND_OVER_MAX, parts.consensus.transfer(None)).await {
            Ok(Ok(())) => {
                let took = self.0.endpoint.now() - began;
                tracing::info!(?took, "leadership handed over before stopping");
            }
            Ok(Err(error)) => tracing::warn!(%error, "leadership could not be handed over"),
            Err(_) => tracing::warn!("leadership was not taken over in time"),
        }
    }

    async fn ask_now(self, request: Request) -> Answer {
        let needed = request.op.is_write() && request.retry.is_none();
        let retry = needed.then(|| self.0.ledger.open()).transpose()?;
        let restamp = || retry.as_ref().map(OpenRetry::stamp);
        self.0.endpoint.ask(request, Caller::Agent, restamp).await
    }
}

impl Inner {
    fn note(&self, leader_known: bool) -> Link {
        let now = self.endpoint.now();
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if link.leader_known != leader_known {
            *link = LinkState { leader_known, since: now };
        }
        let since_ms = u64::try_from((now - link.since).as_millis()).unwrap_or(u64::MAX);
        Link { connected: true, leader_known, since_ms }
    }
}

impl Backend for LocalBackend {
    fn ask(&self, request: Request) -> BoxFuture<'static, Answer> {
        Box::pin(self.clone().ask_now(request))
    }

    fn stream(
        &self,
        request: Request,
        body: ByteStream,
    ) -> BoxFuture<'static, Result<(Reply, ByteStream), RpcError>> {
        let endpoint = Arc::clone(&self.0.endpoint);
        Box::pin(async move { endpoint.exchange(request, Caller::Agent, body).await })
    }

    fn link(&self) -> Link {
        let leader = self.0.endpoint.parts.consensus.leadership().borrow().leader;
        self.0.note(leader.is_some())
    }

    fn leave(&self) -> BoxFuture<'static, Result<(), RpcError>> {
        let this = self.clone();
        Box::pin(async move {
            let departed = this.depart().await;
            this.0.endpoint.begin_leaving();
            departed.inspect_err(|error| tracing::warn!(%error, "leaving without having left Raft"))
        })
    }

    fn resign(&self) -> BoxFuture<'static, ()> {
        let this = self.clone();
        Box::pin(async move { this.hand_over().await })
    }

    fn stats(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let parts = &self.0.endpoint.parts;
        let leadership = *parts.consensus.leadership().borrow();
        let leader = leadership.leader.map_or(String::new(), |(_, at)| at.to_string());
        let known = self.0.endpoint.datacenters().len();
        let consul = [
            ("acl", "disabled".to_owned()),
            ("bootstrap", (parts.config.bootstrap == Bootstrap::Alone).to_string()),
            ("known_datacenters", known.to_string()),
            ("leader", leadership.is_leader.to_string()),
            ("leader_addr", leader),
            ("server", "true".to_owned()),
        ];
        let consul = consul.map(|(key, value)| (key.to_owned(), value)).into();
        let raft = parts.consensus.stats().into_iter().collect();
        BTreeMap::from([("consul".to_owned(), consul), ("raft".to_owned(), raft)])
    }
}

//! The driver of anti-entropy: pushes what changed at once, compares in full now and then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use model::Name;
use model::rpc::{Body, Op, Request, RpcError};
use model::seam::{Backend, Cluster, Members};
use rt::{Clock, Rng};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Local;
use super::plan::{Catalog, Push, Settled};
use super::timetable::Timetable;
use crate::config::Config;

/// Operations that travel together: keeps a frame far below its limit of 16 MiB, whatever outputs
/// the checks have.
const BATCH_MAX: usize = 64;
/// How often the way to the servers is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The same until the first comparison has succeeded.
const LOOK_AT_START: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Syncer {
    local: Arc<Local>,
    backend: Arc<dyn Backend>,
    cluster: Arc<dyn Cluster>,
    waiters: mpsc::Receiver<oneshot::Sender<()>>,
    node: Name,
    hold_ms: u64,
    clock: Clock,
    rng: Rng,
    timetable: Timetable,
    /// A full comparison has succeeded once.
    compared: bool,
    /// Version of the book at the last push.
    pushed: u64,
    members: Arc<Members>,
    link_up: bool,
}

impl Syncer {
    pub(super) fn new(
        local: Arc<Local>,
        backend: Arc<dyn Backend>,
        cluster: Arc<dyn Cluster>,
        waiters: mpsc::Receiver<oneshot::Sender<()>>,
        config: &Config,
    ) -> Self {
        let (clock, rng) = (local.clock().clone(), local.rng().clone());
        let timetable = Timetable::new(clock.now());
        let members = cluster.members();
        Self {
            local,
            backend,
            waiters,
            node: config.node_name.as_str().into(),
            hold_ms: u64::try_from(config.rpc_hold_timeout.as_millis()).unwrap_or(u64::MAX),
            clock,
            rng,
            timetable,
            compared: false,
            pushed: u64::MAX,
            members,
            link_up: false,
            cluster,
        }
    }

    pub(super) async fn run(mut self) {
        let local = Arc::clone(&self.local);
        let cluster = Arc::clone(&self.cluster);
        let mut waiting = Vec::new();
        loop {
            local.resumed().await;
            self.look_at_link();
            self.round().await;
            waiting.clear();
            let members = cluster.changed(self.members.sequence);
            let next_look = self.next_look();
            tokio::select! {
                biased;
                count = self.waiters.recv_many(&mut waiting, 64) => if count == 0 { return },
                () = local.full_wanted.notified() => self.timetable.on_demand(self.clock.now()),
                () = local.push_wanted.notified() => {}
                members = members => self.see_members(members),
                () = tokio::time::sleep_until(next_look) => {}
            }
        }
    }

    /// One full comparison if it is due, then one push if something is to be pushed.
    async fn round(&mut self) {
        let now = self.clock.now();
        if !self.link_up {
            return;
        }
        let count = self.members.list.len();
        if self.timetable.full_due(now) {
            match self.compare().await {
                Ok(()) => {
                    self.compared = true;
                    self.pushed = u64::MAX;
                    let now = self.clock.now();
                    self.timetable.on_full_done(now, count, self.rng.unit());
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot compare with the catalog");
                    let now = self.clock.now();
                    self.timetable.on_full_failed(now, count, self.rng.unit());
                    return;
                }
            }
        }
        let version = {
            let mut book = self.local.book();
            book.due_deferred(now);
            book.version()
        };
        if version == self.pushed && !self.timetable.retry_due(now) {
            return;
        }
        self.pushed = version;
        match self.push().await {
            Ok(()) => self.timetable.on_pushed(),
            Err(error) => {
                tracing::warn!(%error, "cannot push to the catalog");
                let now = self.clock.now();
                self.timetable.on_pushed();
                self.timetable.on_push_failed(now, count, self.rng.unit());
            }
        }
    }

    async fn compare(&self) -> Result<(), RpcError> {
        let services = self.ask(Op::NodeServices { node: Arc::clone(&self.node) }, "").await?;
        let checks = self.ask(Op::HealthNode { node: Arc::clone(&self.node) }, "").await?;
        let (Body::Node(node), Body::Checks(checks)) = (services, checks) else {
            return Err(RpcError::Protocol("an answer of another kind".into()));
        };
        let (node, services) = node.map_or((None, Vec::new()), |(node, s)| (Some(node), s));
        self.local.book().compare(&Catalog { node, services, checks });
        Ok(())
    }

    /// Pushes until nothing is left but what failed in this round.
    async fn push(&self) -> Result<(), RpcError> {
        let mut failed = BTreeSet::new();
        let mut first_error = None;
        loop {
            let pushes = self.local.book().pending(&failed, BATCH_MAX);
            if pushes.is_empty() {
                return first_error.map_or(Ok(()), Err);
            }
            let results = self.send(&pushes).await?;
            let mut book = self.local.book();
            for (push, result) in pushes.iter().zip(results) {
                let settled = Settled::of(&push.op, &result);
                book.settle(push, settled);
                let Err(error) = result else {
                    tracing::debug!(what = ?push.covers, "Synced");
                    continue;
                };
                match settled {
                    Settled::Done => {}
                    Settled::Refused => {
                        tracing::warn!(what = ?push.covers, %error, "not allowed to sync");
                    }
                    Settled::Failed => {
                        failed.extend(push.covers.iter().map(|(target, _)| target.clone()));
                        first_error.get_or_insert(error);
                    }
                }
            }
        }
    }

    async fn send(&self, pushes: &[Push]) -> Result<Vec<Result<(), RpcError>>, RpcError> {
        let token = pushes.first().map_or("", |push| push.token.as_str());
        if let [push] = pushes {
            return match self.ask(push.op.clone(), token).await {
                Ok(_) => Ok(vec![Ok(())]),
                Err(error) if error.may_retry() => Err(error),
                Err(error) => Ok(vec![Err(error)]),
            };
        }
        let ops = pushes.iter().map(|push| push.op.clone()).collect();
        match self.ask(Op::Batch(ops), token).await? {
            Body::Batch(results) if results.len() == pushes.len() => {
                Ok(results.into_iter().map(|result| result.map(|_| ())).collect())
            }
            _ => Err(RpcError::Protocol("an answer of another kind".into())),
        }
    }

    async fn ask(&self, op: Op, token: &str) -> Result<Body, RpcError> {
        let mut request = Request::new(op);
        request.token = token.into();
        request.hold_ms = self.hold_ms;
        self.backend.ask(request).await.map(|reply| reply.body)
    }

    fn look_at_link(&mut self) {
        let link = self.backend.link();
        let up = link.connected && link.leader_known;
        if up && !self.link_up {
            let (count, draw) = (self.members.list.len(), self.rng.unit());
            self.timetable.on_server_up(self.clock.now(), count, draw);
        }
        self.link_up = up;
    }

    fn see_members(&mut self, members: Arc<Members>) {
        let servers = |members: &Members| -> BTreeSet<_> {
            members.alive().filter(|member| member.is_server()).map(|member| member.id).collect()
        };
        if !servers(&members).is_subset(&servers(&self.members)) {
            let (count, draw) = (members.list.len(), self.rng.unit());
            self.timetable.on_server_up(self.clock.now(), count, draw);
        }
        self.members = members;
    }

    fn next_look(&self) -> Instant {
        let now = self.clock.now();
        let look = now + if self.compared { LOOK } else { LOOK_AT_START };
        if !self.link_up {
            return look;
        }
        let deferred = self.local.book().next_deferred();
        look.min(self.timetable.next()).min(deferred.unwrap_or(look)).max(now)
    }
}

//! The endpoint: what happens to each request on a server. Authorise, find the server that may
//! answer, wait if it is a blocking read, propose if it is a write.
//!
//! What it is not: it knows no Raft (it uses [`Consensus`]) and no socket (it uses [`Peers`]).
//!
//! | module | what |
//! |---|---|
//! | `table` | the table of RPCs: one entry for each operation |
//! | `route` | where a request goes, how long it may take, what may be tried again (core) |
//! | `authorizer`, `admission` | who may do what; how many at once |
//! | `read` | reads of tables, blocking ones too |
//! | `write`, `register`, `session`, `key`, `txn` | writes: validation, defaults, proposals |
//! | `archive` | operations with bodies: the whole state out and in |
//! | `operator` | status, Raft configuration, peers |
//! | `peers`, `rounds` | what servers ask each other; shared read indexes |
//! | `backend`, `handler` | the ways in: from this process's agent, from the network |

mod admission;
mod archive;
mod authorizer;
mod backend;
mod handler;
mod key;
mod operator;
mod peers;
mod read;
mod register;
mod rounds;
mod route;
mod session;
mod table;
mod txn;
mod write;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use model::LogIndex;
use model::command::{Rejection, RetryV1};
use model::rpc::{Answer, Body, Consistency, Meta, Op, Reply, Request, RpcError};
use model::seam::Cluster;
use rt::{Clock, Rng};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::admission::{Admission, Entered};
use self::rounds::Rounds;
use self::route::{Confirm, Route, Standing, Time, may_retry, route};
use self::table::{Again, Rule, rule};
use crate::config::Config;
use crate::consensus::{Consensus, Leadership};
use crate::leader::Duties;

pub use self::authorizer::{AllowAll, Authorizer, Need};
pub(crate) use self::backend::LocalBackend;
pub(crate) use self::handler::RpcHandler;
pub(crate) use self::peers::{Info, InfoQuestion, NetPeers, Peers};
pub(crate) use self::route::Caller;

/// First pause before a request is tried again; doubles.
const PAUSE_MIN: Duration = Duration::from_millis(25);
/// Longest pause: an election takes about half a second.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// What the network may take beyond the time that the leader has for a forwarded request.
const ANSWER_GRACE: Duration = Duration::from_millis(500);
/// How long an answer may still come from a server after another has taken over from it.
const DEPOSED_GRACE: Duration = Duration::from_millis(250);
/// Requests that take longer without being parked are logged.
const SLOW: Duration = Duration::from_secs(1);

/// What the endpoint stands on.
pub(crate) struct Parts {
    pub(crate) config: Arc<Config>,
    pub(crate) consensus: Arc<dyn Consensus>,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) duties: Arc<Duties>,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) clock: Clock,
    pub(crate) rng: Rng,
    /// Cancelled when the process stops.
    pub(crate) stop: CancellationToken,
}

/// Answers requests.
pub(crate) struct Endpoint {
    parts: Parts,
    admission: Admission,
    rounds: Rounds,
    started: Instant,
    /// Requests from the network are refused: others serve them better.
    leaving: AtomicBool,
}

/// What a writer is told when its entry was not committed in time: the entry is in the leader's log
/// and may be committed yet.
const NOT_COMMITTED: &str =
    "No cluster leader: the write was not committed in time, but may be yet";

impl Endpoint {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let started = parts.clock.now();
        Arc::new(Self {
            parts,
            admission: Admission::default(),
            rounds: Rounds::default(),
            started,
            leaving: AtomicBool::new(false),
        })
    }

    /// Answers a request: at once, or when its wait or hold is over. `restamp` makes a new retry
    /// stamp for each attempt, if this server accepted the write.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        request: Request,
        caller: Caller,
        restamp: impl Fn() -> Option<RetryV1>,
    ) -> Answer {
        let rule = rule(&request.op);
        if !rule.callers.admit(caller) {
            return Err(RpcError::PermissionDenied("this operation is not for you".to_owned()));
        }
        self.check_address(&request)?;
        let mut entered = self.admission.enter(rule.class)?;
        let (began, trace_id) = (self.now(), request.trace_id);
        let answer = self.hold(request, &rule, caller, restamp, &mut entered).await;
        if !entered.has_parked() {
            let took = self.now() - began;
            let class = rule.class.label();
            metrics::histogram!("muster.endpoint.seconds", "class" => class)
                .record(took.as_secs_f64());
            if took >= SLOW {
                tracing::info!(trace_id, class, ?took, ok = answer.is_ok(), "slow request");
            }
        }
        answer
    }

    /// Tries until there is an answer or no more time.
    async fn hold(
        &self,
        mut request: Request,
        rule: &Rule,
        caller: Caller,
        restamp: impl Fn() -> Option<RetryV1>,
        entered: &mut Entered,
    ) -> Answer {
        let mut time = Time::new(request.wait_ms, request.hold_ms, self.now());
        let mut visit = Visit::default();
        // A lost answer says more than what comes after it: the write may have happened.
        let mut lost: Option<RpcError> = None;
        let mut leadership = self.parts.consensus.leadership();
        let mut tries = 0_u32;
        loop {
            if let Some(stamp) = restamp() {
                request.retry = Some(stamp);
            }
            let began = self.now();
            leadership.mark_unchanged();
            let attempt = self.attempt(&mut request, rule, caller, &time, &mut visit, entered);
            let error = match attempt.await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let end = time.failed(began, self.now());
            let again = caller == Caller::Agent
                && !self.parts.stop.is_cancelled()
                && may_retry(&error, rule.again, request.retry.is_some());
            let (true, Some(end)) = (again, end) else {
                return Err(lost.unwrap_or(error));
            };
            if matches!(error, RpcError::Broken(_)) && rule.again != Again::Harmless {
                lost.get_or_insert(error);
            }
            metrics::counter!("muster.rpc.held").increment(1);
            self.pause(tries, end, &mut leadership).await;
            tries = tries.saturating_add(1);
        }
    }

    async fn attempt(
        &self,
        request: &mut Request,
        rule: &Rule,
        caller: Caller,
        time: &Time,
        visit: &mut Visit,
        entered: &mut Entered,
    ) -> Answer {
        match route(rule, request.consistency, caller, &self.standing())? {
            Route::Forward(leader) => {
                if request.min_index > LogIndex::ZERO {
                    entered.park()?;
                }
                self.forward(leader, request, rule, time).await
            }
            Route::Here(confirm) => {
                let authorizer = &self.parts.authorizer;
                authorizer.authorize(&request.token, &rule.need)?;
                if let Op::Txn(ops) = &mut request.op {
                    let limit = self.parts.config.kv_value_bytes_max;
                    let errors = txn::check(ops, &**authorizer, &request.token, limit)?;
                    if !errors.is_empty() {
                        return self.reply(LogIndex(1), Body::Txn(Err(errors)));
                    }
                }
                match rule.place {
                    table::Place::Tables => {
                        self.read(request, confirm, time.wait_end, visit, entered).await
                    }
                    table::Place::Here | table::Place::LeaderUnlessStale => {
                        self.status(&request.op)
                    }
                    table::Place::Archive => Err(rejected("this operation needs a body")),
                    table::Place::Leader => {
                        // Without a quorum a proposal waits for ever: its time is the hold.
                        let (_, hold_ms) = time.left_ms(self.now());
                        let limit = Duration::from_millis(hold_ms);
                        let written = tokio::time::timeout(limit, self.write(request)).await;
                        written.unwrap_or_else(|_| Err(RpcError::Broken(NOT_COMMITTED.to_owned())))
                    }
                }
            }
        }
    }

    /// To the leader, unless another takes over first.
    async fn forward(
        &self,
        leader: SocketAddr,
        request: &Request,
        rule: &Rule,
        time: &Time,
    ) -> Answer {
        let mut request = request.clone();
        let (wait_ms, hold_ms) = time.left_ms(self.now());
        let blocking = request.min_index > LogIndex::ZERO;
        (request.wait_ms, request.hold_ms) = (if blocking { wait_ms } else { 0 }, hold_ms);
        let limit = Duration::from_millis(request.wait_ms.saturating_add(hold_ms)) + ANSWER_GRACE;
        let answer = self.parts.peers.ask(leader, request, limit);
        let mut leadership = self.parts.consensus.leadership();
        let deposed = async {
            let other = |now: &Leadership| now.leader.is_none_or(|(_, at)| at != leader);
            if rule.again == Again::Never || leadership.wait_for(other).await.is_err() {
                std::future::pending::<()>().await;
            }
            sleep(DEPOSED_GRACE).await;
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            () = deposed => Err(RpcError::Broken(format!("{leader} no longer leads"))),
        }
    }

    /// A jittered, growing pause, cut short by a change of leadership.
    async fn pause(&self, tries: u32, end: Instant, leadership: &mut watch::Receiver<Leadership>) {
        let pause = PAUSE_MIN.saturating_mul(1 << tries.min(10)).min(PAUSE_MAX);
        let pause = pause / 2 + self.parts.rng.jitter(pause / 2);
        let now = self.now();
        let pause = pause.min(end.saturating_duration_since(now));
        tokio::select! {
            biased;
            () = self.parts.stop.cancelled() => {}
            () = sleep(pause) => {}
            // Not in step with all others that wait for the same.
            changed = leadership.changed(), if tries > 0 => {
                let most = if changed.is_ok() { PAUSE_MIN } else { pause };
                sleep(PAUSE_MIN / 5 + self.parts.rng.jitter(most).min(pause)).await;
            }
        }
    }

    /// Datacenter and namespace that we serve.
    fn check_address(&self, request: &Request) -> Result<(), RpcError> {
        let dc = &request.dc;
        if !dc.is_empty() && !dc.eq_ignore_ascii_case(&self.parts.config.datacenter) {
            return Err(RpcError::NoPathToDatacenter);
        }
        if &*request.namespace != "default" {
            return Err(rejected(format!("unknown namespace \"{}\"", request.namespace)));
        }
        Ok(())
    }

    fn standing(&self) -> Standing {
        let consensus = &self.parts.consensus;
        let since_start = self.now() - self.started;
        // Copied first: nothing else is borrowed while this is.
        let leadership = *consensus.leadership().borrow();
        Standing {
            leadership,
            ready: consensus.ready(),
            leaderless: consensus.last_contact_ms().map_or(since_start, Duration::from_millis),
        }
    }

    /// What an answer from this server says about it.
    fn meta(&self, index: LogIndex, consistency: Consistency) -> Meta {
        let standing = self.standing();
        let ms = u64::try_from(standing.leaderless.as_millis()).unwrap_or(u64::MAX);
        Meta {
            index,
            known_leader: standing.leadership.is_leader || standing.leadership.leader.is_some(),
            last_contact_ms: if standing.leadership.is_leader { 0 } else { ms },
            consistency,
        }
    }

    fn reply(&self, index: LogIndex, body: Body) -> Answer {
        Ok(Reply { meta: self.meta(index, Consistency::Default), body })
    }

    fn now(&self) -> Instant {
        self.parts.clock.now()
    }

    /// From now on requests from the network are refused.
    fn begin_leaving(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed) || self.parts.stop.is_cancelled()
    }
}

/// What a blocking read remembers when it moves to another server.
#[derive(Debug, Default)]
struct Visit {
    /// The one object that was asked for was missing when we last looked.
    missing: bool,
}

/// A refusal with a text for the client.
fn rejected(text: impl Into<String>) -> RpcError {
    RpcError::Rejected(Rejection::Other(text.into()))
}

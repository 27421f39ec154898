//! Clients: they work on keys and locks through the endpoints of random servers, try lost writes
//! again under the same stamp, and write down what they were told.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::command::{Rejection, RetryV1};
use model::row::KvV1;
use model::rpc::{Answer, Body, Consistency, KvWrite, NewSession, Op, Reply, Request, RpcError};
use model::{LogIndex, Name, NodeId, SessionId};
use net::RetryLedger;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::history::parse;
use crate::linear::Event;
use crate::objects::{Acquired, LockOp, RegisterOp};
use crate::world::{Running, World};

/// Keys that are registers, and keys that are locks.
pub(crate) const REGISTERS: u64 = 3;
pub(crate) const LOCKS: u64 = 2;
/// The node that sessions live on; gossip knows nothing of it.
pub(crate) const NODE: &str = "clients";
/// How long a server may look for a leader for us.
const HOLD_MS: u64 = 1_500;
/// How long a client waits at most.
const PATIENCE: Duration = Duration::from_secs(4);
/// Tries of a write whose outcome was lost.
const TRIES: usize = 3;

pub(crate) fn register_key(number: u64) -> Bytes {
    format!("register/{number}").into()
}

pub(crate) fn lock_key(number: u64) -> Bytes {
    format!("lock/{number}").into()
}

/// What came of a write.
enum Written {
    /// Answered.
    Yes(Reply),
    /// Refused by the state: it was applied, and did nothing.
    Rejected(Rejection),
    /// Nobody knows.
    Lost,
    /// It did not happen.
    No,
}

/// One client.
pub(crate) struct Client {
    world: Arc<World>,
    number: usize,
    ledger: Arc<RetryLedger>,
    session: Option<SessionId>,
    /// What a read last found: version and index.
    known: Vec<Option<(u64, LogIndex)>>,
}

impl Client {
    pub(crate) fn new(world: &Arc<World>, number: usize) -> Self {
        let origin = NodeId(world.rng.bytes16());
        Self {
            world: Arc::clone(world),
            number,
            ledger: Arc::new(RetryLedger::new(origin)),
            session: None,
            known: vec![None; REGISTERS as usize],
        }
    }

    /// Works until it is to stop. What it has begun it ends: a write that was sent may happen.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let (least, most) = self.world.scenario.think_ms;
        while !stop.is_cancelled() {
            sleep(Duration::from_millis(least + self.world.rng.below(most - least + 1))).await;
            match self.world.rng.below(100) {
                _ if self.world.is_hushed() => self.read(self.world.rng.below(REGISTERS)).await,
                0..72 => self.use_register().await,
                _ => self.use_lock().await,
            }
        }
    }

    async fn use_register(&mut self) {
        let rng = &self.world.rng;
        let number = rng.below(REGISTERS);
        let key = register_key(number);
        let known = self.known[number as usize];
        let value = self.world.value();
        let text = || Bytes::from(value.to_string());
        let (op, write) = match rng.below(100) {
            0..50 => return self.read(number).await,
            50..72 => {
                let write = KvWrite::Set { key: key.clone(), value: text(), flags: 0 };
                (RegisterOp::Set(value), write)
            }
            72..90 => {
                let (expected, index) = known.unzip();
                let index = index.unwrap_or(LogIndex::ZERO);
                let write = KvWrite::Cas { key: key.clone(), value: text(), flags: 0, index };
                (RegisterOp::Cas { expected, value, held: None }, write)
            }
            90..95 => (RegisterOp::Delete, KvWrite::Delete { key: key.clone() }),
            _ => {
                let Some((expected, index)) = known else { return };
                let write = KvWrite::DeleteCas { key: key.clone(), index };
                (RegisterOp::DeleteCas { expected, held: None }, write)
            }
        };
        let called = self.world.event();
        let (written, stamp) = self.write(Op::Kv(write)).await;
        let answer = match &written {
            Written::Yes(Reply { body: Body::Bool(held), .. }) => Some(*held),
            Written::Lost => None,
            Written::Yes(reply) => {
                return self.world.fail(format!("{op:?} was answered by {:?}", reply.body));
            }
            // Refused before it was applied, or by a state that forgot the stamp.
            Written::Rejected(_) | Written::No => return,
        };
        let op = match op {
            RegisterOp::Cas { expected, value, .. } => {
                RegisterOp::Cas { expected, value, held: answer }
            }
            RegisterOp::DeleteCas { expected, .. } => {
                RegisterOp::DeleteCas { expected, held: answer }
            }
            op => op,
        };
        let returned = answer.map(|_| self.world.event());
        self.note(format_args!("{key:?} {op:?} [{called}..{returned:?}]"));
        self.world.history().register(&key, Event { called, returned, op }, stamp);
    }

    async fn read(&mut self, number: u64) {
        let key = register_key(number);
        let consistency = match self.world.rng.below(3) {
            0 => Consistency::Default,
            1 => Consistency::Consistent,
            _ => Consistency::Stale,
        };
        let Some(server) = self.world.any() else { return };
        let called = self.world.event();
        let floor = self.world.history().reported(&key);
        let mut request = Request::new(Op::KvGet { key: key.clone() });
        request.consistency = consistency;
        let Some(Ok(reply)) = self.ask(&server, request).await else { return };
        self.world.history().counts.reads += 1;
        let found = row(&reply);
        let version = found.map(|row| (parse(&row.value).unwrap_or(0), row.modify_index));
        if consistency == Consistency::Stale {
            let (at, start) = (server.number, server.start);
            let judged = self.world.history().stale(at, start, &key, reply.meta.index, found);
            return judged.unwrap_or_else(|what| self.world.fail(what));
        }
        self.report(&key, floor, reply.meta.index);
        self.known[number as usize] = version;
        let op = RegisterOp::Get { found: version.map(|(value, _)| value) };
        let returned = Some(self.world.event());
        self.note(format_args!(
            "{key:?} {consistency:?} at {} {op:?} [{called}..{returned:?}]",
            server.number
        ));
        self.world.history().register(&key, Event { called, returned, op }, None);
    }

    async fn use_lock(&mut self) {
        let Some(session) = self.session else { return self.create_session().await };
        let number = self.world.rng.below(LOCKS);
        let key = lock_key(number);
        let name: Name = session.to_string().into();
        let value = Bytes::from(self.world.value().to_string());
        let called = self.world.event();
        match self.world.rng.below(100) {
            0..40 => {
                let write = KvWrite::Acquire { key: key.clone(), value, flags: 0, session: name };
                let (written, stamp) = self.write(Op::Kv(write)).await;
                let answer = match written {
                    Written::Yes(Reply { body: Body::Bool(true), .. }) => Some(Acquired::Yes),
                    Written::Yes(_) => Some(Acquired::No),
                    Written::Rejected(Rejection::InvalidSession(_)) => {
                        // A restore went back to before it.
                        self.session = None;
                        Some(Acquired::NoSession)
                    }
                    Written::Lost => None,
                    Written::Rejected(_) | Written::No => return,
                };
                self.locked(
                    &key,
                    called,
                    LockOp::Acquire { session, answer },
                    answer.is_some(),
                    stamp,
                );
            }
            40..70 => {
                let write = KvWrite::Release { key: key.clone(), value, flags: 0, session: name };
                let (written, stamp) = self.write(Op::Kv(write)).await;
                let held = match written {
                    Written::Yes(Reply { body: Body::Bool(held), .. }) => Some(held),
                    Written::Lost => None,
                    _ => return,
                };
                self.locked(&key, called, LockOp::Release { session, held }, held.is_some(), stamp);
            }
            70..92 => {
                let Some(server) = self.world.any() else { return };
                let mut request = Request::new(Op::KvGet { key: key.clone() });
                if self.world.rng.below(2) == 0 {
                    request.consistency = Consistency::Consistent;
                }
                let Some(Ok(reply)) = self.ask(&server, request).await else { return };
                let holder = row(&reply).and_then(|row| row.session);
                self.locked(&key, called, LockOp::Look { holder }, true, None);
            }
            _ => {
                self.session = None;
                let (written, stamp) = self.write(Op::SessionDestroy { id: name }).await;
                let known = match written {
                    Written::Yes(_) => true,
                    Written::Lost => false,
                    _ => return,
                };
                // It frees what it holds, all at once.
                for number in 0..LOCKS {
                    self.locked(&lock_key(number), called, LockOp::End { session }, known, stamp);
                }
            }
        }
    }

    fn locked(&self, key: &Bytes, called: u64, op: LockOp, answered: bool, stamp: Option<RetryV1>) {
        let returned = answered.then(|| self.world.event());
        self.note(format_args!("{key:?} {op:?} [{called}..{returned:?}]"));
        self.world.history().lock(key, Event { called, returned, op }, stamp);
    }

    async fn create_session(&mut self) {
        let called = self.world.event();
        let (written, stamp) = self.write(Op::SessionCreate(new_session(""))).await;
        if let Written::Yes(Reply { body: Body::Session(session), .. }) = written {
            self.session = Some(session);
            for number in 0..LOCKS {
                self.locked(&lock_key(number), called, LockOp::Begin { session }, true, stamp);
            }
        }
    }

    /// Keeps a session with a TTL alive for a while, then lets it go; again and again.
    pub(crate) async fn run_ttl(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if self.world.is_hushed() {
                sleep(Duration::from_millis(20)).await;
                continue;
            }
            let ttl_s = 2 + self.world.rng.below(3);
            let ttl_us = ttl_s * 1_000_000;
            let asked_us = self.world.trace.now_us();
            let create = Op::SessionCreate(new_session(&format!("{ttl_s}s")));
            let (written, _) = self.write(create).await;
            let Written::Yes(Reply { body: Body::Session(id), .. }) = written else {
                sleep(Duration::from_millis(300)).await;
                continue;
            };
            self.told(id, asked_us, ttl_us);
            for _ in 0..self.world.rng.below(8) {
                sleep(Duration::from_millis(ttl_s * 1_000 * (1 + self.world.rng.below(3)) / 4))
                    .await;
                let Some(server) = self.world.any() else { continue };
                let asked_us = self.world.trace.now_us();
                let renew = Request::new(Op::SessionRenew { id: id.to_string().into() });
                if let Some(Ok(_)) = self.ask(&server, renew).await {
                    self.told(id, asked_us, ttl_us);
                }
            }
            sleep(Duration::from_secs(self.world.rng.below(4))).await;
        }
    }

    fn told(&self, id: SessionId, asked_us: u64, ttl_us: u64) {
        let judged = self.world.invariants().expiry.told(id, asked_us, ttl_us);
        if let Err(what) = judged {
            self.world.fail(what);
        }
    }

    /// Waits for each new version of a key.
    pub(crate) async fn watch(self, number: u64) {
        let key = register_key(number);
        let mut index = LogIndex::ZERO;
        loop {
            let Some(server) = self.world.any() else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let wait_ms = 500 + self.world.rng.below(3_000);
            let mut request = Request::new(Op::KvGet { key: key.clone() });
            (request.min_index, request.wait_ms) = (index, wait_ms);
            let called = self.world.event();
            let floor = self.world.history().reported(&key);
            let asked_us = self.world.trace.now_us();
            let answer = self.ask_for(&server, request, Duration::from_millis(wait_ms) + PATIENCE);
            let Some(Ok(reply)) = answer.await else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            let waited_ms = (self.world.trace.now_us() - asked_us) / 1_000;
            let seen = reply.meta.index;
            if seen <= index && index > LogIndex::ZERO && waited_ms + 1 < wait_ms {
                self.world.fail(format!(
                    "a blocking read of {key:?} was answered after {waited_ms} of {wait_ms} ms with \
                     index {seen}, though it asked for one above {index}"
                ));
            }
            self.report(&key, floor, seen);
            let version = row(&reply).map(|row| parse(&row.value).unwrap_or(0));
            self.world.history().watch(self.number, &key, version);
            let returned = Some(self.world.event());
            let op = RegisterOp::Get { found: version };
            self.note(format_args!("{key:?} watched {op:?} [{called}..{returned:?}]"));
            self.world.history().register(&key, Event { called, returned, op }, None);
            index = seen;
        }
    }

    /// What a default or consistent read says of a key's index: not less than what was known when
    /// it was asked.
    fn report(&self, key: &Bytes, floor: LogIndex, index: LogIndex) {
        let judged = self.world.history().report(key, floor, index);
        judged.unwrap_or_else(|what| self.world.fail(what));
    }

    /// A write: tried again under its stamp while its outcome is lost.
    async fn write(&self, op: Op) -> (Written, Option<RetryV1>) {
        let Ok(open) = self.ledger.open() else { return (Written::No, None) };
        let mut lost = false;
        let mut stamp = None;
        for attempt in 0..TRIES {
            let Some(server) = self.world.any() else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let mut request = Request::new(op.clone());
            request.retry = Some(open.stamp());
            stamp = request.retry;
            match self.ask(&server, request).await {
                Some(Ok(reply)) => {
                    self.world.history().acknowledge(stamp);
                    return (Written::Yes(reply), stamp);
                }
                None | Some(Err(RpcError::Broken(_))) => lost = true,
                Some(Err(RpcError::Rejected(Rejection::OutcomeUnknown))) => lost = true,
                Some(Err(RpcError::Rejected(rejection))) => {
                    return (Written::Rejected(rejection), stamp);
                }
                Some(Err(RpcError::PermissionDenied(text) | RpcError::Protocol(text))) => {
                    self.world.fail(format!("{op:?} was refused: {text}"));
                    return (Written::No, stamp);
                }
                Some(Err(error)) => {
                    self.note(format_args!("{op:?} at {}: {error:?}", server.number));
                }
            }
            if !lost && attempt > 0 {
                break;
            }
        }
        self.note(format_args!("{op:?} {stamp:?}: lost {lost}"));
        let mut history = self.world.history();
        if lost {
            history.counts.unknown += 1;
            (Written::Lost, stamp)
        } else {
            history.counts.refused += 1;
            (Written::No, stamp)
        }
    }

    async fn ask(&self, server: &Running, request: Request) -> Option<Answer> {
        self.ask_for(server, request, PATIENCE).await
    }

    /// `None`: no answer came.
    async fn ask_for(
        &self,
        server: &Running,
        mut request: Request,
        patience: Duration,
    ) -> Option<Answer> {
        request.hold_ms = HOLD_MS;
        tokio::select! {
            biased;
            () = server.up.cancelled() => None,
            answer = timeout(patience, server.backend.ask(request)) => answer.ok(),
        }
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.world.trace.note(format_args!("client {}: {what}", self.number));
    }
}

fn row(reply: &Reply) -> Option<&KvV1> {
    match &reply.body {
        Body::KvEntry(row) => row.as_deref(),
        _ => None,
    }
}

fn new_session(ttl: &str) -> NewSession {
    NewSession {
        name: "".into(),
        node: NODE.into(),
        lock_delay_ns: 0,
        behavior: "release".into(),
        ttl: ttl.into(),
        node_checks: Some(Vec::new()),
        service_checks: None,
        checks: Vec::new(),
    }
}

//! Answers packets for one socket: from a kept draft, from rows that the view holds, or after
//! asking for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use model::rpc::{Consistency, Op};
use rt::{Clock, Rng};
use tokio::sync::{Semaphore, watch};

use crate::view::{ASK_HOLD, Answer, Held, Question, View, ViewError};

use super::facts::Facts;
use super::query::{Query, Screened, Transport, screen};
use super::record::Draft;
use super::render::{Scratch, Sending, render};
use super::settings::Settings;
use super::{draft_of, failure, write};

/// Drafts that one clerk keeps.
const DRAFTS_MAX: usize = 4_096;

/// Longest time for an answer: a resolver has asked elsewhere by then.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// Whole catalogs that are fetched at once, for reverse lookups of unknown addresses: each may take
/// many megabytes, and anybody can ask.
const WHOLE_AT_ONCE: usize = 2;

/// Rounds of asking for what an answer needs: its own rows, and those behind each hop.
const ROUNDS_MAX: usize = 6;

/// Answers older than this are counted (Consul's limit).
const STALE_COUNTED: Duration = Duration::from_secs(5);

/// Room for whole catalogs, shared by all clerks.
pub(super) fn whole_catalogs() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(WHOLE_AT_ONCE))
}

/// See the module.
#[derive(Clone)]
pub(super) struct Clerk {
    view: Arc<View>,
    settings: watch::Receiver<Arc<Settings>>,
    clock: Clock,
    rng: Rng,
    drafts: Arc<Mutex<Drafts>>,
    whole: Arc<Semaphore>,
    stale: metrics::Counter,
}

/// What came of a packet at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Now {
    Silent,
    Written,
    /// Rows must be asked for first: [`Clerk::answer_later`].
    Later,
}

/// Drafts by lower-case name, type and whether the asker speaks EDNS.
#[derive(Default)]
struct Drafts {
    kept: HashMap<Box<[u8]>, Kept>,
    /// The settings that they were made under.
    settings: Option<Arc<Settings>>,
    /// Memory for the next key.
    key: Vec<u8>,
}

struct Kept {
    draft: Arc<Draft>,
    /// The rows that it was made from, and their versions.
    from: Vec<(Held, u64)>,
}

impl Clerk {
    pub(super) fn new(
        view: Arc<View>,
        settings: watch::Receiver<Arc<Settings>>,
        clock: Clock,
        rng: Rng,
        whole: Arc<Semaphore>,
    ) -> Self {
        let stale = metrics::counter!("consul.dns.stale_queries");
        Self { view, settings, clock, rng, drafts: Arc::default(), whole, stale }
    }

    /// Answers into `out` if all rows are at hand.
    pub(super) fn answer_now(
        &self,
        packet: &[u8],
        transport: Transport,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Now {
        let query = match screen(packet) {
            Screened::Silent => return Now::Silent,
            Screened::Refused { id, flags, rcode } => {
                write::header_only(out, id, flags, rcode);
                return Now::Written;
            }
            Screened::Query(query) => query,
        };
        let settings = Arc::clone(&self.settings.borrow());
        let kept = self.drafts().get(&settings, &query);
        let Some(draft) = kept.or_else(|| self.draft_now(&settings, &query)) else {
            return Now::Later;
        };
        self.render(&draft, &query, &settings, transport, scratch, out);
        Now::Written
    }

    /// Answers after asking for what is missing. Empty: not answered.
    pub(super) async fn answer_later(&self, packet: &[u8], transport: Transport) -> Vec<u8> {
        let mut out = Vec::new();
        if let Screened::Query(query) = screen(packet) {
            let settings = Arc::clone(&self.settings.borrow());
            let asked = self.draft_asked(&settings, &query);
            let draft = match tokio::time::timeout(ANSWER_TIME, asked).await {
                Ok(draft) => draft,
                Err(_) => Arc::new(failure()),
            };
            self.render(&draft, &query, &settings, transport, &mut Scratch::default(), &mut out);
        }
        out
    }

    /// The answer when there is no room to ask for rows.
    pub(super) fn answer_busy(&self, packet: &[u8], transport: Transport, out: &mut Vec<u8>) {
        if let Screened::Query(query) = screen(packet) {
            let settings = Arc::clone(&self.settings.borrow());
            let scratch = &mut Scratch::default();
            self.render(&failure(), &query, &settings, transport, scratch, out);
        }
    }

    fn render(
        &self,
        draft: &Draft,
        query: &Query<'_>,
        settings: &Settings,
        transport: Transport,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) {
        let now_unix = u32::try_from(self.clock.wall_ms() / 1_000).unwrap_or(u32::MAX);
        let shuffle = &mut |order: &mut [u32]| {
            if order.len() > 1 {
                self.rng.shuffle(order);
            }
        };
        let mut sending = Sending { transport, now_unix, shuffle };
        render(draft, query, settings, &mut sending, scratch, out);
    }

    /// Makes a draft of what the view holds; `None` if that is not enough.
    fn draft_now(&self, settings: &Arc<Settings>, query: &Query<'_>) -> Option<Arc<Draft>> {
        let (mut round, seed) = (Round::default(), self.rng.u64());
        for _ in 0..ROUNDS_MAX {
            let draft = draft_of(query, settings, &mut round.facts, seed);
            let missing = round.facts.take_missing();
            if missing.is_empty() {
                return Some(self.keep(settings, query, draft, round));
            }
            for question in missing {
                let (held, answer) = self.view.held(&question)?;
                if held.age() > settings.dns.max_stale {
                    return None;
                }
                round.learn(question, Ok((Some(held), answer)));
            }
        }
        None
    }

    async fn draft_asked(&self, settings: &Arc<Settings>, query: &Query<'_>) -> Arc<Draft> {
        let (mut round, seed) = (Round::default(), self.rng.u64());
        for _ in 0..ROUNDS_MAX {
            let draft = draft_of(query, settings, &mut round.facts, seed);
            let missing = round.facts.take_missing();
            if missing.is_empty() {
                return self.keep(settings, query, draft, round);
            }
            let asked = missing.into_iter().map(|question| async {
                let fact = self.ask(question.clone(), settings.dns.max_stale).await;
                (question, fact)
            });
            for (question, fact) in join_all(asked).await {
                round.learn(question, fact);
            }
        }
        Arc::new(failure())
    }

    /// Asks the view; an answer older than the settings allow is asked for again at the leader.
    async fn ask(&self, question: Question, max_stale: Duration) -> Learnt {
        if !question.is_held() {
            let whole = matches!(question.op, Op::AllInstances { .. });
            let _room = if whole { self.whole.acquire().await.ok() } else { None };
            return self.view.ask(question).await.map(|answer| (None, answer));
        }
        let (held, answer) = self.view.hold(question.clone(), ASK_HOLD).await?;
        let age = held.age();
        if age > STALE_COUNTED {
            self.stale.increment(1);
        }
        if age <= max_stale {
            return Ok((Some(held), answer));
        }
        let question = Question { consistency: Consistency::Default, ..question };
        self.view.ask(question).await.map(|answer| (None, answer))
    }

    /// Keeps the draft for the next asker, if its rows tell when they change.
    fn keep(
        &self,
        settings: &Arc<Settings>,
        query: &Query<'_>,
        draft: Draft,
        round: Round,
    ) -> Arc<Draft> {
        let draft = Arc::new(draft);
        if draft.shareable && !round.unkept && !round.from.is_empty() {
            let kept = Kept { draft: Arc::clone(&draft), from: round.from };
            self.drafts().insert(settings, query, kept);
        }
        draft
    }

    fn drafts(&self) -> std::sync::MutexGuard<'_, Drafts> {
        self.drafts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Learnt = Result<(Option<Held>, Arc<Answer>), ViewError>;

/// What one draft was made from.
#[derive(Default)]
struct Round {
    facts: Facts,
    from: Vec<(Held, u64)>,
    /// Something in it does not tell when it changes.
    unkept: bool,
}

impl Round {
    fn learn(&mut self, question: Question, learnt: Learnt) {
        let fact = match learnt {
            Ok((held, answer)) => {
                match held.and_then(|held| held.version_of(&answer).map(|v| (held, v))) {
                    Some(from) => self.from.push(from),
                    None => self.unkept = true,
                }
                Ok(answer)
            }
            Err(error) => {
                self.unkept = true;
                Err(error)
            }
        };
        self.facts.learn(question, fact);
    }
}

impl Drafts {
    /// The kept draft, if its rows are unchanged and young enough.
    fn get(&mut self, settings: &Arc<Settings>, query: &Query<'_>) -> Option<Arc<Draft>> {
        self.fit(settings);
        self.set_key(query);
        let kept = self.kept.get(&*self.key)?;
        let good = kept.from.iter().all(|(held, version)| {
            held.version() == Some(*version) && held.age() <= settings.dns.max_stale
        });
        if !good {
            self.kept.remove(&*self.key);
            return None;
        }
        for (held, _) in &kept.from {
            held.touch();
        }
        Some(Arc::clone(&kept.draft))
    }

    fn insert(&mut self, settings: &Arc<Settings>, query: &Query<'_>, kept: Kept) {
        self.fit(settings);
        if self.kept.len() >= DRAFTS_MAX {
            // Rare, and each costs only microseconds to make again.
            self.kept.clear();
        }
        self.set_key(query);
        self.kept.insert(self.key.as_slice().into(), kept);
    }

    /// Forgets what was made under other settings.
    fn fit(&mut self, settings: &Arc<Settings>) {
        if self.settings.as_ref().is_none_or(|made| !Arc::ptr_eq(made, settings)) {
            self.kept.clear();
            self.settings = Some(Arc::clone(settings));
        }
    }

    fn set_key(&mut self, query: &Query<'_>) {
        self.key.clear();
        self.key.extend(query.name.iter().map(u8::to_ascii_lowercase));
        self.key.extend_from_slice(&query.kind.to_be_bytes());
        self.key.push(u8::from(query.edns.is_some()));
    }
}

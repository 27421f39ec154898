//! What this agent has been asked for lately: one subscription for each recent question, shared by
//! all who ask it.
//!
//! The first asker of a question makes an `Entry` and its task (`follow`): the task asks the
//! servers once, then keeps the answer current with blocking reads on that question's own index.
//! Equal questions, also those that arrive while the first is under way, wait for the same task.
//! Errors are never kept. Entries are bounded in number, least recently used out, and dropped when
//! nobody has asked for a while.
//!
//! Only `stale` questions are held: a held answer is a copy, and whoever asks for more than a copy
//! is answered by the servers each time.
//!
//! While the servers cannot be reached ([`View::outage`]) a held answer goes on being given, with
//! its age ([`Held::age`]); a question that was never asked before fails at once. The copy on disk
//! of what is held belongs beside the entry's task, which is the one place that replaces answers.

mod entry;
mod follow;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::Name;
use model::rpc::{Consistency, Op, Reply, Request, RpcError};
use model::seam::Backend;
use rt::{Clock, Rng, Tasks};
use tokio::time::Instant;

use entry::{Entry, State};

pub use entry::Held;

/// Questions held at once. Each holds a parked read at a server.
pub const ENTRIES_MAX: usize = 1_024;

/// A question that nobody asked for so long is dropped.
pub const IDLE_MAX: Duration = Duration::from_secs(300);

/// How long a first question may look for a server: below the 5 s after which a resolver asks
/// elsewhere.
pub const ASK_HOLD: Duration = Duration::from_secs(3);

/// Without a server for this long, a first question fails at once instead of waiting for one.
const OUTAGE_AFTER_MS: u64 = 1_000;

/// What can be asked of the view. Equal questions share one subscription.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// A read of tables.
    pub op: Op,
    /// Datacenter; empty: ours.
    pub dc: Name,
    /// Secret of the token to ask with; empty: anonymous.
    pub token: Name,
    /// `default` until there are others.
    pub namespace: Name,
    /// Only [`Consistency::Stale`] answers are held.
    pub consistency: Consistency,
}

impl Question {
    /// A stale, anonymous question about this datacenter.
    pub fn new(op: Op) -> Self {
        Self {
            op,
            dc: "".into(),
            token: "".into(),
            namespace: "default".into(),
            consistency: Consistency::Stale,
        }
    }

    /// Whether its answer is worth a subscription. The list of all instances is not: each change
    /// anywhere would send the whole catalog again.
    pub fn is_held(&self) -> bool {
        self.consistency == Consistency::Stale
            && !self.op.is_write()
            && !matches!(self.op, Op::AllInstances { .. })
    }

    fn request(&self, hold: Duration) -> Request {
        Request {
            token: self.token.clone(),
            dc: self.dc.clone(),
            namespace: self.namespace.clone(),
            consistency: self.consistency,
            hold_ms: u64::try_from(hold.as_millis()).unwrap_or(u64::MAX),
            ..Request::new(self.op.clone())
        }
    }
}

/// Rows that answer a question, as a server gave them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Rows, and where they come from.
    pub reply: Reply,
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// No server can be reached, and the question was never answered before.
    #[error("no server can be reached, and this was never asked before")]
    Outage,
    /// More different questions at once than the view holds.
    #[error("too many different questions are asked at once")]
    Busy,
    /// The servers refused, or could not answer in time.
    #[error("{0}")]
    Rpc(#[from] RpcError),
}

/// The agent's cache over its [`Backend`].
pub struct View {
    table: Arc<Table>,
    tasks: Tasks,
}

/// What the view shares with the tasks of its entries.
pub(crate) struct Table {
    backend: Arc<dyn Backend>,
    entries: Mutex<HashMap<Question, Arc<Entry>>>,
    clock: Clock,
    rng: Rng,
    start: Instant,
}

impl View {
    /// An empty view. Its subscriptions end with `tasks`.
    pub fn new(backend: Arc<dyn Backend>, clock: Clock, rng: Rng, tasks: &Tasks) -> Arc<Self> {
        let start = clock.now();
        let table = Table { backend, entries: Mutex::default(), clock, rng, start };
        Arc::new(Self { table: Arc::new(table), tasks: tasks.child() })
    }

    /// The answer to a question: the held one, or asked now, waiting for a server as long as a
    /// resolver's patience lasts.
    pub async fn ask(&self, question: Question) -> Result<Arc<Answer>, ViewError> {
        self.ask_within(question, ASK_HOLD).await
    }

    /// Like [`View::ask`], looking for a server no longer than `hold`.
    pub async fn ask_within(
        &self,
        question: Question,
        hold: Duration,
    ) -> Result<Arc<Answer>, ViewError> {
        if question.is_held() {
            return self.hold(question, hold).await.map(|(_, answer)| answer);
        }
        if self.outage() {
            return Err(ViewError::Outage);
        }
        let reply = self.table.backend.ask(question.request(hold)).await?;
        Ok(Arc::new(Answer { reply }))
    }

    /// The answer together with a handle on its subscription, for callers that keep what they make
    /// of the rows. Questions that are not held have no handle: use [`View::ask`] for them.
    pub async fn hold(
        &self,
        question: Question,
        hold: Duration,
    ) -> Result<(Held, Arc<Answer>), ViewError> {
        let entry = self.entry(question, hold)?;
        let mut state = entry.watch();
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                State::Answered(answer) => return Ok((self.table.held(entry), answer)),
                State::Failed(error) => return Err(error),
                State::Asking => {}
            }
            // The sender lives in the entry, which we hold: this cannot fail.
            if state.changed().await.is_err() {
                return Err(ViewError::Outage);
            }
        }
    }

    /// The held answer, if there is one now. Never waits.
    pub fn held(&self, question: &Question) -> Option<(Held, Arc<Answer>)> {
        let entry = self.table.lock().get(question).map(Arc::clone)?;
        entry.touch(self.table.now_ms());
        let answer = entry.answer()?;
        Some((self.table.held(entry), answer))
    }

    /// Whether the agent has had no server for a while. In it held answers go on being given, and
    /// a first question fails at once.
    pub fn outage(&self) -> bool {
        let link = self.table.backend.link();
        !link.connected && link.since_ms >= OUTAGE_AFTER_MS
    }

    /// How many questions are held now.
    pub fn len(&self) -> usize {
        self.table.lock().len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The question's entry, made and started if there is none.
    fn entry(&self, question: Question, hold: Duration) -> Result<Arc<Entry>, ViewError> {
        let now = self.table.now_ms();
        if let Some(entry) = self.table.lock().get(&question) {
            entry.touch(now);
            return Ok(Arc::clone(entry));
        }
        // Asked without the lock: the link is the backend's business.
        if self.outage() {
            return Err(ViewError::Outage);
        }
        let mut entries = self.table.lock();
        if let Some(entry) = entries.get(&question) {
            entry.touch(now);
            return Ok(Arc::clone(entry));
        }
        if entries.len() >= ENTRIES_MAX {
            evict(&mut entries);
        }
        let entry = Arc::new(Entry::new(question.clone(), now));
        entries.insert(question, Arc::clone(&entry));
        drop(entries);
        let place = Place { table: Arc::clone(&self.table), entry: Arc::clone(&entry) };
        self.tasks.spawn_until_stop("view", async move {
            follow::follow(&place.table, &place.entry, hold).await;
        });
        Ok(entry)
    }
}

impl Table {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Question, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        let since = self.clock.now().saturating_duration_since(self.start);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn held(self: &Arc<Self>, entry: Arc<Entry>) -> Held {
        Held::new(entry, Arc::clone(self))
    }

    /// Takes the entry out, unless another one has its place by now.
    fn remove(&self, entry: &Arc<Entry>) {
        entry.end();
        let mut entries = self.lock();
        if entries.get(&entry.question).is_some_and(|held| Arc::ptr_eq(held, entry)) {
            entries.remove(&entry.question);
        }
    }
}

/// An entry's place in the table, given up when its task ends or is stopped.
struct Place {
    table: Arc<Table>,
    entry: Arc<Entry>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.remove(&self.entry);
    }
}

/// Makes room: ends a sixteenth of the entries, those asked only once before those asked again,
/// and of either the least recently used. So a sweep over names that nobody asks for again cannot
/// push out what is in use; and the sort is paid once for many insertions.
fn evict(entries: &mut HashMap<Question, Arc<Entry>>) {
    let mut order: Vec<Arc<Entry>> = entries.values().map(Arc::clone).collect();
    order.sort_by_key(|entry| entry.worth());
    for entry in order.iter().take((ENTRIES_MAX / 16).max(1)) {
        entry.end();
        entries.remove(&entry.question);
    }
    metrics::counter!("muster.view.evicted").increment((ENTRIES_MAX / 16) as u64);
}

//! One held question.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Answer, Question, Table, ViewError};

/// Version of an entry that will never be renewed again.
const ENDED: u64 = u64::MAX;

/// In `broken_ms`: the subscription works.
const WORKS: u64 = u64::MAX;

#[derive(Debug, Clone)]
pub(super) enum State {
    Asking,
    Answered(Arc<Answer>),
    Failed(ViewError),
}

pub(super) struct Entry {
    pub(super) question: Question,
    /// 0 until the first answer; grows when the rows change; [`ENDED`].
    version: AtomicU64,
    /// When it was last asked for, in milliseconds of the table's time, and whether more than once.
    used_ms: AtomicU64,
    asked_again: AtomicBool,
    /// When the answer was last known to be current, once the servers are lost; else [`WORKS`].
    broken_ms: AtomicU64,
    /// How old the answering server said that its copy was, in milliseconds.
    said_ms: AtomicU64,
    state: watch::Sender<State>,
    end: CancellationToken,
}

impl Entry {
    pub(super) fn new(question: Question, now_ms: u64) -> Self {
        Self {
            question,
            version: AtomicU64::new(0),
            used_ms: AtomicU64::new(now_ms),
            asked_again: AtomicBool::new(false),
            broken_ms: AtomicU64::new(WORKS),
            said_ms: AtomicU64::new(0),
            state: watch::Sender::new(State::Asking),
            end: CancellationToken::new(),
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(super) fn answer(&self) -> Option<Arc<Answer>> {
        match &*self.state.borrow() {
            State::Answered(answer) => Some(Arc::clone(answer)),
            State::Asking | State::Failed(_) => None,
        }
    }

    pub(super) fn touch(&self, now_ms: u64) {
        // Written only when something changes: several workers touch a busy question.
        if self.used_ms.load(Ordering::Relaxed) != now_ms {
            self.used_ms.store(now_ms, Ordering::Relaxed);
        }
        if !self.asked_again.load(Ordering::Relaxed) {
            self.asked_again.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn idle(&self, now_ms: u64) -> Duration {
        Duration::from_millis(now_ms.saturating_sub(self.used_ms.load(Ordering::Relaxed)))
    }

    /// Smallest goes first when room is needed.
    pub(super) fn worth(&self) -> (bool, u64) {
        (self.asked_again.load(Ordering::Relaxed), self.used_ms.load(Ordering::Relaxed))
    }

    /// A current answer. The version moves only if the rows did.
    pub(super) fn set(&self, answer: Arc<Answer>) {
        self.said_ms.store(answer.reply.meta.last_contact_ms, Ordering::Release);
        self.broken_ms.store(WORKS, Ordering::Release);
        let mut moved = true;
        self.state.send_modify(|state| {
            if let State::Answered(old) = state {
                moved = old.reply.body != answer.reply.body;
            }
            *state = State::Answered(answer);
        });
        if moved {
            // After the rows, so that who sees the new version finds them. Never out of ENDED.
            let _ = self.version.fetch_update(Ordering::AcqRel, Ordering::Acquire, |version| {
                (version != ENDED).then(|| version + 1)
            });
        }
    }

    /// The servers cannot be asked now; the answer was current at `confirmed_ms`.
    pub(super) fn set_broken(&self, confirmed_ms: u64) {
        self.broken_ms.store(confirmed_ms, Ordering::Release);
    }

    /// The question has no answer (any more).
    pub(super) fn fail(&self, error: ViewError) {
        self.version.store(ENDED, Ordering::Release);
        self.state.send_replace(State::Failed(error));
    }

    /// No longer followed; the last answer stays readable for who waits for it.
    pub(super) fn end(&self) {
        self.version.store(ENDED, Ordering::Release);
        // Who still waits for a first answer must not wait for ever.
        self.state.send_if_modified(|state| {
            let waiting = matches!(state, State::Asking);
            if waiting {
                *state = State::Failed(ViewError::Busy);
            }
            waiting
        });
        self.end.cancel();
    }

    pub(super) async fn ended(&self) {
        self.end.cancelled().await;
    }
}

/// A handle on a held answer, for who keeps something made of its rows: cheap to ask whether the
/// rows are still the same. Holding it does not keep the question alive; [`Held::touch`] does.
#[derive(Clone)]
pub struct Held {
    entry: Arc<Entry>,
    table: Arc<Table>,
}

impl Held {
    pub(super) fn new(entry: Arc<Entry>, table: Arc<Table>) -> Self {
        Self { entry, table }
    }

    /// Grows whenever the rows change. `None`: no longer held, ask again.
    pub fn version(&self) -> Option<u64> {
        let version = self.entry.version.load(Ordering::Acquire);
        (version != ENDED).then_some(version)
    }

    /// The version of these rows, if they are the ones held now.
    pub fn version_of(&self, answer: &Arc<Answer>) -> Option<u64> {
        // Read before the comparison: a renewal moves the version after it replaced the rows, so
        // a version read too early is too old, and whoever keeps it asks again.
        let version = self.version()?;
        let same = self.entry.answer().is_some_and(|held| Arc::ptr_eq(&held, answer));
        same.then_some(version)
    }

    /// Says that the answer was used.
    pub fn touch(&self) {
        self.entry.touch(self.table.now_ms());
    }

    /// How old the rows may be: what the answering server said, and, while no server can be asked,
    /// the time since.
    pub fn age(&self) -> Duration {
        let said = self.entry.said_ms.load(Ordering::Acquire);
        let broken = match self.entry.broken_ms.load(Ordering::Acquire) {
            WORKS => 0,
            since => self.table.now_ms().saturating_sub(since),
        };
        Duration::from_millis(said.saturating_add(broken))
    }

    /// Whether the subscription works, so that the rows are as new as the server's.
    pub fn current(&self) -> bool {
        self.entry.broken_ms.load(Ordering::Acquire) == WORKS
    }
}

//! Tasks that have a name and an owner.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns named tasks, counts them, and stops and awaits them all. Clones share one set;
/// [`Tasks::child`] makes a subset that can be stopped alone and stops with its parent.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    running: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

/// Which tasks had not ended when the wait for them did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// Name and count of each kind of task that still runs.
    pub unfinished: Vec<(&'static str, usize)>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// A new root.
    pub fn new() -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            running: Arc::default(),
        }
    }

    /// A set of its own that stops with this one.
    pub fn child(&self) -> Self {
        Self { tracker: TaskTracker::new(), stop: self.stop.child_token(), running: Arc::default() }
    }

    /// Runs until it ends by itself; it should watch [`Tasks::stopping`] to end in time.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let counted = Counted::new(name, Arc::clone(&self.running));
        #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
        self.tracker.spawn(async move {
            let _counted = counted;
            future.await;
        });
    }

    /// Runs until it ends or the set is stopped, whichever is first: for work that may be dropped
    /// at any await.
    pub fn spawn_until_stop<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.spawn(name, async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = future => {}
            }
        });
    }

    /// Waits until the set is asked to stop.
    pub fn stopping(&self) -> tokio_util::sync::WaitForCancellationFutureOwned {
        self.stop.clone().cancelled_owned()
    }

    /// The token that is cancelled when the set is asked to stop.
    pub fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Whether the set was asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Asks all tasks of this set and of its children to stop.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Asks all tasks to stop and waits for those of this set, at most `limit`.
    pub async fn stop_and_wait(&self, limit: Duration) -> Stopped {
        self.stop();
        self.tracker.close();
        let _ = tokio::time::timeout(limit, self.tracker.wait()).await;
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        Stopped { unfinished: running.iter().map(|(name, count)| (*name, *count)).collect() }
    }
}

struct Counted {
    name: &'static str,
    running: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

impl Counted {
    fn new(name: &'static str, running: Arc<Mutex<BTreeMap<&'static str, usize>>>) -> Self {
        *running.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_insert(0) += 1;
        Self { name, running }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                running.remove(self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stopping_ends_and_awaits_tasks_and_names_those_that_do_not_end() {
        let tasks = Tasks::new();
        let token = tasks.token();
        tasks.spawn("obedient", async move { token.cancelled().await });
        tasks.spawn_until_stop("droppable", std::future::pending());
        tasks.spawn("stubborn", std::future::pending());
        let stopped = tasks.stop_and_wait(Duration::from_secs(10)).await;
        assert_eq!(stopped.unfinished, [("stubborn", 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_stops_alone_and_with_its_parent() {
        let tasks = Tasks::new();
        let (first, second) = (tasks.child(), tasks.child());
        first.spawn_until_stop("first", std::future::pending());
        second.spawn_until_stop("second", std::future::pending());
        assert!(first.stop_and_wait(Duration::from_secs(1)).await.unfinished.is_empty());
        assert!(!second.is_stopping());
        tasks.stop();
        assert!(second.stop_and_wait(Duration::from_secs(1)).await.unfinished.is_empty());
    }
}

//! The registry of parked reads.

use std::collections::BTreeMap;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use model::Name;

use super::key::{Touched, WatchKey, Watched};
use super::prefixes::Prefixes;
use crate::change::Change;
use crate::hash::RunningHash;

/// Shards of the exact keys: readers on many cores register while one writer wakes.
const SHARDS: usize = 64;

/// Reads that wait, and what wakes them.
#[derive(Debug)]
pub struct Registry {
    shards: Box<[Mutex<Shard>]>,
    kv_prefixes: Mutex<BTreeMap<Name, Prefixes<Arc<Parked>>>>,
    id_prefixes: Mutex<BTreeMap<Name, Prefixes<Arc<Parked>>>>,
    parked: AtomicUsize,
    next: AtomicU64,
}

/// Parked reads by key and number.
type Shard = BTreeMap<(WatchKey, u64), Arc<Parked>>;

#[derive(Debug, Default)]
struct Parked {
    woken: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// A registered read: ready once something that it depends on has changed since it was registered.
/// Dropping it unregisters.
#[derive(Debug)]
#[must_use = "a waiter that is dropped is woken by nothing"]
pub struct Waiter {
    registry: Arc<Registry>,
    parked: Arc<Parked>,
    number: u64,
    keys: Box<[WatchKey]>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            kv_prefixes: Mutex::default(),
            id_prefixes: Mutex::default(),
            parked: AtomicUsize::new(0),
            next: AtomicU64::new(0),
        }
    }
}

impl Registry {
    /// Registers a read that depends on these keys. Register first, then load the state.
    pub fn register(self: &Arc<Self>, keys: &[WatchKey]) -> Waiter {
        let waiter = Waiter {
            registry: Arc::clone(self),
            parked: Arc::default(),
            number: self.next.fetch_add(1, Ordering::Relaxed),
            keys: keys.into(),
        };
        self.parked.fetch_add(1, Ordering::SeqCst);
        for key in &waiter.keys {
            let parked = Arc::clone(&waiter.parked);
            match &key.watched {
                Watched::KvPrefix(prefix) => {
                    let mut trees = lock(&self.kv_prefixes);
                    let tree = trees.entry(Name::clone(&key.namespace)).or_default();
                    tree.insert(prefix, waiter.number, parked);
                }
                Watched::NodeIdPrefix(prefix) => {
                    let mut trees = lock(&self.id_prefixes);
                    let tree = trees.entry(Name::clone(&key.namespace)).or_default();
                    tree.insert(prefix.as_bytes(), waiter.number, parked);
                }
                _ => {
                    lock(self.shard(key)).insert((key.clone(), waiter.number), parked);
                }
            }
        }
        waiter
    }

    /// Wakes the reads that depend on what changed. Publish the state first, then wake.
    pub fn wake(&self, changes: &[Change]) {
        if changes.is_empty() || self.parked() == 0 {
            return;
        }
        let touched = Touched::by(changes);
        let mut found = Vec::new();
        for key in touched.keys {
            let shard = lock(self.shard(&key));
            let (from, to) = ((key.clone(), 0), (key, u64::MAX));
            found.extend(shard.range(from..=to).filter_map(|(_, parked)| parked.mark()));
        }
        if !touched.kv.is_empty() {
            let trees = lock(&self.kv_prefixes);
            for (namespace, key) in &touched.kv {
                if let Some(tree) = trees.get(namespace) {
                    found.extend(tree.of(key).filter_map(|parked| parked.mark()));
                }
            }
        }
        if !touched.ids.is_empty() {
            let trees = lock(&self.id_prefixes);
            for (namespace, id) in &touched.ids {
                if let Some(tree) = trees.get(namespace) {
                    let text = id.to_string().replace('-', "");
                    found.extend(tree.of(text.as_bytes()).filter_map(|parked| parked.mark()));
                }
            }
        }
        // No lock of the registry is held while wakers run.
        found.into_iter().for_each(Waker::wake);
    }

    /// Wakes all reads: after a restore or the installation of a snapshot.
    pub fn wake_all(&self) {
        let mut found: Vec<Waker> = Vec::new();
        for shard in &self.shards {
            found.extend(lock(shard).values().filter_map(|parked| parked.mark()));
        }
        for trees in [&self.kv_prefixes, &self.id_prefixes] {
            let trees = lock(trees);
            let all = trees.values().flat_map(Prefixes::values);
            found.extend(all.filter_map(|parked| parked.mark()));
        }
        found.into_iter().for_each(Waker::wake);
    }

    /// Reads that are registered.
    pub fn parked(&self) -> usize {
        self.parked.load(Ordering::SeqCst)
    }

    fn shard(&self, key: &WatchKey) -> &Mutex<Shard> {
        let mut hasher = KeyHasher(RunningHash::new(0));
        key.hash(&mut hasher);
        &self.shards[(hasher.finish() % SHARDS as u64) as usize]
    }

    fn unregister(&self, waiter: &Waiter) {
        for key in &waiter.keys {
            match &key.watched {
                Watched::KvPrefix(prefix) => {
                    leave(&self.kv_prefixes, &key.namespace, prefix, waiter.number);
                }
                Watched::NodeIdPrefix(prefix) => {
                    leave(&self.id_prefixes, &key.namespace, prefix.as_bytes(), waiter.number);
                }
                _ => {
                    lock(self.shard(key)).remove(&(key.clone(), waiter.number));
                }
            }
        }
        self.parked.fetch_sub(1, Ordering::SeqCst);
    }
}

fn leave(
    trees: &Mutex<BTreeMap<Name, Prefixes<Arc<Parked>>>>,
    namespace: &Name,
    prefix: &[u8],
    number: u64,
) {
    let mut trees = lock(trees);
    if let Some(tree) = trees.get_mut(namespace) {
        tree.remove(prefix, number);
        if tree.is_empty() {
            trees.remove(namespace);
        }
    }
}

impl Parked {
    fn woken(&self) -> bool {
        self.woken.load(Ordering::SeqCst)
    }

    /// Makes it ready; returns the waker to be called once no lock is held.
    fn mark(&self) -> Option<Waker> {
        if self.woken.swap(true, Ordering::SeqCst) {
            return None;
        }
        lock(&self.waker).take()
    }
}

impl Waiter {
    /// Whether it is ready.
    pub fn is_woken(&self) -> bool {
        self.parked.woken()
    }
}

impl Future for Waiter {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.parked.woken() {
            return Poll::Ready(());
        }
        {
            let mut waker = lock(&self.parked.waker);
            match &mut *waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
        }
        // It may have been woken before the waker was in place.
        if self.parked.woken() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.registry.unregister(self);
    }
}

/// Chooses shards; fixed, so that runs repeat.
struct KeyHasher(RunningHash);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0.value()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.bytes(bytes);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Parked reads: every change of an answer wakes its reader and raises its index; nothing else
//! does. And the registry under threads.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use model::LogIndex;
use model::command::{Command, KvCommandV1};
use proptest::prelude::*;

use super::fixture::{Machine, NS, bytes, envelope, get, list, put};
use super::properties::entries;
use super::random::{reads, steps};
use crate::{Registry, State, Waiter, apply, query, watch_keys};

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(waiter: &mut Waiter, waker: &Waker) -> Poll<()> {
    Pin::new(waiter).poll(&mut Context::from_waker(waker))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_wakes_exactly_when_its_answer_may_have_changed(steps in steps(1..40)) {
        let registry: Arc<Registry> = Arc::default();
        let reads = reads();
        let mut state = State::default();
        for entry in entries(steps) {
            let parked: Vec<_> = reads
                .iter()
                .map(|op| {
                    let waiter = registry.register(&watch_keys(NS, op));
                    (op, query(&state, NS, op).expect("a read"), waiter)
                })
                .collect();
            prop_assert_eq!(registry.parked(), reads.len());
            let (_, changes) = apply(&mut state, std::slice::from_ref(&entry)).remove(0);
            registry.wake(&changes);
            for (op, before, waiter) in parked {
                let after = query(&state, NS, op).expect("a read");
                if before.body != after.body {
                    prop_assert!(waiter.is_woken(), "{:?} missed {:?}", op, entry);
                }
                if waiter.is_woken() {
                    prop_assert_eq!(
                        after.index, entry.0, "{:?} woke in vain for {:?}", op, entry
                    );
                }
                if changes.is_empty() {
                    prop_assert!(!waiter.is_woken());
                }
            }
            prop_assert_eq!(registry.parked(), 0);
        }
    }
}

#[test]
fn a_waiter_is_woken_once_and_only_for_its_keys() {
    let registry: Arc<Registry> = Arc::default();
    let mut machine = Machine::default();
    let count: Arc<Count> = Arc::default();
    let waker = Waker::from(Arc::clone(&count));
    let mut key = registry.register(&watch_keys(NS, &get("a")));
    let mut prefix = registry.register(&watch_keys(NS, &list("a")));
    let mut foreign = registry.register(&watch_keys("elsewhere", &get("a")));
    let idle = registry.register(&[]);
    assert_eq!(registry.parked(), 4);
    machine.set("b", "x");
    registry.wake(&machine.changes);
    for waiter in [&mut key, &mut prefix, &mut foreign] {
        assert_eq!(poll(waiter, &waker), Poll::Pending);
    }
    machine.set("a", "x");
    registry.wake(&machine.changes);
    machine.set("a", "y");
    registry.wake(&machine.changes);
    assert_eq!(count.0.load(Ordering::SeqCst), 2);
    assert_eq!(poll(&mut key, &waker), Poll::Ready(()));
    assert_eq!(poll(&mut prefix, &waker), Poll::Ready(()));
    assert_eq!(poll(&mut foreign, &waker), Poll::Pending);
    registry.wake_all();
    assert_eq!(poll(&mut foreign, &waker), Poll::Ready(()));
    assert!(!idle.is_woken(), "no key, no wake-up");
    drop((key, prefix, foreign, idle));
    assert_eq!(registry.parked(), 0);
    machine.set("a", "z");
    registry.wake(&machine.changes);
    assert_eq!(count.0.load(Ordering::SeqCst), 3);
}

#[test]
fn woken_before_the_first_poll_is_ready_at_it() {
    let registry: Arc<Registry> = Arc::default();
    let mut machine = Machine::default();
    let mut waiter = registry.register(&watch_keys(NS, &list("")));
    machine.set("a", "x");
    registry.wake(&machine.changes);
    assert_eq!(poll(&mut waiter, Waker::noop()), Poll::Ready(()));
}

/// Readers on threads follow a key through all its values by parking; the writer writes as fast as
/// it can. A lost wake-up leaves a reader parked for ever: then the test does not end.
#[test]
fn no_wake_up_is_lost_between_threads() {
    const WRITES: u64 = 2_000;
    struct Thread(std::thread::Thread);
    impl Wake for Thread {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let registry: Arc<Registry> = Arc::default();
    let published = Mutex::new(Arc::new(State::default()));
    let load = || Arc::clone(&published.lock().expect("not poisoned"));
    std::thread::scope(|scope| {
        for op in [get("a/k"), list("a/"), list(""), get("a/k")] {
            let (registry, load) = (&registry, &load);
            scope.spawn(move || {
                let waker = Waker::from(Arc::new(Thread(std::thread::current())));
                let mut seen = LogIndex(1);
                while seen.0 < WRITES {
                    let mut waiter = registry.register(&watch_keys(NS, &op));
                    let answer = query(&load(), NS, &op).expect("a read");
                    if answer.index > seen {
                        seen = answer.index;
                        continue;
                    }
                    while poll(&mut waiter, &waker).is_pending() {
                        std::thread::park();
                    }
                }
            });
        }
        let mut state = State::default();
        for index in 1..=WRITES {
            let value = index.to_string();
            let command = Command::KvV1(KvCommandV1::Set(put("a/k", &value)));
            let entry = (LogIndex(index), envelope(command, None, index));
            let (_, changes) = apply(&mut state, &[entry]).remove(0);
            *published.lock().expect("not poisoned") = Arc::new(state.clone());
            registry.wake(&changes);
        }
    });
    assert_eq!(registry.parked(), 0);
    assert_eq!(load().kv(NS, &bytes("a/k")).expect("written").version, WRITES);
}

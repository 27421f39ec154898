//! What the process tests share: real `muster` processes on loopback addresses of their own, a
//! small HTTP client, and waiting for conditions.
//!
//! Every test has a loopback network of its own (127.x.y.0), so tests run side by side with the
//! default ports. Nothing here sleeps and hopes: [`eventually`] waits for a condition and fails
//! with what it last saw.

#![allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]

pub(crate) mod disk;
pub(crate) mod ground;
pub(crate) mod http;
pub(crate) mod net;
pub(crate) mod process;

use std::time::{Duration, Instant};

pub(crate) use http::http;
pub(crate) use net::Network;
pub(crate) use process::Muster;

/// Longest time that a condition is waited for, when the test names no other.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Monotonic time.
#[expect(clippy::disallowed_methods, reason = "tests of real processes wait in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A thread that a test joins.
#[expect(clippy::disallowed_methods, reason = "tests drive real processes from several sides")]
pub(crate) fn thread<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    std::thread::spawn(run)
}

/// Waits until `look` gives a value; fails after [`PATIENCE`] with what it said last.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    within(PATIENCE, what, look)
}

/// Like [`eventually`] with a limit of its own.
#[track_caller]
pub(crate) fn within<T>(
    limit: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let start = now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(last) if start.elapsed() > limit => {
                panic!("not within {limit:?}: {what}; last seen: {last}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

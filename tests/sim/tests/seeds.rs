//! Many seeds without a bug: nothing may be wrong.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sim::{Report, Scenario, run};

/// Seeds of one run of the tests, when nothing else is said: at least so many, for this long.
const SEEDS_LEAST: u64 = 50;
const SEEDS_TIME: Duration = Duration::from_secs(150);
/// The same, of those that let one server reach for another's leadership.
const USURPERS_LEAST: u64 = 5;
/// The same, of those that save archives and restore them.
const RESTORES_LEAST: u64 = 10;

fn variable(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "the way to say which seeds to run")]
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[expect(clippy::print_stdout, reason = "figures for people")]
fn show(seed: u64, report: &Report, took: Duration) {
    let Report { counts, crashes, term, entries, expired, time, .. } = report;
    println!(
        "seed {seed}: {time:?} in {took:.1?}, {counts:?}, {crashes} crashes, term {term}, {entries} \
         entries, {expired} sessions expired"
    );
}

/// With TRACE=file the whole story of the last run goes there.
pub(crate) fn keep(report: &Report) {
    #[expect(clippy::disallowed_methods, reason = "the way to ask for it")]
    if let Some(path) = std::env::var_os("TRACE") {
        std::fs::write(path, &report.trace).expect("the trace is written");
    }
}

/// Runs the seeds that the environment names, or `least` ones and as many more as fit into
/// `for_long`; none may fail.
fn all_well(test: &str, least: u64, for_long: Duration, scenario: fn(u64) -> Scenario) {
    let (first, count, for_long) = match variable("SEED") {
        Some(seed) => (seed, 1, Duration::ZERO),
        None => {
            let for_long = if variable("SEEDS").is_some() { Duration::ZERO } else { for_long };
            (variable("FIRST").unwrap_or(1), variable("SEEDS").unwrap_or(least), for_long)
        }
    };
    let (next, failed) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let now = || {
        #[expect(clippy::disallowed_methods, reason = "real time, for people")]
        Instant::now()
    };
    let start = now();
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        let begun = now();
        if seed >= first + count && begun - start >= for_long {
            return;
        }
        let report = run(scenario(seed));
        show(seed, &report, begun.elapsed());
        keep(&report);
        if let Some(what) = &report.failure {
            failed.lock().expect("no panic").push(format!(
                "{what}\nreplay: (cd tests/sim && SEED={seed} cargo test -p sim --profile sim --test \
                 sim {test} -- --nocapture)"
            ));
        }
    };
    // Two at a time: each run has one thread.
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let failed = failed.into_inner().expect("no panic");
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n\n"));
}

#[test]
fn seeds() {
    all_well("seeds::seeds", SEEDS_LEAST, SEEDS_TIME, Scenario::new);
}

#[test]
fn usurpers() {
    all_well("seeds::usurpers", USURPERS_LEAST, Duration::ZERO, Scenario::usurpers);
}

#[test]
fn restores() {
    all_well("seeds::restores", RESTORES_LEAST, Duration::ZERO, Scenario::restores);
}

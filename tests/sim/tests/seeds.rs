//! Many seeds without a bug: nothing may be wrong.

use std::time::{Duration, Instant};

use sim::{Report, Scenario, run};

/// Seeds of one run of the tests, when nothing else is said.
const SEEDS_DEFAULT: u64 = 50;
/// The same, of those that let one server reach for another's leadership.
const USURPERS_DEFAULT: u64 = 5;

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

/// Runs the seeds that the environment names, or `default` ones; none may fail.
fn all_well(test: &str, default: u64, scenario: impl Fn(u64) -> Scenario) {
    let (first, count) = match variable("SEED") {
        Some(seed) => (seed, 1),
        None => (variable("FIRST").unwrap_or(1), variable("SEEDS").unwrap_or(default)),
    };
    let mut failed = Vec::new();
    for seed in first..first + count {
        #[expect(clippy::disallowed_methods, reason = "real time, for people")]
        let begun = Instant::now();
        let report = run(scenario(seed));
        show(seed, &report, begun.elapsed());
        keep(&report);
        if let Some(what) = &report.failure {
            failed.push(format!(
                "{what}\nreplay: (cd tests/sim && SEED={seed} cargo test -p sim --profile sim --test \
                 sim {test} -- --nocapture)"
            ));
        }
    }
    assert!(failed.is_empty(), "{} of {count} failed:\n{}", failed.len(), failed.join("\n\n"));
}

#[test]
fn seeds() {
    all_well("seeds", SEEDS_DEFAULT, Scenario::new);
}

#[test]
fn usurpers() {
    all_well("usurpers", USURPERS_DEFAULT, Scenario::usurpers);
}

//! Each planted bug must be found. The seeds are tried in order; how many it takes is in README.md.

use sim::{Bug, Report, Scenario, run};

/// Runs until one fails, at most this many.
const RUNS_MAX: u64 = 80;

fn find(bug: Bug, scenario: impl Fn(u64) -> Scenario) -> Report {
    for seed in 1..=RUNS_MAX {
        let report = run(Scenario { bug: Some(bug), ..scenario(seed) });
        crate::seeds::keep(&report);
        if let Some(what) = &report.failure {
            #[expect(clippy::print_stdout, reason = "figures for people")]
            {
                let first = what.lines().next().unwrap_or_default();
                println!("| {bug:?} | {seed} | {:.0} | {first} |", report.time.as_secs_f64());
            }
            return report;
        }
    }
    panic!("{bug:?} was not found by {RUNS_MAX} seeds");
}

#[test]
fn a_vote_that_is_not_saved() {
    find(Bug::VoteNotSaved, Scenario::new);
}

#[test]
fn a_commit_without_a_quorum() {
    find(Bug::CommitWithoutQuorum, Scenario::new);
}

#[test]
fn a_lease_that_is_not_checked() {
    find(Bug::LeaseNotChecked, Scenario::new);
}

#[test]
fn a_restarted_server_that_votes_at_once() {
    find(Bug::VoteGuardOff, Scenario::usurpers);
}

#[test]
fn a_call_back_before_the_sync() {
    find(Bug::CallbackBeforeSync, Scenario::new);
}

#[test]
fn a_retried_write_that_is_applied_again() {
    find(Bug::AppliedTwice, Scenario::new);
}

#[test]
fn a_truncation_behind_later_appends() {
    find(Bug::TruncateNotOrdered, Scenario::new);
}

#[test]
fn a_snapshot_without_its_last_entry() {
    find(Bug::SnapshotWithoutLast, Scenario::new);
}

#[test]
fn a_restart_that_forgets() {
    find(Bug::RestartForgets, Scenario::new);
}

#[test]
fn a_stale_read_answered_as_consistent() {
    find(Bug::StaleAsConsistent, Scenario::new);
}

#[test]
fn a_session_that_ends_early() {
    find(Bug::SessionEndedEarly, Scenario::new);
}

#[test]
fn a_restore_that_tells_nobody() {
    find(Bug::RestoreWithoutEpoch, Scenario::restores);
}

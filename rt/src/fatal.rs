//! The one way for a process to die at once.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Ends the process with one line on stderr and exit code 1, without clean-up: for storage errors
/// and for panics in the state, Raft or gossip, after which going on would spread damage.
///
/// `what` is the fact with its value, `place` the file or room, `remedy` what to do. In a
/// simulation, whose process holds many nodes, it panics instead.
pub fn fatal(what: &str, place: &str, remedy: &str) -> ! {
    tracing::error!(%what, %place, %remedy, "fatal");
    #[cfg(feature = "sim")]
    panic!("fatal: {what}; in {place}; {remedy}");
    #[cfg(not(feature = "sim"))]
    {
        #[expect(clippy::print_stderr, reason = "the last words of the process")]
        {
            eprintln!("fatal: {what}; in {place}; {remedy}");
        }
        #[expect(clippy::exit, clippy::disallowed_methods, reason = "the one place for it")]
        std::process::exit(1)
    }
}

/// Runs `work`; a panic in it ends the process by [`fatal`].
pub fn fatal_on_panic<T>(place: &str, work: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(value) => value,
        Err(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "panic".to_owned());
            fatal(&text, place, "this is a defect: keep the data directory and report it")
        }
    }
}

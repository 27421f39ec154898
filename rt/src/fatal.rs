//! The one way for a process to die at once.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

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
            fatal(&text(&*panic), place, "this is a defect: keep the data directory and report it")
        }
    }
}

thread_local! {
    /// Whether a panic of this thread is expected and reported by whoever catches it.
    static REPORTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; a panic in it is returned as its text, and nothing is printed about it.
///
/// For libraries that panic on damaged input which they should have refused: their panic is a fact
/// about the input. It is no way to go on after a defect of ours.
pub fn panic_as_error<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !REPORTED.get() {
                before(panic);
            }
        }));
    });
    let outer = REPORTED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    REPORTED.set(outer);
    result.map_err(|panic| text(&*panic))
}

fn text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_text_and_the_next_one_is_printed_again() {
        let broken = panic_as_error(|| -> u8 { panic!("page {} makes no sense", 7) });
        assert_eq!(broken, Err("page 7 makes no sense".to_owned()));
        assert_eq!(panic_as_error(|| 3), Ok(3));
        assert!(!REPORTED.get());
    }
}

//! What happened, in order: equal bytes for equal seeds.

use std::fmt::{Arguments, Write as _};
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Lines that a failure shows: the end of the story.
const SHOWN_LINES: usize = 60;

/// The record of a run.
pub(crate) struct Trace {
    start: Instant,
    text: Mutex<String>,
}

impl Trace {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), text: Mutex::default() }
    }

    /// Microseconds since the start, virtual ones.
    pub(crate) fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(crate) fn note(&self, what: Arguments<'_>) {
        let now = self.now_us();
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(text, "{now:>10} {what}");
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone().into_bytes()
    }

    /// Its last lines, without the messages of the network.
    pub(crate) fn tail(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains(" net ")).collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

//! Health checks of this node: cores decide, drivers probe.
//!
//! | module | what |
//! |---|---|
//! | `ttl` | when a check that waits to be told turns critical (core) |
//! | `threshold` | how many results in a row count (core) |
//! | `output` | how much of an output is kept (core) |
//! | `schedule` | whose turn it is (core) |
//! | `tcp`, `http`, `command` | probes |
//! | `runner` | the one driver of all checks of the node |

mod command;
mod http;
pub(crate) mod output;
mod runner;
mod schedule;
mod tcp;
mod threshold;
mod ttl;

pub(crate) use runner::run;
pub(crate) use ttl::{TtlCheck, expired_text as ttl_expired_text};

use model::row::Status;

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The status that it speaks for.
    pub(crate) status: Status,
    /// What to show, already cut to the check's limit.
    pub(crate) output: String,
    /// Counts at once, whatever the thresholds say.
    pub(crate) final_word: bool,
}

impl Finding {
    pub(crate) fn new(status: Status, output: String) -> Self {
        Self { status, output, final_word: false }
    }
}

//! Parked reads, and what wakes them. A write costs what it wakes, not what is parked.
//!
//! No wake-up is lost as long as a reader registers before it loads the state, and the writer
//! publishes the state before it wakes: either the reader sees the new state, or the writer sees
//! the reader.

mod key;
mod prefixes;
mod registry;

pub use key::{WatchKey, Watched};
pub use registry::{Registry, Waiter};

//! What drivers run on: named tasks that are stopped and awaited ([`Tasks`]), time ([`Clock`]),
//! seeded randomness ([`Rng`]), and the one way for a process to die at once ([`fatal()`]).
//!
//! What it is not: it holds no rules of the product. Cores take the time and a random source as
//! arguments; only drivers use this crate.

mod clock;
mod fatal;
mod rng;
mod tasks;

pub use clock::Clock;
pub use fatal::{fatal, fatal_on_panic, panic_as_error};
pub use rng::{Rng, StdRng};
pub use tasks::{Stopped, Tasks};

//! The state machine of a datacenter: tables, what commands do to them, what reads find in them,
//! what wakes a read that waits, and snapshots.
//!
//! What it is not: it reads no clock, file, socket or random source, and knows no runtime. All it
//! needs is inside the command, so replicas fed one log are equal byte for byte ([`State::hash`]).
//!
//! | module | what |
//! |---|---|
//! | [`State`] | one value holding everything; a clone is O(1) and is a snapshot |
//! | `table/` | typed tables on persistent ordered maps, each with its secondary indexes |
//! | `indexes` | table, service, node and extinction indexes: what blocking reads compare |
//! | `retries` | a retried write applies once: the rule and its proof are written there |
//! | [`apply()`] | log entries to outcomes and changes |
//! | [`change`], [`ring`] | changes as values, and the recent ones kept in a bounded ring |
//! | [`query()`], [`watch_keys`] | reads, their indexes, and what a parked one depends on |
//! | [`watch`] | the registry of parked reads; a write costs what it wakes |
//! | [`snapshot`] | the state as sorted blocks, and back |
//! | [`stage`] | a state that arrives in pieces to replace this one |
//! | `invariant` | what must always hold ([`State::verify`]) |
//!
//! The driver's order, without which a wake-up is lost: a reader registers, then loads the state,
//! then parks; the writer publishes the state, then wakes.

mod apply;
pub mod change;
mod fold;
mod hash;
mod indexes;
mod intern;
mod invariant;
mod query;
mod retries;
pub mod ring;
pub mod snapshot;
pub mod stage;
mod state;
mod table;
#[cfg(test)]
mod tests;
mod txn;
pub mod watch;

pub use apply::apply;
pub use change::{Change, Changes, Key, Raised, Row, Table};
pub use query::{Answered, query, watch_keys};
pub use ring::ChangeRing;
pub use state::State;
pub use watch::{Registry, Waiter, WatchKey, Watched};

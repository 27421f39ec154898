//! Who is in the cluster: SWIM by foca on a thread of its own, behind our own envelope, codec,
//! member table and stream exchange. Gossip is a hint about liveness; the catalog in Raft is the
//! authority.
//!
//! | files | what |
//! |---|---|
//! | `core`, `notes`, `undead`, `checking`, `dial`, `merge`, `leaving`, `reconnect` | the core: events and time in, effects out |
//! | `known`, `codec`, `identity`, `turn`, `timers` | what stands between foca and the rest |
//! | `table`, `record`, `broadcast` | what we hold of everybody, and how news of it spreads |
//! | `envelope`, `exchange`, `wire` | bytes; README.md has them one by one |
//! | `driver`, `stream`, `peers`, `start`, `join` | sockets, the file, the thread, finding others |

pub(crate) mod announce;
mod broadcast;
mod checking;
mod codec;
mod config;
mod core;
mod dial;
mod driver;
mod envelope;
mod exchange;
mod handle;
mod identity;
pub mod join;
mod known;
mod leaving;
mod merge;
mod notes;
mod peers;
mod reconnect;
mod record;
mod start;
mod stream;
mod table;
mod timers;
mod turn;
mod undead;
mod wire;

pub use config::{GossipConfig, GossipError, TOMBSTONE_TIMEOUT, Timing};
pub use handle::{Contact, Gossip};
pub use start::start;

#[cfg(test)]
mod tests;

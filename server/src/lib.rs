//! What only servers run: Raft, the RPC endpoint, the leader's duties, and how a first
//! configuration comes about. The state machine is crate `state`.
//!
//! What it is not: it knows nothing of HTTP, DNS or the agent; it meets gossip through
//! [`model::seam::Cluster`] and gives agents a [`model::seam::Backend`].
//!
//! | module | what |
//! |---|---|
//! | [`start`](start()) | joins all of it |
//! | [`config`] | settings |
//! | `bootstrap` | who makes the first configuration |
//! | `endpoint` | what happens to each request |
//! | `leader` | what only the leader does |
//! | [`consensus`] | the seam to Raft |
//! | [`raft`] | Raft |
//! | `sim` | the seams for tests/sim (feature `sim`) |

mod bootstrap;
pub mod config;
pub mod consensus;
mod endpoint;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod leader;
#[cfg(feature = "planted")]
pub mod planted;
pub mod raft;
#[cfg(feature = "sim")]
pub mod sim;
mod start;

pub use config::{Bootstrap, Config, SnapshotSchedule};
pub use endpoint::{AllowAll, Authorizer, Need};
pub use start::{StartError, start};

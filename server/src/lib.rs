//! What only servers run: Raft ([`raft`]), the RPC endpoint ([`endpoint`]) and the leader's duties
//! ([`leader`]). The state machine is crate `state`.
//!
//! What it is not: it knows nothing of HTTP, DNS or the agent; it meets gossip through
//! [`model::seam::Cluster`] and gives agents a [`model::seam::Backend`].

pub mod config;
pub mod consensus;

pub use config::{Bootstrap, Config};

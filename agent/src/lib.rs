//! What every node runs: gossip, health checks, this node's definitions, and the doors HTTP and
//! DNS.
//!
//! What it is not: it never depends on the server; it asks servers through
//! [`model::seam::Backend`].

pub mod config;
pub mod local;

pub use config::Config;

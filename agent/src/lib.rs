//! What every node runs: gossip, health checks, this node's definitions, and the doors HTTP and
//! DNS.
//!
//! What it is not: it never depends on the server; it asks servers through
//! [`model::seam::Backend`].

mod checks;
pub mod config;
pub mod dns;
pub mod gossip;
pub mod http;
pub mod local;
mod run;
pub mod view;

pub use config::Config;
pub use run::{Agent, Outside, StartError, start};

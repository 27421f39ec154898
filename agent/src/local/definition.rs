//! Definitions of services and checks, as files and HTTP clients write them.
//!
//! Invariant: what is stored in `local.redb` is the encoding of these types; a change of them needs
//! a new version of that file.

mod check;
mod fields;
mod proxy;
mod service;

use std::time::Duration;

use model::row::{CheckV1, ServiceV1, Status};
use serde::{Deserialize, Serialize};

pub(crate) use check::maintenance_check;
pub use check::{parse_api_check, parse_file_check};
pub use service::{parse_api_service, parse_file_service};

/// Why a definition is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// The body is no such object; the detail is worded as by Go's decoder (400).
    #[error("Request decode failed: {0}")]
    Decode(String),
    /// A rule is broken; the text is Consul's (400).
    #[error("{0}")]
    Invalid(String),
    /// A rule is broken that Consul answers as its own fault (500).
    #[error("{0}")]
    Internal(String),
}

/// A service of this node: the row for the catalog and its checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceDefinition {
    /// Row for the catalog; node and indexes are filled in when it is pushed.
    pub service: ServiceV1,
    /// Its checks, with ids and names already given.
    pub checks: Vec<CheckDefinition>,
    /// Token to register with; empty: the agent's.
    pub token: String,
}

/// A check of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckDefinition {
    /// Row for the catalog, with its initial status.
    pub check: CheckV1,
    /// What is done to find the status.
    pub probe: Probe,
    /// Pause between the end of one probe and the start of the next.
    pub interval: Duration,
    /// Longest time of one probe.
    pub timeout: Duration,
    /// Consecutive successes before passing.
    pub success_before_passing: u32,
    /// Consecutive failures before warning.
    pub failures_before_warning: u32,
    /// Consecutive failures before critical.
    pub failures_before_critical: u32,
    /// A service critical for longer is deregistered; zero: never.
    pub deregister_critical_after: Duration,
    /// Bytes of output kept; 0: the agent's limit.
    pub output_bytes_max: usize,
    /// Token to register with; empty: the agent's.
    pub token: String,
}

impl CheckDefinition {
    /// Status before the first result.
    pub fn initial_status(&self) -> Status {
        self.check.status
    }

    /// Bytes of output kept, where the agent keeps this many.
    pub fn output_limit(&self, agent_bytes_max: usize) -> usize {
        match self.output_bytes_max {
            0 => agent_bytes_max,
            own => own.min(agent_bytes_max),
        }
    }
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// Waits to be told, at least every so often.
    Ttl(Duration),
    /// Connects.
    Tcp {
        /// `host:port`.
        address: String,
        /// With a TLS handshake.
        tls: bool,
    },
    /// Asks over HTTP.
    Http {
        /// URL.
        url: String,
        /// Method.
        method: String,
        /// Headers in order.
        headers: Vec<(String, String)>,
        /// Body.
        body: String,
        /// Do not follow redirects.
        disable_redirects: bool,
        /// Do not verify certificates.
        tls_skip_verify: bool,
        /// Name for SNI and verification; empty: the URL's host.
        tls_server_name: String,
    },
    /// Runs a program.
    Command(Vec<String>),
    /// Set by hand: maintenance mode.
    Maintenance,
}

#[cfg(test)]
mod tests;

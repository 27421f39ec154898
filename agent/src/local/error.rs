//! Why this node's room refuses.

use model::duration::quote;

use super::store::StoreError;

/// Why a change of this node's services and checks was refused. The texts are Consul's.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// No service of this id is registered here.
    #[error(
        "Unknown service ID {}. Ensure that the service ID is passed, not the service name.",
        quote(.0)
    )]
    UnknownService(String),
    /// No check of this id is registered here.
    #[error(
        "Unknown check ID {}. Ensure that the check ID is passed, not the check name.",
        quote(.0)
    )]
    UnknownCheck(String),
    /// A check names a service that is not registered here.
    #[error("ServiceID {} does not exist", quote(.0))]
    MissingService(String),
    /// The check is not one that waits to be told.
    #[error("CheckID {} does not have associated TTL", quote(.0))]
    NotTtl(String),
    /// Command checks from clients are off.
    #[error(
        "Scripts are disabled on this agent from remote calls; to enable, configure \
         'enable_script_checks' to true"
    )]
    ScriptsDisabledRemote,
    /// Command checks from files are off.
    #[error(
        "Scripts are disabled on this agent; to enable, configure 'enable_script_checks' or \
         'enable_local_script_checks' to true"
    )]
    ScriptsDisabled,
    /// This node already has as many as it may.
    #[error("this agent already has {limit} {what}, the most it takes; deregister some first")]
    Full {
        /// `services` or `checks`.
        what: &'static str,
        /// How many it takes.
        limit: usize,
    },
    /// A definition of a configuration file cannot be used.
    #[error("{what}: {cause}")]
    File {
        /// Which one.
        what: String,
        /// Why.
        #[source]
        cause: Box<LocalError>,
    },
    /// The definitions on disk could not be read or written.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

//! What the HTTP door needs of the rest of the agent.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use model::seam::{Backend, Cluster};
use rt::{Clock, Rng};
use tokio::sync::{mpsc, oneshot, watch};

use super::error::ApiError;
use crate::config::{Config, Reloadable};

/// What every endpoint may use. Endpoints that need more (this node's definitions, the view)
/// bring it themselves: a handler is a closure, and [`super::start`] takes further routes.
pub struct Context {
    /// Settings for the life of the process.
    pub config: Arc<Config>,
    /// Settings that a reload replaces.
    pub reloadable: watch::Receiver<Arc<Reloadable>>,
    /// The way to the servers.
    pub backend: Arc<dyn Backend>,
    /// Gossip.
    pub cluster: Arc<dyn Cluster>,
    /// Orders to the whole agent.
    pub control: mpsc::Sender<Control>,
    /// Decides what agent-local endpoints a token may use.
    pub authorizer: Arc<dyn Authorizer>,
    /// Time.
    pub clock: Clock,
    /// Randomness: jitter of waits.
    pub rng: Rng,
    /// Metrics as Prometheus text.
    pub metrics: PrometheusHandle,
}

/// An order to the whole agent. The answer is sent when it is done.
#[derive(Debug)]
pub enum Control {
    /// Leave the cluster and stop.
    Leave(oneshot::Sender<Result<(), String>>),
    /// Read the configuration again.
    Reload(oneshot::Sender<Result<(), String>>),
}

/// What a route needs of the caller's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Nothing.
    Open,
    /// The server that answers decides, per object.
    ByServer,
    /// The handler decides, because it depends on the object.
    ByHandler,
    /// `agent:read` on this node.
    AgentRead,
    /// `agent:write` on this node.
    AgentWrite,
    /// `operator:read`.
    OperatorRead,
    /// `operator:write`.
    OperatorWrite,
    /// `node:write` on this node.
    NodeWrite,
}

/// Decides what a token may do with this agent. Servers decide about everything else.
pub trait Authorizer: Send + Sync + 'static {
    /// Whether this token has this permission.
    fn allow(&self, token: &str, permission: Permission) -> Result<(), ApiError>;
}

/// ACLs are off: every token is accepted.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAll;

impl Authorizer for AllowAll {
    fn allow(&self, _token: &str, _permission: Permission) -> Result<(), ApiError> {
        Ok(())
    }
}

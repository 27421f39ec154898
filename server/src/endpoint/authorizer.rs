//! Who may do what. Every request passes through here, also while everything is allowed.

use std::sync::Arc;

use bytes::Bytes;
use model::Name;
use model::rpc::{Body, Op, RpcError};

/// What an operation needs, in the words of ACL rules (spec: http-api-1 §17.1, http-api-2 §6.14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Nothing: everybody may ask.
    Nothing,
    /// Nothing up front: what the token may not see is removed from the answer.
    Filtered,
    /// `key:read`.
    KeyRead(Bytes),
    /// `key:write`.
    KeyWrite(Bytes),
    /// `key:write` on all keys with the prefix.
    KeyWritePrefix(Bytes),
    /// `session:write` on the node.
    SessionWrite(Name),
    /// `session:write` on the node of this session, if it exists.
    SessionWriteOf(Name),
    /// What a registration touches: node, services, checks.
    Registration {
        /// The node.
        node: Name,
        /// Names of the services.
        services: Vec<Name>,
    },
    /// A service of a node, by its id: what a deregistration touches, or a check of it.
    Deregistration {
        /// The node.
        node: Name,
        /// Id of the service, if it is one.
        service: Option<Name>,
    },
    /// `node:write`.
    NodeWrite(Name),
    /// `service:write` for the service of this name.
    ServiceWrite(Name),
    /// `operator:read`.
    OperatorRead,
    /// `operator:write`.
    OperatorWrite,
    /// A management token: `acl:write`. Who takes or brings the whole state has all secrets in it.
    Management,
}

/// Decides what a token may do. The endpoint asks on the server that answers.
pub trait Authorizer: Send + Sync + 'static {
    /// Whether the token has what is needed.
    fn authorize(&self, token: &str, need: &Need) -> Result<(), RpcError>;

    /// Removes from an answer what the token may not see; its index has been computed before.
    fn filter(&self, token: &str, op: &Op, body: Body) -> Body;
}

/// Allows everything: while there are no ACLs.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAll;

impl Authorizer for AllowAll {
    fn authorize(&self, _token: &str, _need: &Need) -> Result<(), RpcError> {
        Ok(())
    }

    fn filter(&self, _token: &str, _op: &Op, body: Body) -> Body {
        body
    }
}

impl AllowAll {
    /// As the endpoint holds it.
    pub fn shared() -> Arc<dyn Authorizer> {
        Arc::new(Self)
    }
}

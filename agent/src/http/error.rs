//! Why a request got no answer, and the one place where that becomes a status.

use http::StatusCode;
use model::command::Rejection;
use model::rpc::RpcError;

/// An answer that is an error. Its text is the body, byte for byte: clients match on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The client's mistake, found at the door.
    #[error("{0}")]
    BadRequest(String),
    /// An endpoint that needs ACLs while they are off.
    #[error("{0}")]
    Unauthorized(String),
    /// The token may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// There is no such object.
    #[error("{0}")]
    NotFound(String),
    /// The path exists, but not with this method.
    #[error("method {method} not allowed")]
    Method {
        /// What the client used.
        method: String,
        /// What it may use: value of `Allow`.
        allow: String,
    },
    /// The body is larger than the endpoint reads.
    #[error(
        "Request body({found} bytes) too large, max size: {limit} bytes. See the limits in the \
         documentation."
    )]
    TooLarge {
        /// Bytes announced, or read before reading stopped.
        found: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// What was asked for is more than the endpoint takes.
    #[error("{0}")]
    TooMuch(String),
    /// The body did not arrive in time.
    #[error("Request body did not arrive in time")]
    SlowBody,
    /// The body ended early or was malformed.
    #[error("Request decode failed: {0}")]
    BrokenBody(String),
    /// What a server said.
    #[error("{0}")]
    Rpc(#[from] RpcError),
    /// Anything that Consul answers with 500, client mistakes included where it does so.
    #[error("{0}")]
    Internal(String),
}

impl ApiError {
    /// The status of this error.
    pub fn status(&self) -> StatusCode {
        match self {
            ApiError::BadRequest(_) | ApiError::BrokenBody(_) => StatusCode::BAD_REQUEST,
            ApiError::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            ApiError::Forbidden(_) => StatusCode::FORBIDDEN,
            ApiError::NotFound(_) => StatusCode::NOT_FOUND,
            ApiError::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            ApiError::TooLarge { .. } | ApiError::TooMuch(_) => StatusCode::PAYLOAD_TOO_LARGE,
            ApiError::SlowBody => StatusCode::REQUEST_TIMEOUT,
            ApiError::Rpc(error) => rpc_status(error),
            ApiError::Internal(text) => text_status(text),
        }
    }
}

/// The status of what a server said. A mistake that a server found is 500 on purpose: clients
/// retry or give up by it.
fn rpc_status(error: &RpcError) -> StatusCode {
    match error {
        RpcError::PermissionDenied(_) | RpcError::AclNotFound => StatusCode::FORBIDDEN,
        RpcError::Busy | RpcError::Rejected(Rejection::TooManyOpen) => {
            StatusCode::TOO_MANY_REQUESTS
        }
        RpcError::NotFound(_) => StatusCode::NOT_FOUND,
        RpcError::Rejected(rejection) => text_status(&rejection.to_string()),
        RpcError::NoLeader
        | RpcError::NoServers
        | RpcError::NoPathToDatacenter
        | RpcError::NotReady
        | RpcError::Broken(_)
        | RpcError::Protocol(_)
        | RpcError::Leaving => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Consul chooses the status of an untyped error by its text; the first match wins.
fn text_status(text: &str) -> StatusCode {
    if text.contains("Permission denied") || text.contains("ACL not found") {
        StatusCode::FORBIDDEN
    } else if text.contains("RPC rate limit exceeded")
        || text.contains("rate limit exceeded, try again later or against a different server")
    {
        StatusCode::TOO_MANY_REQUESTS
    } else if text.contains(
        "rate limit exceeded for operation that can only be performed by the leader, try again later",
    ) {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rpc_error_has_consuls_status_and_text() {
        for (error, status, text) in [
            (RpcError::NoLeader, 500, "No cluster leader"),
            (RpcError::NoServers, 500, "No known Consul servers"),
            (RpcError::NoPathToDatacenter, 500, "No path to datacenter"),
            (RpcError::NotReady, 500, "Not ready to serve consistent reads"),
            (
                RpcError::Busy,
                429,
                "rate limit exceeded, try again later or against a different server",
            ),
            (
                RpcError::Rejected(Rejection::TooManyOpen),
                429,
                "rate limit exceeded, try again later or against a different server",
            ),
            (RpcError::PermissionDenied("x".into()), 403, "Permission denied: x"),
            (RpcError::AclNotFound, 403, "ACL not found"),
            (
                RpcError::Rejected(Rejection::InvalidSession("s".into())),
                500,
                "raft apply failed: invalid session \"s\"",
            ),
            (RpcError::NotFound("gone".into()), 404, "gone"),
            (RpcError::Broken("reset".into()), 500, "rpc error making call: reset"),
            (
                RpcError::Rejected(Rejection::Other("x: Permission denied: y".into())),
                403,
                "x: Permission denied: y",
            ),
            (RpcError::Leaving, 500, "No cluster leader"),
        ] {
            let error = ApiError::from(error);
            assert_eq!(error.status().as_u16(), status, "{text}");
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn an_untyped_error_gets_its_status_from_its_text() {
        for (text, status) in [
            ("Permission denied", 403),
            ("rpc error making call: ACL not found", 403),
            ("RPC rate limit exceeded", 429),
            (
                "rate limit exceeded for operation that can only be performed by the leader, \
                 try again later",
                503,
            ),
            ("Must provide node", 500),
        ] {
            assert_eq!(ApiError::Internal(text.into()).status().as_u16(), status, "{text}");
        }
    }
}

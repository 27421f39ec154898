//! One request on its way through a handler.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use model::api::input;
use model::rpc::{Consistency, Op, Reply, RpcError};
use model::seam::ByteStream;
use model::{LogIndex, Name};
use serde_json::Value;

use super::context::Context;
use super::error::ApiError;
use super::options::{self, Options};
use super::params::Params;

/// A request: what the client sent, decoded once, and what the handler may use to answer it.
pub struct Call {
    /// The agent.
    pub context: Arc<Context>,
    /// Method.
    pub method: Method,
    /// What follows a subtree's pattern, percent-decoded; empty for exact routes.
    pub rest: Bytes,
    /// Query parameters.
    pub params: Params,
    /// Headers.
    pub headers: HeaderMap,
    /// Follows the request through all rooms' logs.
    pub trace_id: u64,
    pub(crate) blocking: bool,
    pub(crate) body: Result<Bytes, ApiError>,
    /// Taken once. The lock only makes it shareable: nobody waits for it.
    pub(crate) upload: Mutex<Option<ByteStream>>,
}

impl Call {
    /// What follows a subtree's pattern, as text.
    pub fn rest_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.rest)
    }

    /// The same where it must not be empty; `missing` is the text of the 400.
    pub fn named(&self, missing: &str) -> Result<Name, ApiError> {
        if self.rest.is_empty() {
            return Err(ApiError::BadRequest(missing.to_owned()));
        }
        Ok(self.rest_text().as_ref().into())
    }

    /// The body; the error if it was too large or broken.
    pub fn bytes(&self) -> Result<Bytes, ApiError> {
        self.body.clone()
    }

    /// The body of a [`Route::upload`](super::Route::upload), as it comes: the first time, then
    /// nothing.
    pub fn upload(&self) -> ByteStream {
        let body = self.upload.lock().unwrap_or_else(PoisonError::into_inner).take();
        body.unwrap_or_else(|| Box::pin(futures_util::stream::empty()))
    }

    /// The first JSON value of the body.
    pub fn json(&self) -> Result<Value, ApiError> {
        input::first_value(&self.bytes()?).map_err(decode_failed)
    }

    /// The secret of the caller's token.
    pub fn token(&self) -> Name {
        options::token(&self.params, &self.headers)
    }

    /// The datacenter asked for: empty for ours, an error for an unknown one. `datacenter` wins
    /// over `dc`.
    pub fn dc(&self) -> Result<Name, ApiError> {
        let alias = self.params.text("datacenter");
        let dc = if alias.is_empty() { self.params.text("dc") } else { alias };
        self.known_dc(&dc)
    }

    /// The same for a name from elsewhere, such as a body.
    pub fn known_dc(&self, dc: &str) -> Result<Name, ApiError> {
        if dc.is_empty() || dc == self.context.config.datacenter {
            return Ok(options::empty_name());
        }
        let wan = self.context.cluster.wan_members();
        if wan.list.iter().any(|member| member.tag("dc") == dc) {
            return Ok(dc.into());
        }
        Err(RpcError::NoPathToDatacenter.into())
    }

    /// Everything that a read says about how it wants to be answered.
    pub fn options(&self) -> Result<Options, ApiError> {
        let config = &self.context.config;
        let wait = options::wait(&self.params, config.default_query_time, config.max_query_time)?;
        let min_index = options::min_index(&self.params)?;
        options::cache_control(&self.headers)?;
        let (consistency, mode_named, max_stale) = options::consistency(&self.params)?;
        options::refuse_enterprise(&self.params, &self.headers)?;
        Ok(Options {
            dc: self.dc()?,
            token: self.token(),
            consistency,
            mode_named,
            max_stale,
            min_index: if self.blocking { min_index } else { LogIndex::ZERO },
            wait,
            hold: config.rpc_hold_timeout,
        })
    }

    /// [`Call::options`] of a catalog or health read, which may be stale by configuration.
    pub fn discovery_options(&self) -> Result<Options, ApiError> {
        let mut options = self.options()?;
        let bound = self.context.config.discovery_max_stale;
        if !options.mode_named && !bound.is_zero() {
            options.consistency = Consistency::Stale;
            options.max_stale = Some(bound);
        }
        Ok(options)
    }

    /// Options of a write: datacenter and token alone.
    pub fn write_options(&self) -> Result<Options, ApiError> {
        options::refuse_enterprise(&self.params, &self.headers)?;
        Ok(Options {
            dc: self.dc()?,
            token: self.token(),
            consistency: Consistency::Default,
            mode_named: false,
            max_stale: None,
            min_index: LogIndex::ZERO,
            wait: Duration::ZERO,
            hold: self.context.config.rpc_hold_timeout,
        })
    }

    /// Asks the servers. An answer that is staler than the request allows is asked for again, of
    /// the leader.
    pub async fn ask(&self, options: &Options, op: Op) -> Result<Reply, ApiError> {
        let jitter = if options.min_index == LogIndex::ZERO {
            Duration::ZERO
        } else {
            self.context.rng.jitter(options.wait / options::JITTER_FRACTION)
        };
        let request = options.request(op, jitter, self.trace_id);
        let Some(limit) = options.max_stale.filter(|_| options.consistency == Consistency::Stale)
        else {
            return Ok(self.context.backend.ask(request).await?);
        };
        let mut again = request.clone();
        let reply = self.context.backend.ask(request).await?;
        if reply.meta.last_contact_ms <= options::millis(limit) {
            return Ok(reply);
        }
        again.consistency = Consistency::Default;
        Ok(self.context.backend.ask(again).await?)
    }

    /// Asks the servers for a write.
    pub async fn order(&self, options: &Options, op: Op) -> Result<Reply, ApiError> {
        let request = options.request(op, Duration::ZERO, self.trace_id);
        Ok(self.context.backend.ask(request).await?)
    }
}

/// The 400 of a body that cannot be decoded.
pub(crate) fn decode_failed(error: input::InputError) -> ApiError {
    ApiError::BadRequest(format!("Request decode failed: {error}"))
}

/// The error of a reply whose body does not belong to the operation: a server of another version.
pub(crate) fn foreign_reply() -> ApiError {
    ApiError::Rpc(RpcError::Protocol("the server's reply does not fit the request".into()))
}

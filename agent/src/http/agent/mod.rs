//! `/v1/agent`: this node's services, checks and membership. Reads answer from this node's own
//! state alone, so they work without any server.

mod checks;
mod hash;
mod health;
mod json;
mod members;
mod metrics;
mod node;
mod services;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use model::filter::{Filter, Record, Schema};

use super::call::Call;
use super::context::Permission;
use super::error::ApiError;
use super::{Route, options};
use crate::local::definition::DefinitionError;
use crate::local::{Local, LocalError};

/// The routes of this family, over this node's room.
pub fn routes(local: &Arc<Local>) -> Vec<Route> {
    [
        node::routes(local),
        members::routes(),
        metrics::routes(),
        services::routes(local),
        checks::routes(local),
        health::routes(local),
    ]
    .concat()
}

/// A handler that is given this node's room beside the call.
fn with<F, Fut>(
    local: &Arc<Local>,
    handler: F,
) -> impl Fn(Call) -> Fut + Send + Sync + 'static + use<F, Fut>
where
    F: Fn(Arc<Local>, Call) -> Fut + Send + Sync + 'static,
{
    let local = Arc::clone(local);
    move |call| handler(Arc::clone(&local), call)
}

/// Refuses what only another edition has.
fn open(call: &Call) -> Result<(), ApiError> {
    options::refuse_enterprise(&call.params, &call.headers)
}

/// The filter that the client asks for, if any.
fn filter(call: &Call, schema: &'static Schema) -> Result<Option<Filter>, ApiError> {
    let text = call.params.text("filter");
    if text.is_empty() {
        return Ok(None);
    }
    let compiled = Filter::compile(&text, schema);
    compiled.map(Some).map_err(|error| {
        ApiError::Internal(format!("Failed to create boolean expression evaluator: {error}"))
    })
}

/// Without a filter everything is kept.
fn keeps(filter: Option<&Filter>, record: &dyn Record) -> bool {
    filter.is_none_or(|filter| filter.matches(record))
}

/// `enable=` of the maintenance endpoints.
fn enable(call: &Call) -> Result<bool, ApiError> {
    if !call.params.has("enable") {
        return Err(ApiError::BadRequest("Missing value for enable".into()));
    }
    let value = call.params.text("enable");
    match value.as_ref() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(ApiError::BadRequest(format!(
            "Invalid value for enable: {}",
            model::duration::quote(other)
        ))),
    }
}

impl From<LocalError> for ApiError {
    fn from(error: LocalError) -> Self {
        let text = error.to_string();
        match error {
            LocalError::UnknownService(_)
            | LocalError::UnknownCheck(_)
            | LocalError::MissingService(_) => ApiError::NotFound(text),
            LocalError::NotTtl(_)
            | LocalError::ScriptsDisabledRemote
            | LocalError::ScriptsDisabled
            | LocalError::Full { .. }
            | LocalError::File { .. }
            | LocalError::Store(_)
            | LocalError::Stopping => ApiError::Internal(text),
        }
    }
}

impl From<DefinitionError> for ApiError {
    fn from(error: DefinitionError) -> Self {
        let text = error.to_string();
        match error {
            DefinitionError::Decode(_) | DefinitionError::Invalid(_) => ApiError::BadRequest(text),
            DefinitionError::Internal(_) => ApiError::Internal(text),
        }
    }
}

//! Checks of this node.

use std::sync::Arc;

use model::api::input::{self, Object};
use model::api::json::Json;
use model::filter::{self as filters, CheckRecord};
use model::row::Status;

use super::super::Route;
use super::super::answer::Answer;
use super::super::call::{Call, decode_failed};
use super::super::error::ApiError;
use super::{Permission, filter, json, keeps, open, with};
use crate::local::definition::parse_api_check;
use crate::local::{Local, Source};

pub(super) fn routes(local: &Arc<Local>) -> Vec<Route> {
    let told = |pattern, status: Status| {
        Route::put(pattern, with(local, move |local, call| tell(local, call, status)))
    };
    [
        Route::get("/v1/agent/checks", with(local, checks)),
        Route::put("/v1/agent/check/register", with(local, register)),
        Route::put("/v1/agent/check/deregister/", with(local, deregister)),
        Route::put("/v1/agent/check/update/", with(local, update)),
        told("/v1/agent/check/pass/", Status::Passing),
        told("/v1/agent/check/warn/", Status::Warning),
        told("/v1/agent/check/fail/", Status::Critical),
    ]
    .map(|route| route.needs(Permission::ByHandler))
    .into()
}

async fn checks(local: Arc<Local>, call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    let filter = filter(&call, &filters::CHECK)?;
    let mut out = Json::default();
    out.object(|fields| {
        for row in local.checks() {
            if !keeps(filter.as_ref(), &CheckRecord(&row)) {
                continue;
            }
            json::check(fields.key(&row.id), &row);
        }
    });
    Ok(Answer::json(out.into_bytes()))
}

async fn register(local: Arc<Local>, call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    let mut definition = parse_api_check(&call.bytes()?)?;
    definition.token = call.token().to_string();
    local.add_check(definition, Source::Api).await?;
    local.sync_now().await;
    Ok(Answer::empty())
}

async fn deregister(local: Arc<Local>, call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    local.remove_check(&call.rest_text()).await?;
    local.sync_now().await;
    Ok(Answer::empty())
}

async fn tell(local: Arc<Local>, call: Call, status: Status) -> Result<Answer, ApiError> {
    open(&call)?;
    let note = call.params.text("note");
    heard(&local, &call.rest_text(), status, &note).await
}

async fn update(local: Arc<Local>, call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    let body = input::first_value(&call.bytes()?).map_err(decode_failed)?;
    let mut fields = Object::new(&body, "checkUpdate").map_err(decode_failed)?;
    let word = fields.text(&["Status"]).map_err(decode_failed)?;
    let output = fields.text(&["Output"]).map_err(decode_failed)?;
    fields.finish().map_err(decode_failed)?;
    let Some(status) = Status::parse(word) else {
        return Err(ApiError::BadRequest(format!("Invalid check status: '{word}'")));
    };
    heard(&local, &call.rest_text(), status, output).await
}

/// Heartbeats come every few seconds from every service: only one that changes something waits for
/// the servers.
async fn heard(local: &Local, id: &str, status: Status, output: &str) -> Result<Answer, ApiError> {
    let before = local.check(id).map(|row| row.status);
    local.ttl_update(id, status, output).await?;
    if before != Some(status) {
        local.sync_now().await;
    }
    Ok(Answer::empty())
}

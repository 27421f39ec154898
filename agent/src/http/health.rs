//! `/v1/health`: checks, and instances with their checks (spec/http-api-1.md §10).

use model::api;
use model::api::json::Json;
use model::filter::{CHECK, CheckRecord, HEALTH, HealthRecord};
use model::row::Status;
use model::rpc::{Body, CheckStateFilter, Instance, Op};

use super::answer::Answer;
use super::call::{Call, foreign_reply};
use super::discovery::{elsewhere, filter, instances, node_meta, shown_dc, tags};
use super::error::ApiError;
use super::route::Route;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::watch("/v1/health/node/", of_node),
        Route::watch("/v1/health/checks/", of_service),
        Route::watch("/v1/health/state/", in_state),
        Route::watch("/v1/health/service/", |call| service(call, false)),
        Route::watch("/v1/health/connect/", |call| service(call, true)),
    ]
}

async fn of_node(call: Call) -> Result<Answer, ApiError> {
    let node = call.named("Missing node name");
    checks(call, node.map(|node| Op::HealthNode { node })).await
}

async fn of_service(call: Call) -> Result<Answer, ApiError> {
    let service = call.named("Missing service name");
    let meta = node_meta(&call);
    checks(call, service.map(|service| Op::HealthChecks { service, meta })).await
}

async fn in_state(call: Call) -> Result<Answer, ApiError> {
    let state = call.named("Missing check state").map(|word| match &*word {
        "any" => None,
        word => Some(Status::parse(word).map_or(CheckStateFilter::Nothing, CheckStateFilter::Only)),
    });
    let meta = node_meta(&call);
    checks(call, state.map(|state| Op::HealthState { state, meta })).await
}

/// A list of checks. The options come first: their errors are seen before a missing name.
async fn checks(call: Call, op: Result<Op, ApiError>) -> Result<Answer, ApiError> {
    let options = call.discovery_options()?;
    let op = op?;
    let filter = filter(&call, &CHECK)?;
    let reply = call.ask(&options, op).await?;
    let Body::Checks(mut rows) = reply.body else { return Err(foreign_reply()) };
    if let Some(filter) = filter {
        rows.retain(|row| filter.matches(&CheckRecord(row)));
    }
    let mut json = Json::with_capacity(2 + rows.len() * 400);
    api::catalog::checks(&mut json, &rows);
    Ok(Answer::json(json.into_bytes()).meta(&reply.meta))
}

async fn service(call: Call, connect: bool) -> Result<Answer, ApiError> {
    let options = call.discovery_options()?;
    let name = call.named("Missing service name")?;
    let passing = passing(&call)?;
    let elsewhere = elsewhere(&call)?;
    let filter = filter(&call, &HEALTH)?;
    let op =
        Op::HealthService { service: name, tags: tags(&call), meta: node_meta(&call), connect };
    let reply = call.ask(&options, op).await?;
    let dc = shown_dc(&call, &options);
    let mut rows = instances(reply.body)?;
    if passing || elsewhere || filter.is_some() {
        rows.retain(|row| {
            !elsewhere
                && filter.as_ref().is_none_or(|filter| filter.matches(&HealthRecord(row, dc)))
                && (!passing || all_passing(row))
        });
    }
    let mut json = Json::with_capacity(2 + rows.len() * 1_600);
    json.array(&rows, |json, row| api::catalog::health_entry(json, row, dc));
    Ok(Answer::json(json.into_bytes()).meta(&reply.meta))
}

fn all_passing(row: &Instance) -> bool {
    row.checks.iter().all(|check| check.status == Status::Passing)
}

/// `passing`: given without value it is true.
fn passing(call: &Call) -> Result<bool, ApiError> {
    let Some(value) = call.params.bytes("passing") else { return Ok(false) };
    match value {
        b"" | b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => Ok(true),
        b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => Ok(false),
        _ => Err(ApiError::BadRequest("Invalid value for ?passing".into())),
    }
}

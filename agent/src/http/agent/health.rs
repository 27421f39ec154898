//! Health of this node's instances: the status code carries it.

use std::sync::Arc;

use http::StatusCode;
use http::header::{ACCEPT, HeaderName, HeaderValue};
use model::api::json::Json;
use model::row::{CheckV1, ServiceV1, Status};

use super::super::Route;
use super::super::answer::Answer;
use super::super::call::Call;
use super::super::error::ApiError;
use super::{Permission, json, open, with};
use crate::local::Local;

const REASON: HeaderName = HeaderName::from_static("x-consul-reason");

pub(super) fn routes(local: &Arc<Local>) -> Vec<Route> {
    [
        Route::get("/v1/agent/health/service/id/", with(local, by_id)),
        Route::get("/v1/agent/health/service/name/", with(local, by_name)),
    ]
    .map(|route| route.needs(Permission::ByHandler))
    .into()
}

/// Health of an instance, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    Passing,
    Warning,
    Critical,
    Maintenance,
}

impl Health {
    fn of(checks: &[Arc<CheckV1>]) -> Self {
        let each = checks.iter().map(|check| {
            if &*check.id == "_node_maintenance" || check.id.starts_with("_service_maintenance:") {
                return Health::Maintenance;
            }
            match check.status {
                Status::Passing => Health::Passing,
                Status::Warning => Health::Warning,
                Status::Critical => Health::Critical,
            }
        });
        each.max().unwrap_or(Health::Passing)
    }

    fn as_str(self) -> &'static str {
        match self {
            Health::Passing => "passing",
            Health::Warning => "warning",
            Health::Critical => "critical",
            Health::Maintenance => "maintenance",
        }
    }

    fn code(self) -> StatusCode {
        match self {
            Health::Passing => StatusCode::OK,
            Health::Warning => StatusCode::TOO_MANY_REQUESTS,
            Health::Critical | Health::Maintenance => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

async fn by_id(local: Arc<Local>, call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    let id = call.rest_text().into_owned();
    if id.is_empty() {
        return Err(ApiError::Internal("Missing serviceID".into()));
    }
    let Some(row) = local.service(&id) else {
        let text = format!("ServiceId {id} not found");
        let body = r#"{"AggregatedStatus":"critical","Service":null,"Checks":null}"#;
        return Ok(answer(&call, StatusCode::NOT_FOUND, &text, body.into()));
    };
    let checks = checks_of(&local.checks(), &row.id);
    let health = Health::of(&checks);
    let mut out = Json::default();
    instance(&mut out, &call, &row, &checks);
    Ok(answer(&call, health.code(), health.as_str(), out.into_bytes()))
}

async fn by_name(local: Arc<Local>, call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    let name = call.rest_text().into_owned();
    if name.is_empty() {
        return Err(ApiError::Internal("Missing service Name".into()));
    }
    let all = local.checks();
    let instances: Vec<_> = local
        .services()
        .into_iter()
        .filter(|row| *row.name == name)
        .map(|row| (checks_of(&all, &row.id), row))
        .collect();
    let Some(worst) = instances.iter().map(|(checks, _)| Health::of(checks)).max() else {
        let text = format!("ServiceName {name} Not Found");
        return Ok(answer(&call, StatusCode::NOT_FOUND, &text, b"[]".to_vec()));
    };
    let mut out = Json::default();
    out.array(&instances, |out, (checks, row)| instance(out, &call, row, checks));
    Ok(answer(&call, worst.code(), worst.as_str(), out.into_bytes()))
}

fn instance(out: &mut Json, call: &Call, row: &ServiceV1, checks: &[Arc<CheckV1>]) {
    out.object(|fields| {
        fields.text("AggregatedStatus", Health::of(checks).as_str());
        json::service(fields.name("Service"), row, &call.context.config.datacenter, None);
        fields.name("Checks").array(checks, |out, check| json::health_check(out, check));
    });
}

/// Checks of the instance, and of the node.
fn checks_of(all: &[Arc<CheckV1>], service: &str) -> Vec<Arc<CheckV1>> {
    let own = |check: &&Arc<CheckV1>| check.service_id.is_empty() || &*check.service_id == service;
    all.iter().filter(own).cloned().collect()
}

/// Text when the client asks for it, else JSON.
fn answer(call: &Call, code: StatusCode, text: &str, body: Vec<u8>) -> Answer {
    let accept = call.headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    let wants_text = accept.is_some_and(|accept| accept.starts_with("text/plain"))
        || call.params.text("format") == "text";
    let answer =
        if wants_text { Answer::text(text.to_owned()) } else { Answer::json(body) }.status(code);
    match HeaderValue::from_str(text) {
        Ok(reason) => answer.header(REASON, reason),
        // A name with control characters has no place in a header.
        Err(_) => answer,
    }
}

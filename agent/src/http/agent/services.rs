//! Services of this node.

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use model::api::json::Json;
use model::filter::{self as filters, ServiceRecord};
use tokio::time::Instant;

use super::super::answer::Answer;
use super::super::call::Call;
use super::super::error::ApiError;
use super::super::{Route, options};
use super::{Permission, enable, filter, hash, json, keeps, open, with};
use crate::local::definition::parse_api_service;
use crate::local::{Local, Source};

const CONTENT_HASH: HeaderName = HeaderName::from_static("x-consul-contenthash");

pub(super) fn routes(local: &Arc<Local>) -> Vec<Route> {
    [
        Route::get("/v1/agent/services", with(local, services)),
        Route::watch("/v1/agent/service/", with(local, service)),
        Route::put("/v1/agent/service/register", with(local, register)),
        Route::put("/v1/agent/service/deregister/", with(local, deregister)),
        Route::put("/v1/agent/service/maintenance/", with(local, maintenance)),
    ]
    .map(|route| route.needs(Permission::ByHandler))
    .into()
}

async fn services(local: Arc<Local>, call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    let filter = filter(&call, &filters::SERVICE)?;
    let mut out = Json::default();
    out.object(|fields| {
        for row in local.services() {
            if !keeps(filter.as_ref(), &ServiceRecord(&row)) {
                continue;
            }
            let datacenter = &call.context.config.datacenter;
            json::service(fields.key(&row.id), &row, datacenter, None);
        }
    });
    Ok(Answer::json(out.into_bytes()))
}

/// One service; with `hash` it waits as long as the service has this hash.
async fn service(local: Arc<Local>, call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    let id = call.rest_text().into_owned();
    let known = call.params.text("hash").into_owned();
    let config = &call.context.config;
    let wait = options::wait(&call.params, config.default_query_time, config.max_query_time)?;
    let deadline =
        call.context.clock.now() + wait + call.context.rng.jitter(wait / options::JITTER_FRACTION);
    let mut changed = local.changed();
    loop {
        changed.mark_unchanged();
        local.resumed().await;
        let row = local
            .service(&id)
            .ok_or_else(|| ApiError::NotFound(format!("unknown service ID: {id}")))?;
        let hash = hash::content_hash(&row);
        if hash != known || !changes_before(&mut changed, deadline).await {
            let mut out = Json::default();
            json::service(&mut out, &row, &config.datacenter, Some(&hash));
            let value = HeaderValue::from_str(&hash).expect("hexadecimal digits");
            return Ok(Answer::json(out.into_bytes()).header(CONTENT_HASH, value));
        }
    }
}

async fn changes_before(changed: &mut tokio::sync::watch::Receiver<u64>, at: Instant) -> bool {
    matches!(tokio::time::timeout_at(at, changed.changed()).await, Ok(Ok(())))
}

async fn register(local: Arc<Local>, call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    let mut definition = parse_api_service(&call.bytes()?)?;
    definition.token = call.token().to_string();
    for check in &mut definition.checks {
        check.token.clone_from(&definition.token);
    }
    let name = "replace-existing-checks";
    let replace = call.params.has(name) && matches!(call.params.text(name).as_ref(), "" | "true");
    local.add_service(definition, Source::Api, replace).await?;
    local.sync_now().await;
    Ok(Answer::empty())
}

async fn deregister(local: Arc<Local>, call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    local.remove_service(&call.rest_text()).await?;
    local.sync_now().await;
    Ok(Answer::empty())
}

async fn maintenance(local: Arc<Local>, call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    let id = call.named("Missing service ID")?;
    let enable = enable(&call)?;
    let reason = call.params.text("reason");
    local.set_maintenance(Some(&id), enable.then_some(&*reason)).await?;
    local.sync_now().await;
    Ok(Answer::empty())
}

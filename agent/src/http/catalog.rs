//! `/v1/catalog`: nodes, services and where they run (spec/http-api-1.md §9).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::Name;
use model::api::json::Json;
use model::api::registration::{self, RegistrationError};
use model::api::{self};
use model::filter::{NODE, NodeRecord, SERVICE, SERVICE_NODE, ServiceNodeRecord, ServiceRecord};
use model::row::{NodeV1, ServiceV1};
use model::rpc::{Body, Consistency, Instance, Meta, Op};

use super::answer::Answer;
use super::call::{Call, foreign_reply};
use super::discovery::{elsewhere, filter, instances, node_meta, shown_dc, tags};
use super::error::ApiError;
use super::options::Options;
use super::route::Route;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::put("/v1/catalog/register", register),
        Route::put("/v1/catalog/deregister", deregister),
        Route::get("/v1/catalog/datacenters", datacenters),
        Route::watch("/v1/catalog/nodes", nodes),
        Route::watch("/v1/catalog/services", services),
        Route::watch("/v1/catalog/service/", |call| instances_of(call, false)),
        Route::watch("/v1/catalog/connect/", |call| instances_of(call, true)),
        Route::watch("/v1/catalog/node/", node),
        Route::watch("/v1/catalog/node-services/", node_services),
    ]
}

impl From<RegistrationError> for ApiError {
    fn from(error: RegistrationError) -> Self {
        match error {
            RegistrationError::Decode(_) => ApiError::BadRequest(error.to_string()),
            RegistrationError::Invalid(text) => ApiError::Internal(text),
        }
    }
}

/// Options of a write whose body may name the datacenter; the query wins.
fn options_with_dc(call: &Call, body_dc: &str) -> Result<Options, ApiError> {
    let mut options = call.write_options()?;
    if options.dc.is_empty() && !call.params.has("dc") && !call.params.has("datacenter") {
        options.dc = call.known_dc(body_dc)?;
    }
    Ok(options)
}

async fn register(call: Call) -> Result<Answer, ApiError> {
    // An unknown datacenter in the query is found before the body is looked at.
    call.write_options()?;
    let (dc, registration) = registration::register(&call.json()?)?;
    let options = options_with_dc(&call, &dc)?;
    call.order(&options, Op::Register(Box::new(registration))).await?;
    Ok(Answer::bool(true))
}

async fn deregister(call: Call) -> Result<Answer, ApiError> {
    call.write_options()?;
    let (dc, node, service_id, check_id) = registration::deregister(&call.json()?)?;
    let options = options_with_dc(&call, &dc)?;
    call.order(&options, Op::Deregister { node, service_id, check_id }).await?;
    Ok(Answer::bool(true))
}

/// Works without a leader, and says nothing of indexes.
async fn datacenters(call: Call) -> Result<Answer, ApiError> {
    let mut options = call.write_options()?;
    options.consistency = Consistency::Stale;
    let Body::Names(names) = call.ask(&options, Op::Datacenters).await?.body else {
        return Err(foreign_reply());
    };
    let mut json = Json::default();
    json.texts(&names);
    Ok(Answer::json(json.into_bytes()))
}

async fn nodes(call: Call) -> Result<Answer, ApiError> {
    let options = call.discovery_options()?;
    let filter = filter(&call, &NODE)?;
    let reply = call.ask(&options, Op::Nodes { meta: node_meta(&call) }).await?;
    let Body::Nodes(mut rows) = reply.body else { return Err(foreign_reply()) };
    let dc = shown_dc(&call, &options);
    if let Some(filter) = filter {
        rows.retain(|row| filter.matches(&NodeRecord(row, dc)));
    }
    let mut json = Json::with_capacity(2 + rows.len() * 400);
    json.array(&rows, |json, row| api::catalog::node(json, row, dc));
    Ok(Answer::json(json.into_bytes()).meta(&reply.meta))
}

async fn services(call: Call) -> Result<Answer, ApiError> {
    let options = call.discovery_options()?;
    let filter = filter(&call, &SERVICE_NODE)?;
    let meta = node_meta(&call);
    let Some(filter) = filter else {
        let reply = call.ask(&options, Op::Services { meta }).await?;
        let Body::Services(list) = reply.body else { return Err(foreign_reply()) };
        return Ok(services_answer(&list, &reply.meta));
    };
    // A filter sees instances, so the names are gathered from those that it leaves.
    let reply = call.ask(&options, Op::AllInstances { meta }).await?;
    let dc = shown_dc(&call, &options);
    let mut names: BTreeMap<Name, BTreeSet<Name>> = BTreeMap::new();
    for instance in instances(reply.body)? {
        if filter.matches(&ServiceNodeRecord(&instance, dc)) {
            let service = &instance.service;
            names.entry(service.name.clone()).or_default().extend(service.tags.iter().cloned());
        }
    }
    let list: Vec<(Name, Vec<Name>)> =
        names.into_iter().map(|(name, tags)| (name, tags.into_iter().collect())).collect();
    Ok(services_answer(&list, &reply.meta))
}

fn services_answer(list: &[(Name, Vec<Name>)], meta: &Meta) -> Answer {
    let mut json = Json::default();
    api::catalog::services(&mut json, list);
    Answer::json(json.into_bytes()).meta(meta)
}

async fn instances_of(call: Call, connect: bool) -> Result<Answer, ApiError> {
    let options = call.discovery_options()?;
    let service = call.named("Missing service name")?;
    let elsewhere = elsewhere(&call)?;
    let filter = filter(&call, &SERVICE_NODE)?;
    let op = Op::ServiceNodes { service, tags: tags(&call), meta: node_meta(&call), connect };
    let reply = call.ask(&options, op).await?;
    let dc = shown_dc(&call, &options);
    let mut rows = instances(reply.body)?;
    rows.retain(|row: &Instance| {
        !elsewhere && filter.as_ref().is_none_or(|f| f.matches(&ServiceNodeRecord(row, dc)))
    });
    let mut json = Json::with_capacity(2 + rows.len() * 700);
    json.array(&rows, |json, row| api::catalog::service_node(json, row, dc));
    Ok(Answer::json(json.into_bytes()).meta(&reply.meta))
}

/// A node with those of its services that the filter leaves.
type Found = Option<(Arc<NodeV1>, Vec<Arc<ServiceV1>>)>;

async fn ask_node(call: &Call, options: &Options) -> Result<(Found, Meta), ApiError> {
    let node = call.named("Missing node name")?;
    let filter = filter(call, &SERVICE)?;
    let reply = call.ask(options, Op::NodeServices { node }).await?;
    let Body::Node(mut found) = reply.body else { return Err(foreign_reply()) };
    if let (Some((_, services)), Some(filter)) = (&mut found, filter) {
        services.retain(|row| filter.matches(&ServiceRecord(row)));
    }
    Ok((found, reply.meta))
}

fn borrowed(found: &Found) -> Option<(&NodeV1, &[Arc<ServiceV1>])> {
    found.as_ref().map(|(node, services)| (&**node, &services[..]))
}

async fn node(call: Call) -> Result<Answer, ApiError> {
    let options = call.discovery_options()?;
    let (found, meta) = ask_node(&call, &options).await?;
    let mut json = Json::default();
    api::catalog::node_services_map(&mut json, borrowed(&found), shown_dc(&call, &options));
    Ok(Answer::json(json.into_bytes()).meta(&meta))
}

async fn node_services(call: Call) -> Result<Answer, ApiError> {
    let options = call.discovery_options()?;
    let (found, meta) = ask_node(&call, &options).await?;
    let mut json = Json::default();
    api::catalog::node_services_list(&mut json, borrowed(&found), shown_dc(&call, &options));
    Ok(Answer::json(json.into_bytes()).meta(&meta))
}

//! `/v1/session`: the lives on which locks hang. Rules: spec/http-api-2.md §2.

use model::api;
use model::api::json::Json;
use model::rpc::{Body, Op, Reply};

use super::answer::Answer;
use super::call::{Call, decode_failed, foreign_reply};
use super::error::ApiError;
use super::route::Route;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::put("/v1/session/create", create),
        Route::put("/v1/session/destroy/", destroy),
        Route::put("/v1/session/renew/", renew),
        Route::watch("/v1/session/info/", info),
        Route::watch("/v1/session/node/", of_node),
        Route::watch("/v1/session/list", list),
    ]
}

const MISSING: &str = "Missing session";

async fn create(call: Call) -> Result<Answer, ApiError> {
    let options = call.write_options()?;
    let body = if call.bytes()?.is_empty() { None } else { Some(call.json()?) };
    let session = api::kv::new_session(body.as_ref(), &call.context.config.node_name)
        .map_err(decode_failed)?;
    if session.node.is_empty() {
        return Err(ApiError::Internal("Must provide Node".into()));
    }
    let Body::Session(id) = call.order(&options, Op::SessionCreate(session)).await?.body else {
        return Err(foreign_reply());
    };
    let mut json = Json::default();
    json.object(|fields| fields.name("ID").plain(id));
    Ok(Answer::json(json.into_bytes()))
}

async fn destroy(call: Call) -> Result<Answer, ApiError> {
    let options = call.write_options()?;
    let id = call.named(MISSING)?;
    call.order(&options, Op::SessionDestroy { id }).await?;
    Ok(Answer::bool(true))
}

async fn renew(call: Call) -> Result<Answer, ApiError> {
    let options = call.write_options()?;
    let id = call.named(MISSING)?;
    let reply = call.order(&options, Op::SessionRenew { id: id.clone() }).await?;
    match reply.body {
        Body::Sessions(rows) if rows.is_empty() => {
            Err(ApiError::NotFound(format!("Session id '{id}' not found")))
        }
        Body::Sessions(rows) => Ok(Answer::json(api::kv::sessions(&rows))),
        _ => Err(foreign_reply()),
    }
}

async fn info(call: Call) -> Result<Answer, ApiError> {
    let options = call.options()?;
    let id = call.named(MISSING)?;
    sessions(call.ask(&options, Op::SessionGet { id }).await?)
}

async fn of_node(call: Call) -> Result<Answer, ApiError> {
    let options = call.options()?;
    let node = call.named("Missing node name")?;
    sessions(call.ask(&options, Op::SessionsOfNode { node }).await?)
}

async fn list(call: Call) -> Result<Answer, ApiError> {
    let options = call.options()?;
    sessions(call.ask(&options, Op::SessionList).await?)
}

fn sessions(reply: Reply) -> Result<Answer, ApiError> {
    let Body::Sessions(rows) = reply.body else { return Err(foreign_reply()) };
    Ok(Answer::json(api::kv::sessions(&rows)).meta(&reply.meta))
}

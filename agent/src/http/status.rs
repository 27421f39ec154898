//! `/v1/status`: who leads, who votes. Answers without a leader too: health probes and every
//! client's start use it.

use model::api::json::Json;
use model::rpc::{Body, Consistency, Op};

use super::answer::Answer;
use super::call::{Call, foreign_reply};
use super::context::Permission;
use super::error::ApiError;
use super::route::Route;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/status/leader", leader).needs(Permission::Open),
        Route::get("/v1/status/peers", peers).needs(Permission::Open),
    ]
}

async fn leader(call: Call) -> Result<Answer, ApiError> {
    let Body::Address(address) = ask(&call, Op::StatusLeader).await? else {
        return Err(foreign_reply());
    };
    let mut json = Json::default();
    json.text(&address);
    Ok(Answer::json(json.into_bytes()))
}

async fn peers(call: Call) -> Result<Answer, ApiError> {
    let Body::Names(names) = ask(&call, Op::StatusPeers).await? else {
        return Err(foreign_reply());
    };
    let mut json = Json::default();
    if names.is_empty() {
        json.null();
    } else {
        json.texts(&names);
    }
    Ok(Answer::json(json.into_bytes()))
}

async fn ask(call: &Call, op: Op) -> Result<Body, ApiError> {
    let mut options = call.write_options()?;
    options.consistency = Consistency::Stale;
    Ok(call.ask(&options, op).await?.body)
}

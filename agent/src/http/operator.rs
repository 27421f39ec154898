//! `/v1/operator/raft`: the servers of the Raft configuration (spec/http-api-1.md §14).

use http::Method;
use model::NodeId;
use model::api::json::Json;
use model::rpc::{Body, Op, RaftServer};

use super::answer::Answer;
use super::call::{Call, foreign_reply};
use super::error::ApiError;
use super::options::Options;
use super::route::Route;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/operator/raft/configuration", configuration),
        Route::new(Method::POST, "/v1/operator/raft/transfer-leader", transfer_leader),
        Route::new(Method::DELETE, "/v1/operator/raft/peer", remove_peer),
    ]
}

async fn ask(call: &Call, options: &Options) -> Result<(u64, Vec<RaftServer>), ApiError> {
    match call.ask(options, Op::RaftConfiguration).await?.body {
        Body::RaftServers { index, servers } => Ok((index, servers)),
        _ => Err(foreign_reply()),
    }
}

async fn configuration(call: Call) -> Result<Answer, ApiError> {
    let options = call.options()?;
    let (index, servers) = ask(&call, &options).await?;
    let mut json = Json::default();
    json.object(|fields| {
        fields.name("Servers").array(&servers, |json, server| {
            json.object(|fields| {
                fields.name("ID").plain(server.id);
                let node = if server.node.is_empty() { "(unknown)" } else { &server.node };
                fields.text("Node", node);
                fields.text("Address", &server.address);
                fields.bool("Leader", server.leader);
                fields.text("ProtocolVersion", "3");
                fields.bool("Voter", server.voter);
                fields.number("LastIndex", server.last_index);
            });
        });
        fields.number("Index", index);
    });
    Ok(Answer::json(json.into_bytes()))
}

async fn transfer_leader(call: Call) -> Result<Answer, ApiError> {
    let options = call.write_options()?;
    let id = call.params.text("id");
    let to = match &*id {
        "" => None,
        text => Some(text.parse::<NodeId>().map_err(|_| unknown_id(text))?),
    };
    call.order(&options, Op::TransferLeader { to }).await?;
    Ok(Answer::json(&br#"{"Success":true}"#[..]))
}

fn unknown_id(id: &str) -> ApiError {
    ApiError::Internal(format!("id \"{id}\" was not found in the Raft configuration"))
}

async fn remove_peer(call: Call) -> Result<Answer, ApiError> {
    let options = call.write_options()?;
    let (has_id, has_address) = (call.params.has("id"), call.params.has("address"));
    if !has_id && !has_address {
        return Err(ApiError::BadRequest(
            "Must specify either ?id with the server's ID or ?address with IP:port of peer to \
             remove"
                .into(),
        ));
    }
    if has_id && has_address {
        return Err(ApiError::BadRequest("Must specify only one of ?id or ?address".into()));
    }
    let (_, servers) = ask(&call, &options).await?;
    let id = if has_id {
        let text = call.params.text("id");
        let id = text.parse::<NodeId>().ok();
        let known = servers.iter().find(|server| Some(server.id) == id);
        known.ok_or_else(|| unknown_id(&text))?.id
    } else {
        let text = call.params.text("address");
        let known = servers.iter().find(|server| *server.address == *text);
        known
            .ok_or_else(|| {
                let text = format!("address \"{text}\" was not found in the Raft configuration");
                ApiError::Internal(text)
            })?
            .id
    };
    call.order(&options, Op::RemovePeer { id }).await?;
    Ok(Answer::empty())
}

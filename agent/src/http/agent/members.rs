//! Membership as this node's gossip sees it.

use model::api::json::Json;
use model::filter::{self as filters, MemberRecord};
use model::seam::{ClusterError, Member, Members};
use tokio::sync::oneshot;

use super::super::Route;
use super::super::answer::Answer;
use super::super::call::Call;
use super::super::context::{Control, Permission};
use super::super::error::ApiError;
use super::{filter, keeps, open};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/agent/members", members).needs(Permission::ByHandler),
        Route::put("/v1/agent/join/", join).needs(Permission::AgentWrite),
        Route::put("/v1/agent/leave", leave).needs(Permission::AgentWrite),
        Route::put("/v1/agent/force-leave/", force_leave).needs(Permission::OperatorWrite),
    ]
}

async fn members(call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    let wan = !call.params.text("wan").is_empty();
    let segment = call.params.text("segment");
    if !matches!(segment.as_ref(), "" | "_all") {
        return Err(if wan {
            ApiError::BadRequest("Cannot provide a segment with wan=true".into())
        } else {
            let text = "Network segments are not supported in this version of Consul";
            ApiError::Internal(text.into())
        });
    }
    let filter = filter(&call, &filters::MEMBER)?;
    if wan && !call.context.config.server {
        return Ok(Answer::json("null"));
    }
    let cluster = &call.context.cluster;
    let members = if wan { cluster.wan_members() } else { cluster.members() };
    let mut out = Json::default();
    let kept = members.list.iter().filter(|each| keeps(filter.as_ref(), &MemberRecord(each)));
    out.array(kept, |out, each| member(out, each));
    Ok(Answer::json(out.into_bytes()))
}

/// One member; the protocol numbers are those of the serf that Consul 1.21 runs.
pub(super) fn member(out: &mut Json, member: &Member) {
    out.object(|fields| {
        fields.text("Name", &member.name);
        fields.name("Addr").plain(member.address.ip());
        fields.number("Port", member.address.port());
        fields.name("Tags").object(|tags| {
            for (key, value) in &member.tags {
                tags.key(key).text(value);
            }
        });
        fields.number("Status", member.state as u8);
        for (name, number) in [
            ("ProtocolMin", 1),
            ("ProtocolMax", 5),
            ("ProtocolCur", 2),
            ("DelegateMin", 2),
            ("DelegateMax", 5),
            ("DelegateCur", 4),
        ] {
            fields.number(name, number);
        }
    });
}

async fn join(call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    let address = call.named("Missing address to join")?;
    if !call.params.text("wan").is_empty() {
        return Err(ApiError::Internal("the WAN pool is not built yet".into()));
    }
    match call.context.cluster.join(vec![address.to_string()]).await {
        Ok(_) => Ok(Answer::empty()),
        Err(error) => Err(ApiError::Internal(error.to_string())),
    }
}

async fn leave(call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    order(&call, Control::Leave).await
}

/// Hands an order to the whole agent and waits until it is done.
pub(super) async fn order(
    call: &Call,
    make: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Control,
) -> Result<Answer, ApiError> {
    let stopping = || ApiError::Internal("the agent is stopping".into());
    let (done, answer) = oneshot::channel();
    call.context.control.send(make(done)).await.map_err(|_| stopping())?;
    match answer.await {
        Ok(Ok(())) => Ok(Answer::empty()),
        Ok(Err(text)) => Err(ApiError::Internal(text)),
        Err(_) => Err(stopping()),
    }
}

/// Turns a failed member into one that left. In the LAN pool the name may carry our datacenter.
async fn force_leave(call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    let name = call.rest_text().into_owned();
    let unknown = || ApiError::Internal(ClusterError::UnknownMember(name.clone()).to_string());
    let cluster = &call.context.cluster;
    if call.params.has("wan") && find(&cluster.wan_members(), &name, "").is_none() {
        return Err(unknown());
    }
    let datacenter = &call.context.config.datacenter;
    let known = find(&cluster.members(), &name, datacenter).ok_or_else(unknown)?;
    match cluster.force_leave(&known, call.params.has("prune")).await {
        Ok(()) => Ok(Answer::empty()),
        Err(ClusterError::UnknownMember(_)) => Err(unknown()),
        Err(error) => Err(ApiError::Internal(error.to_string())),
    }
}

fn find(members: &Members, name: &str, datacenter: &str) -> Option<String> {
    let bare = name.strip_suffix(datacenter).and_then(|rest| rest.strip_suffix('.'));
    members
        .by_name(name)
        .or_else(|| bare.and_then(|bare| members.by_name(bare)))
        .map(|member| member.name.to_string())
}

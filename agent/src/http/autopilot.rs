//! `/v1/operator/autopilot`: who looks after the servers, and what it sees (spec/http-api-1.md
//! §14.4).

use std::sync::Arc;

use http::StatusCode;
use model::LogIndex;
use model::api::input::{self, InputError, Object};
use model::api::json::{Fields, Json};
use model::date::rfc3339;
use model::duration::GoDuration;
use model::row::AutopilotV1;
use model::rpc::{AutopilotServer, AutopilotState, AutopilotWrite, Body, Op};
use serde_json::Value;

use super::answer::Answer;
use super::call::{Call, foreign_reply};
use super::error::ApiError;
use super::options;
use super::route::Route;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/operator/autopilot/configuration", configuration),
        Route::put("/v1/operator/autopilot/configuration", configure),
        Route::get("/v1/operator/autopilot/health", health),
        Route::get("/v1/operator/autopilot/state", state),
    ]
}

async fn configuration(call: Call) -> Result<Answer, ApiError> {
    let options = call.options()?;
    let row = match call.ask(&options, Op::AutopilotConfiguration).await?.body {
        Body::Autopilot(Some(row)) => row,
        Body::Autopilot(None) => {
            return Err(ApiError::Internal("autopilot config not initialized yet".into()));
        }
        _ => return Err(foreign_reply()),
    };
    let mut json = Json::default();
    json.object(|fields| {
        fields.bool("CleanupDeadServers", row.cleanup_dead_servers);
        fields.text("LastContactThreshold", &GoDuration(row.last_contact_threshold_ns).to_string());
        fields.number("MaxTrailingLogs", row.max_trailing_logs);
        fields.number("MinQuorum", row.min_quorum);
        let stable = GoDuration(row.server_stabilization_time_ns).to_string();
        fields.text("ServerStabilizationTime", &stable);
        fields.text("RedundancyZoneTag", &row.redundancy_zone_tag);
        fields.bool("DisableUpgradeMigration", row.disable_upgrade_migration);
        fields.text("UpgradeVersionTag", &row.upgrade_version_tag);
        fields.number("CreateIndex", row.create_index.0);
        fields.number("ModifyIndex", row.modify_index.0);
    });
    Ok(Answer::json(json.into_bytes()))
}

async fn configure(call: Call) -> Result<Answer, ApiError> {
    let options = call.write_options()?;
    let failed = |error: InputError| {
        ApiError::BadRequest(format!("Error parsing autopilot config: {error}"))
    };
    let body = input::first_value(&call.bytes()?).map_err(failed)?;
    let row = row(&body).map_err(failed)?;
    let text = call.params.text("cas");
    let cas = match &*text {
        "" => None,
        text => Some(options::parse_u64(text).map(LogIndex).ok_or_else(|| {
            let text = model::duration::quote(text);
            let why = format!("strconv.ParseUint: parsing {text}: invalid syntax");
            ApiError::BadRequest(format!("Error parsing cas value: {why}"))
        })?),
    };
    let configuration = Box::new(AutopilotWrite(row));
    let op = Op::AutopilotConfigure { configuration, cas };
    match call.order(&options, op).await?.body {
        Body::Bool(held) => Ok(Answer::bool(held)),
        _ => Err(foreign_reply()),
    }
}

/// What is absent takes its default; a duration that is `null` is none.
fn row(body: &Value) -> Result<AutopilotV1, InputError> {
    let mut fields = Object::new(body, "AutopilotConfiguration")?;
    let default = AutopilotV1::default();
    let mut ns = |name: &'static str, default: i64| -> Result<i64, InputError> {
        let given = fields.has(name);
        let duration = fields.duration(&[name])?;
        Ok(duration.map_or(if given { 0 } else { default }, |duration| duration.0))
    };
    let last_contact_threshold_ns = ns("LastContactThreshold", default.last_contact_threshold_ns)?;
    let server_stabilization_time_ns =
        ns("ServerStabilizationTime", default.server_stabilization_time_ns)?;
    let trailing = fields.has("MaxTrailingLogs");
    let row = AutopilotV1 {
        cleanup_dead_servers: fields
            .bool_option(&["CleanupDeadServers"])?
            .unwrap_or(default.cleanup_dead_servers),
        last_contact_threshold_ns,
        max_trailing_logs: match fields.u64(&["MaxTrailingLogs"])? {
            _ if !trailing => default.max_trailing_logs,
            number => number,
        },
        min_quorum: fields.u64(&["MinQuorum"])?,
        server_stabilization_time_ns,
        redundancy_zone_tag: fields.text(&["RedundancyZoneTag"])?.into(),
        disable_upgrade_migration: fields.bool(&["DisableUpgradeMigration"])?,
        upgrade_version_tag: fields.text(&["UpgradeVersionTag"])?.into(),
        ..default
    };
    // A configuration that was read is written back with these.
    fields.ignore(&["CreateIndex", "ModifyIndex"]);
    fields.finish()?;
    Ok(row)
}

async fn seen(call: &Call) -> Result<Option<Arc<AutopilotState>>, ApiError> {
    let options = call.options()?;
    match call.order(&options, Op::AutopilotState).await?.body {
        Body::AutopilotState(state) => Ok(state),
        _ => Err(foreign_reply()),
    }
}

/// 429 when something is wrong, with the same body: load balancers go by the status.
async fn health(call: Call) -> Result<Answer, ApiError> {
    let state = seen(&call).await?;
    let healthy = state.as_ref().is_some_and(|state| state.healthy);
    let mut json = Json::default();
    json.object(|fields| {
        fields.bool("Healthy", healthy);
        fields.number("FailureTolerance", state.as_ref().map_or(0, |s| s.failure_tolerance));
        let servers = fields.name("Servers");
        match &state {
            None => servers.null(),
            Some(state) => servers.array(&state.servers, |json, server| {
                json.object(|fields| {
                    fields.name("ID").plain(server.id);
                    fields.text("Name", &server.name);
                    fields.text("Address", &server.address);
                    fields.text("SerfStatus", &server.node_status);
                    fields.text("Version", &server.version);
                    fields.bool("Leader", server.leader);
                    statistics(fields, server);
                    fields.bool("Healthy", server.healthy);
                    fields.bool("Voter", server.voter);
                    fields.text("StableSince", &rfc3339(server.stable_since_ms));
                });
            }),
        }
    });
    let mut answer = Answer::json(json.into_bytes());
    if !healthy {
        answer.status = StatusCode::TOO_MANY_REQUESTS;
    }
    Ok(answer)
}

fn statistics(fields: &mut Fields<'_>, server: &AutopilotServer) {
    // Consul: -1 when there never was a contact.
    let contact = server.last_contact_ms.map_or(GoDuration(-1), GoDuration::from_millis);
    fields.text("LastContact", &contact.to_string());
    fields.number("LastTerm", server.last_term);
    fields.number("LastIndex", server.last_index);
}

async fn state(call: Call) -> Result<Answer, ApiError> {
    let state = seen(&call).await?;
    let none = AutopilotState { healthy: false, failure_tolerance: 0, servers: Vec::new() };
    let state = state.as_deref().unwrap_or(&none);
    let mut json = Json::default();
    json.object(|fields| {
        fields.bool("Healthy", state.healthy);
        fields.number("FailureTolerance", state.failure_tolerance);
        fields.number("OptimisticFailureTolerance", state.failure_tolerance);
        fields.name("Servers").object(|servers| {
            for server in &state.servers {
                servers.name(&server.id.to_string()).object(|fields| describe(fields, server));
            }
        });
        let leader = state.servers.iter().find(|server| server.leader);
        fields.text("Leader", &leader.map_or(String::new(), |server| server.id.to_string()));
        let voters = state.servers.iter().filter(|server| server.voter);
        fields.name("Voters").array(voters, |json, server| json.plain(server.id));
    });
    Ok(Answer::json(json.into_bytes()))
}

fn describe(fields: &mut Fields<'_>, server: &AutopilotServer) {
    fields.name("ID").plain(server.id);
    fields.text("Name", &server.name);
    fields.text("Address", &server.address);
    fields.text("NodeStatus", &server.node_status);
    fields.text("Version", &server.version);
    statistics(fields, server);
    fields.bool("Healthy", server.healthy);
    fields.text("StableSince", &rfc3339(server.stable_since_ms));
    fields.bool("ReadReplica", server.read_replica);
    let status = match (server.leader, server.voter) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "non-voter",
    };
    fields.text("Status", status);
    fields.name("Meta").object(|meta| {
        let version = server.state_version.to_string();
        // Beside the node's own metadata, where `consul-` is reserved, too.
        let ours = ("muster-state-version", version.as_str());
        let node = server.meta.iter().map(|(key, value)| (&**key, &**value));
        for (key, value) in node.chain([ours]) {
            meta.key(key).text(value);
        }
    });
    fields.text("NodeType", if server.read_replica { "read-replica" } else { "voter" });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_fields_take_their_defaults_and_null_durations_are_none() {
        let default = AutopilotV1::default;
        for (body, wanted) in [
            (json!({}), default()),
            (
                json!({"ServerStabilizationTime": "1ms", "lastcontactthreshold": 5}),
                AutopilotV1 {
                    server_stabilization_time_ns: 1_000_000,
                    last_contact_threshold_ns: 5,
                    ..default()
                },
            ),
            (
                json!({"ServerStabilizationTime": null, "LastContactThreshold": null}),
                AutopilotV1 {
                    server_stabilization_time_ns: 0,
                    last_contact_threshold_ns: 0,
                    ..default()
                },
            ),
            (
                json!({"CleanupDeadServers": false, "MaxTrailingLogs": 0, "MinQuorum": 3,
                    "RedundancyZoneTag": "z", "CreateIndex": 4, "ModifyIndex": 9}),
                AutopilotV1 {
                    cleanup_dead_servers: false,
                    max_trailing_logs: 0,
                    min_quorum: 3,
                    redundancy_zone_tag: "z".into(),
                    ..default()
                },
            ),
        ] {
            assert_eq!(row(&body), Ok(wanted), "{body}");
        }
        for body in [
            json!({"cleanup_dead_servers": true}),
            json!({"MaxTrailingLogs": -1}),
            json!({"LastContactThreshold": "soon"}),
            json!([]),
        ] {
            assert!(row(&body).is_err(), "{body}");
        }
    }
}

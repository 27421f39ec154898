//! `/v1/operator/autopilot`.

use std::sync::Arc;

use model::row::AutopilotV1;
use model::rpc::{AutopilotServer, AutopilotState, Body, Consistency, Op, RpcError};
use model::{LogIndex, NodeId};

use super::fixture::{open, reply};

fn autopilot_state(healthy: bool) -> Arc<AutopilotState> {
    let server = |n: u8, leader: bool, voter: bool| AutopilotServer {
        id: NodeId([n; 16]),
        name: format!("n{n}").into(),
        address: format!("10.0.0.{n}:8300").into(),
        node_status: "alive".into(),
        version: "1.21.4".into(),
        last_contact_ms: if leader { Some(0) } else { healthy.then_some(35) },
        last_term: 2,
        last_index: 1184,
        healthy: leader || healthy,
        stable_since_ms: 1_740_045_600_000,
        read_replica: !voter,
        leader,
        voter,
        state_version: 2,
        meta: [("consul-version".into(), "1.21.4".into())].into(),
    };
    let servers = vec![server(0x33, true, true), server(0x44, false, false)];
    Arc::new(AutopilotState { healthy, failure_tolerance: 0, servers })
}

#[tokio::test]
async fn autopilot_configuration_is_read_written_and_compared() {
    let door = open(|request| match &request.op {
        Op::AutopilotConfiguration if request.consistency == Consistency::Stale => {
            reply(Body::Autopilot(None))
        }
        Op::AutopilotConfiguration => {
            let (create_index, modify_index) = (LogIndex(4), LogIndex(9));
            let row = AutopilotV1 { create_index, modify_index, ..AutopilotV1::default() };
            reply(Body::Autopilot(Some(Arc::new(row))))
        }
        Op::AutopilotConfigure { cas, .. } => {
            reply(Body::Bool(cas.is_none_or(|index| index == LogIndex(9))))
        }
        _ => Err(RpcError::NotReady),
    })
    .await;
    let path = "/v1/operator/autopilot/configuration";
    let body = r#"{"CleanupDeadServers":true,"LastContactThreshold":"200ms","MaxTrailingLogs":250,"MinQuorum":0,"ServerStabilizationTime":"10s","RedundancyZoneTag":"","DisableUpgradeMigration":false,"UpgradeVersionTag":"","CreateIndex":4,"ModifyIndex":9}"#;
    let missing = "autopilot config not initialized yet";
    for (query, status, text) in [("", 200, body), ("?stale", 500, missing)] {
        let answer = door.get(&format!("{path}{query}")).await;
        assert_eq!((answer.status, answer.text()), (status, text.to_owned()));
    }
    let put = async |query: &str, body: &str| {
        let answer = door.put(&format!("{path}{query}"), body).await;
        (answer.status, answer.text())
    };
    assert_eq!(put("", r#"{"ServerStabilizationTime":null}"#).await, (200, "true".into()));
    let Op::AutopilotConfigure { configuration, cas } = door.asked().op else { panic!() };
    assert_eq!((configuration.0.server_stabilization_time_ns, cas), (0, None));
    assert_eq!(configuration.0.last_contact_threshold_ns, 200_000_000);
    assert_eq!(put("?cas=9", body).await, (200, "true".into()));
    assert_eq!(put("?cas=8", body).await, (200, "false".into()));
    for (query, body, said) in [
        ("?cas=x", body, "Error parsing cas value: "),
        ("", "", "Error parsing autopilot config: EOF"),
        ("", "{", "Error parsing autopilot config: "),
        ("", r#"{"min_quorum":1}"#, "Error parsing autopilot config: json: unknown field"),
    ] {
        let (status, text) = put(query, body).await;
        assert!(status == 400 && text.starts_with(said), "{status} {text}");
    }
}

#[tokio::test]
async fn autopilot_health_is_a_status_and_both_views_name_every_server() {
    let door = open(|request| match &request.op {
        Op::AutopilotState if &*request.token == "none" => reply(Body::AutopilotState(None)),
        Op::AutopilotState => {
            reply(Body::AutopilotState(Some(autopilot_state(&*request.token == "well"))))
        }
        _ => Err(RpcError::NotReady),
    })
    .await;
    let health = r#"{"Healthy":true,"FailureTolerance":0,"Servers":[{"ID":"33333333-3333-3333-3333-333333333333","Name":"n51","Address":"10.0.0.51:8300","SerfStatus":"alive","Version":"1.21.4","Leader":true,"LastContact":"0s","LastTerm":2,"LastIndex":1184,"Healthy":true,"Voter":true,"StableSince":"2025-02-20T10:00:00Z"},{"ID":"44444444-4444-4444-4444-444444444444","Name":"n68","Address":"10.0.0.68:8300","SerfStatus":"alive","Version":"1.21.4","Leader":false,"LastContact":"35ms","LastTerm":2,"LastIndex":1184,"Healthy":true,"Voter":false,"StableSince":"2025-02-20T10:00:00Z"}]}"#;
    let ill = health
        .replacen("\"Healthy\":true", "\"Healthy\":false", 1)
        .replace("\"LastContact\":\"35ms\"", "\"LastContact\":\"-1ns\"")
        .replace("\"Healthy\":true,\"Voter\":false", "\"Healthy\":false,\"Voter\":false");
    let state = r#"{"Healthy":true,"FailureTolerance":0,"OptimisticFailureTolerance":0,"Servers":{"33333333-3333-3333-3333-333333333333":{"ID":"33333333-3333-3333-3333-333333333333","Name":"n51","Address":"10.0.0.51:8300","NodeStatus":"alive","Version":"1.21.4","LastContact":"0s","LastTerm":2,"LastIndex":1184,"Healthy":true,"StableSince":"2025-02-20T10:00:00Z","ReadReplica":false,"Status":"leader","Meta":{"consul-version":"1.21.4","muster-state-version":"2"},"NodeType":"voter"},"44444444-4444-4444-4444-444444444444":{"ID":"44444444-4444-4444-4444-444444444444","Name":"n68","Address":"10.0.0.68:8300","NodeStatus":"alive","Version":"1.21.4","LastContact":"35ms","LastTerm":2,"LastIndex":1184,"Healthy":true,"StableSince":"2025-02-20T10:00:00Z","ReadReplica":true,"Status":"non-voter","Meta":{"consul-version":"1.21.4","muster-state-version":"2"},"NodeType":"read-replica"}},"Leader":"33333333-3333-3333-3333-333333333333","Voters":["33333333-3333-3333-3333-333333333333"]}"#;
    let none = r#"{"Healthy":false,"FailureTolerance":0,"OptimisticFailureTolerance":0,"Servers":{},"Leader":"","Voters":[]}"#;
    let unknown = r#"{"Healthy":false,"FailureTolerance":0,"Servers":null}"#;
    for (path, status, text) in [
        ("health?token=well", 200, health),
        ("health", 429, ill.as_str()),
        ("health?token=none", 429, unknown),
        ("state?token=well", 200, state),
        ("state?token=none", 200, none),
    ] {
        let answer = door.get(&format!("/v1/operator/autopilot/{path}")).await;
        assert_eq!((answer.status, answer.text()), (status, text.to_owned()), "{path}");
    }
}

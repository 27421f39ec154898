//! Services and checks of this node as its clients see them.

use model::api::json::{Fields, Json};
use model::row::{CheckV1, NameMap, ServiceV1};
use serde_json::Value;

/// An `AgentService`. The hash is only given where it can be waited on.
pub(super) fn service(json: &mut Json, row: &ServiceV1, datacenter: &str, hash: Option<&str>) {
    json.object(|fields| {
        fields.text_unless_empty("Kind", &row.kind);
        fields.text("ID", &row.id);
        fields.text("Service", &row.name);
        fields.name("Tags").texts(&row.tags);
        map(fields, "Meta", row.meta.as_ref());
        fields.number("Port", row.port);
        fields.text("Address", &row.address);
        fields.text_unless_empty("SocketPath", &row.socket_path);
        if !row.tagged_addresses.is_empty() {
            fields.name("TaggedAddresses").object(|addresses| {
                for (key, address) in &row.tagged_addresses {
                    addresses.key(key).object(|fields| {
                        fields.text("Address", &address.address);
                        fields.number("Port", address.port);
                    });
                }
            });
        }
        fields.name("Weights").object(|weights| {
            weights.number("Passing", row.weights.passing.max(1));
            weights.number("Warning", row.weights.warning);
        });
        fields.bool("EnableTagOverride", row.enable_tag_override);
        if let Some(hash) = hash {
            fields.text("ContentHash", hash);
        }
        if shows_proxy(&row.kind) {
            fields.name("Proxy").raw(&proxy(row));
        }
        if row.connect_native {
            fields.name("Connect").object(|connect| connect.bool("Native", true));
        }
        if let Some(locality) = &row.locality {
            fields.name("Locality").object(|fields| {
                fields.text_unless_empty("Region", &locality.region);
                fields.text_unless_empty("Zone", &locality.zone);
            });
        }
        fields.text("Datacenter", datacenter);
    });
}

/// A `HealthCheck` of `agent/checks`.
pub(super) fn check(json: &mut Json, row: &CheckV1) {
    json.object(|fields| {
        head(fields, row);
        fields.text("Type", &row.kind);
        fields.text("Interval", &row.interval);
        fields.text("Timeout", &row.timeout);
        fields.number("ExposedPort", row.exposed_port);
        fields.name("Definition").raw("{}");
        fields.number("CreateIndex", 0);
        fields.number("ModifyIndex", 0);
    });
}

/// A check inside `agent/health`: only its head, and a definition with every field empty.
pub(super) fn health_check(json: &mut Json, row: &CheckV1) {
    json.object(|fields| {
        head(fields, row);
        fields.text("Type", "");
        fields.text("Interval", "");
        fields.text("Timeout", "");
        fields.number("ExposedPort", 0);
        fields.name("Definition").raw(EMPTY_DEFINITION);
        fields.number("CreateIndex", 0);
        fields.number("ModifyIndex", 0);
    });
}

const EMPTY_DEFINITION: &str = r#"{"HTTP":"","TLSServerName":"","TLSSkipVerify":false,"Header":null,"Method":"","Body":"","DisableRedirects":false,"TCP":"","TCPUseTLS":false,"UDP":"","H2PING":"","OSService":"","H2PingUseTLS":false,"GRPC":"","GRPCUseTLS":false,"AliasNode":"","AliasService":"","ScriptArgs":null,"DockerContainerID":"","Shell":"","OutputMaxSize":0,"Interval":"0s","Timeout":"0s","DeregisterCriticalServiceAfter":"0s"}"#;

fn head(fields: &mut Fields<'_>, row: &CheckV1) {
    fields.text("Node", &row.node);
    fields.text("CheckID", &row.id);
    fields.text("Name", &row.name);
    fields.text("Status", row.status.as_str());
    fields.text("Notes", &row.notes);
    fields.text("Output", &row.output);
    fields.text("ServiceID", &row.service_id);
    fields.text("ServiceName", &row.service_name);
    fields.name("ServiceTags").texts(&row.service_tags);
}

/// A map that is never null.
pub(super) fn map(fields: &mut Fields<'_>, name: &str, map: Option<&NameMap>) {
    fields.name(name).object(|fields| {
        for (key, value) in map.into_iter().flatten() {
            fields.key(key).text(value);
        }
    });
}

fn shows_proxy(kind: &str) -> bool {
    matches!(
        kind,
        "connect-proxy"
            | "mesh-gateway"
            | "terminating-gateway"
            | "ingress-gateway"
            | "api-gateway"
    )
}

fn proxy(row: &ServiceV1) -> String {
    let stored = row.proxy_json.as_deref().unwrap_or("{}");
    let mut proxy = match serde_json::from_str::<Value>(stored) {
        Ok(Value::Object(proxy)) => proxy,
        _ => serde_json::Map::new(),
    };
    // Only these two are shown empty. // spec: Consul, AgentService
    proxy.retain(|_, value| *value != Value::String(String::new()));
    for name in ["MeshGateway", "Expose"] {
        proxy.entry(name).or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    Value::Object(proxy).to_string()
}

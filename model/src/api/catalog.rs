//! Nodes, services, instances and checks as JSON.

use std::sync::Arc;

use super::json::{Fields, Json};
use crate::id::{LogIndex, Name};
use crate::row::{CheckV1, LocalityV1, NameMap, NodeV1, ServiceV1, WeightsV1};
use crate::rpc::Instance;

/// What `Proxy` is when nothing was given.
pub(crate) const NO_PROXY: &str = r#"{"Mode":"","MeshGateway":{},"Expose":{}}"#;

fn indexes(fields: &mut Fields<'_>, create: LogIndex, modify: LogIndex) {
    fields.number("CreateIndex", create.0);
    fields.number("ModifyIndex", modify.0);
}

fn name_map(json: &mut Json, map: &NameMap) {
    json.object(|fields| {
        for (key, value) in map {
            fields.key(key).text(value);
        }
    });
}

fn name_map_or_null(json: &mut Json, map: Option<&NameMap>) {
    match map {
        Some(map) => name_map(json, map),
        None => json.null(),
    }
}

fn locality(json: &mut Json, locality: &LocalityV1) {
    json.object(|fields| {
        fields.text("Region", &locality.region);
        fields.text("Zone", &locality.zone);
    });
}

fn weights(json: &mut Json, weights: WeightsV1) {
    json.object(|fields| {
        fields.number("Passing", weights.passing);
        fields.number("Warning", weights.warning);
    });
}

fn tagged_addresses(json: &mut Json, service: &ServiceV1) {
    json.object(|fields| {
        for (tag, address) in &service.tagged_addresses {
            fields.key(tag).object(|fields| {
                fields.text("Address", &address.address);
                fields.number("Port", address.port);
            });
        }
    });
}

fn connect(json: &mut Json, service: &ServiceV1) {
    json.object(|fields| fields.bool_if_true("Native", service.connect_native));
}

fn node_id(json: &mut Json, node: &NodeV1) {
    match node.id {
        Some(id) => json.plain(id),
        None => json.text(""),
    }
}

/// A node.
pub fn node(json: &mut Json, node: &NodeV1, dc: &str) {
    json.object(|fields| {
        node_id(fields.name("ID"), node);
        fields.text("Node", &node.name);
        fields.text("Address", &node.address);
        fields.text("Datacenter", dc);
        name_map_or_null(fields.name("TaggedAddresses"), node.tagged_addresses.as_ref());
        name_map_or_null(fields.name("Meta"), node.meta.as_ref());
        if let Some(place) = &node.locality {
            locality(fields.name("Locality"), place);
        }
        indexes(fields, node.create_index, node.modify_index);
    });
}

/// A service as part of its node (`NodeService`).
pub fn service(json: &mut Json, service: &ServiceV1) {
    json.object(|fields| {
        fields.text_unless_empty("Kind", &service.kind);
        fields.text("ID", &service.id);
        fields.text("Service", &service.name);
        fields.name("Tags").texts(&service.tags);
        fields.text("Address", &service.address);
        if !service.tagged_addresses.is_empty() {
            tagged_addresses(fields.name("TaggedAddresses"), service);
        }
        name_map_or_null(fields.name("Meta"), service.meta.as_ref());
        fields.number_unless_zero("Port", service.port);
        fields.text_unless_empty("SocketPath", &service.socket_path);
        weights(fields.name("Weights"), service.weights);
        fields.bool("EnableTagOverride", service.enable_tag_override);
        fields.name("Proxy").raw(service.proxy_json.as_deref().unwrap_or(NO_PROXY));
        connect(fields.name("Connect"), service);
        fields.text("PeerName", "");
        if let Some(place) = &service.locality {
            locality(fields.name("Locality"), place);
        }
        indexes(fields, service.create_index, service.modify_index);
    });
}

/// An instance joined with its node in one flat object (`ServiceNode`).
pub fn service_node(json: &mut Json, instance: &Instance, dc: &str) {
    let (node, service) = (&*instance.node, &*instance.service);
    json.object(|fields| {
        node_id(fields.name("ID"), node);
        fields.text("Node", &node.name);
        fields.text("Address", &node.address);
        fields.text("Datacenter", dc);
        name_map_or_null(fields.name("TaggedAddresses"), node.tagged_addresses.as_ref());
        name_map_or_null(fields.name("NodeMeta"), node.meta.as_ref());
        fields.text("ServiceKind", &service.kind);
        fields.text("ServiceID", &service.id);
        fields.text("ServiceName", &service.name);
        fields.name("ServiceTags").texts(&service.tags);
        fields.text("ServiceAddress", &service.address);
        if !service.tagged_addresses.is_empty() {
            tagged_addresses(fields.name("ServiceTaggedAddresses"), service);
        }
        weights(fields.name("ServiceWeights"), service.weights);
        match &service.meta {
            Some(meta) => name_map(fields.name("ServiceMeta"), meta),
            None => fields.name("ServiceMeta").raw("{}"),
        }
        fields.number("ServicePort", service.port);
        fields.text("ServiceSocketPath", &service.socket_path);
        fields.bool("ServiceEnableTagOverride", service.enable_tag_override);
        fields.name("ServiceProxy").raw(service.proxy_json.as_deref().unwrap_or(NO_PROXY));
        connect(fields.name("ServiceConnect"), service);
        match &service.locality {
            Some(place) => locality(fields.name("ServiceLocality"), place),
            None => fields.name("ServiceLocality").null(),
        }
        indexes(fields, service.create_index, service.modify_index);
    });
}

/// A health check.
pub fn check(json: &mut Json, check: &CheckV1) {
    json.object(|fields| {
        fields.text("Node", &check.node);
        fields.text("CheckID", &check.id);
        fields.text("Name", &check.name);
        fields.text("Status", check.status.as_str());
        fields.text("Notes", &check.notes);
        fields.text("Output", &check.output);
        fields.text("ServiceID", &check.service_id);
        fields.text("ServiceName", &check.service_name);
        fields.name("ServiceTags").texts(&check.service_tags);
        fields.text("Type", &check.kind);
        fields.text("Interval", &check.interval);
        fields.text("Timeout", &check.timeout);
        fields.number("ExposedPort", check.exposed_port);
        fields.name("Definition").raw(check.definition_json.as_deref().unwrap_or("{}"));
        indexes(fields, check.create_index, check.modify_index);
    });
}

/// A list of checks.
pub fn checks(json: &mut Json, list: &[Arc<CheckV1>]) {
    json.array(list, |json, row| check(json, row));
}

/// An instance with its node and checks: an element of `health/service`.
pub fn health_entry(json: &mut Json, instance: &Instance, dc: &str) {
    json.object(|fields| {
        node(fields.name("Node"), &instance.node, dc);
        service(fields.name("Service"), &instance.service);
        checks(fields.name("Checks"), &instance.checks);
    });
}

/// `catalog/services`: names with their tags.
pub fn services(json: &mut Json, list: &[(Name, Vec<Name>)]) {
    json.object(|fields| {
        for (name, tags) in list {
            fields.key(name).texts(tags);
        }
    });
}

/// `catalog/node`: a node and a map of its services; `null` when there is no such node.
pub fn node_services_map(json: &mut Json, found: Option<(&NodeV1, &[Arc<ServiceV1>])>, dc: &str) {
    let Some((row, list)) = found else { return json.null() };
    json.object(|fields| {
        node(fields.name("Node"), row, dc);
        fields.name("Services").object(|fields| {
            for row in list {
                service(fields.key(&row.id), row);
            }
        });
    });
}

/// `catalog/node-services`: a node and a list of its services.
pub fn node_services_list(json: &mut Json, found: Option<(&NodeV1, &[Arc<ServiceV1>])>, dc: &str) {
    let Some((row, list)) = found else {
        return json.raw(r#"{"Node":null,"Services":null}"#);
    };
    json.object(|fields| {
        node(fields.name("Node"), row, dc);
        fields.name("Services").array(list, |json, row| service(json, row));
    });
}

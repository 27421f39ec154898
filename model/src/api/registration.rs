//! The bodies of `catalog/register` and `catalog/deregister`, read and checked.

use std::collections::BTreeMap;

use serde_json::Value;

use super::input::{InputError, Object};
use super::metadata::{self, Reserved};
use super::{definition, proxy};
use crate::id::{LogIndex, Name};
use crate::row::{
    CheckV1, LocalityV1, NameMap, NodeV1, ServiceAddressV1, ServiceV1, Status, WeightsV1,
};
use crate::rpc::Registration;

/// Why a registration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// The body cannot be read: 400.
    #[error("Request decode failed: {0}")]
    Decode(#[from] InputError),
    /// The body is read and wrong: 500 in Consul.
    #[error("{0}")]
    Invalid(String),
}

fn invalid<T>(text: impl Into<String>) -> Result<T, RegistrationError> {
    Err(RegistrationError::Invalid(text.into()))
}

/// Body of `catalog/register`: the datacenter it names (empty: none) and what to register.
pub fn register(body: &Value) -> Result<(Name, Registration), RegistrationError> {
    let mut object = Object::new(body, "RegisterRequest")?;
    let dc = object.text(&["Datacenter"])?;
    let id = object.text(&["ID"])?;
    let name = object.text(&["Node"])?;
    let address = object.text(&["Address"])?;
    let tagged_addresses = names(object.text_map(&["TaggedAddresses"])?);
    let meta = names(object.text_map(&["NodeMeta"])?);
    let locality = locality(object.take(&["Locality"]))?;
    let peer = object.text(&["PeerName"])?;
    let skip_node_update = object.bool(&["SkipNodeUpdate"])?;
    let service_value = object.take(&["Service"]);
    let check_values =
        object.take(&["Check"]).into_iter().chain(object.list(&["Checks"])?.unwrap_or(&[]));
    object.ignore(&["Token", "WriteRequest", "CreateIndex", "ModifyIndex"]);
    refuse_tenants(&mut object)?;
    object.finish()?;
    let mut service = service_value.map(|value| read_service(value, name)).transpose()?;
    let mut checks = Vec::new();
    for value in check_values {
        checks.push(read_check(value, name)?);
    }

    if name.is_empty() {
        return invalid("Must provide node");
    }
    if address.is_empty() && !skip_node_update {
        return invalid("Must provide address if SkipNodeUpdate is not set");
    }
    let id = match id {
        "" => None,
        text => match text.parse() {
            Ok(id) => Some(id),
            Err(error) => return invalid(format!("Bad node ID: {error}")),
        },
    };
    if !peer.is_empty() {
        return invalid("cannot register requests with PeerName in them");
    }
    if let Some(service) = &mut service {
        check_service(service)?;
    }
    for check in &checks {
        if !check.node.eq_ignore_ascii_case(name) {
            return invalid(format!(
                "Node '{}' for check '{}' doesn't match register request node '{name}'",
                check.node, check.id
            ));
        }
        // An empty id would be a critical check of the node that nobody meant.
        if check.id.is_empty() {
            return invalid(format!(
                "failed inserting check on node {}: failed inserting check: object missing \
                 primary index",
                crate::duration::quote(name)
            ));
        }
    }
    let node = NodeV1 {
        name: name.into(),
        id,
        address: address.into(),
        tagged_addresses,
        meta,
        locality,
        create_index: LogIndex::ZERO,
        modify_index: LogIndex::ZERO,
    };
    // A service without name and id is the empty object that some clients send for none.
    let services = service.into_iter().filter(|service| !service.name.is_empty()).collect();
    Ok((dc.into(), Registration { node, skip_node_update, services, checks }))
}

/// Body of `catalog/deregister`: datacenter (empty: none), node, service id, check id.
pub type Deregistration = (Name, Name, Option<Name>, Option<Name>);

/// Reads the body of `catalog/deregister`.
pub fn deregister(body: &Value) -> Result<Deregistration, RegistrationError> {
    let mut object = Object::new(body, "DeregisterRequest")?;
    let dc = object.text(&["Datacenter"])?;
    let node = object.text(&["Node"])?;
    let given = |text: &str| if text.is_empty() { None } else { Some(text.into()) };
    let service = given(object.text(&["ServiceID"])?);
    let check = given(object.text(&["CheckID"])?);
    object.ignore(&["Address", "Token", "WriteRequest", "PeerName"]);
    refuse_tenants(&mut object)?;
    object.finish()?;
    if node.is_empty() {
        return invalid("Must provide node");
    }
    Ok((dc.into(), node.into(), service, check))
}

/// Namespaces and partitions: empty and `default` are what we have, the rest is refused.
fn refuse_tenants(object: &mut Object<'_>) -> Result<(), InputError> {
    for (field, what) in [("Namespace", "Namespaces"), ("Partition", "Partitions")] {
        if !matches!(object.text(&[field])?, "" | "default") {
            return Err(InputError::Syntax(format!(
                "json: unknown field \"{field}\" - {what} are a Consul Enterprise feature"
            )));
        }
    }
    Ok(())
}

pub(crate) fn names(map: Option<Vec<(&str, &str)>>) -> Option<NameMap> {
    Some(map?.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
}

pub(crate) fn locality(value: Option<&Value>) -> Result<Option<LocalityV1>, InputError> {
    let Some(value) = value else { return Ok(None) };
    let mut object = Object::new(value, "Locality")?;
    let read = LocalityV1 {
        region: object.text(&["Region"])?.into(),
        zone: object.text(&["Zone"])?.into(),
    };
    object.finish()?;
    Ok(Some(read))
}

/// A number in a field of 16 bits.
fn u16_field(object: &mut Object<'_>, name: &str) -> Result<u16, InputError> {
    let number = object.int(&[name])?;
    u16::try_from(number).map_err(|_| InputError::Type {
        found: format!("number {number}"),
        field: format!("RegisterRequest.{name}"),
        wanted: "int",
    })
}

pub(crate) fn read_service(value: &Value, node: &str) -> Result<ServiceV1, InputError> {
    let mut object = Object::new(value, "NodeService")?;
    let weights = match object.take(&["Weights"]) {
        None => WeightsV1::default(),
        Some(value) => {
            let mut weights = Object::new(value, "Weights")?;
            let read = WeightsV1 {
                passing: u16_field(&mut weights, "Passing")?,
                warning: u16_field(&mut weights, "Warning")?,
            };
            weights.finish()?;
            // Go clients send zeros for weights that were not set.
            if read == (WeightsV1 { passing: 0, warning: 0 }) { WeightsV1::default() } else { read }
        }
    };
    let mut tagged_addresses = BTreeMap::new();
    for (tag, value) in object.map(&["TaggedAddresses"])?.unwrap_or_default() {
        let mut address = Object::new(value, "ServiceAddress")?;
        let read = ServiceAddressV1 {
            address: address.text(&["Address"])?.into(),
            port: u16_field(&mut address, "Port")?,
        };
        address.finish()?;
        tagged_addresses.insert(tag.into(), read);
    }
    let connect_native = match object.take(&["Connect"]) {
        None => false,
        Some(value) => Object::new(value, "ServiceConnect")?.bool(&["Native"])?,
    };
    let service = ServiceV1 {
        node: node.into(),
        id: object.text(&["ID"])?.into(),
        name: object.text(&["Service"])?.into(),
        kind: object.text(&["Kind"])?.into(),
        tags: texts(object.texts(&["Tags"])?),
        address: object.text(&["Address"])?.into(),
        port: u16_field(&mut object, "Port")?,
        socket_path: object.text(&["SocketPath"])?.into(),
        tagged_addresses,
        meta: names(object.text_map(&["Meta"])?),
        weights,
        enable_tag_override: object.bool(&["EnableTagOverride"])?,
        proxy_json: proxy::normalised(object.take(&["Proxy"]), "")?,
        connect_native,
        locality: locality(object.take(&["Locality"]))?,
        create_index: LogIndex::ZERO,
        modify_index: LogIndex::ZERO,
    };
    object.ignore(&["CreateIndex", "ModifyIndex", "PeerName"]);
    refuse_tenants(&mut object)?;
    object.finish()?;
    Ok(service)
}

fn texts(list: Option<Vec<&str>>) -> Vec<Name> {
    list.unwrap_or_default().into_iter().map(Into::into).collect()
}

fn check_service(service: &mut ServiceV1) -> Result<(), RegistrationError> {
    if service.name.is_empty() && !service.id.is_empty() {
        return invalid("Must provide service name (Service.Service) when service ID is provided");
    }
    if service.id.is_empty() {
        service.id = Name::clone(&service.name);
    }
    if matches!(&*service.address, "0.0.0.0" | "::" | "[::]") {
        return invalid("Invalid service address");
    }
    if let Some(meta) = &service.meta {
        let reserved = match &*service.kind {
            "mesh-gateway" => Reserved::MeshGateway,
            _ => Reserved::Refused,
        };
        let pairs = meta.iter().map(|(key, value)| (&**key, &**value));
        metadata::validate(pairs, reserved).or_else(|text| {
            invalid(format!(
                "failed inserting service: Invalid Service Meta for node {} and serviceID {}: {text}",
                service.node, service.id
            ))
        })?;
    }
    if &*service.kind == "connect-proxy" && service.port == 0 && service.socket_path.is_empty() {
        return invalid("Port or SocketPath must be set for a connect-proxy");
    }
    Ok(())
}

pub(crate) fn read_check(value: &Value, node: &str) -> Result<CheckV1, RegistrationError> {
    let mut object = Object::new(value, "HealthCheck")?;
    let name = object.text(&["Name"])?;
    let id = object.text(&["CheckID"])?;
    let check_node = object.text(&["Node"])?;
    let definition = definition::normalised(object.take(&["Definition"]))?;
    let kind = object.text(&["Type"])?;
    let status = object.text(&["Status"])?;
    let check = CheckV1 {
        node: if check_node.is_empty() { node } else { check_node }.into(),
        id: if id.is_empty() { name } else { id }.into(),
        name: name.into(),
        status: match status {
            "" => Status::Critical,
            word => match Status::parse(word) {
                Some(status) => status,
                None => {
                    return invalid(format!(
                        "Invalid check status {}: must be passing, warning or critical",
                        crate::duration::quote(word)
                    ));
                }
            },
        },
        notes: object.text(&["Notes"])?.into(),
        output: object.text(&["Output"])?.into(),
        service_id: object.text(&["ServiceID"])?.into(),
        service_name: object.text(&["ServiceName"])?.into(),
        service_tags: texts(object.texts(&["ServiceTags"])?),
        kind: if kind.is_empty() { definition.kind } else { kind }.into(),
        interval: object.text(&["Interval"])?.into(),
        timeout: object.text(&["Timeout"])?.into(),
        exposed_port: u16_field(&mut object, "ExposedPort")?,
        definition_json: definition.json,
        create_index: LogIndex::ZERO,
        modify_index: LogIndex::ZERO,
    };
    object.ignore(&["CreateIndex", "ModifyIndex", "PeerName"]);
    refuse_tenants(&mut object)?;
    object.finish()?;
    Ok(check)
}

#[cfg(test)]
mod tests;

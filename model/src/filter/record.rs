//! Rows as records with the fields that clients see.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::id::Name;
use crate::row::{CheckV1, NameMap, NodeV1, ServiceAddressV1, ServiceV1, WeightsV1};
use crate::rpc::Instance;
use crate::seam::Member;

/// Value of a field.
pub enum Value<'a> {
    /// There is none: a key that a map does not have.
    Missing,
    /// A string.
    Text(Cow<'a, str>),
    /// An integer.
    Int(i64),
    /// A truth.
    Bool(bool),
    /// A list of strings.
    Texts(&'a [Name]),
    /// A map of strings; `None` is empty.
    Map(Option<&'a NameMap>),
    /// A map of addresses.
    Addresses(&'a BTreeMap<Name, ServiceAddressV1>),
    /// An object.
    Record(Box<dyn Record + 'a>),
    /// A list of objects.
    Records(Vec<Box<dyn Record + 'a>>),
    /// A part of an object kept as JSON, in which zero values are left out.
    Json(serde_json::Value),
}

/// Something with named fields.
pub trait Record {
    /// Value of a field of the record's schema.
    fn field(&self, name: &str) -> Value<'_>;
}

fn text(value: &str) -> Value<'_> {
    Value::Text(Cow::Borrowed(value))
}

fn proxy(json: Option<&Name>) -> Value<'static> {
    let parsed = json.and_then(|text| serde_json::from_str(text).ok());
    Value::Json(parsed.unwrap_or(serde_json::Value::Null))
}

fn id_text(node: &NodeV1) -> Value<'static> {
    Value::Text(node.id.map_or(Cow::Borrowed(""), |id| Cow::Owned(id.to_string())))
}

/// A node of this datacenter.
pub struct NodeRecord<'a>(pub &'a NodeV1, pub &'a str);

impl Record for NodeRecord<'_> {
    fn field(&self, name: &str) -> Value<'_> {
        match name {
            "ID" => id_text(self.0),
            "Node" => text(&self.0.name),
            "Address" => text(&self.0.address),
            "Datacenter" => text(self.1),
            "PeerName" | "Partition" => text(""),
            "TaggedAddresses" => Value::Map(self.0.tagged_addresses.as_ref()),
            "Meta" => Value::Map(self.0.meta.as_ref()),
            _ => Value::Missing,
        }
    }
}

/// A service.
pub struct ServiceRecord<'a>(pub &'a ServiceV1);

impl Record for ServiceRecord<'_> {
    fn field(&self, name: &str) -> Value<'_> {
        let row = self.0;
        match name {
            "Kind" => text(&row.kind),
            "ID" => text(&row.id),
            "Service" => text(&row.name),
            "Tags" => Value::Texts(&row.tags),
            "Address" => text(&row.address),
            "TaggedAddresses" => Value::Addresses(&row.tagged_addresses),
            "Meta" => Value::Map(row.meta.as_ref()),
            "Port" => Value::Int(row.port.into()),
            "SocketPath" => text(&row.socket_path),
            "Weights" => Value::Record(Box::new(Weights(row.weights))),
            "EnableTagOverride" => Value::Bool(row.enable_tag_override),
            "Proxy" => proxy(row.proxy_json.as_ref()),
            "Connect" => Value::Record(Box::new(Connect(row.connect_native))),
            "PeerName" => text(""),
            _ => Value::Missing,
        }
    }
}

struct Weights(WeightsV1);

impl Record for Weights {
    fn field(&self, name: &str) -> Value<'_> {
        match name {
            "Passing" => Value::Int(self.0.passing.into()),
            "Warning" => Value::Int(self.0.warning.into()),
            _ => Value::Missing,
        }
    }
}

struct Connect(bool);

impl Record for Connect {
    fn field(&self, name: &str) -> Value<'_> {
        if name == "Native" { Value::Bool(self.0) } else { Value::Missing }
    }
}

pub(crate) struct Address<'a>(pub(crate) &'a ServiceAddressV1);

impl Record for Address<'_> {
    fn field(&self, name: &str) -> Value<'_> {
        match name {
            "Address" => text(&self.0.address),
            "Port" => Value::Int(self.0.port.into()),
            _ => Value::Missing,
        }
    }
}

/// An instance joined flat with its node, in this datacenter.
pub struct ServiceNodeRecord<'a>(pub &'a Instance, pub &'a str);

impl Record for ServiceNodeRecord<'_> {
    fn field(&self, name: &str) -> Value<'_> {
        let (node, service) = (&*self.0.node, &*self.0.service);
        match name {
            "ID" => id_text(node),
            "Node" => text(&node.name),
            "Address" => text(&node.address),
            "Datacenter" => text(self.1),
            "TaggedAddresses" => Value::Map(node.tagged_addresses.as_ref()),
            "NodeMeta" => Value::Map(node.meta.as_ref()),
            "ServiceKind" => text(&service.kind),
            "ServiceID" => text(&service.id),
            "ServiceName" => text(&service.name),
            "ServiceTags" => Value::Texts(&service.tags),
            "ServiceAddress" => text(&service.address),
            "ServiceTaggedAddresses" => Value::Addresses(&service.tagged_addresses),
            "ServiceWeights" => Value::Record(Box::new(Weights(service.weights))),
            "ServiceMeta" => Value::Map(service.meta.as_ref()),
            "ServicePort" => Value::Int(service.port.into()),
            "ServiceSocketPath" => text(&service.socket_path),
            "ServiceEnableTagOverride" => Value::Bool(service.enable_tag_override),
            "ServiceProxy" => proxy(service.proxy_json.as_ref()),
            "ServiceConnect" => Value::Record(Box::new(Connect(service.connect_native))),
            "PeerName" => text(""),
            _ => Value::Missing,
        }
    }
}

/// A check.
pub struct CheckRecord<'a>(pub &'a CheckV1);

impl Record for CheckRecord<'_> {
    fn field(&self, name: &str) -> Value<'_> {
        let row = self.0;
        match name {
            "Node" => text(&row.node),
            "CheckID" => text(&row.id),
            "Name" => text(&row.name),
            "Status" => text(row.status.as_str()),
            "Notes" => text(&row.notes),
            "Output" => text(&row.output),
            "ServiceID" => text(&row.service_id),
            "ServiceName" => text(&row.service_name),
            "ServiceTags" => Value::Texts(&row.service_tags),
            "Type" => text(&row.kind),
            "Interval" => text(&row.interval),
            "Timeout" => text(&row.timeout),
            "ExposedPort" => Value::Int(row.exposed_port.into()),
            "PeerName" => text(""),
            _ => Value::Missing,
        }
    }
}

/// An instance with node and checks, in this datacenter.
pub struct HealthRecord<'a>(pub &'a Instance, pub &'a str);

impl Record for HealthRecord<'_> {
    fn field(&self, name: &str) -> Value<'_> {
        match name {
            "Node" => Value::Record(Box::new(NodeRecord(&self.0.node, self.1))),
            "Service" => Value::Record(Box::new(ServiceRecord(&self.0.service))),
            "Checks" => Value::Records(
                self.0
                    .checks
                    .iter()
                    .map(|check| Box::new(CheckRecord(check)) as Box<dyn Record + '_>)
                    .collect(),
            ),
            _ => Value::Missing,
        }
    }
}

/// A member of a gossip pool. All speak the one version that Consul's members report.
pub struct MemberRecord<'a>(pub &'a Member);

impl Record for MemberRecord<'_> {
    fn field(&self, name: &str) -> Value<'_> {
        let member = self.0;
        match name {
            "Name" => text(&member.name),
            "Addr" => Value::Text(Cow::Owned(member.address.ip().to_string())),
            "Port" => Value::Int(member.address.port().into()),
            "Tags" => Value::Map(Some(&member.tags)),
            "Status" => Value::Int(member.state as i64),
            "ProtocolMin" => Value::Int(1),
            "ProtocolMax" | "DelegateMax" => Value::Int(5),
            "ProtocolCur" | "DelegateMin" => Value::Int(2),
            "DelegateCur" => Value::Int(4),
            _ => Value::Missing,
        }
    }
}

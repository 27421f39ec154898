//! The rules of connect-proxies and gateways. Their `Proxy` object is kept as normalised JSON for
//! the catalog.

use std::collections::BTreeSet;

use model::Name;
use model::api::proxy;
use model::duration::quote;
use serde_json::Value;

/// A proxy's configuration.
pub(super) struct Proxy {
    json: Option<Name>,
    /// The same, to look into.
    value: Value,
}

/// The service that the proxy is part of.
pub(super) struct Place<'a> {
    pub(super) kind: &'a str,
    pub(super) port: u16,
    pub(super) reachable: bool,
    pub(super) connect_native: bool,
}

impl Proxy {
    /// Unlike in the catalog's own registration, an upstream without a type is one of a service.
    pub(super) fn read(value: Option<&Value>) -> Result<Self, String> {
        let json = proxy::normalised(value, "service").map_err(|error| error.to_string())?;
        let value =
            json.as_deref().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
        Ok(Self { json, value })
    }

    pub(super) fn into_json(self) -> Option<Name> {
        self.json
    }

    fn text(&self, name: &str) -> &str {
        text(&self.value, name)
    }

    fn upstreams(&self) -> &[Value] {
        self.value.get("Upstreams").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Whether a destination, local service or upstream is named.
    fn names_service(&self) -> bool {
        const TEXTS: [&str; 4] = [
            "DestinationServiceName",
            "DestinationServiceID",
            "LocalServiceAddress",
            "LocalServiceSocketPath",
        ];
        TEXTS.iter().any(|name| !self.text(name).is_empty())
            || number(&self.value, "LocalServicePort") != 0
            || !self.upstreams().is_empty()
    }

    /// The broken rules of the service's kind and of this proxy, each in Consul's words.
    pub(super) fn broken_rules(&self, place: &Place<'_>) -> Vec<String> {
        match place.kind {
            "connect-proxy" => self.broken_as_sidecar(place),
            "mesh-gateway" | "terminating-gateway" | "ingress-gateway" | "api-gateway" => {
                let mut broken = Vec::new();
                let needs_port = matches!(place.kind, "mesh-gateway" | "terminating-gateway");
                if needs_port && place.port == 0 {
                    broken.push(format!("Port must be non-zero for a {}", place.kind));
                }
                if self.names_service() {
                    broken.push(format!(
                        "the Proxy of a {} names no destination, local service or upstream",
                        place.kind
                    ));
                }
                broken
            }
            _ => Vec::new(),
        }
    }

    fn broken_as_sidecar(&self, place: &Place<'_>) -> Vec<String> {
        let destination = self.text("DestinationServiceName");
        let rules = [
            (
                destination.is_empty(),
                "Proxy.DestinationServiceName must be non-empty for Connect proxy services",
            ),
            (
                destination == "*",
                "Proxy.DestinationServiceName must not be a wildcard for Connect proxy services",
            ),
            (!place.reachable, "Port or SocketPath must be set for a connect-proxy"),
            (place.connect_native, "A Proxy cannot also be Connect Native, only typical services"),
        ];
        let mut broken: Vec<String> =
            rules.iter().filter(|(is, _)| *is).map(|(_, text)| (*text).to_owned()).collect();
        let (mut names, mut binds) = (BTreeSet::new(), BTreeSet::new());
        for upstream in self.upstreams() {
            broken.extend(broken_upstream(upstream));
            let name = ["DestinationType", "DestinationName", "Datacenter", "DestinationPeer"]
                .map(|name| text(upstream, name));
            if !names.insert(name) {
                broken.push(format!("upstreams cannot contain duplicates of {}", name[1]));
            }
            let address = match text(upstream, "LocalBindAddress") {
                "" => "127.0.0.1",
                address => address,
            };
            let port = number(upstream, "LocalBindPort");
            if port != 0 && !binds.insert((address, port)) {
                broken.push(format!(
                    "upstreams cannot contain duplicates by local bind address and port: \
                     {address}:{port}"
                ));
            }
        }
        broken
    }
}

fn broken_upstream(upstream: &Value) -> Vec<String> {
    let kind = text(upstream, "DestinationType");
    let name = text(upstream, "DestinationName");
    let mut broken = Vec::new();
    if !matches!(kind, "" | "service" | "prepared_query") {
        broken.push(format!("unknown upstream destination type: {}", quote(kind)));
    }
    let has = |name| !text(upstream, name).is_empty();
    let bound = (number(upstream, "LocalBindPort") != 0, has("LocalBindSocketPath"));
    let rules = [
        (name.is_empty(), "upstream destination name cannot be empty"),
        (name == "*", "upstream destination name cannot be a wildcard"),
        (
            has("DestinationPeer") && has("Datacenter"),
            "upstream cannot specify both destination peer and datacenter",
        ),
        (
            bound.0 == bound.1,
            "upstream local bind port or local socket path must be defined and nonzero",
        ),
    ];
    broken.extend(rules.iter().filter(|(is, _)| *is).map(|(_, text)| (*text).to_owned()));
    broken
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, name: &str) -> i64 {
    value.get(name).and_then(Value::as_i64).unwrap_or_default()
}

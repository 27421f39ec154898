//! Registrations: validation and defaults (spec: http-api-1 §9.1, §5).

use std::net::IpAddr;

use model::command::RegisterV1;
use model::row::{CheckV1, NameMap, ServiceV1, WeightsV1};
use model::rpc::{Registration, RpcError};
use state::State;

use super::rejected;

/// Services, and checks, in one registration. Ours: an agent pushes dozens.
const PARTS_MAX: usize = 1_024;
/// Pairs of metadata. Consul: 64, keys of 128 and values of 512 characters.
const META_PAIRS_MAX: usize = 64;
const META_KEY_MAX: usize = 128;
const META_VALUE_MAX: usize = 512;

/// The registration to propose, with all defaults filled in.
pub(super) fn check(
    asked: &Registration,
    state: &State,
    namespace: &str,
) -> Result<RegisterV1, RpcError> {
    let node = &asked.node;
    if node.name.is_empty() {
        return Err(rejected("Must provide node"));
    }
    if node.address.is_empty() && !asked.skip_node_update {
        return Err(rejected("Must provide address if SkipNodeUpdate is not set"));
    }
    if asked.services.len() > PARTS_MAX || asked.checks.len() > PARTS_MAX {
        return Err(rejected(format!("more than {PARTS_MAX} services or checks at once")));
    }
    let mut services = Vec::with_capacity(asked.services.len());
    for service in &asked.services {
        services.push(check_service(service, &node.name)?);
    }
    let mut checks = Vec::with_capacity(asked.checks.len());
    for check in &asked.checks {
        let check = check_check(check, &node.name)?;
        let known = check.service_id.is_empty()
            || services.iter().any(|service| service.id.eq_ignore_ascii_case(&check.service_id))
            || state.service(namespace, &node.name, &check.service_id).is_some();
        if !known {
            return Err(rejected(format!(
                "Unknown service ID '{}' for check ID '{}'",
                check.service_id, check.id
            )));
        }
        checks.push(check);
    }
    let node = node.clone();
    Ok(RegisterV1 { node, skip_node_update: asked.skip_node_update, services, checks })
}

pub(super) fn check_service(asked: &ServiceV1, node: &model::Name) -> Result<ServiceV1, RpcError> {
    let mut service = asked.clone();
    service.node = node.clone();
    if service.name.is_empty() {
        let text = "Must provide service name (Service.Service) when service ID is provided";
        return Err(rejected(text));
    }
    if service.id.is_empty() {
        service.id = service.name.clone();
    }
    if unspecified(&service.address) {
        return Err(rejected("Invalid service address"));
    }
    if &*service.kind == "connect-proxy" && service.port == 0 && service.socket_path.is_empty() {
        return Err(rejected("Port or SocketPath must be set for a connect-proxy"));
    }
    // Consul: Go clients send zeros for weights that were not given.
    if service.weights == (WeightsV1 { passing: 0, warning: 0 }) {
        service.weights = WeightsV1::default();
    }
    if let Some(fault) = service.meta.as_ref().and_then(|meta| meta_fault(meta, &service.kind)) {
        return Err(rejected(format!(
            "failed inserting service: Invalid Service Meta for node {node} and serviceID {}: \
             {fault}",
            service.id
        )));
    }
    Ok(service)
}

fn check_check(asked: &CheckV1, node: &model::Name) -> Result<CheckV1, RpcError> {
    let mut check = asked.clone();
    if check.id.is_empty() {
        check.id = check.name.clone();
    }
    if check.node.is_empty() {
        check.node = node.clone();
    }
    if !check.node.eq_ignore_ascii_case(node) {
        return Err(rejected(format!(
            "Node '{}' for check '{}' doesn't match register request node '{node}'",
            check.node, check.id
        )));
    }
    Ok(check)
}

fn unspecified(address: &str) -> bool {
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    bare.unwrap_or(address).parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

/// What is wrong with metadata, in Consul's words.
fn meta_fault(meta: &NameMap, kind: &str) -> Option<String> {
    if meta.len() > META_PAIRS_MAX {
        return Some(format!(
            "Node metadata cannot contain more than {META_PAIRS_MAX} key/value pairs"
        ));
    }
    meta.iter().find_map(|(key, value)| {
        let gateway = kind == "mesh-gateway" && &**key == "consul-wan-federation";
        let fault = if key.is_empty() {
            "Key cannot be blank"
        } else if !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            "Key contains invalid characters"
        } else if key.len() > META_KEY_MAX {
            "Key is too long (limit: 128 characters)"
        } else if key.starts_with("consul-") && !gateway {
            "Key prefix 'consul-' is reserved for internal use"
        } else if value.len() > META_VALUE_MAX {
            "Value is too long (limit: 512 characters)"
        } else {
            return None;
        };
        Some(format!("Couldn't load metadata pair ('{key}', '{value}'): {fault}"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::fake::rows;
    use super::*;

    fn asked() -> Registration {
        Registration {
            node: rows::node("n1", 1),
            skip_node_update: false,
            services: vec![rows::service("n1", "web", "web")],
            checks: vec![rows::check("n1", "alive", "")],
        }
    }

    fn refusal(asked: &Registration) -> Option<String> {
        check(asked, &State::default(), "default").err().map(|error| error.to_string())
    }

    type Spoil = fn(&mut Registration);

    #[test]
    fn what_cannot_be_is_refused_with_consuls_text() {
        let cases: &[(Spoil, Option<&str>)] = &[
            (|_| {}, None),
            (|r| r.node.name = "".into(), Some("Must provide node")),
            (
                |r| r.node.address = "".into(),
                Some("Must provide address if SkipNodeUpdate is not set"),
            ),
            (
                |r| {
                    r.node.address = "".into();
                    r.skip_node_update = true;
                },
                None,
            ),
            (
                |r| r.services[0].name = "".into(),
                Some("Must provide service name (Service.Service) when service ID is provided"),
            ),
            (|r| r.services[0].address = "0.0.0.0".into(), Some("Invalid service address")),
            (|r| r.services[0].address = "[::]".into(), Some("Invalid service address")),
            (
                |r| {
                    r.services[0].kind = "connect-proxy".into();
                    r.services[0].port = 0;
                },
                Some("Port or SocketPath must be set for a connect-proxy"),
            ),
            (|r| r.checks[0].node = "N1".into(), None),
            (|r| r.checks[0].node = "".into(), None),
            (
                |r| r.checks[0].node = "n2".into(),
                Some("Node 'n2' for check 'alive' doesn't match register request node 'n1'"),
            ),
            (|r| r.checks[0].service_id = "web".into(), None),
            (
                |r| r.checks[0].service_id = "db".into(),
                Some("Unknown service ID 'db' for check ID 'alive'"),
            ),
            (
                |r| r.services[0].meta = Some([("consul-x".into(), "1".into())].into()),
                Some(
                    "failed inserting service: Invalid Service Meta for node n1 and serviceID web: \
                     Couldn't load metadata pair ('consul-x', '1'): Key prefix 'consul-' is \
                     reserved for internal use",
                ),
            ),
        ];
        for (number, (spoil, text)) in cases.iter().enumerate() {
            let mut asked = asked();
            spoil(&mut asked);
            assert_eq!(refusal(&asked).as_deref(), *text, "case {number}");
        }
    }

    #[test]
    fn defaults_are_filled_in() {
        let mut asked = asked();
        asked.services[0].id = "".into();
        asked.services[0].weights = WeightsV1 { passing: 0, warning: 0 };
        asked.checks[0].name = "By Name".into();
        asked.checks[0].id = "".into();
        let checked = check(&asked, &State::default(), "default").expect("valid");
        assert_eq!(&*checked.services[0].id, "web");
        assert_eq!(checked.services[0].weights, WeightsV1::default());
        assert_eq!(&*checked.checks[0].id, "By Name");
    }
}

//! The `Proxy` object of a service: read strictly, kept as the JSON text that clients get back.
//!
//! Invariant: the text kept is exactly what is written into answers, so that what a client
//! registers it reads back unchanged, and equal objects have equal texts.

use serde_json::Value;

use super::input::{InputError, Object};
use super::json::{Fields, Json};
use crate::id::Name;

/// The normalised text of a `Proxy` object; `None` when nothing in it says anything.
/// `upstream_type` is what an upstream without type gets: empty in the catalog, `service` on
/// agents.
pub fn normalised(value: Option<&Value>, upstream_type: &str) -> Result<Option<Name>, InputError> {
    let Some(value) = value else { return Ok(None) };
    let mut proxy = Object::new(value, "ConnectProxyConfig")?;
    let mut json = Json::default();
    let mut failed = Ok(());
    json.object(|fields| failed = write(fields, &mut proxy, upstream_type));
    failed?;
    proxy.finish()?;
    let text = String::from_utf8(json.into_bytes()).unwrap_or_default();
    Ok(if text == super::catalog::NO_PROXY { None } else { Some(text.into()) })
}

fn write(
    fields: &mut Fields<'_>,
    proxy: &mut Object<'_>,
    upstream_type: &str,
) -> Result<(), InputError> {
    fields.text("Mode", proxy.text(&["Mode"])?);
    let gateway = proxy.take(&["MeshGateway", "mesh_gateway"]);
    mesh_gateway(fields.name("MeshGateway"), gateway)?;
    expose(fields.name("Expose"), proxy.take(&["Expose"]))?;
    value_if_any(fields, "EnvoyExtensions", proxy.take(&["EnvoyExtensions", "envoy_extensions"]));
    for (name, alias) in [
        ("DestinationServiceName", "destination_service_name"),
        ("DestinationServiceID", "destination_service_id"),
        ("LocalServiceAddress", "local_service_address"),
    ] {
        fields.text_unless_empty(name, proxy.text(&[name, alias])?);
    }
    let port = proxy.int(&["LocalServicePort", "local_service_port"])?;
    fields.number_unless_zero("LocalServicePort", port);
    let socket = proxy.text(&["LocalServiceSocketPath", "local_service_socket_path"])?;
    fields.text_unless_empty("LocalServiceSocketPath", socket);
    value_if_any(fields, "Config", proxy.take(&["Config"]));
    if let Some(list) = proxy.list(&["Upstreams"])?.filter(|list| !list.is_empty()) {
        let mut failed = Ok(());
        fields.name("Upstreams").array(list, |json, item| {
            if failed.is_ok() {
                failed = upstream(json, item, upstream_type);
            }
        });
        failed?;
    }
    nested(
        fields,
        "TransparentProxy",
        proxy.take(&["TransparentProxy", "transparent_proxy"]),
        |fields, object| {
            let port = object.int(&["OutboundListenerPort", "outbound_listener_port"])?;
            fields.number_unless_zero("OutboundListenerPort", port);
            let direct = object.bool(&["DialedDirectly", "dialed_directly"])?;
            fields.bool_if_true("DialedDirectly", direct);
            Ok(())
        },
    )?;
    nested(fields, "AccessLogs", proxy.take(&["AccessLogs", "access_logs"]), |fields, object| {
        fields.bool_if_true("Enabled", object.bool(&["Enabled"])?);
        let off = object.bool(&["DisableListenerLogs", "disable_listener_logs"])?;
        fields.bool_if_true("DisableListenerLogs", off);
        for (name, alias) in [
            ("Type", "type"),
            ("Path", "path"),
            ("JSONFormat", "json_format"),
            ("TextFormat", "text_format"),
        ] {
            fields.text_unless_empty(name, object.text(&[name, alias])?);
        }
        Ok(())
    })
}

/// A nested object that is left out when it says nothing.
fn nested(
    fields: &mut Fields<'_>,
    name: &'static str,
    value: Option<&Value>,
    fill: impl FnOnce(&mut Fields<'_>, &mut Object<'_>) -> Result<(), InputError>,
) -> Result<(), InputError> {
    let Some(value) = value else { return Ok(()) };
    let mut object = Object::new(value, name)?;
    let mut json = Json::default();
    let mut failed = Ok(());
    json.object(|fields| failed = fill(fields, &mut object));
    failed?;
    object.finish()?;
    let text = String::from_utf8(json.into_bytes()).unwrap_or_default();
    if text != "{}" {
        fields.name(name).raw(&text);
    }
    Ok(())
}

fn value_if_any(fields: &mut Fields<'_>, name: &str, value: Option<&Value>) {
    let nothing = match value {
        None => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    };
    if let Some(value) = value.filter(|_| !nothing) {
        fields.name(name).value(value);
    }
}

fn mesh_gateway(json: &mut Json, value: Option<&Value>) -> Result<(), InputError> {
    let null = Value::Null;
    let mut object = Object::new(value.unwrap_or(&null), "MeshGatewayConfig")?;
    let mode = object.text(&["Mode"])?;
    json.object(|fields| fields.text_unless_empty("Mode", mode));
    object.finish()
}

fn expose(json: &mut Json, value: Option<&Value>) -> Result<(), InputError> {
    let null = Value::Null;
    let mut object = Object::new(value.unwrap_or(&null), "ExposeConfig")?;
    let checks = object.bool(&["Checks"])?;
    let paths = object.list(&["Paths"])?.unwrap_or(&[]);
    let mut failed = Ok(());
    json.object(|fields| {
        fields.bool_if_true("Checks", checks);
        if !paths.is_empty() {
            fields.name("Paths").array(paths, |json, item| {
                if failed.is_ok() {
                    failed = expose_path(json, item);
                }
            });
        }
    });
    failed?;
    object.finish()
}

fn expose_path(json: &mut Json, value: &Value) -> Result<(), InputError> {
    let mut object = Object::new(value, "ExposePath")?;
    let listener = object.int(&["ListenerPort", "listener_port"])?;
    let path = object.text(&["Path"])?;
    let local = object.int(&["LocalPathPort", "local_path_port"])?;
    let protocol = object.text(&["Protocol"])?;
    let parsed = object.bool(&["ParsedFromCheck", "parsed_from_check"])?;
    json.object(|fields| {
        fields.number_unless_zero("ListenerPort", listener);
        fields.text_unless_empty("Path", path);
        fields.number_unless_zero("LocalPathPort", local);
        fields.text_unless_empty("Protocol", protocol);
        fields.bool_if_true("ParsedFromCheck", parsed);
    });
    object.finish()
}

fn upstream(json: &mut Json, value: &Value, default_type: &str) -> Result<(), InputError> {
    let mut object = Object::new(value, "Upstream")?;
    let kind = object.text(&["DestinationType", "destination_type"])?;
    let name = object.text(&["DestinationName", "destination_name"])?;
    let dc = object.text(&["Datacenter"])?;
    let optional = [
        ("DestinationNamespace", "destination_namespace"),
        ("DestinationPartition", "destination_partition"),
        ("DestinationPeer", "destination_peer"),
        ("LocalBindAddress", "local_bind_address"),
        ("LocalBindSocketPath", "local_bind_socket_path"),
        ("LocalBindSocketMode", "local_bind_socket_mode"),
    ]
    .map(|(name, alias)| object.text(&[name, alias]).map(|text| (name, text)));
    let port = object.int(&["LocalBindPort", "local_bind_port"])?;
    let config = object.take(&["Config"]);
    let central = object.bool(&["CentrallyConfigured", "centrally_configured"])?;
    let gateway = object.take(&["MeshGateway", "mesh_gateway"]);
    let mut failed = Ok(());
    json.object(|fields| {
        fields.text("DestinationType", if kind.is_empty() { default_type } else { kind });
        fields.text("DestinationName", name);
        fields.text("Datacenter", dc);
        for field in optional {
            match field {
                Ok((name, text)) => fields.text_unless_empty(name, text),
                Err(error) => failed = Err(error),
            }
        }
        fields.number_unless_zero("LocalBindPort", port);
        value_if_any(fields, "Config", config);
        fields.bool_if_true("CentrallyConfigured", central);
        if failed.is_ok() {
            failed = mesh_gateway(fields.name("MeshGateway"), gateway);
        }
    });
    failed?;
    object.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_that_says_nothing_is_none() {
        for value in [
            json!(null),
            json!({}),
            json!({"Mode": "", "MeshGateway": {}, "Expose": {"Paths": null}, "Config": {}, "Upstreams": [],
                "TransparentProxy": {}, "AccessLogs": {"Enabled": false}}),
        ] {
            assert_eq!(normalised(Some(&value), ""), Ok(None), "{value}");
        }
        assert_eq!(normalised(None, ""), Ok(None));
    }

    #[test]
    fn a_proxy_is_kept_as_its_answer_whatever_spelling_it_came_in() {
        let value = json!({
            "destination_service_name": "web",
            "Config": {"b": 1, "a": {"<": null}},
            "upstreams": [{"destination_name": "db", "LocalBindPort": 9191}],
            "transparent_proxy": {"OutboundListenerPort": 22},
            "Expose": {"Paths": [{"path": "/x", "listener_port": 1}]},
        });
        let text = normalised(Some(&value), "service").expect("valid").expect("something");
        assert_eq!(
            &*text,
            concat!(
                r#"{"Mode":"","MeshGateway":{},"Expose":{"Paths":[{"ListenerPort":1,"Path":"/x"}]},"#,
                r#""DestinationServiceName":"web","Config":{"a":{"\u003c":null},"b":1},"#,
                r#""Upstreams":[{"DestinationType":"service","DestinationName":"db","#,
                r#""Datacenter":"","LocalBindPort":9191,"MeshGateway":{}}],"#,
                r#""TransparentProxy":{"OutboundListenerPort":22}}"#
            )
        );
        let back: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(normalised(Some(&back), ""), Ok(Some(text)));
    }

    #[test]
    fn unknown_fields_are_refused_by_name() {
        for (value, text) in [
            (json!({"Nope": 1}), "json: unknown field \"Nope\""),
            (json!({"Upstreams": [{"x": 1}]}), "json: unknown field \"x\""),
            (json!({"Expose": {"Paths": [{"y": 1}]}}), "json: unknown field \"y\""),
        ] {
            assert_eq!(normalised(Some(&value), "").expect_err("bad").to_string(), text);
        }
    }
}

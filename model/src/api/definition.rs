//! The `Definition` object of a check registered in the catalog: kept for external monitors, never
//! executed. Unknown fields are ignored.

use serde_json::Value;

use super::input::{InputError, Object};
use super::json::Json;
use crate::id::Name;

const TEXTS: [&str; 12] = [
    "HTTP",
    "Method",
    "Body",
    "TLSServerName",
    "TCP",
    "UDP",
    "H2PING",
    "OSService",
    "GRPC",
    "DockerContainerID",
    "Shell",
    "AliasNode",
];

/// A definition as it is kept, and the type of check that it describes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Definition {
    /// Normalised text; `None` when nothing was given.
    pub json: Option<Name>,
    /// `http`, `tcp` ...; empty when it describes none.
    pub kind: &'static str,
}

/// Reads a `Definition`; zero values are left out, durations become texts.
pub fn normalised(value: Option<&Value>) -> Result<Definition, InputError> {
    let Some(value) = value else { return Ok(Definition::default()) };
    let mut object = Object::new(value, "HealthCheckDefinition")?;
    let mut json = Json::default();
    let mut failed = Ok(());
    let mut kind = "";
    json.object(|fields| failed = write(fields, &mut object, &mut kind));
    failed?;
    let text = String::from_utf8(json.into_bytes()).unwrap_or_default();
    Ok(Definition { json: if text == "{}" { None } else { Some(text.into()) }, kind })
}

fn write(
    fields: &mut super::json::Fields<'_>,
    object: &mut Object<'_>,
    kind: &mut &'static str,
) -> Result<(), InputError> {
    let mut given = |name: &str| {
        let found = match name {
            "HTTP" => "http",
            "TCP" => "tcp",
            "UDP" => "udp",
            "GRPC" => "grpc",
            "H2PING" => "h2ping",
            "OSService" => "os_service",
            "ScriptArgs" => "script",
            "DockerContainerID" => "docker",
            "TTL" => "ttl",
            "AliasNode" | "AliasService" => "alias",
            _ => return,
        };
        if kind.is_empty() || found == "docker" {
            *kind = found;
        }
    };
    for name in TEXTS.into_iter().chain(["AliasService"]) {
        let text = object.text(&[name])?;
        if !text.is_empty() {
            given(name);
            fields.text(name, text);
        }
    }
    for name in ["TLSSkipVerify", "DisableRedirects", "TCPUseTLS", "H2PingUseTLS", "GRPCUseTLS"] {
        fields.bool_if_true(name, object.bool(&[name])?);
    }
    if let Some(args) = object.texts(&["ScriptArgs"])?.filter(|args| !args.is_empty()) {
        given("ScriptArgs");
        fields.name("ScriptArgs").texts(args);
    }
    if let Some(header) =
        object.take(&["Header"]).filter(|v| v.as_object().is_none_or(|m| !m.is_empty()))
    {
        fields.name("Header").value(header);
    }
    for name in ["Interval", "Timeout", "DeregisterCriticalServiceAfter"] {
        // The long names are what some clients send beside or instead of the short ones.
        let long = format!("{name}Duration");
        let duration = match object.take(&[name, &long]) {
            Some(Value::String(text)) if text.is_empty() => None,
            Some(value) => super::input::duration(value)?,
            None => None,
        };
        if let Some(duration) = duration.filter(|duration| duration.0 != 0) {
            fields.name(name).plain(duration);
        }
    }
    let ttl = object.take(&["TTL"]).map(super::input::duration).transpose()?.flatten();
    if let Some(ttl) = ttl.filter(|ttl| ttl.0 != 0) {
        given("TTL");
        fields.number("TTL", ttl.0);
    }
    fields.number_unless_zero("OutputMaxSize", object.int(&["OutputMaxSize"])?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_definition_is_kept_without_its_zeros() {
        let value = json!({"TCP": "10.1.0.9:5432", "Interval": "10s", "Timeout": 2_000_000_000,
            "DeregisterCriticalServiceAfter": "30m", "HTTP": "", "Unknown": [], "TTL": "0s"});
        let definition = normalised(Some(&value)).expect("valid");
        assert_eq!(
            definition.json.as_deref(),
            Some(
                r#"{"TCP":"10.1.0.9:5432","Interval":"10s","Timeout":"2s","DeregisterCriticalServiceAfter":"30m0s"}"#
            )
        );
        assert_eq!(definition.kind, "tcp");
        assert_eq!(normalised(Some(&json!({}))), Ok(Definition::default()));
        let docker = json!({"ScriptArgs": ["a"], "DockerContainerID": "x"});
        assert_eq!(normalised(Some(&docker)).expect("valid").kind, "docker");
        assert_eq!(normalised(Some(&json!({"TTL": "5s"}))).expect("valid").kind, "ttl");
    }
}

//! Settings from several sources, merged by Consul's rules (spec/agent.md §3): a later scalar
//! replaces, lists append, maps unite.

use std::collections::BTreeMap;

use model::duration::GoDuration;
use serde_json::Value;

use super::keys::{self, Support, Type};

/// Deepest nesting of a configuration file that is looked at.
const DEPTH_MAX: usize = 16;

/// Settings by dotted path, each already of its type, and what was noticed on the way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tree {
    values: BTreeMap<&'static str, Value>,
    /// One line each, for the operator.
    pub(crate) warnings: Vec<String>,
}

impl Tree {
    /// Merges one object, as a configuration file holds it. `source` names it in errors.
    pub(crate) fn merge_object(&mut self, source: &str, object: &Value) -> Result<(), String> {
        let Value::Object(map) = object else {
            return Err(format!(
                "failed to parse {source}: a configuration is one JSON object, this is {}",
                kind_of(object)
            ));
        };
        let mut found = Vec::new();
        let mut unknown = Vec::new();
        flatten("", map, 0, &mut found, &mut unknown);
        if !unknown.is_empty() {
            let lines: Vec<String> =
                unknown.iter().map(|path| format!("* invalid config key {path}")).collect();
            let errors = if lines.len() == 1 { "error" } else { "errors" };
            return Err(format!(
                "failed to parse {source}: {} {errors} occurred: {}",
                lines.len(),
                lines.join("; ")
            ));
        }
        for (path, value) in found {
            self.set(source, &path, value.clone())?;
        }
        Ok(())
    }

    /// Merges one setting.
    pub(crate) fn set(&mut self, source: &str, path: &str, value: Value) -> Result<(), String> {
        let Some(mut key) = keys::find(path) else {
            return Err(format!("failed to parse {source}: invalid config key {path}"));
        };
        if value.is_null() {
            return Ok(());
        }
        let value = typed(key.kind, value)
            .map_err(|wanted| format!("failed to parse {source}: {path}: {wanted}"))?;
        match key.support {
            Support::Alias(target) => {
                self.warn(format!(
                    "{source}: the '{path}' field is deprecated. Use the '{target}' field instead."
                ));
                let Some(real) = keys::find(target) else { return Ok(()) };
                key = real;
            }
            Support::Guard if protects(path, &value) => {
                return Err(format!(
                    "{source}: {path} would turn on a protection that this release does not have \
                     yet; remove it to start without that protection"
                ));
            }
            Support::Guard | Support::Moot => return Ok(()),
            Support::Later => {
                self.warn(format!("{source}: {path} is not built yet and has no effect"));
                return Ok(());
            }
            Support::Built => {}
        }
        self.put(key.path, key.kind, value);
        Ok(())
    }

    fn warn(&mut self, text: String) {
        if !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    fn put(&mut self, path: &'static str, kind: Type, value: Value) {
        // `service` and `check` are lists of one.
        let (path, kind, value) = match path {
            "service" => ("services", Type::Objects, Value::Array(vec![value])),
            "check" => ("checks", Type::Objects, Value::Array(vec![value])),
            _ => (path, kind, value),
        };
        match (kind, self.values.get_mut(path), value) {
            (Type::Texts | Type::Objects, Some(Value::Array(old)), Value::Array(new)) => {
                old.extend(new);
            }
            (Type::TextMap, Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
            (_, _, value) => {
                self.values.insert(path, value);
            }
        }
    }

    /// A text.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.values.get(path)?.as_str()
    }

    /// A boolean.
    pub(crate) fn bool(&self, path: &str) -> Option<bool> {
        self.values.get(path)?.as_bool()
    }

    /// A whole number.
    pub(crate) fn int(&self, path: &str) -> Option<i64> {
        self.values.get(path)?.as_i64()
    }

    /// A duration; negative ones are zero.
    pub(crate) fn duration(&self, path: &str) -> Option<std::time::Duration> {
        GoDuration::parse(self.text(path)?).ok().map(GoDuration::to_std)
    }

    /// A list of texts, empty when absent.
    pub(crate) fn texts(&self, path: &str) -> Vec<String> {
        match self.values.get(path) {
            Some(Value::Array(list)) => {
                list.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// A map of texts, empty when absent.
    pub(crate) fn text_map(&self, path: &str) -> BTreeMap<String, String> {
        match self.values.get(path) {
            Some(Value::Object(map)) => map
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
            _ => BTreeMap::new(),
        }
    }

    /// A list of objects, empty when absent.
    pub(crate) fn objects(&self, path: &str) -> &[Value] {
        match self.values.get(path) {
            Some(Value::Array(list)) => list,
            _ => &[],
        }
    }
}

/// Collects the settings below an object by dotted path, and the paths that are none.
fn flatten<'a>(
    prefix: &str,
    map: &'a serde_json::Map<String, Value>,
    depth: usize,
    found: &mut Vec<(String, &'a Value)>,
    unknown: &mut Vec<String>,
) {
    for (name, value) in map {
        let lower = name.to_lowercase();
        let path = if prefix.is_empty() { lower } else { format!("{prefix}.{lower}") };
        // A one-element list of objects stands for the object, as HCL writes it.
        let inner = match value {
            Value::Array(list) if list.len() == 1 => list.first().unwrap_or(value),
            value => value,
        };
        if keys::find(&path).is_some() {
            found.push((path, value));
        } else if keys::is_group(&path) && depth < DEPTH_MAX {
            match inner {
                Value::Object(map) => flatten(&path, map, depth + 1, found, unknown),
                Value::Null => {}
                _ => unknown.push(path),
            }
        } else {
            unknown.push(path);
        }
    }
}

/// The value if it is of the type; else what is wanted.
fn typed(kind: Type, value: Value) -> Result<Value, String> {
    let wrong =
        |wanted: &str, value: &Value| Err(format!("expected {wanted}, got {}", kind_of(value)));
    match (kind, value) {
        (Type::Duration, Value::String(text)) => match GoDuration::parse(&text) {
            Ok(_) => Ok(Value::String(text)),
            Err(error) => Err(error.to_string()),
        },
        (Type::Text, value @ Value::String(_))
        | (Type::Bool, value @ Value::Bool(_))
        | (Type::Number, value @ Value::Number(_))
        | (Type::Object, value @ Value::Object(_)) => Ok(value),
        (Type::Int, value) if value.as_i64().is_some() => Ok(value),
        (Type::Texts, Value::String(text)) => Ok(Value::Array(vec![Value::String(text)])),
        (Type::Texts, Value::Array(list)) if list.iter().all(Value::is_string) => {
            Ok(Value::Array(list))
        }
        (Type::TextMap, Value::Object(map)) if map.values().all(Value::is_string) => {
            Ok(Value::Object(map))
        }
        (Type::TextMap | Type::Object, Value::Array(mut list)) if list.len() == 1 => {
            typed(kind, list.remove(0))
        }
        (Type::Objects, Value::Array(list)) if list.iter().all(Value::is_object) => {
            Ok(Value::Array(list))
        }
        (Type::Objects, value @ Value::Object(_)) => Ok(Value::Array(vec![value])),
        (Type::Text, value) => wrong("a text", &value),
        (Type::Bool, value) => wrong("true or false", &value),
        (Type::Int, value) => wrong("a whole number", &value),
        (Type::Number, value) => wrong("a number", &value),
        (Type::Duration, value) => wrong("a duration such as \"10s\"", &value),
        (Type::Texts, value) => wrong("a list of texts", &value),
        (Type::TextMap, value) => wrong("an object of texts", &value),
        (Type::Object, value) => wrong("an object", &value),
        (Type::Objects, value) => wrong("a list of objects", &value),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Whether this value of a protecting setting would turn its protection on.
fn protects(path: &str, value: &Value) -> bool {
    match (path, value) {
        ("acl", Value::Object(map)) => {
            map.iter().any(|(name, value)| name.eq_ignore_ascii_case("enabled") && turns_on(value))
        }
        ("ports.https", value) => value.as_i64().is_some_and(|port| port > 0),
        // A floor for a protocol that is not spoken protects nothing.
        ("tls_min_version" | "tls_cipher_suites", _) => false,
        (_, value) => turns_on(value),
    }
}

fn turns_on(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64().is_some_and(|number| number > 0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => list.iter().any(turns_on),
        Value::Object(map) => map
            .iter()
            .any(|(name, value)| !name.eq_ignore_ascii_case("tls_min_version") && turns_on(value)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(objects: &[Value]) -> Result<Tree, String> {
        let mut tree = Tree::default();
        for object in objects {
            tree.merge_object("a.json", object)?;
        }
        Ok(tree)
    }

    #[test]
    fn scalars_replace_lists_append_maps_unite() {
        let tree = merged(&[
            json!({"retry_join": ["a"], "node_meta": {"a": "1"}, "ports": {"http": 8500}, "Node_Name": "x"}),
            json!({"retry_join": ["b"], "node_meta": {"b": "2"}, "ports": [{"dns": 53}], "node_name": "y"}),
        ])
        .expect("valid");
        assert_eq!(tree.texts("retry_join"), ["a", "b"]);
        assert_eq!(tree.text_map("node_meta").len(), 2);
        assert_eq!((tree.int("ports.http"), tree.int("ports.dns")), (Some(8500), Some(53)));
        assert_eq!(tree.text("node_name"), Some("y"));
        assert!(tree.warnings.is_empty());
    }

    #[test]
    fn a_single_service_joins_the_list() {
        let tree = merged(&[
            json!({"service": {"name": "a"}}),
            json!({"services": [{"name": "b"}], "service": {"name": "c"}}),
        ])
        .expect("valid");
        assert_eq!(tree.objects("services").len(), 3);
    }

    #[test]
    fn mistakes_name_their_place() {
        for (object, said) in [
            (json!({"foo": 1}), "1 error occurred: * invalid config key foo"),
            (json!({"ports": {"htp": 1}}), "* invalid config key ports.htp"),
            (json!({"ports": 5}), "* invalid config key ports"),
            (json!({"server": "yes"}), "server: expected true or false, got a text"),
            (json!({"retry_interval": "10"}), "time: missing unit in duration \"10\""),
            (json!({"retry_interval": 10}), "expected a duration such as \"10s\", got a number"),
            (json!([]), "one JSON object, this is a list"),
        ] {
            let error = merged(std::slice::from_ref(&object)).expect_err("a mistake");
            assert!(error.contains(said) && error.contains("a.json"), "{error}");
        }
    }

    #[test]
    fn protection_is_refused_only_when_it_would_be_on() {
        for on in [
            json!({"encrypt": "pUqJrVyVRj5jsiYEkM/tFQ=="}),
            json!({"acl": {"enabled": true}}),
            json!({"tls": {"defaults": {"verify_incoming": true}}}),
            json!({"verify_outgoing": true}),
            json!({"serf_lan_allowed_cidrs": ["10.0.0.0/8"]}),
            json!({"http_config": {"block_endpoints": ["/v1/kv"]}}),
            json!({"ports": {"https": 8501}}),
        ] {
            let error = merged(std::slice::from_ref(&on)).expect_err("protection");
            assert!(error.contains("would turn on a protection"), "{error}");
        }
        let off = json!({
            "encrypt": "", "acl": {"enabled": false, "default_policy": "deny"},
            "tls": {"defaults": {"verify_incoming": false, "tls_min_version": "TLSv1_2"}},
            "verify_outgoing": false, "serf_lan_allowed_cidrs": [], "ports": {"https": -1},
            "http_config": {"block_endpoints": [], "allow_write_http_from": []},
        });
        assert!(merged(&[off]).is_ok());
    }

    #[test]
    fn what_is_not_built_yet_is_warned_of_once() {
        let object = json!({"watches": []});
        let tree = merged(&[object.clone(), object]).expect("accepted");
        assert_eq!(tree.warnings, ["a.json: watches is not built yet and has no effect"]);
    }
}

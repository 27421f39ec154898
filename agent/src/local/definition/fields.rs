//! Reads the fields of a JSON object as files and Go's clients write them.

use std::collections::BTreeMap;

use model::Name;
use model::duration::{GoDuration, quote};
use serde_json::{Map, Value};

/// Who wrote the object: decides on keys, durations and the wording of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// A configuration file: snake_case keys, durations as texts.
    File,
    /// A body over HTTP: CamelCase keys, some aliases, durations as texts or nanoseconds.
    Api,
}

/// A field: what we call it, its keys in files, its further keys over HTTP.
pub(super) struct Field(pub &'static str, pub &'static [&'static str], pub &'static [&'static str]);

/// The fields of one object.
pub(super) struct Fields<'a> {
    dialect: Dialect,
    /// Name of Go's type, for its error texts.
    object: &'static str,
    values: BTreeMap<&'static str, &'a Value>,
}

impl<'a> Fields<'a> {
    /// Sorts the object's keys into the fields of the table. An unknown key is an error that names
    /// it; `null` is as good as absent; of equal keys the last wins, and our own name before an
    /// alias.
    pub(super) fn read(
        value: &'a Value,
        table: &'static [Field],
        dialect: Dialect,
        object: &'static str,
    ) -> Result<Self, String> {
        let mut fields = Self { dialect, object, values: BTreeMap::new() };
        let Some(map) = fields.object_of(value, "")? else { return Ok(fields) };
        let mut from_alias = BTreeMap::new();
        for (key, value) in map {
            let Some((name, alias)) = find(table, dialect, key) else {
                return Err(match dialect {
                    Dialect::File => format!("unknown key {}", quote(key)),
                    Dialect::Api => format!("json: unknown field {}", quote(key)),
                });
            };
            if value.is_null() {
                continue;
            }
            if alias {
                from_alias.insert(name, value);
            } else {
                fields.values.insert(name, value);
            }
        }
        for (name, value) in from_alias {
            fields.values.entry(name).or_insert(value);
        }
        Ok(fields)
    }

    pub(super) fn get(&self, name: &'static str) -> Option<&'a Value> {
        self.values.get(name).copied()
    }

    pub(super) fn text(&self, name: &'static str) -> Result<String, String> {
        match self.get(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(self.mistyped(name, other, "string")),
        }
    }

    pub(super) fn flag(&self, name: &'static str) -> Result<bool, String> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.mistyped(name, other, "bool")),
        }
    }

    pub(super) fn int(&self, name: &'static str) -> Result<i64, String> {
        match self.get(name) {
            None => Ok(0),
            Some(Value::Number(number)) => number
                .as_i64()
                .ok_or_else(|| self.mistyped(name, &Value::Number(number.clone()), "int")),
            Some(other) => Err(self.mistyped(name, other, "int")),
        }
    }

    pub(super) fn port(&self, name: &'static str) -> Result<u16, String> {
        let number = self.int(name)?;
        u16::try_from(number).map_err(|_| match self.dialect {
            Dialect::File => format!("key {} must be between 0 and 65535", quote(self.key(name))),
            Dialect::Api => format!(
                "json: cannot unmarshal number {number} into Go struct field {}.{name} of type \
                 uint16",
                self.object
            ),
        })
    }

    pub(super) fn duration(&self, name: &'static str) -> Result<GoDuration, String> {
        match (self.get(name), self.dialect) {
            (None, _) => Ok(GoDuration(0)),
            (Some(Value::String(text)), Dialect::Api) => {
                GoDuration::parse(text).map_err(|e| e.to_string())
            }
            (Some(Value::String(text)), Dialect::File) => {
                GoDuration::parse(text).map_err(|e| format!("key {}: {e}", quote(self.key(name))))
            }
            #[expect(clippy::cast_possible_truncation, reason = "Go truncates the fraction too")]
            (Some(Value::Number(number)), Dialect::Api) => Ok(GoDuration(
                number.as_i64().or_else(|| number.as_f64().map(|n| n as i64)).unwrap_or(0),
            )),
            (Some(other), _) => Err(self.mistyped(name, other, "time.Duration")),
        }
    }

    pub(super) fn texts(&self, name: &'static str) -> Result<Vec<String>, String> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text.clone()),
                    Value::Null => Ok(String::new()),
                    other => Err(self.mistyped(name, other, "string")),
                })
                .collect(),
            Some(other) => Err(self.mistyped(name, other, "[]string")),
        }
    }

    pub(super) fn names(&self, name: &'static str) -> Result<Vec<Name>, String> {
        Ok(self.texts(name)?.into_iter().map(Name::from).collect())
    }

    pub(super) fn text_map(
        &self,
        name: &'static str,
    ) -> Result<Option<BTreeMap<Name, Name>>, String> {
        let Some(map) = self.map(name)? else { return Ok(None) };
        let pairs = map.iter().map(|(key, value)| match value {
            Value::String(text) => Ok((Name::from(key.as_str()), Name::from(text.as_str()))),
            Value::Null => Ok((Name::from(key.as_str()), Name::from(""))),
            other => Err(self.mistyped(name, other, "string")),
        });
        pairs.collect::<Result<_, _>>().map(Some)
    }

    /// Lists of texts by key, flattened in order.
    pub(super) fn headers(&self, name: &'static str) -> Result<Vec<(String, String)>, String> {
        let mut headers = Vec::new();
        for (key, values) in self.map(name)?.into_iter().flatten() {
            let Value::Array(values) = values else {
                return Err(self.mistyped(name, values, "[]string"));
            };
            for value in values {
                let Value::String(value) = value else {
                    return Err(self.mistyped(name, value, "string"));
                };
                headers.push((key.clone(), value.clone()));
            }
        }
        Ok(headers)
    }

    pub(super) fn map(&self, name: &'static str) -> Result<Option<&'a Map<String, Value>>, String> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => self.object_of(value, name),
        }
    }

    pub(super) fn list(&self, name: &'static str) -> Result<&'a [Value], String> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(other) => Err(self.mistyped(name, other, "list")),
        }
    }

    fn object_of(
        &self,
        value: &'a Value,
        name: &'static str,
    ) -> Result<Option<&'a Map<String, Value>>, String> {
        match value {
            Value::Null => Ok(None),
            Value::Object(map) => Ok(Some(map)),
            other if name.is_empty() && self.dialect == Dialect::Api => Err(format!(
                "json: cannot unmarshal {} into Go value of type structs.{}",
                kind(other),
                self.object
            )),
            other if name.is_empty() => Err(format!("must be an object, is {}", kind(other))),
            other => Err(self.mistyped(name, other, "map[string]string")),
        }
    }

    fn mistyped(&self, name: &'static str, value: &Value, wanted: &str) -> String {
        match self.dialect {
            Dialect::File => {
                let wanted = match wanted {
                    "time.Duration" => "a duration as a text, such as \"10s\"",
                    "map[string]string" => "an object",
                    "[]string" | "list" => "a list",
                    "int" => "a whole number",
                    "bool" => "true or false",
                    _ => "a text",
                };
                format!("key {} must be {wanted}, is {}", quote(self.key(name)), kind(value))
            }
            Dialect::Api => format!(
                "json: cannot unmarshal {} into Go struct field {}.{name} of type {wanted}",
                kind(value),
                self.object
            ),
        }
    }

    fn key(&self, name: &'static str) -> &'static str {
        // Files' keys differ from our names in case and underscores only: near enough for a text.
        name
    }
}

/// The field that a key names, and whether it is an alias of it.
fn find(table: &'static [Field], dialect: Dialect, key: &str) -> Option<(&'static str, bool)> {
    let is = |other: &str| other.eq_ignore_ascii_case(key);
    table.iter().find_map(|Field(name, file, api)| match dialect {
        Dialect::File => {
            file.iter().position(|other| is(other)).map(|position| (*name, position > 0))
        }
        Dialect::Api if is(name) => Some((*name, false)),
        Dialect::Api => api.iter().any(|other| is(other)).then_some((*name, true)),
    })
}

/// Go's word for a JSON value.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

//! Reading JSON as Go's decoder does: keys match without regard to case, `null` is absent, the
//! last of equal keys wins, only the first value of a body is read, and errors speak Go's words.

use serde::Deserialize;
use serde_json::Value;

use crate::duration::{DurationError, GoDuration};

/// Why a body is not what it should be. Clients look for parts of these texts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// The body is empty.
    #[error("EOF")]
    Empty,
    /// The body ends within a value.
    #[error("unexpected EOF")]
    Short,
    /// Not JSON.
    #[error("{0}")]
    Syntax(String),
    /// A field that the object does not have, as written.
    #[error("json: unknown field {}", crate::duration::quote(.0))]
    UnknownField(String),
    /// A value of another type than its field.
    #[error("json: cannot unmarshal {found} into Go struct field {field} of type {wanted}")]
    Type {
        /// JSON's word for what was found.
        found: String,
        /// Type and name of the field.
        field: String,
        /// Go's word for what is wanted.
        wanted: &'static str,
    },
    /// A text that is no duration.
    #[error("{0}")]
    Duration(#[from] DurationError),
}

/// The first JSON value of a body; what follows it is ignored.
pub fn first_value(body: &[u8]) -> Result<Value, InputError> {
    let mut decoder = serde_json::Deserializer::from_slice(body);
    Value::deserialize(&mut decoder).map_err(|error| syntax_error(body, &error))
}

fn syntax_error(body: &[u8], error: &serde_json::Error) -> InputError {
    if error.is_eof() {
        let empty = body.iter().all(u8::is_ascii_whitespace);
        return if empty { InputError::Empty } else { InputError::Short };
    }
    let line = body.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1));
    let at = line.and_then(|line| line.get(error.column().saturating_sub(1)));
    let found = match at {
        Some(byte) if byte.is_ascii_graphic() || *byte == b' ' => char::from(*byte).to_string(),
        Some(byte) => format!("\\x{byte:02x}"),
        None => return InputError::Syntax("invalid character in JSON text".to_owned()),
    };
    InputError::Syntax(format!("invalid character '{found}' looking for beginning of value"))
}

/// JSON's word for a value, as in Go's errors.
pub(crate) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) if number.is_i64() || number.is_u64() => "number".to_owned(),
        Value::Number(number) => format!("number {number}"),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}

/// The fields of an object that is being read. Each `take` removes what it reads;
/// [`Object::finish`] refuses what is left.
#[derive(Debug)]
pub struct Object<'a> {
    type_name: &'static str,
    left: Vec<(&'a str, &'a Value)>,
}

impl<'a> Object<'a> {
    /// The fields of this value, which must be an object; `null` is an object without fields.
    pub fn new(value: &'a Value, type_name: &'static str) -> Result<Self, InputError> {
        match value {
            Value::Null => Ok(Self { type_name, left: Vec::new() }),
            Value::Object(map) => Ok(Self {
                type_name,
                left: map.iter().map(|(key, value)| (key.as_str(), value)).collect(),
            }),
            other => Err(InputError::Type {
                found: kind(other),
                field: type_name.to_owned(),
                wanted: "struct",
            }),
        }
    }

    fn mismatch(&self, name: &str, value: &Value, wanted: &'static str) -> InputError {
        InputError::Type { found: kind(value), field: format!("{}.{name}", self.type_name), wanted }
    }

    /// Whether the field was given, be it as `null`.
    pub fn has(&self, name: &str) -> bool {
        self.left.iter().any(|(key, _)| key.eq_ignore_ascii_case(name))
    }

    /// The value of a field, `null` included. The first name wins over its aliases, among equal
    /// keys the last.
    pub fn take_nullable(&mut self, names: &[&str]) -> Option<&'a Value> {
        let mut found = None;
        for name in names {
            let last = self.left.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found = found.or(last.map(|(_, value)| *value).filter(|value| !value.is_null()));
        }
        let null = self
            .left
            .iter()
            .find(|(key, _)| names.iter().any(|name| key.eq_ignore_ascii_case(name)))
            .map(|(_, value)| *value);
        self.left.retain(|(key, _)| !names.iter().any(|name| key.eq_ignore_ascii_case(name)));
        found.or(null)
    }

    /// The value of a field; `null` is absent.
    pub fn take(&mut self, names: &[&str]) -> Option<&'a Value> {
        self.take_nullable(names).filter(|value| !value.is_null())
    }

    /// A string field; absent is empty.
    pub fn text(&mut self, names: &[&str]) -> Result<&'a str, InputError> {
        Ok(self.text_option(names)?.unwrap_or(""))
    }

    /// A string field.
    pub fn text_option(&mut self, names: &[&str]) -> Result<Option<&'a str>, InputError> {
        match self.take(names) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.mismatch(names[0], other, "string")),
        }
    }

    /// A truth field; absent is false.
    pub fn bool(&mut self, names: &[&str]) -> Result<bool, InputError> {
        Ok(self.bool_option(names)?.unwrap_or(false))
    }

    /// A truth field.
    pub fn bool_option(&mut self, names: &[&str]) -> Result<Option<bool>, InputError> {
        match self.take(names) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.mismatch(names[0], other, "bool")),
        }
    }

    /// An integer field; absent is 0.
    pub fn int(&mut self, names: &[&str]) -> Result<i64, InputError> {
        Ok(self.int_option(names)?.unwrap_or(0))
    }

    /// An integer field.
    pub fn int_option(&mut self, names: &[&str]) -> Result<Option<i64>, InputError> {
        match self.take(names) {
            None => Ok(None),
            Some(value) => match value.as_i64() {
                Some(number) => Ok(Some(number)),
                None => Err(self.mismatch(names[0], value, "int")),
            },
        }
    }

    /// An unsigned 64-bit field; absent is 0.
    pub fn u64(&mut self, names: &[&str]) -> Result<u64, InputError> {
        match self.take(names) {
            None => Ok(0),
            Some(value) => value.as_u64().ok_or_else(|| self.mismatch(names[0], value, "uint64")),
        }
    }

    /// A duration field: Go's text, or a number of nanoseconds.
    pub fn duration(&mut self, names: &[&str]) -> Result<Option<GoDuration>, InputError> {
        match self.take(names) {
            None => Ok(None),
            Some(value) => match duration(value)? {
                Some(duration) => Ok(Some(duration)),
                None => Err(self.mismatch(names[0], value, "time.Duration")),
            },
        }
    }

    /// A list of strings.
    pub fn texts(&mut self, names: &[&str]) -> Result<Option<Vec<&'a str>>, InputError> {
        let Some(value) = self.take(names) else { return Ok(None) };
        let Value::Array(items) = value else {
            return Err(self.mismatch(names[0], value, "[]string"));
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Value::String(text) => texts.push(text.as_str()),
                // Go leaves the element at its zero value.
                Value::Null => texts.push(""),
                other => return Err(self.mismatch(names[0], other, "string")),
            }
        }
        Ok(Some(texts))
    }

    /// A list of anything.
    pub fn list(&mut self, names: &[&str]) -> Result<Option<&'a [Value]>, InputError> {
        match self.take(names) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(self.mismatch(names[0], other, "[]struct")),
        }
    }

    /// A map with string values.
    pub fn text_map(
        &mut self,
        names: &[&str],
    ) -> Result<Option<Vec<(&'a str, &'a str)>>, InputError> {
        let Some(entries) = self.map(names)? else { return Ok(None) };
        let mut map = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            match value {
                Value::String(text) => map.push((key, text.as_str())),
                Value::Null => map.push((key, "")),
                other => return Err(self.mismatch(names[0], other, "string")),
            }
        }
        Ok(Some(map))
    }

    /// A map with any values. Its keys are data: they keep their case.
    pub fn map(&mut self, names: &[&str]) -> Result<Option<Vec<(&'a str, &'a Value)>>, InputError> {
        match self.take(names) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(map.iter().map(|(key, value)| (key.as_str(), value)).collect()))
            }
            Some(other) => Err(self.mismatch(names[0], other, "map[string]string")),
        }
    }

    /// Drops fields that are accepted and not used.
    pub fn ignore(&mut self, names: &[&str]) {
        self.left.retain(|(key, _)| !names.iter().any(|name| key.eq_ignore_ascii_case(name)));
    }

    /// Refuses what was not taken, in the order given.
    pub fn finish(self) -> Result<(), InputError> {
        match self.left.first() {
            None => Ok(()),
            Some((key, _)) => Err(InputError::UnknownField((*key).to_owned())),
        }
    }
}

/// A duration: Go's text, or a number of nanoseconds whose fraction is cut; `None` for a value of
/// another type.
pub fn duration(value: &Value) -> Result<Option<GoDuration>, DurationError> {
    match value {
        Value::String(text) => GoDuration::parse(text).map(Some),
        Value::Number(number) => Ok(number
            .as_i64()
            .or_else(|| {
                // Truncation towards zero, saturating at the ends, is what is wanted.
                #[expect(clippy::cast_possible_truncation, reason = "see above")]
                number.as_f64().map(|float| float as i64)
            })
            .map(GoDuration)),
        _ => Ok(None),
    }
}

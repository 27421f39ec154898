//! From a parsed expression to one that is checked against a schema, and its evaluation.

use std::borrow::Cow;

use regex::Regex;

use super::FilterError;
use super::parse::{Operator, Parsed, parse};
use super::record::{Address, Record, Value};
use super::schema::{Kind, Schema};

/// Bytes that a compiled regular expression may take.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// An expression that fits its records.
#[derive(Debug)]
pub struct Filter(Node);

#[derive(Debug)]
enum Node {
    Or(Vec<Node>),
    And(Vec<Node>),
    Not(Box<Node>),
    Match { path: Vec<Step>, test: Test, negative: bool },
}

/// One part of a selector: the field or key, and the type found there.
#[derive(Debug)]
struct Step {
    name: String,
    kind: &'static Kind,
}

#[derive(Debug)]
enum Test {
    Text(String),
    Int(i64),
    Bool(bool),
    Contains(String),
    NotEmpty,
    Matches(Regex),
}

impl Filter {
    /// Parses the text and checks it against the type of the records that it will see.
    pub fn compile(text: &str, schema: &'static Schema) -> Result<Self, FilterError> {
        compile(parse(text)?, schema).map(Self)
    }

    /// Whether the record satisfies the expression.
    pub fn matches(&self, record: &dyn Record) -> bool {
        self.0.holds(record)
    }
}

fn compile(parsed: Parsed, schema: &'static Schema) -> Result<Node, FilterError> {
    let all = |parts: Vec<Parsed>| {
        parts.into_iter().map(|part| compile(part, schema)).collect::<Result<Vec<_>, _>>()
    };
    match parsed {
        Parsed::Or(parts) => all(parts).map(Node::Or),
        Parsed::And(parts) => all(parts).map(Node::And),
        Parsed::Not(inner) => Ok(Node::Not(Box::new(compile(*inner, schema)?))),
        Parsed::Match { selector, operator, value } => {
            let path = resolve(&selector, schema)?;
            let kind = path.last().map_or(&Kind::Text, |step| step.kind);
            let test = test(kind, operator, value, selector.join("."))?;
            Ok(Node::Match { path, test, negative: operator.negative() })
        }
    }
}

fn resolve(selector: &[String], schema: &'static Schema) -> Result<Vec<Step>, FilterError> {
    let invalid = || FilterError::Selector(selector.join("."));
    let mut path: Vec<Step> = Vec::with_capacity(selector.len());
    for name in selector {
        let kind = match path.last().map(|step| step.kind) {
            None => schema.kind(name),
            Some(Kind::Struct(schema) | Kind::Structs(schema)) => schema.kind(name),
            Some(Kind::Map(kind)) => Some(*kind),
            Some(_) => None,
        };
        path.push(Step { name: name.clone(), kind: kind.ok_or_else(invalid)? });
    }
    Ok(path)
}

fn test(
    kind: &Kind,
    operator: Operator,
    value: String,
    selector: String,
) -> Result<Test, FilterError> {
    use Operator::{Equal, In, IsEmpty, IsNotEmpty, Matches, NotEqual, NotIn, NotMatches};
    match (kind, operator) {
        (Kind::Text, Equal | NotEqual) => Ok(Test::Text(value)),
        (Kind::Int, Equal | NotEqual) => match parse_int(&value) {
            Ok(number) => Ok(Test::Int(number)),
            Err(why) => Err(FilterError::Coerce { value, selector, why }),
        },
        (Kind::Bool, Equal | NotEqual) => match parse_bool(&value) {
            Some(truth) => Ok(Test::Bool(truth)),
            None => {
                let why = format!(
                    "strconv.ParseBool: parsing {}: invalid syntax",
                    crate::duration::quote(&value)
                );
                Err(FilterError::Coerce { value, selector, why })
            }
        },
        (Kind::Text | Kind::Texts | Kind::Map(_), In | NotIn) => Ok(Test::Contains(value)),
        (Kind::Text | Kind::Texts | Kind::Map(_) | Kind::Structs(_), IsEmpty | IsNotEmpty) => {
            Ok(Test::NotEmpty)
        }
        (Kind::Text, Matches | NotMatches) => {
            let compiled = regex::RegexBuilder::new(&value).size_limit(REGEX_BYTES_MAX).build();
            compiled.map(Test::Matches).map_err(|error| FilterError::Regex {
                expression: value,
                why: format!("error parsing regexp: {error}"),
            })
        }
        (_, operator) => Err(FilterError::Operator { operator: operator.name(), selector }),
    }
}

/// Go's `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `strconv.ParseInt` with base 0: decimal, or by prefix.
fn parse_int(text: &str) -> Result<i64, String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let failed =
        |why: &str| format!("strconv.ParseInt: parsing {}: {why}", crate::duration::quote(text));
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(failed("invalid syntax"));
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).map_err(|_| failed("value out of range"))
}

impl Node {
    fn holds(&self, record: &dyn Record) -> bool {
        match self {
            Node::Or(parts) => parts.iter().any(|part| part.holds(record)),
            Node::And(parts) => parts.iter().all(|part| part.holds(record)),
            Node::Not(inner) => !inner.holds(record),
            Node::Match { path, test, negative } => {
                let Some((first, rest)) = path.split_first() else { return false };
                walk(record.field(&first.name), first.kind, rest, &|value| {
                    holds(test, *negative, value)
                })
            }
        }
    }
}

/// Follows the path and asks at its end; of a list of objects, whether any element satisfies.
fn walk(
    value: Value<'_>,
    kind: &'static Kind,
    path: &[Step],
    ask: &dyn Fn(&Value<'_>) -> bool,
) -> bool {
    let Some((step, rest)) = path.split_first() else { return ask(&value) };
    let name = step.name.as_str();
    match value {
        Value::Record(record) => walk(record.field(name), step.kind, rest, ask),
        Value::Records(list) => {
            list.iter().any(|record| walk(record.field(name), step.kind, rest, ask))
        }
        Value::Map(map) => match map.and_then(|map| map.get(name)) {
            Some(found) => walk(Value::Text(Cow::Borrowed(found)), step.kind, rest, ask),
            None => ask(&Value::Missing),
        },
        Value::Addresses(map) => match map.get(name) {
            Some(found) => walk(Value::Record(Box::new(Address(found))), step.kind, rest, ask),
            None => ask(&Value::Missing),
        },
        Value::Json(json) => walk_json(json, matches!(kind, Kind::Structs(_)), step, rest, ask),
        _ => ask(&Value::Missing),
    }
}

/// Follows a path into JSON; `list`: a list of objects is expected here.
fn walk_json(
    json: serde_json::Value,
    list: bool,
    step: &Step,
    rest: &[Step],
    ask: &dyn Fn(&Value<'_>) -> bool,
) -> bool {
    use serde_json::Value as Json;
    match json {
        Json::Array(items) => items.into_iter().any(|item| walk_json(item, false, step, rest, ask)),
        _ if list => false,
        Json::Object(mut map) => {
            let found = map.remove(&step.name).unwrap_or(Json::Null);
            walk(of_json(found, step.kind), step.kind, rest, ask)
        }
        // An object that was left out: its fields are zero.
        _ => walk(of_json(Json::Null, step.kind), step.kind, rest, ask),
    }
}

/// A JSON value as a value of its type; one that was left out is the type's zero.
fn of_json(json: serde_json::Value, kind: &Kind) -> Value<'static> {
    use serde_json::Value as Json;
    match (kind, json) {
        (Kind::Text, Json::String(text)) => Value::Text(Cow::Owned(text)),
        (Kind::Text, _) => Value::Text(Cow::Borrowed("")),
        (Kind::Int, json) => Value::Int(json.as_i64().unwrap_or(0)),
        (Kind::Bool, json) => Value::Bool(json.as_bool().unwrap_or(false)),
        (_, json) => Value::Json(json),
    }
}

/// Whether the value satisfies the test. Of what is missing nothing holds, so negations do.
fn holds(test: &Test, negative: bool, value: &Value<'_>) -> bool {
    let positive = match (test, value) {
        (Test::Text(wanted), Value::Text(text)) => text == wanted,
        (Test::Int(wanted), Value::Int(number)) => number == wanted,
        (Test::Bool(wanted), Value::Bool(truth)) => truth == wanted,
        (Test::Contains(part), Value::Text(text)) => text.contains(part.as_str()),
        (Test::Contains(item), Value::Texts(list)) => list.iter().any(|text| **text == **item),
        (Test::Contains(key), Value::Map(map)) => {
            map.is_some_and(|map| map.contains_key(key.as_str()))
        }
        (Test::Contains(key), Value::Addresses(map)) => map.contains_key(key.as_str()),
        (Test::NotEmpty, Value::Text(text)) => !text.is_empty(),
        (Test::NotEmpty, Value::Texts(list)) => !list.is_empty(),
        (Test::NotEmpty, Value::Map(map)) => map.is_some_and(|map| !map.is_empty()),
        (Test::NotEmpty, Value::Addresses(map)) => !map.is_empty(),
        (Test::NotEmpty, Value::Records(list)) => !list.is_empty(),
        (Test::NotEmpty, Value::Json(json)) => {
            json.as_array().is_some_and(|list| !list.is_empty())
                || json.as_object().is_some_and(|map| !map.is_empty())
        }
        (Test::Matches(regex), Value::Text(text)) => regex.is_match(text),
        _ => false,
    };
    positive != negative
}

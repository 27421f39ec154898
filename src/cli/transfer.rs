//! `kv export`, `kv import`: keys as JSON text, in the format that Consul's own commands exchange.

use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::client::{Agent, parse};
use super::flags::{Flag, Given, Kind, flag};
use super::kv::{Entry, decode_base64, key, path, said, value_argument};
use super::{Command, Done, out};

static IMPORT: &[Flag] =
    &[flag("prefix", Kind::Value, "Put the keys below this prefix; joined with a slash.")];

/// The verbs.
pub(super) const COMMANDS: [Command; 2] = [
    Command {
        name: "kv export",
        summary: "Prints all keys with a prefix as JSON, for kv import.",
        arguments: "[<prefix>]",
        flags: Vec::new,
        client: true,
        run: export,
    },
    Command {
        name: "kv import",
        summary: "Writes keys that kv export printed: as given, from @file, or from - (stdin).",
        arguments: "<JSON | @file | ->",
        flags: || IMPORT.to_vec(),
        client: true,
        run: import,
    },
];

/// A key on its way. The value is in base64.
#[derive(Debug, Serialize, Deserialize)]
struct Moved {
    key: String,
    #[serde(default)]
    flags: u64,
    #[serde(default)]
    value: String,
}

fn export(given: &Given) -> Done {
    if given.rest.len() > 1 {
        return Err(said(format!("Too many arguments (expected 1, got {})", given.rest.len())));
    }
    let answer =
        Agent::new(given)?.call(Method::GET, &path(key(given)), &[("recurse", "")], None)?;
    let entries: Vec<Entry> = match answer.status {
        StatusCode::OK => parse(&answer.body)?,
        StatusCode::NOT_FOUND => Vec::new(),
        _ => return Err(answer.refusal().into()),
    };
    let moved: Vec<Moved> = entries.into_iter().map(Moved::from).collect();
    let mut text = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut writer = serde_json::Serializer::with_formatter(&mut text, format);
    moved.serialize(&mut writer).map_err(|error| format!("cannot write JSON: {error}"))?;
    text.push(b'\n');
    out::bytes(&text);
    Ok(())
}

impl From<Entry> for Moved {
    fn from(entry: Entry) -> Self {
        Self { key: entry.key, flags: entry.flags, value: entry.value.unwrap_or_default() }
    }
}

fn import(given: &Given) -> Done {
    let [data] = &given.rest[..] else {
        return Err(said(match given.rest.len() {
            0 => "Missing DATA argument".to_owned(),
            count => format!("Too many arguments (expected 1, got {count})"),
        }));
    };
    let text = value_argument(Some(data))?;
    let moved: Vec<Moved> = serde_json::from_slice(&text)
        .map_err(|error| said(format!("Cannot unmarshal data: {error}")))?;
    // All are read before the first is written: a broken value leaves nothing half done.
    let mut ready = Vec::with_capacity(moved.len());
    for entry in moved {
        let value = decode_base64(&entry.value).map_err(|error| {
            said(format!("base 64 decoding value for key {}: {error}", entry.key))
        })?;
        ready.push((below(given.get("prefix").unwrap_or(""), &entry.key), entry.flags, value));
    }
    let agent = Agent::new(given)?;
    for (key, flags, value) in ready {
        agent.put(&path(&key), &[("flags", &flags.to_string())], Some(value))?;
        out::line(format!("Imported: {key}"));
    }
    Ok(())
}

fn below(prefix: &str, key: &str) -> String {
    let key = key.trim_start_matches('/');
    match prefix.trim_matches('/') {
        "" => key.to_owned(),
        prefix => format!("{prefix}/{key}"),
    }
}

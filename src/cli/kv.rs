//! `kv get`, `kv put`, `kv delete`.

use std::io::Read as _;

use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::client::{Agent, escape, parse};
use super::flags::{Flag, Given, Kind, flag};
use super::{Command, Done, Failure, out};

static GET: &[Flag] = &[
    flag("base64", Kind::Bool, "Print the value in base64."),
    flag("detailed", Kind::Bool, "Print all fields, not the value alone."),
    flag("keys", Kind::Bool, "Print the keys that begin with the argument."),
    flag("recurse", Kind::Bool, "Print all keys that begin with the argument, and their values."),
    flag("separator", Kind::Value, "With -keys: fold keys at this text. Default /."),
];
static PUT: &[Flag] = &[
    flag("acquire", Kind::Bool, "Lock the key for -session."),
    flag("base64", Kind::Bool, "The value is given in base64."),
    flag("cas", Kind::Bool, "Write only if the key still has -modify-index."),
    flag("flags", Kind::Value, "Number to store with the value. Default 0."),
    flag("modify-index", Kind::Value, "Index for -cas; 0: the key must not exist."),
    flag("release", Kind::Bool, "Release the lock of -session."),
    flag("session", Kind::Value, "Session for -acquire and -release."),
];
static DELETE: &[Flag] = &[
    flag("cas", Kind::Bool, "Delete only if the key still has -modify-index."),
    flag("modify-index", Kind::Value, "Index for -cas."),
    flag("recurse", Kind::Bool, "Delete all keys that begin with the argument."),
];

/// The verbs.
pub(super) const COMMANDS: [Command; 3] = [
    Command {
        name: "kv get",
        summary: "Prints the value of a key.",
        arguments: "[<key or prefix>]",
        flags: || GET.to_vec(),
        client: true,
        run: get,
    },
    Command {
        name: "kv put",
        summary: "Writes the value of a key: as given, from @file, or from - (stdin).",
        arguments: "<key> [<value>]",
        flags: || PUT.to_vec(),
        client: true,
        run: put,
    },
    Command {
        name: "kv delete",
        summary: "Deletes a key, or all keys with a prefix.",
        arguments: "<key or prefix>",
        flags: || DELETE.to_vec(),
        client: true,
        run: delete,
    },
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: Option<String>,
    pub(super) flags: u64,
    lock_index: u64,
    create_index: u64,
    modify_index: u64,
    session: Option<String>,
}

impl Entry {
    fn value(&self, base64: bool) -> Result<Vec<u8>, String> {
        let text = self.value.as_deref().unwrap_or("");
        if base64 { Ok(text.as_bytes().to_vec()) } else { decode_base64(text) }
    }

    fn print(&self, base64: bool, detailed: bool, prefix: &[u8]) -> Done {
        let value = self.value(base64)?;
        if !detailed {
            out::bytes(&[prefix, &value, b"\n"].concat());
            return Ok(());
        }
        let session = self.session.as_deref().unwrap_or("-");
        for (name, text) in [
            ("CreateIndex", self.create_index.to_string()),
            ("Flags", self.flags.to_string()),
            ("Key", self.key.clone()),
            ("LockIndex", self.lock_index.to_string()),
            ("ModifyIndex", self.modify_index.to_string()),
            ("Session", session.to_owned()),
        ] {
            out::line(format!("{name:<17}{text}"));
        }
        out::bytes(&[b"Value            ".as_slice(), &value, b"\n"].concat());
        Ok(())
    }
}

pub(super) fn key(given: &Given) -> &str {
    let key = given.rest.first().map_or("", String::as_str);
    key.strip_prefix('/').unwrap_or(key)
}

pub(super) fn path(key: &str) -> String {
    format!("/v1/kv/{}", escape(key.as_bytes(), true))
}

/// Scripts know these lines from Consul (spec/agent.md §37.15).
pub(super) fn said(text: impl std::fmt::Display) -> Failure {
    Failure::Verbatim(format!("Error! {text}"))
}

fn get(given: &Given) -> Done {
    let key = key(given);
    if given.rest.len() > 1 {
        return Err(said(format!("Too many arguments (expected 1, got {})", given.rest.len())));
    }
    if key.is_empty() && !given.is("recurse") && !given.is("keys") {
        return Err(said("Missing KEY argument"));
    }
    let agent = Agent::new(given)?;
    if given.is("keys") {
        let separator = given.get("separator").unwrap_or("/");
        let mut query = vec![("keys", "")];
        if !given.is("recurse") {
            query.push(("separator", separator));
        }
        let answer = agent.call(Method::GET, &path(key), &query, None)?;
        let keys: Vec<String> = match answer.status {
            StatusCode::OK => parse(&answer.body)?,
            StatusCode::NOT_FOUND => Vec::new(),
            _ => return Err(answer.refusal().into()),
        };
        for key in keys {
            out::line(key);
        }
        return Ok(());
    }
    let query: &[(&str, &str)] = if given.is("recurse") { &[("recurse", "")] } else { &[] };
    let answer = agent.call(Method::GET, &path(key), query, None)?;
    let entries: Vec<Entry> = match answer.status {
        StatusCode::OK => parse(&answer.body)?,
        StatusCode::NOT_FOUND if given.is("recurse") => Vec::new(),
        StatusCode::NOT_FOUND => return Err(said(format!("No key exists at: {key}"))),
        _ => return Err(answer.refusal().into()),
    };
    let (base64, detailed) = (given.is("base64"), given.is("detailed"));
    for (i, entry) in entries.iter().enumerate() {
        if detailed && i > 0 {
            out::line("");
        }
        let prefix = if given.is("recurse") { format!("{}:", entry.key) } else { String::new() };
        entry.print(base64, detailed, prefix.as_bytes())?;
    }
    Ok(())
}

fn put(given: &Given) -> Done {
    let key = key(given);
    if key.is_empty() {
        return Err(said("Missing KEY argument"));
    }
    if given.rest.len() > 2 {
        return Err(
            format!("Too many arguments (expected 1 or 2, got {})", given.rest.len()).into()
        );
    }
    let mut value = value_argument(given.rest.get(1).map(String::as_str))?;
    if given.is("base64") {
        let text = String::from_utf8_lossy(&value).trim().to_owned();
        value = decode_base64(&text).map_err(|_| "Cannot base64 decode value".to_owned())?;
    }
    let (cas, acquire, release) = (given.is("cas"), given.is("acquire"), given.is("release"));
    if (acquire || release) && given.get("session").is_none() {
        return Err(said("Missing -session (required with -acquire and -release)"));
    }
    if u8::from(cas) + u8::from(acquire) + u8::from(release) > 1 {
        return Err("only one of -cas, -acquire and -release can be given".into());
    }
    let flags = given.number("flags")?.unwrap_or(0).to_string();
    let index = given.number("modify-index")?.unwrap_or(0);
    let index_text = index.to_string();
    let mut query = vec![("flags", flags.as_str())];
    let session = given.get("session").unwrap_or("");
    if cas {
        query.push(("cas", &index_text));
    } else if acquire {
        query.push(("acquire", session));
    } else if release {
        query.push(("release", session));
    }
    let answer = Agent::new(given)?.put(&path(key), &query, Some(value))?;
    if answer != b"true" && !answer.starts_with(b"true\n") {
        return Err(said(if cas && index == 0 {
            format!("Did not write to {key}: CAS performed with index=0 and key already exists.")
        } else if cas {
            format!("Did not write to {key}: CAS failed")
        } else if acquire {
            "Did not acquire lock".to_owned()
        } else {
            "Did not release lock".to_owned()
        }));
    }
    let what = match (acquire, release) {
        (true, _) => "Lock acquired on",
        (_, true) => "Lock released on",
        _ => "Data written to",
    };
    out::line(format!("Success! {what}: {key}"));
    Ok(())
}

/// The value as given, from `@file`, or from `-`; nothing is an empty value.
pub(super) fn value_argument(argument: Option<&str>) -> Result<Vec<u8>, String> {
    match argument {
        None => Ok(Vec::new()),
        Some("-") => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .map_err(|error| format!("cannot read stdin: {error}"))?;
            Ok(bytes)
        }
        Some(text) => match text.strip_prefix('@') {
            Some(file) => {
                std::fs::read(file).map_err(|error| format!("cannot read {file}: {error}"))
            }
            None => Ok(text.as_bytes().to_vec()),
        },
    }
}

fn delete(given: &Given) -> Done {
    let key = key(given);
    if key.is_empty() && !given.is("recurse") {
        return Err(said("Missing KEY argument"));
    }
    if given.is("recurse") && given.is("cas") {
        return Err(said("Cannot specify both -cas and -recurse"));
    }
    let index = given.number("modify-index")?.unwrap_or(0);
    if given.is("cas") && index == 0 {
        return Err("-cas needs a -modify-index above 0".into());
    }
    let index_text = index.to_string();
    let query: Vec<(&str, &str)> = if given.is("recurse") {
        vec![("recurse", "")]
    } else if given.is("cas") {
        vec![("cas", &index_text)]
    } else {
        Vec::new()
    };
    let answer = Agent::new(given)?.ok(Method::DELETE, &path(key), &query, None)?;
    if !answer.starts_with(b"true") {
        return Err(said(format!("Did not delete key {key}: CAS failed")));
    }
    if given.is("recurse") {
        out::line(format!("Success! Deleted keys with prefix: {key}"));
    } else {
        out::line(format!("Success! Deleted key: {key}"));
    }
    Ok(())
}

/// Standard base64 with padding (RFC 4648 §4).
pub(super) fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|error| format!("not base64: {error}"))
}

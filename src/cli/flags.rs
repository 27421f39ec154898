//! Flags in Go's syntax: `-name value`, `-name=value`, `--name`; parsing stops at the first
//! argument that is no flag, or after `--`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A flag that a command knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    /// Without the leading hyphen.
    pub(crate) name: &'static str,
    /// What it takes.
    pub(crate) kind: Kind,
    /// One line for `-help`.
    pub(crate) help: &'static str,
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `-name`, or `-name=true` / `-name=false`.
    Bool,
    /// One value; a later one replaces it.
    Value,
    /// Values that collect into a list.
    List,
}

/// What was given on the command line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    values: BTreeMap<&'static str, Vec<String>>,
    /// Arguments after the flags.
    pub(crate) rest: Vec<String>,
}

/// Shorthand for tables of flags.
pub(crate) const fn flag(name: &'static str, kind: Kind, help: &'static str) -> Flag {
    Flag { name, kind, help }
}

/// Splits arguments into flags and the rest; the error is Go's text.
pub(crate) fn parse(known: &[&[Flag]], args: &[String]) -> Result<Given, String> {
    let mut given = Given::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some(body) = arg.strip_prefix('-').filter(|body| !body.is_empty()) else {
            given.rest.push(arg.clone());
            break;
        };
        if body == "-" {
            break;
        }
        let body = body.strip_prefix('-').unwrap_or(body);
        let (name, inline) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        if name.is_empty() || name.starts_with('-') {
            return Err(format!("bad flag syntax: {arg}"));
        }
        let Some(flag) = known.iter().copied().flatten().find(|flag| flag.name == name) else {
            return Err(format!("flag provided but not defined: -{name}"));
        };
        let value = match (flag.kind, inline) {
            (Kind::Bool, None) => "true".to_owned(),
            (Kind::Bool, Some(text)) => match parse_bool(&text) {
                Some(value) => value.to_string(),
                None => {
                    return Err(format!(
                        "invalid boolean value \"{text}\" for -{name}: say true or false"
                    ));
                }
            },
            (_, Some(text)) => text,
            (_, None) => match args.next() {
                Some(text) => text.clone(),
                None => return Err(format!("flag needs an argument: -{name}")),
            },
        };
        let values = given.values.entry(flag.name).or_default();
        if flag.kind != Kind::List {
            values.clear();
        }
        values.push(value);
    }
    given.rest.extend(args.cloned());
    Ok(given)
}

/// Go's spellings of a boolean.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl Given {
    /// The value of a flag, if it was given.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.last().map(String::as_str)
    }

    /// Whether a boolean flag is on.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// All values of a list flag, in order.
    pub(crate) fn list(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// A number; the error names the flag.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, String> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    format!("invalid value \"{text}\" for flag -{name}: not a whole number")
                })
            })
            .transpose()
    }
}

/// The help text of a command: its usage line, what it does, and its flags.
pub(crate) fn usage(line: &str, text: &str, groups: &[(&str, &[Flag])]) -> String {
    let mut out = format!("Usage: {line}\n\n");
    for paragraph in text.lines() {
        let _ = writeln!(out, "  {paragraph}");
    }
    for (title, flags) in groups {
        let _ = write!(out, "\n{title}\n");
        for flag in *flags {
            let value = match flag.kind {
                Kind::Bool => "",
                Kind::Value => "=<value>",
                Kind::List => "=<value> (may be repeated)",
            };
            let _ = write!(out, "\n  -{}{value}\n     {}\n", flag.name, flag.help);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        flag("dev", Kind::Bool, ""),
        flag("node", Kind::Value, ""),
        flag("retry-join", Kind::List, ""),
    ];

    fn given(args: &[&str]) -> Result<Given, String> {
        parse(&[FLAGS], &args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn every_form_of_a_flag_is_understood() {
        let given = given(&[
            "-dev",
            "--node",
            "n1",
            "-retry-join=a",
            "-retry-join",
            "b",
            "x",
            "-dev=false",
        ])
        .expect("valid");
        assert!(given.is("dev"));
        assert_eq!(given.get("node"), Some("n1"));
        assert_eq!(given.list("retry-join"), ["a", "b"]);
        assert_eq!(given.rest, ["x", "-dev=false"]);
    }

    #[test]
    fn mistakes_are_named() {
        for (args, said) in [
            (&["-nope"][..], "flag provided but not defined: -nope"),
            (&["-node"], "flag needs an argument: -node"),
            (&["-dev=maybe"], "invalid boolean value \"maybe\" for -dev: say true or false"),
            (&["-=x"], "bad flag syntax: -=x"),
        ] {
            assert_eq!(given(args).expect_err("a mistake"), said);
        }
    }
}

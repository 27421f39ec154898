//! `version`.

use model::{CONSUL_VERSION, MUSTER_VERSION};

use super::flags::{Flag, Given, Kind, flag};
use super::{Command, Done, out};

/// The verb.
pub(super) const COMMAND: Command = Command {
    name: "version",
    summary: "Prints the version.",
    arguments: "",
    flags: || FLAGS.to_vec(),
    client: false,
    run,
};

static FLAGS: &[Flag] = &[flag("format", Kind::Value, "pretty or json. Default pretty.")];

/// Prints it.
pub(super) fn run(given: &Given) -> Done {
    match given.get("format").unwrap_or("pretty") {
        "json" => {
            let version = serde_json::json!({
                "Version": CONSUL_VERSION,
                "Revision": "",
                "Prerelease": "",
                "BuildDate": "1970-01-01T00:00:01Z",
                "MusterVersion": MUSTER_VERSION,
                "RPC": {"Default": 2, "Min": 2, "Max": 3},
            });
            out::line(pretty_json(&version));
        }
        "pretty" => {
            out::line(format!("Muster v{MUSTER_VERSION}"));
            out::line(format!("Speaks the interface of Consul v{CONSUL_VERSION}"));
            out::line("Protocol 2 spoken by default, understands 2 to 3");
        }
        other => return Err(format!("-format {other}: say pretty or json").into()),
    }
    Ok(())
}

/// JSON with four spaces of indentation, as Consul's commands print it.
pub(super) fn pretty_json(value: &impl serde::Serialize) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("cannot be shown as JSON: {error}"),
    }
}

//! `services`: what the agent runs.

use serde_json::{Map, Value, json};

use super::client::{Agent, escape};
use super::flags::{Flag, Given, Kind, flag};
use super::{Command, Done, out};

static REGISTER: &[Flag] = &[
    flag("id", Kind::Value, "Id. Default: the name."),
    flag("name", Kind::Value, "Name of the service."),
    flag("address", Kind::Value, "Address. Default: the node's."),
    flag("port", Kind::Value, "Port."),
    flag("socket", Kind::Value, "Path of a Unix socket."),
    flag("meta", Kind::List, "Metadata, key=value."),
    flag("tag", Kind::List, "Tag."),
    flag("tagged-address", Kind::List, "Further address, name=address:port."),
    flag("kind", Kind::Value, "Kind of service."),
];
static DEREGISTER: &[Flag] = &[flag("id", Kind::Value, "Id of the service.")];

/// The verbs.
pub(super) const COMMANDS: [Command; 2] = [
    Command {
        name: "services register",
        summary: "Registers services with the agent, from JSON files or from flags.",
        arguments: "[<file>…]",
        flags: || REGISTER.to_vec(),
        client: true,
        run: register,
    },
    Command {
        name: "services deregister",
        summary: "Deregisters services from the agent, named by files or by -id.",
        arguments: "[<file>…]",
        flags: || DEREGISTER.to_vec(),
        client: true,
        run: deregister,
    },
];

fn register(given: &Given) -> Done {
    let agent = Agent::new(given)?;
    let services = if given.rest.is_empty() {
        vec![from_flags(given)?]
    } else if given.get("name").is_some() || given.get("id").is_some() {
        return Err("name services either by files or by flags".into());
    } else {
        from_files(&given.rest)?
    };
    for service in services {
        let name = text(&service, "name");
        let body = serde_json::to_vec(&api_form(&service)?).map_err(|error| error.to_string())?;
        agent.put("/v1/agent/service/register", &[], Some(body))?;
        out::line(format!("Registered service: {name}"));
    }
    Ok(())
}

fn deregister(given: &Given) -> Done {
    let agent = Agent::new(given)?;
    let ids: Vec<String> = match (given.get("id"), given.rest.as_slice()) {
        (Some(id), []) => vec![id.to_owned()],
        (None, files) if !files.is_empty() => from_files(files)?
            .iter()
            .map(|service| match text(service, "id") {
                id if id.is_empty() => text(service, "name"),
                id => id,
            })
            .collect(),
        _ => return Err("name services either by files or by -id".into()),
    };
    for id in ids {
        let path = format!("/v1/agent/service/deregister/{}", escape(id.as_bytes(), false));
        agent.put(&path, &[], None)?;
        out::line(format!("Deregistered service: {id}"));
    }
    Ok(())
}

/// The services of these files: each a JSON object with `service` or `services`, as the agent's own
/// configuration files hold them.
fn from_files(files: &[String]) -> Result<Vec<Map<String, Value>>, String> {
    let mut services = Vec::new();
    for file in files {
        let bytes = if file == "-" {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes)
                .map_err(|error| format!("cannot read stdin: {error}"))?;
            bytes
        } else {
            std::fs::read(file).map_err(|error| format!("cannot read {file}: {error}"))?
        };
        let object: Map<String, Value> = serde_json::from_slice(&bytes)
            .map_err(|error| format!("failed to parse {file}: {error}"))?;
        let before = services.len();
        for (name, value) in object {
            match (name.to_lowercase().as_str(), value) {
                ("service", Value::Object(service)) => services.push(service),
                ("services", Value::Array(list)) => {
                    for item in list {
                        match item {
                            Value::Object(service) => services.push(service),
                            _ => {
                                return Err(format!(
                                    "{file}: services holds something else than objects"
                                ));
                            }
                        }
                    }
                }
                _ => {}
            }
        }
        if services.len() == before {
            return Err(format!("{file} holds no service"));
        }
    }
    Ok(services)
}

fn from_flags(given: &Given) -> Result<Map<String, Value>, String> {
    let Some(name) = given.get("name") else {
        return Err("name the service with -name, or give files".to_owned());
    };
    let mut service = Map::new();
    service.insert("name".to_owned(), json!(name));
    for (flag, key) in
        [("id", "id"), ("address", "address"), ("socket", "socket_path"), ("kind", "kind")]
    {
        if let Some(value) = given.get(flag) {
            service.insert(key.to_owned(), json!(value));
        }
    }
    if let Some(port) = given.number("port")? {
        service.insert("port".to_owned(), json!(port));
    }
    if !given.list("tag").is_empty() {
        service.insert("tags".to_owned(), json!(given.list("tag")));
    }
    let mut meta = Map::new();
    for pair in given.list("meta") {
        let (key, value) = pair.split_once('=').ok_or(format!("-meta {pair}: say key=value"))?;
        meta.insert(key.to_owned(), json!(value));
    }
    if !meta.is_empty() {
        service.insert("meta".to_owned(), Value::Object(meta));
    }
    let mut tagged = Map::new();
    for pair in given.list("tagged-address") {
        let wrong = || format!("-tagged-address {pair}: say name=address:port");
        let (key, value) = pair.split_once('=').ok_or_else(wrong)?;
        let (address, port) = value.rsplit_once(':').ok_or_else(wrong)?;
        let port: u16 = port.parse().map_err(|_| wrong())?;
        tagged.insert(key.to_owned(), json!({"address": address, "port": port}));
    }
    if !tagged.is_empty() {
        service.insert("tagged_addresses".to_owned(), Value::Object(tagged));
    }
    Ok(service)
}

fn text(service: &Map<String, Value>, key: &str) -> String {
    service
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(key))
        .and_then(|(_, value)| value.as_str())
        .unwrap_or("")
        .to_owned()
}

/// A definition in the spelling of files, as the agent's HTTP interface wants it.
fn api_form(service: &Map<String, Value>) -> Result<Value, String> {
    let mut out = Map::new();
    for (name, value) in service {
        let lower = name.to_lowercase();
        let (name, value) = match (lower.as_str(), value) {
            ("check", Value::Object(check)) => ("Check".to_owned(), api_check(check)),
            ("checks", Value::Array(list)) => {
                let checks = list
                    .iter()
                    .map(|item| match item {
                        Value::Object(check) => Ok(api_check(check)),
                        _ => Err("checks holds something else than objects".to_owned()),
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                ("Checks".to_owned(), Value::Array(checks))
            }
            (_, value) => (camel(&lower), value.clone()),
        };
        out.insert(name, value);
    }
    Ok(Value::Object(out))
}

fn api_check(check: &Map<String, Value>) -> Value {
    let fields = check.iter().map(|(name, value)| {
        let name = match name.to_lowercase().as_str() {
            "id" => "CheckID".to_owned(),
            "args" => "ScriptArgs".to_owned(),
            other => camel(other),
        };
        (name, value.clone())
    });
    Value::Object(fields.collect())
}

/// `enable_tag_override` as `EnableTagOverride`; the interface does not mind the case of the rest.
fn camel(snake: &str) -> String {
    let mut out = String::new();
    for word in snake.split('_') {
        let mut chars = word.chars();
        out.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        out.push_str(chars.as_str());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_from_a_file_becomes_a_body_for_the_agent() {
        let file = json!({"name": "web", "enable_tag_override": true, "socket_path": "/s",
            "checks": [{"id": "c", "args": ["true"], "interval": "1s", "tls_skip_verify": true}]});
        let Value::Object(service) = file else { panic!("an object") };
        let body = api_form(&service).expect("a body");
        assert_eq!(
            body,
            json!({"Name": "web", "EnableTagOverride": true, "SocketPath": "/s",
                "Checks": [{"CheckID": "c", "ScriptArgs": ["true"], "Interval": "1s", "TlsSkipVerify": true}]})
        );
    }
}

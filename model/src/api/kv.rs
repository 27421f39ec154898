//! Keys and sessions as JSON, and the body of `session/create`.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::input::{InputError, Object};
use super::json::Json;
use crate::duration::GoDuration;
use crate::row::{KvV1, SessionBehavior, SessionV1};
use crate::rpc::NewSession;

/// The check that a session depends on unless it says otherwise.
const SERF_HEALTH: &str = "serfHealth";

/// Lock-delay when none is given: 15 s.
const LOCK_DELAY_NS: i64 = 15_000_000_000;

/// A key with its value.
pub fn entry(json: &mut Json, row: &KvV1) {
    json.object(|fields| {
        fields.number("LockIndex", row.lock_index);
        fields.name("Key").bytes_as_text(&row.key);
        fields.number("Flags", row.flags);
        fields.name("Value").base64_or_null(&row.value);
        if let Some(session) = row.session {
            fields.name("Session").plain(session);
        }
        fields.number("CreateIndex", row.create_index.0);
        fields.number("ModifyIndex", row.modify_index.0);
    });
}

/// A list of entries; its buffer is sized for them.
pub fn entries(rows: &[Arc<KvV1>]) -> Vec<u8> {
    // Names, braces and numbers of one entry are below 160 bytes.
    let size = rows.iter().map(|row| row.key.len() + row.value.len() * 4 / 3 + 160).sum::<usize>();
    let mut json = Json::with_capacity(size + 2);
    json.array(rows, |json, row| entry(json, row));
    json.into_bytes()
}

/// A list of keys.
pub fn keys(list: &[Bytes]) -> Vec<u8> {
    let mut json = Json::default();
    json.array(list, |json, key| json.bytes_as_text(key));
    json.into_bytes()
}

/// A session.
pub fn session(json: &mut Json, row: &SessionV1) {
    json.object(|fields| {
        fields.name("ID").plain(row.id);
        fields.text("Name", &row.name);
        fields.text("Node", &row.node);
        fields.number("LockDelay", row.lock_delay_ns);
        let behavior = match row.behavior {
            SessionBehavior::Release => "release",
            SessionBehavior::Delete => "delete",
        };
        fields.text("Behavior", behavior);
        fields.text("TTL", &row.ttl);
        match &row.node_checks {
            Some(checks) => fields.name("NodeChecks").texts(checks),
            None => fields.name("NodeChecks").null(),
        }
        match &row.service_checks {
            Some(checks) => fields.name("ServiceChecks").array(checks, |json, check| {
                json.object(|fields| {
                    fields.text("ID", &check.id);
                    fields.text("Namespace", &check.namespace);
                });
            }),
            None => fields.name("ServiceChecks").null(),
        }
        if !row.checks.is_empty() {
            fields.name("Checks").texts(&row.checks);
        }
        fields.number("CreateIndex", row.create_index.0);
        fields.number("ModifyIndex", row.modify_index.0);
    });
}

/// A list of sessions.
pub fn sessions(rows: &[Arc<SessionV1>]) -> Vec<u8> {
    let mut json = Json::default();
    json.array(rows, |json, row| session(json, row));
    json.into_bytes()
}

/// The body of `session/create`; `None` is an empty body. Unknown fields are ignored. `node` is
/// this agent's, for a body that names none; a name that is given and empty stays empty.
pub fn new_session(body: Option<&Value>, node: &str) -> Result<NewSession, InputError> {
    let null = Value::Null;
    let mut object = Object::new(body.unwrap_or(&null), "SessionRequest")?;
    let given_node = object.text_option(&["Node"])?;
    let behavior = object.text(&["Behavior"])?;
    let lock_delay = lock_delay(object.take(&["LockDelay"]))?;
    // `null` for a list counts as given and empty, not as absent.
    let node_checks = texts_or_null(&mut object, "NodeChecks")?;
    let checks = texts_or_null(&mut object, "Checks")?;
    let (checks, node_checks) = merge_checks(checks, node_checks);
    let own = |list: Vec<&str>| list.into_iter().map(Into::into).collect::<Vec<_>>();
    Ok(NewSession {
        name: object.text(&["Name"])?.into(),
        node: given_node.unwrap_or(node).into(),
        lock_delay_ns: u64::try_from(lock_delay).unwrap_or(0),
        behavior: if behavior.is_empty() { "release" } else { behavior }.into(),
        ttl: object.text(&["TTL"])?.into(),
        node_checks: node_checks.map(own),
        service_checks: service_checks(&mut object)?,
        checks: own(checks),
    })
}

/// Outer `None`: absent; a `null` is an empty list.
fn texts_or_null<'a>(
    object: &mut Object<'a>,
    name: &str,
) -> Result<Option<Vec<&'a str>>, InputError> {
    let given = object.has(name);
    let texts = object.texts(&[name])?;
    Ok(if given { Some(texts.unwrap_or_default()) } else { None })
}

/// Consul's rule for the two lists of checks (spec/http-api-2.md §2.2): first `Checks`, then
/// `NodeChecks`.
fn merge_checks<'a>(
    checks: Option<Vec<&'a str>>,
    node_checks: Option<Vec<&'a str>>,
) -> (Vec<&'a str>, Option<Vec<&'a str>>) {
    let default = || vec![SERF_HEALTH];
    match (checks.unwrap_or_else(default), node_checks) {
        (checks, _) if checks.is_empty() => (Vec::new(), Some(Vec::new())),
        (checks, node_checks) if checks == [SERF_HEALTH] => {
            (Vec::new(), Some(node_checks.unwrap_or_else(default)))
        }
        (_, Some(node_checks)) if node_checks.is_empty() => (Vec::new(), Some(node_checks)),
        (checks, node_checks) => (checks, Some(node_checks.unwrap_or_else(default))),
    }
}

fn service_checks(
    object: &mut Object<'_>,
) -> Result<Option<Vec<(crate::Name, crate::Name)>>, InputError> {
    let Some(items) = object.list(&["ServiceChecks"])? else { return Ok(None) };
    let mut list = Vec::with_capacity(items.len());
    for item in items {
        let mut check = Object::new(item, "ServiceCheck")?;
        list.push((check.text(&["ID"])?.into(), check.text(&["Namespace"])?.into()));
    }
    Ok(Some(list))
}

/// Nanoseconds. A result below 1,000 is taken as seconds, whatever unit it had.
fn lock_delay(value: Option<&Value>) -> Result<i64, InputError> {
    let Some(value) = value else { return Ok(LOCK_DELAY_NS) };
    let Some(GoDuration(ns)) = super::input::duration(value)? else {
        return Err(InputError::Type {
            found: super::input::kind(value),
            field: "SessionRequest.LockDelay".to_owned(),
            wanted: "time.Duration",
        });
    };
    Ok(if ns < 1_000 { ns.saturating_mul(1_000_000_000) } else { ns })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::id::{LogIndex, SessionId};
    use crate::row::ServiceCheckRefV1;

    #[test]
    fn entries_have_null_for_nothing_and_no_session_when_free() {
        let mut row = KvV1 {
            key: Bytes::from_static(b"web/leader"),
            value: Bytes::from_static(b"hello"),
            flags: u64::MAX,
            lock_index: 1,
            session: Some(SessionId([0x11; 16])),
            version: 3,
            lease: None,
            create_index: LogIndex(31),
            modify_index: LogIndex(57),
        };
        let full = r#"[{"LockIndex":1,"Key":"web/leader","Flags":18446744073709551615,"Value":"aGVsbG8=","Session":"11111111-1111-1111-1111-111111111111","CreateIndex":31,"ModifyIndex":57}]"#;
        assert_eq!(entries(&[Arc::new(row.clone())]), full.as_bytes());
        row.value = Bytes::new();
        row.session = None;
        let bare = r#"[{"LockIndex":1,"Key":"web/leader","Flags":18446744073709551615,"Value":null,"CreateIndex":31,"ModifyIndex":57}]"#;
        assert_eq!(entries(&[Arc::new(row)]), bare.as_bytes());
        assert_eq!(entries(&[]), b"[]");
    }

    #[test]
    fn sessions_keep_nil_and_empty_lists_apart() {
        let mut row = SessionV1 {
            id: SessionId([0x22; 16]),
            name: "web-lock".into(),
            node: "node-a".into(),
            lock_delay_ns: 15_000_000_000,
            behavior: SessionBehavior::Release,
            ttl: "30s".into(),
            ttl_ms: 30_000,
            node_checks: Some(vec![]),
            service_checks: None,
            checks: vec![],
            create_index: LogIndex(41),
            modify_index: LogIndex(41),
        };
        let text = r#"[{"ID":"22222222-2222-2222-2222-222222222222","Name":"web-lock","Node":"node-a","LockDelay":15000000000,"Behavior":"release","TTL":"30s","NodeChecks":[],"ServiceChecks":null,"CreateIndex":41,"ModifyIndex":41}]"#;
        assert_eq!(String::from_utf8_lossy(&sessions(&[Arc::new(row.clone())])), text);
        row.node_checks = None;
        row.service_checks = Some(vec![ServiceCheckRefV1 { id: "c".into(), namespace: "".into() }]);
        row.checks = vec!["old".into()];
        let text = String::from_utf8(sessions(&[Arc::new(row)])).expect("UTF-8");
        assert!(text.contains(
            r#""NodeChecks":null,"ServiceChecks":[{"ID":"c","Namespace":""}],"Checks":["old"],"#
        ));
    }

    #[test]
    fn lock_delays_follow_gos_odd_rule() {
        for (given, ns) in [
            (json!({}), 15_000_000_000),
            (json!({"LockDelay": null}), 15_000_000_000),
            (json!({"lockdelay": 15}), 15_000_000_000),
            (json!({"LockDelay": "15s"}), 15_000_000_000),
            (json!({"LockDelay": 15_000_000_000_i64}), 15_000_000_000),
            (json!({"LockDelay": 0}), 0),
            (json!({"LockDelay": "500ns"}), 500_000_000_000),
            (json!({"LockDelay": "15000ms"}), 15_000_000_000),
            (json!({"LockDelay": -5}), 0),
        ] {
            let session = new_session(Some(&given), "n").expect("valid");
            assert_eq!(session.lock_delay_ns, ns, "{given}");
        }
        for (given, text) in [
            (json!({"LockDelay": "1d"}), "time: unknown unit \"d\" in duration \"1d\""),
            (
                json!({"LockDelay": []}),
                "json: cannot unmarshal array into Go struct field SessionRequest.LockDelay of \
                 type time.Duration",
            ),
            (
                json!({"Name": 5}),
                "json: cannot unmarshal number into Go struct field SessionRequest.Name of type \
                 string",
            ),
        ] {
            assert_eq!(new_session(Some(&given), "n").expect_err("bad").to_string(), text);
        }
    }

    #[test]
    fn the_two_lists_of_checks_are_merged() {
        let list = |texts: &[&str]| texts.iter().map(|t| (*t).into()).collect::<Vec<crate::Name>>();
        for (given, checks, node_checks) in [
            (json!({}), list(&[]), list(&["serfHealth"])),
            (json!({"Checks": []}), list(&[]), list(&[])),
            (json!({"Checks": null}), list(&[]), list(&[])),
            (json!({"Checks": ["serfHealth"], "NodeChecks": ["a"]}), list(&[]), list(&["a"])),
            (json!({"NodeChecks": []}), list(&[]), list(&[])),
            (json!({"NodeChecks": ["a"]}), list(&[]), list(&["a"])),
            (json!({"Checks": ["b"], "NodeChecks": []}), list(&[]), list(&[])),
            (json!({"Checks": ["b"]}), list(&["b"]), list(&["serfHealth"])),
            (json!({"Checks": ["b"], "NodeChecks": ["a"]}), list(&["b"]), list(&["a"])),
        ] {
            let session = new_session(Some(&given), "n").expect("valid");
            assert_eq!(session.checks, checks, "{given}");
            assert_eq!(session.node_checks, Some(node_checks), "{given}");
        }
    }

    #[test]
    fn an_empty_body_is_all_defaults() {
        let session = new_session(None, "own").expect("valid");
        assert_eq!(&*session.node, "own");
        assert_eq!((&*session.behavior, &*session.ttl, &*session.name), ("release", "", ""));
        assert_eq!(session.service_checks, None);
        let body = json!({"Node": "x", "Behavior": "delete", "TTL": "10s", "Unknown": 1,
            "ServiceChecks": [{"ID": "c"}]});
        let session = new_session(Some(&body), "own").expect("valid");
        assert_eq!((&*session.node, &*session.behavior, &*session.ttl), ("x", "delete", "10s"));
        assert_eq!(session.service_checks, Some(vec![("c".into(), "".into())]));
        for (body, node) in [(json!({"Node": null}), "own"), (json!({"Node": ""}), "")] {
            let session = new_session(Some(&body), "own").expect("valid");
            assert_eq!(&*session.node, node, "{body}");
        }
    }
}

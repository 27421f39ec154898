//! The body of `txn`, read into operations, and its answer.

use bytes::Bytes;
use serde_json::Value;

use super::input::{InputError, Object};
use super::json::{Fields, Json};
use super::registration::{RegistrationError, locality, names, read_check, read_service};
use super::{catalog, kv};
use crate::id::LogIndex;
use crate::row::NodeV1;
use crate::rpc::TxnOp;
use crate::txn::{CatalogVerbV1, KvTxnV1, KvVerbV1, TxnOpV1, TxnOutcomeV1, TxnResultV1};

/// What can be wrong with a value in base64, in Go's words.
fn illegal(at: usize) -> InputError {
    InputError::Syntax(format!("illegal base64 data at input byte {at}"))
}

/// Standard base64 with padding; line ends are skipped, as by Go.
fn base64(text: &str) -> Result<Vec<u8>, InputError> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count, mut padding) = (0_u32, 0_usize, 0_usize);
    for (at, byte) in text.bytes().enumerate() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'\r' | b'\n' => continue,
            b'=' if count % 4 >= 2 && count % 4 + padding < 4 => {
                padding += 1;
                continue;
            }
            _ => return Err(illegal(at)),
        };
        if padding > 0 {
            return Err(illegal(at));
        }
        bits = bits << 6 | u32::from(digit);
        count += 1;
        if count.is_multiple_of(4) {
            out.extend_from_slice(&bits.to_be_bytes()[1..]);
            bits = 0;
        }
    }
    match (count % 4, padding) {
        (0, 0) => {}
        (2, 2) => out.push((bits >> 4).to_be_bytes()[3]),
        (3, 1) => out.extend_from_slice(&(bits >> 2).to_be_bytes()[2..]),
        _ => return Err(illegal(text.len())),
    }
    Ok(out)
}

/// The operations of a body. An object that holds none is skipped.
pub fn operations(body: &Value) -> Result<Vec<TxnOp>, InputError> {
    let items = match body {
        Value::Null => return Ok(Vec::new()),
        Value::Array(items) => items,
        other => {
            return Err(InputError::Type {
                found: super::input::kind(other),
                field: "TxnOps".to_owned(),
                wanted: "api.TxnOps",
            });
        }
    };
    let mut ops = Vec::with_capacity(items.len().min(crate::txn::OPERATIONS_MAX));
    for item in items {
        let mut object = Object::new(item, "TxnOp")?;
        let found = [
            object.take(&["KV"]).map(key).transpose()?,
            object.take(&["Node"]).map(node).transpose()?,
            object.take(&["Service"]).map(service).transpose()?,
            object.take(&["Check"]).map(check).transpose()?,
        ];
        object.finish()?;
        ops.extend(found.into_iter().flatten().next());
    }
    Ok(ops)
}

fn wrong(write: bool, text: &str) -> TxnOp {
    TxnOp::Wrong(write, text.into())
}

fn key(value: &Value) -> Result<TxnOp, InputError> {
    let mut object = Object::new(value, "KVTxnOp")?;
    let verb = object.text(&["Verb"])?;
    let value = base64(object.text(&["Value"])?)?;
    let mut op = KvTxnV1 {
        verb: KvVerbV1::Get,
        key: Bytes::copy_from_slice(object.text(&["Key"])?.as_bytes()),
        value: value.into(),
        flags: object.u64(&["Flags"])?,
        index: LogIndex(object.u64(&["Index"])?),
        session: object.text(&["Session"])?.into(),
    };
    object.ignore(&["Namespace", "Partition"]);
    object.finish()?;
    // Consul looks at the key before the verb.
    if op.key.is_empty() && verb != "delete-tree" {
        let write = KvVerbV1::parse(verb).is_some_and(KvVerbV1::is_write);
        return Ok(wrong(write, "Must provide key"));
    }
    let Some(verb) = KvVerbV1::parse(verb) else {
        return Ok(wrong(false, &format!("unknown KV operation: {verb}")));
    };
    op.verb = verb;
    Ok(TxnOp::Do(TxnOpV1::Kv(op)))
}

/// A verb of the catalog, or what to answer in its place.
fn catalog_verb(
    object: &mut Object<'_>,
    what: &str,
) -> Result<Result<CatalogVerbV1, TxnOp>, InputError> {
    let word = object.text(&["Verb"])?;
    let unknown = || wrong(true, &format!("unknown {what} operation: {word}"));
    Ok(CatalogVerbV1::parse(word).ok_or_else(unknown))
}

/// The index that `cas` compares stands in the object itself.
fn modify_index(value: &Value) -> Result<LogIndex, InputError> {
    Object::new(value, "TxnOp")?.u64(&["ModifyIndex"]).map(LogIndex)
}

fn node(value: &Value) -> Result<TxnOp, InputError> {
    let mut object = Object::new(value, "NodeTxnOp")?;
    let verb = catalog_verb(&mut object, "node")?;
    let value = object.take(&["Node"]).unwrap_or(&Value::Null);
    object.finish()?;
    let mut object = Object::new(value, "Node")?;
    let id = object.text(&["ID"])?;
    let mut row = NodeV1 {
        name: object.text(&["Node"])?.into(),
        id: None,
        address: object.text(&["Address"])?.into(),
        tagged_addresses: names(object.text_map(&["TaggedAddresses"])?),
        meta: names(object.text_map(&["Meta"])?),
        locality: locality(object.take(&["Locality"]))?,
        create_index: LogIndex::ZERO,
        modify_index: modify_index(value)?,
    };
    object.ignore(&["Datacenter", "Partition", "PeerName", "CreateIndex", "ModifyIndex"]);
    object.finish()?;
    let verb = match verb {
        Ok(verb) => verb,
        Err(wrong) => return Ok(wrong),
    };
    if !id.is_empty() {
        match id.parse() {
            Ok(id) => row.id = Some(id),
            Err(error) => {
                let write = verb != CatalogVerbV1::Get;
                return Ok(wrong(write, &format!("Bad node ID: {error}")));
            }
        }
    }
    Ok(TxnOp::Do(TxnOpV1::Node(verb, row)))
}

fn service(value: &Value) -> Result<TxnOp, InputError> {
    let mut object = Object::new(value, "ServiceTxnOp")?;
    let verb = catalog_verb(&mut object, "service")?;
    let node = object.text(&["Node"])?;
    let value = object.take(&["Service"]).unwrap_or(&Value::Null);
    object.finish()?;
    let mut row = read_service(value, node)?;
    row.modify_index = modify_index(value)?;
    Ok(verb.map_or_else(|wrong| wrong, |verb| TxnOp::Do(TxnOpV1::Service(verb, row))))
}

fn check(value: &Value) -> Result<TxnOp, InputError> {
    let mut object = Object::new(value, "CheckTxnOp")?;
    let verb = catalog_verb(&mut object, "check")?;
    let value = object.take(&["Check"]).unwrap_or(&Value::Null);
    object.finish()?;
    let row = read_check(value, "");
    let index = modify_index(value)?;
    let verb = match verb {
        Ok(verb) => verb,
        Err(wrong) => return Ok(wrong),
    };
    match row {
        Ok(mut row) => {
            row.modify_index = index;
            Ok(TxnOp::Do(TxnOpV1::Check(verb, row)))
        }
        Err(RegistrationError::Decode(error)) => Err(error),
        Err(RegistrationError::Invalid(text)) => Ok(wrong(verb != CatalogVerbV1::Get, &text)),
    }
}

/// The answer: its results, or its errors.
pub fn answer(outcome: &TxnOutcomeV1, dc: &str) -> Vec<u8> {
    let mut json = Json::default();
    json.object(|fields| match outcome {
        Ok(results) => {
            fields.name("Results").array(results, |json, row| {
                json.object(|fields| result(fields, row, dc));
            });
            fields.name("Errors").null();
        }
        Err(errors) => {
            fields.name("Results").null();
            fields.name("Errors").array(errors, |json, error| {
                json.object(|fields| {
                    fields.number("OpIndex", error.op_index);
                    fields.text("What", &error.what);
                });
            });
        }
    });
    json.into_bytes()
}

fn result(fields: &mut Fields<'_>, row: &TxnResultV1, dc: &str) {
    match row {
        TxnResultV1::Kv(row) => kv::entry(fields.name("KV"), row),
        TxnResultV1::Node(row) => catalog::node(fields.name("Node"), row, dc),
        TxnResultV1::Service(row) => catalog::service(fields.name("Service"), row),
        TxnResultV1::Check(row) => catalog::check(fields.name("Check"), row),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_gos_base64() {
        for (text, bytes) in [
            ("", Ok(&b""[..])),
            ("eA==", Ok(b"x")),
            ("eHk=", Ok(b"xy")),
            ("eHl6", Ok(b"xyz")),
            ("eH\nl6", Ok(b"xyz")),
            ("/+8=", Ok(b"\xff\xef")),
            ("eA", Err(2)),
            ("eA=", Err(3)),
            ("e===", Err(1)),
            ("eA==eA==", Err(4)),
            ("e!==", Err(1)),
        ] {
            let wanted = bytes.map(<[u8]>::to_vec).map_err(illegal);
            assert_eq!(base64(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn operations_are_read_and_wrong_ones_travel_on() {
        let body = json!([
            {"KV": {"Verb": "cas", "Key": "a", "Value": "eA==", "Flags": 7, "Index": 5}},
            {},
            {"kv": {"verb": "what", "key": "a"}},
            {"KV": {"Verb": "set", "Key": ""}},
            {"Node": {"Verb": "set", "Node": {"ID": "x", "Node": "n"}}},
            {"Check": {"Verb": "get", "Check": {"Node": "n", "CheckID": "c", "Status": "odd"}}},
            {"Service": {"Verb": "cas", "Node": "n", "Service": {"Service": "web", "ModifyIndex": 9}}},
        ]);
        let ops = operations(&body).expect("readable");
        assert_eq!(ops.len(), 6, "the empty object is skipped");
        let TxnOp::Do(TxnOpV1::Kv(op)) = &ops[0] else { panic!("{:?}", ops[0]) };
        assert_eq!(
            (op.verb, &*op.value, op.flags, op.index),
            (KvVerbV1::Cas, &b"x"[..], 7, LogIndex(5))
        );
        assert_eq!(ops[1], wrong(false, "unknown KV operation: what"));
        assert_eq!(ops[2], wrong(true, "Must provide key"));
        assert!(matches!(&ops[3], TxnOp::Wrong(true, text) if text.starts_with("Bad node ID: ")));
        assert!(
            matches!(&ops[4], TxnOp::Wrong(false, text) if text.starts_with("Invalid check status"))
        );
        let TxnOp::Do(TxnOpV1::Service(CatalogVerbV1::Cas, row)) = &ops[5] else {
            panic!("{:?}", ops[5])
        };
        assert_eq!((&*row.node, &*row.name, row.modify_index), ("n", "web", LogIndex(9)));
        for (body, text) in [
            (json!([{"Session": {}}]), "json: unknown field \"Session\""),
            (json!([{"KV": {"Key": "a", "Odd": 1}}]), "json: unknown field \"Odd\""),
            (json!([{"KV": {"Key": "a", "Value": "!"}}]), "illegal base64 data at input byte 0"),
        ] {
            assert_eq!(operations(&body).expect_err("refused").to_string(), text);
        }
    }
}

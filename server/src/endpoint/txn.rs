//! Transactions: what is wrong before anything is done (spec: http-api-2 §4.4). All failures are
//! gathered, those of permission too.

use model::Name;
use model::rpc::{RpcError, TxnOp};
use model::txn::{CatalogVerbV1, KvTxnV1, KvVerbV1, OPERATIONS_MAX, TxnErrorV1, TxnOpV1};

use super::key::KEY_BYTES_MAX;
use super::{Authorizer, Need, register, rejected};

/// Fills in defaults and gathers what is wrong. `Err`: the request as a whole is refused.
pub(super) fn check(
    ops: &mut [TxnOp],
    authorizer: &dyn Authorizer,
    token: &str,
    value_bytes_max: usize,
) -> Result<Vec<TxnErrorV1>, RpcError> {
    if ops.len() > OPERATIONS_MAX {
        return Err(rejected(format!(
            "Transaction contains too many operations ({} > {OPERATIONS_MAX})",
            ops.len()
        )));
    }
    let mut errors = Vec::new();
    for (index, op) in ops.iter_mut().enumerate() {
        let checked = match op {
            TxnOp::Wrong(_, what) => Err(rejected(&**what)),
            TxnOp::Do(op) => check_one(op, value_bytes_max).and_then(|()| match need(op) {
                Some(need) => authorizer.authorize(token, &need),
                None => Ok(()),
            }),
        };
        match checked {
            Ok(()) => {}
            Err(RpcError::AclNotFound) => return Err(RpcError::AclNotFound),
            Err(error) => {
                let op_index = u32::try_from(index).unwrap_or(u32::MAX);
                errors.push(TxnErrorV1 { op_index, what: error.to_string() });
            }
        }
    }
    Ok(errors)
}

/// The operations, if all of them can be done.
pub(super) fn known(ops: &[TxnOp]) -> Option<Vec<TxnOpV1>> {
    let known = |op: &TxnOp| match op {
        TxnOp::Do(op) => Some(op.clone()),
        TxnOp::Wrong(..) => None,
    };
    ops.iter().map(known).collect()
}

fn check_one(op: &mut TxnOpV1, value_bytes_max: usize) -> Result<(), RpcError> {
    match op {
        TxnOpV1::Kv(op) => check_key(op, value_bytes_max),
        TxnOpV1::Node(CatalogVerbV1::Get, _) => Ok(()),
        TxnOpV1::Node(_, row) if row.name.is_empty() => Err(rejected("Must provide node")),
        TxnOpV1::Node(..) => Ok(()),
        TxnOpV1::Service(verb, row) => {
            if row.id.is_empty() {
                row.id = Name::clone(&row.name);
            }
            if matches!(verb, CatalogVerbV1::Set | CatalogVerbV1::Cas) {
                let node = Name::clone(&row.node);
                *row = register::check_service(row, &node)?;
            }
            Ok(())
        }
        TxnOpV1::Check(verb, row) => {
            if row.id.is_empty() {
                row.id = Name::clone(&row.name);
            }
            // It would be a check that nobody meant.
            if row.id.is_empty() && matches!(verb, CatalogVerbV1::Set | CatalogVerbV1::Cas) {
                return Err(rejected("failed inserting check: object missing primary index"));
            }
            Ok(())
        }
    }
}

fn check_key(op: &KvTxnV1, value_bytes_max: usize) -> Result<(), RpcError> {
    if op.key.is_empty() && op.verb != KvVerbV1::DeleteTree {
        return Err(rejected("Must provide key"));
    }
    if op.key.len() > KEY_BYTES_MAX {
        return Err(rejected(format!("key of {} bytes exceeds {KEY_BYTES_MAX}", op.key.len())));
    }
    if op.value.len() > value_bytes_max {
        let text = format!("value of {} bytes exceeds {value_bytes_max}", op.value.len());
        return Err(rejected(text));
    }
    Ok(())
}

/// `None`: what the token may not see is left out of the answer.
fn need(op: &TxnOpV1) -> Option<Need> {
    match op {
        TxnOpV1::Kv(op) => {
            let key = op.key.clone();
            match op.verb {
                KvVerbV1::Get | KvVerbV1::GetOrEmpty | KvVerbV1::GetTree => None,
                KvVerbV1::CheckIndex | KvVerbV1::CheckSession => Some(Need::KeyRead(key)),
                KvVerbV1::DeleteTree => Some(Need::KeyWritePrefix(key)),
                _ => Some(Need::KeyWrite(key)),
            }
        }
        TxnOpV1::Node(CatalogVerbV1::Get, _)
        | TxnOpV1::Service(CatalogVerbV1::Get, _)
        | TxnOpV1::Check(CatalogVerbV1::Get, _) => None,
        TxnOpV1::Node(_, row) => Some(Need::NodeWrite(row.name.clone())),
        TxnOpV1::Service(CatalogVerbV1::Set | CatalogVerbV1::Cas, row) => {
            Some(Need::ServiceWrite(row.name.clone()))
        }
        // By its id: what it is called stands in the catalog, not in the request.
        TxnOpV1::Service(_, row) => {
            Some(Need::Deregistration { node: row.node.clone(), service: Some(row.id.clone()) })
        }
        TxnOpV1::Check(_, row) if row.service_id.is_empty() => {
            Some(Need::NodeWrite(row.node.clone()))
        }
        TxnOpV1::Check(_, row) => Some(Need::Deregistration {
            node: row.node.clone(),
            service: Some(row.service_id.clone()),
        }),
    }
}

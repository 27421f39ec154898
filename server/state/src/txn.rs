//! Operations of transactions that only read: on a published state, and within a transaction that
//! writes.

use std::sync::Arc;

use bytes::Bytes;
use model::duration::quote;
use model::row::{KvV1, NodeV1};
use model::rpc::TxnOp;
use model::txn::{
    CatalogVerbV1, KvTxnV1, KvVerbV1, TxnErrorV1, TxnOpV1, TxnOutcomeV1, TxnResultV1,
};

use crate::fold::fold;
use crate::state::Space;

/// What one operation yields, or Consul's text.
pub(crate) type Found = Result<Vec<TxnResultV1>, String>;

/// Bytes of keys and values that a transaction may read. Ours: an answer must fit in a frame, and
/// that of a transaction that writes is kept for its retry.
const READ_BYTES_MAX: usize = 8 << 20;

/// Gathers results until an error comes; from then on errors alone.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    results: Vec<TxnResultV1>,
    errors: Vec<TxnErrorV1>,
    bytes: usize,
}

impl Gathered {
    pub(crate) fn add(&mut self, op_index: usize, found: Found) {
        let op_index = u32::try_from(op_index).unwrap_or(u32::MAX);
        let more = match found {
            Ok(more) => more,
            Err(what) => return self.errors.push(TxnErrorV1 { op_index, what }),
        };
        for result in &more {
            if let TxnResultV1::Kv(row) = result {
                self.bytes = self.bytes.saturating_add(row.key.len() + row.value.len());
            }
        }
        if self.bytes > READ_BYTES_MAX {
            let what = format!("transaction reads more than {READ_BYTES_MAX} bytes");
            self.results = Vec::new();
            return self.errors.push(TxnErrorV1 { op_index, what });
        }
        self.results.extend(more);
    }

    pub(crate) fn finish(self) -> TxnOutcomeV1 {
        if self.errors.is_empty() { Ok(self.results) } else { Err(self.errors) }
    }
}

/// A transaction without writes.
pub(crate) fn read(space: &Space, ops: &[TxnOp]) -> TxnOutcomeV1 {
    let mut gathered = Gathered::default();
    for (index, op) in ops.iter().enumerate() {
        let found = match op {
            TxnOp::Do(op) => read_one(space, op).unwrap_or_else(|| Ok(Vec::new())),
            TxnOp::Wrong(_, what) => Err(what.to_string()),
        };
        gathered.add(index, found);
    }
    gathered.finish()
}

/// One operation; `None`: it writes.
pub(crate) fn read_one(space: &Space, op: &TxnOpV1) -> Option<Found> {
    match op {
        TxnOpV1::Kv(op) => kv(space, op),
        TxnOpV1::Node(CatalogVerbV1::Get, wanted) => Some(match node(space, wanted) {
            Some(row) => Ok(vec![TxnResultV1::Node(Arc::clone(row))]),
            None => Err(format!("node {} doesn't exist", quote(&wanted.name))),
        }),
        TxnOpV1::Service(CatalogVerbV1::Get, wanted) => {
            let found = space.services.get(&fold(&wanted.node), &fold(&wanted.id));
            Some(match found {
                Some(row) => Ok(vec![TxnResultV1::Service(Arc::clone(row))]),
                None => Err(missing("service", &wanted.id, &wanted.node)),
            })
        }
        TxnOpV1::Check(CatalogVerbV1::Get, wanted) => {
            let found = space.checks.get(&fold(&wanted.node), &fold(&wanted.id));
            Some(match found {
                Some(row) => Ok(vec![TxnResultV1::Check(Arc::clone(row))]),
                None => Err(missing("check", &wanted.id, &wanted.node)),
            })
        }
        TxnOpV1::Node(..) | TxnOpV1::Service(..) | TxnOpV1::Check(..) => None,
    }
}

fn missing(what: &str, id: &str, node: &str) -> String {
    format!("{what} {} on node {} doesn't exist", quote(id), quote(node))
}

/// A node by its id if it is given, else by name.
pub(crate) fn node<'a>(space: &'a Space, wanted: &NodeV1) -> Option<&'a Arc<NodeV1>> {
    match &wanted.id {
        Some(id) => space.nodes.by_id(id),
        None => space.nodes.get(&fold(&wanted.name)),
    }
}

/// A key as Go quotes it.
pub(crate) fn quoted(key: &Bytes) -> String {
    quote(&String::from_utf8_lossy(key))
}

/// A row without its value.
pub(crate) fn bare(row: &KvV1) -> TxnResultV1 {
    TxnResultV1::Kv(Arc::new(KvV1 { value: Bytes::new(), ..row.clone() }))
}

fn kv(space: &Space, op: &KvTxnV1) -> Option<Found> {
    let row = space.kv.get(&op.key);
    let key = || quoted(&op.key);
    Some(match (op.verb, row) {
        (KvVerbV1::Get | KvVerbV1::GetOrEmpty, Some(row)) => {
            Ok(vec![TxnResultV1::Kv(Arc::clone(row))])
        }
        (KvVerbV1::Get, None) => Err(format!("key {} doesn't exist", key())),
        (KvVerbV1::GetOrEmpty, None) => Ok(vec![echo(op)]),
        (KvVerbV1::GetTree, _) => {
            Ok(space.kv.under(&op.key).cloned().map(TxnResultV1::Kv).collect())
        }
        (KvVerbV1::CheckIndex, None) => {
            Err(format!("failed to check index, key {} doesn't exist", key()))
        }
        (KvVerbV1::CheckIndex, Some(row)) if row.modify_index == op.index => Ok(vec![bare(row)]),
        (KvVerbV1::CheckIndex, Some(row)) => Err(format!(
            "failed index check for key {}, current modify index {} != {}",
            key(),
            row.modify_index,
            op.index
        )),
        (KvVerbV1::CheckSession, None) => {
            Err(format!("failed to check session, key {} doesn't exist", key()))
        }
        (KvVerbV1::CheckSession, Some(row)) => {
            let holder = row.session.map_or(String::new(), |id| id.to_string());
            if holder == *op.session {
                Ok(vec![bare(row)])
            } else {
                Err(format!(
                    "failed session check for key {}, current session {} != {}",
                    key(),
                    quote(&holder),
                    quote(&op.session)
                ))
            }
        }
        (KvVerbV1::CheckNotExists, None) => Ok(Vec::new()),
        (KvVerbV1::CheckNotExists, Some(_)) => Err(format!("key {} exists", key())),
        _ => return None,
    })
}

/// What was asked for, where there is nothing.
fn echo(op: &KvTxnV1) -> TxnResultV1 {
    TxnResultV1::Kv(Arc::new(KvV1 {
        key: op.key.clone(),
        value: Bytes::new(),
        flags: op.flags,
        lock_index: 0,
        session: op.session.parse().ok(),
        version: 0,
        lease: None,
        create_index: model::LogIndex::ZERO,
        modify_index: model::LogIndex::ZERO,
    }))
}

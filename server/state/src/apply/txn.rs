//! Transactions: every operation sees what those before it did; one error undoes them all.

use std::sync::Arc;

use model::SessionId;
use model::command::{KvPutV1, Outcome, RegisterV1, Rejection};
use model::duration::quote;
use model::row::{CheckV1, NodeV1, ServiceV1};
use model::txn::{CatalogVerbV1, KvTxnV1, KvVerbV1, TxnOpV1, TxnResultV1};

use super::Work;
use crate::fold::fold;
use crate::txn::{Found, Gathered, bare, node, quoted, read_one};

impl Work<'_> {
    pub(super) fn transaction(&mut self, ops: &[TxnOpV1]) -> Outcome {
        if let Err(errors) = self.lock_delays_of(ops).finish() {
            return Outcome::Txn(Err(errors));
        }
        // A clone shares everything with the original.
        let before = self.space.clone();
        let mut gathered = Gathered::default();
        // After an error too: the client learns of all that is wrong.
        for (index, op) in ops.iter().enumerate() {
            let found = match read_one(self.space, op) {
                Some(found) => found,
                None => self.operate(op),
            };
            gathered.add(index, found);
        }
        let done = gathered.finish();
        if done.is_err() {
            *self.space = before;
            self.changes.clear();
        }
        Outcome::Txn(done)
    }

    /// Consul looks at lock-delays before it does anything, and then at nothing else.
    fn lock_delays_of(&self, ops: &[TxnOpV1]) -> Gathered {
        let mut gathered = Gathered::default();
        for (index, op) in ops.iter().enumerate() {
            if let TxnOpV1::Kv(op) = op
                && op.verb == KvVerbV1::Lock
                && self.space.lock_delays.active(&op.key, self.now_ms)
            {
                let key = quoted(&op.key);
                gathered.add(index, Err(format!("failed to lock key {key} due to lock delay")));
            }
        }
        gathered
    }

    fn operate(&mut self, op: &TxnOpV1) -> Found {
        match op {
            TxnOpV1::Kv(op) => self.write_key(op),
            TxnOpV1::Node(verb, row) => self.write_node(*verb, row),
            TxnOpV1::Service(verb, row) => self.write_service(*verb, row),
            TxnOpV1::Check(verb, row) => self.write_check(*verb, row),
        }
    }

    fn write_key(&mut self, op: &KvTxnV1) -> Found {
        let put = || KvPutV1 { key: op.key.clone(), value: op.value.clone(), flags: op.flags };
        let key = || quoted(&op.key);
        match op.verb {
            KvVerbV1::Set => self.set(&put()),
            KvVerbV1::Cas => {
                if !self.cas(&put(), op.index) {
                    return Err(format!("failed to set key {}, index is stale", key()));
                }
            }
            KvVerbV1::Lock => {
                let invalid = || format!("invalid session {}", quote(&op.session));
                let held = self.take(&put(), session(op)?.ok_or_else(invalid)?);
                if !held.map_err(|_| invalid())? {
                    return Err(format!("failed to lock key {}, lock is already held", key()));
                }
            }
            KvVerbV1::Unlock => {
                let session = session(op)?;
                if !session.is_some_and(|session| self.unlock(&put(), session)) {
                    return Err(format!(
                        "failed to unlock key {}, lock isn't held, or is held by another session",
                        key()
                    ));
                }
            }
            KvVerbV1::Delete => self.delete_key(&op.key),
            KvVerbV1::DeleteCas => {
                if !self.delete_cas(&op.key, op.index) {
                    return Err(format!("failed to delete key {}, index is stale", key()));
                }
            }
            KvVerbV1::DeleteTree => {
                self.delete_tree(&op.key);
                return Ok(Vec::new());
            }
            // Reads, which have been answered.
            KvVerbV1::Get
            | KvVerbV1::GetOrEmpty
            | KvVerbV1::GetTree
            | KvVerbV1::CheckIndex
            | KvVerbV1::CheckSession
            | KvVerbV1::CheckNotExists => {}
        }
        Ok(self.space.kv.get(&op.key).map(|row| bare(row)).into_iter().collect())
    }

    fn write_node(&mut self, verb: CatalogVerbV1, row: &NodeV1) -> Found {
        let old = node(self.space, row).cloned();
        let name = quote(&row.name);
        match verb {
            CatalogVerbV1::Cas
                if stale(old.as_ref().map(|old| old.modify_index), row.modify_index) =>
            {
                Err(format!("failed to set node {name}, index is stale"))
            }
            CatalogVerbV1::DeleteCas
                if old.as_ref().is_none_or(|old| old.modify_index != row.modify_index) =>
            {
                Err(format!("failed to delete node {name}, index is stale"))
            }
            CatalogVerbV1::Delete | CatalogVerbV1::DeleteCas => {
                if let Some(old) = old {
                    self.remove_node(&fold(&old.name));
                }
                Ok(Vec::new())
            }
            CatalogVerbV1::Get | CatalogVerbV1::Set | CatalogVerbV1::Cas => {
                let request = RegisterV1 {
                    node: row.clone(),
                    skip_node_update: false,
                    services: Vec::new(),
                    checks: Vec::new(),
                };
                self.register(&request).map_err(|rejection| match rejection {
                    Rejection::Node(text) => text,
                    other => other.to_string(),
                })?;
                let row = self.space.nodes.get(&fold(&row.name));
                Ok(row.map(|row| TxnResultV1::Node(Arc::clone(row))).into_iter().collect())
            }
        }
    }

    fn write_service(&mut self, verb: CatalogVerbV1, row: &ServiceV1) -> Found {
        let (node, id) = (fold(&row.node), fold(&row.id));
        let old = self.space.services.get(&node, &id).map(|old| old.modify_index);
        let place = || format!("service {} on node {}", quote(&row.id), quote(&row.node));
        match verb {
            CatalogVerbV1::Cas if stale(old, row.modify_index) => {
                Err(format!("failed to set {}, index is stale", place()))
            }
            CatalogVerbV1::DeleteCas if old != Some(row.modify_index) => {
                Err(format!("failed to delete {}, index is stale", place()))
            }
            CatalogVerbV1::Delete | CatalogVerbV1::DeleteCas => {
                self.remove_service(&node, &id);
                Ok(Vec::new())
            }
            CatalogVerbV1::Get | CatalogVerbV1::Set | CatalogVerbV1::Cas => {
                let Some(on) = self.space.nodes.get(&node).map(|on| on.name.clone()) else {
                    return Err("Missing node registration".into());
                };
                self.register_service(&on, row);
                let row = self.space.services.get(&node, &id);
                Ok(row.map(|row| TxnResultV1::Service(Arc::clone(row))).into_iter().collect())
            }
        }
    }

    fn write_check(&mut self, verb: CatalogVerbV1, row: &CheckV1) -> Found {
        let (node, id) = (fold(&row.node), fold(&row.id));
        let old = self.space.checks.get(&node, &id).map(|old| old.modify_index);
        let place = || format!("check {} on node {}", quote(&row.id), quote(&row.node));
        match verb {
            CatalogVerbV1::Cas if stale(old, row.modify_index) => {
                Err(format!("failed to set {}, index is stale", place()))
            }
            CatalogVerbV1::DeleteCas if old != Some(row.modify_index) => {
                Err(format!("failed to delete {}, index is stale", place()))
            }
            CatalogVerbV1::Delete | CatalogVerbV1::DeleteCas => {
                self.remove_check(&node, &id);
                Ok(Vec::new())
            }
            CatalogVerbV1::Get | CatalogVerbV1::Set | CatalogVerbV1::Cas => {
                let Some(on) = self.space.nodes.get(&node).map(|on| on.name.clone()) else {
                    return Err("Missing node registration".into());
                };
                let service = fold(&row.service_id);
                if !service.is_empty() && self.space.services.get(&node, &service).is_none() {
                    return Err("Missing service registration".into());
                }
                self.register_check(&on, row);
                let row = self.space.checks.get(&node, &id);
                Ok(row.map(|row| TxnResultV1::Check(Arc::clone(row))).into_iter().collect())
            }
        }
    }
}

/// Whether a `cas` must fail: 0 stands for an object that does not exist.
fn stale(old: Option<model::LogIndex>, wanted: model::LogIndex) -> bool {
    match old {
        None => wanted != model::LogIndex::ZERO,
        Some(old) => wanted == model::LogIndex::ZERO || old != wanted,
    }
}

/// The session of an operation; `None`: a text that no session has.
fn session(op: &KvTxnV1) -> Result<Option<SessionId>, String> {
    if op.session.is_empty() {
        return Err("missing session".into());
    }
    Ok(op.session.parse().ok())
}

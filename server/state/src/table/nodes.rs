//! Nodes: by name, and by id.

use std::sync::Arc;

use imbl::OrdMap;
use model::row::NodeV1;
use model::{Name, NodeId};

use crate::fold::fold;

/// Rows by lower-case name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nodes {
    rows: OrdMap<Name, Arc<NodeV1>>,
    by_id: OrdMap<NodeId, Name>,
}

impl Nodes {
    /// By lower-case name.
    pub(crate) fn get(&self, key: &str) -> Option<&Arc<NodeV1>> {
        self.rows.get(key)
    }

    pub(crate) fn by_id(&self, id: &NodeId) -> Option<&Arc<NodeV1>> {
        self.rows.get(self.by_id.get(id)?)
    }

    /// The one node whose id starts with these hexadecimal digits (dashes do not count), of which
    /// there must be at least two; `None` when there is no such node or more than one.
    pub(crate) fn by_id_prefix(&self, text: &str) -> Option<&Arc<NodeV1>> {
        let mut low = [0_u8; 16];
        let mut digits = 0_usize;
        for c in text.chars().filter(|c| *c != '-') {
            let digit = u8::try_from(c.to_digit(16)?).ok()?;
            let byte = low.get_mut(digits / 2)?;
            *byte |= if digits.is_multiple_of(2) { digit << 4 } else { digit };
            digits += 1;
        }
        if digits < 2 {
            return None;
        }
        let mut high = low;
        for digit in digits..32 {
            high[digit / 2] |= if digit.is_multiple_of(2) { 0xf0 } else { 0x0f };
        }
        let mut found = self.by_id.range(NodeId(low)..=NodeId(high));
        match (found.next(), found.next()) {
            (Some((_, name)), None) => self.rows.get(name),
            _ => None,
        }
    }

    pub(crate) fn put(&mut self, row: Arc<NodeV1>) -> Option<Arc<NodeV1>> {
        let key = fold(&row.name);
        let before = self.rows.insert(Name::clone(&key), Arc::clone(&row));
        if let Some(id) = before.as_ref().and_then(|before| before.id) {
            self.by_id.remove(&id);
        }
        if let Some(id) = row.id {
            self.by_id.insert(id, key);
        }
        before
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Arc<NodeV1>> {
        let row = self.rows.remove(key)?;
        if let Some(id) = row.id {
            self.by_id.remove(&id);
        }
        Some(row)
    }

    /// In order of lower-case names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Name, &Arc<NodeV1>)> {
        self.rows.iter()
    }

    /// All rows, cheaply detached.
    pub(crate) fn rows(&self) -> OrdMap<Name, Arc<NodeV1>> {
        self.rows.clone()
    }

    pub(crate) fn verify(&self) -> Result<(), String> {
        let with_id = self.rows.values().filter(|row| row.id.is_some()).count();
        if with_id != self.by_id.len() {
            return Err(format!("{with_id} nodes have ids, {} are indexed", self.by_id.len()));
        }
        for (key, row) in self.iter() {
            if *key != fold(&row.name) {
                return Err(format!("node {} is kept under {key}", row.name));
            }
            if row.id.is_some_and(|id| self.by_id.get(&id) != Some(key)) {
                return Err(format!("node {key} is not found by its id"));
            }
        }
        Ok(())
    }
}

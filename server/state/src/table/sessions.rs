//! Sessions: by id, by node, and by the checks they depend on.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use model::row::SessionV1;
use model::{Name, SessionId};

use crate::fold::{empty, fold};

const FIRST: SessionId = SessionId([0; 16]);

/// Rows by id.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sessions {
    rows: OrdMap<SessionId, Arc<SessionV1>>,
    by_node: OrdSet<(Name, SessionId)>,
    /// Node, check id, session.
    by_check: OrdSet<(Name, Name, SessionId)>,
    /// Those that expire: id and time to live in milliseconds.
    with_ttl: OrdMap<SessionId, u64>,
}

impl Sessions {
    pub(crate) fn get(&self, id: SessionId) -> Option<&Arc<SessionV1>> {
        self.rows.get(&id)
    }

    /// Sessions of a node, by id.
    pub(crate) fn on_node<'a>(
        &'a self,
        node: &'a Name,
    ) -> impl Iterator<Item = &'a Arc<SessionV1>> + 'a {
        self.by_node
            .range((Name::clone(node), FIRST)..)
            .take_while(move |(at, _)| at == node)
            .filter_map(|(_, id)| self.rows.get(id))
    }

    /// Sessions that depend on a check, by id.
    pub(crate) fn on_check<'a>(
        &'a self,
        node: &'a Name,
        check: &'a Name,
    ) -> impl Iterator<Item = SessionId> + 'a {
        self.by_check
            .range((Name::clone(node), Name::clone(check), FIRST)..)
            .take_while(move |(at, id, _)| at == node && id == check)
            .map(|(_, _, session)| *session)
    }

    pub(crate) fn with_ttl(&self) -> impl Iterator<Item = (SessionId, u64)> {
        self.with_ttl.iter().map(|(id, ttl_ms)| (*id, *ttl_ms))
    }

    pub(crate) fn put(&mut self, row: Arc<SessionV1>) {
        self.remove(row.id);
        let node = fold(&row.node);
        for check in row.check_ids() {
            self.by_check.insert((Name::clone(&node), fold(check), row.id));
        }
        self.by_node.insert((node, row.id));
        if row.ttl_ms > 0 {
            self.with_ttl.insert(row.id, row.ttl_ms);
        }
        self.rows.insert(row.id, row);
    }

    pub(crate) fn remove(&mut self, id: SessionId) -> Option<Arc<SessionV1>> {
        let row = self.rows.remove(&id)?;
        let node = fold(&row.node);
        for check in row.check_ids() {
            self.by_check.remove(&(Name::clone(&node), fold(check), id));
        }
        self.by_node.remove(&(node, id));
        self.with_ttl.remove(&id);
        Some(row)
    }

    /// By id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<SessionV1>> {
        self.rows.values()
    }

    /// All rows, cheaply detached.
    pub(crate) fn rows(&self) -> OrdMap<SessionId, Arc<SessionV1>> {
        self.rows.clone()
    }

    pub(crate) fn verify(&self) -> Result<(), String> {
        let mut rebuilt = Self::default();
        for row in self.iter() {
            rebuilt.put(Arc::clone(row));
        }
        if rebuilt.by_node != self.by_node
            || rebuilt.by_check != self.by_check
            || rebuilt.with_ttl != self.with_ttl
        {
            return Err("indexes of sessions do not follow from their rows".into());
        }
        let least = (empty(), FIRST);
        if self.by_node.range(..least).next().is_some() {
            return Err("a session sorts before the first".into());
        }
        Ok(())
    }
}

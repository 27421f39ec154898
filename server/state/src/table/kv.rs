//! Keys and values: in byte order, and by the session that holds them.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};
use model::SessionId;
use model::row::KvV1;

/// Rows by key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kv {
    rows: OrdMap<Bytes, Arc<KvV1>>,
    held: OrdSet<(SessionId, Bytes)>,
}

impl Kv {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Arc<KvV1>> {
        self.rows.get(key)
    }

    /// Rows whose key starts with the prefix, in byte order.
    pub(crate) fn under<'a>(
        &'a self,
        prefix: &'a [u8],
    ) -> impl Iterator<Item = &'a Arc<KvV1>> + 'a {
        self.rows
            .range::<_, [u8]>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(_, row)| row)
    }

    /// Keys that a session holds, in byte order.
    pub(crate) fn held_by(&self, session: SessionId) -> impl Iterator<Item = &Bytes> {
        self.held
            .range((session, Bytes::new())..)
            .take_while(move |(holder, _)| *holder == session)
            .map(|(_, key)| key)
    }

    pub(crate) fn put(&mut self, row: Arc<KvV1>) -> Option<Arc<KvV1>> {
        let (key, session) = (row.key.clone(), row.session);
        let before = self.rows.insert(key.clone(), row);
        let held_by = before.as_ref().and_then(|before| before.session);
        if held_by != session {
            if let Some(old) = held_by {
                self.held.remove(&(old, key.clone()));
            }
            if let Some(new) = session {
                self.held.insert((new, key));
            }
        }
        before
    }

    pub(crate) fn remove(&mut self, key: &Bytes) -> Option<Arc<KvV1>> {
        let row = self.rows.remove(key)?;
        if let Some(session) = row.session {
            self.held.remove(&(session, key.clone()));
        }
        Some(row)
    }

    /// In byte order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Arc<KvV1>)> {
        self.rows.iter()
    }

    /// All rows, cheaply detached.
    pub(crate) fn rows(&self) -> OrdMap<Bytes, Arc<KvV1>> {
        self.rows.clone()
    }

    pub(crate) fn verify(&self) -> Result<(), String> {
        let mut held = OrdSet::new();
        for (key, row) in self.iter() {
            if *key != row.key {
                return Err(format!("key {:?} is kept under {key:?}", row.key));
            }
            if let Some(session) = row.session {
                held.insert((session, key.clone()));
            }
        }
        if held != self.held {
            return Err("index of held keys does not follow from the keys".into());
        }
        Ok(())
    }
}

//! Keys and values. How each field moves: Consul api-docs/kv, and the table in `kv_tests`.

use std::sync::Arc;

use bytes::Bytes;
use model::command::{KvCommandV1, KvPutV1, Outcome, Rejection};
use model::row::KvV1;
use model::{LogIndex, SessionId};

use super::Work;
use crate::change::{Key, Row, Table};

impl Work<'_> {
    pub(super) fn kv(&mut self, command: &KvCommandV1) -> Result<Outcome, Rejection> {
        let held = match command {
            KvCommandV1::Set(put) => {
                named(&put.key)?;
                self.set(put);
                true
            }
            KvCommandV1::Cas(put, index) => {
                named(&put.key)?;
                self.cas(put, *index)
            }
            KvCommandV1::Lock(put, session) => {
                named(&put.key)?;
                self.lock(put, *session)?
            }
            KvCommandV1::Unlock(put, session) => {
                named(&put.key)?;
                self.unlock(put, *session)
            }
            KvCommandV1::Delete(key) => {
                named(key)?;
                self.delete_key(key);
                true
            }
            KvCommandV1::DeleteCas(key, index) => {
                named(key)?;
                self.delete_cas(key, *index)
            }
            KvCommandV1::DeleteTree(prefix) => {
                self.delete_tree(prefix);
                true
            }
        };
        Ok(Outcome::Bool(held))
    }

    pub(super) fn set(&mut self, put: &KvPutV1) {
        // A plain write keeps the holder but not the count of acquisitions: Consul stores the
        // request's zero.
        let session = self.space.kv.get(&put.key).and_then(|row| row.session);
        self.write(put, 0, session);
    }

    pub(super) fn cas(&mut self, put: &KvPutV1, index: LogIndex) -> bool {
        let held = match self.space.kv.get(&put.key) {
            None => index == LogIndex::ZERO,
            Some(row) => index != LogIndex::ZERO && row.modify_index == index,
        };
        if held {
            self.set(put);
        }
        held
    }

    pub(super) fn lock(&mut self, put: &KvPutV1, session: SessionId) -> Result<bool, Rejection> {
        if self.space.lock_delays.active(&put.key, self.now_ms) {
            return Ok(false);
        }
        self.take(put, session)
    }

    /// Locks whatever the lock-delay says.
    pub(super) fn take(&mut self, put: &KvPutV1, session: SessionId) -> Result<bool, Rejection> {
        if self.space.sessions.get(session).is_none() {
            return Err(Rejection::InvalidSession(session.to_string()));
        }
        let lock_index = match self.space.kv.get(&put.key) {
            None => 1,
            Some(row) => match row.session {
                None => row.lock_index.saturating_add(1),
                Some(holder) if holder == session => row.lock_index,
                Some(_) => return Ok(false),
            },
        };
        self.write(put, lock_index, Some(session));
        Ok(true)
    }

    pub(super) fn unlock(&mut self, put: &KvPutV1, session: SessionId) -> bool {
        match self.space.kv.get(&put.key) {
            Some(row) if row.session == Some(session) => {
                let lock_index = row.lock_index;
                self.write(put, lock_index, None);
                true
            }
            _ => false,
        }
    }

    /// Stores the row; nothing at all when it would be the same.
    fn write(&mut self, put: &KvPutV1, lock_index: u64, session: Option<SessionId>) {
        let old = self.space.kv.get(&put.key);
        if let Some(old) = old
            && old.lock_index == lock_index
            && old.flags == put.flags
            && old.session == session
            && old.value == put.value
        {
            return;
        }
        // Copied out: what a client sent may be a slice of a much larger buffer.
        let key = old.map_or_else(|| Bytes::copy_from_slice(&put.key), |old| old.key.clone());
        let row = KvV1 {
            key,
            value: Bytes::copy_from_slice(&put.value),
            flags: put.flags,
            lock_index,
            session,
            version: old.map_or(1, |old| old.version.saturating_add(1)),
            lease: old.and_then(|old| old.lease),
            create_index: old.map_or(self.index, |old| old.create_index),
            modify_index: self.index,
        };
        self.put_key(row);
    }

    fn put_key(&mut self, row: KvV1) {
        let row = Arc::new(row);
        let before = self.space.kv.put(Arc::clone(&row)).map(Row::Kv);
        self.raise(Table::Kv);
        self.changed(Table::Kv, Key::Kv(row.key.clone()), before, Some(Row::Kv(row)), None);
    }

    /// Clears the holder when its session ends; all else stays.
    pub(super) fn release_key(&mut self, key: &Bytes) {
        if let Some(old) = self.space.kv.get(key) {
            let mut row = KvV1::clone(old);
            row.session = None;
            row.version = row.version.saturating_add(1);
            row.modify_index = self.index;
            self.put_key(row);
        }
    }

    pub(super) fn delete_key(&mut self, key: &Bytes) {
        if self.remove_key(key) {
            self.bury(Bytes::copy_from_slice(key));
        }
    }

    pub(super) fn delete_cas(&mut self, key: &Bytes, index: LogIndex) -> bool {
        match self.space.kv.get(key) {
            None => true,
            Some(row) if row.modify_index == index => {
                self.delete_key(key);
                true
            }
            Some(_) => false,
        }
    }

    pub(super) fn delete_tree(&mut self, prefix: &Bytes) {
        let keys: Vec<Bytes> = self.space.kv.under(prefix).map(|row| row.key.clone()).collect();
        for key in &keys {
            self.remove_key(key);
        }
        // One tombstone for the prefix stands for all.
        if !keys.is_empty() {
            self.bury(Bytes::copy_from_slice(prefix));
        }
    }

    fn remove_key(&mut self, key: &Bytes) -> bool {
        let Some(row) = self.space.kv.remove(key) else { return false };
        self.raise(Table::Kv);
        self.changed(Table::Kv, Key::Kv(row.key.clone()), Some(Row::Kv(row)), None, None);
        true
    }

    fn bury(&mut self, key: Bytes) {
        self.space.tombstones.put(key, self.index);
        self.raise(Table::Tombstones);
    }
}

fn named(key: &Bytes) -> Result<(), Rejection> {
    if key.is_empty() { Err(Rejection::Other("Missing key name".into())) } else { Ok(()) }
}

//! Reads of keys. Consul api-docs/kv; the index of a list also counts tombstones below its prefix.

use std::sync::Arc;

use bytes::Bytes;
use model::LogIndex;
use model::rpc::Body;

use super::Answered;
use crate::change::Table;
use crate::state::Space;

const TABLES: [Table; 2] = [Table::Kv, Table::Tombstones];

pub(super) fn get(space: &Space, key: &Bytes) -> Answered {
    match space.kv.get(key) {
        Some(row) => {
            let index = row.modify_index.max(space.indexes.floor);
            Answered::new(index, Body::KvEntry(Some(Arc::clone(row))))
        }
        None => Answered {
            missing: true,
            ..Answered::new(space.indexes.max(&TABLES), Body::KvEntry(None))
        },
    }
}

pub(super) fn list(space: &Space, prefix: &Bytes) -> Answered {
    let rows: Vec<_> = space.kv.under(prefix).cloned().collect();
    let newest = rows.iter().map(|row| row.modify_index).max();
    Answered::new(index(space, prefix, newest), Body::KvEntries(rows))
}

pub(super) fn keys(space: &Space, prefix: &Bytes, separator: &Bytes) -> Answered {
    let mut newest = None;
    let mut keys: Vec<Bytes> = Vec::new();
    for row in space.kv.under(prefix) {
        newest = newest.max(Some(row.modify_index));
        let key = fold_key(&row.key, prefix.len(), separator);
        // Equal folded keys follow each other, since they share all bytes up to the separator.
        if keys.last() != Some(&key) {
            keys.push(key);
        }
    }
    Answered::new(index(space, prefix, newest), Body::Keys(keys))
}

/// The key up to and with the first separator after the prefix.
fn fold_key(key: &Bytes, prefix_len: usize, separator: &[u8]) -> Bytes {
    let rest = key.get(prefix_len..).unwrap_or_default();
    if separator.is_empty() {
        return key.clone();
    }
    match rest.windows(separator.len()).position(|part| part == separator) {
        Some(at) => key.slice(..prefix_len + at + separator.len()),
        None => key.clone(),
    }
}

fn index(space: &Space, prefix: &[u8], newest: Option<LogIndex>) -> LogIndex {
    if prefix.is_empty() {
        return space.indexes.max(&TABLES);
    }
    let buried = space.tombstones.max_under(prefix);
    match (newest, buried) {
        (None, LogIndex::ZERO) => space.indexes.max(&TABLES),
        // The keys may have gone with a shorter prefix, later than the tombstones below this one.
        // Consul overlooks this, and its watchers sleep on.
        (None, buried) => buried.max(space.tombstones.max_above(prefix)),
        (Some(newest), buried) => newest.max(buried).max(space.indexes.floor),
    }
}

//! Equal names share one allocation.
//!
//! The pool is beside the data, not part of it: which allocation a name has is invisible to
//! replication, so the pool may forget at any time and is shared by all clones of a state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use model::Name;
use model::row::{CheckV1, NameMap, NodeV1, ServiceV1, SessionV1};

/// Longer names are rarely equal to others; keeping them would only cost.
const NAME_BYTES_MAX: usize = 128;
/// Names below which the pool is never swept.
const SWEEP_MIN: usize = 4_096;

/// Pool of names in use.
#[derive(Default)]
pub(crate) struct Interner(Mutex<Pool>);

#[derive(Default)]
struct Pool {
    names: BTreeSet<Name>,
    sweep_at: usize,
}

impl fmt::Debug for Interner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Interner")
    }
}

impl Interner {
    /// Makes the name share the allocation of an equal one.
    pub(crate) fn name(&self, name: &mut Name) {
        if name.len() > NAME_BYTES_MAX {
            return;
        }
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = pool.names.get(&**name) {
            *name = Name::clone(known);
            return;
        }
        if pool.names.len() >= pool.sweep_at.max(SWEEP_MIN) {
            // Only the pool holds it: nobody uses it. Sweeping at twice the survivors keeps the
            // cost per name constant.
            pool.names.retain(|name| Arc::strong_count(name) > 1);
            pool.sweep_at = pool.names.len().saturating_mul(2);
        }
        pool.names.insert(Name::clone(name));
    }

    fn map(&self, map: &mut NameMap) {
        *map = std::mem::take(map)
            .into_iter()
            .map(|(mut key, mut value)| {
                self.name(&mut key);
                self.name(&mut value);
                (key, value)
            })
            .collect();
    }

    pub(crate) fn node(&self, row: &mut NodeV1) {
        self.name(&mut row.name);
        self.name(&mut row.address);
        row.meta.iter_mut().for_each(|map| self.map(map));
        row.tagged_addresses.iter_mut().for_each(|map| self.map(map));
    }

    pub(crate) fn service(&self, row: &mut ServiceV1) {
        for name in [
            &mut row.node,
            &mut row.id,
            &mut row.name,
            &mut row.kind,
            &mut row.address,
            &mut row.socket_path,
        ] {
            self.name(name);
        }
        row.tags.iter_mut().for_each(|tag| self.name(tag));
        row.meta.iter_mut().for_each(|map| self.map(map));
        row.tagged_addresses = std::mem::take(&mut row.tagged_addresses)
            .into_iter()
            .map(|(mut tag, mut address)| {
                self.name(&mut tag);
                self.name(&mut address.address);
                (tag, address)
            })
            .collect::<BTreeMap<_, _>>();
    }

    pub(crate) fn check(&self, row: &mut CheckV1) {
        for name in [
            &mut row.node,
            &mut row.id,
            &mut row.name,
            &mut row.notes,
            // Most checks say one of a few things.
            &mut row.output,
            &mut row.service_id,
            &mut row.service_name,
            &mut row.kind,
            &mut row.interval,
            &mut row.timeout,
        ] {
            self.name(name);
        }
        row.service_tags.iter_mut().for_each(|tag| self.name(tag));
    }

    pub(crate) fn session(&self, row: &mut SessionV1) {
        for name in [&mut row.name, &mut row.node, &mut row.ttl] {
            self.name(name);
        }
        row.checks.iter_mut().for_each(|id| self.name(id));
        row.node_checks.iter_mut().flatten().for_each(|id| self.name(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_share_and_unused_ones_are_forgotten() {
        let pool = Interner::default();
        let (mut a, mut b): (Name, Name) = ("web".into(), "web".into());
        pool.name(&mut a);
        pool.name(&mut b);
        assert!(Arc::ptr_eq(&a, &b));
        for i in 0..10 * SWEEP_MIN {
            pool.name(&mut i.to_string().into());
        }
        let held = pool.0.lock().expect("not poisoned").names.len();
        assert!(held <= SWEEP_MIN, "{held} names held, none in use");
    }
}

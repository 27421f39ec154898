//! The member table: what we hold everybody for, and the snapshot that the process sees.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::NodeId;
use model::seam::{Member, MemberState, Members};

use super::identity::{Id, mix, words};
use super::record::{Intent, Record};

/// Members that are gone: this many besides a tenth of all are remembered.
const TOMBSTONES_MIN: usize = 1_000;

/// One node.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Its latest run.
    pub(super) id: Id,
    /// What it is held for.
    pub(super) state: MemberState,
    /// foca holds it active.
    pub(super) live: bool,
    /// Since when it is in this state.
    pub(super) since: Duration,
    /// The last intent for it.
    pub(super) intent: Option<Intent>,
    record: Option<Arc<Record>>,
    shown: Option<Arc<Member>>,
}

impl Entry {
    pub(super) fn new(id: Id, state: MemberState, live: bool, since: Duration) -> Self {
        Self { id, state, live, since, intent: None, record: None, shown: None }
    }

    pub(super) fn record(&self) -> Option<&Arc<Record>> {
        self.record.as_ref()
    }

    pub(super) fn version(&self) -> u64 {
        self.record.as_ref().map_or(0, |record| record.version)
    }

    fn hash(&self) -> u64 {
        let [high, low] = words(&self.id.node);
        mix(&[high, low, self.id.generation, self.version()])
    }

    /// Whether an intent says that this run leaves.
    pub(super) fn leaves(&self) -> bool {
        self.intent.is_some_and(|intent| intent.generation >= self.id.generation)
    }

    /// Better shown than another of the same name: present before gone, then the older run (it had
    /// the name first) among those present, the later change among those gone.
    fn outranks(&self, other: &Entry) -> bool {
        match (self.live, other.live) {
            (true, true) => self.id.generation < other.id.generation,
            (false, false) => self.since > other.since,
            (live, _) => live,
        }
    }
}

/// Digest of a live set: equal when the sets are, whatever the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Digest {
    /// Members in it.
    pub(super) live: u32,
    /// XOR of the hashes of (node, generation, record version).
    pub(super) hash: u64,
}

/// See the module. Invariant: the digest is that of the live entries; so entries change only
/// through [`Table::update`].
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<NodeId, Entry>,
    digest: Digest,
    gone: usize,
    dirty: bool,
    published: Arc<Members>,
}

impl Table {
    pub(super) fn get(&self, node: &NodeId) -> Option<&Entry> {
        self.entries.get(node)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeId, &Entry)> {
        self.entries.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    /// How many are in this state.
    pub(super) fn count(&self, state: MemberState) -> usize {
        self.entries.values().filter(|entry| entry.state == state).count()
    }

    /// An entry by the name that it is shown under.
    pub(super) fn by_name(&self, name: &str) -> Option<&Entry> {
        self.published.by_name(name).and_then(|member| self.entries.get(&member.id))
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        self.remove(&entry.id.node);
        self.account(&entry);
        self.entries.insert(entry.id.node, entry);
        self.dirty = true;
    }

    pub(super) fn remove(&mut self, node: &NodeId) -> bool {
        let Some(entry) = self.entries.remove(node) else {
            return false;
        };
        self.discount(&entry);
        self.dirty = true;
        true
    }

    /// Changes an entry, if there is one.
    pub(super) fn update<T>(
        &mut self,
        node: &NodeId,
        change: impl FnOnce(&mut Entry) -> T,
    ) -> Option<T> {
        let mut entry = self.entries.remove(node)?;
        self.discount(&entry);
        let result = change(&mut entry);
        entry.shown = None;
        self.account(&entry);
        self.entries.insert(*node, entry);
        self.dirty = true;
        Some(result)
    }

    /// Takes a record if it is newer than ours.
    pub(super) fn set_record(&mut self, record: Record) -> bool {
        let newer = self
            .entries
            .get(&record.node)
            .is_some_and(|entry| entry.record.is_none() || entry.version() < record.version);
        if newer {
            let node = record.node;
            self.update(&node, |entry| entry.record = Some(Arc::new(record)));
        }
        newer
    }

    fn account(&mut self, entry: &Entry) {
        if entry.live {
            self.digest.live += 1;
            self.digest.hash ^= entry.hash();
        } else {
            self.gone += 1;
        }
    }

    fn discount(&mut self, entry: &Entry) {
        if entry.live {
            self.digest.live -= 1;
            self.digest.hash ^= entry.hash();
        } else {
            self.gone -= 1;
        }
    }

    /// Members that are gone for longer than their limit, and the oldest of too many.
    pub(super) fn expired(&self, now: Duration, failed: Duration, left: Duration) -> Vec<Id> {
        let limit = TOMBSTONES_MIN + (self.entries.len() - self.gone) / 10;
        let mut gone: Vec<_> = self.entries.values().filter(|entry| !entry.live).collect();
        gone.sort_by_key(|entry| entry.since);
        let surplus = gone.len().saturating_sub(limit);
        let due = |entry: &Entry| {
            let keep = if entry.state == MemberState::Left { left } else { failed };
            now.saturating_sub(entry.since) >= keep
        };
        gone.iter()
            .enumerate()
            .filter(|(i, entry)| *i < surplus || due(entry))
            .map(|(_, entry)| entry.id)
            .collect()
    }

    /// The snapshot, if anything that it shows has changed since the last call.
    pub(super) fn publish(&mut self) -> Option<Arc<Members>> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        let mut by_name: BTreeMap<String, &mut Entry> = BTreeMap::new();
        for entry in self.entries.values_mut() {
            let Some(record) = &entry.record else {
                continue; // its name comes with the record, soon
            };
            match by_name.entry(record.name.to_lowercase()) {
                std::collections::btree_map::Entry::Vacant(vacant) => {
                    vacant.insert(entry);
                }
                std::collections::btree_map::Entry::Occupied(mut held) => {
                    if entry.live && held.get().live {
                        tracing::warn!(
                            name = %record.name, one = %entry.id.node, other = %held.get().id.node,
                            "two live nodes have the same name"
                        );
                    }
                    if entry.outranks(held.get()) {
                        held.insert(entry);
                    }
                }
            }
        }
        let mut list: Vec<_> = by_name.into_values().filter_map(Entry::show).collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        if list == self.published.list {
            return None;
        }
        self.published = Arc::new(Members { sequence: self.published.sequence + 1, list });
        Some(Arc::clone(&self.published))
    }
}

impl Entry {
    fn show(&mut self) -> Option<Arc<Member>> {
        let record = self.record.as_ref()?;
        let member = self.shown.get_or_insert_with(|| {
            Arc::new(Member {
                id: self.id.node,
                name: Arc::clone(&record.name),
                address: self.id.addr,
                tags: record.tags.clone(),
                state: self.state,
            })
        });
        Some(Arc::clone(member))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(node: u8, generation: u64, live: bool, since: u64) -> Entry {
        let id = Id::new(NodeId([node; 16]), "10.0.0.1:1".parse().expect("address"), generation);
        let state = if live { MemberState::Alive } else { MemberState::Failed };
        Entry::new(id, state, live, Duration::from_secs(since))
    }

    fn record(node: u8, version: u64, name: &str) -> Record {
        Record { node: NodeId([node; 16]), version, name: name.into(), tags: BTreeMap::new() }
    }

    #[test]
    fn the_digest_depends_on_the_live_set_alone() {
        let (mut one, mut other) = (Table::default(), Table::default());
        for node in [1, 2, 3] {
            one.insert(entry(node, 5, true, 0));
            other.insert(entry(4 - node, 5, true, 9));
        }
        one.insert(entry(4, 1, false, 0));
        assert_eq!(one.digest(), other.digest());
        assert!(one.set_record(record(2, 7, "b")));
        assert_ne!(one.digest(), other.digest());
        assert!(other.set_record(record(2, 7, "b")) && !other.set_record(record(2, 7, "c")));
        assert_eq!(one.digest(), other.digest());
        one.update(&NodeId([3; 16]), |entry| entry.live = false);
        assert!(other.remove(&NodeId([3; 16])));
        assert_eq!(one.digest(), other.digest());
        assert_eq!(one.gone, 2);
    }

    #[test]
    fn a_name_is_shown_once_the_present_before_the_gone() {
        let mut table = Table::default();
        table.insert(entry(1, 5, false, 0));
        table.set_record(record(1, 1, "web"));
        let first = table.publish().expect("new");
        assert_eq!((first.sequence, first.list.len()), (1, 1));
        table.insert(entry(2, 9, true, 0));
        assert!(table.publish().is_none(), "a member without a name is not shown");
        table.set_record(record(2, 1, "WEB"));
        let second = table.publish().expect("new");
        assert_eq!(second.list.iter().map(|m| m.id).collect::<Vec<_>>(), [NodeId([2; 16])]);
        table.insert(entry(3, 4, true, 0));
        table.set_record(record(3, 1, "web"));
        let third = table.publish().expect("new");
        assert_eq!(third.list.iter().map(|m| m.id).collect::<Vec<_>>(), [NodeId([3; 16])]);
    }

    #[test]
    fn the_gone_expire_by_state_and_by_number() {
        let mut table = Table::default();
        let mut left = entry(1, 1, false, 0);
        left.state = MemberState::Left;
        table.insert(left);
        table.insert(entry(2, 1, false, 0));
        table.insert(entry(3, 1, true, 0));
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let expired = |table: &Table, now| -> Vec<_> {
            table.expired(now, hours(72), hours(24)).iter().map(|id| id.node.0[0]).collect()
        };
        assert!(expired(&table, hours(23)).is_empty());
        assert_eq!(expired(&table, hours(24)), [1]);
        assert_eq!(expired(&table, hours(72)).len(), 2);
        for i in 0..TOMBSTONES_MIN {
            let mut gone = entry(9, 1, false, 100 + i as u64);
            gone.id.node = NodeId((i as u128 + 1_000).to_be_bytes());
            table.insert(gone);
        }
        assert_eq!(table.expired(hours(1), hours(72), hours(24)).len(), 2, "the oldest go");
    }
}

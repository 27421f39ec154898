//! purged <= snapshot <= applied <= committed <= last. The five are read from rooms that tell each
//! other a moment later, so only a disorder that stays counts.

use std::collections::BTreeMap;

use super::{Sight, index};

/// How long a disorder may last, in microseconds: the time of a slow commit and more.
const SETTLES_US: u64 = 3_000_000;

#[derive(Default)]
pub(super) struct Order(BTreeMap<(u8, u64), u64>);

impl Order {
    pub(super) fn see(&mut self, sight: &Sight) -> Result<(), String> {
        let look = &sight.look;
        let key = (sight.server, sight.start);
        let places = [look.purged, look.snapshot, look.applied, look.committed, look.last];
        let places = places.map(index);
        if places.is_sorted() {
            self.0.remove(&key);
            return Ok(());
        }
        let since = *self.0.entry(key).or_insert(sight.now_us);
        if sight.now_us - since < SETTLES_US {
            return Ok(());
        }
        let [purged, snapshot, applied, committed, last] = places;
        Err(format!(
            "server {}: purged {purged}, snapshot {snapshot}, applied {applied}, committed \
             {committed}, last {last} are out of order",
            sight.server
        ))
    }
}

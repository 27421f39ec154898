//! What a snapshot consists of. Never edited once released; only appended to.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use model::command::{Outcome, RestoreId};
use model::row::{AutopilotV1, CheckV1, KvV1, NodeV1, ServiceV1, SessionV1, TombstoneV1};
use model::{LogIndex, Name, NodeId};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::retries::weight;

/// Size at which a block is closed.
pub const BLOCK_BYTES_TARGET: usize = 1 << 20;
/// Largest block that is read: the target, and the largest row that an RPC frame can bring.
pub const BLOCK_BYTES_MAX: usize = BLOCK_BYTES_TARGET + (17 << 20);
/// What an item counts at least towards the size of its block.
const ITEM_BYTES_MIN: usize = 96;
/// Items in a block: as many as the smallest fill it with, and the end mark. Without this a block
/// of tiny items would unfold to many times its size.
const ITEMS_MAX: usize = BLOCK_BYTES_TARGET / ITEM_BYTES_MIN + 2;

/// One block.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BlockV1 {
    pub(crate) number: u64,
    #[serde(deserialize_with = "items")]
    pub(crate) items: Vec<ItemV1>,
}

fn items<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<ItemV1>, D::Error> {
    struct Items;
    impl<'de> Visitor<'de> for Items {
        type Value = Vec<ItemV1>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {ITEMS_MAX} items")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Vec<ItemV1>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = from.next_element()? {
                if items.len() >= ITEMS_MAX {
                    return Err(A::Error::invalid_length(items.len() + 1, &self));
                }
                items.push(item);
            }
            Ok(items)
        }
    }
    from.deserialize_seq(Items)
}

/// One item. [`ItemV1::rank`] is the order in the snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ItemV1 {
    Head(HeadV1),
    Origin(OriginV1),
    Namespace(Name),
    Indexes(IndexesV1),
    ServiceIndex(Name, LogIndex),
    ConnectIndex(Name, LogIndex),
    NodeIndex(Name, LogIndex),
    Node(Arc<NodeV1>),
    Service(Arc<ServiceV1>),
    Check(Arc<CheckV1>),
    Session(Arc<SessionV1>),
    Kv(Arc<KvV1>),
    Tombstone(TombstoneV1),
    LockDelay(LockDelayV1),
    End { items: u64 },
    StateVersion(u32),
    Autopilot(Arc<AutopilotV1>),
    Stage(StageV1),
    Piece(Bytes),
    Floor(LogIndex),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StageV1 {
    pub(crate) id: RestoreId,
    pub(crate) last_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HeadV1 {
    pub(crate) applied: LogIndex,
    pub(crate) cluster_time_ms: u64,
    pub(crate) epoch: u64,
    pub(crate) hash: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OriginV1 {
    pub(crate) id: NodeId,
    pub(crate) floor: u64,
    pub(crate) last_ms: u64,
    pub(crate) idle: bool,
    pub(crate) outcomes: Vec<(u64, Outcome)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct IndexesV1 {
    pub(crate) tables: [LogIndex; 6],
    pub(crate) service_extinction: LogIndex,
    pub(crate) node_extinction: LogIndex,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LockDelayV1 {
    pub(crate) key: Bytes,
    pub(crate) until_ms: u64,
}

impl ItemV1 {
    /// Place of its sort in the order of sorts.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            ItemV1::Head(_) => 0,
            ItemV1::Origin(_) => 1,
            ItemV1::Namespace(_) => 2,
            ItemV1::Indexes(_) => 3,
            ItemV1::ServiceIndex(..) => 4,
            ItemV1::ConnectIndex(..) => 5,
            ItemV1::NodeIndex(..) => 6,
            ItemV1::Node(_) => 7,
            ItemV1::Service(_) => 8,
            ItemV1::Check(_) => 9,
            ItemV1::Session(_) => 10,
            ItemV1::Kv(_) => 11,
            ItemV1::Tombstone(_) => 12,
            ItemV1::LockDelay(_) => 13,
            ItemV1::End { .. } => 14,
            // Behind the origins, before the namespaces.
            ItemV1::StateVersion(_) => 15,
            ItemV1::Autopilot(_) => 16,
            ItemV1::Stage(_) => 17,
            ItemV1::Piece(_) => 18,
            // Behind the indexes.
            ItemV1::Floor(_) => 19,
        }
    }

    /// What rows of its sort are called, as Consul's tools call them; `None`: it is no row.
    pub(crate) fn sort(&self) -> Option<&'static str> {
        match self {
            ItemV1::Node(_) => Some("Node"),
            ItemV1::Service(_) => Some("Service"),
            ItemV1::Check(_) => Some("Check"),
            ItemV1::Session(_) => Some("Session"),
            ItemV1::Kv(_) => Some("KVS"),
            ItemV1::Tombstone(_) => Some("Tombstone"),
            ItemV1::LockDelay(_) => Some("LockDelay"),
            ItemV1::Origin(_) => Some("RetryOrigin"),
            ItemV1::Autopilot(_) => Some("Autopilot"),
            ItemV1::ServiceIndex(..) | ItemV1::ConnectIndex(..) | ItemV1::NodeIndex(..) => {
                Some("Index")
            }
            ItemV1::Head(_)
            | ItemV1::Namespace(_)
            | ItemV1::Indexes(_)
            | ItemV1::End { .. }
            | ItemV1::StateVersion(_)
            | ItemV1::Stage(_)
            | ItemV1::Piece(_)
            | ItemV1::Floor(_) => None,
        }
    }

    /// Bytes of its encoding, roughly and rather too many.
    pub(crate) fn weight(&self) -> usize {
        const ROW: usize = ITEM_BYTES_MIN;
        let map = |map: &Option<model::row::NameMap>| {
            map.iter().flatten().map(|(key, value)| key.len() + value.len() + 4).sum::<usize>()
        };
        match self {
            ItemV1::Kv(row) => ROW + row.key.len() + row.value.len(),
            ItemV1::Tombstone(row) => ROW + row.key.len(),
            ItemV1::LockDelay(row) => ROW + row.key.len(),
            ItemV1::Node(row) => ROW + 128 + map(&row.meta) + map(&row.tagged_addresses),
            ItemV1::Service(row) => {
                let tags = row.tags.iter().map(|tag| tag.len() + 2).sum::<usize>();
                let proxy = row.proxy_json.as_ref().map_or(0, |text| text.len());
                ROW + 256 + tags + proxy + map(&row.meta) + 64 * row.tagged_addresses.len()
            }
            ItemV1::Check(row) => {
                let definition = row.definition_json.as_ref().map_or(0, |text| text.len());
                let texts = row.output.len() + row.notes.len() + row.name.len() + definition;
                ROW + 128 + texts + row.service_tags.iter().map(|tag| tag.len() + 2).sum::<usize>()
            }
            ItemV1::Session(row) => ROW + 128 + 64 * row.check_ids().count(),
            ItemV1::Origin(row) => {
                ROW + row.outcomes.iter().map(|(_, outcome)| weight(outcome)).sum::<usize>()
            }
            ItemV1::Piece(bytes) => ROW + bytes.len(),
            ItemV1::Autopilot(row) => {
                ROW + 64 + row.redundancy_zone_tag.len() + row.upgrade_version_tag.len()
            }
            _ => ROW,
        }
    }
}

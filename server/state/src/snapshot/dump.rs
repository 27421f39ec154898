//! State to blocks.

use std::sync::Arc;

use bytes::Bytes;
use model::row::TombstoneV1;
use model::wire::{self, Kind};
use model::{LogIndex, Name, NodeId};

use super::item::{
    BLOCK_BYTES_TARGET, BlockV1, HeadV1, IndexesV1, ItemV1, LockDelayV1, OriginV1, StageV1,
};
use crate::change::Table;
use crate::retries::Origin;
use crate::state::{Space, State};

/// Every key of all namespaces, with the bytes of its row, roughly.
pub fn keys(state: &State) -> Vec<(Bytes, u64)> {
    let rows = state.spaces.values().flat_map(|space| space.kv.rows());
    rows.map(|(_, row)| (row.key.clone(), ItemV1::Kv(row).weight() as u64)).collect()
}

/// The state as blocks of about 1 MiB, made one by one as they are asked for. The state may go on
/// changing meanwhile: what is dumped is the clone taken here.
pub fn dump(state: &State) -> impl Iterator<Item = Vec<u8>> + Send + 'static {
    let head = HeadV1 {
        applied: state.applied,
        cluster_time_ms: state.cluster_time_ms,
        epoch: state.epoch,
        hash: state.hash,
    };
    let version = (state.version > 0).then_some(ItemV1::StateVersion(state.version));
    let autopilot = state.autopilot.clone().map(ItemV1::Autopilot);
    let stage = state.stage.iter().flat_map(|stage| {
        let head = StageV1 { id: stage.id(), last_ms: stage.last_ms() };
        let pieces = stage.pieces().into_iter().map(ItemV1::Piece);
        std::iter::once(ItemV1::Stage(head)).chain(pieces)
    });
    let stage: Vec<ItemV1> = stage.collect();
    let items = std::iter::once(ItemV1::Head(head))
        .chain(state.retries.rows().into_iter().map(origin))
        .chain(version)
        .chain(autopilot)
        .chain(stage)
        .chain(state.spaces.clone().into_iter().flat_map(space));
    Blocks { items, number: 0, count: 0, ended: false }
}

fn origin((id, origin): (NodeId, Origin)) -> ItemV1 {
    ItemV1::Origin(OriginV1 {
        id,
        floor: origin.floor,
        last_ms: origin.last_ms,
        idle: origin.idle,
        outcomes: origin.outcomes.into_iter().collect(),
    })
}

fn space((name, space): (Name, Arc<Space>)) -> impl Iterator<Item = ItemV1> + Send + 'static {
    let indexes = IndexesV1 {
        tables: Table::ALL.map(|table| space.indexes.table(table)),
        service_extinction: space.indexes.service_extinction,
        node_extinction: space.indexes.node_extinction,
    };
    let services = space.indexes.services().clone().into_iter();
    let connects = space.indexes.connects().clone().into_iter();
    let nodes = space.indexes.nodes().clone().into_iter();
    let floor = Some(space.indexes.floor).filter(|floor| *floor > LogIndex::ZERO);
    [ItemV1::Namespace(name), ItemV1::Indexes(indexes)]
        .into_iter()
        .chain(floor.map(ItemV1::Floor))
        .chain(services.map(|(name, index)| ItemV1::ServiceIndex(name, index)))
        .chain(connects.map(|(name, index)| ItemV1::ConnectIndex(name, index)))
        .chain(nodes.map(|(name, index)| ItemV1::NodeIndex(name, index)))
        .chain(space.nodes.rows().into_iter().map(|(_, row)| ItemV1::Node(row)))
        .chain(space.services.rows().into_iter().map(|(_, row)| ItemV1::Service(row)))
        .chain(space.checks.rows().into_iter().map(|(_, row)| ItemV1::Check(row)))
        .chain(space.sessions.rows().into_iter().map(|(_, row)| ItemV1::Session(row)))
        .chain(space.kv.rows().into_iter().map(|(_, row)| ItemV1::Kv(row)))
        .chain(
            space
                .tombstones
                .rows()
                .into_iter()
                .map(|(key, index)| ItemV1::Tombstone(TombstoneV1 { key, index })),
        )
        .chain(
            space
                .lock_delays
                .rows()
                .into_iter()
                .map(|(key, until_ms)| ItemV1::LockDelay(LockDelayV1 { key, until_ms })),
        )
}

/// Packs items into blocks and ends with their count.
struct Blocks<I> {
    items: I,
    number: u64,
    count: u64,
    ended: bool,
}

impl<I: Iterator<Item = ItemV1>> Iterator for Blocks<I> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.ended {
            return None;
        }
        let mut items = Vec::new();
        let mut bytes = 0_usize;
        while bytes < BLOCK_BYTES_TARGET {
            let Some(item) = self.items.next() else {
                items.push(ItemV1::End { items: self.count });
                self.ended = true;
                break;
            };
            self.count += 1;
            bytes += item.weight();
            items.push(item);
        }
        let block = BlockV1 { number: self.number, items };
        self.number += 1;
        Some(wire::encode(Kind::SnapshotBlock, &block))
    }
}

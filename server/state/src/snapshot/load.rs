//! Blocks to state.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::wire::{self, Kind, WireError};
use model::{LogIndex, Name};

use super::item::{BLOCK_BYTES_MAX, BlockV1, IndexesV1, ItemV1, OriginV1, StageV1};
use crate::change::Table;
use crate::fold::fold;
use crate::indexes::Indexes;
use crate::retries::{Origin, weight};
use crate::stage::Stage;
use crate::state::{Space, State};

/// Why blocks are not a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes are no block.
    #[error("block {number} of the snapshot is not readable")]
    Block {
        /// Number of the block that was expected.
        number: u64,
        /// Why.
        #[source]
        cause: WireError,
    },
    /// Blocks came in another order, or one is missing.
    #[error("block {found} of the snapshot came where block {expected} was expected")]
    Order {
        /// Number expected.
        expected: u64,
        /// Number in the block.
        found: u64,
    },
    /// An item contradicts those before it.
    #[error("block {number} of the snapshot is inconsistent: {what}")]
    Inconsistent {
        /// Number of the block.
        number: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The blocks end too early.
    #[error("the snapshot ends after {blocks} blocks, before its end mark")]
    Incomplete {
        /// Blocks read.
        blocks: u64,
    },
}

/// A decoded block. Decoding on one thread and adding on another loads faster than one alone.
#[derive(Debug)]
pub struct Block(BlockV1);

impl Block {
    /// Decodes the block with this number.
    pub fn decode(number: u64, bytes: &[u8]) -> Result<Self, SnapshotError> {
        let block: BlockV1 = wire::decode(Kind::SnapshotBlock, bytes, BLOCK_BYTES_MAX)
            .map_err(|cause| SnapshotError::Block { number, cause })?;
        if block.number != number {
            return Err(SnapshotError::Order { expected: number, found: block.number });
        }
        Ok(Self(block))
    }
}

/// Puts a state together from the blocks of [`super::dump()`], in order.
#[derive(Debug, Default)]
pub struct Loader {
    state: State,
    space: Space,
    namespace: Option<Name>,
    /// Rank of the last item; nothing was read while `None`.
    rank: Option<u8>,
    number: u64,
    count: u64,
    ended: bool,
    /// What has a higher index gets this one.
    cap: Option<LogIndex>,
    /// Number and bytes of the items of each sort.
    census: BTreeMap<&'static str, (u64, u64)>,
}

const OUT_OF_ORDER: &str = "items out of order";
const TWICE: &str = "a row occurs twice";
const NO_NODE: &str = "a row names a node that does not exist";

impl Loader {
    /// Nothing loaded yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing loaded yet; what has an index above `cap` will get this one. For states of another
    /// log.
    pub(crate) fn capped(cap: LogIndex) -> Self {
        Self { cap: Some(cap), ..Self::default() }
    }

    fn cap(&self, create: &mut LogIndex, modify: &mut LogIndex) {
        if let Some(cap) = self.cap {
            (*create, *modify) = ((*create).min(cap), (*modify).min(cap));
        }
    }

    /// Decodes and adds the next block. After an error the loader is of no more use.
    pub fn push(&mut self, block: &[u8]) -> Result<(), SnapshotError> {
        self.add(Block::decode(self.number, block)?)
    }

    /// Adds the next block. After an error the loader is of no more use.
    pub fn add(&mut self, Block(block): Block) -> Result<(), SnapshotError> {
        let number = self.number;
        if block.number != number {
            return Err(SnapshotError::Order { expected: number, found: block.number });
        }
        for item in block.items {
            self.item(item).map_err(|what| SnapshotError::Inconsistent { number, what })?;
        }
        self.number += 1;
        Ok(())
    }

    /// Number and bytes, roughly, of the rows of each sort so far.
    pub fn census(&self) -> BTreeMap<&'static str, (u64, u64)> {
        self.census.clone()
    }

    /// The state, once all blocks were added.
    pub fn finish(mut self) -> Result<State, SnapshotError> {
        if !self.ended {
            return Err(SnapshotError::Incomplete { blocks: self.number });
        }
        self.close_space();
        Ok(self.state)
    }

    fn item(&mut self, item: ItemV1) -> Result<(), &'static str> {
        if self.ended {
            return Err("items after the end mark");
        }
        self.step(item.rank())?;
        if let Some(sort) = item.sort() {
            let (number, bytes) = self.census.entry(sort).or_default();
            *number += 1;
            *bytes = bytes.saturating_add(item.weight() as u64);
        }
        match item {
            ItemV1::End { items } => {
                if items != self.count {
                    return Err("the end mark counts other items than there are");
                }
                self.ended = true;
                return Ok(());
            }
            ItemV1::Head(head) => {
                self.state.applied = head.applied;
                self.state.cluster_time_ms = head.cluster_time_ms;
                self.state.epoch = head.epoch;
                self.state.hash = head.hash;
            }
            ItemV1::Origin(origin) => self.origin(origin)?,
            ItemV1::Namespace(mut name) => {
                self.close_space();
                if self.state.spaces.get_max().is_some_and(|(last, _)| *last >= name) {
                    return Err("namespaces out of order");
                }
                self.state.names.name(&mut name);
                self.namespace = Some(name);
            }
            ItemV1::Indexes(indexes) => self.indexes(&indexes)?,
            ItemV1::StateVersion(version) => self.state.version = version,
            ItemV1::Autopilot(row) => {
                if row.modify_index > self.state.applied {
                    return Err("an index is above the last entry applied");
                }
                self.state.autopilot = Some(row);
            }
            ItemV1::Stage(StageV1 { id, last_ms }) => {
                self.state.stage = Some(Stage::new(id, last_ms).into());
            }
            ItemV1::Piece(bytes) => {
                let stage = self.state.stage.as_mut().ok_or(OUT_OF_ORDER)?;
                Arc::make_mut(stage).push(bytes)?;
            }
            ItemV1::Floor(index) => {
                if index > self.state.applied {
                    return Err("an index is above the last entry applied");
                }
                self.space.indexes.floor = index;
            }
            row => self.row(row)?,
        }
        self.count += 1;
        Ok(())
    }

    /// Sorts of items only follow in their order; a namespace may come after any row of another.
    fn step(&mut self, rank: u8) -> Result<(), &'static str> {
        let allowed = match (self.rank, rank) {
            (None, rank) => rank == 0,
            (Some(last), 1) => last <= 1,
            (Some(last), 2) => last != 2,
            (Some(last), 3) => last == 2,
            (Some(last), 4..=13) => (last >= 3 && last <= rank) || last == 19,
            (Some(last), 14) => last != 2,
            (Some(last), 15) => last <= 1,
            (Some(last), 16) => last <= 1 || last == 15,
            (Some(last), 17) => last <= 1 || last == 15 || last == 16,
            (Some(last), 18) => last == 17 || last == 18,
            (Some(last), 19) => last == 3,
            (Some(_), _) => false,
        };
        self.rank = Some(rank);
        if allowed { Ok(()) } else { Err(OUT_OF_ORDER) }
    }

    fn close_space(&mut self) {
        if let Some(name) = self.namespace.take() {
            let space = std::mem::take(&mut self.space);
            self.state.spaces.insert(name, Arc::new(space));
        }
    }

    fn origin(&mut self, item: OriginV1) -> Result<(), &'static str> {
        let below = item.outcomes.iter().any(|(seq, _)| *seq < item.floor);
        if below || (item.idle && !item.outcomes.is_empty()) {
            return Err("an origin keeps outcomes that it should not");
        }
        let origin = Origin {
            floor: item.floor,
            last_ms: item.last_ms,
            bytes: item.outcomes.iter().map(|(_, outcome)| weight(outcome)).sum(),
            outcomes: item.outcomes.into_iter().collect(),
            idle: item.idle,
        };
        unique(self.state.retries.load(item.id, origin))
    }

    fn indexes(&mut self, item: &IndexesV1) -> Result<(), &'static str> {
        let indexes: &mut Indexes = &mut self.space.indexes;
        for (table, index) in Table::ALL.into_iter().zip(item.tables) {
            if index > self.state.applied {
                return Err("an index is above the last entry applied");
            }
            indexes.raise(table, index);
        }
        indexes.service_extinction = item.service_extinction;
        indexes.node_extinction = item.node_extinction;
        Ok(())
    }

    fn row(&mut self, item: ItemV1) -> Result<(), &'static str> {
        let names = Arc::clone(&self.state.names);
        let item = self.capped_row(item);
        let space = &mut self.space;
        // Just decoded, so these are the only owners and `make_mut` copies nothing.
        match item {
            ItemV1::ServiceIndex(mut name, index) => {
                names.name(&mut name);
                space.indexes.raise_service(&name, index);
                Ok(())
            }
            ItemV1::ConnectIndex(mut name, index) => {
                names.name(&mut name);
                space.indexes.raise_connect(&name, index);
                Ok(())
            }
            ItemV1::NodeIndex(mut name, index) => {
                names.name(&mut name);
                space.indexes.raise_node(&name, index);
                Ok(())
            }
            ItemV1::Node(mut row) => {
                names.node(Arc::make_mut(&mut row));
                if row.id.is_some_and(|id| space.nodes.by_id(&id).is_some()) {
                    return Err("two nodes have one id");
                }
                unique(space.nodes.put(row))
            }
            ItemV1::Service(mut row) => {
                names.service(Arc::make_mut(&mut row));
                on_node(space, &row.node)?;
                unique(space.services.put(row))
            }
            ItemV1::Check(mut row) => {
                names.check(Arc::make_mut(&mut row));
                on_node(space, &row.node)?;
                unique(space.checks.put(row))
            }
            ItemV1::Session(mut row) => {
                names.session(Arc::make_mut(&mut row));
                on_node(space, &row.node)?;
                unique(space.sessions.get(row.id).cloned())?;
                space.sessions.put(row);
                Ok(())
            }
            ItemV1::Kv(row) => {
                if row.session.is_some_and(|id| space.sessions.get(id).is_none()) {
                    return Err("a key is held by a session that does not exist");
                }
                unique(space.kv.put(row))
            }
            ItemV1::Tombstone(row) => unique(space.tombstones.put(row.key, row.index)),
            ItemV1::LockDelay(row) => unique(space.lock_delays.put(row.key, row.until_ms)),
            ItemV1::Head(_)
            | ItemV1::Origin(_)
            | ItemV1::Namespace(_)
            | ItemV1::Indexes(_)
            | ItemV1::StateVersion(_)
            | ItemV1::Autopilot(_)
            | ItemV1::Stage(_)
            | ItemV1::Piece(_)
            | ItemV1::Floor(_)
            | ItemV1::End { .. } => Err(OUT_OF_ORDER),
        }
    }
}

impl Loader {
    /// Just decoded, so this is the only owner and `make_mut` copies nothing.
    fn capped_row(&self, mut item: ItemV1) -> ItemV1 {
        if self.cap.is_none() {
            return item;
        }
        match &mut item {
            ItemV1::Node(row) => {
                let row = Arc::make_mut(row);
                self.cap(&mut row.create_index, &mut row.modify_index);
            }
            ItemV1::Service(row) => {
                let row = Arc::make_mut(row);
                self.cap(&mut row.create_index, &mut row.modify_index);
            }
            ItemV1::Check(row) => {
                let row = Arc::make_mut(row);
                self.cap(&mut row.create_index, &mut row.modify_index);
            }
            ItemV1::Session(row) => {
                let row = Arc::make_mut(row);
                self.cap(&mut row.create_index, &mut row.modify_index);
            }
            ItemV1::Kv(row) => {
                let row = Arc::make_mut(row);
                self.cap(&mut row.create_index, &mut row.modify_index);
            }
            _ => {}
        }
        item
    }
}

fn unique<T>(before: Option<T>) -> Result<(), &'static str> {
    if before.is_none() { Ok(()) } else { Err(TWICE) }
}

fn on_node(space: &Space, node: &Name) -> Result<(), &'static str> {
    if space.nodes.get(&fold(node)).is_some() { Ok(()) } else { Err(NO_NODE) }
}

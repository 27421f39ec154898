//! The state as sorted blocks, and back.
//!
//! The format is described in README.md beside this file. Files, checksums and the network are
//! the driver's.

mod dump;
mod item;
mod load;

pub use dump::{dump, keys};
pub use item::{BLOCK_BYTES_MAX, BLOCK_BYTES_TARGET};
pub use load::{Block, Loader, SnapshotError};

//! Typed tables on persistent ordered maps. Each keeps its secondary indexes in step with its rows;
//! none knows of log indexes, namespaces or another table.

mod checks;
mod kv;
mod lock_delays;
mod nodes;
mod services;
mod sessions;
mod tombstones;

pub(crate) use checks::Checks;
pub(crate) use kv::Kv;
pub(crate) use lock_delays::LockDelays;
pub(crate) use nodes::Nodes;
pub(crate) use services::{Services, connect_target};
pub(crate) use sessions::Sessions;
pub(crate) use tombstones::Tombstones;

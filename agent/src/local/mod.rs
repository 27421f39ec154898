//! What runs on this node, and how the catalog is kept equal to it.
//!
//! | module | what |
//! |---|---|
//! | [`definition`] | definitions of services and checks as files and clients write them |
//! | `book` | services and checks of this node, and what of them the catalog lacks (core) |
//! | `plan` | book against catalog: what to push (core) |
//! | `timetable` | when to compare in full (core) |
//! | `store` | `local.redb`: definitions and TTL states that outlive the process |
//! | `sync` | the driver of anti-entropy |
//! | [`Local`] | the room's door: what endpoints, checks and reload use |

mod book;
pub mod definition;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod plan;
mod room;
mod store;
mod sync;
mod timetable;

pub use book::Source;
pub use error::LocalError;
pub use room::{Local, Paused, start};
pub use store::StoreError;

pub(crate) use book::CheckJob;

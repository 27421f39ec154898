//! Snapshots: a file format ([`mod@format`]) and the place where they are kept ([`Shelf`]).

mod format;
mod shelf;

#[cfg(test)]
mod tests;

pub(crate) use self::format::SnapshotError;
pub(crate) use self::shelf::{Incoming, Shelf, Stored};

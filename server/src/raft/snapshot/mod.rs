//! Snapshots: a file format ([`mod@format`]), the place where they are kept ([`Shelf`]), and the
//! archive for people ([`archive`]).

pub mod archive;
mod format;
mod incoming;
mod shelf;

#[cfg(test)]
mod tests;

pub(crate) use self::format::SnapshotError;
pub(crate) use self::incoming::{Announced, Incoming};
pub(crate) use self::shelf::{Readable, Shelf, Stored};

//! The state machine: tables, apply, changes, watch registry.
//!
//! What it is not: it reads no clock, file, socket or random source. Replicas fed one log are equal
//! byte for byte.

/// The state: typed tables with their indexes. A clone is cheap and is a snapshot.
#[derive(Debug, Clone, Default)]
pub struct State {}

/// Reads that wait, and what wakes them.
#[derive(Debug, Default)]
pub struct Registry {}

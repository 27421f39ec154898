//! `operator`: the servers' own cluster.

pub(super) mod autopilot;
pub(super) mod raft;

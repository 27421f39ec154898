//! The words of Muster: what is replicated and stored ([`row`], [`command`]), what agents and
//! servers say to each other ([`rpc`]), and the two seams between an agent, a server and gossip
//! ([`seam`]).
//!
//! What it is not: it opens no socket or file, reads no clock, knows no runtime. Everything here is
//! a value or a pure function, so that a simulation and a fuzzer can use all of it.
//!
//! | module | what |
//! |---|---|
//! | [`id`] | identifiers and indexes: [`NodeId`], [`SessionId`], [`LogIndex`], [`Name`] |
//! | [`row`] | rows of the tables: replicated, stored in snapshots, sent by servers |
//! | [`command`] | what the Raft log holds, and what applying it yields |
//! | [`txn`] | operations of a transaction, and what they yield |
//! | [`rpc`] | requests and replies between agents and servers |
//! | [`seam`] | the traits [`seam::Backend`] and [`seam::Cluster`] |
//! | [`wire`] | the one codec of rows, commands and RPC |
//! | [`duration`] | durations in Go's syntax, as every client writes them |
//! | [`api`] | Consul's JSON: written from rows, read into rows |
//! | [`date`] | wall-clock time as text |
//! | [`filter`] | the language of `filter=` |

pub mod api;
pub mod command;
pub mod date;
pub mod duration;
pub mod filter;
pub mod id;
pub mod row;
pub mod rpc;
pub mod seam;
pub mod txn;
pub mod wire;

pub use id::{LogIndex, Name, NodeId, SessionId};

/// The Consul release whose interface we speak; clients check it (design: "On purpose different").
pub const CONSUL_VERSION: &str = "1.21.4";

/// Release of this program.
pub const MUSTER_VERSION: &str = env!("CARGO_PKG_VERSION");

//! Flags, files and defaults become checked settings of agent and server, before any port is
//! bound.
//!
//! | module | what |
//! |---|---|
//! | [`keys`] | every setting that Consul knows, its type, and what we do with it |
//! | [`tree`] | settings from several sources, merged |
//! | [`sources`] | flags and files, in Consul's order |
//! | [`address`] | addresses, templates, detection |
//! | [`data_dir`] | the lock of the data directory and the node's identity |
//! | [`schedule`] | `snapshot_schedule` |
//! | [`mod@build`] | settings become `agent::Config` and `server::Config` |

mod address;
mod build;
pub(crate) mod data_dir;
mod keys;
mod schedule;
mod sources;
mod tree;

pub(crate) use build::{Machine, Settings, build, reloadable};
pub(crate) use sources::{flags, load};

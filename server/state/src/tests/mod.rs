//! Behaviour of the whole crate: tables of steps as a client would take them, and properties over
//! random commands.

mod catalog;
mod cluster;
mod fixture;
mod indexes;
mod kv;
mod naive;
mod properties;
mod random;
mod restore;
mod sessions;
mod snapshots;
mod txn;
mod wake;

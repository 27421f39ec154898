//! Consul's JSON: written from rows, read into rows and requests.
//!
//! Rows are written straight into a byte buffer: the hot answers have no tree in between. What is
//! `null`, `[]`, `{}` or left out is decided here and nowhere else (spec/http-api-1.md §5, §17.2).
//!
//! | module | what |
//! |---|---|
//! | [`json`] | writing JSON as Go's encoder does |
//! | [`input`] | reading JSON as Go's decoder does |
//! | [`catalog`] | nodes, services, instances, checks |
//! | [`kv`] | keys, sessions |
//! | [`metadata`] | what keys and values of metadata may be |
//! | [`peers`] | the file `peers.json` |
//! | [`proxy`] | the `Proxy` object of a service, normalised |
//! | [`definition`] | the `Definition` object of a check, normalised |
//! | [`registration`] | the bodies of `catalog/register` and `catalog/deregister` |
//! | [`txn`] | the body of `txn` and its answer |

pub mod catalog;
pub mod definition;
pub mod input;
pub mod json;
pub mod kv;
pub mod metadata;
pub mod peers;
pub mod proxy;
pub mod registration;
pub mod txn;

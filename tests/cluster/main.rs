//! Several real processes: forming a cluster, losing parts of it, starting again.

#[path = "../support/mod.rs"]
mod support;

mod form;
mod leave;
mod operator;
mod refuse;
mod snapshot;
mod survive;

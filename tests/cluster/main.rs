//! Several real processes: forming a cluster, losing parts of it, starting again.

#[path = "../support/mod.rs"]
mod support;

mod damage;
mod disk;
mod form;
mod leave;
mod refuse;
mod snapshot;
mod survive;

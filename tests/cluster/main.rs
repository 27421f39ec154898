//! Several real processes: forming a cluster, losing parts of it, starting again.

#[path = "../support/register.rs"]
mod register;
#[path = "../support/mod.rs"]
mod support;

mod archive;
mod damage;
mod data;
mod disk;
mod elections;
mod faults;
mod form;
mod handover;
mod leave;
mod operator;
mod reads;
mod refuse;
mod snapshot;
mod survive;

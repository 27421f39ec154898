//! Whole servers (Raft, endpoint, duties of the leader) in one thread on virtual time: network,
//! disks, gossip and clients are simulated, and all chance comes from one seed.
//!
//! What it is not: it knows nothing of sockets, HTTP or gossip's own protocol; the process tests
//! cover those. How to run it and to add a scenario: README.md.
//!
//! | module | what |
//! |---|---|
//! | [`run()`] | one run: start, faults, then all must be well again |
//! | `scenario` | what a run is like |
//! | `world` | the servers and what they stand on |
//! | `net`, `disk`, `gossip` | what they stand on |
//! | `nemesis` | who makes faults |
//! | `client`, `restorer`, `history` | who asks, and what was answered |
//! | `objects`, `linear` | what a single copy would have answered; whether an order exists |
//! | `invariants/` | what must hold at every moment, one rule per file |
//! | `trace` | what happened: equal bytes for equal seeds |

#[cfg(not(tokio_unstable))]
compile_error!("build crate sim in its own folder: scripts/sim, or (cd tests/sim && cargo test)");

mod client;
mod disk;
mod gossip;
mod history;
mod invariants;
mod linear;
mod nemesis;
mod net;
mod objects;
mod restorer;
mod run;
mod scenario;
mod trace;
mod world;

pub use history::Counts;
pub use run::{Report, run};
pub use scenario::{Faults, Scenario};
pub use server::planted::Bug;

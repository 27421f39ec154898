//! Many cores in one thread and virtual time, and a few real ones on loopback.

mod behaviour;
mod faults;
mod fuzz;
mod loopback;
mod sim;

//! The whole door over real sockets, with a backend that answers from a list.

mod autopilot;
mod families;
mod fixture;
mod frame;
mod limits;
mod snapshot;

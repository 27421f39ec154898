//! Whole servers' Raft in one process, on virtual time, over a transport that can be cut.

mod cluster;
mod equal;
mod hub;
mod identity;
mod recovery;
mod resume;
mod sockets;

//! Whole servers' Raft in one process, on virtual time, over a transport that can be cut.

mod cluster;
mod hub;
mod recovery;
mod sockets;

//! Real sockets on loopback, no sleeps: each test waits for a condition.

mod calls;
mod client;
mod fake;
mod handshake;
mod streams;

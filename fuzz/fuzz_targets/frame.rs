//! Bytes of an RPC connection behind its handshake.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| net::fuzz::frames(bytes));

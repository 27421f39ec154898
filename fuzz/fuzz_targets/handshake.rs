//! First bytes of an RPC connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| net::fuzz::handshake(bytes));

//! Blocks of a snapshot.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| server::fuzz::snapshot_blocks(bytes));

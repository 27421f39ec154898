//! A record of the Raft log file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| server::fuzz::log_record(bytes));

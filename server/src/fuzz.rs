//! Parsers of bytes from disks, for the targets in `fuzz/` and for tests; built for them alone.

/// A record of the log file, as it stands under an index.
pub fn log_record(bytes: &[u8]) {
    crate::raft::fuzz_log_record(bytes);
}

/// The blocks of a snapshot, one behind the other: each behind two bytes of length.
pub fn snapshot_blocks(bytes: &[u8]) {
    let mut loader = state::snapshot::Loader::new();
    let mut left = bytes;
    while let Some((length, rest)) = left.split_first_chunk::<2>() {
        let (block, later) = rest.split_at(rest.len().min(u16::from_le_bytes(*length).into()));
        if loader.push(block).is_err() {
            return;
        }
        left = later;
    }
    if let Ok(state) = loader.finish() {
        let mut again = state::snapshot::Loader::new();
        for block in state::snapshot::dump(&state) {
            again.push(&block).expect("what was loaded is dumped in order");
        }
    }
}

/// An archive of a state.
pub fn archive(bytes: &[u8]) {
    let _ = crate::raft::archive::inspect(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_of_a_disk_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            super::log_record(&bytes);
            super::snapshot_blocks(&bytes);
            super::archive(&bytes);
        }
    }
}

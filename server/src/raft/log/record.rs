//! Records of the log file: a value of [`model::wire`], followed by the CRC32 of its key and bytes.

use model::wire::{self, Kind};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::raft::mirror::{ENTRY_BYTES_MAX, EntryV1, MirrorError};
use crate::raft::types::Entry;

const CRC_BYTES: usize = 4;

/// Why a record is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    /// Shorter than a checksum.
    #[error("record cut short")]
    Short,
    /// The bytes are not those that were written, or stand under another key.
    #[error("checksum {found:08x} where {expected:08x} is expected")]
    Checksum {
        /// As computed now.
        found: u32,
        /// As written.
        expected: u32,
    },
    /// The checksum holds, but the value is not one of ours.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
}

/// The bytes that stand under this key.
pub(super) fn seal<T: Serialize>(key: &[u8], value: &T) -> Vec<u8> {
    let mut bytes = wire::encode(Kind::RaftRecord, value);
    let crc = checksum(key, &bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// The value in the bytes that stand under this key.
pub(super) fn open<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, RecordError> {
    let body = bytes.len().checked_sub(CRC_BYTES).ok_or(RecordError::Short)?;
    let (body, crc) = bytes.split_at(body);
    let expected = u32::from_le_bytes(crc.try_into().map_err(|_| RecordError::Short)?);
    let found = checksum(key, body);
    if found != expected {
        return Err(RecordError::Checksum { found, expected });
    }
    let limit = ENTRY_BYTES_MAX + 4_096;
    Ok(wire::decode(Kind::RaftRecord, body, limit).map_err(MirrorError::from)?)
}

/// These bytes with the checksum that they would have under an index.
#[cfg(any(test, fuzzing))]
pub(super) fn sealed(index: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = body.to_vec();
    bytes.extend_from_slice(&checksum(&index.to_le_bytes(), body).to_le_bytes());
    bytes
}

/// Record of a log entry.
pub(super) fn seal_entry(entry: &Entry) -> Vec<u8> {
    seal(&entry.log_id.index.to_le_bytes(), &EntryV1::from(entry))
}

/// The entry recorded under this index.
pub(super) fn open_entry(index: u64, bytes: &[u8]) -> Result<Entry, RecordError> {
    let entry: EntryV1 = open(&index.to_le_bytes(), bytes)?;
    Ok(entry.entry()?)
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(body);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{Payload, log_id};

    #[test]
    fn every_flipped_bit_of_a_record_and_its_key_is_noticed() {
        let entry = Entry {
            log_id: log_id(3, 7),
            payload: openraft::EntryPayload::Normal(Payload(bytes::Bytes::from_static(b"abc"))),
        };
        let good = seal_entry(&entry);
        assert_eq!(open_entry(7, &good).expect("intact"), entry);
        assert!(open_entry(8, &good).is_err());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open_entry(7, &bad).is_err(), "bit {bit}");
        }
        for cut in 0..good.len() {
            assert!(open_entry(7, &good[..cut]).is_err(), "cut at {cut}");
        }
    }
}

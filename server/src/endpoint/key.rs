//! Writes of keys: validation, and the command they become.

use model::SessionId;
use model::command::{KvCommandV1, KvPutV1, Rejection};
use model::rpc::{KvWrite, RpcError};

use super::rejected;

/// Longest key. Ours: a key is held in memory and in indexes; no client comes near.
pub(super) const KEY_BYTES_MAX: usize = 64 << 10;

/// What a write of a key becomes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Checked {
    Propose(KvCommandV1),
    /// Decided already, without a log entry.
    Answer(bool),
}

pub(super) fn check(write: &KvWrite, value_bytes_max: usize) -> Result<Checked, RpcError> {
    let (key, value) = match write {
        KvWrite::Set { key, value, .. }
        | KvWrite::Cas { key, value, .. }
        | KvWrite::Acquire { key, value, .. }
        | KvWrite::Release { key, value, .. } => (key, Some(value)),
        KvWrite::Delete { key } | KvWrite::DeleteCas { key, .. } => (key, None),
        KvWrite::DeleteTree { prefix } => {
            return Ok(Checked::Propose(KvCommandV1::DeleteTree(prefix.clone())));
        }
    };
    if key.is_empty() {
        return Err(rejected("Must provide key"));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(rejected(format!("key of {} bytes exceeds {KEY_BYTES_MAX}", key.len())));
    }
    if let Some(value) = value.filter(|value| value.len() > value_bytes_max) {
        return Err(rejected(format!("value of {} bytes exceeds {value_bytes_max}", value.len())));
    }
    let put = |key: &bytes::Bytes, value: &bytes::Bytes, flags: u64| KvPutV1 {
        key: key.clone(),
        value: value.clone(),
        flags,
    };
    Ok(Checked::Propose(match write {
        KvWrite::Set { key, value, flags } => KvCommandV1::Set(put(key, value, *flags)),
        KvWrite::Cas { key, value, flags, index } => {
            KvCommandV1::Cas(put(key, value, *flags), *index)
        }
        KvWrite::Acquire { key, value, flags, session } => {
            let Some(session) = parse(session)? else {
                let invalid = Rejection::InvalidSession(session.to_string());
                return Err(RpcError::Rejected(invalid));
            };
            KvCommandV1::Lock(put(key, value, *flags), session)
        }
        KvWrite::Release { key, value, flags, session } => {
            // Consul: to release with an unknown session is no error, it just holds nothing.
            let Some(session) = parse(session)? else { return Ok(Checked::Answer(false)) };
            KvCommandV1::Unlock(put(key, value, *flags), session)
        }
        KvWrite::Delete { key } => KvCommandV1::Delete(key.clone()),
        KvWrite::DeleteCas { key, index } => KvCommandV1::DeleteCas(key.clone(), *index),
        KvWrite::DeleteTree { prefix } => KvCommandV1::DeleteTree(prefix.clone()),
    }))
}

/// `None`: a text that no session has.
fn parse(text: &str) -> Result<Option<SessionId>, RpcError> {
    if text.is_empty() {
        return Err(RpcError::Rejected(Rejection::MissingSession));
    }
    Ok(text.parse().ok())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const KEY: Bytes = Bytes::from_static(b"k");

    fn refusal(write: KvWrite) -> String {
        check(&write, 8).expect_err("refused").to_string()
    }

    #[test]
    fn what_cannot_be_is_refused_with_consuls_text() {
        let acquire = |session: &str| KvWrite::Acquire {
            key: KEY,
            value: KEY,
            flags: 0,
            session: session.into(),
        };
        assert_eq!(refusal(acquire("")), "raft apply failed: missing session");
        assert_eq!(refusal(acquire("x\"y")), "raft apply failed: invalid session \"x\"y\"");
        let release = |session: &str| KvWrite::Release {
            key: KEY,
            value: KEY,
            flags: 0,
            session: session.into(),
        };
        assert_eq!(refusal(release("")), "raft apply failed: missing session");
        assert_eq!(check(&release("nonsense"), 8), Ok(Checked::Answer(false)));
        assert_eq!(refusal(KvWrite::Delete { key: Bytes::new() }), "Must provide key");
        let value = Bytes::from_static(b"123456789");
        let long = KvWrite::Set { key: KEY, value, flags: 0 };
        assert_eq!(refusal(long), "value of 9 bytes exceeds 8");
    }

    #[test]
    fn an_empty_prefix_means_all_keys() {
        let all = KvWrite::DeleteTree { prefix: Bytes::new() };
        assert_eq!(check(&all, 8), Ok(Checked::Propose(KvCommandV1::DeleteTree(Bytes::new()))));
    }
}

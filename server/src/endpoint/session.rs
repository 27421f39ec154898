//! Sessions to create: validation, and their ids.

use std::time::Duration;

use model::SessionId;
use model::command::RetryV1;
use model::duration::GoDuration;
use model::row::{SessionBehavior, SessionV1};
use model::rpc::{NewSession, RpcError};
use rt::Rng;
use sha2::{Digest, Sha256};

use super::rejected;

/// Longest TTL. Consul: 24 h.
const TTL_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Checks that one session may depend on.
const CHECKS_MAX: usize = 64;

/// Id of a session to be created.
///
/// A retried creation must answer with the id of the first one, which it cannot know: so the id
/// follows from the retry stamp. It tells nothing of the stamp's origin.
pub(super) fn id(retry: Option<RetryV1>, rng: &Rng) -> SessionId {
    let Some(retry) = retry else { return SessionId::from_random(rng.bytes16()) };
    let mut hash = Sha256::new();
    hash.update(b"muster session id 1");
    hash.update(retry.origin.0);
    hash.update(retry.seq.to_le_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    SessionId::from_random(bytes)
}

/// The row to propose. Texts and order of the checks: spec http-api-2 §2.2.
pub(super) fn check(
    new: &NewSession,
    id: SessionId,
    ttl_min: Duration,
) -> Result<SessionV1, RpcError> {
    if new.node.is_empty() {
        return Err(rejected("Must provide Node"));
    }
    let behavior = match &*new.behavior {
        "" | "release" => SessionBehavior::Release,
        "delete" => SessionBehavior::Delete,
        other => return Err(rejected(format!("Invalid Behavior setting '{other}'"))),
    };
    let ttl_ms = ttl_ms(&new.ttl, ttl_min)?;
    let row = new.clone().into_row(id, ttl_ms, behavior);
    let checks = row.check_ids().count();
    if checks > CHECKS_MAX {
        return Err(rejected(format!("a session may depend on {CHECKS_MAX} checks, not {checks}")));
    }
    Ok(row)
}

fn ttl_ms(text: &str, ttl_min: Duration) -> Result<u64, RpcError> {
    if text.is_empty() {
        return Ok(0);
    }
    let ttl = GoDuration::parse(text)
        .map_err(|error| rejected(format!("Session TTL '{text}' invalid: {error}")))?;
    let go = |duration: Duration| {
        i64::try_from(duration.as_nanos()).map_or(GoDuration(i64::MAX), GoDuration)
    };
    let (min, max) = (go(ttl_min), go(TTL_MAX));
    if ttl.0 != 0 && (ttl < min || ttl > max) {
        let text = format!("Invalid Session TTL '{}', must be between [{min}={max}]", ttl.0);
        return Err(rejected(text));
    }
    // Rounded up: a session must not end before its TTL.
    Ok(u64::try_from(ttl.to_std().as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use model::NodeId;

    use super::*;

    const MIN: Duration = Duration::from_secs(10);

    fn new(ttl: &str, behavior: &str) -> NewSession {
        NewSession {
            name: "".into(),
            node: "n1".into(),
            lock_delay_ns: 15_000_000_000,
            behavior: behavior.into(),
            ttl: ttl.into(),
            node_checks: Some(vec!["serfHealth".into()]),
            service_checks: None,
            checks: Vec::new(),
        }
    }

    #[test]
    fn ttl_and_behavior_are_checked_with_consuls_texts() {
        let id = SessionId([1; 16]);
        for (ttl, behavior, refusal) in [
            ("10s", "release", None),
            ("24h", "delete", None),
            ("0s", "", None),
            ("", "", None),
            ("9s", "", Some("Invalid Session TTL '9000000000', must be between [10s=24h0m0s]")),
            (
                "86401s",
                "",
                Some("Invalid Session TTL '86401000000000', must be between [10s=24h0m0s]"),
            ),
            ("-1s", "", Some("Invalid Session TTL '-1000000000', must be between [10s=24h0m0s]")),
            ("ten", "", Some("Session TTL 'ten' invalid: time: invalid duration \"ten\"")),
            ("10s", "keep", Some("Invalid Behavior setting 'keep'")),
        ] {
            let found = check(&new(ttl, behavior), id, MIN).err().map(|error| error.to_string());
            assert_eq!(found.as_deref(), refusal, "{ttl} {behavior}");
        }
        assert_eq!(check(&new("10500ms", ""), id, MIN).map(|row| row.ttl_ms), Ok(10_500));
        assert_eq!(check(&new("0s", ""), id, MIN).map(|row| row.ttl_ms), Ok(0));
    }

    #[test]
    fn a_retried_creation_has_the_same_id_and_another_one_has_not() {
        let rng = Rng::from_seed(1);
        let stamp = |seq, oldest_open| Some(RetryV1 { origin: NodeId([3; 16]), seq, oldest_open });
        assert_eq!(id(stamp(5, 1), &rng), id(stamp(5, 4), &rng));
        assert_ne!(id(stamp(5, 1), &rng), id(stamp(6, 1), &rng));
        assert_ne!(id(None, &rng), id(None, &rng));
    }
}

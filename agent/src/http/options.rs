//! What all reads have in common: datacenter, token, consistency, blocking, enterprise names.

use std::sync::LazyLock;
use std::time::Duration;

use http::HeaderMap;
use model::duration::{GoDuration, quote};
use model::rpc::{Consistency, Op, Request};
use model::{LogIndex, Name};

use super::error::ApiError;
use super::params::Params;

/// Waits get up to a sixteenth on top, so that clients that were parked together do not come back
/// together (spec/http-api-1.md §2.1).
pub(crate) const JITTER_FRACTION: u32 = 16;

static EMPTY: LazyLock<Name> = LazyLock::new(|| "".into());
static DEFAULT_NAMESPACE: LazyLock<Name> = LazyLock::new(|| "default".into());

/// The empty name, without allocation.
pub(crate) fn empty_name() -> Name {
    Name::clone(&EMPTY)
}

/// A name, without allocation when it is empty.
pub(crate) fn name(text: &str) -> Name {
    if text.is_empty() { empty_name() } else { text.into() }
}

/// What a request says about how it wants to be answered.
#[derive(Debug, Clone)]
pub struct Options {
    /// Datacenter asked for; empty: ours.
    pub dc: Name,
    /// Secret of the token; empty when anonymous.
    pub token: Name,
    /// Freshness asked for.
    pub consistency: Consistency,
    /// A mode was named, so that `discovery_max_stale` does not apply.
    pub mode_named: bool,
    /// Oldest copy that may answer before the leader is asked.
    pub max_stale: Option<Duration>,
    /// Blocking: answer once the index is above this one.
    pub min_index: LogIndex,
    /// Longest wait, without jitter.
    pub wait: Duration,
    /// Time to look for a leader.
    pub hold: Duration,
}

impl Options {
    /// The request for a server. `jitter` is what is added to the wait.
    pub(crate) fn request(&self, op: Op, jitter: Duration, trace_id: u64) -> Request {
        let wait_ms = if self.min_index == LogIndex::ZERO { 0 } else { millis(self.wait + jitter) };
        Request {
            token: Name::clone(&self.token),
            dc: Name::clone(&self.dc),
            namespace: Name::clone(&DEFAULT_NAMESPACE),
            consistency: self.consistency,
            min_index: self.min_index,
            wait_ms,
            hold_ms: millis(self.hold),
            retry: None,
            trace_id,
            op,
        }
    }
}

/// Whole milliseconds, saturating.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The token: parameter, then header, then bearer; the first that is not empty.
pub(crate) fn token(params: &Params, headers: &HeaderMap) -> Name {
    let given = params.text("token");
    if !given.is_empty() {
        return given.as_ref().into();
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(token) = header("x-consul-token").filter(|token| !token.is_empty()) {
        return token.into();
    }
    let mut words = header("authorization").unwrap_or("").split_ascii_whitespace();
    match words.next() {
        Some(scheme) if scheme.eq_ignore_ascii_case("bearer") => name(words.next().unwrap_or("")),
        _ => empty_name(),
    }
}

/// `index`, 0 when absent.
pub(crate) fn min_index(params: &Params) -> Result<LogIndex, ApiError> {
    let text = params.text("index");
    if text.is_empty() {
        return Ok(LogIndex::ZERO);
    }
    parse_u64(&text).map(LogIndex).ok_or_else(|| ApiError::BadRequest("Invalid index".into()))
}

/// Go's `ParseUint`: digits alone.
pub(crate) fn parse_u64(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// `wait` between more than nothing and `max`; `default` when absent or not positive.
pub(crate) fn wait(
    params: &Params,
    default: Duration,
    max: Duration,
) -> Result<Duration, ApiError> {
    let text = params.text("wait");
    if text.is_empty() {
        return Ok(default.min(max));
    }
    let wait = GoDuration::parse(&text)
        .map_err(|_| ApiError::BadRequest("Invalid wait time".into()))?
        .to_std();
    Ok(if wait.is_zero() { default } else { wait }.min(max))
}

/// Consistency, whether it was named, and `max_stale`.
pub(crate) fn consistency(
    params: &Params,
) -> Result<(Consistency, bool, Option<Duration>), ApiError> {
    let bad = |text: &str| Err(ApiError::BadRequest(text.into()));
    let (stale, consistent) = (params.has("stale"), params.has("consistent"));
    let leader = params.has("leader");
    let text = params.text("max_stale");
    let mut max_stale = None;
    if !text.is_empty() {
        match GoDuration::parse(&text) {
            Ok(limit) => max_stale = Some(limit.to_std()),
            Err(_) => return bad(&format!("Invalid max_stale value {}", quote(&text))),
        }
    }
    if params.has("cached") && consistent {
        return bad("Cannot specify ?cached with ?consistent, conflicting semantics.");
    }
    // A bound on staleness asks for stale answers.
    let stale = stale || (max_stale.is_some() && !consistent);
    if stale && consistent {
        return bad("Cannot specify ?stale with ?consistent, conflicting semantics.");
    }
    let mode = match (stale, consistent) {
        (true, _) => Consistency::Stale,
        (_, true) => Consistency::Consistent,
        _ => Consistency::Default,
    };
    Ok((mode, stale || consistent || leader, max_stale))
}

/// Refuses a `Cache-Control` header whose directives cannot be read.
pub(crate) fn cache_control(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(http::header::CACHE_CONTROL) else { return Ok(()) };
    let readable = value.to_str().is_ok_and(|text| {
        text.split(',').map(str::trim).all(|directive| match directive.split_once('=') {
            Some(("max-age" | "stale-if-error", seconds)) => {
                parse_u64(seconds.trim_matches('"')).is_some()
            }
            None => !matches!(directive, "max-age" | "stale-if-error"),
            Some(_) => true,
        })
    });
    if readable {
        Ok(())
    } else {
        Err(ApiError::BadRequest("Invalid Cache-Control header.".into()))
    }
}

/// Namespaces and partitions do not exist here: ignoring one would mix tenants. Empty values and
/// `default` mean what we have.
pub(crate) fn refuse_enterprise(params: &Params, headers: &HeaderMap) -> Result<(), ApiError> {
    for (what, param, header) in [
        ("Namespaces", "ns", "X-Consul-Namespace"),
        ("Partitions", "partition", "X-Consul-Partition"),
    ] {
        let fine = |value: &str| value.is_empty() || value == "default";
        if !fine(&params.text(param)) {
            return Err(ApiError::BadRequest(format!(
                "Invalid query parameter: \"{param}\" - {what} are a Consul Enterprise feature"
            )));
        }
        let given = headers.get(header).map(|value| String::from_utf8_lossy(value.as_bytes()));
        if !given.is_none_or(|value| fine(&value)) {
            return Err(ApiError::BadRequest(format!(
                "Invalid header: \"{header}\" - {what} are a Consul Enterprise feature"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Params {
        Params::parse(Some(query)).expect("decodable")
    }

    #[test]
    fn waits_are_defaulted_and_capped() {
        let (default, max) = (Duration::from_secs(300), Duration::from_secs(600));
        for (query, seconds) in [
            ("", 300),
            ("wait=", 300),
            ("wait=0", 300),
            ("wait=-5s", 300),
            ("wait=10s", 10),
            ("wait=11m", 600),
        ] {
            assert_eq!(wait(&params(query), default, max), Ok(Duration::from_secs(seconds)));
        }
        for query in ["wait=abc", "wait=10", "wait=1d"] {
            let error = wait(&params(query), default, max).expect_err(query);
            assert_eq!(error, ApiError::BadRequest("Invalid wait time".into()));
        }
    }

    #[test]
    fn modes_and_their_conflicts() {
        for (query, mode, named) in [
            ("", Consistency::Default, false),
            ("leader", Consistency::Default, true),
            ("stale=false", Consistency::Stale, true),
            ("consistent", Consistency::Consistent, true),
            ("max_stale=5s", Consistency::Stale, true),
        ] {
            let (found, is_named, _) = consistency(&params(query)).expect(query);
            assert_eq!((found, is_named), (mode, named), "{query}");
        }
        for (query, text) in [
            ("stale&consistent", "Cannot specify ?stale with ?consistent, conflicting semantics."),
            (
                "cached&consistent",
                "Cannot specify ?cached with ?consistent, conflicting semantics.",
            ),
            ("max_stale=x", "Invalid max_stale value \"x\""),
        ] {
            let error = consistency(&params(query)).expect_err(query);
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn the_first_token_that_is_not_empty_wins() {
        let mut headers = HeaderMap::new();
        assert_eq!(&*token(&params(""), &headers), "");
        headers.insert("authorization", "bEaReR c d".parse().expect("valid"));
        assert_eq!(&*token(&params("token="), &headers), "c");
        headers.insert("x-consul-token", "b".parse().expect("valid"));
        assert_eq!(&*token(&params(""), &headers), "b");
        assert_eq!(&*token(&params("token=a"), &headers), "a");
        headers.clear();
        headers.insert("authorization", "Basic c".parse().expect("valid"));
        assert_eq!(&*token(&params(""), &headers), "");
    }

    #[test]
    fn enterprise_names_are_refused_by_text() {
        let mut headers = HeaderMap::new();
        for query in ["", "ns=&partition=", "ns=default&partition=default"] {
            assert_eq!(refuse_enterprise(&params(query), &headers), Ok(()));
        }
        for (query, text) in [
            (
                "ns=x",
                "Invalid query parameter: \"ns\" - Namespaces are a Consul Enterprise feature",
            ),
            (
                "partition=x",
                "Invalid query parameter: \"partition\" - Partitions are a Consul Enterprise feature",
            ),
        ] {
            let error = refuse_enterprise(&params(query), &headers).expect_err(query);
            assert_eq!(error.to_string(), text);
        }
        headers.insert("x-consul-namespace", "x".parse().expect("valid"));
        assert_eq!(
            refuse_enterprise(&params(""), &headers).expect_err("refused").to_string(),
            "Invalid header: \"X-Consul-Namespace\" - Namespaces are a Consul Enterprise feature"
        );
    }

    #[test]
    fn cache_control_must_be_readable() {
        let mut headers = HeaderMap::new();
        for (value, readable) in [
            ("max-age=5, must-revalidate", true),
            ("no-cache", true),
            ("stale-if-error=60", true),
            ("max-age=x", false),
            ("max-age", false),
        ] {
            headers.insert("cache-control", value.parse().expect("valid"));
            assert_eq!(cache_control(&headers).is_ok(), readable, "{value}");
        }
    }
}

//! From an answer or an error to the bytes that leave: labels, indentation, compression, and the
//! headers that all answers have.

use std::io::Write as _;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use model::api::json;

use super::answer::{Answer, Content};
use super::error::ApiError;

/// Shortest body that is compressed (spec/http-api-1.md §1.6).
const COMPRESS_FROM: usize = 1_400;

/// Longest body that is compressed on the spot: a larger one would hold up the others on this
/// thread for tens of milliseconds.
const COMPRESS_MAX: usize = 4 << 20;

/// What the request wants of the form of its answer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Form {
    /// Indented JSON.
    pub(crate) pretty: bool,
    /// Indented objects and arrays.
    pub(crate) pretty_structures: bool,
    /// Compressed if it pays.
    pub(crate) gzip: bool,
}

/// Whether `Accept-Encoding` allows gzip.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    value.split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or("");
        let refused = parts.any(|part| {
            part.strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0))
        });
        (name.eq_ignore_ascii_case("gzip") || name == "*") && !refused
    })
}

/// The response to an answer or an error, without the headers that all have.
pub(crate) fn response(result: Result<Answer, ApiError>, form: Form) -> Response {
    match result {
        Ok(answer) => success(answer, form),
        Err(error) => failure(&error),
    }
}

fn success(answer: Answer, form: Form) -> Response {
    let Answer { status, content, mut body, stream, headers } = answer;
    let label = match content {
        Content::Json => Some("application/json"),
        Content::Text => Some("text/plain; charset=utf-8"),
        Content::Octets => Some("application/octet-stream"),
        Content::Custom => None,
    };
    // A development agent indents for the eye; `true` and the like stay what scripts compare.
    let structured = matches!(body.first(), Some(b'{' | b'['));
    let pretty = form.pretty || (form.pretty_structures && structured);
    if pretty && matches!(content, Content::Json | Content::Octets) && !body.is_empty() {
        body = json::indented(&body).into();
    }
    let mut compressed = false;
    if form.gzip
        && (COMPRESS_FROM..=COMPRESS_MAX).contains(&body.len())
        && let Some(smaller) = gzip(&body)
    {
        body = smaller;
        compressed = true;
    }
    let body = match stream {
        Some(stream) => Body::from_stream(stream),
        None => Body::from(body),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if let Some(label) = label {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(label));
    }
    if compressed {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

fn gzip(body: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 3), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

fn failure(error: &ApiError) -> Response {
    let mut response = text(error.status(), error.to_string());
    if let ApiError::Method { allow, .. } = error
        && let Ok(value) = HeaderValue::from_str(allow)
    {
        response.headers_mut().insert(header::ALLOW, value);
    }
    if error.status() == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// A plain text response.
pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Adds what every response has: the operator's headers and our own.
pub(crate) fn add_static_headers<'a>(
    headers: &mut HeaderMap,
    configured: impl IntoIterator<Item = (&'a String, &'a String)>,
) {
    const POLICY: HeaderName = HeaderName::from_static("x-consul-default-acl-policy");
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.insert(POLICY, HeaderValue::from_static("allow"));
    for (name, value) in configured {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.entry(name).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_encoding_is_read_with_its_weights() {
        for (value, accepted) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("*", true),
            ("gzip;q=0", false),
            ("gzip; q=0.0", false),
            ("identity", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("accept-encoding", value.parse().expect("valid"));
            assert_eq!(accepts_gzip(&headers), accepted, "{value}");
        }
    }
}

//! What a handler answers with.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use model::rpc::{Consistency, Meta};
use model::seam::ByteStream;

/// What the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Compact JSON; indented when the client asks for it.
    Json,
    /// Text for people.
    Text,
    /// Bytes of a client; the label is theirs to guess.
    Octets,
    /// As the handler's own headers say.
    Custom,
}

/// An answer without error. Status, body and headers; the frame adds what all answers have.
pub struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content: Content,
    pub(crate) body: Bytes,
    /// Comes behind the body, as it is made.
    pub(crate) stream: Option<ByteStream>,
    pub(crate) headers: HeaderMap,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { status, content, body, stream, headers } = self;
        let streams = stream.is_some();
        write!(f, "Answer {{ {status} {content:?} {body:?} {headers:?} streams: {streams} }}")
    }
}

impl Answer {
    fn new(status: StatusCode, content: Content, body: Bytes) -> Self {
        Self { status, content, body, stream: None, headers: HeaderMap::new() }
    }

    /// Compact JSON, already encoded.
    pub fn json(body: impl Into<Bytes>) -> Self {
        Self::new(StatusCode::OK, Content::Json, body.into())
    }

    /// 200 with nothing to say.
    pub fn empty() -> Self {
        Self::new(StatusCode::OK, Content::Json, Bytes::new())
    }

    /// JSON `true` or `false`.
    pub fn bool(value: bool) -> Self {
        Self::json(Bytes::from_static(if value { b"true" } else { b"false" }))
    }

    /// Plain text.
    pub fn text(body: impl Into<Bytes>) -> Self {
        Self::new(StatusCode::OK, Content::Text, body.into())
    }

    /// Bytes whose type stands in a header of their own.
    pub fn custom(body: impl Into<Bytes>, content_type: &'static str) -> Self {
        Self::new(StatusCode::OK, Content::Custom, body.into())
            .header(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type))
    }

    /// Bytes of any number, sent as they are made. A stream that ends with an error breaks the
    /// connection off, so that nobody takes a part for the whole.
    pub fn stream(body: ByteStream, content_type: &'static str) -> Self {
        Self { stream: Some(body), ..Self::custom(Bytes::new(), content_type) }
    }

    /// 404 with an empty body, which has no type: no such object.
    pub fn missing() -> Self {
        Self::new(StatusCode::NOT_FOUND, Content::Custom, Bytes::new())
    }

    /// With another status.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// JSON labelled as octets, as Consul labels the answers of some writes.
    #[must_use]
    pub fn as_octets(mut self) -> Self {
        self.content = Content::Octets;
        self
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// With the headers of a read: index, leader, last contact, consistency.
    #[must_use]
    pub fn meta(mut self, meta: &Meta) -> Self {
        const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
        const LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
        const CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
        const CONSISTENCY: HeaderName = HeaderName::from_static("x-consul-effective-consistency");
        const QUERY_BACKEND: HeaderName = HeaderName::from_static("x-consul-query-backend");
        // Clients spin on an index of 0.
        self.headers.insert(INDEX, HeaderValue::from(meta.index.0.max(1)));
        let known = if meta.known_leader { "true" } else { "false" };
        self.headers.insert(LEADER, HeaderValue::from_static(known));
        self.headers.insert(CONTACT, HeaderValue::from(meta.last_contact_ms));
        let consistency = match meta.consistency {
            Consistency::Default => "leader",
            Consistency::Consistent => "consistent",
            Consistency::Stale => "stale",
        };
        self.headers.insert(CONSISTENCY, HeaderValue::from_static(consistency));
        self.headers.insert(QUERY_BACKEND, HeaderValue::from_static("blocking-query"));
        self
    }
}

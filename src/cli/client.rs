//! The HTTP client of the command line, with Consul's flags and environment variables
//! (spec/agent.md §36). A variable named `MUSTER_…` wins over its `CONSUL_…` twin.

use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::stream;
use reqwest::{Body, Client, Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt as _;

use super::flags::{Flag, Given, Kind, flag};

/// Flags of every command that talks to an agent.
pub(super) static FLAGS: &[Flag] = &[
    flag(
        "http-addr",
        Kind::Value,
        "Agent's HTTP: host:port, http://…, unix://…. Default 127.0.0.1:8500, or MUSTER_HTTP_ADDR.",
    ),
    flag("token", Kind::Value, "Token to send. Default: MUSTER_HTTP_TOKEN."),
    flag("token-file", Kind::Value, "File that holds the token. Default: MUSTER_HTTP_TOKEN_FILE."),
    flag("ca-file", Kind::Value, "Not built yet: HTTPS."),
    flag("ca-path", Kind::Value, "Not built yet: HTTPS."),
    flag("client-cert", Kind::Value, "Not built yet: HTTPS."),
    flag("client-key", Kind::Value, "Not built yet: HTTPS."),
    flag("tls-server-name", Kind::Value, "Not built yet: HTTPS."),
    flag("datacenter", Kind::Value, "Datacenter to ask."),
    flag("stale", Kind::Bool, "Let any server answer from its copy."),
    flag("namespace", Kind::Value, "Accepted and ignored."),
    flag("partition", Kind::Value, "Accepted and ignored."),
];

/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 30;
/// Bytes of a file that are read at a time to be sent.
const UPLOAD_PART_BYTES: usize = 256 << 10;

/// A connection to an agent for one command.
pub(super) struct Agent {
    client: Client,
    base: String,
    token: Option<String>,
    auth: Option<(String, Option<String>)>,
    query: Vec<(String, String)>,
    runtime: tokio::runtime::Runtime,
}

/// An answer: status and body.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
}

impl Agent {
    /// From flags and environment.
    pub(super) fn new(given: &Given) -> Result<Self, String> {
        let address = given
            .get("http-addr")
            .map(str::to_owned)
            .or_else(|| environment("HTTP_ADDR"))
            .unwrap_or_else(|| "127.0.0.1:8500".to_owned());
        let tls =
            environment("HTTP_SSL").is_some_and(|on| super::flags::parse_bool(&on) == Some(true));
        if tls || address.starts_with("https://") {
            return Err("HTTPS to the agent is not built yet; use an http:// address".to_owned());
        }
        let builder = Client::builder().connect_timeout(Duration::from_secs(10));
        let (builder, base) = match address.strip_prefix("unix://") {
            Some(path) => (builder.unix_socket(path), "http://localhost".to_owned()),
            None if address.starts_with("http://") => {
                (builder, address.trim_end_matches('/').to_owned())
            }
            None => (builder, format!("http://{}", address.trim_end_matches('/'))),
        };
        let client = builder
            .no_proxy()
            .build()
            .map_err(|error| format!("cannot make an HTTP client: {error}"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start: {error}"))?;
        let mut query = Vec::new();
        if let Some(dc) = given.get("datacenter") {
            query.push(("dc".to_owned(), dc.to_owned()));
        }
        if given.is("stale") {
            query.push(("stale".to_owned(), String::new()));
        }
        let auth = environment("HTTP_AUTH").map(|text| match text.split_once(':') {
            Some((user, password)) => (user.to_owned(), Some(password.to_owned())),
            None => (text, None),
        });
        Ok(Self { client, base, token: token(given)?, auth, query, runtime })
    }

    /// One request. `path` begins with `/v1/` and is already escaped.
    pub(super) fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Answer, String> {
        let mut request = self.request(method, path, query);
        if let Some(body) = body {
            request = request.body(body);
        }
        self.runtime.block_on(async {
            let response = request.send().await.map_err(|error| self.unreachable(&error))?;
            self.whole(response).await
        })
    }

    fn request(&self, method: Method, path: &str, query: &[(&str, &str)]) -> RequestBuilder {
        let mut request = self.client.request(method, self.url(path, query));
        if let Some(token) = &self.token {
            request = request.header("X-Consul-Token", token);
        }
        if let Some((user, password)) = &self.auth {
            request = request.basic_auth(user, password.as_ref());
        }
        request
    }

    /// Status and body, all of it in memory.
    async fn whole(&self, mut response: Response) -> Result<Answer, String> {
        let status = response.status();
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if body.len() + part.len() > ANSWER_BYTES_MAX {
                return Err(format!("the agent's answer is over {ANSWER_BYTES_MAX} bytes"));
            }
            body.extend_from_slice(&part);
        }
        Ok(Answer { status, body })
    }

    /// A GET whose answer goes into a writer as it comes.
    pub(super) fn download(
        &self,
        path: &str,
        into: &mut impl Write,
        failed: &impl Fn(io::Error) -> String,
    ) -> Result<(), String> {
        self.runtime.block_on(async {
            let request = self.request(Method::GET, path, &[]);
            let mut response = request.send().await.map_err(|error| self.unreachable(&error))?;
            if response.status() != StatusCode::OK {
                return Err(self.whole(response).await?.refusal());
            }
            while let Some(part) = response.chunk().await.map_err(|error| broke_off(&error))? {
                into.write_all(&part).map_err(failed)?;
            }
            Ok(())
        })
    }

    /// A request whose body is read from a file as it is sent; any status but 200 is an error.
    pub(super) fn upload(&self, method: Method, path: &str, file: File) -> Result<(), String> {
        let parts = stream::try_unfold(tokio::fs::File::from_std(file), |mut file| async move {
            let mut part = BytesMut::with_capacity(UPLOAD_PART_BYTES);
            let read = file.read_buf(&mut part).await?;
            Ok::<_, io::Error>((read > 0).then(|| (part.freeze(), file)))
        });
        let request = self.request(method, path, &[]).body(Body::wrap_stream(parts));
        self.runtime.block_on(async {
            let response = request.send().await.map_err(|error| self.unreachable(&error))?;
            let answer = self.whole(response).await?;
            if answer.status == StatusCode::OK { Ok(()) } else { Err(answer.refusal()) }
        })
    }

    fn url(&self, path: &str, query: &[(&str, &str)]) -> String {
        let own = self.query.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut url = format!("{}{path}", self.base);
        for (i, (name, value)) in own.chain(query.iter().copied()).enumerate() {
            url.push(if i == 0 { '?' } else { '&' });
            url.push_str(&escape(name.as_bytes(), false));
            if !value.is_empty() {
                url.push('=');
                url.push_str(&escape(value.as_bytes(), false));
            }
        }
        url
    }

    fn unreachable(&self, error: &reqwest::Error) -> String {
        format!("cannot reach the agent at {}: {}; is it running?", self.base, root(error))
    }

    /// Like [`Agent::call`], but any status other than 200 is an error with the agent's text.
    pub(super) fn ok(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, String> {
        let answer = self.call(method, path, query, body)?;
        if answer.status == StatusCode::OK {
            return Ok(answer.body);
        }
        Err(answer.refusal())
    }

    /// A GET whose answer is JSON.
    pub(super) fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, String> {
        parse(&self.ok(Method::GET, path, query, None)?)
    }

    /// A PUT that answers nothing of interest.
    pub(super) fn put(
        &self,
        path: &str,
        query: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, String> {
        self.ok(Method::PUT, path, query, Some(body.unwrap_or_default()))
    }
}

fn broke_off(error: &reqwest::Error) -> String {
    format!("the agent's answer broke off: {}; try again", root(error))
}

fn root(error: &reqwest::Error) -> &dyn std::error::Error {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause
}

impl Answer {
    /// What the agent said, as the official client words it.
    pub(super) fn refusal(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        format!("Unexpected response code: {} ({})", self.status.as_u16(), text.trim())
    }
}

/// JSON from the agent.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body)
        .map_err(|error| format!("the agent's answer is not understood: {error}"))
}

/// Percent-encodes a part of a path or query; `slashes` leaves `/` alone.
pub(super) fn escape(text: &[u8], slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(*byte));
            }
            b'/' if slashes => out.push('/'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn token(given: &Given) -> Result<Option<String>, String> {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .map_err(|error| format!("cannot read token file {path}: {error}"))
    };
    let token = match (given.get("token-file"), given.get("token")) {
        (Some(path), _) => Some(read(path)?),
        (None, Some(token)) => Some(token.to_owned()),
        (None, None) => match environment("HTTP_TOKEN_FILE") {
            Some(path) => Some(read(&path)?),
            None => environment("HTTP_TOKEN"),
        },
    };
    Ok(token.filter(|token| !token.is_empty()))
}

/// `MUSTER_<name>`, else `CONSUL_<name>`; empty counts as absent.
#[expect(clippy::disallowed_methods, reason = "the environment of the command line is read here")]
fn environment(name: &str) -> Option<String> {
    ["MUSTER_", "CONSUL_"]
        .iter()
        .filter_map(|prefix| std::env::var(format!("{prefix}{name}")).ok())
        .find(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn keys_become_paths() {
        assert_eq!(escape(b"a/b c?", true), "a/b%20c%3F");
        assert_eq!(escape("\u{e9}/".as_bytes(), false), "%C3%A9%2F");
    }
}

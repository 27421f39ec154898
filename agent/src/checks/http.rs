//! Asks over HTTP.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use model::duration::quote;
use model::row::Status;

use super::{Finding, output};

/// Redirects followed at most.
const REDIRECTS_MAX: usize = 10;

/// Clients by their settings. None of them keeps a connection after its answer.
#[derive(Debug, Default)]
pub(super) struct Clients([Option<reqwest::Client>; 4]);

impl Clients {
    /// The client for these settings, made when first asked for.
    pub(super) fn get(
        &mut self,
        disable_redirects: bool,
        tls_skip_verify: bool,
    ) -> Result<reqwest::Client, String> {
        let place = usize::from(disable_redirects) + 2 * usize::from(tls_skip_verify);
        if let Some(Some(client)) = self.0.get(place) {
            return Ok(client.clone());
        }
        // Whoever comes first installs the provider; a second one is refused, which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let redirects = if disable_redirects {
            reqwest::redirect::Policy::none()
        } else {
            reqwest::redirect::Policy::limited(REDIRECTS_MAX)
        };
        let client = reqwest::Client::builder()
            .http1_only()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .redirect(redirects)
            .tls_danger_accept_invalid_certs(tls_skip_verify)
            .build()
            .map_err(|error| format!("cannot make an HTTP client: {}", chain(&error)))?;
        if let Some(slot) = self.0.get_mut(place) {
            *slot = Some(client.clone());
        }
        Ok(client)
    }
}

/// What to ask.
pub(super) struct Question<'a> {
    pub(super) url: &'a str,
    pub(super) method: &'a str,
    pub(super) headers: &'a [(String, String)],
    pub(super) body: &'a str,
}

/// Passing for 2xx, warning for 429, else critical.
pub(super) async fn probe(
    client: Option<Result<reqwest::Client, String>>,
    question: &Question<'_>,
    timeout: Duration,
    limit: usize,
) -> Finding {
    let asked = async {
        let client = client.unwrap_or_else(|| Err("no HTTP client".into()))?;
        ask(client, question, limit).await
    };
    let (status, text) = match tokio::time::timeout(timeout, asked).await {
        Ok(Ok((status, text))) => (status, text),
        Ok(Err(text)) => (Status::Critical, failure(question, &text)),
        Err(_) => (Status::Critical, failure(question, "context deadline exceeded")),
    };
    Finding::new(status, output::head(&text, limit).to_owned())
}

async fn ask(
    client: reqwest::Client,
    question: &Question<'_>,
    limit: usize,
) -> Result<(Status, String), String> {
    let method: Method = question
        .method
        .parse()
        .map_err(|_| format!("net/http: invalid method {}", quote(question.method)))?;
    let request = client
        .request(method, question.url)
        .headers(headers(question.headers)?)
        .body(question.body.to_owned());
    let answer = request.send().await.map_err(|error| chain(&error))?;
    let code = answer.status();
    let mut kept: Vec<u8> = Vec::new();
    let mut body = answer.bytes_stream();
    while kept.len() < limit
        && let Some(block) = body.next().await
    {
        let block: Bytes = block.map_err(|error| chain(&error))?;
        kept.extend_from_slice(&block[..block.len().min(limit - kept.len())]);
    }
    let status = match code {
        code if code.is_success() => Status::Passing,
        StatusCode::TOO_MANY_REQUESTS => Status::Warning,
        _ => Status::Critical,
    };
    let text = format!(
        "HTTP {} {}: {} {} Output: {}",
        question.method,
        question.url,
        code.as_u16(),
        code.canonical_reason().unwrap_or_default(),
        String::from_utf8_lossy(&kept),
    );
    Ok((status, text))
}

fn headers(given: &[(String, String)]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (key, value) in given {
        let name: HeaderName = key
            .parse()
            .map_err(|_| format!("net/http: invalid header field name {}", quote(key)))?;
        let value: HeaderValue = value
            .parse()
            .map_err(|_| format!("net/http: invalid header field value for {}", quote(key)))?;
        headers.append(name, value);
    }
    let defaults =
        [(header::USER_AGENT, "Consul Health Check"), (header::ACCEPT, "text/plain, text/*, */*")];
    for (name, value) in defaults {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    Ok(headers)
}

/// `Get "http://…": …`, as Go's client words it.
fn failure(question: &Question<'_>, text: &str) -> String {
    let lower = question.method.to_ascii_lowercase();
    let mut letters = lower.chars();
    let verb: String =
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect();
    format!("{verb} {}: {text}", quote(question.url))
}

/// The innermost cause: the outer ones only repeat the URL.
fn chain(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one connection after the other with these texts; yields what was asked.
    async fn server(answers: Vec<&'static str>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
        let address = listener.local_addr().expect("bound").to_string();
        #[expect(clippy::disallowed_methods, reason = "a test's server, awaited by the test")]
        let asked = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut socket, _) = listener.accept().await.expect("a client");
                let mut head = vec![0; 4096];
                let length = socket.read(&mut head).await.expect("a request");
                asked.push(String::from_utf8_lossy(&head[..length]).into_owned());
                socket.write_all(answer.as_bytes()).await.expect("written");
            }
            asked
        });
        (address, asked)
    }

    async fn run(url: &str, headers: &[(String, String)], disable_redirects: bool) -> Finding {
        let client = Clients::default().get(disable_redirects, false);
        let question = Question { url, method: "GET", headers, body: "" };
        probe(Some(client), &question, Duration::from_secs(5), 100).await
    }

    #[tokio::test]
    async fn statuses_and_texts() {
        for (head, status, line) in [
            ("200 OK", Status::Passing, "200 OK"),
            ("204 No Content", Status::Passing, "204 No Content"),
            ("429 Too Many Requests", Status::Warning, "429 Too Many Requests"),
            ("503 Service Unavailable", Status::Critical, "503 Service Unavailable"),
        ] {
            let body = if head.starts_with("204") { "" } else { "hello" };
            let answer = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let (address, _) = server(vec![answer.leak()]).await;
            let url = format!("http://{address}/h");
            let found = run(&url, &[], false).await;
            assert_eq!(
                found,
                Finding::new(status, format!("HTTP GET {url}: {line} Output: {body}"))
            );
        }
    }

    #[tokio::test]
    async fn headers_go_out_and_host_is_replaced() {
        let (address, asked) = server(vec!["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]).await;
        let headers =
            [("Host".to_owned(), "shop.example".to_owned()), ("X-A".to_owned(), "1".to_owned())];
        run(&format!("http://{address}/"), &headers, false).await;
        let asked = asked.await.expect("served").concat().to_ascii_lowercase();
        for line in ["host: shop.example\r\n", "x-a: 1\r\n", "user-agent: consul health check\r\n"]
        {
            assert!(asked.contains(line), "{line} in {asked}");
        }
        assert_eq!(asked.matches("host:").count(), 1);
    }

    #[tokio::test]
    async fn redirects_are_followed_unless_disabled() {
        let moved = "HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\
                     Connection: close\r\n\r\n";
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let (address, _) = server(vec![moved, ok]).await;
        assert_eq!(run(&format!("http://{address}/"), &[], false).await.status, Status::Passing);
        let (address, _) = server(vec![moved]).await;
        let found = run(&format!("http://{address}/"), &[], true).await;
        assert_eq!(found.status, Status::Critical);
        assert!(found.output.contains("302 Found"), "{}", found.output);
    }

    #[tokio::test]
    async fn a_refused_connection_and_a_bad_url_are_critical() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
        let url = format!("http://{}/", listener.local_addr().expect("bound"));
        drop(listener);
        let found = run(&url, &[], false).await;
        assert_eq!(found.status, Status::Critical);
        assert!(found.output.starts_with(&format!("Get \"{url}\": ")), "{}", found.output);
        assert_eq!(run("no url", &[], false).await.status, Status::Critical);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_critical_after_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
        let url = format!("http://{}/", listener.local_addr().expect("bound"));
        let found = run(&url, &[], false).await;
        assert_eq!(found.output, format!("Get \"{url}\": context deadline exceeded"));
    }

    #[tokio::test]
    async fn a_large_body_is_cut() {
        let body = "x".repeat(5000);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{body}");
        let (address, _) = server(vec![answer.leak()]).await;
        assert_eq!(run(&format!("http://{address}/"), &[], false).await.output.len(), 100);
    }
}

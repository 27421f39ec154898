//! The way of one request through the frame: path, route, method, permission, handler, answer.
//! The order decides which error a client sees (spec/http-api-1.md §1.3).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode, Version};
use model::rpc::RpcError;
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::call::Call;
use super::context::{Context, Permission};
use super::error::ApiError;
use super::finish::{self, Form};
use super::params::Params;
use super::route::{Found, Route, Table};
use super::{body, options, path};

/// A request that does not wait and takes longer than this is logged.
const SLOW: Duration = Duration::from_secs(1);

/// The service that answers every request. axum carries it; its own table stays empty, because
/// Consul's paths are bytes, its 405s and 301s follow rules of their own, and all of that must
/// hold for unknown paths too. `stop` ends parked reads.
pub(crate) fn router(context: Arc<Context>, routes: Vec<Route>, stop: CancellationToken) -> Router {
    let door = Arc::new(Door::new(context, routes, stop));
    Router::new()
        .fallback(move |request: Request| Arc::clone(&door).answer(request))
        // Turns the handler into a service once instead of for each request.
        .with_state(())
}

/// The frame around all handlers.
struct Door {
    context: Arc<Context>,
    table: Table,
    trace: AtomicU64,
    stop: CancellationToken,
}

impl Door {
    fn new(context: Arc<Context>, routes: Vec<Route>, stop: CancellationToken) -> Self {
        let trace = AtomicU64::new(context.rng.u64());
        Self { table: Table::new(routes), context, trace, stop }
    }

    /// Answers one request. Dropping the future cancels what it does.
    async fn answer(self: Arc<Self>, request: Request) -> Response {
        let mut response = self.route(request).await;
        let settings = Arc::clone(&self.context.reloadable.borrow());
        finish::add_static_headers(response.headers_mut(), &settings.http_response_headers);
        response
    }

    async fn route(&self, request: Request) -> Response {
        let (parts, incoming) = request.into_parts();
        if let Some(text) = bad_host(&parts) {
            return finish::text(StatusCode::BAD_REQUEST, text);
        }
        let raw = parts.uri.path();
        let Some(decoded) = path::decode(raw) else {
            return finish::text(StatusCode::BAD_REQUEST, "400 Bad Request");
        };
        if !self.context.config.disable_http_unprintable_char_filter
            && path::has_unprintable(&decoded)
        {
            return finish::text(StatusCode::BAD_REQUEST, Bytes::new());
        }
        if let Some(clean) = path::cleaned(raw) {
            return moved(&clean, parts.uri.query());
        }
        let (route, rest_at, time) = match self.table.find(&parts.method, &decoded) {
            Found::Route(route, at, time) => (route, at, time),
            Found::NeedsSlash => return moved(&format!("{raw}/"), parts.uri.query()),
            Found::Nothing => return self.unknown(&decoded),
            Found::Method(allow) => {
                if Params::parse(parts.uri.query()).is_err() {
                    return finish::text(StatusCode::INTERNAL_SERVER_ERROR, Bytes::new());
                }
                return wrong_method(&parts.method, allow);
            }
        };
        let Ok(params) = Params::parse(parts.uri.query()) else {
            return finish::text(StatusCode::INTERNAL_SERVER_ERROR, Bytes::new());
        };
        let form = Form {
            pretty: params.has("pretty"),
            pretty_structures: self.context.config.dev,
            gzip: finish::accepts_gzip(&parts.headers),
        };
        let started = self.context.clock.now();
        let (body, upload) = if route.uploads {
            (Ok(Bytes::new()), Some(body::stream(incoming)))
        } else {
            (body::read(incoming, &parts.headers, route.body_max).await, None)
        };
        let call = Call {
            context: Arc::clone(&self.context),
            rest: Bytes::copy_from_slice(decoded.get(rest_at..).unwrap_or(&[])),
            method: parts.method,
            params,
            headers: parts.headers,
            trace_id: self.trace.fetch_add(1, Ordering::Relaxed),
            blocking: route.blocking,
            body,
            upload: Mutex::new(upload),
        };
        let trace_id = call.trace_id;
        let result = self.handle(route, call).await;
        let took = self.context.clock.now() - started;
        time.record(took.as_secs_f64());
        if took > SLOW && !route.blocking && !route.uploads {
            tracing::warn!(trace_id, path = raw, took_ms = options::millis(took), "slow request");
        }
        if let Err(error) = &result {
            tracing::debug!(trace_id, path = raw, status = error.status().as_u16(), %error, "refused");
        }
        finish::response(result, form)
    }

    async fn handle(&self, route: &Route, call: Call) -> Result<Answer, ApiError> {
        match route.permission {
            Permission::Open | Permission::ByServer | Permission::ByHandler => {}
            permission => self.context.authorizer.allow(&call.token(), permission)?,
        }
        if !call.blocking {
            return (route.handler)(call).await;
        }
        // A parked read ends with the agent instead of holding it up.
        tokio::select! {
            biased;
            answered = (route.handler)(call) => answered,
            () = self.stop.cancelled() => Err(RpcError::Leaving.into()),
        }
    }

    fn unknown(&self, path: &[u8]) -> Response {
        const IN_API: &str = "Invalid URL path: not a recognized HTTP API endpoint\n";
        const ELSEWHERE: &str = "Invalid URL path: if attempting to use the HTTP API, ensure the \
                                 path starts with '/v1/'\n";
        const NO_UI: &str = "Consul Agent: UI disabled. To enable, set ui_config.enabled=true in \
                             the agent configuration and restart.";
        if path == b"/" {
            return if self.context.config.ui {
                moved("/ui/", None)
            } else {
                finish::text(StatusCode::OK, NO_UI)
            };
        }
        let in_api = path.windows(4).any(|part| part == b"/v1/");
        finish::text(StatusCode::NOT_FOUND, if in_api { IN_API } else { ELSEWHERE })
    }
}

/// What is wrong with the `Host` headers. HTTP/1.1 demands exactly one (RFC 9112 §3.2).
fn bad_host(parts: &Parts) -> Option<&'static str> {
    if parts.version != Version::HTTP_11 {
        return None;
    }
    match parts.headers.get_all(header::HOST).iter().take(2).count() {
        0 => Some("400 Bad Request: missing required Host header"),
        1 => None,
        _ => Some("400 Bad Request: too many Host headers"),
    }
}

fn wrong_method(method: &Method, allow: &str) -> Response {
    if *method == Method::OPTIONS {
        let mut response = Response::new(Body::empty());
        if let Ok(value) = HeaderValue::from_str(allow) {
            response.headers_mut().insert(header::ALLOW, value);
        }
        return response;
    }
    let error = ApiError::Method { method: method.to_string(), allow: allow.to_owned() };
    finish::response(Err(error), Form::default())
}

/// 301. The location stays as encoded as it came.
fn moved(path: &str, query: Option<&str>) -> Response {
    let location = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut response = finish::text(StatusCode::MOVED_PERMANENTLY, Bytes::new());
    if let Ok(value) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

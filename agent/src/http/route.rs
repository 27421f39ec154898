//! The route table: which method and path lead where, and what each route needs.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use http::Method;
use metrics::Histogram;
use model::seam::BoxFuture;

use super::answer::Answer;
use super::call::Call;
use super::context::Permission;
use super::error::ApiError;

/// Bytes that a JSON body may have. Consul has no limit here; the largest sane registration is far
/// below this.
pub(crate) const JSON_BODY_MAX: usize = 2 << 20;

/// What answers a request.
pub(crate) type Handler =
    Arc<dyn Fn(Call) -> BoxFuture<'static, Result<Answer, ApiError>> + Send + Sync>;

/// One method of one path.
#[derive(Clone)]
pub struct Route {
    method: Method,
    pattern: &'static str,
    pub(crate) permission: Permission,
    pub(crate) body_max: usize,
    pub(crate) blocking: bool,
    /// Its body is read by its handler, as it comes.
    pub(crate) uploads: bool,
    pub(crate) handler: Handler,
}

impl Route {
    /// A route for `method`. A pattern that ends in `/` is a subtree: what follows is the
    /// parameter, slashes included. Every other pattern is exact.
    pub fn new<F, Fut>(method: Method, pattern: &'static str, handler: F) -> Self
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, ApiError>> + Send + 'static,
    {
        Self {
            method,
            pattern,
            permission: Permission::ByServer,
            body_max: 0,
            blocking: false,
            uploads: false,
            handler: Arc::new(move |call| Box::pin(handler(call))),
        }
    }

    /// A `GET` without body.
    pub fn get<F, Fut>(pattern: &'static str, handler: F) -> Self
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, ApiError>> + Send + 'static,
    {
        Self::new(Method::GET, pattern, handler)
    }

    /// A `GET` that waits for a change when the client names an index.
    pub fn watch<F, Fut>(pattern: &'static str, handler: F) -> Self
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, ApiError>> + Send + 'static,
    {
        Self { blocking: true, ..Self::new(Method::GET, pattern, handler) }
    }

    /// A `PUT` whose body is read by its handler, as it comes: [`Call::upload`].
    pub fn upload<F, Fut>(pattern: &'static str, handler: F) -> Self
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, ApiError>> + Send + 'static,
    {
        Self { uploads: true, ..Self::new(Method::PUT, pattern, handler) }
    }

    /// A `PUT` with a JSON body.
    pub fn put<F, Fut>(pattern: &'static str, handler: F) -> Self
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, ApiError>> + Send + 'static,
    {
        Self { body_max: JSON_BODY_MAX, ..Self::new(Method::PUT, pattern, handler) }
    }

    /// With another limit for the body.
    #[must_use]
    pub fn body_max(mut self, bytes: usize) -> Self {
        self.body_max = bytes;
        self
    }

    /// With what it needs of the token.
    #[must_use]
    pub fn needs(mut self, permission: Permission) -> Self {
        self.permission = permission;
        self
    }
}

/// All routes of one path.
struct Methods {
    pattern: &'static str,
    routes: Vec<(Route, Histogram)>,
    allow: String,
}

/// What a path leads to.
pub(crate) enum Found<'a> {
    /// A route, the length of the path before the parameter, and where its time is counted.
    Route(&'a Route, usize, &'a Histogram),
    /// The path is known, the method is not: value of `Allow`.
    Method(&'a str),
    /// A subtree without its final slash.
    NeedsSlash,
    /// Nothing.
    Nothing,
}

/// The table.
pub(crate) struct Table {
    exact: BTreeMap<&'static [u8], Methods>,
    /// Longest first.
    subtrees: Vec<Methods>,
}

impl Table {
    /// Invariant: no two routes have the same method and pattern.
    pub(crate) fn new(routes: impl IntoIterator<Item = Route>) -> Self {
        let mut all: BTreeMap<&'static str, Methods> = BTreeMap::new();
        for route in routes {
            let pattern = route.pattern;
            let methods = all.entry(pattern).or_insert_with(|| Methods {
                pattern,
                routes: Vec::new(),
                allow: "OPTIONS".to_owned(),
            });
            assert!(
                methods.routes.iter().all(|(other, _)| other.method != route.method),
                "two routes for {} {pattern}",
                route.method,
            );
            methods.allow.push(',');
            methods.allow.push_str(route.method.as_str());
            let path = pattern.trim_start_matches("/v1/").replace('/', "_");
            let time = metrics::histogram!(
                "consul_api_http", "method" => route.method.to_string(), "path" => path);
            methods.routes.push((route, time));
        }
        let (subtrees, exact): (Vec<_>, Vec<_>) =
            all.into_values().partition(|methods| methods.pattern.ends_with('/'));
        let mut subtrees = subtrees;
        subtrees.sort_by_key(|methods| std::cmp::Reverse(methods.pattern.len()));
        Self { exact: exact.into_iter().map(|m| (m.pattern.as_bytes(), m)).collect(), subtrees }
    }

    /// Looks up a decoded path.
    pub(crate) fn find(&self, method: &Method, path: &[u8]) -> Found<'_> {
        let methods = self.exact.get(path).or_else(|| {
            self.subtrees.iter().find(|methods| path.starts_with(methods.pattern.as_bytes()))
        });
        let Some(methods) = methods else {
            let slash =
                self.subtrees.iter().any(|m| m.pattern.as_bytes().strip_suffix(b"/") == Some(path));
            return if slash { Found::NeedsSlash } else { Found::Nothing };
        };
        match methods.routes.iter().find(|(route, _)| route.method == *method) {
            Some((route, time)) => Found::Route(route, methods.pattern.len(), time),
            None => Found::Method(&methods.allow),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let nothing = |_: Call| async { Ok(Answer::empty()) };
        Table::new([
            Route::get("/v1/agent/service/", nothing),
            Route::put("/v1/agent/service/register", nothing),
            Route::get("/v1/kv/", nothing),
            Route::put("/v1/kv/", nothing),
            Route::new(Method::DELETE, "/v1/kv/", nothing),
            Route::get("/v1/catalog/nodes", nothing),
        ])
    }

    fn word(found: &Found<'_>) -> String {
        match found {
            Found::Route(route, at, _) => format!("{} {} {at}", route.method, route.pattern),
            Found::Method(allow) => format!("allow {allow}"),
            Found::NeedsSlash => "slash".into(),
            Found::Nothing => "nothing".into(),
        }
    }

    #[test]
    fn exact_paths_shadow_subtrees_and_methods_are_listed() {
        let table = table();
        for (method, path, found) in [
            (Method::GET, "/v1/agent/service/web", "GET /v1/agent/service/ 18"),
            (Method::GET, "/v1/agent/service/register", "allow OPTIONS,PUT"),
            (Method::PUT, "/v1/agent/service/register", "PUT /v1/agent/service/register 26"),
            (Method::GET, "/v1/kv/a/b", "GET /v1/kv/ 7"),
            (Method::GET, "/v1/kv/", "GET /v1/kv/ 7"),
            (Method::POST, "/v1/kv/a", "allow OPTIONS,GET,PUT,DELETE"),
            (Method::HEAD, "/v1/kv/a", "allow OPTIONS,GET,PUT,DELETE"),
            (Method::GET, "/v1/kv", "slash"),
            (Method::GET, "/v1/catalog/nodes/", "nothing"),
            (Method::GET, "/v1/nope", "nothing"),
        ] {
            assert_eq!(word(&table.find(&method, path.as_bytes())), found, "{method} {path}");
        }
    }
}

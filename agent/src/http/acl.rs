//! `/v1/acl` while ACLs are off: every path that exists answers 401.

use http::Method;

use super::answer::Answer;
use super::call::Call;
use super::context::Permission;
use super::error::ApiError;
use super::route::{JSON_BODY_MAX, Route};

pub(crate) fn routes() -> Vec<Route> {
    const GET: &[Method] = &[Method::GET];
    const PUT: &[Method] = &[Method::PUT];
    const POST: &[Method] = &[Method::POST];
    const ALL: &[Method] = &[Method::GET, Method::PUT, Method::DELETE];
    let table: [(&'static str, &[Method]); 25] = [
        ("/v1/acl/bootstrap", PUT),
        ("/v1/acl/login", POST),
        ("/v1/acl/logout", POST),
        ("/v1/acl/replication", GET),
        ("/v1/acl/tokens", GET),
        ("/v1/acl/token", PUT),
        ("/v1/acl/token/self", GET),
        ("/v1/acl/token/", ALL),
        ("/v1/acl/policies", GET),
        ("/v1/acl/policy", PUT),
        ("/v1/acl/policy/", ALL),
        ("/v1/acl/policy/name/", GET),
        ("/v1/acl/roles", GET),
        ("/v1/acl/role", PUT),
        ("/v1/acl/role/", ALL),
        ("/v1/acl/role/name/", GET),
        ("/v1/acl/auth-methods", GET),
        ("/v1/acl/auth-method", PUT),
        ("/v1/acl/auth-method/", ALL),
        ("/v1/acl/binding-rules", GET),
        ("/v1/acl/binding-rule", PUT),
        ("/v1/acl/binding-rule/", ALL),
        ("/v1/acl/templated-policies", GET),
        ("/v1/acl/templated-policy/name/", GET),
        ("/v1/internal/acl/authorize", POST),
    ];
    let preview = Route::new(Method::POST, "/v1/acl/templated-policy/preview/", disabled);
    table
        .into_iter()
        .flat_map(|(pattern, methods)| {
            methods.iter().map(move |method| Route::new(method.clone(), pattern, disabled))
        })
        .chain([preview])
        .map(|route| route.body_max(JSON_BODY_MAX).needs(Permission::Open))
        .collect()
}

async fn disabled(_call: Call) -> Result<Answer, ApiError> {
    Err(ApiError::Unauthorized("ACL support disabled".into()))
}

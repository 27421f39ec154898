use model::rpc::{Body, Consistency, Op, RpcError};

use super::fixture::{config, open, open_with, reply};
use crate::http::{Answer, Call, Route};

#[tokio::test]
async fn paths_and_methods_get_gos_answers() {
    let door = open(|_| reply(Body::Names(vec![]))).await;
    const NOT_API: &str =
        "Invalid URL path: if attempting to use the HTTP API, ensure the path starts with '/v1/'\n";
    const NO_ENDPOINT: &str = "Invalid URL path: not a recognized HTTP API endpoint\n";
    for (method, path, status, text) in [
        ("GET", "/v1/nope", 404, NO_ENDPOINT),
        ("GET", "/v1/acl/list", 404, NO_ENDPOINT),
        ("GET", "/x/v1/y", 404, NO_ENDPOINT),
        ("GET", "/nope", 404, NOT_API),
        ("GET", "/v1/catalog/nodes/", 404, NO_ENDPOINT),
        ("POST", "/v1/kv/a", 405, "method POST not allowed"),
        ("POST", "/v1/catalog/nodes?a=%", 500, ""),
        ("GET", "/v1/catalog/nodes?a=%zz", 500, ""),
        ("GET", "/v1/catalog/nodes?a;b", 500, ""),
        ("GET", "/v1/kv/a%0Ab", 400, ""),
        ("GET", "/v1/kv/%zz", 400, "400 Bad Request"),
        (
            "GET",
            "/",
            200,
            "Consul Agent: UI disabled. To enable, set ui_config.enabled=true in the agent \
             configuration and restart.",
        ),
        ("PUT", "/v1/acl/bootstrap", 401, "ACL support disabled"),
        ("GET", "/v1/acl/token/self", 401, "ACL support disabled"),
        ("POST", "/v1/acl/login", 401, "ACL support disabled"),
    ] {
        let seen = door.send(method, path, "", b"").await;
        assert_eq!((seen.status, &*seen.text()), (status, text), "{method} {path}");
        assert_eq!(seen.header("x-consul-default-acl-policy"), Some("allow"), "{path}");
        assert_eq!(seen.header("x-site"), Some("ours"), "{path}");
        assert_eq!(seen.header("vary"), Some("Accept-Encoding"), "{path}");
    }
    for (path, location) in [
        ("/v1/kv", "/v1/kv/"),
        ("/v1/kv?recurse", "/v1/kv/?recurse"),
        ("/v1/kv/a//b?raw", "/v1/kv/a/b?raw"),
        ("/v1/kv/a/../%2F", "/v1/kv/%2F"),
        ("/v1/catalog/service", "/v1/catalog/service/"),
    ] {
        let seen = door.get(path).await;
        assert_eq!((seen.status, seen.header("location")), (301, Some(location)), "{path}");
    }
    assert_eq!(door.asked_count(), 0);
}

/// Targets without a path of ours, and heads that RFC 9112 §3.2 refuses.
#[tokio::test]
async fn odd_request_heads_are_answered() {
    let door = open(|_| reply(Body::Address("a:1".into()))).await;
    for (head, status, text) in [
        ("GET http://other/v1/status/leader HTTP/1.1\r\nHost: x\r\n", 200, "\"a:1\""),
        ("GET /v1/status/leader HTTP/1.0\r\n", 200, "\"a:1\""),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n", 301, ""),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\n", 301, ""),
        (
            "GET /v1/status/leader HTTP/1.1\r\n",
            400,
            "400 Bad Request: missing required Host header",
        ),
        (
            "GET /v1/status/leader HTTP/1.1\r\nHost: x\r\nHost: y\r\n",
            400,
            "400 Bad Request: too many Host headers",
        ),
    ] {
        let seen = door.raw(format!("{head}Connection: close\r\n\r\n").as_bytes()).await;
        assert_eq!((seen.status, &*seen.text()), (status, text), "{head}");
    }
}

#[tokio::test]
async fn methods_are_listed_and_options_are_answered() {
    let door = open(|_| reply(Body::Names(vec![]))).await;
    for (method, path, status) in
        [("OPTIONS", "/v1/kv/a", 200), ("POST", "/v1/kv/a", 405), ("HEAD", "/v1/kv/a", 405)]
    {
        let seen = door.send(method, path, "", b"").await;
        assert_eq!(seen.status, status, "{method}");
        assert_eq!(seen.header("allow"), Some("OPTIONS,GET,PUT,DELETE"), "{method}");
    }
    let seen = door.send("OPTIONS", "/v1/status/leader", "", b"").await;
    assert_eq!((seen.header("allow"), seen.text()), (Some("OPTIONS,GET"), String::new()));
}

#[tokio::test]
async fn common_parameters_reach_the_backend_or_are_refused() {
    let door = open(|_| reply(Body::Nodes(vec![]))).await;
    door.fake.released.notify_one();
    let path =
        "/v1/catalog/nodes?index=7&wait=10s&stale&token=t&dc=dc1&node-meta=a:b:c&node-meta=d";
    let seen = door.get(path).await;
    assert_eq!((seen.status, &*seen.text()), (200, "[]"));
    for (name, value) in [
        ("x-consul-index", "42"),
        ("x-consul-knownleader", "true"),
        ("x-consul-lastcontact", "7"),
        ("x-consul-effective-consistency", "leader"),
        ("x-consul-query-backend", "blocking-query"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
    let asked = door.asked();
    assert_eq!((asked.min_index.0, asked.consistency), (7, Consistency::Stale));
    assert!((10_000..10_625).contains(&asked.wait_ms), "{}", asked.wait_ms);
    assert_eq!((&*asked.token, &*asked.dc, asked.hold_ms), ("t", "", 7_000));
    let meta = [("a".into(), "b:c".into()), ("d".into(), "".into())].into();
    assert_eq!(asked.op, Op::Nodes { meta });

    for (query, status, text) in [
        ("wait=abc", 400, "Invalid wait time"),
        ("index=-1", 400, "Invalid index"),
        ("index=x", 400, "Invalid index"),
        ("max_stale=x", 400, "Invalid max_stale value \"x\""),
        ("stale&consistent", 400, "Cannot specify ?stale with ?consistent, conflicting semantics."),
        (
            "cached&consistent",
            400,
            "Cannot specify ?cached with ?consistent, conflicting semantics.",
        ),
        (
            "ns=x",
            400,
            "Invalid query parameter: \"ns\" - Namespaces are a Consul Enterprise feature",
        ),
        ("dc=nowhere", 500, "No path to datacenter"),
        ("dc=dc1&datacenter=nowhere", 500, "No path to datacenter"),
    ] {
        let seen = door.get(&format!("/v1/catalog/nodes?{query}")).await;
        assert_eq!((seen.status, &*seen.text()), (status, text), "{query}");
        assert_eq!(seen.header("content-type"), Some("text/plain; charset=utf-8"), "{query}");
    }
    assert_eq!(door.asked_count(), 1);
    let seen = door.send("GET", "/v1/catalog/nodes", "Cache-Control: max-age=x\r\n", b"").await;
    assert_eq!((seen.status, &*seen.text()), (400, "Invalid Cache-Control header."));
    let seen = door.send("GET", "/v1/catalog/nodes", "X-Consul-Partition: p\r\n", b"").await;
    assert_eq!(seen.status, 400);
}

#[tokio::test]
async fn an_answer_staler_than_asked_for_is_asked_of_the_leader() {
    let door = open(|_| reply(Body::Nodes(vec![]))).await;
    // The fake's last contact is 7 ms ago.
    assert_eq!(door.get("/v1/catalog/nodes?max_stale=8ms").await.status, 200);
    assert_eq!((door.asked_count(), door.asked().consistency), (1, Consistency::Stale));
    assert_eq!(door.get("/v1/catalog/nodes?max_stale=6ms").await.status, 200);
    assert_eq!((door.asked_count(), door.asked().consistency), (3, Consistency::Default));
}

#[tokio::test]
async fn a_backends_errors_have_their_status() {
    for (error, status) in [
        (RpcError::NoLeader, 500),
        (RpcError::Busy, 429),
        (RpcError::AclNotFound, 403),
        (RpcError::Broken("reset".into()), 500),
    ] {
        let text = error.to_string();
        let door = open(move |_| Err(error.clone())).await;
        let seen = door.get("/v1/catalog/nodes").await;
        assert_eq!((seen.status, seen.text()), (status, text));
    }
}

#[tokio::test]
async fn answers_are_indented_and_compressed_on_request() {
    let names = |count: usize| Body::Names(vec!["0123456789".into(); count]);
    let door = open(move |_| reply(names(2))).await;
    let seen = door.get("/v1/status/peers?pretty=false").await;
    assert_eq!(seen.text(), "[\n    \"0123456789\",\n    \"0123456789\"\n]\n");
    let gzip = "Accept-Encoding: gzip\r\n";
    let seen = door.send("GET", "/v1/status/peers", gzip, b"").await;
    assert_eq!(seen.header("content-encoding"), None);

    let door = open(move |_| reply(names(200))).await;
    let seen = door.send("GET", "/v1/status/peers", gzip, b"").await;
    assert_eq!(seen.header("content-encoding"), Some("gzip"));
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&seen.body[..]), &mut text)
        .expect("gzip");
    assert!(text.starts_with("[\"0123456789\",") && text.len() == 200 * 13 + 1, "{text}");
    let seen = door.get("/v1/status/peers").await;
    assert_eq!(seen.header("content-encoding"), None);
}

#[tokio::test]
async fn a_development_agent_indents_structures_alone() {
    let mut config = config();
    config.dev = true;
    let door = open_with(config, vec![], |request| match request.op {
        Op::StatusLeader => reply(Body::Address("a:1".into())),
        Op::Kv(_) => reply(Body::Bool(true)),
        _ => reply(Body::Names(vec!["x".into()])),
    })
    .await;
    assert_eq!(door.get("/v1/status/leader").await.text(), "\"a:1\"");
    assert_eq!(door.get("/v1/status/peers").await.text(), "[\n    \"x\"\n]\n");
    assert_eq!(door.put("/v1/kv/a", "").await.text(), "true");
    assert_eq!(door.put("/v1/kv/a?pretty", "").await.text(), "true\n");
}

#[tokio::test]
async fn a_panic_closes_its_connection_alone() {
    async fn panics(_call: Call) -> Result<Answer, crate::http::ApiError> {
        panic!("a defect in a handler");
    }
    let routes = vec![Route::get("/v1/panic", panics)];
    let door = open_with(config(), routes, |_| reply(Body::Address("a:1".into()))).await;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(door.address).await.expect("listening");
    stream.write_all(b"GET /v1/panic HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.expect("closed");
    assert!(all.is_empty(), "{}", String::from_utf8_lossy(&all));
    assert_eq!(door.get("/v1/status/leader").await.status, 200);
}

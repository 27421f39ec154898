use std::sync::Arc;

use bytes::Bytes;
use model::command::Rejection;
use model::row::{CheckV1, KvV1, NodeV1, ServiceV1, SessionBehavior, SessionV1, Status, WeightsV1};
use model::rpc::{
    Body, CheckStateFilter, Consistency, Instance, KvWrite, Op, RaftServer, Request, RpcError,
};
use model::{LogIndex, NodeId, SessionId};

use super::fixture::{Open, open, reply};

fn entry(key: &'static str, value: &'static str) -> Arc<KvV1> {
    Arc::new(KvV1 {
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::from_static(value.as_bytes()),
        flags: 42,
        lock_index: 0,
        session: None,
        version: 1,
        lease: None,
        create_index: LogIndex(31),
        modify_index: LogIndex(57),
    })
}

fn kv_script(request: &Request) -> model::rpc::Answer {
    match &request.op {
        Op::KvGet { key } if key == "there" => reply(Body::KvEntry(Some(entry("there", "<v>")))),
        Op::KvGet { .. } => reply(Body::KvEntry(None)),
        Op::KvList { prefix } if prefix.is_empty() || prefix == "none" => {
            reply(Body::KvEntries(vec![]))
        }
        Op::KvList { .. } => reply(Body::KvEntries(vec![entry("a", ""), entry("b", "x")])),
        Op::KvKeys { prefix, .. } if prefix == "some" => {
            reply(Body::Keys(vec![Bytes::from_static(b"some/"), Bytes::from_static(b"some<")]))
        }
        Op::KvKeys { .. } => reply(Body::Keys(vec![])),
        Op::Kv(KvWrite::Acquire { session, .. }) if session.is_empty() => {
            Err(RpcError::Rejected(Rejection::MissingSession))
        }
        Op::Kv(KvWrite::Acquire { session, .. }) => {
            Err(RpcError::Rejected(Rejection::InvalidSession(session.to_string())))
        }
        Op::Kv(KvWrite::Cas { .. } | KvWrite::Release { .. }) => reply(Body::Bool(false)),
        Op::Kv(_) => reply(Body::Bool(true)),
        _ => Err(RpcError::NotReady),
    }
}

async fn expect(door: &Open, table: &[(&str, &str, u16, &str)]) {
    for (method, path, status, text) in table {
        let seen = door.send(method, path, "", b"").await;
        assert_eq!((seen.status, &*seen.text()), (*status, *text), "{method} {path}");
    }
}

#[tokio::test]
async fn kv_statuses_and_texts() {
    let door = open(kv_script).await;
    let there = r#"[{"LockIndex":0,"Key":"there","Flags":42,"Value":"PHY+","CreateIndex":31,"ModifyIndex":57}]"#;
    expect(
        &door,
        &[
            ("GET", "/v1/kv/there", 200, there),
            ("GET", "/v1/kv/there?raw", 200, "<v>"),
            ("GET", "/v1/kv/gone", 404, ""),
            ("GET", "/v1/kv/gone?raw", 404, ""),
            ("GET", "/v1/kv/", 400, "Missing key name"),
            ("GET", "/v1/kv/?raw", 400, "Missing key name"),
            ("GET", "/v1/kv/?recurse", 404, ""),
            ("GET", "/v1/kv/none?recurse=false", 404, ""),
            ("GET", "/v1/kv/some?keys", 200, r#"["some/","some\u003c"]"#),
            ("GET", "/v1/kv/?keys", 200, "[]"),
            ("GET", "/v1/kv/none?keys&recurse&raw", 404, ""),
            ("PUT", "/v1/kv/a", 200, "true"),
            ("PUT", "/v1/kv/a?cas=0", 200, "false"),
            ("PUT", "/v1/kv/a?release=s", 200, "false"),
            ("PUT", "/v1/kv/", 400, "Missing key name"),
            ("PUT", "/v1/kv/a?acquire", 500, "raft apply failed: missing session"),
            ("PUT", "/v1/kv/a?acquire=xy", 500, "raft apply failed: invalid session \"xy\""),
            ("PUT", "/v1/kv/a?cas=0&acquire=xxx", 400, "Conflicting flags: acquire=xxx&cas=0\n"),
            ("PUT", "/v1/kv/a?wait=x", 400, "Invalid wait time"),
            (
                "PUT",
                "/v1/kv/a?flags=abc",
                500,
                "strconv.ParseUint: parsing \"abc\": invalid syntax",
            ),
            ("PUT", "/v1/kv/a?flags=-1", 500, "strconv.ParseUint: parsing \"-1\": invalid syntax"),
            ("PUT", "/v1/kv/a?cas=", 500, "strconv.ParseUint: parsing \"\": invalid syntax"),
            (
                "PUT",
                "/v1/kv/a?cas=18446744073709551616",
                500,
                "strconv.ParseUint: parsing \"18446744073709551616\": value out of range",
            ),
            ("DELETE", "/v1/kv/a", 200, "true"),
            ("DELETE", "/v1/kv/", 400, "Missing key name"),
            ("DELETE", "/v1/kv/?recurse", 200, "true"),
            ("DELETE", "/v1/kv/a?recurse&cas=1", 400, "Conflicting flags: cas=1&recurse=\n"),
        ],
    )
    .await;
}

#[tokio::test]
async fn kv_headers() {
    let door = open(kv_script).await;
    for path in ["/v1/kv/there", "/v1/kv/gone", "/v1/kv/there?raw", "/v1/kv/none?keys"] {
        let seen = door.get(path).await;
        assert_eq!(seen.header("x-consul-index"), Some("42"), "{path}");
        assert_eq!(seen.header("x-consul-lastcontact"), Some("7"), "{path}");
        let raw = path.ends_with("raw");
        let guarded = raw.then_some("nosniff");
        assert_eq!(seen.header("x-content-type-options"), guarded, "{path}");
        assert_eq!(seen.header("content-security-policy"), raw.then_some("sandbox"), "{path}");
    }
    // An empty body has no type, as in Consul.
    assert_eq!(door.get("/v1/kv/gone").await.header("content-type"), None);
    let raw = door.get("/v1/kv/there?raw").await;
    assert_eq!(raw.header("content-type"), Some("text/plain"));
    assert_eq!(raw.header("content-length"), Some("3"));
}

#[tokio::test]
async fn kv_requests_carry_bytes_as_they_came() {
    let door = open(kv_script).await;
    let key = |bytes: &'static [u8]| Bytes::from_static(bytes);
    for (path, expected) in [
        ("/v1/kv/a%2F%2Fb+c%20d", key(b"a//b+c d")),
        ("/v1/kv/%2Ffoo", key(b"/foo")),
        ("/v1/kv/%ff", key(b"\xff")),
        ("/v1/kv/foo/", key(b"foo/")),
    ] {
        door.get(path).await;
        assert_eq!(door.asked().op, Op::KvGet { key: expected }, "{path}");
    }
    for (query, separator) in [
        ("keys", &b""[..]),
        ("keys&separator=/", b"/"),
        ("keys&seperator=-", b"-"),
        ("keys&seperator=-&separator=%ff", b"\xff"),
    ] {
        door.get(&format!("/v1/kv/p?{query}")).await;
        let op = Op::KvKeys { prefix: key(b"p"), separator: Bytes::copy_from_slice(separator) };
        assert_eq!(door.asked().op, op, "{query}");
    }
    door.put("/v1/kv/a?flags=18446744073709551615&acquire=s", b"\x00\xff").await;
    let write = KvWrite::Acquire {
        key: key(b"a"),
        value: key(b"\x00\xff"),
        flags: u64::MAX,
        session: "s".into(),
    };
    assert_eq!(door.asked().op, Op::Kv(write));
    door.put("/v1/kv/a?cas=7", b"v").await;
    let write = KvWrite::Cas { key: key(b"a"), value: key(b"v"), flags: 0, index: LogIndex(7) };
    assert_eq!(door.asked().op, Op::Kv(write));
    door.send("DELETE", "/v1/kv/a?cas=0", "", b"").await;
    assert_eq!(door.asked().op, Op::Kv(KvWrite::DeleteCas { key: key(b"a"), index: LogIndex(0) }));
    door.send("DELETE", "/v1/kv/a/?recurse", "", b"").await;
    assert_eq!(door.asked().op, Op::Kv(KvWrite::DeleteTree { prefix: key(b"a/") }));
}

fn session() -> Arc<SessionV1> {
    Arc::new(SessionV1 {
        id: SessionId([0x22; 16]),
        name: "".into(),
        node: "own".into(),
        lock_delay_ns: 15_000_000_000,
        behavior: SessionBehavior::Delete,
        ttl: "10s".into(),
        ttl_ms: 10_000,
        node_checks: Some(vec!["serfHealth".into()]),
        service_checks: None,
        checks: vec![],
        create_index: LogIndex(41),
        modify_index: LogIndex(41),
    })
}

#[tokio::test]
async fn sessions() {
    let door = open(|request| match &request.op {
        Op::SessionCreate(session) if &*session.behavior == "x" => {
            Err(RpcError::Rejected(Rejection::Other("Invalid Behavior setting 'x'".into())))
        }
        Op::SessionCreate(_) => reply(Body::Session(SessionId([0x22; 16]))),
        Op::SessionRenew { id } | Op::SessionGet { id } if &**id == "gone" => {
            reply(Body::Sessions(vec![]))
        }
        Op::SessionDestroy { .. } => reply(Body::Done),
        _ => reply(Body::Sessions(vec![session()])),
    })
    .await;
    let one = r#"[{"ID":"22222222-2222-2222-2222-222222222222","Name":"","Node":"own","LockDelay":15000000000,"Behavior":"delete","TTL":"10s","NodeChecks":["serfHealth"],"ServiceChecks":null,"CreateIndex":41,"ModifyIndex":41}]"#;
    expect(
        &door,
        &[
            ("PUT", "/v1/session/create", 200, r#"{"ID":"22222222-2222-2222-2222-222222222222"}"#),
            ("PUT", "/v1/session/destroy/any", 200, "true"),
            ("PUT", "/v1/session/destroy/", 400, "Missing session"),
            ("PUT", "/v1/session/renew/gone", 404, "Session id 'gone' not found"),
            ("PUT", "/v1/session/renew/", 400, "Missing session"),
            ("PUT", "/v1/session/renew/x", 200, one),
            ("GET", "/v1/session/info/gone", 200, "[]"),
            ("GET", "/v1/session/info/x", 200, one),
            ("GET", "/v1/session/info/", 400, "Missing session"),
            ("GET", "/v1/session/node/", 400, "Missing node name"),
            ("GET", "/v1/session/node/own", 200, one),
            ("GET", "/v1/session/list", 200, one),
            ("POST", "/v1/session/create", 405, "method POST not allowed"),
        ],
    )
    .await;
    assert_eq!(door.get("/v1/session/list").await.header("x-consul-index"), Some("42"));
    for (body, status, text) in [
        ("{", 400, "Request decode failed: unexpected EOF"),
        (" ", 400, "Request decode failed: EOF"),
        ("x", 400, "Request decode failed: invalid character 'x' looking for beginning of value"),
        (
            r#"{"TTL":5}"#,
            400,
            "Request decode failed: json: cannot unmarshal number into Go struct field \
             SessionRequest.TTL of type string",
        ),
        (
            r#"{"LockDelay":"1d"}"#,
            400,
            "Request decode failed: time: unknown unit \"d\" in duration \"1d\"",
        ),
        (r#"{"Behavior":"x"}"#, 500, "Invalid Behavior setting 'x'"),
        (r#"{"Node":""}"#, 500, "Must provide Node"),
    ] {
        let seen = door.put("/v1/session/create", body).await;
        assert_eq!((seen.status, &*seen.text()), (status, text), "{body}");
    }
    door.put("/v1/session/create", r#"{"ttl":"10s","Behavior":"delete","Any":1} trailing"#).await;
    let Op::SessionCreate(asked) = door.asked().op else { panic!("a creation") };
    assert_eq!((&*asked.ttl, &*asked.behavior, &*asked.node), ("10s", "delete", "own"));
}

fn node() -> Arc<NodeV1> {
    Arc::new(NodeV1 {
        name: "n1".into(),
        id: Some(NodeId([0x33; 16])),
        address: "10.0.0.7".into(),
        tagged_addresses: Some([("lan".into(), "10.0.0.7".into())].into()),
        meta: None,
        locality: None,
        create_index: LogIndex(13),
        modify_index: LogIndex(14),
    })
}

fn service(id: &str) -> Arc<ServiceV1> {
    Arc::new(ServiceV1 {
        node: "n1".into(),
        id: id.into(),
        name: "web".into(),
        kind: "".into(),
        tags: vec!["v1".into()],
        address: "".into(),
        port: 80,
        socket_path: "".into(),
        tagged_addresses: [].into(),
        meta: None,
        weights: WeightsV1::default(),
        enable_tag_override: false,
        proxy_json: None,
        connect_native: false,
        locality: None,
        create_index: LogIndex(21),
        modify_index: LogIndex(25),
    })
}

fn check(id: &str, status: Status) -> Arc<CheckV1> {
    Arc::new(CheckV1 {
        node: "n1".into(),
        id: id.into(),
        name: "c".into(),
        status,
        notes: "".into(),
        output: "".into(),
        service_id: "".into(),
        service_name: "".into(),
        service_tags: vec![],
        kind: "".into(),
        interval: "".into(),
        timeout: "".into(),
        exposed_port: 0,
        definition_json: None,
        create_index: LogIndex(22),
        modify_index: LogIndex(30),
    })
}

const NODE: &str = r#"{"ID":"33333333-3333-3333-3333-333333333333","Node":"n1","Address":"10.0.0.7","Datacenter":"dc1","TaggedAddresses":{"lan":"10.0.0.7"},"Meta":null,"CreateIndex":13,"ModifyIndex":14}"#;
const WEB1: &str = r#"{"ID":"web-1","Service":"web","Tags":["v1"],"Address":"","Meta":null,"Port":80,"Weights":{"Passing":1,"Warning":1},"EnableTagOverride":false,"Proxy":{"Mode":"","MeshGateway":{},"Expose":{}},"Connect":{},"PeerName":"","CreateIndex":21,"ModifyIndex":25}"#;

fn discovery_script(request: &Request) -> model::rpc::Answer {
    let instance = |id: &str, status: Status| Instance {
        node: node(),
        service: service(id),
        checks: vec![check("serfHealth", status)],
    };
    match &request.op {
        Op::Nodes { .. } => reply(Body::Nodes(vec![node()])),
        Op::Services { .. } => reply(Body::Services(vec![
            ("consul".into(), vec![]),
            ("web".into(), vec!["v1".into(), "v2".into()]),
        ])),
        Op::AllInstances { .. } | Op::HealthService { .. } => reply(Body::Instances(vec![
            instance("web-1", Status::Passing),
            instance("web-2", Status::Warning),
        ])),
        Op::ServiceNodes { .. } => reply(Body::Instances(vec![Instance {
            node: node(),
            service: service("web-1"),
            checks: vec![],
        }])),
        Op::NodeServices { node: name } if &**name == "ghost" => reply(Body::Node(None)),
        Op::NodeServices { .. } => reply(Body::Node(Some((node(), vec![service("web-1")])))),
        Op::HealthNode { .. } | Op::HealthChecks { .. } | Op::HealthState { .. } => {
            reply(Body::Checks(vec![check("a", Status::Passing), check("b", Status::Critical)]))
        }
        Op::Datacenters => reply(Body::Names(vec!["dc1".into()])),
        Op::Register(_) | Op::Deregister { .. } => reply(Body::Done),
        _ => Err(RpcError::NotReady),
    }
}

#[tokio::test]
async fn catalog() {
    let door = open(discovery_script).await;
    let flat = r#"[{"ID":"33333333-3333-3333-3333-333333333333","Node":"n1","Address":"10.0.0.7","Datacenter":"dc1","TaggedAddresses":{"lan":"10.0.0.7"},"NodeMeta":null,"ServiceKind":"","ServiceID":"web-1","ServiceName":"web","ServiceTags":["v1"],"ServiceAddress":"","ServiceWeights":{"Passing":1,"Warning":1},"ServiceMeta":{},"ServicePort":80,"ServiceSocketPath":"","ServiceEnableTagOverride":false,"ServiceProxy":{"Mode":"","MeshGateway":{},"Expose":{}},"ServiceConnect":{},"ServiceLocality":null,"CreateIndex":21,"ModifyIndex":25}]"#;
    let map = format!(r#"{{"Node":{NODE},"Services":{{"web-1":{WEB1}}}}}"#);
    let list = format!(r#"{{"Node":{NODE},"Services":[{WEB1}]}}"#);
    let filtered = format!(r#"{{"Node":{NODE},"Services":{{}}}}"#);
    expect(
        &door,
        &[
            ("GET", "/v1/catalog/datacenters", 200, r#"["dc1"]"#),
            ("GET", "/v1/catalog/nodes?near=_agent", 200, &format!("[{NODE}]")),
            ("GET", "/v1/catalog/nodes?filter=Node==n2", 200, "[]"),
            ("GET", "/v1/catalog/services", 200, r#"{"consul":[],"web":["v1","v2"]}"#),
            ("GET", "/v1/catalog/services?filter=ServiceID==%60web-1%60", 200, r#"{"web":["v1"]}"#),
            ("GET", "/v1/catalog/services?filter=ServicePort==1", 200, "{}"),
            ("GET", "/v1/catalog/service/web", 200, flat),
            ("GET", "/v1/catalog/service/web?filter=ServicePort==1", 200, "[]"),
            ("GET", "/v1/catalog/service/web?peer=x", 200, "[]"),
            ("GET", "/v1/catalog/service/", 400, "Missing service name"),
            ("GET", "/v1/catalog/connect/", 400, "Missing service name"),
            ("GET", "/v1/catalog/node/n1", 200, &map),
            ("GET", "/v1/catalog/node/n1?filter=Port==1", 200, &filtered),
            ("GET", "/v1/catalog/node/ghost", 200, "null"),
            ("GET", "/v1/catalog/node/", 400, "Missing node name"),
            ("GET", "/v1/catalog/node-services/n1", 200, &list),
            ("GET", "/v1/catalog/node-services/ghost", 200, r#"{"Node":null,"Services":null}"#),
            (
                "GET",
                "/v1/catalog/nodes?filter=Nope==1",
                500,
                "Failed to create boolean expression evaluator: Selector \"Nope\" is not valid",
            ),
            (
                "GET",
                "/v1/catalog/nodes?filter=Node+%3D%3D+a-b",
                500,
                "Failed to create boolean expression evaluator: 1:10 (9): no match found",
            ),
        ],
    )
    .await;
    assert_eq!(door.get("/v1/catalog/datacenters").await.header("x-consul-index"), None);
    door.get("/v1/catalog/connect/web?tag=a&tag=&node-meta=k:v").await;
    let op = Op::ServiceNodes {
        service: "web".into(),
        tags: vec!["a".into(), "".into()],
        meta: [("k".into(), "v".into())].into(),
        connect: true,
    };
    assert_eq!(door.asked().op, op);
}

#[tokio::test]
async fn catalog_writes() {
    let door = open(discovery_script).await;
    for (path, body, status, text) in [
        ("register", r#"{"Node":"n9","Address":"10.9.9.9"}"#, 200, "true"),
        ("register", "", 400, "Request decode failed: EOF"),
        ("register", r#"{"Node":"n9""#, 400, "Request decode failed: unexpected EOF"),
        ("register", r#"{"Nam":"x"}"#, 400, "Request decode failed: json: unknown field \"Nam\""),
        ("register", r#"{"Node":"n9"}"#, 500, "Must provide address if SkipNodeUpdate is not set"),
        (
            "register",
            r#"{"Node":"n9","Address":"a","Datacenter":"x"}"#,
            500,
            "No path to datacenter",
        ),
        ("register?dc=x", r#"{"Node":"n9","Address":"a"}"#, 500, "No path to datacenter"),
        ("register?dc=dc1", r#"{"Node":"n9","Address":"a","Datacenter":"x"}"#, 200, "true"),
        ("deregister", r#"{"Node":"n9","ServiceID":"s"}"#, 200, "true"),
        ("deregister", r#"{"ServiceID":"s"}"#, 500, "Must provide node"),
        (
            "deregister",
            "[]",
            400,
            "Request decode failed: json: cannot unmarshal array into Go struct field DeregisterRequest of type struct",
        ),
    ] {
        let seen = door.put(&format!("/v1/catalog/{path}"), body).await;
        assert_eq!((seen.status, &*seen.text()), (status, text), "{path} {body}");
    }
}

#[tokio::test]
async fn health() {
    let door = open(discovery_script).await;
    let check = |id: &str, status: &str| {
        format!(
            r#"{{"Node":"n1","CheckID":"{id}","Name":"c","Status":"{status}","Notes":"","Output":"","ServiceID":"","ServiceName":"","ServiceTags":[],"Type":"","Interval":"","Timeout":"","ExposedPort":0,"Definition":{{}},"CreateIndex":22,"ModifyIndex":30}}"#
        )
    };
    let both = format!("[{},{}]", check("a", "passing"), check("b", "critical"));
    let bad = format!("[{}]", check("b", "critical"));
    let one = format!(
        r#"[{{"Node":{NODE},"Service":{WEB1},"Checks":[{}]}}]"#,
        check("serfHealth", "passing")
    );
    expect(
        &door,
        &[
            ("GET", "/v1/health/node/n1", 200, &both),
            ("GET", "/v1/health/node/n1?filter=Status+!=+passing", 200, &bad),
            ("GET", "/v1/health/node/", 400, "Missing node name"),
            ("GET", "/v1/health/node/?wait=x", 400, "Invalid wait time"),
            ("GET", "/v1/health/checks/web", 200, &both),
            ("GET", "/v1/health/checks/", 400, "Missing service name"),
            ("GET", "/v1/health/state/any", 200, &both),
            ("GET", "/v1/health/state/", 400, "Missing check state"),
            ("GET", "/v1/health/service/", 400, "Missing service name"),
            ("GET", "/v1/health/service/web?passing=x", 400, "Invalid value for ?passing"),
            (
                "GET",
                "/v1/health/service/web?peer=a&sg=b",
                400,
                "peer-name and sameness-group are mutually exclusive",
            ),
            ("GET", "/v1/health/service/web?passing", 200, &one),
            ("GET", "/v1/health/service/web?passing=1", 200, &one),
            ("GET", "/v1/health/connect/web?passing=True", 200, &one),
            ("GET", "/v1/health/service/web?filter=Service.ID+==+%22web-1%22", 200, &one),
            ("GET", "/v1/health/service/web?filter=Checks.Status==critical", 200, "[]"),
        ],
    )
    .await;
    let seen = door.get("/v1/health/service/web?passing=false").await;
    assert_eq!(seen.text().matches("\"Checks\"").count(), 2);
    for (word, state) in [
        ("any", None),
        ("warning", Some(CheckStateFilter::Only(Status::Warning))),
        ("Warning", Some(CheckStateFilter::Nothing)),
    ] {
        door.get(&format!("/v1/health/state/{word}")).await;
        assert_eq!(door.asked().op, Op::HealthState { state, meta: [].into() }, "{word}");
    }
}

#[tokio::test]
async fn status_and_operator() {
    let door = open(|request| match &request.op {
        Op::StatusLeader => reply(Body::Address("10.0.0.7:8300".into())),
        Op::StatusPeers => reply(Body::Names(vec![])),
        Op::RaftConfiguration => reply(Body::RaftServers {
            index: 5,
            servers: vec![RaftServer {
                id: NodeId([0x33; 16]),
                node: "".into(),
                address: "10.0.0.7:8300".into(),
                leader: true,
                voter: true,
                last_index: 1184,
            }],
        }),
        Op::TransferLeader { .. } | Op::RemovePeer { .. } => reply(Body::Done),
        _ => Err(RpcError::NotReady),
    })
    .await;
    let configuration = r#"{"Servers":[{"ID":"33333333-3333-3333-3333-333333333333","Node":"(unknown)","Address":"10.0.0.7:8300","Leader":true,"ProtocolVersion":"3","Voter":true,"LastIndex":1184}],"Index":5}"#;
    let peer = "/v1/operator/raft/peer";
    let neither =
        "Must specify either ?id with the server's ID or ?address with IP:port of peer to remove";
    expect(
        &door,
        &[
            ("GET", "/v1/status/leader", 200, "\"10.0.0.7:8300\""),
            ("GET", "/v1/status/peers", 200, "null"),
            ("GET", "/v1/status/leader?dc=x", 500, "No path to datacenter"),
            ("GET", "/v1/operator/raft/configuration", 200, configuration),
            ("POST", "/v1/operator/raft/transfer-leader", 200, r#"{"Success":true}"#),
            (
                "POST",
                "/v1/operator/raft/transfer-leader?id=x",
                500,
                "id \"x\" was not found in the Raft configuration",
            ),
            ("DELETE", peer, 400, neither),
            (
                "DELETE",
                &format!("{peer}?id=a&address=b"),
                400,
                "Must specify only one of ?id or ?address",
            ),
            (
                "DELETE",
                &format!("{peer}?id=a"),
                500,
                "id \"a\" was not found in the Raft configuration",
            ),
            (
                "DELETE",
                &format!("{peer}?address=1.2.3.4:5"),
                500,
                "address \"1.2.3.4:5\" was not found in the Raft configuration",
            ),
            ("DELETE", &format!("{peer}?address=10.0.0.7:8300"), 200, ""),
        ],
    )
    .await;
    assert_eq!(door.asked().op, Op::RemovePeer { id: NodeId([0x33; 16]) });
    door.get("/v1/status/leader").await;
    assert_eq!(door.asked().consistency, Consistency::Stale);
}

#[tokio::test]
async fn transactions_are_read_sized_and_answered() {
    use model::txn::{TxnErrorV1, TxnResultV1};
    let door = open(|request| match &request.op {
        Op::Txn(ops) if request.op.is_write() && ops.len() == 2 => {
            let what = "missing session".to_owned();
            reply(Body::Txn(Err(vec![TxnErrorV1 { op_index: 1, what }])))
        }
        Op::Txn(ops) if ops.is_empty() => reply(Body::Txn(Ok(vec![]))),
        Op::Txn(_) => reply(Body::Txn(Ok(vec![TxnResultV1::Kv(entry("a", "x"))]))),
        _ => Err(RpcError::NotReady),
    })
    .await;
    let write = r#"{"KV":{"Verb":"set","Key":"a","Value":"eA=="}}"#;
    let read = r#"{"KV":{"Verb":"get","Key":"a"}}"#;

    let seen = door.put("/v1/txn?stale", format!("[{read}]")).await;
    let result = r#"{"KV":{"LockIndex":0,"Key":"a","Flags":42,"Value":"eA==","CreateIndex":31,"ModifyIndex":57}}"#;
    let text = format!(r#"{{"Results":[{result}],"Errors":null}}"#);
    assert_eq!((seen.status, seen.text()), (200, text));
    assert_eq!(seen.header("x-consul-knownleader"), Some("true"));
    assert_eq!(seen.header("x-consul-lastcontact"), Some("7"));
    assert_eq!(seen.header("x-consul-index"), None);
    assert_eq!(door.asked().consistency, Consistency::Stale);

    let seen = door.put("/v1/txn?stale", format!("[{write}]")).await;
    assert_eq!((seen.status, seen.header("x-consul-knownleader")), (200, None));
    assert_eq!(door.asked().consistency, Consistency::Default, "a write goes to the leader");
    let seen = door.put("/v1/txn", format!("[{write},{write}]")).await;
    let text = r#"{"Results":null,"Errors":[{"OpIndex":1,"What":"missing session"}]}"#;
    assert_eq!((seen.status, &*seen.text()), (409, text));
    let seen = door.put("/v1/txn", "[]").await;
    assert_eq!((seen.status, &*seen.text()), (200, r#"{"Results":[],"Errors":null}"#));

    let long = "eHh4".repeat(334);
    let many = vec![write; 129].join(",");
    for (body, status, text) in [
        ("", 400, "Failed to parse body: EOF"),
        (r#"[{"Session":{}}]"#, 400, "Failed to parse body: json: unknown field \"Session\""),
        (&*format!("[{many}]"), 413, "Transaction contains too many operations (129 > 128)"),
        (
            &*format!(r#"[{{"KV":{{"Verb":"set","Key":"k","Value":"{long}"}}}}]"#),
            413,
            "Value for key \"k\" is too large (1002 > 1000 bytes)",
        ),
    ] {
        let asked = door.asked_count();
        let seen = door.put("/v1/txn", body).await;
        assert_eq!((seen.status, &*seen.text()), (status, text));
        assert_eq!(door.asked_count(), asked, "refused at the door");
    }
    let huge = vec![b' '; (512 << 10) + 1];
    let seen = door.put("/v1/txn", huge).await;
    let text = "Request body(524289 bytes) too large, max size: 524288 bytes.";
    assert_eq!(seen.status, 413);
    assert!(seen.text().starts_with(text), "{}", seen.text());
    assert_eq!(door.get("/v1/txn").await.header("allow"), Some("OPTIONS,PUT"));
}

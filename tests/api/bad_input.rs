//! Malformed requests get Consul's answers and change nothing; garbage on any port is survived.

use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use crate::support::http::{exchange, request};
use crate::support::{Muster, Network, eventually};

#[test]
fn mistakes_have_consuls_status_and_text() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let dev = Muster::dev(dir.path(), &network.ip(1), &["-node=n"]);
    dev.wait_for_leader();
    let unknown = "00000000-0000-4000-8000-000000000000";
    let invalid_session = format!("/v1/kv/k?acquire={unknown}");
    let big = "x".repeat(512 * 1024 + 1);
    for (method, path, body, status, said) in [
        ("GET", "/v1/nothing", "", 404, "Invalid URL path"),
        ("POST", "/v1/kv/k", "", 405, "method POST not allowed"),
        ("GET", "/v1/kv/", "", 400, "Missing key name"),
        ("PUT", "/v1/kv/k?cas=x", "v", 500, "strconv.ParseUint: parsing \"x\": invalid syntax"),
        ("PUT", "/v1/kv/k?cas=0&acquire=a", "v", 400, "Conflicting flags: acquire=a&cas=0"),
        ("PUT", invalid_session.as_str(), "v", 500, "invalid session"),
        ("PUT", "/v1/kv/k?acquire=", "v", 500, "missing session"),
        ("PUT", "/v1/kv/k", big.as_str(), 413, "too large, max size: 524288 bytes"),
        ("GET", "/v1/kv/k?wait=10", "", 400, "Invalid wait time"),
        ("GET", "/v1/kv/k?index=x", "", 400, "Invalid index"),
        ("GET", "/v1/kv/k?stale&consistent", "", 400, "Cannot specify ?stale with ?consistent"),
        ("GET", "/v1/kv/k?dc=mars", "", 500, "No path to datacenter"),
        ("GET", "/v1/kv/k?ns=x", "", 400, "Namespaces are a Consul Enterprise feature"),
        ("PUT", "/v1/session/create", "{", 400, "Request decode failed"),
        ("PUT", "/v1/session/create", r#"{"TTL": "5s"}"#, 500, "Invalid Session TTL"),
        ("PUT", "/v1/session/create", r#"{"Behavior": "x"}"#, 500, "Invalid Behavior setting 'x'"),
        ("PUT", "/v1/session/create", r#"{"Node": "none"}"#, 500, "Missing node registration"),
        ("PUT", "/v1/catalog/register", r#"{"Address": "1.1.1.1"}"#, 500, "Must provide node"),
        (
            "PUT",
            "/v1/catalog/register",
            r#"{"Node": "x", "Bogus": 1}"#,
            400,
            "unknown field \"Bogus\"",
        ),
        ("PUT", "/v1/agent/service/register", r#"{}"#, 400, "Missing service name"),
        ("PUT", "/v1/agent/service/register", r#"{"Name": 5}"#, 400, "cannot unmarshal"),
        (
            "PUT",
            "/v1/agent/check/register",
            r#"{"Name": "x"}"#,
            400,
            "Invalid check: TTL must be > 0",
        ),
        (
            "PUT",
            "/v1/agent/check/register",
            r#"{"Name": "x", "TTL": "abc"}"#,
            400,
            "invalid duration",
        ),
        ("PUT", "/v1/agent/check/pass/none", "", 404, "Unknown check ID \"none\""),
        ("GET", "/v1/health/service/x?passing=maybe", "", 400, "Invalid value for ?passing"),
        ("GET", "/v1/acl/tokens", "", 401, "ACL support disabled"),
    ] {
        let answer = dev.http(method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert!(answer.text().contains(said), "{method} {path}: {}", answer.text());
    }
    assert_eq!(dev.get("/v1/kv/k").status, 404, "nothing was written");

    // Tokens are accepted and ignored.
    let token = [("X-Consul-Token", "any"), ("Authorization", "Bearer other")];
    let limit = Duration::from_secs(10);
    let answer = request(&dev.address(), "PUT", "/v1/kv/k?token=x", &token, b"v", limit);
    assert_eq!(answer.expect("an answer").text(), "true");
}

#[test]
fn garbage_on_every_port_is_survived() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let mut dev = Muster::dev(dir.path(), &network.ip(1), &[]);
    dev.wait_for_leader();
    let garbage: Vec<u8> =
        (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let udp = UdpSocket::bind((network.ip(2).as_str(), 0)).expect("bound");
    for port in [8301, 8600] {
        for size in [0, 1, 2, 11, 12, 13, 40, 512, 1400] {
            udp.send_to(&garbage[..size], (dev.ip.as_str(), port)).expect("sent");
        }
    }
    for port in [8300, 8301, 8500, 8600] {
        let address = format!("{}:{port}", dev.ip);
        for start in [0, 17, 99] {
            let mut stream = TcpStream::connect(&address).expect("connected");
            let _ = stream.write_all(&garbage[start..]);
        }
        let _ = exchange(&address, &garbage, Duration::from_millis(200));
    }
    assert!(dev.running());
    assert_eq!(dev.put("/v1/kv/alive", "yes"), "true");
    eventually("what was dropped is counted", || {
        let metrics = dev.get("/v1/agent/metrics?format=prometheus").text();
        let counted = |name: &str| {
            metrics.lines().any(|line| line.starts_with(name) && !line.ends_with(" 0"))
        };
        if counted("memberlist_msg_dropped") && counted("muster_rpc_connections_refused") {
            Ok(())
        } else {
            Err(metrics)
        }
    });
    let json = dev.get("/v1/agent/metrics").text();
    assert!(json.contains("memberlist.msg.dropped"), "{json}");
}

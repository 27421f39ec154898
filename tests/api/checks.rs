//! Health checks against real programs: nginx, Redis, a script.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::support::{Muster, Network, within};

struct Backend(Child);

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program that must be installed: `scripts/test` does that.
fn start(program: &str, args: &[&str]) -> Backend {
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} must be installed: {error}"));
    Backend(child)
}

fn nginx(dir: &Path, listen: &str) -> Backend {
    let shown = dir.display();
    let configuration = format!(
        "daemon off; master_process off; pid {shown}/nginx.pid; error_log {shown}/nginx.log;\n\
         events {{}}\nhttp {{ access_log off; client_body_temp_path {shown}/b; proxy_temp_path {shown}/p;\n\
         fastcgi_temp_path {shown}/f; uwsgi_temp_path {shown}/u; scgi_temp_path {shown}/s;\n\
         server {{ listen {listen}; location /ok {{ return 200 'fine'; }} location /busy {{ return 429; }} }} }}\n"
    );
    let file = dir.join("nginx.conf");
    std::fs::write(&file, configuration).expect("written");
    start("nginx", &["-c", &file.display().to_string()])
}

fn status(dev: &Muster, check: &str, wanted: &str) -> String {
    within(Duration::from_secs(30), &format!("{check} is {wanted}"), || {
        let checks = dev.json("/v1/health/node/n");
        let found = checks
            .as_array()
            .and_then(|list| list.iter().find(|one| one["CheckID"] == check).cloned())
            .unwrap_or_default();
        if found["Status"] == wanted {
            Ok(found["Output"].as_str().unwrap_or("").to_owned())
        } else {
            Err(found.to_string())
        }
    })
}

#[test]
fn http_and_tcp_checks_follow_nginx_and_redis() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let ip = network.ip(1);
    let dev = Muster::dev(dir.path(), &ip, &["-node=n"]);
    dev.wait_for_leader();
    let web = format!("{ip}:18080");
    let redis_port = "16379";
    let register = |body: serde_json::Value| dev.put("/v1/agent/check/register", body.to_string());
    register(
        json!({"ID": "ok", "Name": "ok", "HTTP": format!("http://{web}/ok"), "Interval": "1s"}),
    );
    register(
        json!({"ID": "busy", "Name": "busy", "HTTP": format!("http://{web}/busy"), "Interval": "1s"}),
    );
    register(
        json!({"ID": "gone", "Name": "gone", "HTTP": format!("http://{web}/none"), "Interval": "1s"}),
    );
    register(
        json!({"ID": "redis", "Name": "redis", "TCP": format!("{ip}:{redis_port}"), "Interval": "1s"}),
    );
    status(&dev, "ok", "critical");
    status(&dev, "redis", "critical");

    let server = nginx(dir.path(), &web);
    let redis = start("redis-server", &["--port", redis_port, "--bind", &ip, "--save", ""]);
    let output = status(&dev, "ok", "passing");
    assert!(output.contains("200 OK") && output.contains("fine"), "{output}");
    status(&dev, "busy", "warning");
    status(&dev, "gone", "critical");
    let output = status(&dev, "redis", "passing");
    assert_eq!(output, format!("TCP connect {ip}:{redis_port}: Success"));

    drop(server);
    drop(redis);
    status(&dev, "ok", "critical");
    status(&dev, "redis", "critical");
}

#[test]
fn a_script_check_runs_only_when_allowed() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let body = json!({"ID": "script", "Name": "script", "ScriptArgs": ["sh", "-c", "echo up; exit $(cat code)"],
        "Interval": "1s"});
    let forbidden = Muster::dev(dir.path(), &network.ip(2), &["-node=n"]);
    forbidden.wait_for_leader();
    let refused = forbidden.http("PUT", "/v1/agent/check/register", body.to_string());
    assert_eq!(refused.status, 500);
    assert!(refused.text().starts_with("Scripts are disabled on this agent"), "{}", refused.text());
    drop(forbidden);

    let code = dir.path().join("code");
    let body = body.to_string().replace("cat code", &format!("cat {}", code.display()));
    std::fs::write(&code, "0").expect("written");
    let dev = Muster::dev(dir.path(), &network.ip(1), &["-node=n", "-enable-script-checks"]);
    dev.wait_for_leader();
    dev.put("/v1/agent/check/register", body);
    assert_eq!(status(&dev, "script", "passing").trim(), "up");
    std::fs::write(&code, "1").expect("written");
    status(&dev, "script", "warning");
    std::fs::write(&code, "7").expect("written");
    status(&dev, "script", "critical");
}

#[test]
fn a_ttl_that_runs_out_turns_critical() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let dev = Muster::dev(dir.path(), &network.ip(1), &["-node=n"]);
    dev.wait_for_leader();
    dev.put("/v1/agent/check/register", r#"{"Name": "beat", "TTL": "2s"}"#);
    dev.put("/v1/agent/check/pass/beat?note=here", "");
    assert_eq!(status(&dev, "beat", "passing"), "here");
    let output = status(&dev, "beat", "critical");
    assert!(output.contains("TTL expired") && output.contains("here"), "{output}");
    let update = dev.http(
        "PUT",
        "/v1/agent/check/update/beat",
        r#"{"Status": "passing", "Output": "back"}"#,
    );
    assert_eq!(update.status, 200);
    assert_eq!(status(&dev, "beat", "passing"), "back");
}

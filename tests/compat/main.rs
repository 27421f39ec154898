//! Real clients of Consul, unchanged.

#[path = "../support/mod.rs"]
mod support;

use std::process::Command;

use support::process::Cluster;
use support::{Muster, Network};

/// The Python that has py-consul: a virtual environment that `scripts/test` makes.
#[expect(clippy::disallowed_methods, reason = "scripts/test says where it made it")]
fn python(script: &str, ip: &str) {
    let root = env!("CARGO_MANIFEST_DIR");
    let python = std::env::var_os("MUSTER_TEST_PYTHON")
        .map(std::path::PathBuf::from)
        .unwrap_or_else(|| format!("{root}/target/venv/bin/python").into());
    let output = Command::new(&python)
        .arg(format!("{root}/tests/compat/{script}"))
        .arg(ip)
        .output()
        .unwrap_or_else(|error| {
            panic!("{} must be there (scripts/test makes it): {error}", python.display())
        });
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn py_consul_speaks_to_a_dev_agent() {
    let dir = tempfile::tempdir().expect("a directory");
    let network = Network::new();
    let dev = Muster::dev(dir.path(), &network.ip(1), &[]);
    dev.wait_for_leader();
    python("py_consul.py", &dev.ip);
}

#[test]
fn ten_py_consul_clients_compete_for_a_lock_through_a_client_agent() {
    let cluster = Cluster::start();
    let client = cluster.client(11);
    python("lock.py", &client.ip);
}

//! A network whose links can be cut: a namespace for each server, all behind one that routes. What
//! goes from one to another passes the router, and is dropped there without a word. Needs root; all
//! addresses exist inside these namespaces alone.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Network;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Address of the router, and of whoever [enters](Ground::enter) it.
const ROUTER: u8 = 254;

/// The namespaces; they are deleted when this is dropped.
#[derive(Debug)]
pub(crate) struct Ground {
    prefix: String,
    servers: u8,
}

fn ip(arguments: &str) -> Result<(), String> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &str) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments.split(' '))
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {arguments}: {}", text.trim()))
}

impl Ground {
    /// Namespaces for servers 1 to `servers`; or why there can be none.
    pub(crate) fn new(servers: u8) -> Result<Self, String> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("mt{}-{number}-", std::process::id());
        // Dropped, and so cleared, if one of the steps fails.
        let ground = Self { prefix, servers };
        let router = ground.name(0);
        ip(&format!("netns add {router}"))?;
        ip(&format!("-n {router} link set lo up"))?;
        ground.inside(0, "sysctl -q -w net.ipv4.ip_forward=1")?;
        let network = Network::apart();
        let gate = network.ip(ROUTER);
        for n in 1..=servers {
            let (space, address) = (ground.name(n), network.ip(n));
            ip(&format!("netns add {space}"))?;
            ip(&format!("-n {space} link set lo up"))?;
            ip(&format!("link add v{n} netns {router} type veth peer name eth0 netns {space}"))?;
            ip(&format!("-n {router} addr add {gate}/32 dev v{n}"))?;
            ip(&format!("-n {router} link set v{n} up"))?;
            ip(&format!("-n {router} route add {address}/32 dev v{n}"))?;
            ip(&format!("-n {space} addr add {address}/32 dev eth0"))?;
            ip(&format!("-n {space} link set eth0 up"))?;
            ip(&format!("-n {space} route add {gate}/32 dev eth0"))?;
            ip(&format!("-n {space} route add default via {gate}"))?;
        }
        Ok(ground)
    }

    fn name(&self, n: u8) -> String {
        format!("{}{n}", self.prefix)
    }

    fn inside(&self, n: u8, command: &str) -> Result<(), String> {
        ip(&format!("netns exec {} {command}", self.name(n)))
    }

    /// What a program is started with so that it lives where server `n` does.
    pub(crate) fn wrap(&self, n: u8) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", self.name(n))]
    }

    /// Puts the calling thread, and threads and processes that it starts, at the router: from there
    /// each server is reached, whatever is cut.
    pub(crate) fn enter(&self) {
        let path = format!("/run/netns/{}", self.name(0));
        let space = File::open(&path).expect("the router's namespace");
        // SAFETY: setns takes two numbers and touches no memory of ours; the file is open.
        #[expect(unsafe_code, reason = "the standard library cannot change a thread's namespace")]
        let result = unsafe { libc::setns(space.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "setns: {}", std::io::Error::last_os_error());
    }

    /// Drops what `from` sends to `to`.
    pub(crate) fn cut(&self, from: u8, to: u8) {
        let network = Network::apart();
        let rule = format!("from {} to {}", network.ip(from), network.ip(to));
        ip(&format!("-n {} rule add {rule} blackhole pref 100", self.name(0))).expect("a rule");
    }

    /// Mends all links.
    pub(crate) fn mend(&self) {
        while ip(&format!("-n {} rule del pref 100", self.name(0))).is_ok() {}
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for n in 0..=self.servers {
            let _ = ip(&format!("netns del {}", self.name(n)));
        }
    }
}

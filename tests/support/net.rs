//! Loopback networks that no other test uses.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A part of the loopback range: 127.x.y.1 to 127.x.y.254; or a network that exists apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Network {
    prefix: [u8; 3],
}

impl Network {
    /// One that no other process of this kind holds: a listener on its last address is the claim,
    /// and lives as long as the process.
    pub(crate) fn new() -> Self {
        let start = std::process::id().wrapping_mul(7);
        for _ in 0..20_000 {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = start.wrapping_add(step) % (250 * 250);
            let prefix = [127, 1 + (number / 250) as u8, 1 + (number % 250) as u8];
            let claim = (Ipv4Addr::new(127, prefix[1], prefix[2], 254), 9);
            if let Ok(listener) = TcpListener::bind(claim) {
                std::mem::forget(listener);
                return Self { prefix };
            }
        }
        panic!("no free loopback network");
    }

    /// The one inside namespaces, where no other can meet it.
    pub(crate) fn apart() -> Self {
        Self { prefix: [10, 99, 0] }
    }

    /// Its `n`th address.
    pub(crate) fn ip(&self, n: u8) -> String {
        let [a, b, c] = self.prefix;
        format!("{a}.{b}.{c}.{n}")
    }
}

//! Seeded randomness, handed down from `main`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What [`Rng::fork`] gives.
pub use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng};

/// A random source that can be cloned into every driver. All clones draw from one seeded stream,
/// so that a run with one thread and one seed is repeatable.
#[derive(Debug, Clone)]
pub struct Rng(Arc<Mutex<StdRng>>);

impl Rng {
    /// From the operating system. Called once, in `main`.
    pub fn from_os() -> Self {
        Self(Arc::new(Mutex::new(StdRng::try_from_rng(&mut rand::rngs::SysRng).expect(
            "the operating system gives random bytes, without which no identity can be made",
        ))))
    }

    /// Repeatable.
    pub fn from_seed(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    fn with<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// 16 random bytes: for [identifiers](https://www.rfc-editor.org/rfc/rfc9562).
    pub fn bytes16(&self) -> [u8; 16] {
        self.with(|rng| {
            let mut bytes = [0; 16];
            rng.fill_bytes(&mut bytes);
            bytes
        })
    }

    /// A random number.
    pub fn u64(&self) -> u64 {
        self.with(|rng| rng.next_u64())
    }

    /// Below `limit`; 0 when `limit` is 0.
    pub fn below(&self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.with(|rng| rng.random_range(0..limit)) }
    }

    /// From [0, 1).
    pub fn unit(&self) -> f64 {
        self.with(|rng| rng.random::<f64>())
    }

    /// Uniform in [0, limit).
    pub fn jitter(&self, limit: Duration) -> Duration {
        Duration::from_nanos(self.below(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// A generator of its own, seeded from this one: for a core that takes `&mut impl rand::Rng`.
    pub fn fork(&self) -> StdRng {
        StdRng::seed_from_u64(self.u64())
    }

    /// Puts the items into random order.
    pub fn shuffle<T>(&self, items: &mut [T]) {
        self.with(|rng| {
            for i in (1..items.len()).rev() {
                items.swap(i, rng.random_range(0..=i));
            }
        });
    }
}

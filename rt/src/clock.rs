//! Time for drivers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Where drivers read the time. Monotonic time is tokio's, so that a test can pause it; wall time
/// is for display and comes from the system unless a test fixes it.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    fixed_wall_ms: Option<Arc<AtomicU64>>,
}

impl Clock {
    /// The system's clocks.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock whose wall time is what `ms` holds: for simulations.
    pub fn with_wall(ms: Arc<AtomicU64>) -> Self {
        Self { fixed_wall_ms: Some(ms) }
    }

    /// Monotonic time. May stand still while the machine sleeps.
    pub fn now(&self) -> Instant {
        Instant::now()
    }

    /// Unix time in milliseconds. For display, file names and generations, never for decisions
    /// that replicas must share.
    pub fn wall_ms(&self) -> u64 {
        if let Some(ms) = &self.fixed_wall_ms {
            return ms.load(Ordering::Relaxed);
        }
        #[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

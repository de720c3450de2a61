//! The clocks of a shard, read once per turn.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::base::tick::{Now, TICK_MS, Tick};

/// Turns time into ticks since the process started.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts counting one tick before now, so that tick 0 never is "now".
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the shell hands time to the layers below")]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        self.now_with_ms().0
    }

    /// Both clocks, and the milliseconds that the monotonic one is made of.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the shell hands time to the layers below")]
    pub fn now_with_ms(&self) -> (Now, u64) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(TICK_MS);
        let ticks = ms / TICK_MS;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = Now {
            tick: Tick(u32::try_from(ticks).unwrap_or(u32::MAX)),
            unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
        };
        (now, ms)
    }
}

//! The one place that reads clocks.
//!
//! Everything is measured on one monotonic clock that all threads of the process share, so that a time written into a
//! message by the publisher can be subtracted from the time at which a subscriber read it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A copyable handle on the monotonic clock of the process; zero is the moment of its making.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Starts a clock.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this module is the one that reads the clock")]
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Nanoseconds since the origin.
    #[must_use]
    pub fn nanos(self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Milliseconds since the origin.
    #[must_use]
    pub fn millis(self) -> u32 {
        u32::try_from(self.elapsed().as_millis()).unwrap_or(u32::MAX)
    }

    /// Time since the origin.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.origin.elapsed()
    }
}

/// Seconds since 1970, for the claims of tokens.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this module is the one that reads the clock")]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Rests the calling thread. Only the conducting thread and tests may call it: a worker waits in its poller.
#[allow(clippy::disallowed_methods, reason = "the conductor has no sockets to serve while it waits")]
pub fn rest(duration: Duration) {
    std::thread::sleep(duration);
}

//! The clocks of a shard, read once per turn.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::base::ids::ShardId;
use crate::base::tick::{Now, TICK_MS, Tick};

/// Turns time into ticks since the process started.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    /// Ahead of the process's clock by so much, less than a tick.
    ahead: Duration,
}

impl Clock {
    /// Starts counting one tick before now, so that tick 0 never is "now".
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the shell hands time to the layers below")]
    pub fn start() -> Self {
        Self { start: Instant::now(), ahead: Duration::ZERO }
    }

    /// The clock of one of `shards`: their ticks begin one after the other. Else all would send the pings of a tick in the
    /// same moment, as the first event after its beginning fires its timers.
    #[must_use]
    pub fn of_shard(self, shard: ShardId, shards: u16) -> Self {
        let tick = Duration::from_millis(TICK_MS);
        Self { ahead: tick * u32::from(shard.0) / u32::from(shards.max(1)), ..self }
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
        let elapsed = self.start.elapsed() + self.ahead;
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).saturating_add(TICK_MS);
        let ticks = ms / TICK_MS;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = Now {
            tick: Tick(u32::try_from(ticks).unwrap_or(u32::MAX)),
            unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
        };
        (now, ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_shards_begin_one_after_the_other() {
        let ahead = |shard, shards| Clock::start().of_shard(ShardId(shard), shards).ahead;
        assert_eq!(ahead(0, 1), Duration::ZERO);
        let four: Vec<u128> = (0..4).map(|shard| ahead(shard, 4).as_millis()).collect();
        assert_eq!(four, [0, 25, 50, 75]);
        assert!(ahead(52, 53) < Duration::from_millis(TICK_MS));
    }
}

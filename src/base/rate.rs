//! A token bucket in 4 bytes, for a limit that millions of connections share.
//!
//! A [`Limit`] turns a rate per second into whole units per tick, so the bucket needs no fractions: a token is 1 to 10
//! units, whichever makes the refill of a tick a whole number.

use super::tick::{TICK_MS, Tick};

/// Ticks of a second.
const TICKS_PER_SECOND: u32 = (1000 / TICK_MS) as u32;

/// A rate and a burst. `Default` limits nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Units of a token; 0: no limit.
    cost: u16,
    /// Units added per tick, at most `capacity`.
    refill: u16,
    /// Units of a full bucket.
    capacity: u16,
}

impl Limit {
    /// Largest burst that is kept exactly for every rate; above it the burst (and with it the rate) may be cut.
    pub const BURST_MAX: u32 = u16::MAX as u32 / TICKS_PER_SECOND;

    /// `per_second` tokens a second and up to `burst` (at least 1) at once. A rate of 0 limits nothing.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        if per_second == 0 {
            return Self::default();
        }
        let divisor = common_divisor(per_second, TICKS_PER_SECOND);
        let cost = TICKS_PER_SECOND / divisor;
        let burst = burst.clamp(1, u32::from(u16::MAX) / cost);
        let capacity = (burst * cost) as u16;
        let refill = u16::try_from(per_second / divisor).unwrap_or(u16::MAX).min(capacity);
        Self { cost: cost as u16, refill, capacity }
    }
}

/// One connection's tokens. Left alone for more than 65,535 ticks (1.8 hours) it may take the time passed for less than
/// it was, and then refills late; it never allows too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    units: u16,
    tick: u16,
}

const _: () = assert!(size_of::<Bucket>() == 4);

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn full(limit: Limit, now: Tick) -> Self {
        Self { units: limit.capacity, tick: now.0 as u16 }
    }

    /// Takes a token. False, and nothing taken, if there is none.
    pub fn take(&mut self, limit: Limit, now: Tick) -> bool {
        self.settle(limit, now);
        let left = self.units.checked_sub(limit.cost);
        self.units = left.unwrap_or(self.units);
        left.is_some()
    }

    /// Ticks until a token will be there, 0 if there is one.
    #[must_use]
    pub fn wait_ticks(mut self, limit: Limit, now: Tick) -> u32 {
        self.settle(limit, now);
        let missing = limit.cost.saturating_sub(self.units);
        u32::from(missing.div_ceil(limit.refill.max(1)))
    }

    fn settle(&mut self, limit: Limit, now: Tick) {
        let passed = (now.0 as u16).wrapping_sub(self.tick);
        let units = u32::from(self.units) + u32::from(passed) * u32::from(limit.refill);
        self.units = units.min(u32::from(limit.capacity)) as u16;
        self.tick = now.0 as u16;
    }
}

fn common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many of `tries` in one tick are allowed.
    fn allowed(bucket: &mut Bucket, limit: Limit, now: u32, tries: u32) -> u32 {
        (0..tries).take_while(|_| bucket.take(limit, Tick(now))).count() as u32
    }

    proptest! {
        /// Over any stretch that begins with a full bucket: burst + rate × time, and not one token more or less, where
        /// the bucket holds what a tick adds and the fraction of a token left over from the tick before.
        #[test]
        fn grants_burst_and_rate_exactly(
            per_second in 1..2_000_u32, extra in 0..100_u32, start in any::<u32>(), ticks in 1..300_u32,
        ) {
            let burst = per_second.div_ceil(TICKS_PER_SECOND) + 1 + extra;
            let limit = Limit::new(per_second, burst);
            let mut bucket = Bucket::full(limit, Tick(start));
            let granted: u32 = (0..=ticks)
                .map(|tick| allowed(&mut bucket, limit, start.wrapping_add(tick), 3_000))
                .sum();
            prop_assert_eq!(granted, burst + per_second * ticks / TICKS_PER_SECOND);
        }

        #[test]
        fn the_wait_is_exact(per_second in 1..2_000_u32, burst in 1..50_u32, start in 0..1_000_000_u32) {
            let limit = Limit::new(per_second, burst);
            let mut bucket = Bucket::full(limit, Tick(start));
            prop_assert_eq!(bucket.wait_ticks(limit, Tick(start)), 0);
            allowed(&mut bucket, limit, start, burst);
            let wait = bucket.wait_ticks(limit, Tick(start));
            prop_assert!(wait > 0);
            prop_assert!(!bucket.take(limit, Tick(start + wait - 1)));
            prop_assert!(bucket.take(limit, Tick(start + wait)));
        }
    }

    #[test]
    fn an_idle_bucket_fills_up_to_the_burst_and_no_further() {
        let limit = Limit::new(7, 20);
        let mut bucket = Bucket::full(limit, Tick(0));
        assert_eq!(allowed(&mut bucket, limit, 0, 100), 20);
        assert_eq!(allowed(&mut bucket, limit, 60_000, 100), 20);
    }

    #[test]
    fn no_rate_means_no_limit() {
        let mut bucket = Bucket::full(Limit::default(), Tick(0));
        assert_eq!(allowed(&mut bucket, Limit::new(0, 5), 0, 100_000), 100_000);
        assert_eq!(bucket.wait_ticks(Limit::default(), Tick(0)), 0);
    }

    #[test]
    fn a_burst_out_of_range_is_cut() {
        let limit = Limit::new(3, 1_000_000);
        let mut bucket = Bucket::full(limit, Tick(0));
        assert_eq!(allowed(&mut bucket, limit, 0, 10_000), Limit::BURST_MAX);
        let limit = Limit::new(u32::MAX, 0);
        assert_eq!(allowed(&mut Bucket::full(limit, Tick(0)), limit, 0, 10), 1);
    }
}

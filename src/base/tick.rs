//! Time as the lower layers see it: ticks of [`TICK_MS`] milliseconds since start, handed in from outside.

/// Length of one tick in milliseconds.
pub const TICK_MS: u64 = 100;

/// Ticks since the process started (monotonic). The clocks of two shards differ by less than one. Wraps after 13 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u32);

impl Tick {
    /// The tick `ticks` later, saturating.
    #[must_use]
    pub fn after(self, ticks: u32) -> Self {
        Self(self.0.saturating_add(ticks))
    }

    /// Ticks from `earlier` to `self`, 0 if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Ticks in `ms` milliseconds, rounded up, saturating.
#[must_use]
pub fn ticks_from_ms(ms: u64) -> u32 {
    u32::try_from(ms.div_ceil(TICK_MS)).unwrap_or(u32::MAX)
}

/// The two clocks a turn of the loop needs, read once per turn by the shell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Monotonic: every timer and deadline.
    pub tick: Tick,
    /// Wall clock in milliseconds since 1970: only tokens and record stamps look at it.
    pub unix_ms: u64,
}

impl Now {
    /// Wall clock in whole seconds since 1970.
    #[must_use]
    pub fn unix_seconds(self) -> u64 {
        self.unix_ms / 1000
    }
}

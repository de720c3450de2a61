//! What a session last did, in 4 bytes: the tick of its user's last command, and whether the session is quiet.
//!
//! Ticks are kept modulo 2^30 (3.4 years), which no session's silence reaches: an idle one is marked long before.

use crate::base::tick::Tick;

/// The user did nothing for `away_after`.
const IDLE: u32 = 1;
/// The client set itself away.
const SET_AWAY: u32 = 1 << 1;
/// Bits below the tick.
const MARKS: u32 = 2;
/// Ticks that can be told apart.
const TICKS: u32 = u32::MAX >> MARKS;

/// See the module documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Activity(pub(crate) u32);

impl Activity {
    /// A session whose user was active at `now`.
    pub(crate) fn at(now: Tick) -> Self {
        Self(now.0 << MARKS)
    }

    /// The user did something: not idle any more; a client that set itself away stays so.
    #[must_use]
    pub(crate) fn touched(self, now: Tick) -> Self {
        Self(now.0 << MARKS | self.0 & SET_AWAY)
    }

    /// The user did nothing for too long.
    #[must_use]
    pub(crate) fn idled(self) -> Self {
        Self(self.0 | IDLE)
    }

    /// The client sets itself away, or takes that back.
    #[must_use]
    pub(crate) fn set_away(self, away: bool) -> Self {
        Self(if away { self.0 | SET_AWAY } else { self.0 & !SET_AWAY })
    }

    /// True once marked by [`Self::idled`].
    pub(crate) fn is_idle(self) -> bool {
        self.0 & IDLE != 0
    }

    /// True if the session does not make its user online.
    pub(crate) fn is_quiet(self) -> bool {
        self.0 & (IDLE | SET_AWAY) != 0
    }

    /// Ticks since the last activity.
    pub(crate) fn age(self, now: Tick) -> u32 {
        now.0.wrapping_sub(self.0 >> MARKS) & TICKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_ticks_do_not_touch_each_other() {
        let start = Activity::at(Tick(TICKS - 5));
        assert_eq!((start.age(Tick(TICKS)), start.is_quiet()), (5, false));
        assert_eq!(start.age(Tick(TICKS + 5)), 10, "across the turn of the counter");
        let away = start.set_away(true);
        assert!(away.is_quiet() && !away.is_idle());
        assert!(away.touched(Tick(7)).is_quiet(), "set away stays until the client takes it back");
        assert!(!away.idled().set_away(false).touched(Tick(7)).is_quiet());
        assert_eq!(away.idled().age(Tick(TICKS)), 5);
        assert_eq!(away.touched(Tick(7)).age(Tick(9)), 2);
    }
}

//! What a session last did, in 4 bytes: the tick of its user's last command, and whether the session is quiet.
//!
//! Ticks are kept modulo 2^27 (155 days), which no session's silence reaches: an idle one is marked long before.
//!
//! A session that takes the place of a lost one goes on as that one was ([`Activity::continuing`]). What its library
//! sends to get its subscriptions back is no deed of the user.

use crate::base::tick::Tick;

/// The user did nothing for `away_after`.
const IDLE: u32 = 1;
/// The client set itself away.
const SET_AWAY: u32 = 1 << 1;
/// Since it connected, nothing but subscriptions came.
const NEW: u32 = 1 << 2;
/// What a lost session was before it has been taken over, or counts no more as the client said itself what it is.
const SETTLED: u32 = 1 << 3;
/// However the session ends, it is a goodbye.
const LEAVING: u32 = 1 << 4;
/// Bits below the tick.
const MARKS: u32 = 5;
/// Ticks that can be told apart.
const TICKS: u32 = u32::MAX >> MARKS;

/// See the module documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Activity(pub(crate) u32);

impl Activity {
    /// A session that connected at `now`.
    pub(crate) fn at(now: Tick) -> Self {
        Self(now.0 << MARKS | NEW)
    }

    /// The user did something: not idle any more; a client that set itself away stays so.
    #[must_use]
    pub(crate) fn touched(self, now: Tick) -> Self {
        Self(now.0 << MARKS | self.0 & (SET_AWAY | SETTLED))
    }

    /// It subscribed. A session that has taken a lost one's place gets its subscriptions back so.
    #[must_use]
    pub(crate) fn subscribed(self, now: Tick) -> Self {
        if self.is_continuing() { self } else { Self(self.touched(now).0 | self.0 & NEW) }
    }

    /// The user did nothing for too long.
    #[must_use]
    pub(crate) fn idled(self) -> Self {
        Self(self.0 | IDLE)
    }

    /// The client sets itself away, or takes that back.
    #[must_use]
    pub(crate) fn set_away(self, away: bool) -> Self {
        let without = self.0 & !(SET_AWAY | NEW | LEAVING) | SETTLED;
        Self(if away { without | SET_AWAY } else { without })
    }

    /// The client says goodbye before it ends.
    #[must_use]
    pub(crate) fn leaving(self) -> Self {
        Self(self.0 | LEAVING)
    }

    /// The session takes the place of a lost one: what it has not said or done itself since stays as it was.
    #[must_use]
    pub(crate) fn continuing(self, lost: Self) -> Self {
        if self.0 & NEW != 0 {
            Self(lost.0 & !LEAVING | NEW | SETTLED | self.0 & LEAVING)
        } else if self.0 & SETTLED == 0 {
            Self(self.0 | SETTLED | lost.0 & SET_AWAY)
        } else {
            self
        }
    }

    /// Which of several lost sessions returned is not known: this one may not have been the one that was set away, so
    /// it is idle until its user does something.
    #[must_use]
    pub(crate) fn doubtful(self) -> Self {
        if self.is_set_away() { Self(self.0 & !SET_AWAY | IDLE) } else { self }
    }

    /// True once marked by [`Self::idled`].
    pub(crate) fn is_idle(self) -> bool {
        self.0 & IDLE != 0
    }

    /// True while the client has set itself away.
    pub(crate) fn is_set_away(self) -> bool {
        self.0 & SET_AWAY != 0
    }

    /// True if the session does not make its user online.
    pub(crate) fn is_quiet(self) -> bool {
        self.0 & (IDLE | SET_AWAY) != 0
    }

    /// True if it took the place of a lost session, and nothing but subscriptions came since.
    pub(crate) fn is_continuing(self) -> bool {
        self.0 & (NEW | SETTLED) == NEW | SETTLED
    }

    /// True after [`Self::leaving`], until the user does something.
    pub(crate) fn is_leaving(self) -> bool {
        self.0 & LEAVING != 0
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
        let leaving = away.leaving();
        assert!(leaving.is_leaving() && !leaving.touched(Tick(7)).is_leaving());
        assert!(!leaving.set_away(true).is_leaving() && leaving.age(Tick(TICKS)) == 5);
    }

    #[test]
    fn a_session_goes_on_as_the_lost_one_was_but_for_what_was_said_and_done_since() {
        let lost = Activity::at(Tick(100)).touched(Tick(150)).set_away(true).idled();
        let heir = Activity::at(Tick(300)).subscribed(Tick(301)).continuing(lost);
        assert_eq!((heir.age(Tick(310)), heir.is_idle(), heir.is_set_away()), (160, true, true));
        assert_eq!(heir.subscribed(Tick(320)), heir, "the library gets its subscriptions back");
        let acted = heir.touched(Tick(320));
        assert_eq!((acted.age(Tick(320)), acted.is_idle(), acted.is_set_away()), (0, false, true));
        assert_eq!(acted.subscribed(Tick(330)).age(Tick(330)), 0);
        let early = Activity::at(Tick(300)).touched(Tick(301)).continuing(lost);
        assert_eq!((early.age(Tick(301)), early.is_idle(), early.is_set_away()), (0, false, true));
        let said = Activity::at(Tick(300)).set_away(false).touched(Tick(300));
        assert_eq!(said.continuing(lost), said);
        assert!(!lost.doubtful().touched(Tick(9)).is_quiet() && lost.doubtful().is_quiet());
    }
}

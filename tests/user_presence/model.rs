//! What watchers of a user must be told, as plainly as it can be said: no shards, no letters, no timers.

pub(crate) const AWAY_AFTER: u32 = 900;
pub(crate) const OFFLINE_AFTER: u32 = 600;
const UNSAID_AFTER: u32 = 30;
const DEBOUNCE: u32 = 10;

/// One device of a user, connected or lost: a return within the grace period is the same session going on.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) socket: i32,
    /// Last command of the user.
    pub(crate) active: u32,
    /// Last answered ping, or command.
    pub(crate) sign: u32,
    pub(crate) set_away: bool,
    /// Since the end of the tick in which `active` was too long ago.
    idle: bool,
    /// It has come back, and its user has done nothing since: what it subscribes to is its library's doing.
    pub(crate) is_back: bool,
    /// It said that it will leave.
    leaving: bool,
}

impl Session {
    fn quiet(&self) -> bool {
        self.set_away || self.idle
    }
}

#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) sessions: Vec<Session>,
    /// Sessions without a connection, and until when each may come back.
    lost: Vec<(u32, Session)>,
    pub(crate) told: &'static str,
    told_at: Option<u32>,
    pub(crate) seen: Option<u32>,
    /// What watchers were told, and when.
    pub(crate) log: Vec<(u32, &'static str)>,
}

impl Default for User {
    fn default() -> Self {
        let (sessions, lost, log) = (Vec::new(), Vec::new(), Vec::new());
        Self { sessions, lost, told: "offline", told_at: None, seen: None, log }
    }
}

impl User {
    pub(crate) fn enters(&mut self, socket: i32, now: u32) {
        let new = Session {
            socket,
            active: now,
            sign: now,
            set_away: false,
            idle: false,
            is_back: false,
            leaving: false,
        };
        let session = match self.comes_back() {
            Some(lost) => Session { socket, sign: now, is_back: true, leaving: false, ..lost },
            None => new,
        };
        self.sessions.push(session);
        self.tell(now);
    }

    /// The most present of the lost sessions. If it may have been another one, none of the others is sure to have been
    /// set away.
    fn comes_back(&mut self) -> Option<Session> {
        let most_present = |(deadline, of): &(u32, Session)| (!of.set_away, !of.idle, of.active, *deadline);
        let place = (0..self.lost.len()).max_by_key(|place| most_present(&self.lost[*place]))?;
        let (_, session) = self.lost.remove(place);
        for (_, other) in self.lost.iter_mut().filter(|(_, other)| other.set_away && !session.set_away) {
            (other.set_away, other.idle) = (false, true);
        }
        Some(session)
    }

    /// A subscription, as its user or its library wants it.
    pub(crate) fn subscribes(&mut self, socket: i32, now: u32) {
        if self.sessions.iter().any(|session| session.socket == socket && !session.is_back) {
            self.acts(socket, now);
        }
    }

    /// However it ends now is a goodbye.
    pub(crate) fn will_leave(&mut self, socket: i32) {
        self.with(socket, |session| session.leaving = true);
    }

    pub(crate) fn says_goodbye(&mut self, socket: i32, now: u32) {
        self.sessions.retain(|session| session.socket != socket);
        self.seen = Some(now);
        self.tell(now);
    }

    /// The server notices that a session is gone, whose last sign of life was at `sign`.
    pub(crate) fn is_lost(&mut self, socket: i32, sign: u32, now: u32) {
        self.ends(socket, (sign, OFFLINE_AFTER), now);
    }

    /// It closed without a code: it comes back soon or not at all.
    pub(crate) fn closes(&mut self, socket: i32, now: u32) {
        self.ends(socket, (now, UNSAID_AFTER), now);
    }

    fn ends(&mut self, socket: i32, (sign, grace): (u32, u32), now: u32) {
        let Some(place) = self.sessions.iter().position(|session| session.socket == socket) else { return };
        if self.sessions[place].leaving {
            return self.says_goodbye(socket, now);
        }
        let session = self.sessions.remove(place);
        self.lost.push((sign + grace, session));
        self.seen = self.seen.max(Some(sign));
        self.tell(now);
    }

    pub(crate) fn acts(&mut self, socket: i32, now: u32) {
        self.with(socket, |session| {
            (session.active, session.sign, session.idle) = (now, now, false);
            (session.is_back, session.leaving) = (false, false);
        });
        self.tell(now);
    }

    pub(crate) fn sets(&mut self, socket: i32, away: bool, now: u32) {
        self.with(socket, |session| {
            (session.set_away, session.is_back, session.leaving) = (away, false, false);
        });
        if away { self.tell(now) } else { self.acts(socket, now) }
    }

    pub(crate) fn pongs(&mut self, socket: i32, now: u32) {
        self.with(socket, |session| session.sign = now);
    }

    /// The end of a tick.
    pub(crate) fn passes(&mut self, now: u32) {
        for session in self.sessions.iter_mut().chain(self.lost.iter_mut().map(|(_, session)| session)) {
            session.idle |= now - session.active >= AWAY_AFTER;
        }
        self.lost.retain(|(deadline, _)| *deadline > now);
        self.tell(now);
    }

    /// The state that questions are answered with.
    pub(crate) fn state(&self) -> &'static str {
        if self.sessions.iter().any(|session| !session.quiet()) {
            "online"
        } else if !self.sessions.is_empty() || !self.lost.is_empty() {
            "away"
        } else {
            "offline"
        }
    }

    fn tell(&mut self, now: u32) {
        let may_return = self.lost.iter().any(|(_, session)| !session.quiet());
        let state = if may_return { "online" } else { self.state() };
        if state != self.told && self.told_at.is_none_or(|at| now >= at + DEBOUNCE) {
            (self.told, self.told_at) = (state, Some(now));
            self.log.push((now, state));
        }
    }

    fn with(&mut self, socket: i32, change: impl FnOnce(&mut Session)) {
        if let Some(session) = self.sessions.iter_mut().find(|session| session.socket == socket) {
            change(session);
        }
    }
}

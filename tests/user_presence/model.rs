//! What watchers of a user must be told, as plainly as it can be said: no shards, no letters, no timers.

pub(crate) const AWAY_AFTER: u32 = 900;
pub(crate) const OFFLINE_AFTER: u32 = 600;
const DEBOUNCE: u32 = 10;

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
}

impl Session {
    fn quiet(&self) -> bool {
        self.set_away || self.idle
    }
}

#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) sessions: Vec<Session>,
    /// Deadline, and whether it was quiet.
    lost: Vec<(u32, bool)>,
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
        let first = (0..self.lost.len()).min_by_key(|place| self.lost[*place].0);
        first.map(|place| self.lost.remove(place));
        self.sessions.push(Session { socket, active: now, sign: now, set_away: false, idle: false });
        self.tell(now);
    }

    pub(crate) fn says_goodbye(&mut self, socket: i32, now: u32) {
        self.sessions.retain(|session| session.socket != socket);
        self.seen = Some(now);
        self.tell(now);
    }

    /// The server notices that a session is gone, whose last sign of life was at `sign`.
    pub(crate) fn is_lost(&mut self, socket: i32, sign: u32, now: u32) {
        let Some(place) = self.sessions.iter().position(|session| session.socket == socket) else { return };
        let session = self.sessions.remove(place);
        self.lost.push((sign + OFFLINE_AFTER, session.quiet()));
        self.seen = self.seen.max(Some(sign));
        self.tell(now);
    }

    pub(crate) fn acts(&mut self, socket: i32, now: u32) {
        self.with(socket, |session| {
            (session.active, session.sign, session.idle) = (now, now, false);
        });
        self.tell(now);
    }

    pub(crate) fn sets(&mut self, socket: i32, away: bool, now: u32) {
        self.with(socket, |session| session.set_away = away);
        if away { self.tell(now) } else { self.acts(socket, now) }
    }

    pub(crate) fn pongs(&mut self, socket: i32, now: u32) {
        self.with(socket, |session| session.sign = now);
    }

    /// The end of a tick.
    pub(crate) fn passes(&mut self, now: u32) {
        for session in &mut self.sessions {
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
        let may_return = self.lost.iter().any(|(_, quiet)| !quiet);
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

//! Who is online, away or offline: the state machine of each user, at the user's home.
//!
//! | sessions of the user | state | what watchers are told |
//! |---|---|---|
//! | one live and active | online | online |
//! | all live ones quiet (idle or set away) | away | away, unless an active one was lost and may come back |
//! | none live, some lost without goodbye | away | what they were told before |
//! | none | offline | offline |
//!
//! A lost session counts for watchers as if it were there, becoming idle like any other, until `offline_after` after its
//! last sign of life. The next session of the user takes its place and goes on as it was: idle for as long, and set away
//! where it was. So a reconnect within the grace period publishes nothing. A user with one
//! session costs its registry entry; only users with several sessions, lost ones, or watchers have a record. Watchers
//! are told at most one change in [`DEBOUNCE_TICKS`], then the newest.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;

use crate::base::tick::{Now, Tick};
use crate::hub::activity::Activity;
use crate::hub::api::{UserState, UserView};
use crate::hub::home::Homes;
use crate::hub::home_users::{HomeUser, QUIET};
use crate::hub::last_seen::LastSeen;
use crate::hub::mail::{LookAsk, ReplyBody};
use crate::hub::post::Post;
use crate::hub::registry::Registered;
use crate::hub::shard::{Common, ticks_of};
use crate::hub::stream::{JsonCheck, Publication};
use crate::limits;

/// Ticks between two publications about one user at least (P18).
const DEBOUNCE_TICKS: u32 = 10;

/// What a home keeps for the presence of all its users. Without the setting it stays empty.
#[derive(Debug)]
pub(crate) struct UserPresence {
    offline_after: Option<u32>,
    /// Zero: nobody becomes idle.
    away_after: u32,
    last_seen: LastSeen,
    /// When which user is to be looked at, in time in which this shard did not stand still.
    deadlines: BinaryHeap<Reverse<(Tick, u64)>>,
    /// The server is stopping: nobody is told anything any more.
    stopping: bool,
    /// Ticks in which this shard stood still, all together: nobody could come back in them.
    stood_still: u32,
    /// When it last went on after that.
    went_on: Tick,
    /// Users with a record and without a session.
    pub(crate) absent: usize,
}

impl UserPresence {
    pub(crate) fn new(common: &Common) -> Self {
        let settings = common.settings.user_presence.as_ref();
        let users = settings.map_or(0, |settings| settings.last_seen_users);
        Self {
            offline_after: settings.map(|settings| ticks_of(settings.offline_after)),
            away_after: settings.map_or(0, |settings| ticks_of(settings.away_after)),
            last_seen: LastSeen::new(users.div_ceil(u32::from(common.shards.max(1))) as usize),
            deadlines: BinaryHeap::new(),
            stopping: false,
            stood_still: 0,
            went_on: Tick(0),
            absent: 0,
        }
    }

    /// Until when a session whose last sign of life was at `sign` may come back; `None` where presence is off. Signs
    /// that came while this shard stood still were not read, so time before does not count. Who closed without saying why
    /// has [`limits::UNSAID_TICKS`] to come back.
    pub(crate) fn deadline(&self, sign: Tick, is_unsaid: bool) -> Option<Tick> {
        let most = if is_unsaid { limits::UNSAID_TICKS } else { u32::MAX };
        self.offline_after.map(|ticks| self.counted(sign.max(self.went_on)).after(ticks.min(most)))
    }

    /// A tick on the clock that stands while this shard does.
    pub(crate) fn counted(&self, tick: Tick) -> Tick {
        Tick(tick.0.saturating_sub(self.stood_still))
    }

    /// The other way round.
    pub(crate) fn real(&self, counted: Tick) -> Tick {
        counted.after(self.stood_still)
    }

    /// This shard stood still for so long until now.
    pub(crate) fn stood_still(&mut self, ticks: u32, now: Tick) {
        self.stood_still += ticks;
        self.went_on = now;
    }

    /// Has a user looked at when a session lost until `deadline` becomes idle.
    pub(crate) fn look_at_idle(&mut self, lost: Activity, deadline: Tick, hash: u64, now: Tick) {
        if self.away_after > 0 && !lost.is_quiet() {
            let left = self.away_after.saturating_sub(lost.age(now));
            let idle = self.counted(now).after(left);
            if idle < deadline {
                self.look_at(idle, hash);
            }
        }
    }

    /// A user is gone.
    pub(crate) fn seen(&mut self, hash: u64, tick: Tick) {
        if self.offline_after.is_some() {
            self.last_seen.remember(hash, tick);
        }
    }

    /// Has a user looked at in time.
    pub(crate) fn look_at(&mut self, deadline: Tick, hash: u64) {
        self.deadlines.push(Reverse((deadline, hash)));
    }

    /// When the next user is to be looked at.
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        let next = self.deadlines.peek().filter(|_| !self.stopping);
        next.map(|Reverse((tick, _))| self.real(*tick))
    }

    /// True once nobody is told anything any more.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Nobody goes offline because the server does.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }

    /// Bytes of memory held.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.last_seen.memory_bytes() + self.deadlines.capacity() * size_of::<Reverse<(Tick, u64)>>()
    }

    fn due(&mut self, now: Tick) -> Option<u64> {
        self.next_deadline().filter(|deadline| *deadline <= now)?;
        self.deadlines.pop().map(|Reverse((_, hash))| hash)
    }

    fn last_sign(user: &HomeUser) -> Option<Tick> {
        user.lost.iter().map(|lost| lost.sign).max()
    }

    /// Lost sessions become idle and come to their end. The last sign of life of those that do.
    fn pass(&self, user: &mut HomeUser, now: Tick) -> Option<Tick> {
        let counted = self.counted(now);
        let ended = user.lost.iter().filter(|lost| lost.deadline <= counted).map(|lost| lost.sign).max();
        user.lost.retain(|lost| lost.deadline > counted);
        for lost in &mut user.lost {
            if self.away_after > 0 && lost.activity.age(now) >= self.away_after {
                lost.activity = lost.activity.idled();
            }
        }
        ended
    }
}

impl HomeUser {
    /// The state as it is.
    fn state(&self) -> UserState {
        if self.active_sessions() > 0 {
            UserState::Online
        } else if self.sessions() > 0 || !self.lost.is_empty() {
            UserState::Away
        } else {
            UserState::Offline
        }
    }

    /// The state with lost sessions as if they were there: what watchers are told.
    pub(crate) fn lasting_state(&self) -> UserState {
        if self.lost.iter().any(|lost| !lost.activity.is_quiet()) { UserState::Online } else { self.state() }
    }
}

impl Homes {
    /// Users with sessions.
    pub(crate) fn users(&self) -> usize {
        self.users.len() - self.presence.absent
    }

    /// Keyed hash of a user's name.
    pub(crate) fn user_hash(&self, user: &str) -> u64 {
        self.hasher.of(user.as_bytes())
    }

    /// What is known of the users asked for.
    pub(crate) fn look(&mut self, ask: LookAsk, now: Now, post: &mut Post) {
        let views = ask.users.into_iter().map(|(index, hash)| (index, self.user_view(hash, now))).collect();
        self.reply(ask.origin, "".into(), ReplyBody::Users(views), post);
    }

    /// What is known of one user.
    pub(crate) fn user_view(&mut self, hash: u64, now: Now) -> UserView {
        let remembered = self.presence.last_seen.get(hash);
        let (state, devices, sign) = match self.users.get(hash) {
            Registered::Nothing => (UserState::Offline, 0, remembered),
            Registered::Single(_, mark) => {
                (if mark & QUIET == 0 { UserState::Online } else { UserState::Away }, 1, None)
            }
            Registered::Record(user) => {
                let sign = UserPresence::last_sign(user).max(remembered);
                (user.state(), user.sessions(), sign)
            }
        };
        UserView { state, devices, last_seen: sign.filter(|_| devices == 0).map(|sign| unix_of(sign, now)) }
    }

    /// After a change: tells watchers, and gives the record back if an entry (or nothing) says as much.
    pub(crate) fn settle_user(&mut self, hash: u64, now: Now, post: &mut Post) {
        let Registered::Record(user) = self.users.get(hash) else { return };
        let sessions = user.sessions();
        let absent = sessions == 0;
        if absent != user.absent {
            user.absent = absent;
            self.presence.absent = self.presence.absent + usize::from(absent) - usize::from(!absent);
        }
        if user.watched.is_some() {
            return self.tell_watchers(hash, now, post);
        }
        if !user.lost.is_empty() || !user.heirs().is_empty() {
            return;
        }
        match (sessions, user.shards.first().copied()) {
            (0, _) => {
                self.users.remove(hash);
                self.presence.absent -= 1;
            }
            (1, Some((shard, _))) => {
                let mark = if user.quiet > 0 { QUIET } else { 0 };
                self.users.shrink(hash, shard, mark);
            }
            _ => {}
        }
    }

    /// Looks at the users whose time has come.
    pub(crate) fn user_deadlines(&mut self, now: Now, post: &mut Post) {
        for _ in 0..limits::EXPIRIES_PER_TURN {
            let Some(hash) = self.presence.due(now.tick) else { return };
            if let Registered::Record(user) = self.users.get(hash) {
                let before = user.lasting_state();
                user.deferred = false;
                let ended = self.presence.pass(user, now.tick);
                // Also where others are left: they may turn out to have been silent for longer.
                if let Some(sign) = ended {
                    self.presence.seen(hash, sign);
                }
                self.note_deadline(hash, before, now, post);
                self.settle_user(hash, now, post);
            }
        }
    }

    /// A channel got a subscriber: if it tells of a user, the subscriber is told the state at once, in the reply.
    pub(crate) fn watch(&mut self, channel: &str, channel_hash: u64, body: &mut ReplyBody, now: Now) {
        let ReplyBody::Subscribed(granted) = body else { return };
        let Some(name) = self.common.watched_user(channel) else { return };
        let hash = self.user_hash(name);
        let user = self.users.record(hash, HomeUser::of_single);
        if user.watched.replace(channel_hash).is_none() {
            (user.published, user.published_at) = (user.lasting_state(), None);
            if user.sessions() == 0 && !user.absent {
                user.absent = true;
                self.presence.absent += 1;
            }
        }
        let state = user.published;
        let publication = self.state_publication(name, hash, state, now);
        granted.publications = vec![publication.into()];
        (granted.was_recovering, granted.recovered) = (true, true);
    }

    /// A channel lost a subscriber.
    pub(crate) fn unwatch(&mut self, channel: &str, now: Now, post: &mut Post) {
        let Some(name) = self.common.watched_user(channel) else { return };
        let hash = self.user_hash(name);
        let Registered::Record(user) = self.users.get(hash) else { return };
        if let Some(channel_hash) = user.watched
            && self.occupied_channel(channel_hash).is_none()
            && let Registered::Record(user) = self.users.get(hash)
        {
            user.watched = None;
            self.settle_user(hash, now, post);
        }
    }

    fn tell_watchers(&mut self, hash: u64, now: Now, post: &mut Post) {
        let Registered::Record(user) = self.users.get(hash) else { return };
        let (state, Some(channel_hash)) = (user.lasting_state(), user.watched) else { return };
        if state == user.published || self.presence.stopping {
            return;
        }
        let earliest = user.published_at.map(|at| at.after(DEBOUNCE_TICKS)).filter(|at| *at > now.tick);
        if let Some(earliest) = earliest {
            if !user.deferred {
                user.deferred = true;
                self.presence.look_at(self.presence.counted(earliest), hash);
            }
            return;
        }
        (user.published, user.published_at) = (state, Some(now.tick));
        let Some(channel) = self.occupied_channel(channel_hash) else { return };
        let common = std::sync::Arc::clone(&self.common);
        let Some(name) = common.watched_user(&channel) else { return };
        let publication = self.state_publication(name, hash, state, now);
        let channels = &common.settings.channel;
        let namespace = common.settings.user_presence.as_ref().map(|presence| presence.namespace.as_str());
        let namespace = namespace.and_then(|name| channels.namespaces.get(name)).copied().unwrap_or(0);
        self.deliver_to_record(channel_hash, &publication, self.terms(namespace), post);
    }

    fn state_publication(&mut self, name: &str, hash: u64, state: UserState, now: Now) -> Publication {
        let view = UserView { state, ..self.user_view(hash, now) };
        let last_seen = view.last_seen.filter(|_| state != UserState::Online);
        Publication {
            offset: 0,
            version: 0,
            data: state_json(name, state, last_seen),
            publisher: None,
            tags: Box::default(),
            json: JsonCheck::default(),
        }
    }
}

/// `{"user":…,"state":…}`, with `last_seen` (Unix seconds) for a user without live sessions where it is known.
fn state_json(user: &str, state: UserState, last_seen: Option<u64>) -> Bytes {
    let user = serde_json::Value::from(user);
    let state = state.name();
    let json = match last_seen {
        Some(at) => format!(r#"{{"user":{user},"state":"{state}","last_seen":{at}}}"#),
        None => format!(r#"{{"user":{user},"state":"{state}"}}"#),
    };
    Bytes::from(json)
}

/// Unix seconds of a tick in the past.
fn unix_of(tick: Tick, now: Now) -> u64 {
    let passed = u64::from(now.tick.since(tick)) * crate::base::tick::TICK_MS;
    now.unix_ms.saturating_sub(passed) / 1000
}

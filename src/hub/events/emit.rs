//! Where events are made. Each of these is called at the one place where what it tells of happens.

use super::{EndedBy, Event, EventKind, EventKinds};
use crate::base::tick::Now;
use crate::hub::api::UserState;
use crate::hub::connection::Phase;
use crate::hub::home::Homes;
use crate::hub::home_users::QUIET;
use crate::hub::mail::{HomeAsk, HomeOp};
use crate::hub::post::Post;
use crate::hub::registry::Registered;
use crate::hub::shard::Shard;

impl Shard {
    /// The connect command of a connection succeeded.
    pub(crate) fn note_connected(&mut self, slot: u32) {
        if self.common.settings.events.has(EventKind::Connected) {
            let event = self.event_of(slot, EventKind::Connected);
            self.post.note(event);
        }
    }

    /// What is to be told once a connection has departed; `None` if nobody wants to know.
    pub(crate) fn ending(&self, slot: u32, by: EndedBy, code: u16, reason: &str) -> Option<Event> {
        if !self.common.settings.events.has(EventKind::Disconnected) {
            return None;
        }
        self.connections.0.get(slot as usize).filter(|connection| connection.phase == Phase::Live)?;
        let (by, code, reason) = (by as i32, u32::from(code), reason.to_owned());
        Some(Event { by, code, reason, ..self.event_of(slot, EventKind::Disconnected) })
    }

    /// A subscription has become active.
    pub(crate) fn note_subscribed(&mut self, slot: u32, handle: u32) {
        if self.common.settings.events.has(EventKind::Subscribed) {
            let channel = self.locals.channel_name(handle).to_owned();
            let event = Event { channel, ..self.event_of(slot, EventKind::Subscribed) };
            self.post.note(event);
        }
    }

    /// A subscription is about to end; nothing to tell if it never became active.
    pub(crate) fn note_unsubscribed(&mut self, slot: u32, handle: u32, by: EndedBy, code: u32, reason: &str) {
        if !self.common.settings.events.has(EventKind::Unsubscribed)
            || self.subscription_flags(slot, handle).is_none_or(|flags| !self.stands(slot, flags))
        {
            return;
        }
        let channel = self.locals.channel_name(handle).to_owned();
        let (by, reason) = (by as i32, reason.to_owned());
        let event = Event { channel, by, code, reason, ..self.event_of(slot, EventKind::Unsubscribed) };
        self.post.note(event);
    }

    /// The name that goes to a user's home, which knows a hash only, if somebody wants events about users.
    pub(crate) fn name_for_events(&self, user: &str) -> Option<Box<str>> {
        self.common.settings.events.has_users().then(|| user.into())
    }

    fn event_of(&self, slot: u32, kind: EventKind) -> Event {
        let event = Event { user: self.user_of(slot).to_owned(), ..Event::new(kind, self.now.unix_ms) };
        event.with_client(&self.ids, self.key(slot))
    }
}

impl Homes {
    /// Answers one ask and tells whether the channel got its first subscriber by it, or lost its last.
    pub(crate) fn ask_noting(&mut self, ask: HomeAsk, now: Now, post: &mut Post) {
        let is_about = matches!(ask.op, HomeOp::Subscribe(_) | HomeOp::Unsubscribe(_));
        if !is_about || !self.common.settings.events.meets(EventKinds::CHANNEL) {
            return self.ask(ask, now, post);
        }
        let (hash, channel) = (ask.hash, String::from(&*ask.channel));
        let before = self.is_occupied(hash);
        self.ask(ask, now, post);
        let after = self.is_occupied(hash);
        let kind = if after { EventKind::Occupied } else { EventKind::Vacated };
        if before != after && self.common.settings.events.has(kind) {
            post.note(Event { channel, ..Event::new(kind, now.unix_ms) });
        }
    }

    fn is_occupied(&mut self, hash: u64) -> bool {
        match self.channels.get(hash) {
            Registered::Nothing => false,
            Registered::Single(..) => true,
            Registered::Record(channel) => !channel.shards.is_empty(),
        }
    }

    /// The state that watchers would be told, to be compared after a change; `None` if nobody wants events.
    pub(crate) fn state_for_events(&mut self, hash: u64) -> Option<UserState> {
        if !self.common.settings.events.has_users() || self.presence.is_stopping() {
            return None;
        }
        Some(match self.users.get(hash) {
            Registered::Nothing => UserState::Offline,
            Registered::Single(_, mark) if mark & QUIET != 0 => UserState::Away,
            Registered::Single(..) => UserState::Online,
            Registered::Record(user) => user.lasting_state(),
        })
    }

    /// After a change at a user's home: tells the new state. A record that outlives the last session keeps the name for
    /// what follows without one.
    pub(crate) fn note_user(
        &mut self,
        hash: u64,
        before: Option<UserState>,
        name: Option<Box<str>>,
        now: Now,
        post: &mut Post,
    ) {
        let (Some(before), Some(after)) = (before, self.state_for_events(hash)) else { return };
        let Some(name) = name else { return };
        if before != after {
            self.tell_state(&name, after, now, post);
        }
        if let Registered::Record(user) = self.users.get(hash)
            && !user.lost.is_empty()
        {
            user.rare.get_or_insert_default().name = Some(name);
        }
    }

    /// A deadline of a user's record has passed.
    pub(crate) fn note_deadline(&mut self, hash: u64, before: UserState, now: Now, post: &mut Post) {
        let Registered::Record(user) = self.users.get(hash) else { return };
        let after = user.lasting_state();
        if before != after
            && let Some(name) = user.rare.as_ref().and_then(|rare| rare.name.clone())
        {
            self.tell_state(&name, after, now, post);
        }
    }

    fn tell_state(&self, name: &str, state: UserState, now: Now, post: &mut Post) {
        let kind = match state {
            UserState::Online => EventKind::Online,
            UserState::Away => EventKind::Away,
            UserState::Offline => EventKind::Offline,
        };
        if self.common.settings.events.has(kind) {
            post.note(Event { user: name.to_owned(), ..Event::new(kind, now.unix_ms) });
        }
    }
}

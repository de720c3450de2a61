//! The session side of user presence: when a session becomes idle, how it ends, and what clients and backends ask.
//!
//! A session is active by the commands that a user causes (subscribe, unsubscribe, publish, rpc, send), not by those
//! that libraries and pages send on their own (pong, refresh, presence, history, `mailbox.ack`, and the subscriptions
//! that come back with a session). Signs of life are those commands and the answered pings.

use std::borrow::Cow;

use crate::base::ids::ConnKey;
use crate::base::tick::Tick;
use crate::hub::activity::Activity;
use crate::hub::api::{ApiAnswer, ApiError, UserView};
use crate::hub::channel_name::parse;
use crate::hub::cold::Wait;
use crate::hub::connection::{Connection, NONE, Phase, flag};
use crate::hub::depart::Farewell;
use crate::hub::mail::{Inherit, Leave, LookAsk, Mail, Origin, ReplyBody, Ticket, UserAsk, UserOp};
use crate::hub::metrics::SentKind;
use crate::hub::object::object;
use crate::hub::permission::{Actor, may_subscribe};
use crate::hub::settings::UserPresenceSettings;
use crate::hub::shard::{Shard, ticks_of};
use crate::hub::timers::first_ping_early;
use crate::limits;
use crate::protocol::{ErrorCode, Rpc, encode_rpc};

/// A `presence.get` whose homes have not all answered.
#[derive(Debug)]
pub(crate) struct PendingUsers {
    id: u32,
    missing: u32,
    users: Vec<(String, UserView)>,
}

/// Parameters of `presence.set`.
#[derive(serde::Deserialize)]
struct SetParams<'a> {
    #[serde(borrow)]
    state: Cow<'a, str>,
}

/// Parameters of `presence.get`.
#[derive(serde::Deserialize)]
struct GetParams {
    users: Vec<String>,
}

impl Shard {
    /// The user of a session did something.
    pub(crate) fn touch(&mut self, slot: u32) {
        let now = self.now.tick;
        self.change_activity(slot, |activity| activity.touched(now));
    }

    /// A session subscribed: its user did, unless it has come back just now and its library sees to its subscriptions.
    pub(crate) fn touch_by_subscribe(&mut self, slot: u32) {
        let (now, young) = (self.now.tick, self.is_young(slot));
        self.change_activity(
            slot,
            |activity| {
                if young { activity.subscribed(now) } else { activity.touched(now) }
            },
        );
    }

    fn is_young(&self, slot: u32) -> bool {
        let accepted = self.connections.0.get(slot as usize).and_then(|of| self.accepted_in(of.generation));
        accepted.is_some_and(|at| self.now.tick.since(at) <= limits::RESUBSCRIBE_TICKS)
    }

    /// A session has the place of a lost one of its user, and goes on as that one was.
    pub(crate) fn inherit(&mut self, ask: &Inherit) {
        let key = ask.key;
        let user = match self.connections.0.get(key.slot as usize) {
            Some(connection) if connection.generation == key.generation => connection.user,
            _ => NONE,
        };
        let Some(settings) = self.common.settings.user_presence.as_ref().filter(|_| user != NONE) else {
            // It has left, and its home has heard so by now or soon.
            return;
        };
        let away_after = settings.away_after;
        let mut activity = self.locals.activity(user, key.slot).continuing(ask.activity);
        if !away_after.is_zero() && activity.age(self.now.tick) >= ticks_of(away_after) {
            activity = activity.idled();
        }
        self.locals.set_activity(user, key.slot, activity);
        self.tell_home(key, user, UserOp::Continued(activity.is_quiet()));
        self.arm(key.slot);
    }

    /// When a session becomes idle if its user does nothing; `None` if it is, or never will be.
    pub(crate) fn idle_due(&self, slot: u32, connection: &Connection) -> Option<Tick> {
        let away_after = self.common.settings.user_presence.as_ref()?.away_after;
        if connection.user == NONE || away_after.is_zero() {
            return None;
        }
        let activity = self.locals.activity(connection.user, slot);
        let left = ticks_of(away_after).saturating_sub(activity.age(self.now.tick));
        (!activity.is_idle()).then(|| self.now.tick.after(left))
    }

    /// The timer of a live session fired: maybe for this.
    pub(crate) fn notice_idle(&mut self, slot: u32) {
        let Some(connection) = self.connections.0.get(slot as usize) else { return };
        if self.idle_due(slot, connection).is_some_and(|due| due <= self.now.tick) {
            self.change_activity(slot, Activity::idled);
        }
    }

    /// What the home of the user is told of a session that ends.
    pub(crate) fn leave_of(&self, slot: u32, farewell: Farewell) -> Leave {
        let now = self.now.tick;
        let Some(connection) = self.connections.0.get(slot as usize).filter(|of| of.user != NONE) else {
            return Leave { activity: Activity::at(now), lost: None, is_unsaid: false };
        };
        let activity = self.locals.activity(connection.user, slot);
        let lost = match farewell {
            Farewell::Goodbye => None,
            Farewell::Heard | Farewell::Unsaid => Some(now),
            Farewell::Lost => Some(self.last_sign(connection, activity)),
        };
        Leave { activity, lost, is_unsaid: farewell == Farewell::Unsaid }
    }

    /// How a session ends for presence: a client may have said goodbye before.
    pub(crate) fn farewell_of(&self, slot: u32, farewell: Farewell) -> Farewell {
        match self.connections.0.get(slot as usize) {
            Some(of) if of.user != NONE && self.locals.activity(of.user, slot).is_leaving() => {
                Farewell::Goodbye
            }
            _ => farewell,
        }
    }

    /// While an answer to a ping is missing, the peer was last heard of at the ping before (before the first one, at its
    /// beginning), or at its user's last command.
    fn last_sign(&self, connection: &Connection, activity: Activity) -> Tick {
        let (client, now) = (&self.common.settings.client, self.now.tick);
        if connection.phase != Phase::Live || !connection.has(flag::AWAITING_PONG) {
            return now;
        }
        let since = ticks_of(client.ping_interval) + ticks_of(client.pong_timeout);
        let mut answered = Tick(connection.ping.0.saturating_sub(since));
        let interval = ticks_of(client.ping_interval);
        let began = answered.after(first_ping_early(connection.generation, interval));
        if self.accepted_in(connection.generation).is_some_and(|at| began.since(at) <= interval / 2) {
            answered = began;
        }
        let active = Tick(now.0.saturating_sub(activity.age(now)));
        answered.max(active).min(now)
    }

    fn change_activity(&mut self, slot: u32, change: impl FnOnce(Activity) -> Activity) {
        let user = match self.connections.0.get(slot as usize) {
            Some(connection) if self.common.settings.user_presence.is_some() => connection.user,
            _ => NONE,
        };
        if user == NONE {
            return;
        }
        let before = self.locals.activity(user, slot);
        let after = change(before);
        if before == after {
            return;
        }
        self.locals.set_activity(user, slot, after);
        if before.is_quiet() != after.is_quiet() {
            self.tell_home(self.key(slot), user, UserOp::Quiet(after.is_quiet()));
        }
        if before.is_idle() && !after.is_idle() {
            self.arm(slot);
        }
    }

    fn tell_home(&mut self, key: ConnKey, user: u32, op: UserOp) {
        let name = self.locals.user_name(user);
        let (home, hash) = (self.common.home_of(&self.hasher, name), self.hasher.of(name.as_bytes()));
        let ask = UserAsk { hash, key, name: self.name_for_events(name), op };
        self.post.send(home, Mail::User(Box::new(ask)));
    }

    /// Methods of clients. Without user presence and mailboxes there are none.
    pub(crate) fn rpc(&mut self, slot: u32, id: u32, request: &Rpc<'_>) {
        let settings = &self.common.settings;
        let (presence, mailbox) = (settings.user_presence.is_some(), settings.mailbox.is_some());
        let data = request.data.as_deref().unwrap_or_default();
        let done = match &*request.method {
            // A page acknowledges on its own what it was sent: no deed of its user.
            "mailbox.ack" if mailbox => self.mailbox_ack(slot, id, data),
            _ if !presence && (!mailbox || request.method.starts_with("presence.")) => {
                Err(ErrorCode::NotAvailable)
            }
            "presence.set" => self.presence_set(slot, id, data),
            "presence.get" => self.presence_get(slot, id, data),
            _ => {
                self.touch(slot);
                Err(ErrorCode::MethodNotFound)
            }
        };
        if let Err(error) = done {
            self.reply_error(slot, id, error);
        }
    }

    fn presence_set(&mut self, slot: u32, id: u32, data: &[u8]) -> Result<(), ErrorCode> {
        let params: SetParams<'_> = object(data).ok_or(ErrorCode::BadRequest)?;
        if self.user_of(slot).is_empty() {
            return Err(ErrorCode::PermissionDenied);
        }
        let now = self.now.tick;
        match &*params.state {
            "away" => self.change_activity(slot, |activity| activity.set_away(true)),
            "online" => self.change_activity(slot, |activity| activity.set_away(false).touched(now)),
            "offline" => self.change_activity(slot, Activity::leaving),
            _ => return Err(ErrorCode::BadRequest),
        }
        self.rpc_result(slot, id, b"{}");
        Ok(())
    }

    fn presence_get(&mut self, slot: u32, id: u32, data: &[u8]) -> Result<(), ErrorCode> {
        let params: GetParams = object(data).ok_or(ErrorCode::BadRequest)?;
        if params.users.len() > limits::USERS_PER_LOOK {
            return Err(ErrorCode::LimitExceeded);
        }
        let common = std::sync::Arc::clone(&self.common);
        let Some(settings) = &common.settings.user_presence else { return Err(ErrorCode::NotAvailable) };
        params.users.iter().try_for_each(|user| self.may_watch(slot, settings, user))?;
        let asks = self.looks(&params.users);
        let users: Vec<_> = params.users.into_iter().map(|user| (user, UserView::default())).collect();
        if asks.is_empty() {
            self.rpc_result(slot, id, &users_json(&users));
            return Ok(());
        }
        let missing = asks.len() as u32;
        let number = self.block(slot, Wait::Users(Box::new(PendingUsers { id, missing, users })));
        let origin = Origin::Connection(Ticket { key: self.key(slot), number });
        for (home, users) in asks {
            self.post.send(home, Mail::Look(Box::new(LookAsk { origin, users })));
        }
        Ok(())
    }

    /// Whoever may subscribe to a user's channel may ask for the user.
    fn may_watch(&self, slot: u32, settings: &UserPresenceSettings, user: &str) -> Result<(), ErrorCode> {
        let channel = &self.common.settings.channel;
        let name = [settings.namespace.as_str(), channel.namespace_boundary.as_str(), user].concat();
        let parsed = parse(channel, &name)?;
        let insecure = self.common.settings.client.insecure;
        let actor = Actor { user: self.user_of(slot), insecure, subscribed: false };
        may_subscribe(&parsed, &actor, false).map_err(ErrorCode::from)
    }

    /// The users by home, each with its index.
    fn looks(&self, users: &[String]) -> Vec<(crate::base::ids::ShardId, Vec<(u32, u64)>)> {
        let mut asks: Vec<(_, Vec<_>)> = Vec::new();
        for (index, user) in (0..).zip(users) {
            let (home, hash) = (self.common.home_of(&self.hasher, user), self.hasher.of(user.as_bytes()));
            match asks.iter_mut().find(|(other, _)| *other == home) {
                Some((_, of_home)) => of_home.push((index, hash)),
                None => asks.push((home, vec![(index, hash)])),
            }
        }
        asks
    }

    /// One home's part of the answer to `presence.get`.
    pub(crate) fn users_answer(&mut self, slot: u32, body: ReplyBody) {
        let Some(blocked) = self.cold_if_any(slot).and_then(|cold| cold.blocked.as_mut()) else { return };
        let (Wait::Users(pending), ReplyBody::Users(views)) = (&mut blocked.wait, body) else { return };
        for (index, view) in views {
            if let Some(user) = pending.users.get_mut(index as usize) {
                user.1 = view;
            }
        }
        pending.missing -= 1;
        if pending.missing == 0 {
            let (id, json) = (pending.id, users_json(&pending.users));
            self.rpc_result(slot, id, &json);
            self.resume(slot);
        }
    }

    /// Those of the users that are homed here.
    pub(crate) fn api_user_presence(&mut self, users: Vec<String>) -> ApiAnswer {
        if self.common.settings.user_presence.is_none() {
            return ApiAnswer::Error(ApiError::NotAvailable);
        }
        if users.len() > limits::USERS_PER_API_LOOK {
            return ApiAnswer::Error(ApiError::BadRequest);
        }
        let (common, hasher, id) = (&self.common, &self.hasher, self.id);
        let here: Vec<_> = users.into_iter().filter(|user| common.home_of(hasher, user) == id).collect();
        let now = self.now;
        let view = |user: String| {
            let view = self.homes.user_view(self.hasher.of(user.as_bytes()), now);
            (user, view)
        };
        ApiAnswer::UserPresence(here.into_iter().map(view).collect())
    }

    pub(crate) fn rpc_result(&mut self, slot: u32, id: u32, data: &[u8]) {
        self.say(slot, SentKind::Rpc, |out, encoding| encode_rpc(out, encoding, id, Some(data)));
    }
}

/// `{"users":{"bob":{"state":"away","devices":1}}}`
fn users_json(users: &[(String, UserView)]) -> Vec<u8> {
    let one = |view: &UserView| {
        let mut of = serde_json::json!({ "state": view.state.name(), "devices": view.devices });
        if let Some(at) = view.last_seen {
            of["last_seen"] = at.into();
        }
        of
    };
    let map: serde_json::Map<_, _> = users.iter().map(|(user, view)| (user.clone(), one(view))).collect();
    serde_json::to_vec(&serde_json::json!({ "users": map })).unwrap_or_default()
}

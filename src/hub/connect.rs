//! The connect command: who is it, what is it subscribed to from the start, and the reply once every home answered.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::hub::activity::Activity;
use crate::hub::api::{Overrides, Position};
use crate::hub::auth::{ConnectionClaims, TokenFault, ttl_seconds};
use crate::hub::channel::frame;
use crate::hub::channel_name::{NameFault, ParsedChannel, parse, personal};
use crate::hub::cold::{Cold, Wait};
use crate::hub::connection::{NONE, Phase, flag, sub};
use crate::hub::depart::Farewell;
use crate::hub::entitlement::{self, NotEntitled};
use crate::hub::mail::{Delivery, Mail, Origin, ReplyBody, Subscribed, Ticket, UserAsk, UserOp};
use crate::hub::metrics::SentKind;
use crate::hub::permission::{Actor, Wishes};
use crate::hub::session_mailbox::device_of;
use crate::hub::shard::{Shard, ticks_of};
use crate::hub::subscribe::{NewSubscription, may_subscribe, subscribe_result};
use crate::hub::timers::first_ping_early;
use crate::protocol::{Connect, Subscribe};
use crate::protocol::{ConnectResult, SubscribeResult, encode_connect};
use crate::protocol::{DisconnectCode, Encoding, ErrorCode};

/// A connect command whose subscriptions are under way.
#[derive(Debug)]
pub(crate) struct PendingConnect {
    id: u32,
    /// Seconds to live for the reply, 0 = no expiry.
    ttl: u32,
    /// Answers that have not come.
    missing: u32,
    /// The user's home knows of this session.
    admitted: bool,
    /// Channel, and what its home granted.
    granted: Vec<(Box<str>, Subscribed)>,
    /// Bytes of recovered publications in them.
    recovered_bytes: usize,
    /// Publications behind what was granted: they follow the reply.
    held: Vec<Arc<Delivery>>,
    /// Bytes of their frames.
    held_bytes: usize,
}

impl PendingConnect {
    /// Notes a grant. What is recovered in all channels together must fit into one reply of at most `reply_bytes`.
    fn grant(&mut self, channel: Box<str>, mut granted: Subscribed, reply_bytes: usize) {
        if granted.mailbox.is_none() && self.recovered_bytes + granted.reply_bytes() > reply_bytes {
            granted.give_up_recovery();
        }
        self.recovered_bytes += granted.reply_bytes();
        self.granted.push((channel, granted));
    }

    /// Keeps a publication for after the reply. False if that were more than `limit` bytes of them.
    pub(crate) fn hold(&mut self, encoding: Encoding, delivery: &Arc<Delivery>, limit: usize) -> bool {
        let bytes = frame(delivery, encoding).map_or(0, |frame| frame.len() + size_of::<Arc<Delivery>>());
        self.held_bytes += bytes;
        if bytes > 0 {
            self.held.push(Arc::clone(delivery));
        }
        self.held_bytes <= limit
    }

    /// Bytes of memory, with what is held back for the client.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.granted.capacity() * size_of::<(Box<str>, Subscribed)>() + self.held_bytes
    }
}

/// Why a connect command failed.
enum Refusal {
    Error(ErrorCode),
    Disconnect(DisconnectCode),
}

impl From<DisconnectCode> for Refusal {
    fn from(code: DisconnectCode) -> Self {
        Self::Disconnect(code)
    }
}

impl From<NotEntitled> for Refusal {
    fn from(why: NotEntitled) -> Self {
        why.refusal().map_or_else(Self::Disconnect, Self::Error)
    }
}

/// A subscription the connection gets from the server.
struct Given<'a> {
    channel: Cow<'a, str>,
    info: Option<Bytes>,
    data: Option<Bytes>,
    overrides: Overrides,
    from_token: bool,
}

impl Shard {
    pub(crate) fn connect(&mut self, slot: u32, id: u32, request: &Connect<'_>) {
        if let Err(refusal) = self.try_connect(slot, id, request) {
            match refusal {
                Refusal::Disconnect(code) => self.disconnect(slot, code),
                Refusal::Error(error) => self.fail_connect(slot, id, error),
            }
        }
    }

    fn try_connect(&mut self, slot: u32, id: u32, request: &Connect<'_>) -> Result<(), Refusal> {
        let claims = self.authenticate(&request.token)?;
        let now = self.now.unix_seconds();
        let insecure = self.common.settings.client.insecure;
        let ttl = match claims.expire_at {
            0 => 0,
            _ if insecure => 0,
            at => ttl_seconds(at, now).ok_or(Refusal::Error(ErrorCode::Expired))?,
        };
        let asks = self.initial_subscriptions(slot, &claims, &request.subs)?;
        self.enter(slot, &claims, ttl);
        if self.common.settings.mailbox.is_some()
            && !claims.user.is_empty()
            && let Some(device) = device_of(request.data.as_deref())
        {
            self.set_device(slot, device);
        }
        let admission_ticket = self.needs_admission() && !claims.user.is_empty();
        let (waiting, certain): (Vec<_>, Vec<_>) =
            asks.into_iter().partition(|ask| ask.needs_answer(&self.common));
        let missing = waiting.len() as u32 + u32::from(admission_ticket);
        let granted = certain.iter().map(|ask| (ask.channel.clone(), ask.certain_grant())).collect();
        let admitted = !admission_ticket;
        let pending = PendingConnect {
            id,
            ttl,
            missing,
            admitted,
            granted,
            recovered_bytes: 0,
            held: Vec::new(),
            held_bytes: 0,
        };
        if missing == 0 {
            self.announce_user(slot, &claims.user, None);
            self.ask_subscriptions(slot, Origin::Nobody, certain);
            self.finish_connect(slot, &pending);
            return Ok(());
        }
        let number = self.block(slot, Wait::Connect(Box::new(pending)));
        self.announce_user(slot, &claims.user, admission_ticket.then_some(number));
        let origin = Origin::Connection(Ticket { key: self.key(slot), number });
        self.ask_subscriptions(slot, Origin::Nobody, certain);
        self.ask_subscriptions(slot, origin, waiting);
        Ok(())
    }

    fn ask_subscriptions(&mut self, slot: u32, origin: Origin, asks: Vec<NewSubscription>) {
        for ask in asks {
            self.ask_subscription(slot, origin, ask);
        }
    }

    fn authenticate(&mut self, token: &str) -> Result<ConnectionClaims, Refusal> {
        let client = &self.common.settings.client;
        if token.is_empty() {
            return if client.insecure || client.allow_anonymous_connect_without_token {
                Ok(ConnectionClaims::default())
            } else {
                Err(DisconnectCode::BadRequest.into())
            };
        }
        let claims =
            self.common.connection_tokens.connection(token, self.now.unix_seconds()).map_err(|fault| {
                match fault {
                    TokenFault::Expired => Refusal::Error(ErrorCode::TokenExpired),
                    TokenFault::Invalid => Refusal::Disconnect(DisconnectCode::InvalidToken),
                }
            })?;
        entitlement::user(client, &claims)?;
        Ok(claims)
    }

    /// Subscriptions from the token, the personal channel, and those the client wishes and may have.
    fn initial_subscriptions(
        &self,
        slot: u32,
        claims: &ConnectionClaims,
        wished: &[(Cow<'_, str>, Subscribe<'_>)],
    ) -> Result<Vec<NewSubscription>, Refusal> {
        let settings = &self.common.settings;
        let limit = settings.client.channel_limit as usize;
        // Where Protobuf names a channel twice, the last wish counts.
        let wishes: HashMap<&str, &Subscribe<'_>> =
            wished.iter().map(|(channel, wish)| (channel.as_ref(), wish)).collect();
        let mut given: Vec<Given<'_>> = claims.subs.iter().map(from_token).collect();
        if let Some(personal_channel) = &settings.client.personal_channel
            && !claims.user.is_empty()
        {
            let name = personal(&settings.channel, &personal_channel.namespace, &claims.user);
            if !given.iter().any(|given| given.channel == name) {
                given.push(plain(name.into()));
            }
        }
        let actor = Actor { user: &claims.user, insecure: settings.client.insecure, subscribed: false };
        let mut known: HashSet<Cow<'_, str>> = given.iter().map(|given| given.channel.clone()).collect();
        for (channel, _) in wished {
            if given.len() > limit {
                break;
            }
            if known.contains(channel) {
                continue;
            }
            let parsed = match parse(&settings.channel, channel) {
                Ok(parsed) => parsed,
                Err(NameFault::UnknownChannel) => return Err(DisconnectCode::BadRequest.into()),
                Err(NameFault::BadRequest) => continue,
            };
            if may_subscribe(&self.common, &parsed, &actor, false).is_ok() {
                known.insert(channel.clone());
                given.push(plain(channel.clone()));
            }
        }
        entitlement::count(&settings.client, given.len())?;
        given
            .into_iter()
            .map(|given| {
                let wish = wishes.get(given.channel.as_ref()).copied();
                let parsed = entitlement::channel(&settings.channel, &given.channel)?;
                let ask = self.new_server_subscription(slot, &parsed, &actor, &given, wish);
                if ask.is_unfit() { Err(DisconnectCode::InappropriateProtocol.into()) } else { Ok(ask) }
            })
            .collect()
    }

    fn new_server_subscription(
        &self,
        slot: u32,
        parsed: &ParsedChannel<'_>,
        actor: &Actor<'_>,
        given: &Given<'_>,
        wish: Option<&Subscribe<'_>>,
    ) -> NewSubscription {
        let wishes = wish.map(wishes_of).unwrap_or_default();
        let features = NewSubscription::features_of(&self.common, parsed, actor, wishes, given.overrides);
        let mut flags = NewSubscription::flags_of(&features) | sub::SERVER_SIDE;
        if given.from_token {
            flags |= sub::FROM_TOKEN;
        }
        let recover = wish.filter(|wish| wish.recover).map(position_of);
        let encoding = self.connections.0.get(slot as usize).map(|connection| connection.encoding());
        NewSubscription {
            channel: parsed.name.into(),
            namespace: parsed.namespace_index,
            user_hash: self.hasher.of(actor.user.as_bytes()),
            encoding: encoding.unwrap_or_default(),
            flags,
            recoverable: features.recoverable,
            recover: recover.filter(|_| features.recoverable),
            reject_unrecovered: false,
            info: given.info.clone(),
            data: given.data.clone(),
            expires: None,
        }
    }

    /// The connection has a user from here on.
    fn enter(&mut self, slot: u32, claims: &ConnectionClaims, ttl: u32) {
        let grace = ticks_of(self.common.settings.client.expired_close_delay);
        let expires = self.now.tick.after(ttl.saturating_mul(10)).after(grace);
        let activity = Activity::at(self.now.tick);
        let user = match claims.user.as_str() {
            "" => NONE,
            name => self.locals.add_session(name, slot, activity),
        };
        if let Some(connection) = self.connection(slot) {
            connection.user = user;
            connection.phase = Phase::Connecting;
            connection.expires = if ttl == 0 { 0 } else { expires.0 };
        }
        if let Some(info) = &claims.info
            && let Some(cold) = self.cold(slot)
        {
            cold.info = Some(info.clone());
        }
    }

    /// True if a user's home decides which of its sessions stay.
    fn needs_admission(&self) -> bool {
        let client = &self.common.settings.client;
        client.user_connection_limit > 0
            || client.personal_channel.as_ref().is_some_and(|p| p.single_connection)
    }

    /// True while the user's home has not heard of this session: it is newer than all that the home speaks of.
    pub(crate) fn awaits_admission(&mut self, slot: u32) -> bool {
        let blocked = self.cold_if_any(slot).and_then(|cold| cold.blocked.as_ref());
        matches!(blocked.map(|blocked| &blocked.wait), Some(Wait::Connect(pending)) if !pending.admitted)
    }

    fn announce_user(&mut self, slot: u32, user: &str, ticket: Option<u32>) {
        if user.is_empty() {
            return;
        }
        let single =
            self.common.settings.client.personal_channel.as_ref().is_some_and(|p| p.single_connection);
        let home = self.common.home_of(&self.hasher, user);
        let op = UserOp::Enter { ticket, alone: single.then(|| user.into()) };
        let (hash, name) = (self.hasher.of(user.as_bytes()), self.name_for_events(user));
        let ask = UserAsk { hash, key: self.key(slot), name, op };
        self.post.send(home, Mail::User(Box::new(ask)));
    }

    /// An answer to one of the asks of a pending connect. What the home of a channel sends behind its grant belongs to
    /// the subscription, so it stands from here on, whatever else the reply still waits for.
    pub(crate) fn connect_answer(&mut self, slot: u32, number: u32, channel: Box<str>, body: ReplyBody) {
        if matches!(body, ReplyBody::Subscribed(_))
            && let Some(handle) = self.pending_subscription(slot, &channel, number)
        {
            self.enlist(slot, handle);
        }
        let reply_bytes = self.common.settings.client.reply_bytes();
        let Some(pending) = self.cold_if_any(slot).and_then(Cold::pending_connect) else { return };
        match body {
            ReplyBody::Subscribed(granted) => pending.grant(channel, *granted, reply_bytes),
            ReplyBody::Admitted(true) => pending.admitted = true,
            ReplyBody::Admitted(false) => return self.disconnect(slot, DisconnectCode::ConnectionLimit),
            ReplyBody::Failed(error) => {
                let id = pending.id;
                return self.fail_connect(slot, id, error);
            }
            _ => return,
        }
        pending.missing -= 1;
        if pending.missing > 0 {
            return;
        }
        let done = self.cold_if_any(slot).and_then(|cold| cold.blocked.as_mut());
        let Some(blocked) = done else { return };
        if let Wait::Connect(pending) = std::mem::replace(&mut blocked.wait, Wait::Pause) {
            self.finish_connect(slot, &pending);
        }
        self.resume(slot);
    }

    /// A publication for a subscription that stands while its connect command still waits for others.
    pub(crate) fn hold_back(&mut self, slot: u32, encoding: Encoding, delivery: &Arc<Delivery>) {
        let limit = self.common.settings.client.queue_max_size;
        let pending = self.cold_if_any(slot).and_then(Cold::pending_connect);
        if pending.is_some_and(|pending| !pending.hold(encoding, delivery, limit)) {
            self.disconnect(slot, DisconnectCode::InsufficientState);
        }
    }

    fn deliver_held(&mut self, slot: u32, held: &[Arc<Delivery>]) {
        for delivery in held {
            if let Some((handle, _)) = self.find_subscription(slot, &delivery.channel) {
                if delivery.mailbox.is_some() {
                    self.deliver_message(slot, handle, delivery);
                } else {
                    self.deliver_to(slot, handle, delivery);
                }
            }
        }
    }

    fn finish_connect(&mut self, slot: u32, pending: &PendingConnect) {
        self.go_live(slot);
        self.note_connected(slot);
        let client = self.client_id(slot);
        let common = Arc::clone(&self.common);
        let settings = &common.settings.client;
        let native = self.connections.0.get(slot as usize).is_some_and(|c| c.has(flag::NATIVE_PING));
        let publications: Vec<_> =
            pending.granted.iter().map(|(_, granted)| subscribe_result::views(granted)).collect();
        let subs: Vec<(&str, SubscribeResult<'_>)> = pending
            .granted
            .iter()
            .zip(&publications)
            .map(|((channel, granted), views)| (&**channel, subscribe_result::of(granted, views, None)))
            .collect();
        let result = ConnectResult {
            client: &client,
            version: &common.settings.version,
            expires: pending.ttl > 0,
            ttl: pending.ttl,
            subs: &subs,
            ping: if native {
                0
            } else {
                u32::try_from(settings.ping_interval.as_secs()).unwrap_or(u32::MAX)
            },
            pong: !native && !settings.ping_interval.is_zero() && !settings.pong_timeout.is_zero(),
            time: if settings.connect_include_server_time { self.now.unix_ms as i64 } else { 0 },
            ..ConnectResult::default()
        };
        // Its queue is looked at once every subscription stands: a disconnect in between would end some that never began.
        self.metrics.send(SentKind::Connect);
        let waiting = self.last_output(slot, |outbox, encoding| {
            outbox.message(encoding, |out| encode_connect(out, encoding, pending.id, &result));
        });
        for (channel, granted) in &pending.granted {
            self.open_granted(slot, granted);
            self.activate(slot, channel);
        }
        self.hold_queue(slot, waiting, settings.queue_max_size);
        self.deliver_held(slot, &pending.held);
    }

    fn go_live(&mut self, slot: u32) {
        let interval = ticks_of(self.common.settings.client.ping_interval);
        let now = self.now.tick;
        let Some(connection) = self.connection(slot) else { return };
        let first_ping = now.after(interval - first_ping_early(connection.generation, interval));
        connection.phase = Phase::Live;
        connection.ping = first_ping;
        if connection.has(flag::UNAUTHENTICATED) {
            connection.set(flag::UNAUTHENTICATED, false);
            self.metrics.unauthenticated -= 1;
        }
        self.metrics.clients += 1;
        self.arm(slot);
    }

    fn fail_connect(&mut self, slot: u32, id: u32, error: ErrorCode) {
        self.reply_error(slot, id, error);
        // A user in the grace period who could not be connected was heard of just now, and may try again.
        self.leave_all(slot, Farewell::Heard);
        if let Some(cold) = self.cold_if_any(slot) {
            cold.blocked = None;
        }
        if let Some(connection) = self.connection(slot) {
            connection.set(flag::BLOCKED, false);
            connection.phase = Phase::Failed;
        }
        self.read_later(slot);
    }
}

fn from_token((channel, given): &(String, crate::hub::auth::ServerSub)) -> Given<'_> {
    Given {
        channel: Cow::Borrowed(channel),
        info: given.info.clone(),
        data: given.data.clone(),
        overrides: given.overrides,
        from_token: true,
    }
}

fn plain(channel: Cow<'_, str>) -> Given<'_> {
    Given { channel, info: None, data: None, overrides: Overrides::default(), from_token: false }
}

pub(crate) fn wishes_of(wish: &Subscribe<'_>) -> Wishes {
    Wishes { positioned: wish.positioned, recoverable: wish.recoverable, join_leave: wish.join_leave }
}

pub(crate) fn position_of(wish: &Subscribe<'_>) -> Position {
    Position { offset: wish.offset, epoch: wish.epoch.to_string() }
}

//! Commands of a live connection that ask something of a channel's home, and refresh and pong.

use bytes::Bytes;

use crate::hub::api::{ApiPublish, Member, Position};
use crate::hub::auth::{TokenFault, ttl_seconds};
use crate::hub::channel_name::{ParsedChannel, parse};
use crate::hub::cold::Wait;
use crate::hub::connection::{flag, sub};
use crate::hub::mail::{HomeOp, Origin, PublishAsk, Ticket};
use crate::hub::metrics::SentKind;
use crate::hub::permission::{self, Actor, may_history, may_presence, may_publish};
use crate::hub::publication::fits_format;
use crate::hub::settings::DataFormat;
use crate::hub::shard::{Shard, ticks_of};
use crate::protocol::{DisconnectCode, ErrorCode};
use crate::protocol::{History, Publish};
use crate::protocol::{RefreshResult, encode_refresh};

impl Shard {
    pub(crate) fn publish(&mut self, slot: u32, id: u32, request: &Publish<'_>) {
        if request.channel.is_empty() {
            return self.disconnect(slot, DisconnectCode::BadRequest);
        }
        let namespace = match self.check_publish(slot, request) {
            Ok(namespace) => namespace,
            Err(error) => return self.reply_error(slot, id, error),
        };
        let data = request.data.as_deref().unwrap_or_default();
        let publish = ApiPublish {
            channel: String::new(),
            data: Bytes::copy_from_slice(data),
            ..ApiPublish::default()
        };
        let handle = self.find_subscription(slot, &request.channel).map(|(handle, _)| handle);
        let info = Some(self.member(slot, handle));
        self.ask(
            slot,
            id,
            &request.channel,
            namespace,
            HomeOp::Publish(Box::new(PublishAsk { publish, info })),
        );
    }

    fn check_publish(&self, slot: u32, request: &Publish<'_>) -> Result<u16, ErrorCode> {
        let parsed = parse(&self.common.settings.channel, &request.channel).map_err(ErrorCode::from)?;
        if request.kind != 0 || parsed.options.foreign_subscription_type {
            return Err(ErrorCode::PermissionDenied);
        }
        may_publish(&parsed, &self.actor(slot, &request.channel)).map_err(ErrorCode::from)?;
        let data = request.data.as_deref().unwrap_or_default();
        let is_json = self.connections.0.get(slot as usize).is_some_and(|c| !c.has(flag::PROTOBUF));
        let known_json = is_json && parsed.options.publication_data_format != DataFormat::JsonObject;
        if !known_json || data.is_empty() {
            fits_format(parsed.options.publication_data_format, data)
                .then_some(())
                .ok_or(ErrorCode::BadRequest)?;
        }
        Ok(parsed.namespace_index)
    }

    pub(crate) fn presence(&mut self, slot: u32, id: u32, channel: &str) {
        self.ask_if(slot, id, channel, may_presence, HomeOp::Presence);
    }

    pub(crate) fn presence_stats(&mut self, slot: u32, id: u32, channel: &str) {
        self.ask_if(slot, id, channel, may_presence, HomeOp::PresenceStats);
    }

    pub(crate) fn history(&mut self, slot: u32, id: u32, request: &History<'_>) {
        let since = request
            .since
            .as_ref()
            .map(|since| Position { offset: since.offset, epoch: since.epoch.clone().into_owned() });
        let cap = self.common.settings.client.history_max_publication_limit;
        let op = HomeOp::History { limit: request.limit, cap, since, reverse: request.reverse };
        if self.common.mailbox_user(&request.channel).is_some() {
            return self.reply_error(slot, id, ErrorCode::NotAvailable);
        }
        self.ask_if(slot, id, &request.channel, may_history, op);
    }

    /// A new connection token.
    pub(crate) fn refresh(&mut self, slot: u32, id: u32, token: &str) {
        match self.check_refresh(slot, token) {
            Ok((ttl, info)) => {
                self.set_info(slot, info.as_ref());
                self.set_expiry(slot, ttl);
                let client = self.client_id(slot);
                let version = self.common.settings.version.clone();
                let result = RefreshResult { client: &client, version: &version, expires: ttl > 0, ttl };
                self.say(slot, SentKind::Refresh, |out, encoding| encode_refresh(out, encoding, id, &result));
            }
            Err(code) => self.disconnect(slot, code),
        }
    }

    /// Seconds to live (0 = for ever) and the info that a new token grants.
    fn check_refresh(&self, slot: u32, token: &str) -> Result<(u32, Option<Bytes>), DisconnectCode> {
        if token.is_empty() {
            return Err(DisconnectCode::BadRequest);
        }
        let now = self.now.unix_seconds();
        let claims = self.common.connection_tokens.connection(token, now).map_err(|fault| match fault {
            TokenFault::Expired => DisconnectCode::ConnectionExpired,
            TokenFault::Invalid => DisconnectCode::InvalidToken,
        })?;
        if claims.user != self.user_of(slot) {
            return Err(DisconnectCode::InvalidToken);
        }
        if !self.has_token_subscriptions(slot, claims.subs.iter().map(|(channel, _)| channel.as_str())) {
            return Err(DisconnectCode::InsufficientState);
        }
        let ttl = match claims.expire_at {
            0 => 0,
            at => ttl_seconds(at, now).ok_or(DisconnectCode::ConnectionExpired)?,
        };
        Ok((ttl, claims.info))
    }

    /// True if the subscriptions that stem from the token are exactly these.
    fn has_token_subscriptions<'a>(
        &self,
        slot: u32,
        mut wanted: impl Iterator<Item = &'a str> + Clone,
    ) -> bool {
        let from_token = |handle: &u32| {
            self.subscription_flags(slot, *handle).is_some_and(|flags| flags & sub::FROM_TOKEN != 0)
        };
        let held = self.subscription_handles(slot).iter().filter(|handle| from_token(handle)).count();
        held == wanted.clone().count()
            && wanted.all(|channel| {
                self.find_subscription(slot, channel).is_some_and(|(_, flags)| flags & sub::FROM_TOKEN != 0)
            })
    }

    /// Changes what others are told of the connection from here on, if there is something new.
    pub(crate) fn set_info(&mut self, slot: u32, info: Option<&Bytes>) {
        if let Some(info) = info
            && let Some(cold) = self.cold(slot)
        {
            cold.info = Some(info.clone());
        }
    }

    /// Sets when the connection expires: `ttl` in seconds from now, 0 = never.
    pub(crate) fn set_expiry(&mut self, slot: u32, ttl: u32) {
        let grace = ticks_of(self.common.settings.client.expired_close_delay);
        let expires = self.now.tick.after(ttl.saturating_mul(10)).after(grace);
        if let Some(connection) = self.connection(slot) {
            connection.expires = if ttl == 0 { 0 } else { expires.0 };
        }
        self.arm(slot);
    }

    /// The answer to a ping. One that nobody asked for is a violation.
    pub(crate) fn pong(&mut self, slot: u32) {
        let Some(connection) = self.connections.0.get_mut(slot as usize) else { return };
        let is_awaited = connection.has(flag::AWAITING_PONG) && !connection.has(flag::NATIVE_PING);
        if !is_awaited {
            return self.disconnect(slot, DisconnectCode::BadRequest);
        }
        self.note_pong(slot);
        self.mailbox_ponged(slot);
    }

    /// A WebSocket pong of a client that asked for WebSocket pings. Any of them is a sign of life, and they may come
    /// unasked (RFC 6455, section 5.5.3).
    pub(crate) fn ponged_natively(&mut self, slot: u32, payload: &[u8]) {
        if self.connections.0.get(slot as usize).is_some_and(|of| of.has(flag::AWAITING_PONG)) {
            self.note_pong(slot);
        }
        self.mailbox_ponged_natively(slot, payload);
    }

    fn note_pong(&mut self, slot: u32) {
        let client = &self.common.settings.client;
        let (interval, timeout) = (ticks_of(client.ping_interval), ticks_of(client.pong_timeout));
        let Some(connection) = self.connections.0.get_mut(slot as usize) else { return };
        connection.set(flag::AWAITING_PONG, false);
        // The timer stays armed for the pong deadline; when it fires it arms for this tick.
        connection.ping.0 = connection.ping.0.saturating_sub(timeout).saturating_add(interval);
        self.metrics.pongs += 1;
    }

    /// Who a connection is to others, with the info of one of its subscriptions.
    pub(crate) fn member(&self, slot: u32, handle: Option<u32>) -> Member {
        let cold =
            self.connections.0.get(slot as usize).and_then(|connection| self.cold.get(connection.cold));
        let extra = |cold: &crate::hub::cold::Cold| {
            cold.extras
                .iter()
                .find(|extra| Some(extra.channel) == handle)
                .and_then(|extra| extra.info.clone())
        };
        Member {
            client: self.client_id(slot),
            user: self.user_of(slot).to_owned(),
            conn_info: cold.and_then(|cold| cold.info.clone()),
            chan_info: cold.and_then(extra),
        }
    }

    fn actor(&self, slot: u32, channel: &str) -> Actor<'_> {
        Actor {
            user: self.user_of(slot),
            insecure: self.common.settings.client.insecure,
            subscribed: self.is_subscribed(slot, channel),
        }
    }

    /// Asks the home if the permission `allows`.
    fn ask_if(
        &mut self,
        slot: u32,
        id: u32,
        channel: &str,
        allows: fn(&ParsedChannel<'_>, &Actor<'_>) -> Result<(), permission::Refusal>,
        op: HomeOp,
    ) {
        if channel.is_empty() {
            return self.disconnect(slot, DisconnectCode::BadRequest);
        }
        let checked =
            parse(&self.common.settings.channel, channel).map_err(ErrorCode::from).and_then(|parsed| {
                allows(&parsed, &self.actor(slot, channel)).map_err(ErrorCode::from)?;
                Ok(parsed.namespace_index)
            });
        match checked {
            Ok(namespace) => self.ask(slot, id, channel, namespace, op),
            Err(error) => self.reply_error(slot, id, error),
        }
    }

    fn ask(&mut self, slot: u32, id: u32, channel: &str, namespace: u16, op: HomeOp) {
        let number = self.block(slot, Wait::Command { id });
        let origin = Origin::Connection(Ticket { key: self.key(slot), number });
        let hash = self.locals.hash(channel);
        self.ask_home(channel.into(), hash, namespace, origin, op);
    }
}

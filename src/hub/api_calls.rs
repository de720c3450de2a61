//! The server API on a shard: what concerns a channel goes to its home (this shard, if the control plane asked
//! right), what concerns users is done to the sessions that are here.

use bytes::Bytes;

use crate::hub::api::{
    ApiAnswer, ApiCommand, ApiError, ApiPublish, ApiSubscribe, Overrides, ShardInfo, Target,
};
use crate::hub::auth::ttl_seconds;
use crate::hub::channel_name::{NameFault, ParsedChannel, parse};
use crate::hub::connection::{NONE, Phase, sub};
use crate::hub::home_pages::Cursor;
use crate::hub::mail::{Answer, ApiAsk, HomeOp, Origin, PublishAsk, Ticket};
use crate::hub::metrics::SentKind;
use crate::hub::permission::{Actor, Wishes};
use crate::hub::publication::fits_format;
use crate::hub::shard::Shard;
use crate::hub::subscribe::NewSubscription;
use crate::limits;
use crate::protocol::{DisconnectCode, UnsubscribeCode, encode_push_refresh};

/// Sessions that calls change.
const LIVE: &[Phase] = &[Phase::Live];
/// Sessions that calls end: also those whose connect command waits for homes.
const AUTHENTICATED: &[Phase] = &[Phase::Connecting, Phase::Live];

impl Shard {
    /// Carries out one call, or starts it at the channel's home.
    pub(crate) fn api(&mut self, ask: ApiAsk) {
        let id = ask.id;
        if let Some(answer) = self.api_answer(id, ask.command) {
            self.post.answer(Answer { id, shard: self.id, answer });
        }
    }

    /// `None` where the home will answer.
    fn api_answer(&mut self, id: u64, command: ApiCommand) -> Option<ApiAnswer> {
        let done = match command {
            ApiCommand::Publish(publish) => return self.api_publish(id, *publish),
            ApiCommand::Subscribe(subscribe) => self.api_subscribe(&subscribe),
            ApiCommand::Unsubscribe { target, channel } => self.api_unsubscribe(&target, &channel),
            ApiCommand::Disconnect { target, whitelist, code, reason } => {
                self.api_disconnect(&target, &whitelist, code, &reason)
            }
            ApiCommand::Refresh { target, expired, expire_at, info } => {
                self.api_refresh(&target, expired, expire_at, info.as_ref())
            }
            ApiCommand::Presence { channel } => {
                return self.api_ask(id, &channel, |parsed| parsed.options.presence, HomeOp::Presence);
            }
            ApiCommand::PresencePage { channel, limit, cursor } => {
                return self.api_presence_page(id, &channel, limit, &cursor);
            }
            ApiCommand::PresenceStats { channel } => {
                return self.api_ask(id, &channel, |parsed| parsed.options.presence, HomeOp::PresenceStats);
            }
            ApiCommand::History { channel, limit, since, reverse } => {
                let op = HomeOp::History { limit, cap: u32::MAX, since, reverse };
                return self.api_history(id, &channel, op);
            }
            ApiCommand::HistoryRemove { channel } => {
                return self.api_history(id, &channel, HomeOp::HistoryRemove);
            }
            ApiCommand::Channels { pattern, limit, after } => {
                return Some(self.api_channels(&pattern, limit, &after));
            }
            ApiCommand::Info => return Some(ApiAnswer::Info(self.info())),
            ApiCommand::Connections { user } => {
                self.listings.push((id, user));
                return None;
            }
            ApiCommand::UserPresence { users } => return Some(self.api_user_presence(users)),
            // These go to the store; a shard has nothing of them.
            ApiCommand::Send(_)
            | ApiCommand::MailboxInfo { .. }
            | ApiCommand::MailboxList { .. }
            | ApiCommand::MailboxAck { .. }
            | ApiCommand::MailboxForget { .. }
            | ApiCommand::MailboxPurge { .. } => return Some(ApiAnswer::Error(ApiError::NotAvailable)),
        };
        Some(done.map_or_else(ApiAnswer::Error, |()| ApiAnswer::Done))
    }

    fn api_publish(&mut self, id: u64, mut publish: ApiPublish) -> Option<ApiAnswer> {
        let channel = std::mem::take(&mut publish.channel);
        let fits = |parsed: &ParsedChannel<'_>| {
            if parsed.options.foreign_subscription_type
                || !fits_format(parsed.options.publication_data_format, &publish.data)
            {
                Err(ApiError::BadRequest)
            } else {
                Ok(parsed.namespace_index)
            }
        };
        let namespace = match self.api_parse(&channel).and_then(|parsed| fits(&parsed)) {
            Ok(namespace) => namespace,
            Err(error) => return Some(ApiAnswer::Error(error)),
        };
        let hash = self.locals.hash(&channel);
        let op = HomeOp::Publish(Box::new(PublishAsk { publish, info: None }));
        self.ask_home(channel.into(), hash, namespace, Origin::Api(id), op);
        None
    }

    /// A mailbox takes the place of history.
    fn api_history(&mut self, id: u64, channel: &str, op: HomeOp) -> Option<ApiAnswer> {
        let is_mailbox = self.common.mailbox_user(channel).is_some();
        self.api_ask(id, channel, |parsed| parsed.options.has_history() && !is_mailbox, op)
    }

    fn api_ask(
        &mut self,
        id: u64,
        channel: &str,
        available: impl FnOnce(&ParsedChannel<'_>) -> bool,
        op: HomeOp,
    ) -> Option<ApiAnswer> {
        let checked = self.api_parse(channel).and_then(|parsed| {
            available(&parsed).then_some(parsed.namespace_index).ok_or(ApiError::NotAvailable)
        });
        match checked {
            Err(error) => Some(ApiAnswer::Error(error)),
            Ok(namespace) => {
                let hash = self.locals.hash(channel);
                self.ask_home(channel.into(), hash, namespace, Origin::Api(id), op);
                None
            }
        }
    }

    fn api_presence_page(&mut self, id: u64, channel: &str, limit: u32, cursor: &str) -> Option<ApiAnswer> {
        let checked = self.api_parse(channel).and_then(|parsed| {
            let cursor = Cursor::parse(cursor).ok_or(ApiError::BadRequest)?;
            parsed.options.presence.then_some(cursor).ok_or(ApiError::NotAvailable)
        });
        match checked {
            Err(error) => Some(ApiAnswer::Error(error)),
            Ok(cursor) => {
                let limit = limit.clamp(1, limits::PRESENCE_PAGE);
                self.homes.page(id, channel, limit, cursor, &mut self.post);
                None
            }
        }
    }

    fn api_parse<'a>(&'a self, channel: &'a str) -> Result<ParsedChannel<'a>, ApiError> {
        parse(&self.common.settings.channel, channel).map_err(|fault| match fault {
            NameFault::UnknownChannel => ApiError::UnknownChannel,
            NameFault::BadRequest => ApiError::BadRequest,
        })
    }

    fn api_subscribe(&mut self, call: &ApiSubscribe) -> Result<(), ApiError> {
        if self.api_parse(&call.channel)?.options.foreign_subscription_type {
            return Err(ApiError::BadRequest);
        }
        if call.expire_at != 0 && ttl_seconds(call.expire_at, self.now.unix_seconds()).is_none() {
            return Err(ApiError::BadRequest);
        }
        for slot in self.sessions(&call.target, LIVE) {
            if let Some((handle, flags)) = self.find_subscription(slot, &call.channel) {
                self.set_subscription_flags(slot, handle, flags & !sub::REVOKED);
                continue;
            }
            if self.subscription_count(slot) >= self.common.settings.client.channel_limit as usize {
                self.disconnect(slot, DisconnectCode::ChannelLimit);
                continue;
            }
            if let Some(ask) = self.api_subscription(slot, call, call.overrides) {
                let ticket = Ticket { key: self.key(slot), number: self.ticket_number() };
                self.ask_subscription(slot, Origin::Connection(ticket), ask);
            }
        }
        Ok(())
    }

    fn api_subscription(
        &self,
        slot: u32,
        call: &ApiSubscribe,
        overrides: Overrides,
    ) -> Option<NewSubscription> {
        let parsed = self.api_parse(&call.channel).ok()?;
        let connection = self.connections.0.get(slot as usize)?;
        let user = self.user_of(slot);
        let actor = Actor { user, insecure: self.common.settings.client.insecure, subscribed: false };
        let features =
            NewSubscription::features_of(&self.common, &parsed, &actor, Wishes::default(), overrides);
        let expires = match call.expire_at {
            0 => None,
            at => Some(self.subscription_deadline(ttl_seconds(at, self.now.unix_seconds())?)),
        };
        Some(NewSubscription {
            channel: parsed.name.into(),
            namespace: parsed.namespace_index,
            user_hash: self.hasher.of(user.as_bytes()),
            encoding: connection.encoding(),
            flags: NewSubscription::flags_of(&features) | sub::SERVER_SIDE,
            recoverable: features.recoverable,
            recover: call.recover_since.clone().filter(|_| features.recoverable),
            reject_unrecovered: false,
            info: call.info.clone(),
            data: call.data.clone(),
            expires,
        })
    }

    fn api_unsubscribe(&mut self, target: &Target, channel: &str) -> Result<(), ApiError> {
        if channel.is_empty() {
            return Err(ApiError::BadRequest);
        }
        for slot in self.sessions(target, LIVE) {
            match self.find_subscription(slot, channel) {
                Some((handle, flags)) if flags & sub::PENDING != 0 => {
                    self.set_subscription_flags(slot, handle, flags | sub::REVOKED);
                }
                _ => self.unsubscribe_with(slot, channel, UnsubscribeCode::Server),
            }
        }
        Ok(())
    }

    fn api_disconnect(
        &mut self,
        target: &Target,
        whitelist: &[String],
        code: u16,
        reason: &str,
    ) -> Result<(), ApiError> {
        for slot in self.sessions(target, AUTHENTICATED) {
            if whitelist.is_empty() || !whitelist.contains(&self.client_id(slot)) {
                self.close_with(slot, code, reason);
            }
        }
        Ok(())
    }

    fn api_refresh(
        &mut self,
        target: &Target,
        expired: bool,
        expire_at: u64,
        info: Option<&Bytes>,
    ) -> Result<(), ApiError> {
        for slot in self.sessions(target, LIVE) {
            let ttl = match expire_at {
                0 => Some(0),
                at => ttl_seconds(at, self.now.unix_seconds()),
            };
            let Some(ttl) = ttl.filter(|_| !expired) else {
                self.disconnect(slot, DisconnectCode::ConnectionExpired);
                continue;
            };
            self.set_info(slot, info);
            self.set_expiry(slot, ttl);
            self.say(slot, SentKind::PushRefresh, |out, encoding| {
                encode_push_refresh(out, encoding, ttl > 0, ttl);
            });
        }
        Ok(())
    }

    /// Channels with subscribers on this shard. The control plane adds up what the shards say.
    fn api_channels(&self, pattern: &str, limit: u32, after: &str) -> ApiAnswer {
        let limit = limit.clamp(1, limits::CHANNELS_ASKED) as usize;
        let matches = |name: &str| pattern.is_empty() || glob(pattern.as_bytes(), name.as_bytes());
        ApiAnswer::Channels(self.locals.list(limit, after, matches))
    }

    fn info(&self) -> ShardInfo {
        ShardInfo {
            num_clients: self.metrics.clients,
            num_users: self.homes.users() as u64,
            num_subs: self.metrics.subscriptions,
            num_channels: self.homes.occupied() as u64,
        }
    }

    /// Sessions in one of `phases` that a call is for.
    fn sessions(&self, target: &Target, phases: &[Phase]) -> Vec<u32> {
        let named = target.client.as_deref().map(|client| self.ids.decode(client));
        let slots = match named {
            Some(Some(key)) if key.shard == self.id && self.is_current(key.slot, key.generation) => {
                vec![key.slot]
            }
            Some(_) => Vec::new(),
            None if target.session.is_some() => Vec::new(),
            None if target.user.is_empty() => self.anonymous_sessions(),
            None => self.locals.sessions_of(&target.user),
        };
        let of_user = |slot: &u32| target.user.is_empty() || self.user_of(*slot) == target.user;
        let is_ready = |slot: &u32| {
            let connection = self.connections.0.get(*slot as usize);
            connection.is_some_and(|connection| phases.contains(&connection.phase))
        };
        slots.into_iter().filter(|slot| of_user(slot) && is_ready(slot)).collect()
    }

    fn anonymous_sessions(&self) -> Vec<u32> {
        let anonymous = self.connections.0.iter().filter(|(_, connection)| connection.user == NONE);
        anonymous.map(|(slot, _)| slot as u32).collect()
    }
}

/// Matches `*` (any run) and `?` (any byte) against the whole name, in O(pattern × name) at worst, without recursion.
pub(crate) fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut with) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while at < name.len() {
        match pattern.get(with) {
            Some(b'*') => {
                retry = Some((with + 1, at));
                with += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[at] => (at, with) = (at + 1, with + 1),
            _ => match retry {
                Some((star, from)) => {
                    retry = Some((star, from + 1));
                    (at, with) = (from + 1, star);
                }
                None => return false,
            },
        }
    }
    pattern[with..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn globs() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "abcd", false),
            ("a?c", "abc", true),
            ("*:1*2", "chat:11212", true),
            ("chat:*", "news:1", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}

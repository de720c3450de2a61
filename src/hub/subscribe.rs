//! Subscriptions: made by clients, tokens and the server API; granted by the channel's home; taken back at the end.

use bytes::Bytes;

use crate::base::ids::ShardId;
use crate::base::tick::Tick;
use crate::hub::api::Overrides;
use crate::hub::auth::{SubscriptionClaims, TokenFault, ttl_seconds};
use crate::hub::channel_name::{ParsedChannel, parse};
use crate::hub::cold::{SubscriptionExtra, Wait};
use crate::hub::connect::{position_of, wishes_of};
use crate::hub::connection::{NONE, sub};
use crate::hub::depart::Farewell;
use crate::hub::events::EndedBy;
use crate::hub::mail::{
    HomeAsk, HomeOp, KeptMember, Leaver, Mail, Origin, SubscribeAsk, Subscribed, Ticket, UnsubscribeAsk,
};
use crate::hub::metrics::SentKind;
use crate::hub::permission::{self, Actor, Features, Wishes, features};
use crate::hub::publication::is_part;
use crate::hub::shard::{Common, Shard, ticks_of};
use crate::protocol::{DisconnectCode, ErrorCode, UnsubscribeCode};
use crate::protocol::{
    EmptyKind, Encoding, encode_empty, encode_push_subscribe, encode_push_unsubscribe, encode_sub_refresh,
    encode_subscribe,
};
use crate::protocol::{SubRefresh, Subscribe};

/// A subscription about to be asked for.
#[derive(Debug)]
pub(crate) struct NewSubscription {
    pub(crate) channel: Box<str>,
    pub(crate) namespace: u16,
    pub(crate) user_hash: u64,
    pub(crate) encoding: Encoding,
    /// Bits of [`sub`], without `PENDING`.
    pub(crate) flags: u8,
    pub(crate) recoverable: bool,
    pub(crate) recover: Option<crate::hub::api::Position>,
    pub(crate) reject_unrecovered: bool,
    pub(crate) info: Option<Bytes>,
    pub(crate) data: Option<Bytes>,
    /// When the subscription expires, grace included.
    pub(crate) expires: Option<Tick>,
}

impl NewSubscription {
    /// True if only the home knows what to grant: a position, or the state of a user. Without these there is nothing to
    /// know: the subscription is granted here, and the home hears of it before the client does.
    pub(crate) fn needs_answer(&self, common: &Common) -> bool {
        self.flags & sub::POSITIONED != 0 || common.watched_user(&self.channel).is_some()
    }

    /// True if the data that goes with it cannot be put into the JSON of its connection.
    pub(crate) fn is_unfit(&self) -> bool {
        self.encoding == Encoding::Json && !is_part(self.data.as_deref())
    }

    /// What is granted without asking.
    pub(crate) fn certain_grant(&self) -> Subscribed {
        Subscribed { data: self.data.clone(), ..Subscribed::default() }
    }

    /// A session's own mailbox has a position and is recovered, whatever the namespace says.
    pub(crate) fn features_of(
        common: &Common,
        parsed: &ParsedChannel<'_>,
        actor: &Actor<'_>,
        wishes: Wishes,
        overrides: Overrides,
    ) -> Features {
        let mut features = features(parsed, actor, wishes, overrides);
        if let Some(owner) = common.mailbox_user(parsed.name) {
            // Others are told what comes while they are there: nothing is recovered to them.
            let is_own = owner == actor.user;
            (features.positioned, features.recoverable) = (is_own, is_own);
        }
        features
    }

    /// The bits that stand for features.
    pub(crate) fn flags_of(features: &Features) -> u8 {
        let bit = |on: bool, bit: u8| if on { bit } else { 0 };
        bit(features.presence, sub::PRESENCE)
            | bit(features.emits_join_leave, sub::ANNOUNCED)
            | bit(features.gets_join_leave, sub::JOIN_LEAVE)
            | bit(features.positioned, sub::POSITIONED)
    }
}

/// What a subscribe command leads to when nothing is asked of a home.
enum Refusal {
    Error(ErrorCode),
    Disconnect(DisconnectCode),
}

impl From<ErrorCode> for Refusal {
    fn from(error: ErrorCode) -> Self {
        Self::Error(error)
    }
}

impl Shard {
    pub(crate) fn subscribe(&mut self, slot: u32, id: u32, request: &Subscribe<'_>) {
        match self.check_subscribe(slot, request) {
            Ok((ask, ttl)) if ask.needs_answer(&self.common) => {
                let number = self.block(slot, Wait::Subscribe { id, ttl });
                let origin = Origin::Connection(Ticket { key: self.key(slot), number });
                self.ask_subscription(slot, origin, ask);
            }
            Ok((ask, ttl)) => {
                let granted = ask.certain_grant();
                let handle = self.ask_subscription(slot, Origin::Nobody, ask);
                self.subscribed(slot, id, ttl, handle, &granted);
            }
            Err(Refusal::Error(error)) => self.reply_error(slot, id, error),
            Err(Refusal::Disconnect(code)) => self.disconnect(slot, code),
        }
    }

    fn check_subscribe(
        &self,
        slot: u32,
        request: &Subscribe<'_>,
    ) -> Result<(NewSubscription, Option<u32>), Refusal> {
        let settings = &self.common.settings;
        let channel = &*request.channel;
        if channel.is_empty() || !matches!(&*request.delta, "" | "fossil") {
            return Err(Refusal::Disconnect(DisconnectCode::BadRequest));
        }
        if channel.len() > settings.channel.max_length {
            return Err(ErrorCode::BadRequest.into());
        }
        if self.find_subscription(slot, channel).is_some() {
            return Err(ErrorCode::AlreadySubscribed.into());
        }
        if self.subscription_count(slot) >= settings.client.channel_limit as usize {
            return Err(ErrorCode::LimitExceeded.into());
        }
        let parsed = parse(&settings.channel, channel).map_err(ErrorCode::from)?;
        if parsed.options.foreign_subscription_type || request.kind != 0 {
            return Err(ErrorCode::PermissionDenied.into());
        }
        let user = self.user_of(slot);
        let claims = self.subscription_claims(slot, &parsed, user, &request.token)?;
        let actor = Actor { user, insecure: settings.client.insecure, subscribed: false };
        may_subscribe(&self.common, &parsed, &actor, claims.is_some()).map_err(ErrorCode::from)?;
        if request.filter.is_some() {
            return Err(ErrorCode::BadRequest.into());
        }
        self.new_client_subscription(slot, &parsed, &actor, request, claims.unwrap_or_default())
    }

    fn new_client_subscription(
        &self,
        slot: u32,
        parsed: &ParsedChannel<'_>,
        actor: &Actor<'_>,
        request: &Subscribe<'_>,
        claims: SubscriptionClaims,
    ) -> Result<(NewSubscription, Option<u32>), Refusal> {
        let client = &self.common.settings.client;
        let ttl = match claims.expire_at {
            0 => None,
            _ if client.insecure => None,
            at => Some(ttl_seconds(at, self.now.unix_seconds()).ok_or(ErrorCode::Expired)?),
        };
        let wishes = wishes_of(request);
        let features = NewSubscription::features_of(&self.common, parsed, actor, wishes, claims.overrides);
        let encoding = self.connections.0.get(slot as usize).map(|connection| connection.encoding());
        let ask = NewSubscription {
            channel: parsed.name.into(),
            namespace: parsed.namespace_index,
            user_hash: self.hasher.of(actor.user.as_bytes()),
            encoding: encoding.unwrap_or_default(),
            flags: NewSubscription::flags_of(&features),
            recoverable: features.recoverable,
            recover: (request.recover && features.recoverable).then(|| position_of(request)),
            reject_unrecovered: request.flag & 2 != 0,
            info: claims.info,
            data: claims.data,
            expires: ttl.map(|ttl| self.subscription_deadline(ttl)),
        };
        if ask.is_unfit() {
            return Err(Refusal::Disconnect(DisconnectCode::InappropriateProtocol));
        }
        Ok((ask, ttl))
    }

    /// When a subscription with so many seconds to live ends, grace included.
    pub(crate) fn subscription_deadline(&self, ttl: u32) -> Tick {
        let grace = ticks_of(self.common.settings.client.expired_sub_close_delay);
        self.now.tick.after(ttl.saturating_mul(10)).after(grace)
    }

    /// The claims of a subscription token, `None` if none was given.
    fn subscription_claims(
        &self,
        slot: u32,
        parsed: &ParsedChannel<'_>,
        user: &str,
        token: &str,
    ) -> Result<Option<SubscriptionClaims>, Refusal> {
        if token.is_empty() {
            return Ok(None);
        }
        let claims = self.common.subscription_tokens.subscription(token, self.now.unix_seconds());
        let claims = claims.map_err(|fault| match fault {
            TokenFault::Expired => ErrorCode::TokenExpired,
            TokenFault::Invalid => ErrorCode::PermissionDenied,
        })?;
        if !claims.is_for(user, parsed.name, &self.client_id(slot)) {
            return Err(Refusal::Disconnect(DisconnectCode::InvalidToken));
        }
        Ok(Some(claims))
    }

    /// Notes the subscription as pending and tells its home, which answers `origin`. Returns its handle.
    pub(crate) fn ask_subscription(&mut self, slot: u32, origin: Origin, ask: NewSubscription) -> u32 {
        let number = if let Origin::Connection(ticket) = origin { ticket.number } else { 0 };
        let hash = self.locals.hash(&ask.channel);
        let handle = self.join_local(slot, hash, &ask.channel, ask.flags | sub::PENDING, number);
        if (ask.info.is_some() || ask.expires.is_some())
            && let Some(cold) = self.cold(slot)
        {
            cold.extras.push(SubscriptionExtra { channel: handle, info: ask.info, expires: ask.expires });
        }
        let mailbox = self.mailbox_owner(slot, &ask.channel);
        let op = HomeOp::Subscribe(Box::new(SubscribeAsk {
            shard: self.id,
            user_hash: ask.user_hash,
            protobuf: ask.encoding == Encoding::Protobuf,
            presence: ask.flags & sub::PRESENCE != 0,
            positioned: ask.flags & sub::POSITIONED != 0,
            recoverable: ask.recoverable,
            recover: ask.recover,
            reject_unrecovered: ask.reject_unrecovered,
            data: ask.data,
            mailbox,
        }));
        let home = self.ask_home(ask.channel, hash, ask.namespace, origin, op);
        if origin == Origin::Nobody {
            self.held.hold(slot, home, self.post.number(home));
        }
        handle
    }

    /// Asks the home of a channel, and returns which shard that is.
    pub(crate) fn ask_home(
        &mut self,
        channel: Box<str>,
        hash: u64,
        namespace: u16,
        origin: Origin,
        op: HomeOp,
    ) -> ShardId {
        let home = self.home_of_channel(&channel);
        self.post.send(home, Mail::Home(Box::new(HomeAsk { channel, hash, namespace, origin, op })));
        home
    }

    /// The home granted a subscribe command.
    pub(crate) fn subscribed(
        &mut self,
        slot: u32,
        id: u32,
        ttl: Option<u32>,
        handle: u32,
        granted: &Subscribed,
    ) {
        let views = subscribe_result::views(granted);
        let result = subscribe_result::of(granted, &views, ttl);
        self.say(slot, SentKind::Subscribe, |out, encoding| encode_subscribe(out, encoding, id, &result));
        self.open_granted(slot, granted);
        self.activate_handle(slot, handle);
    }

    /// The home granted a subscription that the server API made: the client hears of it by a push.
    pub(crate) fn subscribed_by_server(
        &mut self,
        slot: u32,
        handle: u32,
        channel: &str,
        granted: &Subscribed,
    ) {
        let mut result = subscribe_result::of(granted, &[], None);
        // This push has no place for publications: what was missed follows it.
        let follow = granted.publications.as_slice();
        result.offset = follow.first().map_or(result.offset, |first| first.offset.saturating_sub(1));
        self.say(slot, SentKind::PushSubscribe, |out, encoding| {
            encode_push_subscribe(out, encoding, channel, &result);
        });
        self.send_messages(slot, channel, follow);
        self.open_granted(slot, granted);
        self.activate_handle(slot, handle);
    }

    /// The session side of what a mailbox grants.
    pub(crate) fn open_granted(&mut self, slot: u32, granted: &Subscribed) {
        if let Some(grant) = &granted.mailbox {
            self.metrics.mailbox_replayed += granted.publications.len() as u64;
            self.open_mailbox(slot, grant);
        }
    }

    /// From here on a subscription stands: the reply or push that says so is on its way.
    pub(crate) fn activate(&mut self, slot: u32, channel: &str) {
        if let Some((handle, _)) = self.find_subscription(slot, channel) {
            self.activate_handle(slot, handle);
        }
    }

    fn activate_handle(&mut self, slot: u32, handle: u32) {
        self.enlist(slot, handle);
        let Some(flags) = self.subscription_flags(slot, handle) else { return };
        self.set_subscription_flags(slot, handle, flags & !sub::REVOKED);
        self.metrics.subscriptions += 1;
        self.metrics.subscriptions_accepted += 1;
        self.note_subscribed(slot, handle);
        if flags & sub::ANNOUNCED != 0 {
            self.announce(slot, handle);
        }
        if self.cold_if_any(slot).is_some_and(|cold| !cold.extras.is_empty()) {
            self.arm(slot);
        }
        if flags & sub::REVOKED != 0 {
            let channel = self.locals.channel_name(handle).to_owned();
            self.unsubscribe_with(slot, &channel, UnsubscribeCode::Server);
        }
    }

    fn announce(&mut self, slot: u32, handle: u32) {
        let member = self.member(slot, Some(handle));
        let channel = self.locals.channel_name(handle);
        let (hash, channel): (u64, Box<str>) = (self.locals.hash(channel), channel.into());
        let namespace =
            parse(&self.common.settings.channel, &channel).map_or(0, |parsed| parsed.namespace_index);
        self.ask_home(channel, hash, namespace, Origin::Nobody, HomeOp::Join(Box::new(member)));
    }

    pub(crate) fn unsubscribe(&mut self, slot: u32, id: u32, channel: &str) {
        if channel.is_empty() {
            return self.disconnect(slot, DisconnectCode::BadRequest);
        }
        if let Some((handle, _)) = self.find_subscription(slot, channel) {
            self.note_unsubscribed(slot, handle, EndedBy::Client, 0, "");
            self.leave(slot, handle);
        }
        self.say(slot, SentKind::Unsubscribe, |out, encoding| {
            encode_empty(out, encoding, id, EmptyKind::Unsubscribe);
        });
    }

    /// Ends a subscription (if there is one) and tells the client.
    pub(crate) fn unsubscribe_with(&mut self, slot: u32, channel: &str, code: UnsubscribeCode) {
        if let Some((handle, _)) = self.find_subscription(slot, channel) {
            self.note_unsubscribed(slot, handle, EndedBy::Server, code.code(), code.reason());
            self.leave(slot, handle);
        }
        self.metrics.unsubscribe(code.code() as u16);
        self.say(slot, SentKind::PushUnsubscribe, |out, encoding| {
            encode_push_unsubscribe(out, encoding, channel, code.code(), code.reason());
        });
    }

    /// Takes a subscription back, here and at the home.
    pub(crate) fn leave(&mut self, slot: u32, handle: u32) {
        self.leave_as(slot, handle, Farewell::Goodbye);
    }

    /// The same, and tells the home whether the connection was lost without goodbye.
    pub(crate) fn leave_as(&mut self, slot: u32, handle: u32, farewell: Farewell) {
        let lost = farewell != Farewell::Goodbye;
        let Some(flags) = self.subscription_flags(slot, handle) else { return };
        let active = self.stands(slot, flags);
        let announced = active && flags & sub::ANNOUNCED != 0;
        let channel: Box<str> = self.locals.channel_name(handle).into();
        let hash = self.locals.hash(&channel);
        let namespace =
            parse(&self.common.settings.channel, &channel).map_or(0, |parsed| parsed.namespace_index);
        let (user, presence) = (self.user_of(slot), flags & sub::PRESENCE != 0);
        let user_hash = self.hasher.of(user.as_bytes());
        let grace = self.common.settings.channel.options[usize::from(namespace)].presence_grace;
        let keeps = lost && active && presence && !grace.is_zero();
        let member = (keeps || announced).then(|| self.member(slot, Some(handle)));
        let (leave, kept) = match member {
            Some(member) if keeps => {
                let is_unsaid = farewell == Farewell::Unsaid;
                (None, Some(KeptMember { member, user_hash, namespace, announced, is_unsaid }))
            }
            leave => (leave, None),
        };
        if self.common.mailbox_user(&channel) == Some(self.user_of(slot)) {
            self.close_mailbox(slot);
        }
        self.leave_local(slot, handle);
        if let Some(cold) = self.cold_if_any(slot) {
            cold.outbox.end_line(hash);
        }
        if active {
            self.metrics.subscriptions -= 1;
        }
        let (shard, home) = (self.id, self.home_of_channel(&channel));
        if leave.is_none()
            && kept.is_none()
            && let Some(letter) = self.post.last_about_channel(home)
            && letter.takes_along(hash, shard, Leaver { user_hash, presence })
        {
            return;
        }
        let ask = UnsubscribeAsk { shard, user_hash, presence, leave, kept, also: Vec::new() };
        let op = HomeOp::Unsubscribe(Box::new(ask));
        self.post.send(
            home,
            Mail::Home(Box::new(HomeAsk { channel, hash, namespace, origin: Origin::Nobody, op })),
        );
    }

    pub(crate) fn sub_refresh(&mut self, slot: u32, id: u32, request: &SubRefresh<'_>) {
        match self.check_sub_refresh(slot, request) {
            Ok(ttl) => self.say(slot, SentKind::SubRefresh, |out, encoding| {
                encode_sub_refresh(out, encoding, id, ttl.is_some(), ttl.unwrap_or(0));
            }),
            Err(Refusal::Error(error)) => self.reply_error(slot, id, error),
            Err(Refusal::Disconnect(code)) => self.disconnect(slot, code),
        }
    }

    fn check_sub_refresh(&mut self, slot: u32, request: &SubRefresh<'_>) -> Result<Option<u32>, Refusal> {
        if request.channel.is_empty() {
            return Err(Refusal::Disconnect(DisconnectCode::BadRequest));
        }
        if request.kind != 0 {
            return Err(ErrorCode::NotAvailable.into());
        }
        let (handle, _) =
            self.find_subscription(slot, &request.channel).ok_or(ErrorCode::PermissionDenied)?;
        if request.token.is_empty() {
            return Err(ErrorCode::BadRequest.into());
        }
        let claims =
            match self.common.subscription_tokens.subscription(&request.token, self.now.unix_seconds()) {
                Ok(claims) => claims,
                Err(TokenFault::Expired) => return Err(ErrorCode::TokenExpired.into()),
                Err(TokenFault::Invalid) => return Err(Refusal::Disconnect(DisconnectCode::InvalidToken)),
            };
        if !claims.is_for(self.user_of(slot), &request.channel, &self.client_id(slot)) {
            return Err(Refusal::Disconnect(DisconnectCode::InvalidToken));
        }
        let ttl = match claims.expire_at {
            0 => None,
            at => Some(ttl_seconds(at, self.now.unix_seconds()).ok_or(ErrorCode::Expired)?),
        };
        let expires = ttl.map(|ttl| self.subscription_deadline(ttl));
        self.set_extra(slot, handle, claims.info, expires);
        Ok(ttl)
    }

    /// User id of a connection, empty if anonymous.
    pub(crate) fn user_of(&self, slot: u32) -> &str {
        match self.connections.0.get(slot as usize) {
            Some(connection) if connection.user != NONE => self.locals.user_name(connection.user),
            _ => "",
        }
    }
}

/// May the connection subscribe? Another user's mailbox takes a token, whatever its namespace permits.
///
/// # Errors
/// [`permission::Refusal::PermissionDenied`]
pub(crate) fn may_subscribe(
    common: &Common,
    channel: &ParsedChannel<'_>,
    actor: &Actor<'_>,
    token: bool,
) -> Result<(), permission::Refusal> {
    let is_foreign = common.mailbox_user(channel.name).is_some_and(|owner| owner != actor.user);
    if is_foreign && !token && !actor.insecure {
        return Err(permission::Refusal::PermissionDenied);
    }
    permission::may_subscribe(channel, actor, token)
}

/// The protocol's view of a granted subscription.
pub(crate) mod subscribe_result {
    use crate::hub::mail::Subscribed;
    use crate::hub::publication::view;
    use crate::protocol::{PublicationView, SubscribeResult};

    /// Views of the recovered publications.
    pub(crate) fn views(granted: &Subscribed) -> Vec<PublicationView<'_>> {
        granted.publications.iter().map(|publication| view(publication)).collect()
    }

    /// The result.
    pub(crate) fn of<'a>(
        granted: &'a Subscribed,
        publications: &'a [PublicationView<'a>],
        ttl: Option<u32>,
    ) -> SubscribeResult<'a> {
        SubscribeResult {
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or(0),
            recoverable: granted.recoverable,
            epoch: &granted.position.epoch,
            publications,
            recovered: granted.recovered,
            offset: granted.position.offset,
            positioned: granted.positioned,
            data: granted.data.as_deref(),
            was_recovering: granted.was_recovering,
            delta: false,
        }
    }
}

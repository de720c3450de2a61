//! The home side of a shard: numbers publications, keeps history, knows which shards have subscribers of a channel
//! and how many sessions a user has.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use slab::Slab;
use smallvec::SmallVec;

use crate::base::hash::NameHash;
use crate::base::ids::ShardId;
use crate::base::tick::Now;
use crate::hub::api::{ApiAnswer, ApiError, Member, Position, StoredPublication};
use crate::hub::epoch::Epochs;
use crate::hub::mail::{
    Answer, Delivery, HomeAsk, HomeOp, HomeReply, Mail, Origin, PublishAsk, ReplyBody, SubscribeAsk, Subscribed,
    UnsubscribeAsk, UserAsk, UserOp,
};
use crate::hub::post::Post;
use crate::hub::publication::{Encodings, deliver_membership, deliver_publication};
use crate::hub::registry::{Registered, Registry};
use crate::hub::settings::ChannelOptions;
use crate::hub::shard::Common;
use crate::hub::stream::Stream;
use crate::limits;
use crate::protocol::ErrorCode;

/// Marks of a single registration.
mod mark {
    /// The subscriber speaks Protobuf.
    pub(super) const PROTOBUF: u8 = 1;
    /// The subscriber counts in presence.
    pub(super) const PRESENCE: u8 = 1 << 1;
}

/// Keyed hashes need no second hashing.
#[derive(Default)]
struct Keyed(u64);

impl Hasher for Keyed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// A channel that more than one quiet subscriber uses.
#[derive(Debug)]
struct HomeChannel {
    name: Arc<str>,
    hash: u64,
    namespace: u16,
    /// Subscriptions by shard.
    shards: SmallVec<[(ShardId, u32); 2]>,
    /// Subscriptions in presence, by user.
    users: HashMap<u64, u32, BuildHasherDefault<Keyed>>,
    clients: u32,
    encodings: Encodings,
    stream: Option<Box<Stream>>,
}

/// A user with more than one connection.
#[derive(Debug, Default)]
struct HomeUser {
    shards: SmallVec<[(ShardId, u32); 2]>,
}

/// Members of a channel on their way here from the shards.
#[derive(Debug)]
struct Gather {
    origin: Origin,
    channel: Box<str>,
    missing: usize,
    members: Vec<Member>,
}

/// All names homed on one shard.
pub(crate) struct Homes {
    shard: ShardId,
    common: Arc<Common>,
    hasher: NameHash,
    channels: Registry<HomeChannel>,
    users: Registry<HomeUser>,
    gathers: Slab<Gather>,
    epochs: Epochs,
    housekeeping: usize,
    pub(crate) publications: u64,
    pub(crate) recovered: u64,
    pub(crate) not_recovered: u64,
}

impl Homes {
    pub(crate) fn new(shard: ShardId, common: Arc<Common>, hasher: NameHash) -> Self {
        let epochs = Epochs::new(common.secret);
        Self {
            shard,
            common,
            hasher,
            channels: Registry::new(),
            users: Registry::new(),
            gathers: Slab::new(),
            epochs,
            housekeeping: 0,
            publications: 0,
            recovered: 0,
            not_recovered: 0,
        }
    }

    /// Users with sessions.
    pub(crate) fn users(&self) -> usize {
        self.users.len()
    }

    /// Channels known, most of them with subscribers.
    pub(crate) fn occupied(&self) -> usize {
        self.channels.len()
    }

    /// Bytes of memory: channels, users, history.
    pub(crate) fn memory_bytes(&mut self) -> (usize, usize, usize) {
        let (mut extra, mut history) = (0, 0);
        let mut cursor = 0;
        while let Some(record) = self.channels.record_at(cursor) {
            cursor += 1;
            let Some(channel) = record else { continue };
            extra += channel.name.len() + 16 + channel.users.capacity() * 17;
            history += channel.stream.as_ref().map_or(0, |stream| stream.memory_bytes());
        }
        (self.channels.memory_bytes() + extra, self.users.memory_bytes(), history)
    }

    /// Answers one ask.
    pub(crate) fn ask(&mut self, ask: HomeAsk, now: Now, post: &mut Post) {
        let HomeAsk { channel, hash, namespace, origin, op } = ask;
        let place = Place { channel, hash, namespace };
        let body = match op {
            HomeOp::Subscribe(ask) => self.subscribe(&place, *ask, now),
            HomeOp::Unsubscribe(ask) => return self.unsubscribe(&place, &ask, post),
            HomeOp::Join(member) => return self.announce(place.hash, &member, true, post),
            HomeOp::Publish(ask) => return self.publish(place, *ask, origin, now, post),
            HomeOp::History { limit, cap, since, reverse } => {
                self.history(&place, limit, cap, since.as_ref(), reverse, now)
            }
            HomeOp::HistoryRemove => {
                if let Registered::Record(channel) = self.channels.get(hash)
                    && let Some(stream) = &mut channel.stream
                {
                    stream.remove();
                }
                ReplyBody::Published
            }
            HomeOp::PresenceStats => self.presence_stats(hash),
            HomeOp::Presence => return self.gather(place, origin, post),
        };
        self.reply(origin, place.channel, body, post);
    }

    /// A shard's members for a gathering.
    pub(crate) fn collected(&mut self, gather: u32, members: Vec<Member>, post: &mut Post) {
        let Some(pending) = self.gathers.get_mut(gather as usize) else { return };
        pending.members.extend(members);
        pending.missing -= 1;
        if pending.missing == 0 {
            let Gather { origin, channel, members, .. } = self.gathers.remove(gather as usize);
            self.reply(origin, channel, ReplyBody::Presence(members), post);
        }
    }

    /// A user's connection enters or leaves.
    pub(crate) fn user(&mut self, ask: UserAsk, post: &mut Post) {
        let shard = ask.key.shard;
        let UserOp::Enter { ticket, alone } = ask.op else { return self.user_leaves(ask.hash, shard) };
        let limit = self.common.settings.client.user_connection_limit;
        let count = match self.users.get(ask.hash) {
            Registered::Nothing => 0,
            Registered::Single(..) => 1,
            Registered::Record(user) => user.shards.iter().map(|(_, count)| *count).sum(),
        };
        // A refused connection still counts until it leaves: every enter has its leave.
        if count == 0 {
            self.users.insert_single(ask.hash, shard, 0);
        } else {
            let user = self.users.record(ask.hash, |single| HomeUser {
                shards: single.into_iter().map(|(shard, _)| (shard, 1)).collect(),
            });
            add(&mut user.shards, shard);
        }
        if let Some(name) = alone {
            self.close_others(ask.hash, name, ask.key, post);
        }
        if let Some(number) = ticket {
            let admitted = limit == 0 || count < limit;
            let ticket = crate::hub::mail::Ticket { key: ask.key, number };
            self.reply(Origin::Connection(ticket), "".into(), ReplyBody::Admitted(admitted), post);
        }
    }

    /// Looks at a few records and drops what has expired. O(1) a turn.
    pub(crate) fn housekeep(&mut self, now: Now) {
        for _ in 0..limits::HOUSEKEEPING_PER_TURN {
            let Some(record) = self.channels.record_at(self.housekeeping) else {
                self.housekeeping = 0;
                return;
            };
            self.housekeeping += 1;
            let Some(channel) = record else { continue };
            let options = &self.common.settings.channel.options[channel.namespace as usize];
            if let Some(stream) = &mut channel.stream
                && stream.expire(&stream_limits(options), now.tick)
            {
                channel.stream = None;
                self.epochs.retire(channel.hash);
            }
            if channel.shards.is_empty() && channel.stream.is_none() {
                let hash = channel.hash;
                self.channels.remove(hash);
            }
        }
    }

    fn reply(&mut self, origin: Origin, channel: Box<str>, body: ReplyBody, post: &mut Post) {
        match origin {
            Origin::Nobody => {}
            Origin::Connection(ticket) => {
                post.send(ticket.key.shard, Mail::Reply(Box::new(HomeReply { ticket, channel, body })));
            }
            Origin::Api(id) => post.answer(Answer { id, shard: self.shard, answer: api_answer(body) }),
        }
    }

    fn subscribe(&mut self, place: &Place, ask: SubscribeAsk, now: Now) -> ReplyBody {
        let granted = match self.grant(place, &ask, now) {
            Ok(granted) => granted,
            Err(error) => return ReplyBody::Failed(error),
        };
        let alone = self.common.personal_user(&place.channel).map(|user| self.hasher.of(user.as_bytes()));
        if alone == Some(ask.user_hash)
            && let Registered::Nothing = self.channels.get(place.hash)
        {
            let marks = if ask.protobuf { mark::PROTOBUF } else { 0 } | if ask.presence { mark::PRESENCE } else { 0 };
            self.channels.insert_single(place.hash, ask.shard, marks);
            return ReplyBody::Subscribed(Box::new(granted));
        }
        let channel = self.record(place);
        add(&mut channel.shards, ask.shard);
        channel.encodings.json |= !ask.protobuf;
        channel.encodings.protobuf |= ask.protobuf;
        if ask.presence {
            channel.clients += 1;
            *channel.users.entry(ask.user_hash).or_insert(0) += 1;
        }
        ReplyBody::Subscribed(Box::new(granted))
    }

    /// Position and recovery for a new subscriber.
    fn grant(&mut self, place: &Place, ask: &SubscribeAsk, now: Now) -> Result<Subscribed, ErrorCode> {
        let mut granted = Subscribed {
            positioned: ask.positioned,
            recoverable: ask.recoverable,
            data: ask.data.clone(),
            ..Subscribed::default()
        };
        if !ask.positioned {
            return Ok(granted);
        }
        let options = &self.common.settings.channel.options[place.namespace as usize];
        let cap = self.common.settings.client.recovery_max_publication_limit;
        let cache = options.recovery_mode_cache;
        let asked = ask.recover.clone().or_else(|| {
            (ask.recoverable && cache && options.auto_cache_recover).then(Position::default)
        });
        let limits = stream_limits(options);
        let empty_epoch = self.epochs.current(place.hash);
        let mut fresh = None;
        let stream = match self.channels.get(place.hash) {
            Registered::Record(HomeChannel { stream: Some(stream), .. }) => &mut **stream,
            _ => fresh.insert(Stream::new(&empty_epoch)),
        };
        stream.expire(&limits, now.tick);
        granted.position = stream.position();
        let Some(asked) = asked else { return Ok(granted) };
        granted.was_recovering = true;
        match stream.recover(&asked, cap, cache) {
            Some(publications) => {
                granted.recovered = true;
                if !cache || publications.is_empty() {
                    granted.position.offset = asked.offset;
                }
                granted.publications = publications;
                self.recovered += 1;
            }
            None => {
                self.not_recovered += 1;
                if ask.reject_unrecovered {
                    return Err(ErrorCode::UnrecoverablePosition);
                }
            }
        }
        Ok(granted)
    }

    fn unsubscribe(&mut self, place: &Place, ask: &UnsubscribeAsk, post: &mut Post) {
        match self.channels.get(place.hash) {
            Registered::Nothing => return,
            Registered::Single(..) => return self.channels.remove(place.hash),
            Registered::Record(channel) => {
                remove(&mut channel.shards, ask.shard);
                if ask.presence {
                    channel.clients = channel.clients.saturating_sub(1);
                    if let Some(count) = channel.users.get_mut(&ask.user_hash) {
                        *count -= 1;
                        if *count == 0 {
                            channel.users.remove(&ask.user_hash);
                        }
                    }
                }
                if channel.shards.is_empty() {
                    channel.encodings = Encodings::default();
                    channel.users = HashMap::default();
                    if channel.stream.is_none() {
                        self.channels.remove(place.hash);
                        return;
                    }
                }
            }
        }
        if let Some(member) = &ask.leave {
            self.announce(place.hash, member, false, post);
        }
    }

    fn announce(&mut self, hash: u64, member: &Member, joined: bool, post: &mut Post) {
        match self.channels.get(hash) {
            Registered::Record(channel) => {
                let delivery = deliver_membership(&channel.name, hash, member, joined, channel.encodings);
                spread(&channel.shards, &Arc::new(delivery), post);
            }
            Registered::Single(..) | Registered::Nothing => {}
        }
    }

    fn publish(&mut self, place: Place, ask: PublishAsk, origin: Origin, now: Now, post: &mut Post) {
        let options = &self.common.settings.channel.options[place.namespace as usize];
        let limits = stream_limits(options);
        let keeps = options.has_history() && !ask.publish.skip_history;
        let remembers = keeps || !ask.publish.idempotency_key.is_empty() || ask.publish.version > 0;
        self.publications += 1;
        let position;
        let delivery = if remembers {
            let epoch = self.epochs.current(place.hash);
            let has_history = options.has_history();
            let channel = self.record(&place);
            let stream = channel.stream.get_or_insert_with(|| Box::new(Stream::new(&epoch)));
            let appended = stream.append(ask.publish, ask.info, &limits, keeps, now.tick);
            position = has_history.then_some(appended.position);
            appended.publication.map(|publication| {
                let epoch = (publication.offset == 1).then_some(&*epoch);
                let delivery =
                    deliver_publication(&channel.name, place.hash, &publication, epoch, channel.encodings);
                (channel.shards.clone(), delivery)
            })
        } else {
            position = self.position_if_kept(&place, options.has_history(), &limits, now);
            let publication = StoredPublication {
                offset: 0,
                data: ask.publish.data,
                info: ask.info,
                tags: ask.publish.tags,
                version: 0,
            };
            self.unnumbered(&place, &publication)
        };
        if let Some((shards, delivery)) = delivery {
            spread(&shards, &Arc::new(delivery), post);
        }
        match origin {
            Origin::Api(id) => {
                post.answer(Answer { id, shard: self.shard, answer: ApiAnswer::Published(position) });
            }
            origin => self.reply(origin, place.channel, ReplyBody::Published, post),
        }
    }

    /// A publication that no history keeps, for whoever is subscribed.
    fn unnumbered(
        &mut self,
        place: &Place,
        publication: &StoredPublication,
    ) -> Option<(SmallVec<[(ShardId, u32); 2]>, Delivery)> {
        let hash = place.hash;
        match self.channels.get(hash) {
            Registered::Nothing => None,
            Registered::Single(shard, marks) => {
                let protobuf = marks & mark::PROTOBUF != 0;
                let encodings = Encodings { json: !protobuf, protobuf };
                let name: Arc<str> = Arc::from(&*place.channel);
                let delivery = deliver_publication(&name, hash, publication, None, encodings);
                Some((SmallVec::from_iter([(shard, 1)]), delivery))
            }
            Registered::Record(channel) => {
                let delivery = deliver_publication(&channel.name, hash, publication, None, channel.encodings);
                Some((channel.shards.clone(), delivery))
            }
        }
    }

    fn position_if_kept(
        &mut self,
        place: &Place,
        has_history: bool,
        limits: &crate::hub::stream::StreamLimits,
        now: Now,
    ) -> Option<Position> {
        if !has_history {
            return None;
        }
        match self.channels.get(place.hash) {
            Registered::Record(HomeChannel { stream: Some(stream), .. }) => {
                stream.expire(limits, now.tick);
                Some(stream.position())
            }
            _ => Some(Position { offset: 0, epoch: self.epochs.current(place.hash) }),
        }
    }

    fn history(
        &mut self,
        place: &Place,
        limit: i32,
        cap: u32,
        since: Option<&Position>,
        reverse: bool,
        now: Now,
    ) -> ReplyBody {
        let options = &self.common.settings.channel.options[place.namespace as usize];
        let limits = stream_limits(options);
        let empty_epoch = self.epochs.current(place.hash);
        let mut fresh = None;
        let stream = match self.channels.get(place.hash) {
            Registered::Record(HomeChannel { stream: Some(stream), .. }) => &mut **stream,
            _ => fresh.insert(Stream::new(&empty_epoch)),
        };
        stream.expire(&limits, now.tick);
        match stream.read(limit, cap, since, reverse) {
            Ok(publications) => ReplyBody::History(publications, stream.position()),
            Err(error) => ReplyBody::Failed(error),
        }
    }

    fn presence_stats(&mut self, hash: u64) -> ReplyBody {
        let (clients, users) = match self.channels.get(hash) {
            Registered::Nothing => (0, 0),
            Registered::Single(_, marks) => {
                let counted = u32::from(marks & mark::PRESENCE != 0);
                (counted, counted)
            }
            Registered::Record(channel) => (channel.clients, channel.users.len() as u32),
        };
        ReplyBody::PresenceStats(clients, users)
    }

    /// Asks every shard with subscribers for its members.
    fn gather(&mut self, place: Place, origin: Origin, post: &mut Post) {
        let shards: SmallVec<[ShardId; 4]> = match self.channels.get(place.hash) {
            Registered::Nothing => SmallVec::new(),
            Registered::Single(shard, _) => SmallVec::from_iter([shard]),
            Registered::Record(channel) => channel.shards.iter().map(|(shard, _)| *shard).collect(),
        };
        if shards.is_empty() {
            return self.reply(origin, place.channel, ReplyBody::Presence(Vec::new()), post);
        }
        if self.gathers.len() >= limits::GATHERS {
            return self.reply(origin, place.channel, ReplyBody::Failed(ErrorCode::TooManyRequests), post);
        }
        let channel: Arc<str> = Arc::from(&*place.channel);
        let gather = Gather { origin, channel: place.channel, missing: shards.len(), members: Vec::new() };
        let number = self.gathers.insert(gather) as u32;
        for shard in shards {
            let mail = Mail::Collect { channel: Arc::clone(&channel), home: self.shard, gather: number };
            post.send(shard, mail);
        }
    }

    /// The record of a channel, made from its single subscriber if need be.
    fn record(&mut self, place: &Place) -> &mut HomeChannel {
        let user = self.common.personal_user(&place.channel).map(|user| self.hasher.of(user.as_bytes()));
        self.channels.record(place.hash, |single| {
            let mut channel = HomeChannel {
                name: Arc::from(&*place.channel),
                hash: place.hash,
                namespace: place.namespace,
                shards: SmallVec::new(),
                users: HashMap::default(),
                clients: 0,
                encodings: Encodings::default(),
                stream: None,
            };
            if let Some((shard, marks)) = single {
                channel.shards.push((shard, 1));
                channel.encodings.protobuf = marks & mark::PROTOBUF != 0;
                channel.encodings.json = !channel.encodings.protobuf;
                if let Some(user) = user.filter(|_| marks & mark::PRESENCE != 0) {
                    channel.clients = 1;
                    channel.users.insert(user, 1);
                }
            }
            channel
        })
    }

    fn user_leaves(&mut self, hash: u64, shard: ShardId) {
        let gone = match self.users.get(hash) {
            Registered::Nothing => false,
            Registered::Single(..) => true,
            Registered::Record(user) => {
                remove(&mut user.shards, shard);
                user.shards.is_empty()
            }
        };
        if gone {
            self.users.remove(hash);
        }
    }

    fn close_others(&mut self, hash: u64, name: Box<str>, keep: crate::base::ids::ConnKey, post: &mut Post) {
        if let Registered::Record(user) = self.users.get(hash) {
            for (shard, _) in &user.shards {
                post.send(*shard, Mail::CloseOthers { user: name.clone(), keep });
            }
        }
    }
}

/// Which channel an ask is about.
struct Place {
    channel: Box<str>,
    hash: u64,
    namespace: u16,
}

fn stream_limits(options: &ChannelOptions) -> crate::hub::stream::StreamLimits {
    crate::hub::stream::StreamLimits::of(options)
}

fn spread(shards: &[(ShardId, u32)], delivery: &Arc<Delivery>, post: &mut Post) {
    for (shard, _) in shards {
        post.send(*shard, Mail::Deliver(Arc::clone(delivery)));
    }
}

fn add(shards: &mut SmallVec<[(ShardId, u32); 2]>, shard: ShardId) {
    match shards.iter_mut().find(|(other, _)| *other == shard) {
        Some((_, count)) => *count += 1,
        None => shards.push((shard, 1)),
    }
}

fn remove(shards: &mut SmallVec<[(ShardId, u32); 2]>, shard: ShardId) {
    let Some(at) = shards.iter().position(|(other, _)| *other == shard) else { return };
    shards[at].1 -= 1;
    if shards[at].1 == 0 {
        shards.swap_remove(at);
        if shards.is_empty() {
            shards.shrink_to_fit();
        }
    }
}

fn api_answer(body: ReplyBody) -> ApiAnswer {
    match body {
        ReplyBody::Published => ApiAnswer::Done,
        ReplyBody::History(publications, position) => ApiAnswer::History {
            publications: publications.iter().map(|publication| StoredPublication::clone(publication)).collect(),
            position,
        },
        ReplyBody::PresenceStats(num_clients, num_users) => ApiAnswer::PresenceStats { num_clients, num_users },
        ReplyBody::Presence(members) => ApiAnswer::Presence(members),
        ReplyBody::Failed(ErrorCode::UnrecoverablePosition) => ApiAnswer::Error(ApiError::UnrecoverablePosition),
        ReplyBody::Failed(ErrorCode::BadRequest) => ApiAnswer::Error(ApiError::BadRequest),
        ReplyBody::Failed(ErrorCode::NotAvailable) => ApiAnswer::Error(ApiError::NotAvailable),
        ReplyBody::Failed(_) | ReplyBody::Subscribed(_) | ReplyBody::Admitted(_) => {
            ApiAnswer::Error(ApiError::Internal)
        }
    }
}

//! The home side of a shard: numbers publications, keeps history, knows which shards have subscribers of a channel
//! and how many sessions a user has.

use std::hash::Hasher;
use std::sync::Arc;

use slab::Slab;
use smallvec::SmallVec;

use crate::base::hash::NameHash;
use crate::base::ids::ShardId;
use crate::base::tick::{Now, Tick};
use crate::hub::api::{ApiAnswer, ApiError, Member, Position};
use crate::hub::epoch::Epochs;
use crate::hub::home_announce::Announcements;
use crate::hub::home_pages::Pages;
use crate::hub::home_shards::{add, remove, spread};
use crate::hub::home_users::HomeUser;
use crate::hub::idempotency::Idempotency;
use crate::hub::mail::{
    Answer, Collect, Delivery, HomeAsk, HomeOp, HomeReply, Leaver, Mail, Origin, PublishAsk, ReplyBody,
    SubscribeAsk, Terms,
};
use crate::hub::post::Post;
use crate::hub::pressure::PressureLevel;
use crate::hub::publication::{Encodings, deliver_publication, publisher, stored, unnumbered};
use crate::hub::registry::{Registered, Registry};
use crate::hub::shard::Common;
use crate::hub::stream::{
    Appended, Draft, Epoch, HistoryQuery, Publication, Retention, Since, Stream, StreamPosition,
};
use crate::hub::tally::Tally;
use crate::hub::user_presence::UserPresence;
use crate::limits;
use crate::protocol::ErrorCode;

/// Marks of a single registration. The bits above them are the end of the generation of its epoch.
pub(crate) mod mark {
    /// The subscriber speaks Protobuf.
    pub(crate) const PROTOBUF: u16 = 1;
    /// The subscriber counts in presence.
    pub(crate) const PRESENCE: u16 = 1 << 1;
    /// Where the generation begins.
    pub(crate) const GENERATION_SHIFT: u32 = 2;
}

/// Keyed hashes need no second hashing.
#[derive(Default)]
pub(crate) struct Keyed(u64);

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
pub(crate) struct HomeChannel {
    pub(crate) name: Arc<str>,
    hash: u64,
    /// Subscriptions by shard.
    pub(crate) shards: SmallVec<[(ShardId, u32); 2]>,
    /// Subscriptions in presence, by user.
    pub(crate) users: Tally,
    pub(crate) clients: u32,
    pub(crate) encodings: Encodings,
    /// Of the epoch that subscribers were told, and that the stream gets, until there is a stream.
    generation: u32,
    pub(crate) stream: Option<Box<Stream>>,
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
    pub(crate) shard: ShardId,
    pub(crate) common: Arc<Common>,
    pub(crate) hasher: NameHash,
    pub(crate) channels: Registry<HomeChannel>,
    pub(crate) users: Registry<HomeUser>,
    pub(crate) presence: UserPresence,
    pub(crate) announcements: Announcements,
    pub(crate) pages: Pages,
    gathers: Slab<Gather>,
    pub(crate) epochs: Epochs,
    /// Results of publications by idempotency key.
    idempotency: Idempotency<Option<StreamPosition>>,
    housekeeping: usize,
    housekept: Tick,
    /// Channels that are known for their history only.
    vacant: usize,
    pub(crate) publications: u64,
    pub(crate) recovered: u64,
    pub(crate) not_recovered: u64,
}

impl Homes {
    pub(crate) fn new(shard: ShardId, common: Arc<Common>, hasher: NameHash) -> Self {
        let (epochs, secret) = (Epochs::new(common.secret), common.secret);
        Self {
            shard,
            presence: UserPresence::new(&common),
            common,
            hasher,
            channels: Registry::new(),
            users: Registry::new(),
            announcements: Announcements::default(),
            pages: Pages::default(),
            gathers: Slab::new(),
            epochs,
            idempotency: Idempotency::new(secret, limits::IDEMPOTENT_RESULTS),
            housekeeping: 0,
            housekept: Tick(0),
            vacant: 0,
            publications: 0,
            recovered: 0,
            not_recovered: 0,
        }
    }

    /// Channels with subscribers.
    pub(crate) fn occupied(&self) -> usize {
        self.channels.len() - self.vacant
    }

    /// Lists of members under way.
    pub(crate) fn gathers(&self) -> usize {
        self.gathers.len()
    }

    /// Bytes of memory: channels, users, history; those apart that [`Self::survey`] looks at.
    pub(crate) fn memory_bytes(&self) -> (usize, usize, usize) {
        (self.channels.memory_bytes(), self.users.memory_bytes(), self.idempotency.memory_bytes())
    }

    /// Adds what the record at `at` holds, its history apart. False beyond the last one.
    pub(crate) fn survey(&mut self, at: usize, held: &mut usize, history: &mut usize) -> bool {
        let Some(record) = self.channels.record_at(at) else { return false };
        if let Some(channel) = record {
            *held += channel.name.len() + 16 + channel.users.memory_bytes();
            *history += channel.stream.as_ref().map_or(0, |stream| stream.memory_bytes());
        }
        true
    }

    /// Answers one ask.
    pub(crate) fn ask(&mut self, ask: HomeAsk, now: Now, post: &mut Post) {
        if self.is_stored(&ask) {
            return self.pass_to_store(ask, post);
        }
        let HomeAsk { channel, hash, namespace, origin, op } = ask;
        let place = Place { channel, hash, namespace };
        let body = match op {
            HomeOp::Subscribe(mut ask) => {
                if ask.presence {
                    self.announcements.returns(hash, ask.user_hash);
                }
                if let Some(owner) = ask.mailbox.take() {
                    self.register(&place, &ask);
                    return Self::open_mailbox(place, *ask, *owner, origin, post);
                }
                let mut body = self.subscribe(&place, &ask, now);
                self.watch(&place.channel, hash, &mut body, now);
                body
            }
            HomeOp::Unsubscribe(mut ask) => {
                let kept = ask.kept.take();
                let first = Leaver { user_hash: ask.user_hash, presence: ask.presence };
                self.unsubscribe(&place, ask.shard, first, now);
                for leaver in &ask.also {
                    self.unsubscribe(&place, ask.shard, *leaver, now);
                }
                if let Some(member) = &ask.leave
                    && let Registered::Record(_) = self.channels.get(hash)
                {
                    self.announce(&place, (member, false), now, post);
                }
                if let Some(member) = kept {
                    self.keep_member(hash, member, now);
                }
                return self.unwatch(&place.channel, now, post);
            }
            HomeOp::Join(member) => return self.joined(&place, &member, now, post),
            HomeOp::Publish(ask) => return self.publish(place, *ask, origin, now, post),
            HomeOp::History { limit, cap, since, reverse } => {
                let since = since.as_ref().map(|since| Since { offset: since.offset, epoch: &since.epoch });
                let bytes = match origin {
                    Origin::Api(_) => limits::HISTORY_PAGE_BYTES,
                    _ => self.common.settings.client.reply_bytes(),
                };
                self.history(&place, &HistoryQuery { limit, since, reverse, max: cap }, bytes, now)
            }
            HomeOp::HistoryRemove => {
                self.history_remove(&place, now);
                ReplyBody::Published
            }
            HomeOp::PresenceStats => {
                let (clients, users) = self.counts(hash);
                ReplyBody::PresenceStats(clients, users)
            }
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
            let Gather { origin, channel, mut members, .. } = self.gathers.remove(gather as usize);
            members.extend(self.announcements.kept_members(self.hasher.of(channel.as_bytes())));
            self.reply(origin, channel, ReplyBody::Presence(members), post);
        }
    }

    /// Looks at a share of the records and drops what has expired: all of them are seen once in
    /// [`limits::HOUSEKEEPING_TICKS`] (while memory is short in [`limits::HASTY_HOUSEKEEPING_TICKS`]), whether turns are
    /// many or one a second.
    pub(crate) fn housekeep(&mut self, now: Now) {
        let calm = self.common.admission.pressure.level() == PressureLevel::Calm;
        let round = if calm { limits::HOUSEKEEPING_TICKS } else { limits::HASTY_HOUSEKEEPING_TICKS };
        let passed = now.tick.since(self.housekept).min(round) as usize;
        self.housekept = now.tick;
        let share = (self.channels.places() * passed).div_ceil(round as usize);
        let budget = share.clamp(limits::HOUSEKEEPING_LEAST, limits::HOUSEKEEPING_MOST);
        self.idempotency.sweep(now.tick, limits::HOUSEKEEPING_MOST);
        for _ in 0..budget {
            let Some(record) = self.channels.record_at(self.housekeeping) else {
                self.housekeeping = 0;
                return;
            };
            self.housekeeping += 1;
            let Some(channel) = record else { continue };
            let is_forgotten = channel.stream.as_mut().is_some_and(|stream| stream.expire(now.tick));
            if is_forgotten && channel.shards.is_empty() {
                channel.stream = None;
                self.epochs.retire(channel.hash);
            }
            if channel.shards.is_empty() && channel.stream.is_none() {
                let hash = channel.hash;
                self.channels.remove(hash);
                self.vacant -= 1;
            }
        }
    }

    pub(crate) fn reply(&mut self, origin: Origin, channel: Box<str>, body: ReplyBody, post: &mut Post) {
        match origin {
            Origin::Nobody | Origin::Letter(_) => {}
            Origin::Connection(ticket) => {
                post.send(ticket.key.shard, Mail::Reply(Box::new(HomeReply { ticket, channel, body })));
            }
            Origin::Api(id) => post.answer(Answer { id, shard: self.shard, answer: api_answer(body) }),
        }
    }

    fn subscribe(&mut self, place: &Place, ask: &SubscribeAsk, now: Now) -> ReplyBody {
        let granted = match self.grant(place, ask, now) {
            Ok(granted) => ReplyBody::Subscribed(Box::new(granted)),
            Err(error) => ReplyBody::Failed(error),
        };
        self.register(place, ask);
        granted
    }

    /// Registers a subscriber, also one that is refused: until its shard takes it back. So every subscribe has its
    /// unsubscribe, whatever became of the connection in between.
    pub(crate) fn register(&mut self, place: &Place, ask: &SubscribeAsk) {
        let alone = self.common.personal_user(&place.channel).map(|user| self.user_hash(user));
        if alone == Some(ask.user_hash)
            && self.common.watched_user(&place.channel).is_none()
            && let Registered::Nothing = self.channels.get(place.hash)
        {
            let marks =
                if ask.protobuf { mark::PROTOBUF } else { 0 } | if ask.presence { mark::PRESENCE } else { 0 };
            let generation = (self.epochs.generation(place.hash) << mark::GENERATION_SHIFT) as u16;
            return self.channels.insert_single(place.hash, ask.shard, marks | generation);
        }
        let channel = record(&mut self.channels, &self.common, &self.hasher, &self.epochs, place);
        self.vacant -= usize::from(channel.shards.is_empty() && channel.stream.is_some());
        add(&mut channel.shards, ask.shard);
        channel.encodings.json |= !ask.protobuf;
        channel.encodings.protobuf |= ask.protobuf;
        if ask.presence {
            channel.clients += 1;
            channel.users.add(ask.user_hash);
        }
    }

    fn unsubscribe(&mut self, place: &Place, shard: ShardId, leaver: Leaver, now: Now) {
        match self.channels.get(place.hash) {
            Registered::Nothing => {}
            Registered::Single(..) => self.channels.remove(place.hash),
            Registered::Record(channel) => {
                remove(&mut channel.shards, shard);
                if leaver.presence {
                    channel.clients = channel.clients.saturating_sub(1);
                    channel.users.take(leaver.user_hash);
                }
                if channel.shards.is_empty() {
                    channel.encodings = Encodings::default();
                    channel.users = Tally::default();
                    let Some(stream) = &mut channel.stream else {
                        return self.channels.remove(place.hash);
                    };
                    let options = &self.common.settings.channel.options[place.namespace as usize];
                    stream.hold(&Retention::of(options), now.tick);
                    self.vacant += 1;
                }
            }
        }
    }

    fn publish(&mut self, place: Place, ask: PublishAsk, origin: Origin, now: Now, post: &mut Post) {
        let key = ask.publish.idempotency_key.clone();
        let known = if key.is_empty() { None } else { self.idempotency.find(&place.channel, &key, now.tick) };
        let position = known.unwrap_or_else(|| {
            let position = self.number_and_deliver(&place, ask, now, post);
            if !key.is_empty() {
                self.idempotency.record(&place.channel, &key, position, now.tick);
            }
            position
        });
        match origin {
            Origin::Api(id) => {
                let answer = ApiAnswer::Published(position.map(crate::hub::home::position));
                post.answer(Answer { id, shard: self.shard, answer });
            }
            origin => self.reply(origin, place.channel, ReplyBody::Published, post),
        }
    }

    /// Gives a publication its number, if the namespace keeps history, and sends it to the shards with subscribers.
    fn number_and_deliver(
        &mut self,
        place: &Place,
        ask: PublishAsk,
        now: Now,
        post: &mut Post,
    ) -> Option<StreamPosition> {
        self.publications += 1;
        let options = &self.common.settings.channel.options[place.namespace as usize];
        let retention = Retention::of(options);
        // Only the store numbers what stands in a mailbox.
        let has_history = options.has_history() && self.common.mailbox_user(&place.channel).is_none();
        let keeps = has_history && !ask.publish.skip_history;
        if !keeps {
            self.deliver_unnumbered(place, &unnumbered(ask.publish, ask.info.as_ref()), post);
            return None;
        }
        let epoch = epoch_of(&mut self.channels, &self.epochs, place.hash);
        let channel = record(&mut self.channels, &self.common, &self.hasher, &self.epochs, place);
        self.vacant += usize::from(channel.shards.is_empty() && channel.stream.is_none());
        let stream = channel.stream.get_or_insert_with(|| Box::new(Stream::new(epoch, &retention, now.tick)));
        if !channel.shards.is_empty() {
            stream.hold(&retention, now.tick);
        }
        let mut access = stream.access(&retention, now.tick, || self.epochs.retire_and_renew(place.hash));
        let draft = Draft {
            data: ask.publish.data,
            publisher: ask.info.as_ref().map(publisher),
            tags: ask.publish.tags.into(),
            version: ask.publish.version,
            version_epoch: &ask.publish.version_epoch,
        };
        let appended = access.append(draft);
        let position = access.position();
        if let Appended::Published(publication) = appended
            && !channel.shards.is_empty()
        {
            let epoch = (publication.offset == 1).then_some(position.epoch.as_str());
            let delivery = Delivery {
                terms: Terms::of(options),
                ..deliver_publication(&channel.name, place.hash, &publication, epoch, channel.encodings)
            };
            spread(&channel.shards, &Arc::new(delivery), post);
        }
        Some(position)
    }

    /// A publication that no history keeps, for whoever is subscribed.
    fn deliver_unnumbered(&mut self, place: &Place, publication: &Publication, post: &mut Post) {
        let terms = self.terms(place.namespace);
        self.deliver_made(&place.channel, place.hash, post, |name, hash, encodings| Delivery {
            terms,
            ..deliver_publication(name, hash, publication, None, encodings)
        });
    }

    /// A publication that no history keeps, for the subscribers of a channel with a record.
    pub(crate) fn deliver_to_record(
        &mut self,
        hash: u64,
        publication: &Publication,
        terms: Terms,
        post: &mut Post,
    ) {
        if let Registered::Record(channel) = self.channels.get(hash) {
            let delivery = deliver_publication(&channel.name, hash, publication, None, channel.encodings);
            spread(&channel.shards, &Arc::new(Delivery { terms, ..delivery }), post);
        }
    }

    /// How the publications of a namespace are delivered.
    pub(crate) fn terms(&self, namespace: u16) -> Terms {
        self.common.settings.channel.options.get(usize::from(namespace)).map(Terms::of).unwrap_or_default()
    }

    /// Name of a channel with subscribers and a record.
    pub(crate) fn occupied_channel(&mut self, hash: u64) -> Option<Arc<str>> {
        match self.channels.get(hash) {
            Registered::Record(channel) if !channel.shards.is_empty() => Some(Arc::clone(&channel.name)),
            _ => None,
        }
    }

    /// Shards with subscribers of a channel.
    pub(crate) fn shards_of(&mut self, hash: u64) -> SmallVec<[ShardId; 4]> {
        match self.channels.get(hash) {
            Registered::Nothing => SmallVec::new(),
            Registered::Single(shard, _) => SmallVec::from_iter([shard]),
            Registered::Record(channel) => channel.shards.iter().map(|(shard, _)| *shard).collect(),
        }
    }

    /// Asks every shard with subscribers for its members.
    fn gather(&mut self, place: Place, origin: Origin, post: &mut Post) {
        let shards = self.shards_of(place.hash);
        if shards.is_empty() {
            let kept = self.announcements.kept_members(place.hash).collect();
            return self.reply(origin, place.channel, ReplyBody::Presence(kept), post);
        }
        if self.gathers.len() >= limits::GATHERS {
            return self.reply(origin, place.channel, ReplyBody::Failed(ErrorCode::TooManyRequests), post);
        }
        let channel: Arc<str> = Arc::from(&*place.channel);
        let gather = Gather { origin, channel: place.channel, missing: shards.len(), members: Vec::new() };
        let number = self.gathers.insert(gather) as u32;
        for shard in shards {
            let ask = Collect { channel: Arc::clone(&channel), home: self.shard, gather: number };
            post.send(shard, Mail::Collect(Box::new(ask)));
        }
    }
}

/// Which channel an ask is about.
pub(crate) struct Place {
    pub(crate) channel: Box<str>,
    pub(crate) hash: u64,
    pub(crate) namespace: u16,
}

/// Encodings of a single subscriber.
pub(crate) fn encodings_of(marks: u16) -> Encodings {
    let protobuf = marks & mark::PROTOBUF != 0;
    Encodings { json: !protobuf, protobuf }
}

pub(crate) fn position(position: StreamPosition) -> Position {
    Position { offset: position.offset, epoch: position.epoch.as_str().to_owned() }
}

/// The epoch that a channel without a stream tells, and that its stream gets: it stays as long as there are subscribers,
/// whatever else is forgotten meanwhile.
pub(crate) fn epoch_of(channels: &mut Registry<HomeChannel>, epochs: &Epochs, hash: u64) -> Epoch {
    match channels.get(hash) {
        Registered::Nothing => epochs.current(hash),
        Registered::Single(_, marks) => {
            epochs.of(hash, epochs.generation_of(hash, marks >> mark::GENERATION_SHIFT))
        }
        Registered::Record(channel) => epochs.of(hash, channel.generation),
    }
}

/// The stream of a channel, or an empty one in `none` for a channel that has none: nothing is stored for a question.
pub(crate) fn stream_of<'a>(
    channels: &'a mut Registry<HomeChannel>,
    hash: u64,
    none: &'a mut Option<Stream>,
    epoch: Epoch,
    retention: &Retention,
    now: Now,
) -> &'a mut Stream {
    match channels.get(hash) {
        Registered::Record(HomeChannel { stream: Some(stream), shards, .. }) => {
            if !shards.is_empty() {
                stream.hold(retention, now.tick);
            }
            stream
        }
        _ => none.insert(Stream::new(epoch, retention, now.tick)),
    }
}

/// The record of a channel, made from its single subscriber if need be.
fn record<'a>(
    channels: &'a mut Registry<HomeChannel>,
    common: &Common,
    hasher: &NameHash,
    epochs: &Epochs,
    place: &Place,
) -> &'a mut HomeChannel {
    let user = common.personal_user(&place.channel).map(|user| hasher.of(user.as_bytes()));
    channels.record(place.hash, |single| {
        let mut channel = HomeChannel {
            name: Arc::from(&*place.channel),
            hash: place.hash,
            shards: SmallVec::new(),
            users: Tally::default(),
            clients: 0,
            encodings: Encodings::default(),
            generation: epochs.generation(place.hash),
            stream: None,
        };
        if let Some((shard, marks)) = single {
            channel.generation = epochs.generation_of(place.hash, marks >> mark::GENERATION_SHIFT);
            channel.shards.push((shard, 1));
            channel.encodings = encodings_of(marks);
            if let Some(user) = user.filter(|_| marks & mark::PRESENCE != 0) {
                channel.clients = 1;
                channel.users.add(user);
            }
        }
        channel
    })
}

fn api_answer(body: ReplyBody) -> ApiAnswer {
    match body {
        ReplyBody::Published => ApiAnswer::Done,
        ReplyBody::History(publications, position) => ApiAnswer::History {
            publications: publications.iter().map(|publication| stored(publication)).collect(),
            position,
        },
        ReplyBody::PresenceStats(num_clients, num_users) => {
            ApiAnswer::PresenceStats { num_clients, num_users }
        }
        ReplyBody::Presence(members) => ApiAnswer::Presence(members),
        ReplyBody::Failed(ErrorCode::UnrecoverablePosition) => {
            ApiAnswer::Error(ApiError::UnrecoverablePosition)
        }
        ReplyBody::Failed(ErrorCode::BadRequest) => ApiAnswer::Error(ApiError::BadRequest),
        ReplyBody::Failed(ErrorCode::NotAvailable) => ApiAnswer::Error(ApiError::NotAvailable),
        ReplyBody::Failed(_)
        | ReplyBody::Subscribed(_)
        | ReplyBody::Admitted(_)
        | ReplyBody::Users(_)
        | ReplyBody::Acknowledged(_) => ApiAnswer::Error(ApiError::Internal),
    }
}

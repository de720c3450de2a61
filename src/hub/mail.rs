//! What shards say to each other. Mail between two shards keeps its order; every letter is answered at most once.
//!
//! A channel and a user each have a *home* shard (by keyed hash of the name). Only the home numbers publications,
//! remembers history and knows which shards have subscribers; so order needs no lock and a publication crosses to a
//! shard once, as one shared frame per encoding.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::ids::{ConnKey, ShardId};
use crate::base::tick::Tick;
use crate::hub::activity::Activity;
use crate::hub::api::{ApiAnswer, ApiCommand, ApiPublish, Member, Position, UserView};
use crate::hub::metrics::SentKind;
use crate::hub::settings::{ChannelOptions, SlowConsumer};
use crate::hub::store::{MailboxGrant, Owner, Page, StoreMail};
use crate::hub::stream::Publication;
use crate::protocol::ErrorCode;

/// One letter: every inbox has places for thousands, so what is large stands behind a pointer.
#[derive(Debug)]
pub enum Mail {
    /// To the home of a channel.
    Home(Box<HomeAsk>),
    /// To the home of a user.
    User(Box<UserAsk>),
    /// To the home of some users: who of them is online?
    Look(Box<LookAsk>),
    /// From a home to the shard of the connection that asked.
    Reply(Box<HomeReply>),
    /// From a home to every shard with subscribers.
    Deliver(Arc<Delivery>),
    /// From a home to every shard with subscribers: list them.
    Collect(Box<Collect>),
    /// The answer to `Collect`.
    Collected(Box<Collected>),
    /// From a home to one shard with subscribers: list some of them.
    CollectPage(Box<CollectPage>),
    /// The answer to `CollectPage`.
    CollectedPage(Box<CollectedPage>),
    /// From a user's home: close this user's sessions but the newest one (`single_connection`).
    CloseOthers(Box<CloseOthers>),
    /// From a user's home: this session has the place of a lost one. It answers with [`UserOp::Continued`].
    Inherit(Box<Inherit>),
    /// From the store to the home of a stored stream.
    Store(Box<StoreMail>),
    /// From the home of a mailbox to the shard of one session.
    Page(Box<Page>),
    /// From the control plane.
    Api(Box<ApiAsk>),
    /// From the application: stop accepting and disconnect everybody over so many ticks.
    Drain {
        /// Length of the window in ticks; 0 = at once.
        window_ticks: u32,
    },
}

const _: () = assert!(size_of::<Mail>() <= 16, "an inbox is an array of these");

/// Subscribers that one letter takes out of a channel beside its first: where a million leave one channel at once, its
/// home gets a letter for many of them.
pub(crate) const LEAVERS_PER_LETTER: usize = 63;

impl Mail {
    /// How much work it is, in letters.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Home(ask) => match &ask.op {
                HomeOp::Unsubscribe(ask) => 1 + ask.also.len(),
                _ => 1,
            },
            _ => 1,
        }
    }

    /// Adds a subscriber of `shard` who leaves the channel. False where this letter is about something else, or full.
    pub(crate) fn takes_along(&mut self, hash: u64, shard: ShardId, leaver: Leaver) -> bool {
        let Self::Home(home) = self else { return false };
        let is_there = home.hash == hash;
        let HomeOp::Unsubscribe(ask) = &mut home.op else { return false };
        let takes = is_there
            && ask.shard == shard
            && ask.leave.is_none()
            && ask.kept.is_none()
            && ask.also.len() < LEAVERS_PER_LETTER;
        if takes {
            ask.also.push(leaver);
        }
        takes
    }

    /// True if nobody waits for the effect of this letter and nobody is told of it, so that it may lie until its reader
    /// looks anyway. It still stands in order: whoever asks about it later is answered after it. Where
    /// `users_are_watched`, somebody may be told that a user came or went.
    #[must_use]
    pub fn is_patient(&self, users_are_watched: bool) -> bool {
        match self {
            Self::Home(ask) => match &ask.op {
                HomeOp::Subscribe(_) => ask.origin == Origin::Nobody,
                HomeOp::Unsubscribe(ask) => ask.leave.is_none() && ask.kept.is_none(),
                _ => false,
            },
            Self::User(ask) => match &ask.op {
                UserOp::Enter { ticket, alone } => ticket.is_none() && alone.is_none() && !users_are_watched,
                UserOp::Leave(_) | UserOp::Quiet(_) | UserOp::Continued(_) => !users_are_watched,
            },
            _ => false,
        }
    }
}

/// A home asks a shard for all its members of a channel.
#[derive(Debug)]
pub struct Collect {
    /// The channel.
    pub channel: Arc<str>,
    /// Who gathers.
    pub home: ShardId,
    /// The home's number for this gathering.
    pub gather: u32,
}

/// A shard's members of a channel.
#[derive(Debug)]
pub struct Collected {
    /// The number asked with.
    pub gather: u32,
    /// The members.
    pub members: Vec<Member>,
}

/// A shard's part of a page of members.
#[derive(Debug)]
pub struct CollectedPage {
    /// Who answers.
    pub shard: ShardId,
    /// The answer.
    pub part: PageOf,
}

/// A user's other sessions go.
#[derive(Debug)]
pub struct CloseOthers {
    /// The user.
    pub user: Box<str>,
    /// The session that stays.
    pub keep: ConnKey,
}

/// A command of the server API with the number its answer carries.
#[derive(Debug)]
pub struct ApiAsk {
    /// Correlates the answer.
    pub id: u64,
    /// What is asked.
    pub command: ApiCommand,
}

/// A home asks a shard for members of a channel.
#[derive(Debug)]
pub struct CollectPage {
    /// The channel.
    pub channel: Box<str>,
    /// Who asks.
    pub home: ShardId,
    /// The home's number for the page.
    pub page: u32,
    /// Only members in slots above this one.
    pub after: Option<u32>,
    /// At most so many, from the lowest slot up.
    pub limit: u32,
}

/// Members of a channel on one shard, in the order of their slots.
#[derive(Debug)]
pub struct PageOf {
    /// The number asked with.
    pub page: u32,
    /// The members.
    pub members: Vec<Member>,
    /// Slot of the last one, if more follow it.
    pub next: Option<u32>,
}

/// Where the answer to an ask goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody waits.
    Nobody,
    /// A connection, blocked until the answer comes unless the server API asked.
    Connection(Ticket),
    /// The control plane.
    Api(u64),
    /// The store, for a dead letter. A home has nothing to tell it.
    Letter(LetterKey),
}

/// Names one dead letter of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LetterKey {
    /// Those of one reader, which are put aside together.
    pub burial: usize,
    /// The message.
    pub offset: u64,
}

/// Names one question of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Which connection.
    pub key: ConnKey,
    /// Which wait, or (for subscriptions made by the server API, which block nobody) which pending subscription.
    pub number: u32,
}

/// To the home of a channel.
#[derive(Debug)]
pub struct HomeAsk {
    /// The channel.
    pub channel: Box<str>,
    /// Its keyed hash.
    pub hash: u64,
    /// Index of its namespace's options.
    pub namespace: u16,
    /// Who wants to know.
    pub origin: Origin,
    /// What is asked.
    pub op: HomeOp,
}

/// What is asked of a home.
#[derive(Debug)]
pub enum HomeOp {
    /// Register a subscriber.
    Subscribe(Box<SubscribeAsk>),
    /// Remove a subscriber.
    Unsubscribe(Box<UnsubscribeAsk>),
    /// A subscriber became active: tell the others, and itself.
    Join(Box<Member>),
    /// Number, keep and deliver a publication.
    Publish(Box<PublishAsk>),
    /// Read history.
    History {
        /// 0 = position only, negative = all.
        limit: i32,
        /// The most a reply may hold.
        cap: u32,
        /// Start position.
        since: Option<Position>,
        /// Newest first.
        reverse: bool,
    },
    /// Drop data, keep position.
    HistoryRemove,
    /// Counts.
    PresenceStats,
    /// Members.
    Presence,
}

/// A subscriber registers.
#[derive(Debug, Clone)]
pub struct SubscribeAsk {
    /// The subscriber's shard.
    pub shard: ShardId,
    /// Keyed hash of the user, for counting distinct users.
    pub user_hash: u64,
    /// Encoding of the subscriber.
    pub protobuf: bool,
    /// Counts in presence.
    pub presence: bool,
    /// Offset and epoch are wanted.
    pub positioned: bool,
    /// Recovery is promised.
    pub recoverable: bool,
    /// Where the client stopped.
    pub recover: Option<Position>,
    /// Error 112 instead of a subscription that is not recovered.
    pub reject_unrecovered: bool,
    /// Passed back: custom data for the client.
    pub data: Option<Bytes>,
    /// Set where the channel is the subscriber's own mailbox.
    pub mailbox: Option<Box<Owner>>,
}

/// A subscriber leaves.
#[derive(Debug)]
pub struct UnsubscribeAsk {
    /// The subscriber's shard.
    pub shard: ShardId,
    /// As in the subscription.
    pub user_hash: u64,
    /// As in the subscription.
    pub presence: bool,
    /// Who leaves, where leaves are announced.
    pub leave: Option<Member>,
    /// Who was lost and may come back, where the namespace has a `presence_grace`.
    pub kept: Option<KeptMember>,
    /// Those who left right behind this one, of whom nobody is told: at most [`LEAVERS_PER_LETTER`].
    pub also: Vec<Leaver>,
}

/// A subscriber who leaves and of whom nobody is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaver {
    /// As in the subscription.
    pub user_hash: u64,
    /// As in the subscription.
    pub presence: bool,
}

/// A member who was lost and may come back.
#[derive(Debug)]
pub struct KeptMember {
    /// Who.
    pub member: Member,
    /// Keyed hash of the user.
    pub user_hash: u64,
    /// Namespace of the channel.
    pub namespace: u16,
    /// Its leave is announced if it does not come back.
    pub announced: bool,
    /// Its peer closed without saying why.
    pub(crate) is_unsaid: bool,
}

/// A publication on its way to its home.
#[derive(Debug)]
pub struct PublishAsk {
    /// Payload and options.
    pub publish: ApiPublish,
    /// Who published, for client-originated ones.
    pub info: Option<Member>,
}

/// A home's answer to a connection.
#[derive(Debug)]
pub struct HomeReply {
    /// To whom.
    pub ticket: Ticket,
    /// About which channel.
    pub channel: Box<str>,
    /// The answer.
    pub body: ReplyBody,
}

/// The content of a [`HomeReply`].
#[derive(Debug)]
pub enum ReplyBody {
    /// The subscription stands.
    Subscribed(Box<Subscribed>),
    /// The publication is numbered and on its way.
    Published,
    /// Publications and the top of the stream.
    History(Vec<Arc<Publication>>, Position),
    /// Sessions and distinct users.
    PresenceStats(u32, u32),
    /// Members.
    Presence(Vec<Member>),
    /// Users, by the asker's index.
    Users(Vec<(u32, UserView)>),
    /// The user may have one more connection, or not.
    Admitted(bool),
    /// Everything up to this offset of a mailbox is acknowledged, and the log has it.
    Acknowledged(u64),
    /// The home refused.
    Failed(ErrorCode),
}

/// A subscription as the home grants it.
#[derive(Debug, Default)]
pub struct Subscribed {
    /// Offset and epoch are promised.
    pub positioned: bool,
    /// Recovery is promised.
    pub recoverable: bool,
    /// Position to report.
    pub position: Position,
    /// The client asked to recover (or the namespace does so unasked).
    pub was_recovering: bool,
    /// Nothing was lost.
    pub recovered: bool,
    /// What was missed, ascending.
    pub publications: Vec<Arc<Publication>>,
    /// Custom data for the client.
    pub data: Option<Bytes>,
    /// Set for the session of a mailbox.
    pub mailbox: Option<MailboxGrant>,
}

impl Subscribed {
    /// About the bytes that the recovered publications take in a reply.
    #[must_use]
    pub fn reply_bytes(&self) -> usize {
        self.publications.iter().map(|publication| publication.reply_bytes()).sum()
    }

    /// Takes a recovery back that is too much for one reply: the client stands at the top and knows that it missed
    /// something. What has no offset is no recovery.
    pub fn give_up_recovery(&mut self) {
        if let Some(last) = self.publications.last().filter(|last| last.offset > 0) {
            (self.recovered, self.position.offset) = (false, last.offset);
            self.publications = Vec::new();
        }
    }
}

/// To the home of a user.
#[derive(Debug)]
pub struct UserAsk {
    /// Keyed hash of the name.
    pub hash: u64,
    /// The connection that enters or leaves.
    pub key: ConnKey,
    /// The name itself, where somebody wants events about users.
    pub name: Option<Box<str>>,
    /// What happens.
    pub op: UserOp,
}

/// What happens to a user's set of connections.
#[derive(Debug)]
pub enum UserOp {
    /// A connection authenticated.
    Enter {
        /// Number of the wait to answer, `None` if nobody waits.
        ticket: Option<u32>,
        /// Set where older sessions must go (`single_connection`): the user's name.
        alone: Option<Box<str>>,
    },
    /// A connection that entered is gone.
    Leave(Leave),
    /// A connection that entered became idle or was set away, or (false) is active again.
    Quiet(bool),
    /// A connection took over what the lost session was whose place it has ([`Mail::Inherit`]), and is quiet or not.
    Continued(bool),
}

/// How a connection of a user went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave {
    /// What its user last did.
    pub(crate) activity: Activity,
    /// Where it was lost without goodbye: when it last gave a sign of life.
    pub lost: Option<Tick>,
    /// Its peer closed without saying why.
    pub(crate) is_unsaid: bool,
}

/// A session has the place of a lost one of its user.
#[derive(Debug)]
pub struct Inherit {
    /// The session.
    pub key: ConnKey,
    /// What the user of the lost one last did.
    pub(crate) activity: Activity,
}

/// A question about users of one home.
#[derive(Debug)]
pub struct LookAsk {
    /// Who asks.
    pub origin: Origin,
    /// The asker's index of each user, and the keyed hash of the name.
    pub users: Vec<(u32, u64)>,
}

/// A frame on its way to subscribers.
#[derive(Debug)]
pub struct Delivery {
    /// The channel.
    pub channel: Arc<str>,
    /// Its keyed hash.
    pub hash: u64,
    /// The complete WebSocket frame for JSON subscribers; `None` if none was expected or the data is no JSON.
    pub json: Option<Bytes>,
    /// The complete WebSocket frame for Protobuf subscribers; `None` if none was expected.
    pub protobuf: Option<Bytes>,
    /// What it is.
    pub kind: SentKind,
    /// Only for subscribers with join and leave pushes.
    pub join_leave: bool,
    /// The data cannot be put into JSON: JSON subscribers are disconnected with 3506.
    pub not_json: bool,
    /// Offset and incarnation where it is a message of a mailbox.
    pub mailbox: Option<(u64, u32)>,
    /// How it is delivered.
    pub terms: Terms,
}

/// How a publication is delivered; by default at once, and never left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// What becomes of it where a reader is behind.
    pub slow_consumer: SlowConsumer,
    /// Recovery replays the newest publication only.
    pub newest_only: bool,
    /// How long it may wait for others; 0: not at all.
    pub write_delay_ms: u8,
}

impl Terms {
    /// Those of a namespace.
    #[must_use]
    pub fn of(options: &ChannelOptions) -> Self {
        Self {
            slow_consumer: options.slow_consumer,
            newest_only: options.recovery_mode_cache,
            write_delay_ms: u8::try_from(options.write_delay.as_millis()).unwrap_or(u8::MAX),
        }
    }
}

/// What a shard hands to the control plane.
#[derive(Debug)]
pub struct Answer {
    /// The number asked with.
    pub id: u64,
    /// Who answers.
    pub shard: ShardId,
    /// The answer.
    pub answer: ApiAnswer,
}

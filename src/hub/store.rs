//! What shards and the store say to each other. The store is the thread that owns the log: a shard never touches it.
//!
//! The store alone is the order of every stored stream. Everything about a stream goes from the store to the stream's
//! home and from there to the shards, so on that way nothing overtakes anything: what was acknowledged before the store
//! answered an [`OpenAsk`] is in the replay, what was acknowledged later is delivered live behind it.

use std::sync::Arc;

use crate::base::ids::ConnKey;
use crate::hub::api::{ApiError, Position};
use crate::hub::events::EventBatch;
use crate::hub::mail::{ApiAsk, HomeAsk, Origin, Subscribed, Ticket};
pub use crate::hub::metrics::SendRefusal;
use crate::hub::stream::Publication;

/// Asked of the store.
#[derive(Debug)]
pub enum StoreAsk {
    /// From a home: a subscriber of a mailbox is registered, what does it get?
    Open(Box<OpenAsk>),
    /// From a session's shard: the next page of a replay.
    More(Box<PageAsk>),
    /// From a session's shard: `ack_wait` is over, send again what is not acknowledged.
    Redeliver(Box<PageAsk>),
    /// From a session's shard: everything up to an offset is done with.
    Acknowledge(Box<AckAsk>),
    /// From the home of a channel with durable history: a publication, a subscriber who wants a position, a reader, or
    /// a removal.
    History(Box<HomeAsk>),
    /// From the control plane.
    Api(Box<ApiAsk>),
    /// From a shard: what happened there, for backends.
    Events(EventBatch),
    /// From the control plane: a backend has events.
    Delivered(Box<DeliveredAsk>),
}

/// Events of a queue are done with.
#[derive(Debug)]
pub struct DeliveredAsk {
    /// The queue.
    pub queue: Box<str>,
    /// Incarnation of its stream.
    pub epoch: u32,
    /// The last record.
    pub through: u64,
    /// Number of the event after it, where it is known.
    pub next: Option<u64>,
}

/// Whose mailbox, and which cursor in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// User id.
    pub user: Box<str>,
    /// Device with a cursor of its own, empty for the user's.
    pub device: Box<str>,
}

/// A subscriber of a mailbox wants to be let in.
#[derive(Debug)]
pub struct OpenAsk {
    /// Who waits for the answer.
    pub origin: Origin,
    /// The channel.
    pub channel: Box<str>,
    /// Whose mailbox.
    pub owner: Owner,
    /// Where the client stopped, if it says so.
    pub since: Option<Position>,
    /// Error 112 instead of a subscription that is not recovered.
    pub reject_unrecovered: bool,
    /// What the home grants; the store adds position and publications.
    pub granted: Subscribed,
}

/// A session wants more of its mailbox.
#[derive(Debug)]
pub struct PageAsk {
    /// Which session.
    pub key: ConnKey,
    /// The channel.
    pub channel: Box<str>,
    /// Whose mailbox.
    pub owner: Owner,
    /// What the session has been given. [`StoreAsk::More`] wants what follows, [`StoreAsk::Redeliver`] what comes before.
    pub after: u64,
    /// Incarnation of the mailbox that `after` belongs to.
    pub epoch: u32,
}

/// A session acknowledges.
#[derive(Debug)]
pub struct AckAsk {
    /// Whose mailbox.
    pub owner: Owner,
    /// Everything up to here.
    pub through: u64,
    /// Incarnation of the mailbox that the offset belongs to, `None` where the session has no part in any.
    pub epoch: Option<u32>,
    /// Who waits until the log has it; the acknowledgements of pongs wait for nothing.
    pub ticket: Option<Ticket>,
}

/// From the store to the home of a stored stream.
#[derive(Debug)]
pub enum StoreMail {
    /// The answer to a subscriber.
    Opened {
        /// Who asked.
        origin: Origin,
        /// The channel.
        channel: Box<str>,
        /// What it gets.
        result: Result<Box<Subscribed>, crate::protocol::ErrorCode>,
    },
    /// A message is stored: for whoever is subscribed now.
    Stored(Box<StoredMessage>),
    /// A page for one session.
    Page(Box<Page>),
    /// About a durable history.
    History(Box<HistoryMail>),
}

/// From the store to the home of a channel with durable history: the answer to a [`StoreAsk::History`].
#[derive(Debug)]
pub struct HistoryMail {
    /// The channel.
    pub channel: Box<str>,
    /// Who asked.
    pub origin: Origin,
    /// The answer.
    pub answer: HistoryAnswer,
}

/// What became of a question about a durable history.
#[derive(Debug)]
pub enum HistoryAnswer {
    /// The log has the publication, or it was of no effect.
    Published {
        /// For whoever is subscribed; `None` if it was suppressed, or known by its idempotency key.
        publication: Option<Arc<Publication>>,
        /// Where it stands, or the top of the stream if it has no number.
        position: Option<Position>,
    },
    /// The subscription stands.
    Opened(Box<Subscribed>),
    /// Publications in the order asked for, and the top of the stream.
    Page(Vec<Arc<Publication>>, Position),
    /// The history is empty.
    Removed,
    /// Nothing was done.
    Failed(ApiError),
}

/// A message that was stored just now.
#[derive(Debug)]
pub struct StoredMessage {
    /// The channel of its mailbox.
    pub channel: Box<str>,
    /// The message, with its offset.
    pub publication: Arc<Publication>,
    /// Incarnation of the mailbox.
    pub epoch: u32,
    /// The same as clients see it.
    pub epoch_text: Box<str>,
}

/// Messages for one session, in order.
#[derive(Debug)]
pub struct Page {
    /// Which session.
    pub key: ConnKey,
    /// The channel.
    pub channel: Box<str>,
    /// The messages.
    pub publications: Vec<Arc<Publication>>,
    /// What the session had been given when it asked: the answer to an older question is none to a newer one.
    pub after: u64,
    /// Incarnation of the mailbox.
    pub epoch: u32,
    /// What it is for.
    pub kind: PageKind,
}

/// What a page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// The replay goes on behind it.
    More,
    /// The replay is at the top: what is stored from now on comes live.
    Last,
    /// The log could not be read; the session asks again later.
    Failed,
    /// Sent again; everything up to `through` is acknowledged by now.
    Again {
        /// The cursor.
        through: u64,
    },
}

/// What a session of a mailbox gets with its subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailboxGrant {
    /// Offset of the last message it was given.
    pub sent: u64,
    /// Everything up to here needs no acknowledgement.
    pub acknowledged: u64,
    /// Incarnation of the mailbox; where there is none yet, the one to come.
    pub epoch: u32,
    /// What follows.
    pub next: PageKind,
}

/// Figures of the store. Gauges say how it is, counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreFigures {
    /// Messages stored.
    pub sent: u64,
    /// Publications of durable histories stored.
    pub published: u64,
    /// Publications of durable histories that the log did not take.
    pub publish_failures: u64,
    /// Messages refused, at the index of [`SendRefusal`].
    pub refused: [u64; SendRefusal::COUNT],
    /// Acknowledgements stored.
    pub acknowledged: u64,
    /// Acknowledgements that the log did not take.
    pub ack_failures: u64,
    /// Messages sent again.
    pub redelivered: u64,
    /// Messages put aside after `max_deliveries`.
    pub dead_lettered: u64,
    /// Letters that the log did not take: their messages stay.
    pub dead_letter_failures: u64,
    /// Letters without the data of their messages, which was too large.
    pub dead_letters_cut: u64,
    /// Gauge: questions in the store's inbox.
    pub queued: u64,
    /// Gauge: requests that the log has not acknowledged.
    pub in_flight: u64,
    /// Gauge: requests that the log has no room for.
    pub waiting: u64,
    /// Gauge: letters to shards that lag behind.
    pub letters: u64,
    /// Gauge: acknowledgements that are being gathered.
    pub late_acks: u64,
    /// Gauge: streams in the log.
    pub streams: u64,
    /// Gauge: bytes of memory of the log's index.
    pub index_bytes: u64,
    /// Records appended to the log.
    pub log_records: u64,
    /// Bytes written for them.
    pub log_bytes: u64,
    /// Groups written.
    pub log_groups: u64,
    /// Segments given up after a failed write or sync.
    pub log_segments_given_up: u64,
    /// Syncs that failed after records had been acknowledged.
    pub log_lost_syncs: u64,
    /// Messages that had expired when they were to be read.
    pub log_expired_reads: u64,
    /// Records found damaged.
    pub log_damaged_reads: u64,
    /// Maintenance passes that failed.
    pub log_maintenance_failures: u64,
    /// Gauge: the log cannot take records at present.
    pub log_faulty: bool,
}

impl StoreFigures {
    /// Counts messages that were refused.
    pub fn refuse(&mut self, reason: SendRefusal, messages: u64) {
        if let Some(count) = self.refused.get_mut(reason as usize) {
            *count += messages;
        }
    }
}

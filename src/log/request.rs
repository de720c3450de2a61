//! What may be appended, and what comes back.

use super::body::{Body, Cursor, Event, Message, Meta, Publication, Version};
use super::error::{AppendError, RefuseError};
use super::record::{Class, KeyHasher, Kind, Sequence, StreamKey};
use super::stream::Devices;

/// A request to append one record.
#[derive(Clone, Debug)]
pub struct AppendRequest {
    /// Comes back in the acknowledgement.
    pub token: u64,
    /// What to append.
    pub append: Append,
}

/// What to append.
#[derive(Clone, Debug)]
pub enum Append {
    /// A message for a mailbox; the log numbers it.
    Message {
        /// The message.
        message: Message,
        /// Seconds since 1970 from which on it is not delivered any more, 0 = never.
        expires_at: u32,
    },
    /// A publication of a channel with durable history; the log numbers it.
    Publication {
        /// The publication.
        publication: Publication,
        /// How many publications the history holds from now on, counting this one (`history_size`).
        keep: u32,
        /// Seconds since 1970 from which on it is not delivered any more, 0 = never.
        expires_at: u32,
    },
    /// Notes where the history of a channel stands: begins it, if there is none, and so gives it an epoch; or drops
    /// all but its newest publications. The number goes on either way.
    Position {
        /// The channel.
        channel: String,
        /// How many of its newest publications the history still holds.
        keep: u32,
        /// The newest version published in it.
        version: Version,
    },
    /// An event for a webhook; the log numbers it.
    Event {
        /// The event.
        event: Event,
        /// Seconds since 1970 from which on it is not delivered any more, 0 = never.
        expires_at: u32,
    },
    /// Everything up to `through` is done with. Beyond the end it means the end (bad-input.md S22).
    Acknowledge {
        /// Mailbox or queue of events.
        class: Class,
        /// The user, or the queue.
        name: String,
        /// The device that acknowledges, empty if clients name none. From the first named device on, messages stay
        /// until every known device has acknowledged them.
        device: String,
        /// The offset.
        through: u64,
    },
    /// A device is there, which has everything up to `through`: from now on messages wait for it.
    Introduce {
        /// The user.
        user: String,
        /// The device.
        device: String,
        /// The offset.
        through: u64,
    },
    /// A device is gone: nothing waits for it any more.
    ForgetDevice {
        /// The user.
        user: String,
        /// The device.
        device: String,
    },
    /// Everything that waits in a mailbox or a queue of events is dropped.
    Purge {
        /// Mailbox or queue of events.
        class: Class,
        /// The user, or the queue.
        name: String,
    },
}

/// Where a record was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// In the log.
    pub sequence: Sequence,
    /// In its stream. For an acknowledgement what it acknowledged.
    pub offset: u64,
    /// Incarnation of its stream.
    pub epoch: u32,
}

/// The log's answer to one request. Answers to the requests of one appender come in the order of the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// From the request.
    pub token: u64,
    /// Stored, as durably as [`SyncPolicy`](super::settings::SyncPolicy) says, or why not.
    pub result: Result<Appended, AppendError>,
}

/// Takes acknowledgements on the log's writer thread. It must not block: hand them on.
pub trait AckSink: Send + Sync {
    /// Acknowledgements in order. Never more are outstanding than the appender was allowed, so a queue of that
    /// capacity is never full.
    fn acknowledge(&self, acks: &[Ack]);
}

/// A request made ready on the appender's thread: encoded, with its checksum.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) token: u64,
    pub(super) plan: Plan,
    pub(super) key: StreamKey,
    pub(super) expires_at: u32,
    pub(super) kind: Kind,
    pub(super) body: Vec<u8>,
    pub(super) body_crc: u32,
    /// It is an acknowledgement by name only: a device is there.
    introduces: bool,
}

/// What the writer still has to decide.
#[derive(Clone, Copy, Debug)]
pub(super) enum Plan {
    /// Number it.
    Next(Room),
    /// Drop all but the newest of what is there.
    Position { keep: u32 },
    /// Move a cursor.
    Acknowledge { device: u64, through: u64 },
    /// Note a loss.
    Loss { before: Sequence, mark: u64 },
}

/// How much a stream may hold with one more message.
#[derive(Clone, Copy, Debug)]
pub(super) enum Room {
    /// As many as come.
    Endless,
    /// As a mailbox may.
    Mailbox,
    /// The newest so many.
    Newest(u32),
}

/// The epoch of a stream as clients see it.
#[must_use]
pub fn epoch_text(epoch: u32) -> String {
    format!("{epoch:08x}")
}

impl Prepared {
    pub(super) fn new(
        request: AppendRequest,
        hasher: &KeyHasher,
        max_body: usize,
    ) -> Result<Self, RefuseError> {
        let introduces = matches!(request.append, Append::Introduce { .. });
        let (plan, class, expires_at, body) = plan(request.append, hasher);
        let key = hasher.stream(class, body.name());
        let kind = body.kind();
        let body = body.encode();
        if body.len() > max_body {
            return Err(RefuseError::TooLarge);
        }
        let body_crc = crc32c::crc32c(&body);
        Ok(Self { token: request.token, plan, key, expires_at, kind, body, body_crc, introduces })
    }
}

impl Prepared {
    /// A record of the log itself, which belongs to no stream.
    pub(super) fn of_the_log(kind: Kind, plan: Plan) -> Self {
        let (key, body, body_crc) = (StreamKey::default(), Vec::new(), crc32c::crc32c(&[]));
        Self { token: 0, plan, key, expires_at: 0, kind, body, body_crc, introduces: false }
    }

    /// True if it says that something is done with, so that room can be made: it may take what is held back for that.
    pub(super) fn frees_room(&self) -> bool {
        let drops =
            matches!(self.plan, Plan::Acknowledge { .. } | Plan::Position { keep: 0 } | Plan::Loss { .. });
        drops && !self.introduces && self.kind != Kind::Watermark
    }

    /// True if it is taken only while what makes room again has its own.
    pub(super) fn needs_reserve(&self) -> bool {
        !self.frees_room() && self.kind != Kind::Watermark
    }
}

fn plan(append: Append, hasher: &KeyHasher) -> (Plan, Class, u32, Body) {
    match append {
        Append::Message { message, expires_at } => {
            (Plan::Next(Room::Mailbox), Class::Mailbox, expires_at, Body::Message(message))
        }
        Append::Event { event, expires_at } => {
            (Plan::Next(Room::Endless), Class::Webhook, expires_at, Body::Event(event))
        }
        Append::Publication { publication, keep, expires_at } => {
            let body = Body::Publication(publication);
            (Plan::Next(Room::Newest(keep)), Class::History, expires_at, body)
        }
        Append::Position { channel, keep, version } => {
            (Plan::Position { keep }, Class::History, 0, Body::Meta(Meta { name: channel, version }))
        }
        Append::Introduce { user, device, through } => {
            let through = through.min(Devices::FORGET.saturating_sub(1));
            let plan = Plan::Acknowledge { device: hasher.device(&device), through };
            (plan, Class::Mailbox, 0, Body::Cursor(Cursor { name: user, device }))
        }
        Append::Acknowledge { class, name, device, through } => {
            // The highest number is taken: it forgets a device.
            let through = through.min(Devices::FORGET.saturating_sub(1));
            let plan = Plan::Acknowledge { device: hasher.device(&device), through };
            (plan, class, 0, Body::Cursor(Cursor { name, device }))
        }
        Append::ForgetDevice { user, device } => {
            let plan = Plan::Acknowledge { device: hasher.device(&device), through: Devices::FORGET };
            (plan, Class::Mailbox, 0, Body::Cursor(Cursor { name: user, device }))
        }
        Append::Purge { class, name } => {
            (Plan::Position { keep: 0 }, class, 0, Body::Meta(Meta { name, ..Meta::default() }))
        }
    }
}

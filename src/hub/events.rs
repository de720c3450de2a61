//! Events for backends: who connected, who is subscribed where, which channels have subscribers, who is online.
//!
//! * An event is made only if some webhook wants its kind ([`EventKinds`]); otherwise it costs one test of a bit.
//! * The events of a turn leave together, in order. Events about one connection, about one channel having subscribers
//!   and about the state of one user are in order; between these there is no order but their times.
//! * Every `connected` has its `disconnected`, every `subscribed` its `unsubscribed`; `occupied` and `vacated` alternate
//!   for a channel; the states of a user differ from one event to the next. What cannot be told is counted
//!   ([`EventBatch::dropped`]), and a process that ends without notice says `started` when it begins anew.

mod emit;

use std::sync::atomic::AtomicU64;

use crate::base::ids::ConnKey;
use crate::base::permute::{ClientId, ClientIds};
use crate::hub::api_calls::glob;
use crate::hub::settings::EventQueueSettings;
use crate::limits;

/// What happened. The numbers stand in the log and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum EventKind {
    /// Of a version that is newer than this one.
    Unknown = 0,
    /// A connect command succeeded.
    Connected = 1,
    /// Such a connection is over.
    Disconnected = 2,
    /// A connection gets what is published in a channel.
    Subscribed = 3,
    /// It does not any more.
    Unsubscribed = 4,
    /// A channel got its first subscriber.
    Occupied = 5,
    /// A channel lost its last subscriber.
    Vacated = 6,
    /// A user is online.
    Online = 7,
    /// A user is away.
    Away = 8,
    /// A user is offline.
    Offline = 9,
    /// The process began: connections of the one before are over, whether or not that was told.
    Started = 14,
    /// Some events could not be kept.
    Overflow = 15,
}

impl EventKind {
    /// Those that a webhook may ask for.
    pub const ALL: [Self; 9] = [
        Self::Connected,
        Self::Disconnected,
        Self::Subscribed,
        Self::Unsubscribed,
        Self::Occupied,
        Self::Vacated,
        Self::Online,
        Self::Away,
        Self::Offline,
    ];

    /// As backends see it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Subscribed => "subscribed",
            Self::Unsubscribed => "unsubscribed",
            Self::Occupied => "occupied",
            Self::Vacated => "vacated",
            Self::Online => "online",
            Self::Away => "away",
            Self::Offline => "offline",
            Self::Started => "started",
            Self::Overflow => "overflow",
        }
    }

    /// True for events about single connections. They come in floods when many clients reconnect, and are the first to
    /// be dropped.
    #[must_use]
    pub fn is_of_connection(self) -> bool {
        matches!(self, Self::Connected | Self::Disconnected | Self::Subscribed | Self::Unsubscribed)
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventKinds(u16);

impl EventKinds {
    const USER: Self = Self(1 << 7 | 1 << 8 | 1 << 9);
    const CHANNEL: Self = Self(1 << 5 | 1 << 6);

    /// True if `kind` is wanted.
    #[must_use]
    pub fn has(self, kind: EventKind) -> bool {
        self.0 & 1 << kind as i32 != 0
    }

    /// True if both have some kind.
    #[must_use]
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// True if the state of users is wanted, which needs user presence.
    #[must_use]
    pub fn has_users(self) -> bool {
        self.meets(Self::USER)
    }

    /// All of both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<EventKind> for EventKinds {
    fn from_iter<I: IntoIterator<Item = EventKind>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |set, kind| set | 1 << kind as i32))
    }
}

/// Who ended a connection or a subscription. The numbers stand in the log and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum EndedBy {
    /// Nothing ended.
    Nobody = 0,
    /// The client, with a command or a close frame.
    Client = 1,
    /// The server, with a code.
    Server = 2,
    /// The connection broke.
    Network = 3,
    /// A subscription ended with its connection.
    Disconnect = 4,
}

impl EndedBy {
    /// As backends see it.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Nobody => None,
            Self::Client => Some("client"),
            Self::Server => Some("server"),
            Self::Network => Some("network"),
            Self::Disconnect => Some("disconnect"),
        }
    }
}

/// One event; also how it stands in the log (Protobuf: what is empty takes no room, later versions may add).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Event {
    /// What happened.
    #[prost(enumeration = "EventKind", tag = "1")]
    pub kind: i32,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "2")]
    pub at_ms: u64,
    /// User id, empty if anonymous or not about one.
    #[prost(string, tag = "3")]
    pub user: String,
    /// Upper half of the client id.
    #[prost(fixed64, tag = "4")]
    pub client_high: u64,
    /// Lower half of the client id.
    #[prost(fixed64, tag = "5")]
    pub client_low: u64,
    /// Channel, empty if not about one.
    #[prost(string, tag = "6")]
    pub channel: String,
    /// Who ended it.
    #[prost(enumeration = "EndedBy", tag = "7")]
    pub by: i32,
    /// Code of a disconnect or of an unsubscribe by the server.
    #[prost(uint32, tag = "8")]
    pub code: u32,
    /// Its reason.
    #[prost(string, tag = "9")]
    pub reason: String,
    /// How many events an overflow took.
    #[prost(uint64, tag = "10")]
    pub count: u64,
    /// Since when, in milliseconds since 1970.
    #[prost(uint64, tag = "11")]
    pub since_ms: u64,
}

impl Event {
    /// An event without any details.
    #[must_use]
    pub fn new(kind: EventKind, at_ms: u64) -> Self {
        Self { kind: kind as i32, at_ms, ..Self::default() }
    }

    /// Client id of the connection, if the event is about one.
    #[must_use]
    pub fn client(&self) -> Option<ClientId> {
        let bits = u128::from(self.client_high) << 64 | u128::from(self.client_low);
        (bits != 0).then(|| ClientId::from_bits(bits))
    }

    fn with_client(mut self, ids: &ClientIds, key: ConnKey) -> Self {
        let bits = ids.encode(key).bits();
        (self.client_high, self.client_low) = ((bits >> 64) as u64, bits as u64);
        self
    }
}

impl EventQueueSettings {
    /// True if an event belongs into the queue.
    #[must_use]
    pub fn wants(&self, event: &Event) -> bool {
        let matches = |patterns: &[String], name: &str| {
            patterns.is_empty() || patterns.iter().any(|pattern| glob(pattern.as_bytes(), name.as_bytes()))
        };
        let has_user = !matches!(event.kind(), EventKind::Occupied | EventKind::Vacated);
        self.kinds.has(event.kind())
            && (event.channel.is_empty() || matches(&self.channels, &event.channel))
            && (!has_user || matches(&self.users, &event.user))
    }
}

/// Events as one record of the log holds them.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EventRecord {
    /// Number of the first one. The numbers of a queue go up by one from event to event.
    #[prost(uint64, tag = "1")]
    pub first: u64,
    /// In order.
    #[prost(message, repeated, tag = "2")]
    pub events: Vec<Event>,
    /// The run of the process that wrote it, a random number. Numbers are compared within a run only: where the newest
    /// record is lost or has expired, the next run begins anew.
    #[prost(fixed64, tag = "3")]
    pub run: u64,
}

impl EventRecord {
    /// How it stands in the log.
    #[must_use]
    pub fn encode(&self) -> bytes::Bytes {
        prost::Message::encode_to_vec(self).into()
    }

    /// Reads it; `None` if it is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        <Self as prost::Message>::decode(bytes).ok()
    }

    /// Number of the event that follows it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }
}

/// Figures of one queue of events, from the store for the metrics. All count events.
#[derive(Debug, Default)]
pub struct QueueFigures {
    /// Gauge: waiting.
    pub pending: AtomicU64,
    /// Stored since the start.
    pub stored: AtomicU64,
    /// Dropped since the start, for want of room or because the log could not take them.
    pub dropped: AtomicU64,
    /// Number of the first event of this run; 0 while it is not known.
    pub begin: AtomicU64,
    /// Of the dropped ones those that had numbers already, which the courier has not come across yet.
    pub unstored: AtomicU64,
}

/// Events that leave a shard together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventBatch {
    /// In the order in which they happened.
    pub events: Vec<Event>,
    /// Events after these that found no room.
    pub dropped: u64,
}

impl EventBatch {
    /// True if there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.dropped == 0
    }

    /// Adds an event, or counts it if too many wait already.
    pub(crate) fn push(&mut self, event: Event) {
        if self.dropped > 0 || self.events.len() >= limits::EVENTS_WAITING {
            self.dropped += 1;
        } else {
            self.events.push(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn what_finds_no_room_is_counted_and_nothing_follows_it() {
        let mut batch = EventBatch::default();
        for at_ms in 0..limits::EVENTS_WAITING as u64 + 3 {
            batch.push(Event::new(EventKind::Connected, at_ms));
        }
        assert_eq!((batch.events.len(), batch.dropped), (limits::EVENTS_WAITING, 3));
        batch.events.clear();
        batch.push(Event::new(EventKind::Connected, 0));
        assert_eq!((batch.events.len(), batch.dropped), (0, 4), "a gap is where the count says");
    }

    #[test]
    fn kinds_are_told_apart() {
        for kind in EventKind::ALL {
            let set = EventKinds::from_iter([kind]);
            for other in EventKind::ALL {
                assert_eq!(set.has(other), kind == other);
            }
            assert_eq!(set.has_users(), kind >= EventKind::Online);
            assert!(set.meets(EventKinds::default().union(set)));
            let is_of_channel = matches!(kind, EventKind::Occupied | EventKind::Vacated);
            assert_eq!(set.meets(EventKinds::CHANNEL), is_of_channel);
        }
    }

    #[test]
    fn filters_are_for_what_an_event_is_about() {
        let wants = |channels: &[&str], users: &[&str], kind: EventKind, channel: &str, user: &str| {
            let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            let kinds = EventKinds::from_iter(EventKind::ALL);
            let queue = EventQueueSettings {
                kinds,
                channels: list(channels),
                users: list(users),
                ..EventQueueSettings::default()
            };
            queue.wants(&Event { channel: channel.into(), user: user.into(), ..Event::new(kind, 1) })
        };
        assert!(wants(&[], &[], EventKind::Subscribed, "a", ""));
        assert!(wants(&["x", "chat:*"], &[], EventKind::Subscribed, "chat:1", "u"));
        assert!(!wants(&["chat:*"], &[], EventKind::Vacated, "news", ""));
        assert!(wants(&["chat:*"], &[], EventKind::Connected, "", "u"), "not about a channel");
        assert!(!wants(&["chat:*"], &["v*"], EventKind::Subscribed, "chat:1", "u"));
        assert!(wants(&[], &["v*"], EventKind::Occupied, "chat:1", ""), "not about a user");
        assert!(!wants(&[], &["v*"], EventKind::Connected, "", ""), "nobody in particular");
    }

    #[test]
    fn an_event_is_small_in_the_log_and_keeps_its_client() {
        let ids = ClientIds::new([1; 16]);
        let key = ConnKey { shard: crate::base::ids::ShardId(3), slot: 5, generation: 7 };
        let event =
            Event { user: "user-123456".into(), ..Event::new(EventKind::Connected, 1_790_000_000_000) };
        let event = event.with_client(&ids, key);
        let bytes = event.encode_to_vec();
        assert_eq!(bytes.len(), 40);
        let read = Event::decode(&*bytes).unwrap();
        assert_eq!(read, event);
        assert_eq!(read.client(), Some(ids.encode(key)));
        assert_eq!(Event::new(EventKind::Started, 0).client(), None);
    }
}

//! Events that are delivered together, and how they look on the way.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};

use super::source::{Place, StoredEvents};
use crate::hub::events::{Event, EventKind};

/// Consecutive records of one queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    records: VecDeque<StoredEvents>,
    events: usize,
    run: u64,
    first: u64,
    end: u64,
    through: Place,
}

impl Batch {
    pub(super) fn new(record: StoredEvents) -> Self {
        let mut batch = Self {
            records: VecDeque::new(),
            events: 0,
            run: record.record.run,
            first: record.record.first,
            end: 0,
            through: Place::default(),
        };
        batch.push(record);
        batch
    }

    /// True if a record may be added: it follows at once, and there is room.
    pub(super) fn takes(&self, next: &StoredEvents, max_events: usize) -> bool {
        next.place.epoch == self.through.epoch
            && next.record.run == self.run
            && next.record.first == self.end
            && self.events + next.record.events.len() <= max_events
    }

    pub(super) fn push(&mut self, record: StoredEvents) {
        self.events += record.record.events.len();
        (self.end, self.through) = (record.record.end(), record.place);
        self.records.push_back(record);
    }

    /// Leaves out what has expired at `now`, in Unix seconds. Returns how many events that were.
    pub(super) fn expire(&mut self, now: u64) -> usize {
        let before = self.events;
        let expired = |of: &mut StoredEvents| of.expires_at != 0 && u64::from(of.expires_at) <= now;
        while let Some(gone) = self.records.pop_front_if(expired) {
            self.events -= gone.record.events.len();
            self.first = gone.record.end();
        }
        before - self.events
    }

    /// Events.
    pub(super) fn len(&self) -> usize {
        self.events
    }

    /// True if nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Number of the first event.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Number of the event after the last.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The last record.
    pub(super) fn through(&self) -> Place {
        self.through
    }

    /// The run of the process that its numbers belong to.
    pub(super) fn run(&self) -> u64 {
        self.run
    }

    /// The same as backends see it.
    pub(super) fn epoch(&self) -> String {
        format!("{:016x}", self.run)
    }

    /// Names the batch; the same events have the same name, so that one that comes twice is told.
    pub(super) fn id(&self) -> String {
        format!("{}-{}-{}", self.epoch(), self.first, self.end.saturating_sub(1))
    }

    /// The JSON that is posted. `expected` is the number that should have come first.
    pub(super) fn body(&self, webhook: &str, node: &str, expected: u64, now_ms: u64) -> Bytes {
        let missed = self.first.saturating_sub(expected);
        let envelope = Envelope {
            webhook,
            node,
            batch: &self.id(),
            epoch: &self.epoch(),
            events: Events { batch: self, missed, now_ms },
        };
        // Nothing in it can fail to be written.
        serde_json::to_vec(&envelope).unwrap_or_default().into()
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    webhook: &'a str,
    node: &'a str,
    batch: &'a str,
    epoch: &'a str,
    events: Events<'a>,
}

struct Events<'a> {
    batch: &'a Batch,
    missed: u64,
    now_ms: u64,
}

impl Serialize for Events<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        if self.missed > 0 {
            list.serialize_element(&Missed {
                id: self.batch.first - 1,
                kind: "missed",
                at: self.now_ms,
                count: self.missed,
            })?;
        }
        for stored in &self.batch.records {
            for (id, event) in (stored.record.first..).zip(&stored.record.events) {
                list.serialize_element(&Numbered { id, event })?;
            }
        }
        list.end()
    }
}

/// Stands for events that expired or were refused: those up to its own number that did not come before.
#[derive(Serialize)]
struct Missed {
    id: u64,
    #[serde(rename = "type")]
    kind: &'static str,
    at: u64,
    count: u64,
}

struct Numbered<'a> {
    id: u64,
    event: &'a Event,
}

impl Serialize for Numbered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.event;
        let kind = event.kind();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("type", kind.name())?;
        map.serialize_entry("at", &event.at_ms)?;
        if matches!(kind, EventKind::Online | EventKind::Away | EventKind::Offline) || kind.is_of_connection()
        {
            map.serialize_entry("user", &event.user)?;
        }
        if let Some(client) = event.client() {
            map.serialize_entry("client", client.as_str())?;
        }
        if !event.channel.is_empty() {
            map.serialize_entry("channel", &event.channel)?;
        }
        if let Some(by) = event.by().name() {
            map.serialize_entry("by", by)?;
        }
        if event.code != 0 {
            map.serialize_entry("code", &event.code)?;
        }
        if !event.reason.is_empty() {
            map.serialize_entry("reason", &event.reason)?;
        }
        if kind == EventKind::Overflow {
            map.serialize_entry("dropped", &event.count)?;
            map.serialize_entry("since", &event.since_ms)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::events::{EndedBy, EventRecord};

    fn stored(offset: u64, first: u64, expires_at: u32, events: Vec<Event>) -> StoredEvents {
        StoredEvents {
            place: Place { epoch: 5, offset },
            expires_at,
            record: EventRecord { first, events, run: 0xabc },
        }
    }

    fn some(count: usize) -> Vec<Event> {
        vec![Event::new(EventKind::Connected, 5); count]
    }

    #[test]
    fn the_body_says_all_there_is_to_say() {
        let disconnected = Event {
            user: "bob".into(),
            client_high: 0x0102_0304_0506_4708,
            client_low: 0x890a_0b0c_0d0e_0f10,
            by: EndedBy::Server as i32,
            code: 3012,
            reason: "no pong".into(),
            ..Event::new(EventKind::Disconnected, 1_790_000_000_123)
        };
        let vacated = Event { channel: "a\"b".into(), ..Event::new(EventKind::Vacated, 7) };
        let overflow = Event { count: 12, since_ms: 3, ..Event::new(EventKind::Overflow, 8) };
        let started = Event::new(EventKind::Started, 9);
        let batch = Batch::new(stored(4, 41, 0, vec![disconnected, vacated, overflow, started]));
        let body = batch.body("hook", "node_1", 40, 6);
        let expected = concat!(
            r#"{"webhook":"hook","node":"node_1","batch":"0000000000000abc-41-44","epoch":"0000000000000abc","events":["#,
            r#"{"id":40,"type":"missed","at":6,"count":1},"#,
            r#"{"id":41,"type":"disconnected","at":1790000000123,"user":"bob","#,
            r#""client":"01020304-0506-4708-890a-0b0c0d0e0f10","by":"server","code":3012,"reason":"no pong"},"#,
            r#"{"id":42,"type":"vacated","at":7,"channel":"a\"b"},"#,
            r#"{"id":43,"type":"overflow","at":8,"dropped":12,"since":3},"#,
            r#"{"id":44,"type":"started","at":9}]}"#,
        );
        assert_eq!(std::str::from_utf8(&body).unwrap(), expected);
    }

    #[test]
    fn only_what_follows_at_once_joins_a_batch() {
        let batch = Batch::new(stored(1, 10, 0, some(3)));
        assert!(batch.takes(&stored(2, 13, 0, some(2)), 5));
        assert!(!batch.takes(&stored(2, 13, 0, some(3)), 5), "no room");
        assert!(!batch.takes(&stored(2, 14, 0, some(1)), 5), "one is missing");
        let mut other = stored(2, 13, 0, some(1));
        other.place.epoch = 1;
        assert!(!batch.takes(&other, 5), "another stream");
        let mut other = stored(2, 13, 0, some(1));
        other.record.run = 1;
        assert!(!batch.takes(&other, 5), "another run");
    }

    #[test]
    fn expired_records_leave_from_the_front() {
        let mut batch = Batch::new(stored(1, 10, 100, some(3)));
        batch.push(stored(2, 13, 200, some(2)));
        batch.push(stored(3, 15, 0, some(1)));
        assert_eq!((batch.expire(99), batch.id().as_str()), (0, "0000000000000abc-10-15"));
        assert_eq!((batch.expire(100), batch.id().as_str()), (3, "0000000000000abc-13-15"));
        assert_eq!((batch.expire(5000), batch.len(), batch.first(), batch.end()), (2, 1, 15, 16));
        let mut last = Batch::new(stored(1, 10, 100, some(3)));
        assert_eq!((last.expire(100), last.is_empty(), last.end()), (3, true, 13));
    }
}

//! Queues of events for backends: gathers what shards report, packs it into records, and keeps within bounds.
//!
//! * Events are gathered for a tick at most and packed into records of many, so that a storm of clients costs the log one
//!   record per [`RECORD_EVENTS`] events. What is gathered when the process is killed is lost, like what the shards had
//!   not told yet: that is what the event `started` of the next run stands for.
//! * A queue holds [`max_pending`](EventQueueSettings::max_pending) events in the log and [`GATHERED`] in memory. Beyond
//!   that they are dropped and counted, and an event `overflow` says how many once there is room again.
//! * Events about connections are dropped first; the others have twice the room.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::archive::Archive;
use super::office::{Office, Pending};
use crate::base::tick::{Now, Tick};
use crate::hub::events::{Event, EventBatch, EventKind, EventRecord, QueueFigures};
use crate::hub::settings::EventQueueSettings;
use crate::hub::store::DeliveredAsk;
use crate::log::body::{Body, Event as Stored};
use crate::log::record::Class;
use crate::log::request::Append;

/// Events in one record at most: about 10 kB, so that the 90 bytes of a record's header and frame do not count.
const RECORD_EVENTS: usize = 256;

/// Events of one queue that wait in memory while the log does not take them: a few megabytes.
const GATHERED: usize = 16_384;

/// Records of one queue on their way to the log; more would only wait there, in the way of messages.
const ON_THE_WAY: usize = 64;

/// Once a queue was full, events about connections are taken again when so much of it (one part in so many) is free: an
/// overflow is reported for a flood, not for every event of it.
const ROOM_AGAIN: u64 = 8;

/// One queue.
#[derive(Debug)]
struct Queue {
    settings: EventQueueSettings,
    figures: Arc<QueueFigures>,
    gathered: Vec<Event>,
    /// When they are packed at the latest.
    due: Tick,
    /// Number of the next event to be packed.
    next: u64,
    /// Number of the first one that its backend has not taken.
    delivered: u64,
    on_the_way: usize,
    /// What found no room, and since when (milliseconds since 1970).
    overflow: Option<(u64, u64)>,
    /// A record up to which everything is done with, to be noted in the log.
    done: Option<u64>,
}

/// All queues.
#[derive(Debug, Default)]
pub(super) struct EventQueues {
    queues: Vec<Queue>,
    run: u64,
}

impl Queue {
    fn pending(&self) -> u64 {
        self.next.saturating_sub(self.delivered) + self.gathered.len() as u64
    }

    fn offer(&mut self, event: Event, now: Now) {
        let is_of_connection = event.kind().is_of_connection();
        let has_room = if is_of_connection {
            self.overflow.is_none() && self.pending() < self.settings.max_pending
        } else {
            self.pending() < self.settings.max_pending.saturating_mul(2)
        };
        if has_room && self.gathered.len() < GATHERED {
            self.gather(event, now);
        } else {
            self.drop(1, event.at_ms);
        }
    }

    fn gather(&mut self, event: Event, now: Now) {
        if self.gathered.is_empty() {
            self.due = now.tick.after(1);
        }
        self.gathered.push(event);
    }

    fn drop(&mut self, count: u64, since_ms: u64) {
        self.overflow.get_or_insert((0, since_ms)).0 += count;
        self.figures.dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// Says how much was dropped once there is room again.
    fn recover(&mut self, now: Now) {
        let max = self.settings.max_pending;
        let has_room = self.pending() <= max - max / ROOM_AGAIN && self.gathered.len() < GATHERED / 2;
        if has_room {
            self.say_overflow(now);
        }
    }

    fn say_overflow(&mut self, now: Now) {
        if let Some((count, since_ms)) = self.overflow.take() {
            let event = Event { count, since_ms, ..Event::new(EventKind::Overflow, now.unix_ms) };
            self.gather(event, now);
        }
    }

    /// The next record, if one is due.
    fn pack(&mut self, run: u64, now: Now) -> Option<(Append, usize)> {
        let most = record_events(self.settings.batch_max_events);
        let is_due = self.due <= now.tick && !self.gathered.is_empty();
        if self.on_the_way >= ON_THE_WAY || (self.gathered.len() < most && !is_due) {
            return None;
        }
        let events: Vec<Event> = self.gathered.drain(..most.min(self.gathered.len())).collect();
        if self.gathered.is_empty() && self.gathered.capacity() > RECORD_EVENTS {
            self.gathered = Vec::new();
        }
        let count = events.len();
        let record = EventRecord { first: self.next, events, run };
        self.next = record.end();
        self.on_the_way += 1;
        let expires = now.unix_seconds().saturating_add(self.settings.ttl.as_secs());
        let event = Stored { queue: self.settings.name.clone(), data: record.encode() };
        Some((Append::Event { event, expires_at: u32::try_from(expires).unwrap_or(u32::MAX) }, count))
    }

    fn show(&self) {
        self.figures.pending.store(self.pending(), Ordering::Relaxed);
    }
}

impl EventQueues {
    /// When something gathered is to be packed.
    pub(super) fn wake_at(&self) -> Option<Tick> {
        let waiting = self.queues.iter().filter(|queue| !queue.gathered.is_empty());
        waiting.filter(|queue| queue.on_the_way < ON_THE_WAY).map(|queue| queue.due).min()
    }

    /// Nothing waits for time any more, nor for room: this run must say itself what it has dropped.
    pub(super) fn hasten(&mut self, now: Now) {
        for queue in &mut self.queues {
            queue.say_overflow(now);
            queue.due = now.tick;
        }
    }

    /// True if everything has been given to the log.
    pub(super) fn is_idle(&self) -> bool {
        self.queues.iter().all(|queue| queue.gathered.is_empty() && queue.done.is_none())
    }

    /// The log has a record, or (false) will not have it.
    pub(super) fn stored(&mut self, index: usize, count: usize, is_stored: bool) {
        let Some(queue) = self.queues.get_mut(index) else { return };
        queue.on_the_way -= 1;
        let count = count as u64;
        if is_stored {
            queue.figures.stored.fetch_add(count, Ordering::Relaxed);
        } else {
            // Their numbers are missing, which the backend is told; they take no room.
            queue.figures.dropped.fetch_add(count, Ordering::Relaxed);
            queue.figures.unstored.fetch_add(count, Ordering::Relaxed);
            queue.delivered = queue.delivered.saturating_add(count).min(queue.next);
        }
        queue.show();
    }
}

impl<A: Archive> Office<A> {
    /// Keeps these queues; each goes on where the log says that it stands, with the first event of this run.
    #[must_use]
    pub fn with_events(mut self, queues: Vec<(EventQueueSettings, Arc<QueueFigures>)>, now: Now) -> Self {
        let seconds = u32::try_from(now.unix_seconds()).unwrap_or(u32::MAX);
        let queues = queues.into_iter().map(|(settings, figures)| {
            let (delivered, next) = self.bounds_of(&settings.name, seconds).unwrap_or((1, 1));
            figures.begin.store(next, Ordering::Relaxed);
            Queue {
                settings,
                figures,
                gathered: vec![Event::new(EventKind::Started, now.unix_ms)],
                due: now.tick,
                next,
                delivered,
                on_the_way: 0,
                overflow: None,
                done: None,
            }
        });
        let queues = queues.collect();
        self.events = EventQueues { queues, run: self.rng.next_u64() };
        self
    }

    /// Numbers of the first event that waits and of the one after the last. `None` if nothing can be read. What has
    /// expired takes no room, but has its numbers: so the backend is told that it missed something.
    fn bounds_of(&self, queue: &str, now: u32) -> Option<(u64, u64)> {
        let info = self.archive.info(Class::Webhook, queue, "")?;
        let record = |after, now| {
            let mut budget = usize::MAX;
            let leaf = self.archive.page((Class::Webhook, queue), after, 1, now, &mut budget).ok()??;
            leaf.messages.into_iter().find_map(|stored| record_of(&stored.body))
        };
        // At the beginning of time nothing has expired.
        let end = record(info.state.last_offset.saturating_sub(1), 0)?.end();
        let waits = info.cursor < info.state.last_offset;
        let first = waits.then(|| record(info.cursor, now)).flatten().map_or(end, |record| record.first);
        Some((first.min(end), end))
    }

    /// Takes in what a shard reports.
    pub(super) fn take_events(&mut self, batch: &EventBatch, now: Now) {
        for queue in &mut self.events.queues {
            for event in &batch.events {
                if queue.settings.wants(event) {
                    queue.offer(event.clone(), now);
                }
            }
            if batch.dropped > 0 {
                queue.drop(batch.dropped, now.unix_ms);
            }
            queue.show();
        }
    }

    /// A backend has taken events.
    pub(super) fn delivered(&mut self, ask: &DeliveredAsk) {
        let info = self.archive.info(Class::Webhook, &ask.queue, "");
        let Some(info) = info.filter(|info| info.state.epoch == ask.epoch) else { return };
        let mut queues = self.events.queues.iter_mut();
        let Some(queue) = queues.find(|queue| *queue.settings.name == *ask.queue) else { return };
        let is_all = ask.through >= info.state.last_offset && queue.on_the_way == 0;
        let known = ask.next.or(is_all.then_some(queue.next));
        queue.delivered = queue.delivered.max(known.unwrap_or(0)).min(queue.next);
        queue.done = Some(queue.done.unwrap_or(0).max(ask.through));
        queue.show();
    }

    /// Gives the log what is due, unless others wait for room there.
    pub(super) fn flush_events(&mut self, now: Now) {
        for index in 0..self.events.queues.len() {
            while !self.has_backlog() {
                let run = self.events.run;
                let Some(queue) = self.events.queues.get_mut(index) else { return };
                queue.recover(now);
                if let Some(through) = queue.done.take() {
                    let name = queue.settings.name.clone();
                    let (class, device) = (Class::Webhook, String::new());
                    let append = Append::Acknowledge { class, name, device, through };
                    self.append(append, Pending::Nobody, now);
                } else if let Some((append, count)) = queue.pack(run, now) {
                    self.append(append, Pending::Events(index, count), now);
                } else {
                    break;
                }
            }
        }
    }
}

/// Events in one record: as many as fit a batch without a rest.
fn record_events(batch_max_events: usize) -> usize {
    let batch = batch_max_events.max(1);
    batch.div_ceil(batch.div_ceil(RECORD_EVENTS))
}

/// The events in a record.
#[must_use]
pub fn record_of(body: &Body) -> Option<EventRecord> {
    match body {
        Body::Event(stored) => EventRecord::decode(&stored.data),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::record_events;

    #[test]
    fn records_fill_a_batch() {
        let cases =
            [(0, 1), (1, 1), (255, 255), (256, 256), (300, 150), (500, 250), (1000, 250), (10_000, 250)];
        for (batch, expected) in cases {
            assert_eq!(record_events(batch), expected, "{batch}");
        }
    }
}

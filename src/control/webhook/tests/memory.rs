//! A queue of events in memory.

use std::sync::{Arc, Mutex};

use crate::control::webhook::source::{EventPages, EventSource, Place, StoredEvents, Unreadable};
use crate::hub::events::{Event, EventKind, EventRecord};

pub(super) const EPOCH: u32 = 7;

#[derive(Default)]
pub(super) struct Queue {
    pub(super) records: Vec<StoredEvents>,
    /// Offset of the last record that is acknowledged, and the number that was given with it.
    pub(super) acknowledged: (u64, Option<u64>),
    /// Records at or below it are left out, as if they had expired.
    pub(super) hidden: u64,
    /// How often an acknowledgement finds no room.
    pub(super) full: u32,
    pub(super) unreadable: u32,
    /// Pages that can be read before that.
    pub(super) readable: u32,
    next: u64,
}

/// Shared as the log is.
#[derive(Clone, Default)]
pub(super) struct Memory(pub(super) Arc<Mutex<Queue>>);

impl Memory {
    /// Adds a record of so many events.
    pub(super) fn add(&self, events: usize, expires_at: u32) {
        let mut queue = self.0.lock().unwrap();
        let first = queue.next.max(1);
        queue.next = first + events as u64;
        let events =
            (0..events).map(|_| Event { user: "u".into(), ..Event::new(EventKind::Connected, 1) }).collect();
        let place = Place { epoch: EPOCH, offset: queue.records.len() as u64 + 1 };
        queue.records.push(StoredEvents { place, expires_at, record: EventRecord { first, events, run: 7 } });
    }

    /// Numbers of events that the log did not take.
    pub(super) fn skip(&self, events: u64) {
        let mut queue = self.0.lock().unwrap();
        queue.next = queue.next.max(1) + events;
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.0.lock().unwrap().acknowledged.0
    }

    pub(super) fn is_done(&self) -> bool {
        let queue = self.0.lock().unwrap();
        queue.acknowledged.0 == queue.records.len() as u64
    }
}

impl EventSource for Memory {
    fn open(&self, _: &str, after: Option<Place>) -> Option<Box<dyn EventPages>> {
        let queue = self.0.lock().unwrap();
        let after = after.filter(|place| place.epoch == EPOCH).map_or(queue.acknowledged.0, |of| of.offset);
        let end = queue.records.len() as u64;
        let from = after.max(queue.hidden);
        let left = queue.records.iter().filter(|of| of.place.offset > from).cloned().collect();
        (end > after).then(|| -> Box<dyn EventPages> { Box::new(Pages { left, end, memory: self.clone() }) })
    }

    fn first_waiting(&self, _: &str) -> Option<u64> {
        let queue = self.0.lock().unwrap();
        queue.records.iter().find(|of| of.place.offset > queue.acknowledged.0).map(|of| of.record.first)
    }

    fn number_after(&self, _: &str, place: Place) -> Option<u64> {
        let queue = self.0.lock().unwrap();
        queue.records.iter().find(|of| of.place == place).map(|of| of.record.end())
    }

    fn acknowledge(&self, _: &str, through: Place, next: Option<u64>) -> bool {
        let mut queue = self.0.lock().unwrap();
        assert!(through.offset >= queue.acknowledged.0, "cursors only go forward");
        if queue.full > 0 {
            queue.full -= 1;
            return false;
        }
        queue.acknowledged = (through.offset, next);
        true
    }
}

struct Pages {
    left: Vec<StoredEvents>,
    end: u64,
    memory: Memory,
}

impl EventPages for Pages {
    fn next(&mut self) -> Result<Vec<StoredEvents>, Unreadable> {
        let mut queue = self.memory.0.lock().unwrap();
        if queue.unreadable > 0 && queue.readable == 0 {
            queue.unreadable -= 1;
            return Err(Unreadable);
        }
        queue.readable = queue.readable.saturating_sub(1);
        let page = self.left.len().min(3);
        Ok(self.left.drain(..page).collect())
    }

    fn end(&self) -> Place {
        Place { epoch: EPOCH, offset: self.end }
    }
}

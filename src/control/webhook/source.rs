//! Where events come from: the log, behind a seam, as the control plane knows no storage.

use crate::hub::events::EventRecord;

/// A place in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Incarnation of the queue.
    pub epoch: u32,
    /// Record.
    pub offset: u64,
}

/// A record of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvents {
    /// Where it stands.
    pub place: Place,
    /// Seconds since 1970 from which on it is not delivered, 0 = never.
    pub expires_at: u32,
    /// What it holds.
    pub record: EventRecord,
}

/// The log could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log cannot be read")]
pub struct Unreadable;

/// Reads queues of events and moves their cursors.
pub trait EventSource: Send + Sync {
    /// What waits in a queue now, after `after` if that is a place in it, else after its acknowledged cursor. Waits for
    /// the disk. `None` if nothing waits.
    fn open(&self, queue: &str, after: Option<Place>) -> Option<Box<dyn EventPages>>;

    /// Number of the first event after the acknowledged cursor, expired or not. Waits for the disk. `None` if nothing is
    /// there, or it cannot be read.
    fn first_waiting(&self, queue: &str) -> Option<u64>;

    /// Number of the event after a record, expired or not. Waits for the disk. `None` if it cannot be read.
    fn number_after(&self, queue: &str, place: Place) -> Option<u64>;

    /// Everything up to a record is done with; `next` is the number of the event after it, where it is known. False if
    /// this could not be noted now: try again, or with a later record.
    fn acknowledge(&self, queue: &str, through: Place, next: Option<u64>) -> bool;
}

/// What waited in a queue when it was opened, oldest first.
pub trait EventPages: Send {
    /// Some more, empty at the end. What has expired or is damaged is left out. Waits for the disk.
    ///
    /// # Errors
    /// [`Unreadable`]
    fn next(&mut self) -> Result<Vec<StoredEvents>, Unreadable>;

    /// The last record that the queue had when it was opened, left out or not.
    fn end(&self) -> Place;
}

//! Reads durable records: by sequence, or the messages of a stream after an offset, page by page.
//!
//! A stream is a chain from its newest message back, so a replay first walks back over the headers to the place it
//! starts from and notes a waypoint every page; then each page is read in order. The memory is a few bytes a page, not
//! a message.

use std::sync::Arc;

use super::body::Body;
use super::error::ReadError;
use super::record::{Class, Kind, Sequence, StreamKey};
use super::segment::{Place, Segment};
use super::shared::{LogStatus, Shared};
use super::stream::{Devices, StreamState};

/// Reads the log; cheap to clone. Calls may wait for the disk: not for a shard's thread.
#[derive(Clone, Debug)]
pub struct Reader {
    shared: Arc<Shared>,
}

/// A record as it is delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Place in the log.
    pub sequence: Sequence,
    /// Place in its stream.
    pub offset: u64,
    /// Seconds since 1970 from which on it is not delivered, 0 = never.
    pub expires_at: u32,
    /// What it says.
    pub body: Body,
}

/// Where a stream stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Counters and position.
    pub state: StreamState,
    /// Cursors of its devices; empty if clients name none.
    pub devices: Devices,
    /// Hash of the device that was asked for has a cursor: everything up to here is acknowledged by it.
    pub cursor: u64,
}

/// A replay of one stream.
#[derive(Clone, Debug)]
pub struct Replay {
    shared: Arc<Shared>,
    key: StreamKey,
    class: Class,
    name: String,
    page: usize,
    now: u32,
    /// Newest first: the sequence of the newest message of each page still to come.
    waypoints: Vec<Sequence>,
    /// Everything at or below it has been delivered or was not asked for.
    after: u64,
    /// Epoch and position of the stream when the replay began.
    position: StreamState,
    skipped_expired: u64,
    skipped_damaged: u64,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Where a stream stands, and the cursor of a device (empty for clients that name none).
    #[must_use]
    pub fn info(&self, class: Class, name: &str, device: &str) -> Option<StreamInfo> {
        let stream = self.shared.index.stream(self.shared.hasher.stream(class, name))?;
        let own = stream.devices.get(self.shared.hasher.device(device));
        let cursor = own.unwrap_or(0).max(stream.state.floor());
        Some(StreamInfo { state: stream.state, devices: stream.devices, cursor })
    }

    /// Reads one record.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn record(&self, sequence: Sequence) -> Result<Stored, ReadError> {
        let segment = self.shared.segment_of(sequence).ok_or(ReadError::Gone(sequence))?;
        let place = segment.find(sequence)?;
        let body = segment.body(&place)?;
        Ok(Stored { sequence, offset: place.header.offset, expires_at: place.header.expires_at, body })
    }

    /// Begins a replay of the messages above `after` that have not expired at `now` (seconds since 1970), `page` at a
    /// time. `None` if there is no such stream.
    #[must_use]
    pub fn replay(&self, class: Class, name: &str, after: u64, page: usize, now: u32) -> Option<Replay> {
        let key = self.shared.hasher.stream(class, name);
        let position = self.shared.index.get(key)?;
        let mut replay = Replay {
            shared: Arc::clone(&self.shared),
            key,
            class,
            name: name.to_owned(),
            page: page.max(1),
            now,
            waypoints: Vec::new(),
            after: after.max(position.floor()),
            position,
            skipped_expired: 0,
            skipped_damaged: 0,
        };
        replay.survey();
        Some(replay)
    }

    /// Counters of the log.
    #[must_use]
    pub fn status(&self) -> LogStatus {
        self.shared.status.snapshot()
    }

    /// Number of streams, and bytes of memory that the index holds for them.
    #[must_use]
    pub fn index_size(&self) -> (usize, usize) {
        (self.shared.index.len(), self.shared.index.memory_bytes())
    }
}

impl Replay {
    /// The stream's position when the replay began.
    #[must_use]
    pub fn position(&self) -> &StreamState {
        &self.position
    }

    /// Messages left out because they had expired.
    #[must_use]
    pub fn skipped_expired(&self) -> u64 {
        self.skipped_expired
    }

    /// Messages left out because they are damaged: a gap to be reported.
    #[must_use]
    pub fn skipped_damaged(&self) -> u64 {
        self.skipped_damaged
    }

    /// The next page in order; empty at the end. Damaged messages are left out and counted.
    ///
    /// # Errors
    /// [`ReadError::Storage`] if the file system fails; the page may be asked for again.
    pub fn next_page(&mut self) -> Result<Vec<Stored>, ReadError> {
        while let Some(&newest) = self.waypoints.last() {
            let places = self.page_places(newest);
            let mut page = Vec::with_capacity(places.len());
            let (mut expired, mut damaged) = (0_u64, 0_u64);
            for (segment, place) in places.iter().rev() {
                if place.header.has_expired(self.now) {
                    expired = expired.saturating_add(1);
                    continue;
                }
                match segment.body(place) {
                    Ok(body) if self.is_mine(&body) => page.push(Stored {
                        sequence: place.header.sequence,
                        offset: place.header.offset,
                        expires_at: place.header.expires_at,
                        body,
                    }),
                    Ok(_) => {}
                    Err(ReadError::Storage(error)) => return Err(ReadError::Storage(error)),
                    Err(_) => damaged = damaged.saturating_add(1),
                }
            }
            self.waypoints.pop();
            if let Some((_, newest)) = places.first() {
                self.after = newest.header.offset;
            }
            self.count(expired, damaged);
            if !page.is_empty() {
                return Ok(page);
            }
        }
        Ok(Vec::new())
    }

    /// Walks back once and notes where the pages begin.
    fn survey(&mut self) {
        let mut at = self.position.head;
        let mut in_page = 0_usize;
        let mut waypoints = Vec::new();
        while let Some((_, place)) = self.link(at) {
            at = Sequence(place.header.previous);
            if !place.header.kind.is_message() {
                continue;
            }
            if in_page == 0 {
                waypoints.push(place.header.sequence);
            }
            in_page = in_page.saturating_add(1);
            if in_page == self.page {
                in_page = 0;
            }
        }
        self.waypoints = waypoints;
    }

    /// The messages of the page whose newest is `newest`, newest first.
    fn page_places(&self, newest: Sequence) -> Vec<(Arc<Segment>, Place)> {
        let mut places = Vec::new();
        let mut at = newest;
        while places.len() < self.page
            && let Some((segment, place)) = self.link(at)
        {
            at = Sequence(place.header.previous);
            if place.header.kind.is_message() {
                places.push((segment, place));
            }
        }
        places
    }

    /// The link of the chain at a sequence, or the newest one below it if it is damaged; `None` at the end.
    fn link(&self, at: Sequence) -> Option<(Arc<Segment>, Place)> {
        if at == Sequence(0) {
            return None;
        }
        let segment = self.shared.segment_of(at)?;
        let place = segment.find(at).ok().filter(|place| place.header.key == self.key);
        let place = place.filter(|place| place.header.epoch == self.position.epoch)?;
        let wanted = if place.header.kind == Kind::Meta { place.header.previous != 0 } else { true };
        (wanted && place.header.offset > self.after).then_some((segment, place))
    }

    fn is_mine(&self, body: &Body) -> bool {
        // Two names that share a key of 88 bits share a chain; nobody is shown the other's messages.
        super::body::class_of(body.kind()) == Some(self.class) && body.name() == self.name
    }

    fn count(&mut self, expired: u64, damaged: u64) {
        self.skipped_expired = self.skipped_expired.saturating_add(expired);
        self.skipped_damaged = self.skipped_damaged.saturating_add(damaged);
        self.shared.status.skipped(expired, damaged);
    }
}

//! Reads durable records: by sequence, or the messages of a stream after an offset, page by page.
//!
//! A stream is a chain from its newest message back, so a replay first walks back over the headers to the place it
//! starts from and notes a waypoint every page; then each page is read in order. The memory is a few bytes a page, not
//! a message.

use std::sync::Arc;

use super::body::{Body, Message};
use super::chain::Chain;
use super::error::ReadError;
use super::notice::Notice;
use super::place::mailbox_epoch;
use super::record::{Class, Kind, Sequence};
use super::segment::{Place, Segment};
use super::shared::{LogStatus, Shared};
use super::stream::{Devices, StreamState, is_same_incarnation};

/// Reads the log; cheap to clone. Calls may wait for the disk: not for a shard's thread.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(super) shared: Arc<Shared>,
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

/// A message of a mailbox, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Place in the mailbox.
    pub offset: u64,
    /// Incarnation of the mailbox.
    pub epoch: u32,
    /// The message.
    pub message: Message,
}

/// Where a stream stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Counters and position.
    pub state: StreamState,
    /// Cursors of its devices; empty if clients name none.
    pub devices: Devices,
    /// Everything up to here is acknowledged by the device that was asked for: replay after it.
    pub cursor: u64,
    /// The device has a cursor of its own.
    pub known: bool,
}

/// A replay of one stream.
#[derive(Clone, Debug)]
pub struct Replay {
    shared: Arc<Shared>,
    chain: Chain,
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
    /// The first page to deliver, as the walk back left it: most replays have no other.
    first: Vec<(Arc<Segment>, Place)>,
    /// The waypoint of the page that was delivered last, and what was delivered before it.
    last: Option<(Sequence, u64)>,
    /// The walk back, until it has come to the place where the replay begins.
    survey: Option<Survey>,
}

/// How far the walk back has come.
#[derive(Clone, Copy, Debug)]
struct Survey {
    /// The next link.
    at: Sequence,
    /// Everything from this offset on was seen, or is known to be missing.
    below: u64,
    /// Messages since the last waypoint.
    in_page: usize,
    missing: u64,
    expired: u64,
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
        let known = own.is_some();
        Some(StreamInfo { state: stream.state, devices: stream.devices, cursor, known })
    }

    /// The epoch of the mailbox that a user gets with a message at `now` (seconds since 1970), if there is none yet.
    #[must_use]
    pub fn epoch_to_come(&self, user: &str, now: u32) -> u32 {
        let key = self.shared.hasher.stream(Class::Mailbox, user);
        mailbox_epoch(self.shared.lineage, key, now, self.shared.state_ttl)
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

    /// The newest record of a stream's chain: its body names the newest version of a channel, whether it is a
    /// publication, a meta record, or the stub of one that has been compacted.
    ///
    /// # Errors
    /// See [`ReadError`]; `None` if there is no such stream or it holds no link.
    pub fn head(&self, class: Class, name: &str) -> Result<Option<Stored>, ReadError> {
        let state = self.shared.index.get(self.shared.hasher.stream(class, name));
        let Some(state) = state.filter(|state| state.head != Sequence(0)) else { return Ok(None) };
        Ok(Some(self.record(state.head)?).filter(|stored| stored.body.name() == name))
    }

    /// The newest messages of a mailbox that were written from `since` (seconds
    /// since 1970) on, newest first, at most `most`: also those that are done with, as far as they are still there.
    ///
    /// # Errors
    /// [`ReadError::Storage`] if the file system fails; what is damaged ends the list.
    pub fn newest(&self, user: &str, since: u32, most: usize) -> Result<Vec<Placed>, ReadError> {
        let key = self.shared.hasher.stream(Class::Mailbox, user);
        let (mut newest, Some(state)) = (Vec::new(), self.shared.index.get(key)) else {
            return Ok(Vec::new());
        };
        let mut at = state.head;
        while newest.len() < most && at != Sequence(0) {
            let Some(segment) = self.shared.segment_of(at) else { break };
            let place = match segment.find(at) {
                Ok(place) => place,
                Err(error @ ReadError::Storage(_)) => return Err(error),
                Err(_) => break,
            };
            let header = &place.header;
            if header.key != key
                || !is_same_incarnation(header.epoch, state.epoch)
                || header.written_at < since
            {
                break;
            }
            if header.kind == Kind::Message {
                match segment.body(&place) {
                    Ok(Body::Message(message)) if message.user == user => {
                        newest.push(Placed { offset: header.offset, epoch: state.epoch, message });
                    }
                    Ok(_) => break,
                    Err(error @ ReadError::Storage(_)) => return Err(error),
                    Err(_) => {}
                }
            }
            at = Sequence(header.previous);
        }
        Ok(newest)
    }

    /// Begins a replay of the messages above `after` that have not expired at `now` (seconds since 1970), `page` at a
    /// time. `None` if there is no such stream.
    #[must_use]
    pub fn replay(&self, class: Class, name: &str, after: u64, page: usize, now: u32) -> Option<Replay> {
        let mut replay = self.begin_replay(class, name, after, page, now)?;
        let mut budget = usize::MAX;
        replay.survey(&mut budget);
        Some(replay)
    }

    /// The same without the walk back: it has no page before [`Replay::survey`] is done.
    pub(super) fn begin_replay(
        &self,
        class: Class,
        name: &str,
        after: u64,
        page: usize,
        now: u32,
    ) -> Option<Replay> {
        let key = self.shared.hasher.stream(class, name);
        let position = self.shared.index.get(key)?;
        let mut replay = Replay {
            shared: Arc::clone(&self.shared),
            chain: Chain::new(Arc::clone(&self.shared), key, position.epoch),
            class,
            name: name.to_owned(),
            page: page.max(1),
            now,
            waypoints: Vec::new(),
            after: after.max(position.floor()),
            position,
            skipped_expired: 0,
            skipped_damaged: 0,
            first: Vec::new(),
            last: None,
            survey: Some(Survey {
                at: position.head,
                below: position.last_offset.saturating_add(1),
                in_page: 0,
                missing: 0,
                expired: 0,
            }),
        };
        if position.pending_at(now) == 0 {
            replay.after = position.last_offset;
            replay.count(u64::from(position.pending), 0);
        }
        Some(replay)
    }

    /// Counters of the log.
    #[must_use]
    pub fn status(&self) -> LogStatus {
        self.shared.status.snapshot()
    }

    /// What happened since the last time this was asked for, and how much more that was too much to keep.
    #[must_use]
    pub fn take_notices(&self) -> (Vec<Notice>, u64) {
        self.shared.status.notices.take()
    }

    pub(super) fn note_maintenance_fault(&self) {
        self.shared.status.maintenance_failed();
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

    /// True if no page is left.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.waypoints.is_empty() && self.survey.is_none()
    }

    /// Goes on behind `after` at a later time, without walking back again: where the last page ended, began, or between.
    /// False if that cannot be, and then the replay is of no more use.
    #[must_use]
    pub fn resume(&mut self, after: u64, now: u32) -> bool {
        let state = self.shared.index.get(self.chain.key());
        let Some(state) = state.filter(|state| state.epoch == self.position.epoch) else { return false };
        self.now = now;
        let after = after.max(state.floor());
        if after == self.after {
            return true;
        }
        if let Some(survey) = &self.survey {
            // It may end earlier than it was to.
            let is_ahead = (self.after..survey.below).contains(&after);
            self.after = if is_ahead { after } else { self.after };
            return is_ahead;
        }
        match self.last {
            Some((newest, before)) if (before..self.after).contains(&after) => {
                self.waypoints.push(newest);
                self.first.clear();
                self.after = after;
                true
            }
            _ => false,
        }
    }

    /// True if this is a replay of that stream, with pages of that length.
    pub(super) fn is_of(&self, class: Class, name: &str, page: usize) -> bool {
        self.class == class && self.page == page && self.name == name
    }

    /// True if the stream has grown since the replay began.
    pub(super) fn is_outgrown(&self) -> bool {
        let state = self.shared.index.get(self.chain.key());
        state.is_some_and(|state| state.last_offset > self.position.last_offset)
    }

    /// The next page in order; empty at the end. Damaged messages are left out and counted.
    ///
    /// # Errors
    /// [`ReadError::Storage`] if the file system fails; the page may be asked for again.
    pub fn next_page(&mut self) -> Result<Vec<Stored>, ReadError> {
        while let Some(&newest) = self.waypoints.last() {
            let places = if self.first.is_empty() { self.page_places(newest) } else { self.first.clone() };
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
            self.first.clear();
            self.last = Some((newest, self.after));
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

    /// Walks back once and notes where the pages begin. False if `budget` links were looked at and the walk is to go on;
    /// `budget` is what is left of it afterwards.
    pub(super) fn survey(&mut self, budget: &mut usize) -> bool {
        let Some(mut survey) = self.survey.take() else { return true };
        while survey.below > self.after.saturating_add(1) {
            let Some(left) = budget.checked_sub(1) else {
                self.survey = Some(survey);
                return false;
            };
            *budget = left;
            if !self.survey_link(&mut survey) {
                break;
            }
        }
        self.count(survey.expired, survey.missing);
        true
    }

    /// One link further. False at the end of the way.
    fn survey_link(&mut self, survey: &mut Survey) -> bool {
        let Survey { at, below, in_page, missing, expired } = survey;
        let Some((segment, place)) = self.chain.link(*at) else {
            *missing = missing.saturating_add(below.saturating_sub(self.after).saturating_sub(1));
            return false;
        };
        let offset = place.header.offset;
        if *at != place.header.sequence {
            *missing = missing.saturating_add(below.saturating_sub(offset).saturating_sub(1));
        }
        *at = Sequence(place.header.previous);
        if !place.header.kind.is_message() {
            // A stub stands for a message that had expired when it was compacted.
            let is_stub = place.header.kind == Kind::Stub && offset > self.after;
            *expired = expired.saturating_add(u64::from(is_stub));
            *below = (*below).min(offset.saturating_add(u64::from(!is_stub)));
            return true;
        }
        *below = offset;
        if offset <= self.after {
            return false;
        }
        if *in_page == 0 {
            self.waypoints.push(place.header.sequence);
            self.first.clear();
        }
        self.first.push((segment, place));
        *in_page = in_page.saturating_add(1).checked_rem(self.page).unwrap_or(0);
        true
    }

    /// The messages of the page whose newest is `newest`, newest first.
    fn page_places(&mut self, newest: Sequence) -> Vec<(Arc<Segment>, Place)> {
        let mut places = Vec::new();
        let mut at = newest;
        while places.len() < self.page
            && let Some((segment, place)) = self.chain.link(at)
        {
            at = Sequence(place.header.previous);
            let offset = place.header.offset;
            if place.header.kind.is_message() && offset > self.after {
                places.push((segment, place));
            }
            if offset <= self.after.saturating_add(1) {
                break;
            }
        }
        places
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

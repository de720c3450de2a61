//! The log without threads: open, commit a group, sync, close. The writer thread drives it; tests drive it directly.
//!
//! A group is encoded, written at the end of the active segment from a fresh sector on, synced, and only then shown to
//! readers and acknowledged. Invariants:
//! * no durable sector is ever written again;
//! * whatever fails while writing or syncing, the segment is given up: the next group goes to a new one, whose header
//!   voids everything from its first sequence on in the older ones, so that what was not acknowledged never comes back
//!   behind something else (S11, S12);
//! * a failed sync is never tried again.

use std::sync::Arc;

use super::compact::Maintenance;
use super::error::{AppendError, OpenError, StorageError};
use super::place::{Stamp, place};
use super::reader::Reader;
use super::record::{Header, Kind, Sequence, StreamKey, StreamMap, padded_bytes};
use super::recover::{self, Recovered, RecoveryReport};
use super::request::{Ack, AppendRequest, Appended, Prepared};
use super::segment::{DATA_START, Marks, Segment, SegmentHeader, segment_name, temporary_name};
use super::settings::{LogSettings, SyncPolicy};
use super::shared::Shared;
use super::snapshot::{self, Ending};
use super::storage::{SECTOR_BYTES, Storage};
use super::stream::Stream;

/// The log without threads. One owner appends; any number of [`Reader`]s read.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    settings: LogSettings,
    next_id: u64,
    /// The sequence of the next record.
    next: Sequence,
    /// The highest sequence that a finished sync covered.
    durable_through: Sequence,
    /// The highest `durable_through` that stands in a record or a segment header.
    noted_through: Sequence,
    /// The newest record that is no watermark.
    last_record: Sequence,
    active: Option<Arc<Segment>>,
    /// Something was written and not synced.
    unsynced: bool,
    group: Group,
}

/// A group under construction. Empty between commits.
#[derive(Debug, Default)]
struct Group {
    bytes: Vec<u8>,
    records: Vec<(Sequence, u64)>,
    /// Header of the last record and where it stands in `bytes`.
    last: Option<(Header, usize)>,
    streams: StreamMap<Stream>,
    acks: Vec<Ack>,
}

impl Engine {
    /// Locks the storage, recovers what is there and gets ready to append. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing has been changed then.
    pub fn open(
        storage: Box<dyn Storage>,
        settings: LogSettings,
        now: u32,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        settings.check().map_err(OpenError::Setting)?;
        storage.lock()?;
        let recovered = recover::recover(storage.as_ref(), &settings.seed, now);
        let recovered = recovered.inspect_err(|_| storage.unlock())?;
        let Recovered { segments, index, identity, next_id, next, noted_through, resume, report } = recovered;
        let active = resume.then(|| segments.last().cloned()).flatten();
        let shared = Arc::new(Shared::new(storage, identity, segments, index));
        shared.set_durable_through(next.before());
        let engine = Self {
            shared,
            settings,
            next_id,
            next,
            durable_through: next.before(),
            noted_through,
            last_record: next.before(),
            active,
            unsynced: false,
            group: Group::default(),
        };
        Ok((engine, report))
    }

    /// A reader of the durable records.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared))
    }

    /// What keeps the log small.
    #[must_use]
    pub fn maintenance(&self) -> Maintenance {
        Maintenance::new(Arc::clone(&self.shared), self.settings.clone())
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn settings(&self) -> &LogSettings {
        &self.settings
    }

    /// Appends plain requests as one group; for tests and tools.
    ///
    /// # Errors
    /// The first request that is too large; then none is appended.
    pub fn append(
        &mut self,
        requests: Vec<AppendRequest>,
        now: u32,
    ) -> Result<Vec<Ack>, super::error::RefuseError> {
        let max_body = self.settings.max_body_bytes();
        let hasher = self.shared.hasher;
        let prepared: Result<Vec<_>, _> =
            requests.into_iter().map(|request| Prepared::new(request, &hasher, max_body)).collect();
        let mut acks = Vec::new();
        self.commit(&prepared?, now, &mut acks);
        Ok(acks)
    }

    /// Appends requests and adds one acknowledgement for each to `acks`, in order.
    pub(super) fn commit(&mut self, requests: &[Prepared], now: u32, acks: &mut Vec<Ack>) {
        let mut refused = None;
        for request in requests {
            if let Some(error) = refused {
                acks.push(Ack { token: request.token, result: Err(AppendError::NotStored(error)) });
                continue;
            }
            if self.group.bytes.len() >= self.settings.batch_bytes {
                self.flush(acks);
            }
            match self.make_room(request, acks) {
                Ok(segment) => self.stage(request, &segment, now),
                Err(error) => {
                    // One attempt a group: what follows is refused alike.
                    acks.push(Ack { token: request.token, result: Err(AppendError::NotStored(error)) });
                    refused = Some(error);
                }
            }
        }
        self.flush(acks);
    }

    /// Makes everything written durable, for `sync = interval` and for the end. Says whether there was anything.
    ///
    /// # Errors
    /// What the storage says; the segment has been given up then.
    pub fn sync(&mut self) -> Result<bool, StorageError> {
        if !std::mem::take(&mut self.unsynced) {
            return Ok(false);
        }
        let Some(segment) = &self.active else { return Ok(false) };
        match segment.file.sync_data() {
            Ok(()) => {
                self.set_durable();
                Ok(true)
            }
            Err(error) => {
                self.shared.status.lost_sync();
                self.give_up(error);
                Err(error)
            }
        }
    }

    /// Notes on the disk how far the log is durable, if that is not there yet: called when the log falls idle, so that
    /// damage to its newest records can be told from a torn tail (S08).
    pub fn note_watermark(&mut self, now: u32) {
        if self.active.is_none() || self.noted_through >= self.last_record.min(self.durable_through) {
            return;
        }
        let body_crc = crc32c::crc32c(&[]);
        let watermark = Prepared {
            token: 0,
            plan: super::request::Plan::Purge,
            key: StreamKey::default(),
            expires_at: 0,
            kind: Kind::Watermark,
            body: Vec::new(),
            body_crc,
        };
        self.commit(&[watermark], now, &mut Vec::new());
    }

    /// Ends the log in an orderly way: everything durable, and a snapshot of the index for a fast start.
    ///
    /// # Errors
    /// What the storage says; the log is then recovered from its records at the next start.
    pub fn close(mut self, now: u32) -> Result<(), StorageError> {
        self.sync()?;
        self.note_watermark(now);
        self.sync()?;
        let segments = self.shared.segments();
        let ending = Ending {
            log_id: self.shared.identity.log_id,
            next: self.next,
            noted_through: self.noted_through,
            segments: &segments,
            index: &self.shared.index,
        };
        snapshot::write(self.shared.storage.as_ref(), &ending)
    }

    /// The segment that takes the request.
    fn make_room(&mut self, request: &Prepared, acks: &mut Vec<Ack>) -> Result<Arc<Segment>, StorageError> {
        let needed = padded_bytes(request.body.len()).saturating_add(self.group.bytes.len());
        if let Some(segment) = self.active_with(needed) {
            return Ok(segment);
        }
        self.flush(acks);
        // A failed flush has opened a new segment already.
        if let Some(segment) = self.active_with(padded_bytes(request.body.len())) {
            return Ok(segment);
        }
        // The last records may wait for a sync that the policy has not asked for yet.
        let _ = self.sync();
        self.open_segment()
    }

    /// The active segment, if it has room for a group of so many bytes.
    fn active_with(&self, bytes: usize) -> Option<Arc<Segment>> {
        let needed = bytes.checked_next_multiple_of(SECTOR_BYTES).unwrap_or(usize::MAX) as u64;
        self.active.clone().filter(|segment| segment.end().saturating_add(needed) <= segment.header.capacity)
    }

    /// Encodes a request into the group.
    fn stage(&mut self, request: &Prepared, segment: &Segment, now: u32) {
        let sequence = self.next;
        let stamp = Stamp {
            log_id: self.shared.identity.log_id,
            salt: segment.header.salt,
            durable_through: self.durable_through,
            now,
        };
        let known = match self.group.streams.get(&request.key) {
            Some(stream) => Some(stream.clone()),
            None => self.shared.index.stream(request.key),
        };
        let placed = place(request, known, sequence, &stamp, &self.settings.mailbox);
        let result = placed.map(|(header, stream)| {
            if header.kind != Kind::Watermark {
                self.group.streams.insert(request.key, stream);
            }
            self.group.push(&header, &request.body, segment.end());
            self.next = sequence.next();
            Appended { sequence, offset: header.offset, epoch: header.epoch }
        });
        self.group.acks.push(Ack { token: request.token, result });
    }

    /// Writes the group, makes it durable if the policy says so, shows it to readers and acknowledges it.
    fn flush(&mut self, acks: &mut Vec<Ack>) {
        if self.group.records.is_empty() {
            acks.append(&mut self.group.acks);
            return;
        }
        self.group.close();
        if let Err(error) = self.write_group() {
            self.fail_group(error, acks);
            return;
        }
        if !self.group.streams.is_empty() {
            self.last_record = self.next.before();
        }
        for (key, stream) in self.group.streams.drain() {
            self.shared.index.put_stream(key, stream);
        }
        acks.append(&mut self.group.acks);
        self.group.clear();
    }

    fn set_durable(&mut self) {
        self.durable_through = self.next.before();
        self.shared.set_durable_through(self.durable_through);
    }

    fn write_group(&mut self) -> Result<(), StorageError> {
        let Some(segment) = self.active.clone() else { return Err(StorageError::NotFound) };
        let end = segment.end();
        segment.file.write_at(end, &self.group.bytes)?;
        if self.settings.sync == SyncPolicy::Always {
            segment.file.sync_data()?;
            self.noted_through = self.durable_through;
            self.set_durable();
        } else {
            self.unsynced = true;
            self.noted_through = self.durable_through;
        }
        segment.publish(&self.group.records, end.saturating_add(self.group.bytes.len() as u64));
        self.shared.status.appended(self.group.records.len(), self.group.bytes.len());
        Ok(())
    }

    /// Gives up the segment and seals it off. Only then it is certain that nothing of the group will come back.
    fn fail_group(&mut self, error: StorageError, acks: &mut Vec<Ack>) {
        if let Some(&(first, _)) = self.group.records.first() {
            self.next = first;
        }
        // Under the weaker policies it was the write that failed: what was acknowledged before can still be synced.
        if self.settings.sync != SyncPolicy::Always {
            let _ = self.sync();
        }
        self.give_up(error);
        let failure = match self.open_segment() {
            Ok(_) => AppendError::NotStored(error),
            Err(_) => AppendError::Uncertain(error),
        };
        for ack in self.group.acks.drain(..) {
            let result = if ack.result.is_ok() { Err(failure) } else { ack.result };
            acks.push(Ack { result, ..ack });
        }
        self.group.clear();
    }

    fn give_up(&mut self, error: StorageError) {
        self.active = None;
        self.unsynced = false;
        self.shared.status.gave_up(error);
    }

    /// Makes a segment: preallocated under a temporary name, header synced, renamed, name synced (S09).
    fn open_segment(&mut self) -> Result<Arc<Segment>, StorageError> {
        self.active = None;
        let id = self.next_id;
        self.next_id = id.saturating_add(1);
        let identity = &self.shared.identity;
        let header = SegmentHeader {
            salt: salt_of(&self.settings.seed, id),
            log_id: identity.log_id,
            id,
            first_sequence: self.next,
            durable_through: self.durable_through,
            capacity: self.settings.segment_bytes,
            covers_through: Sequence(0),
            data_end: 0,
            secret: identity.secret,
        };
        let result = self.create_file(&header);
        self.shared.status.made_room(result.as_ref().err().copied());
        let segment = result?;
        self.noted_through = self.noted_through.max(self.durable_through);
        self.shared.push_segment(Arc::clone(&segment));
        self.active = Some(Arc::clone(&segment));
        Ok(segment)
    }

    fn create_file(&self, header: &SegmentHeader) -> Result<Arc<Segment>, StorageError> {
        let storage = self.shared.storage.as_ref();
        let temporary = temporary_name(header.id);
        let name = segment_name(header.id);
        let file = storage.create(&temporary, header.capacity)?;
        let finished = file
            .write_at(0, &header.encode())
            .and_then(|()| file.sync_data())
            .and_then(|()| storage.rename(&temporary, &name))
            .and_then(|()| storage.sync_directory());
        if let Err(error) = finished {
            // Whichever name it has; a leftover is removed at the next start.
            let _ = storage.remove(&temporary).or_else(|_| storage.remove(&name));
            return Err(error);
        }
        let last = header.first_sequence.before();
        Ok(Arc::new(Segment::new(*header, file, Marks::default(), DATA_START, last, false)))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.storage.unlock();
    }
}

/// A salt that no other segment of this run has, and that nobody outside knows.
pub(super) fn salt_of(seed: &[u8; 16], id: u64) -> u32 {
    let hash = siphasher::sip::SipHasher13::new_with_key(seed).hash(&id.to_le_bytes());
    u32::try_from(hash >> 32).unwrap_or(0)
}

impl Group {
    fn push(&mut self, header: &Header, body: &[u8], segment_end: u64) {
        let start = self.bytes.len();
        self.records.push((header.sequence, segment_end.saturating_add(start as u64)));
        self.last = Some((*header, start));
        header.encode(&mut self.bytes);
        self.bytes.extend_from_slice(body);
        self.bytes.resize(start.saturating_add(padded_bytes(body.len())), 0);
    }

    /// Marks the last record and fills its sector, so that the next group starts at a fresh one.
    fn close(&mut self) {
        let Some((header, start)) = self.last.take() else { return };
        let header = Header { last_of_group: true, ..header };
        let mut encoded = Vec::new();
        header.encode(&mut encoded);
        let end = start.saturating_add(encoded.len());
        if let Some(place) = self.bytes.get_mut(start..end) {
            place.copy_from_slice(&encoded);
        }
        let padded = self.bytes.len().checked_next_multiple_of(SECTOR_BYTES).unwrap_or(usize::MAX);
        self.bytes.resize(padded, 0);
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
        self.streams.clear();
        self.last = None;
    }
}

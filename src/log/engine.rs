//! The log without threads: open, commit a group, sync, close. The writer thread drives it; tests drive it directly.
//!
//! A group is staged (numbered and encoded), written at the end of the active segment from a fresh sector on, synced,
//! and only then shown to readers and acknowledged. While one group is in flight the next can be staged and handed over.
//! Invariants:
//! * no durable sector is ever written again;
//! * whatever fails while writing or syncing, the segment is given up: the next group goes to a new one, whose header
//!   voids everything from its first sequence on in the older ones, so that what was not acknowledged never comes back
//!   behind something else (S11, S12);
//! * a failed sync is never tried again;
//! * a message is taken only while the [`Reserve`] is whole; what frees room may use it up, so a full disk is no dead end.

mod room;

use std::collections::VecDeque;
use std::sync::Arc;

use self::room::Source;
use super::compact::Maintenance;
use super::error::{AppendError, OpenError, RefuseError, StorageError};
use super::group::{Group, GroupWrite};
use super::loss::Loss;
use super::notice::End;
use super::place::{Stamp, place};
use super::reader::Reader;
use super::record::{Kind, Sequence, StreamKey};
use super::recover::{self, RecoveryReport};
use super::request::{Ack, AppendRequest, Appended, Plan, Prepared};
use super::reserve::Reserve;
use super::segment::Segment;
use super::settings::{LogSettings, SyncPolicy};
use super::shared::Shared;
use super::snapshot::{self, Ending};
use super::storage::Storage;
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
    /// What is being staged.
    group: Group,
    /// What is being written, in order.
    flights: VecDeque<Group>,
    /// Counts the failures: a write of an earlier attempt is void.
    attempt: u64,
    /// The memory of a finished group, for the one after the next.
    spare: Group,
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
        let active = recovered.resume.then(|| recovered.segments.last().cloned()).flatten();
        let next = recovered.next;
        let reserve = Reserve::new(settings.segment_bytes);
        reserve.adopt(storage.as_ref());
        let shared = Arc::new(Shared::new(
            storage,
            recovered.identity,
            recovered.segments,
            recovered.index,
            reserve,
            settings.state_ttl,
            recovered.loss_marks,
        ));
        shared.set_durable_through(next.before());
        let mut engine = Self {
            shared,
            settings,
            next_id: recovered.next_id,
            next,
            durable_through: next.before(),
            noted_through: recovered.noted_through,
            last_record: next.before(),
            active,
            unsynced: false,
            group: Group::default(),
            flights: VecDeque::new(),
            attempt: 0,
            spare: Group::default(),
        };
        engine.note_losses(&recovered.losses, now)?;
        Ok((engine, recovered.report))
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
    pub fn append(&mut self, requests: Vec<AppendRequest>, now: u32) -> Result<Vec<Ack>, RefuseError> {
        let requests = self.prepare(requests)?;
        let mut acks = Vec::new();
        self.commit(&requests, now, &mut acks);
        Ok(acks)
    }

    fn prepare(&self, requests: Vec<AppendRequest>) -> Result<Vec<Prepared>, RefuseError> {
        let max_body = self.settings.max_body_bytes();
        let hasher = self.shared.hasher;
        requests.into_iter().map(|request| Prepared::new(request, &hasher, max_body)).collect()
    }

    /// Appends requests and adds one acknowledgement for each to `acks`, in order. Nothing may be in flight.
    pub(super) fn commit(&mut self, requests: &[Prepared], now: u32, acks: &mut Vec<Ack>) {
        let mut rest = requests;
        while !rest.is_empty() {
            let staged = self.stage(rest.iter(), now);
            rest = rest.get(staged..).unwrap_or(&[]);
            self.write(acks);
        }
    }

    /// As [`append`](Self::append), in groups of at most `most` requests, each staged and handed over while the one
    /// before is in flight, as the writer thread does; for tests.
    ///
    /// # Errors
    /// The first request that is too large; then none is appended.
    pub fn append_overlapped(
        &mut self,
        requests: Vec<AppendRequest>,
        most: usize,
        now: u32,
    ) -> Result<Vec<Ack>, RefuseError> {
        let requests = self.prepare(requests)?;
        let mut acks = Vec::new();
        let mut writes: VecDeque<(GroupWrite, usize)> = VecDeque::new();
        let (mut taken, mut in_group) = (0_usize, 0_usize);
        while taken < requests.len() || !writes.is_empty() {
            let staged = self.stage(requests.iter().skip(taken).take(most.max(1)), now);
            taken = taken.saturating_add(staged);
            in_group = in_group.saturating_add(staged);
            if let Some(write) = self.take_write() {
                writes.push_back((write, std::mem::take(&mut in_group)));
                if writes.len() < 2 {
                    continue;
                }
            }
            let Some((write, _)) = writes.pop_front() else {
                self.take_refusals(&mut acks);
                in_group = 0;
                continue;
            };
            let result = write.run();
            if !self.finish(write, result, &mut acks) {
                let void = writes.drain(..).map(|(_, count)| count).fold(in_group, usize::saturating_add);
                taken = taken.saturating_sub(void);
                in_group = 0;
            } else if self.is_empty() {
                in_group = 0;
            }
        }
        Ok(acks)
    }

    /// Writes and finishes what is staged.
    fn write(&mut self, acks: &mut Vec<Ack>) {
        match self.take_write() {
            Some(write) => {
                let result = write.run();
                self.finish(write, result, acks);
            }
            None => self.take_refusals(acks),
        }
    }

    /// The answers of a group in which nothing is to be written; nothing may be in flight.
    pub(super) fn take_refusals(&mut self, acks: &mut Vec<Ack>) {
        acks.append(&mut self.group.acks);
    }

    /// Stages requests until the group is full and says how many. Those that there is no room for are among them, with
    /// their answers.
    pub(super) fn stage<'a>(&mut self, mut requests: impl Iterator<Item = &'a Prepared>, now: u32) -> usize {
        let mut staged = 0_usize;
        // One attempt a call: what follows and needs the same is refused alike.
        let mut refused = None;
        while !self.is_full()
            && let Some(request) = requests.next()
        {
            match self.make_room(request, &mut refused) {
                Ok(Some(segment)) => self.stage_one(request, &segment, now),
                Ok(None) => return staged,
                Err(error) => {
                    let result = Err(AppendError::NotStored(error));
                    self.group.acks.push(Ack { token: request.token, result });
                }
            }
            staged = staged.saturating_add(1);
        }
        staged
    }

    /// True if the group takes no more.
    pub(super) fn is_full(&self) -> bool {
        self.group.bytes.len() >= self.settings.batch_bytes
    }

    /// True if nothing is staged.
    pub(super) fn is_empty(&self) -> bool {
        self.group.acks.is_empty()
    }

    /// Takes the staged group for writing, in the order in which groups are taken. `None` if there is nothing to write.
    pub(super) fn take_write(&mut self) -> Option<GroupWrite> {
        let segment = self.active.clone()?;
        if self.group.records.is_empty() {
            return None;
        }
        let mut group = std::mem::replace(&mut self.group, std::mem::take(&mut self.spare));
        group.close();
        let (start, bytes) = (group.start, std::mem::take(&mut group.bytes));
        self.flights.push_back(group);
        let sync = self.settings.sync == SyncPolicy::Always;
        Some(GroupWrite { segment, start, bytes, sync, attempt: self.attempt })
    }

    /// Takes in how the write of the first group in flight went: shows it to readers and acknowledges it, or gives up
    /// its segment. False means that every later group, in flight or staged, is void and must be staged again; those in
    /// flight must not have been written.
    pub(super) fn finish(
        &mut self,
        write: GroupWrite,
        result: Result<(), StorageError>,
        acks: &mut Vec<Ack>,
    ) -> bool {
        let Some(mut flight) = self.flights.pop_front() else { return true };
        if let Err(error) = result {
            self.fail(flight, error, acks);
            return false;
        }
        let last = flight.records.last().map_or(Sequence(0), |&(sequence, _)| sequence);
        self.noted_through = self.noted_through.max(flight.noted_through());
        if write.sync {
            self.set_durable(last);
        } else {
            self.unsynced = true;
        }
        let end = write.start.saturating_add(write.bytes.len() as u64);
        write.segment.publish(&flight.records, end);
        self.shared.status.appended(flight.records.len(), write.bytes.len());
        if !flight.streams.is_empty() {
            self.last_record = last;
        }
        for (key, stream) in flight.streams.drain() {
            self.shared.index.put_stream(key, stream);
        }
        acks.append(&mut flight.acks);
        if self.flights.is_empty() && self.group.records.is_empty() {
            acks.append(&mut self.group.acks);
        }
        flight.bytes = write.bytes;
        flight.clear();
        self.spare = flight;
        true
    }

    /// Makes everything written durable, for `sync = interval` and for the end. Says whether there was anything.
    /// Nothing may be staged or in flight.
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
                self.set_durable(self.next.before());
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
        let watermark = Prepared::of_the_log(Kind::Watermark, Plan::Position { keep: 0 });
        self.commit(&[watermark], now, &mut Vec::new());
    }

    /// Notes on the disk that streams have new epochs, so that they keep them (see [`super::loss`]).
    fn note_losses(&mut self, losses: &[Loss], now: u32) -> Result<(), StorageError> {
        let notes = losses.iter().map(|loss| {
            Prepared::of_the_log(Kind::Loss, Plan::Loss { before: loss.before, mark: loss.mark })
        });
        let mut acks = Vec::new();
        self.commit(&notes.collect::<Vec<_>>(), now, &mut acks);
        let failed = acks.iter().find_map(|ack| ack.result.err());
        match failed {
            None => self.sync().map(|_| ()),
            Some(AppendError::NotStored(error) | AppendError::Uncertain(error)) => Err(error),
            Some(_) => Err(StorageError::Other(0)),
        }
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
            loss_marks: self.shared.loss_marks(),
            segments: &segments,
            index: &self.shared.index,
        };
        snapshot::write(self.shared.storage.as_ref(), &ending)
    }

    /// Encodes a request into the group.
    fn stage_one(&mut self, request: &Prepared, segment: &Segment, now: u32) {
        let sequence = self.next;
        let stamp = Stamp {
            lineage: self.shared.lineage,
            salt: segment.header.salt,
            durable_through: self.durable_through,
            now,
            state_ttl: self.shared.state_ttl,
        };
        let placed = place(request, self.stream(request.key), sequence, &stamp, &self.settings.mailbox);
        let result = placed.map(|(header, stream)| {
            if !header.kind.is_of_the_log() {
                self.group.streams.insert(request.key, stream);
            }
            if self.group.records.is_empty() {
                self.group.start = self.start(segment);
            }
            self.group.push(&header, &request.body);
            self.next = sequence.next();
            Appended { sequence, offset: header.offset, epoch: header.epoch }
        });
        self.group.acks.push(Ack { token: request.token, result });
    }

    /// A stream as it is after everything staged.
    fn stream(&self, key: StreamKey) -> Option<Stream> {
        let mut groups = std::iter::once(&self.group).chain(self.flights.iter().rev());
        match groups.find_map(|group| group.streams.get(&key)) {
            Some(stream) => Some(stream.clone()),
            None => self.shared.index.stream(key),
        }
    }

    fn set_durable(&mut self, through: Sequence) {
        self.durable_through = through;
        self.shared.set_durable_through(through);
    }

    /// Gives up the segment and seals it off. Only then it is certain that nothing of the group will come back.
    fn fail(&mut self, mut flight: Group, error: StorageError, acks: &mut Vec<Ack>) {
        self.group = Group::default();
        self.flights.clear();
        self.attempt = self.attempt.saturating_add(1);
        if let Some(&(first, _)) = flight.records.first() {
            self.next = first;
        }
        // Under the weaker policies it was the write that failed: what was acknowledged before can still be synced.
        if self.settings.sync != SyncPolicy::Always {
            let _ = self.sync();
        }
        self.give_up(error);
        let sealed = self.open_segment(Source::Disk).or_else(|_| self.open_segment(Source::Reserve));
        let failure = match sealed {
            Ok(_) => AppendError::NotStored(error),
            Err(_) => AppendError::Uncertain(error),
        };
        for ack in flight.acks.drain(..) {
            let result = if ack.result.is_ok() { Err(failure) } else { ack.result };
            acks.push(Ack { result, ..ack });
        }
    }

    /// Where what is stored ends.
    fn end(&self) -> End {
        self.active
            .as_ref()
            .map_or(End::default(), |active| End { segment: active.header.id, offset: active.end() })
    }

    fn give_up(&mut self, error: StorageError) {
        let end = self.end();
        self.active = None;
        self.unsynced = false;
        self.shared.status.gave_up(error, end);
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

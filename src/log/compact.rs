//! Retention: removes segments of which nothing is needed and rewrites neighbours of which little is.
//!
//! The new segment is written whole under a temporary name, synced, and renamed over the first of those it stands for;
//! then the others are removed. A crash before the rename leaves the old ones, a crash after it leaves some of them
//! beside a segment that says which sequences it covers, so that recovery drops them; never are both copies read (S10).
//! Readers keep what they have open.
//!
//! On a full disk the new segment takes the place of what the [`Reserve`](super::reserve::Reserve) holds back, a run for
//! which there is no room does not keep the others from being looked at, and segments of which only a little can be
//! dropped are rewritten too.

use std::sync::Arc;

use super::body::Body;
use super::engine::salt_of;
use super::error::StorageError;
use super::notice::Notice;
use super::record::{Header, Kind, Sequence, padded_bytes};
use super::retain::{Moment, Need};
use super::scan::Damage;
use super::segment::{DATA_START, Marks, Segment, SegmentHeader, next_sector, segment_name, temporary_name};
use super::settings::LogSettings;
use super::shared::Shared;
use super::storage::StorageFile;

/// Bytes written at once.
const WRITE_BYTES: usize = 256 << 10;
/// Length of a file is a multiple of it.
const PAGE_BYTES: u64 = 4096;
/// On a full disk a segment is rewritten if less than this much of it is needed.
const COMPACT_BELOW_PERCENT_WHEN_FULL: u8 = 90;

/// Keeps the log small. One owner; appends and reads go on meanwhile.
#[derive(Debug)]
pub struct Maintenance {
    shared: Arc<Shared>,
    settings: LogSettings,
    /// Distinguishes the salts of rewritten segments.
    rewritten: u64,
}

/// What one pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaintenanceReport {
    /// Segments looked through.
    pub scanned: usize,
    /// Segments removed because nothing in them was needed.
    pub removed: usize,
    /// Segments rewritten into fewer.
    pub compacted: usize,
    /// Bytes of disk given back.
    pub freed_bytes: u64,
    /// Streams forgotten after their TTL.
    pub forgotten: usize,
    /// Segments found damaged and put into quarantine.
    pub quarantined: usize,
}

/// A sealed segment and what of it is needed.
struct Weighed {
    segment: Arc<Segment>,
    data: u64,
    needed: u64,
}

impl Maintenance {
    pub(super) fn new(shared: Arc<Shared>, settings: LogSettings) -> Self {
        Self { shared, settings, rewritten: 0 }
    }

    /// Looks through all sealed segments once. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// What the storage says; the log is whole whatever has been done of the pass.
    pub fn pass(&mut self, now: u32) -> Result<MaintenanceReport, StorageError> {
        let mut report = MaintenanceReport::default();
        self.go_through(now, &mut report)?;
        Ok(report)
    }

    fn go_through(&mut self, now: u32, report: &mut MaintenanceReport) -> Result<(), StorageError> {
        let segments = self.shared.segments();
        let sealed = segments.len().saturating_sub(1);
        let mut full = Ok(());
        let mut run: Vec<Weighed> = Vec::new();
        // What is done with is let go of, so that its file can leave the disk.
        for (at, segment) in segments.into_iter().take(sealed).enumerate() {
            // Nothing older is left if everything before this segment is in the run.
            let oldest = run.len() == at;
            let weighed = self.weigh(&segment, self.moment(now, oldest), report)?;
            segment.release_view();
            let Some(weighed) = weighed else {
                full = full.and(self.settle_if_there_is_room(&mut run, now, at, report)?);
                continue;
            };
            let needed = run.iter().fold(weighed.needed, |sum, other| sum.saturating_add(other.needed));
            if needed > self.settings.segment_bytes.saturating_sub(PAGE_BYTES.saturating_mul(2)) {
                full = full.and(self.settle_if_there_is_room(&mut run, now, at, report)?);
            }
            run.push(weighed);
        }
        full = full.and(self.settle_if_there_is_room(&mut run, now, sealed, report)?);
        report.forgotten = self.forget(now);
        full
    }

    /// As [`settle`](Self::settle); a disk that is too full for this run is the inner error.
    fn settle_if_there_is_room(
        &mut self,
        run: &mut Vec<Weighed>,
        now: u32,
        end: usize,
        report: &mut MaintenanceReport,
    ) -> Result<Result<(), StorageError>, StorageError> {
        let result = self.settle(run, now, end, report);
        if self.shared.is_full() {
            // Before anybody else takes what has been freed.
            let _ = self.shared.reserve.refill(self.shared.storage.as_ref());
        }
        match result {
            Err(StorageError::DiskFull) => Ok(Err(StorageError::DiskFull)),
            other => other.map(Ok),
        }
    }

    fn compact_below_percent(&self) -> u64 {
        let usual = self.settings.compact_below_percent;
        let percent = if self.shared.is_full() { usual.max(COMPACT_BELOW_PERCENT_WHEN_FULL) } else { usual };
        u64::from(percent)
    }

    fn moment(&self, now: u32, oldest: bool) -> Moment {
        let state_ttl = u32::try_from(self.settings.state_ttl.as_secs()).unwrap_or(u32::MAX);
        Moment { now, state_ttl, oldest }
    }

    /// Adds up what is needed of a segment; `None` if it must stay as it is.
    fn weigh(
        &self,
        segment: &Arc<Segment>,
        moment: Moment,
        report: &mut MaintenanceReport,
    ) -> Result<Option<Weighed>, StorageError> {
        if segment.is_quarantined() {
            return Ok(None);
        }
        let mut needed = 0_u64;
        let mut visit = |_: u64, _: bool, header: &Header, body: &[u8]| {
            needed = needed.saturating_add(match self.need(header, moment) {
                Need::Whole => padded_bytes(body.len()) as u64,
                // A stub is name and version of what it stands for; this is a guess for weighing.
                Need::Stub => padded_bytes(body.len().min(64)) as u64,
                Need::Nothing => 0,
            });
        };
        report.scanned = report.scanned.saturating_add(1);
        let scanned = segment.scan(&mut visit)?;
        if !scanned.damage.is_empty() {
            self.quarantine(segment, &scanned.damage)?;
            report.quarantined = report.quarantined.saturating_add(1);
            return Ok(None);
        }
        let data = segment.end().saturating_sub(DATA_START);
        let sparse = needed.saturating_mul(100) < data.saturating_mul(self.compact_below_percent());
        let merges = segment.header.is_sparse() && segment.header.capacity < self.settings.segment_bytes / 2;
        let useful = needed == 0 || sparse || merges;
        Ok(useful.then(|| Weighed { segment: Arc::clone(segment), data, needed }))
    }

    fn need(&self, header: &Header, moment: Moment) -> Need {
        moment.need(header, self.shared.index.stream(header.key).as_ref())
    }

    /// Removes or rewrites a run of neighbours that ends before segment number `end`.
    fn settle(
        &mut self,
        run: &mut Vec<Weighed>,
        now: u32,
        end: usize,
        report: &mut MaintenanceReport,
    ) -> Result<(), StorageError> {
        let run = std::mem::take(run);
        let oldest = run.len() == end;
        let Some(first) = run.first() else { return Ok(()) };
        let before: u64 =
            run.iter().map(|weighed| weighed.segment.header.capacity).fold(0, u64::saturating_add);
        // A single segment that has been rewritten before is rewritten again only if it has become sparse.
        let data = run.iter().fold(0_u64, |sum, weighed| sum.saturating_add(weighed.data));
        let needed = run.iter().fold(0_u64, |sum, weighed| sum.saturating_add(weighed.needed));
        let single = run.len() == 1 && first.segment.header.is_sparse();
        let percent = self.compact_below_percent();
        if single && needed > 0 && needed.saturating_mul(100) >= data.saturating_mul(percent) {
            return Ok(());
        }
        // Nothing is left of it but its numbers, which hold the place until the segments before it go.
        if single && data == 0 && !oldest {
            return Ok(());
        }
        let old: Vec<Arc<Segment>> = run.iter().map(|weighed| Arc::clone(&weighed.segment)).collect();
        let new = self.rewrite(&old, self.moment(now, oldest))?;
        self.replace(&old, new.clone())?;
        let after = new.as_ref().map_or(0, |segment| segment.header.capacity);
        report.freed_bytes = report.freed_bytes.saturating_add(before.saturating_sub(after));
        match new {
            Some(_) => report.compacted = report.compacted.saturating_add(old.len()),
            None => report.removed = report.removed.saturating_add(old.len()),
        }
        Ok(())
    }

    /// Writes what is needed of the old segments under a temporary name and gives it the first one's. If nothing is, an
    /// empty one says so to the next start, unless they are the oldest: what comes first misses nothing before it.
    fn rewrite(
        &mut self,
        old: &[Arc<Segment>],
        moment: Moment,
    ) -> Result<Option<Arc<Segment>>, StorageError> {
        let Some(first) = old.first() else { return Ok(None) };
        let mut records: Vec<(Header, Vec<u8>)> = Vec::new();
        let mut length = DATA_START;
        for segment in old {
            let mut visit = |_: u64, _: bool, header: &Header, body: &[u8]| {
                if let Some((header, body)) = remainder(header, body, self.need(header, moment)) {
                    length = length.saturating_add(padded_bytes(body.len()) as u64);
                    records.push((header, body));
                }
            };
            segment.scan(&mut visit)?;
        }
        if records.is_empty() && moment.oldest {
            return Ok(None);
        }
        self.rewritten = self.rewritten.saturating_add(1);
        let capacity = length.checked_next_multiple_of(PAGE_BYTES).unwrap_or(u64::MAX);
        let header = SegmentHeader {
            salt: salt_of(&self.settings.seed, self.rewritten.saturating_add(1 << 63)),
            // What was dropped may be made up for by any record up to there: damage to it is no tail.
            durable_through: self.shared.durable_through(),
            capacity,
            covers_through: old.iter().map(|segment| segment.covers()).max().unwrap_or_default(),
            data_end: next_sector(length),
            ..first.header
        };
        self.write_segment(&header, &records).map(Some)
    }

    fn write_segment(
        &self,
        header: &SegmentHeader,
        records: &[(Header, Vec<u8>)],
    ) -> Result<Arc<Segment>, StorageError> {
        let storage = self.shared.storage.as_ref();
        let temporary = temporary_name(header.id);
        let _ = storage.remove(&temporary);
        let file = self.shared.reserve.create(storage, &temporary, header.capacity)?;
        let written = write_records(file.as_ref(), header, records).and_then(|marks| {
            file.sync_data()?;
            storage.rename(&temporary, &segment_name(header.id))?;
            Ok(marks)
        });
        let marks = match written {
            Ok(marks) => marks,
            Err(error) => {
                let _ = storage.remove(&temporary);
                return Err(error);
            }
        };
        let last = records.last().map_or(header.first_sequence.before(), |(header, _)| header.sequence);
        Ok(Arc::new(Segment::new(*header, file, marks, header.data_end, last, false)))
    }

    /// Puts the new segment, if there is one, in the place of the old ones.
    fn replace(&self, old: &[Arc<Segment>], new: Option<Arc<Segment>>) -> Result<(), StorageError> {
        let storage = self.shared.storage.as_ref();
        let renamed = new.is_some();
        self.shared.edit_segments(|segments| {
            let is_old = |segment: &Arc<Segment>| old.iter().any(|old| Arc::ptr_eq(old, segment));
            let at = segments.iter().position(is_old).unwrap_or(segments.len());
            segments.retain(|segment| !is_old(segment));
            if let Some(new) = new {
                segments.insert(at.min(segments.len()), new);
            }
        });
        // The new segment's name must be durable before anything that it stands for is gone.
        storage.sync_directory()?;
        for segment in old.iter().skip(usize::from(renamed)) {
            storage.remove(&segment_name(segment.header.id))?;
        }
        storage.sync_directory()
    }

    fn quarantine(&self, segment: &Segment, found: &[Damage]) -> Result<(), StorageError> {
        let storage = self.shared.storage.as_ref();
        let id = segment.header.id;
        segment.set_quarantined();
        for damage in found {
            self.shared.status.notices.add(Notice::Quarantined(*damage));
        }
        storage.rename(&segment_name(id), &super::segment::quarantined_name(id))?;
        storage.sync_directory()
    }

    /// Drops the state of streams whose last record the TTL has passed and whose records are gone.
    fn forget(&self, now: u32) -> usize {
        let first =
            self.shared.segments().first().map_or(Sequence(0), |segment| segment.header.first_sequence);
        let moment = self.moment(now, true);
        let mut forgotten = 0_usize;
        for stripe in 0.. {
            let mut ended = Vec::new();
            let more = self.shared.index.visit_stripe(stripe, |key, state, _| {
                let stream = super::stream::Stream { state: *state, ..Default::default() };
                if moment.has_ended(&stream) && self.is_gone(state.head, first) {
                    ended.push(key);
                }
            });
            if !more {
                return forgotten;
            }
            for key in ended {
                let ended = |state: &super::stream::StreamState| {
                    moment.has_ended(&super::stream::Stream { state: *state, ..Default::default() })
                };
                self.shared.index.remove_if(key, ended);
                forgotten = forgotten.saturating_add(1);
            }
        }
        forgotten
    }

    /// True if the record of a stream's head is not on the disk any more.
    fn is_gone(&self, head: Sequence, first: Sequence) -> bool {
        if head < first {
            return true;
        }
        self.shared
            .segment_of(head)
            .is_none_or(|segment| segment.header.is_sparse() && segment.find(head).is_err())
    }
}

/// What is written in the place of a record.
fn remainder(header: &Header, body: &[u8], need: Need) -> Option<(Header, Vec<u8>)> {
    match need {
        Need::Nothing => None,
        Need::Whole => Some((*header, body.to_vec())),
        Need::Stub => {
            let body = Body::decode(header.kind, body)?.into_stub().encode();
            let body_crc = crc32c::crc32c(&body);
            let length = u32::try_from(body.len()).ok()?;
            Some((Header { kind: Kind::Stub, body_crc, length, ..*header }, body))
        }
    }
}

fn write_records(
    file: &dyn StorageFile,
    segment: &SegmentHeader,
    records: &[(Header, Vec<u8>)],
) -> Result<Marks, StorageError> {
    let mut marks = Marks::default();
    let mut at = DATA_START;
    let mut bytes = Vec::new();
    for (number, (header, body)) in records.iter().enumerate() {
        let offset = at.saturating_add(bytes.len() as u64);
        let last_of_group = number.saturating_add(1) == records.len();
        Header { salt: segment.salt, last_of_group, ..*header }.encode(&mut bytes);
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().checked_next_multiple_of(8).unwrap_or(usize::MAX), 0);
        marks.note(segment.first_sequence, header.sequence, offset, false);
        if bytes.len() >= WRITE_BYTES || last_of_group {
            file.write_at(at, &bytes)?;
            at = at.saturating_add(bytes.len() as u64);
            bytes.clear();
        }
    }
    file.write_at(0, &segment.encode())?;
    Ok(marks)
}

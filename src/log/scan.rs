//! Reads the records of one segment in order and tells a torn tail from damage (bad-input.md S03 to S08).
//!
//! The rule: every record carries `durable_through`, the highest sequence that a finished fdatasync covered when it was
//! written. Where a record is missing or its checksum fails, everything behind the place is searched for records. If one
//! of them (or a later segment) says that the missing one was durable, it is damage: the scan goes on behind it and the
//! log keeps what is there. Else nobody was told that it is stored: it is the tail, and the log ends before it.

use std::sync::Arc;

use super::error::StorageError;
use super::record::{HEADER_BYTES, Header, Sequence};
use super::segment::{DATA_START, SegmentHeader, next_sector};
use super::storage::StorageFile;

/// Bytes read at once: fits the cache, so that checksums run from it.
const WINDOW_BYTES: usize = 256 << 10;
/// Unit in which unreadable bytes are skipped.
const PAGE_BYTES: usize = 4096;
/// Records start at multiples of it.
const STEP: u64 = 8;

/// A stretch of a segment in which records are missing that were durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// Id of the segment.
    pub segment: u64,
    /// What is damaged.
    pub kind: DamageKind,
    /// Where it begins in the file.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// First missing sequence; 0 if no record is missing.
    pub first: Sequence,
    /// Last missing sequence; 0 if no record is missing.
    pub last: Sequence,
}

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DamageKind {
    /// One copy of the segment's header; no record is lost.
    HeaderCopy,
    /// Both copies of the segment's header: nothing in it can be read.
    Header,
    /// Records.
    Records,
    /// The file is shorter or longer than it was made.
    FileLength,
    /// Records that were acknowledged before they were synced (`sync = interval` or `os`) and did not survive.
    Unsynced,
}

/// What ends the log: bytes that nobody was told are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Tail {
    /// Id of the segment.
    pub segment: u64,
    /// Where the log ends.
    pub offset: u64,
    /// Bytes from there to the last one that is not zero.
    pub length: u64,
}

/// A sliding window over a file. Pages that the medium cannot read count as zeros, which are no records.
pub(super) struct Window {
    file: Arc<dyn StorageFile>,
    length: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    pub(super) fn new(file: Arc<dyn StorageFile>) -> Result<Self, StorageError> {
        let length = file.length()?;
        Ok(Self { file, length, start: 0, bytes: Vec::new() })
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// `length` bytes from `offset`, fewer at the end of the file.
    pub(super) fn get(&mut self, offset: u64, length: usize) -> Result<&[u8], StorageError> {
        let available = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX).min(length);
        let inside = offset.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let from = match inside.filter(|at| at.saturating_add(available) <= self.bytes.len()) {
            Some(from) => from,
            None => {
                self.fill(offset, available.max(WINDOW_BYTES))?;
                0
            }
        };
        let to = from.saturating_add(available).min(self.bytes.len());
        Ok(self.bytes.get(from..to).unwrap_or(&[]))
    }

    fn fill(&mut self, offset: u64, length: usize) -> Result<(), StorageError> {
        self.start = offset;
        self.bytes.resize(length, 0);
        match self.file.read_at(offset, &mut self.bytes) {
            Ok(read) => self.bytes.truncate(read),
            Err(StorageError::Device) => self.fill_page_by_page(offset),
            Err(error) => {
                self.bytes.clear();
                return Err(error);
            }
        }
        Ok(())
    }

    fn fill_page_by_page(&mut self, offset: u64) {
        let mut at = offset;
        for page in self.bytes.chunks_mut(PAGE_BYTES) {
            page.fill(0);
            if self.file.read_at(at, page).is_err() {
                page.fill(0);
            }
            at = at.saturating_add(page.len() as u64);
        }
        let available = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        self.bytes.truncate(available);
    }
}

/// Takes every record: where it starts, whether marks must note it, header and body.
pub(super) type Visit<'a> = dyn FnMut(u64, bool, &Header, &[u8]) + 'a;

/// How the scan of a segment ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Scanned {
    /// End of the last record, at a sector.
    pub(super) end: u64,
    /// The sequence that would come next.
    pub(super) next: Sequence,
    pub(super) damage: Vec<Damage>,
    /// First and last sequence of records of which nothing is known any more, not even whose they were.
    pub(super) lost: Vec<(Sequence, Sequence)>,
    pub(super) tail: Option<Tail>,
}

/// A scan under way.
pub(super) struct Scan<'a> {
    pub(super) segment: &'a SegmentHeader,
    pub(super) window: Window,
    /// Records of this segment above it are void, since the next segment begins after it.
    pub(super) limit: Sequence,
    /// The highest sequence known to be durable, from this and later segments; the scan raises it.
    pub(super) durable_through: Sequence,
}

impl Scan<'_> {
    /// Visits all records. The first expected one is the segment's first.
    pub(super) fn run(&mut self, visit: &mut Visit<'_>) -> Result<Scanned, StorageError> {
        let mut out = Scanned { end: DATA_START, next: self.segment.first_sequence, ..Scanned::default() };
        let mut at = DATA_START;
        let mut surveyed = None;
        let mut force_mark = false;
        while out.next <= self.limit && at < self.stop() {
            if let Some((place, header)) = self.expected(at, out.next)? {
                force_mark |= place != at;
                at = place;
                self.durable_through = self.durable_through.max(header.durable_through);
                let body = self.window.get(at, header.record_bytes())?.get(HEADER_BYTES..).unwrap_or(&[]);
                visit(at, force_mark, &header, body);
                force_mark = false;
                at = header.next_offset(at);
                out.end = next_sector(at);
                out.next = header.sequence.next();
                continue;
            }
            let survey = match surveyed {
                Some(survey) => survey,
                None => *surveyed.insert(self.survey(at)?),
            };
            self.durable_through = self.durable_through.max(survey.durable_through);
            if let Some(header) = self.bodiless(at, out.next)? {
                // Number and chain are known; only what it says is lost.
                visit(at, force_mark, &header, &[]);
                force_mark = false;
                let length = header.record_bytes() as u64;
                out.damage.push(self.damage(at, length, out.next, out.next));
                at = header.next_offset(at);
                out.end = next_sector(at);
                out.next = header.sequence.next();
                continue;
            }
            let Some(resumed) = self.bridge(at, survey, &mut out)? else { break };
            at = resumed;
            force_mark = true;
        }
        Ok(out)
    }

    /// Behind the place `at` where the next record should be: where the scan goes on, or `None` at the end.
    fn bridge(&mut self, at: u64, survey: Survey, out: &mut Scanned) -> Result<Option<u64>, StorageError> {
        if !self.segment.is_sparse() && out.next > self.durable_through {
            // What stays of a group that was cut short shares its last sector with the tail; that sector is whole,
            // it is never written again, and the next group starts behind it.
            let offset = next_sector(at);
            let length = survey.last_nonzero.saturating_sub(offset);
            out.tail = Some(Tail { segment: self.segment.id, offset, length });
            return Ok(None);
        }
        let resumed = self.resume(at, out.next)?;
        let (end, next) = match resumed {
            Some((place, header)) => (place, header.sequence),
            None => (self.stop().min(self.window.length()), self.durable_end().next()),
        };
        out.damage.push(self.damage(at, end.saturating_sub(at), out.next, next.before()));
        if next > out.next {
            out.lost.push((out.next, next.before()));
        }
        out.next = next;
        Ok(resumed.map(|(place, _)| place))
    }

    fn damage(&self, offset: u64, length: u64, first: Sequence, last: Sequence) -> Damage {
        Damage { segment: self.segment.id, kind: DamageKind::Records, offset, length, first, last }
    }

    /// The durable record at `at` whose header holds and whose body does not.
    fn bodiless(&mut self, at: u64, next: Sequence) -> Result<Option<Header>, StorageError> {
        let header = Header::decode(self.window.get(at, HEADER_BYTES)?);
        let durable_end = self.durable_end();
        Ok(header.filter(|header| {
            let inside = at.saturating_add(header.record_bytes() as u64) <= self.window.length();
            let durable = header.sequence <= durable_end && self.follows(header, next);
            header.salt == self.segment.salt && inside && durable
        }))
    }

    /// The next record behind `at` that continues the log: durable itself, or the first one that is not.
    fn resume(&mut self, at: u64, expected: Sequence) -> Result<Option<(u64, Header)>, StorageError> {
        let last = self.durable_end().next().min(self.limit);
        let mut place = at.saturating_add(STEP);
        while let Some(found) = self.next_magic(place)? {
            if let Some(header) = self.record(found)?
                && (expected..=last).contains(&header.sequence)
            {
                return Ok(Some((found, header)));
            }
            place = found.saturating_add(STEP);
        }
        Ok(None)
    }

    /// The last sequence of this segment that is known to be durable.
    fn durable_end(&self) -> Sequence {
        if self.segment.is_sparse() { self.limit } else { self.durable_through.min(self.limit) }
    }

    /// The record that continues the log at `at`, or at the next sector if a crash cut the group at `at` short.
    fn expected(&mut self, at: u64, next: Sequence) -> Result<Option<(u64, Header)>, StorageError> {
        if let Some(header) = self.record(at)?.filter(|header| self.follows(header, next)) {
            return Ok(Some((at, header)));
        }
        let sector = next_sector(at);
        if self.segment.is_sparse() || sector == at {
            return Ok(None);
        }
        Ok(self.record(sector)?.filter(|header| self.follows(header, next)).map(|header| (sector, header)))
    }

    fn follows(&self, header: &Header, expected: Sequence) -> bool {
        if self.segment.is_sparse() {
            return (expected..=self.limit).contains(&header.sequence);
        }
        header.sequence == expected
    }

    fn stop(&self) -> u64 {
        if self.segment.is_sparse() { self.segment.data_end } else { self.window.length() }
    }

    /// The record at a place, if its checksums and its salt hold.
    fn record(&mut self, at: u64) -> Result<Option<Header>, StorageError> {
        let Some(header) = Header::decode(self.window.get(at, HEADER_BYTES)?) else { return Ok(None) };
        let end = at.saturating_add(header.record_bytes() as u64);
        if header.salt != self.segment.salt || end > self.window.length() {
            return Ok(None);
        }
        let record = self.window.get(at, header.record_bytes())?;
        let body = record.get(HEADER_BYTES..).unwrap_or(&[]);
        Ok((crc32c::crc32c(body) == header.body_crc).then_some(header))
    }

    /// Looks through everything from `at` on.
    fn survey(&mut self, at: u64) -> Result<Survey, StorageError> {
        let mut survey = Survey { durable_through: Sequence(0), last_nonzero: at };
        let mut place = at;
        while let Some(found) = self.next_magic(place)? {
            if let Some(header) = Header::decode(self.window.get(found, HEADER_BYTES)?)
                && header.salt == self.segment.salt
            {
                survey.durable_through = survey.durable_through.max(header.durable_through);
            }
            place = found.saturating_add(STEP);
        }
        let mut page = at;
        while page < self.window.length() {
            let bytes = self.window.get(page, PAGE_BYTES)?;
            if let Some(last) = bytes.iter().rposition(|&byte| byte != 0) {
                survey.last_nonzero = page.saturating_add(last as u64).saturating_add(1);
            }
            page = page.saturating_add(PAGE_BYTES as u64);
        }
        Ok(survey)
    }

    /// The first place from `at` on where a record might start.
    fn next_magic(&mut self, at: u64) -> Result<Option<u64>, StorageError> {
        let mut page = at;
        while page < self.window.length() {
            let bytes = self.window.get(page, PAGE_BYTES)?;
            let starts = bytes.chunks(usize::try_from(STEP).unwrap_or(8));
            let found = starts.zip(0_u64..).find(|(step, _)| step.starts_with(&Header::MAGIC));
            if let Some((_, step)) = found {
                return Ok(Some(page.saturating_add(step.saturating_mul(STEP))));
            }
            page = page.saturating_add(PAGE_BYTES as u64);
        }
        Ok(None)
    }
}

/// What lies behind a place where a record is missing.
#[derive(Clone, Copy)]
struct Survey {
    durable_through: Sequence,
    last_nonzero: u64,
}

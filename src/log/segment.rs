//! A segment: one preallocated file of records, and how a record is found in it.
//!
//! The file begins with two copies of a header sector, then records from [`DATA_START`] on. A segment is *dense* while
//! it is written (every sequence from its first one on) and *sparse* once compaction has rewritten it; a sparse one
//! says in its header where its data ends and up to which sequence it stands for.
//!
//! Invariants: bytes below `end` are durable (under `sync = always`) and never written again; a record is found by the
//! marks, one per [`MARK_BYTES`], and a few hops from header to header.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::body::Body;
use super::error::{OpenError, ReadError, StorageError};
use super::record::{HEADER_BYTES, Header, Sequence, put, take};
use super::scan::{Scan, Scanned, Visit, Window};
use super::storage::{SECTOR_BYTES, StorageFile, View};

/// Where the first record starts.
pub const DATA_START: u64 = 2 * SECTOR_BYTES as u64;
/// Format version this program writes, and the highest it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Distance of the marks that find a record by its sequence: 8 bytes of memory each.
pub const MARK_BYTES: u64 = 8192;

const MAGIC: [u8; 8] = *b"MILLPOND";
const BYTE_ORDER: u32 = 0x0102_0304;
const SUFFIX: &str = ".seg";
const QUARANTINED_SUFFIX: &str = ".seg.quarantined";
const TEMPORARY_SUFFIX: &str = ".tmp";
/// Name of the file held back for records that free something.
pub const APPEND_RESERVE: &str = "append.reserve";
/// Name of the file held back for compaction.
pub const COMPACT_RESERVE: &str = "compact.reserve";

/// What a file name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileName {
    /// A segment.
    Segment(u64),
    /// A segment in which damage was found: read, but never written, compacted or removed.
    Quarantined(u64),
    /// Left by an unfinished step.
    Temporary,
    /// Room that is held back for a full disk.
    Reserve,
    /// Not the log's.
    Other,
}

impl FileName {
    /// Reads a file name.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        let id = |digits: &str| {
            let all_hex =
                digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            all_hex.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        if name.ends_with(TEMPORARY_SUFFIX) {
            return Self::Temporary;
        }
        if name == APPEND_RESERVE || name == COMPACT_RESERVE {
            return Self::Reserve;
        }
        if let Some(id) = name.strip_suffix(QUARANTINED_SUFFIX).and_then(id) {
            return Self::Quarantined(id);
        }
        name.strip_suffix(SUFFIX).and_then(id).map_or(Self::Other, Self::Segment)
    }
}

/// Name of a segment file.
#[must_use]
pub fn segment_name(id: u64) -> String {
    format!("{id:016x}{SUFFIX}")
}

/// Name of a segment file with damage.
#[must_use]
pub fn quarantined_name(id: u64) -> String {
    format!("{id:016x}{QUARANTINED_SUFFIX}")
}

/// Name of a segment file that is not finished.
#[must_use]
pub fn temporary_name(id: u64) -> String {
    format!("{id:016x}{TEMPORARY_SUFFIX}")
}

/// First two sectors of a segment, each a copy of:
///
/// | at | bytes | field |
/// |---|---|---|
/// | 0 | 8 | magic |
/// | 8 | 4 | byte order mark |
/// | 12 | 4 | version |
/// | 16 | 4 | CRC-32C over bytes 20 to 511 |
/// | 20 | 4 | salt |
/// | 24 | 8 | log id |
/// | 32 | 8 | segment id |
/// | 40 | 8 | first sequence |
/// | 48 | 8 | durable through, when the segment was made |
/// | 56 | 8 | capacity: length of the file |
/// | 64 | 8 | covers through: last sequence a sparse segment stands for, 0 for a dense one |
/// | 72 | 8 | data end of a sparse segment, 0 for a dense one |
/// | 80 | 16 | secret of the key hash |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Every record of the segment carries it.
    pub salt: u32,
    /// All segments of a log carry it.
    pub log_id: u64,
    /// Segments are ordered by it.
    pub id: u64,
    /// Records of earlier segments from this sequence on are void.
    pub first_sequence: Sequence,
    /// What was durable when the segment was made.
    pub durable_through: Sequence,
    /// Length of the file.
    pub capacity: u64,
    /// For a sparse segment the last sequence it stands for, else 0.
    pub covers_through: Sequence,
    /// For a sparse segment the end of its last record, else 0.
    pub data_end: u64,
    /// Secret of the key hash.
    pub secret: [u8; 16],
}

/// What the first two sectors say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderState {
    /// Both copies agree.
    Good(SegmentHeader),
    /// One copy is damaged.
    Half(SegmentHeader),
    /// Neither copy can be read.
    Damaged,
}

impl SegmentHeader {
    /// True for the output of compaction.
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        self.covers_through != Sequence(0)
    }

    /// Both copies.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut sector = [0; SECTOR_BYTES];
        let mut rest = sector.as_mut_slice();
        put(&mut rest, MAGIC);
        put(&mut rest, BYTE_ORDER.to_le_bytes());
        put(&mut rest, FORMAT_VERSION.to_le_bytes());
        put(&mut rest, [0; 4]);
        put(&mut rest, self.salt.to_le_bytes());
        put(&mut rest, self.log_id.to_le_bytes());
        put(&mut rest, self.id.to_le_bytes());
        put(&mut rest, self.first_sequence.0.to_le_bytes());
        put(&mut rest, self.durable_through.0.to_le_bytes());
        put(&mut rest, self.capacity.to_le_bytes());
        put(&mut rest, self.covers_through.0.to_le_bytes());
        put(&mut rest, self.data_end.to_le_bytes());
        put(&mut rest, self.secret);
        let crc = sector.get(20..).map_or(0, crc32c::crc32c);
        if let Some(field) = sector.get_mut(16..20) {
            field.copy_from_slice(&crc.to_le_bytes());
        }
        [sector, sector].concat()
    }

    /// Reads the first two sectors of the file named after segment `id`.
    ///
    /// # Errors
    /// What must not be opened at all (bad-input.md S16): a later version, the other byte order.
    pub fn decode(id: u64, bytes: &[u8]) -> Result<HeaderState, OpenError> {
        let (first, second) = bytes.split_at_checked(SECTOR_BYTES).unwrap_or((bytes, &[]));
        let copies = (Copy::decode(first), Copy::decode(second));
        match copies {
            (Copy::Good(header), Copy::Good(other)) if header == other => Ok(HeaderState::Good(header)),
            (Copy::Good(header), _) | (_, Copy::Good(header)) => Ok(HeaderState::Half(header)),
            (Copy::Future(version), _) | (_, Copy::Future(version)) => {
                Err(OpenError::FutureVersion { segment: id, version, supported: FORMAT_VERSION })
            }
            (Copy::OtherByteOrder, Copy::OtherByteOrder) => Err(OpenError::ByteOrder { segment: id }),
            _ => Ok(HeaderState::Damaged),
        }
    }
}

/// One of the two header sectors.
#[derive(Clone, Copy)]
enum Copy {
    Good(SegmentHeader),
    Future(u32),
    OtherByteOrder,
    Damaged,
}

impl Copy {
    fn decode(sector: &[u8]) -> Self {
        Self::parse(sector).unwrap_or(Self::Damaged)
    }

    fn parse(sector: &[u8]) -> Option<Self> {
        let mut rest = sector.get(..SECTOR_BYTES)?;
        if take::<8>(&mut rest)? != MAGIC {
            return None;
        }
        let byte_order = u32::from_le_bytes(take(&mut rest)?);
        let version = u32::from_le_bytes(take(&mut rest)?);
        let crc = u32::from_le_bytes(take(&mut rest)?);
        let intact = crc == crc32c::crc32c(rest);
        if byte_order == BYTE_ORDER.swap_bytes() {
            return Some(Self::OtherByteOrder);
        }
        if byte_order != BYTE_ORDER || !intact || version == 0 {
            return None;
        }
        if version > FORMAT_VERSION {
            return Some(Self::Future(version));
        }
        let salt = u32::from_le_bytes(take(&mut rest)?);
        let mut number = || Some(u64::from_le_bytes(take(&mut rest)?));
        let log_id = number()?;
        let id = number()?;
        let first_sequence = Sequence(number()?);
        let durable_through = Sequence(number()?);
        let capacity = number()?;
        let covers_through = Sequence(number()?);
        let data_end = number()?;
        let secret = take(&mut rest)?;
        Some(Self::Good(SegmentHeader {
            salt,
            log_id,
            id,
            first_sequence,
            durable_through,
            capacity,
            covers_through,
            data_end,
            secret,
        }))
    }
}

/// Finds a record near its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Sequence of the record, less the first sequence of the segment.
    pub(super) sequence: u32,
    /// Where it starts.
    pub(super) offset: u32,
}

/// Marks of a segment, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    marks: Vec<Mark>,
}

impl Marks {
    /// Notes a record if it is far enough from the last mark, or if `force` says that it can not be reached by hops.
    pub(super) fn note(&mut self, first: Sequence, sequence: Sequence, offset: u64, force: bool) {
        let far =
            self.marks.last().is_none_or(|mark| offset >= u64::from(mark.offset).saturating_add(MARK_BYTES));
        if !far && !force {
            return;
        }
        let relative = u32::try_from(sequence.0.saturating_sub(first.0));
        if let (Ok(sequence), Ok(offset)) = (relative, u32::try_from(offset)) {
            self.marks.push(Mark { sequence, offset });
        }
    }

    /// The last mark at or before a record.
    fn before(&self, first: Sequence, sequence: Sequence) -> Option<Mark> {
        let relative = u32::try_from(sequence.0.checked_sub(first.0)?).ok()?;
        let after = self.marks.partition_point(|mark| mark.sequence <= relative);
        self.marks.get(after.checked_sub(1)?).copied()
    }

    pub(super) fn as_slice(&self) -> &[Mark] {
        &self.marks
    }

    pub(super) fn from_vec(marks: Vec<Mark>) -> Self {
        Self { marks }
    }
}

/// An open segment, shared by the writer and the readers.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    pub(super) file: Arc<dyn StorageFile>,
    view: RwLock<Option<Arc<dyn View>>>,
    marks: RwLock<Marks>,
    end: AtomicU64,
    last: AtomicU64,
    quarantined: AtomicBool,
    /// Nothing has been published yet.
    resumed: AtomicBool,
}

/// A record in a segment: its header and where it starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) header: Header,
    pub(super) offset: u64,
}

impl Segment {
    pub(super) fn new(
        header: SegmentHeader,
        file: Arc<dyn StorageFile>,
        marks: Marks,
        end: u64,
        last: Sequence,
        quarantined: bool,
    ) -> Self {
        Self {
            header,
            file,
            view: RwLock::new(None),
            marks: RwLock::new(marks),
            end: AtomicU64::new(end),
            last: AtomicU64::new(last.0),
            quarantined: AtomicBool::new(quarantined),
            resumed: AtomicBool::new(true),
        }
    }

    /// End of the readable bytes.
    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Last readable sequence; one less than the first while there is none.
    pub(super) fn last(&self) -> Sequence {
        Sequence(self.last.load(Ordering::Acquire))
    }

    /// Last sequence this segment stands for.
    pub(super) fn covers(&self) -> Sequence {
        if self.header.is_sparse() { self.header.covers_through } else { self.last() }
    }

    pub(super) fn is_quarantined(&self) -> bool {
        self.quarantined.load(Ordering::Relaxed)
    }

    pub(super) fn set_quarantined(&self) {
        self.quarantined.store(true, Ordering::Relaxed);
    }

    /// Opens what a group added to readers.
    pub(super) fn publish(&self, records: &[(Sequence, u64)], end: u64) {
        {
            // The group before the first one of this run may have been cut short by a crash: no hop leads here.
            let mut force = self.resumed.swap(false, Ordering::Relaxed);
            let mut marks = self.marks.write().unwrap_or_else(PoisonError::into_inner);
            for &(sequence, offset) in records {
                marks.note(self.header.first_sequence, sequence, offset, std::mem::take(&mut force));
            }
        }
        self.end.store(end, Ordering::Release);
        if let Some(&(last, _)) = records.last() {
            self.last.store(last.0, Ordering::Release);
        }
    }

    pub(super) fn marks(&self) -> Marks {
        self.marks.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the memory map back; the next read maps again.
    pub(super) fn release_view(&self) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn view(&self) -> Result<Arc<dyn View>, StorageError> {
        if let Some(view) = self.view.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            return Ok(Arc::clone(view));
        }
        let mut slot = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let view = self.file.view()?;
        *slot = Some(Arc::clone(&view));
        Ok(view)
    }

    /// Finds a record by its sequence.
    ///
    /// # Errors
    /// [`ReadError::Gone`] if the segment does not hold it, [`ReadError::Damaged`] if it should and can not.
    pub(super) fn find(&self, sequence: Sequence) -> Result<Place, ReadError> {
        let first = self.header.first_sequence;
        let mark = self.marks.read().unwrap_or_else(PoisonError::into_inner).before(first, sequence);
        let Some(mark) = mark else { return Err(self.missing(sequence)) };
        let end = self.end();
        let view = self.view()?;
        let mut at = u64::from(mark.offset);
        // One window covers the hops to the next mark; only a longer record needs another.
        let mut window = (at, view.bytes(at, window_length(at, end))?);
        while at < end {
            if at.saturating_add(HEADER_BYTES as u64) > window.0.saturating_add(window.1.len() as u64) {
                window = (at, view.bytes(at, window_length(at, end))?);
            }
            let inside = usize::try_from(at.saturating_sub(window.0)).unwrap_or(usize::MAX);
            let header = window.1.get(inside..).and_then(Header::decode);
            match header.filter(|header| header.salt == self.header.salt) {
                Some(header) if header.sequence == sequence => return Ok(Place { header, offset: at }),
                Some(header) if header.sequence < sequence => at = header.next_offset(at),
                _ => break,
            }
        }
        Err(self.missing(sequence))
    }

    /// Reads and checks the body of a record.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if checksum or archive do not hold.
    pub(super) fn body(&self, place: &Place) -> Result<Body, ReadError> {
        let view = self.view()?;
        let bytes = self.body_bytes(view.as_ref(), place)?;
        Body::decode(place.header.kind, &bytes).ok_or(ReadError::Damaged(place.header.sequence))
    }

    fn body_bytes<'a>(&self, view: &'a dyn View, place: &Place) -> Result<Cow<'a, [u8]>, ReadError> {
        let start = place.offset.saturating_add(HEADER_BYTES as u64);
        let length = place.header.length as usize;
        if start.saturating_add(length as u64) > self.end() {
            return Err(ReadError::Damaged(place.header.sequence));
        }
        let bytes = view.bytes(start, length)?;
        if crc32c::crc32c(&bytes) != place.header.body_crc {
            return Err(ReadError::Damaged(place.header.sequence));
        }
        Ok(bytes)
    }

    /// Reads all records of the segment from the file.
    pub(super) fn scan(&self, visit: &mut Visit<'_>) -> Result<Scanned, StorageError> {
        let limit = self.covers();
        let window = Window::new(Arc::clone(&self.file))?;
        Scan { segment: &self.header, window, limit, durable_through: limit }.run(visit)
    }

    fn missing(&self, sequence: Sequence) -> ReadError {
        // A sparse segment has gaps by design.
        if self.header.is_sparse() && !self.is_quarantined() {
            return ReadError::Gone(sequence);
        }
        ReadError::Damaged(sequence)
    }
}

/// The next sector boundary: where a group starts if the one before it was cut short by a crash.
pub(super) fn next_sector(offset: u64) -> u64 {
    offset.checked_next_multiple_of(SECTOR_BYTES as u64).unwrap_or(u64::MAX)
}

fn window_length(offset: u64, end: u64) -> usize {
    let wanted = MARK_BYTES.saturating_add(HEADER_BYTES as u64);
    usize::try_from(end.saturating_sub(offset).min(wanted)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            salt: 1,
            log_id: 2,
            id: 3,
            first_sequence: Sequence(4),
            durable_through: Sequence(3),
            capacity: 65_536,
            covers_through: Sequence(0),
            data_end: 0,
            secret: [9; 16],
        }
    }

    #[test]
    fn one_damaged_copy_is_noticed_and_survived() {
        let bytes = header().encode();
        assert_eq!(bytes.len() as u64, DATA_START);
        assert_eq!(SegmentHeader::decode(3, &bytes), Ok(HeaderState::Good(header())));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(SegmentHeader::decode(3, &damaged), Ok(HeaderState::Half(header())), "byte {at}");
        }
        assert_eq!(SegmentHeader::decode(3, &[0; 1024]), Ok(HeaderState::Damaged));
        assert_eq!(SegmentHeader::decode(3, &[]), Ok(HeaderState::Damaged));
    }

    #[test]
    fn future_and_foreign_order_are_refused() {
        let mut future = header().encode();
        for copy in [0, SECTOR_BYTES] {
            future[copy + 12] = 2;
        }
        let refused = OpenError::FutureVersion { segment: 3, version: 2, supported: 1 };
        assert_eq!(SegmentHeader::decode(3, &future), Err(refused));
        let mut swapped = header().encode();
        for copy in [0, SECTOR_BYTES] {
            swapped[copy + 8..copy + 12].reverse();
        }
        assert_eq!(SegmentHeader::decode(3, &swapped), Err(OpenError::ByteOrder { segment: 3 }));
    }

    #[test]
    fn names_are_read_back() {
        assert_eq!(FileName::parse(&segment_name(0xab)), FileName::Segment(0xab));
        assert_eq!(FileName::parse(&quarantined_name(7)), FileName::Quarantined(7));
        assert_eq!(FileName::parse(&temporary_name(7)), FileName::Temporary);
        assert_eq!(FileName::parse(APPEND_RESERVE), FileName::Reserve);
        for other in ["LOCK", "1.seg", "+00000000000000a.seg", "00000000000000AB.seg", ".seg", ""] {
            assert_eq!(FileName::parse(other), FileName::Other, "{other}");
        }
    }
}

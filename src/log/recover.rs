//! Opens a log as a crash left it. Everything is read before anything is written, and what is written (a torn tail
//! turned to zeros, leftovers removed, damaged segments renamed) leads the next recovery to the same verdicts, so one
//! that is killed at any point converges (S19).

use std::sync::Arc;

use super::error::{OpenError, StorageError};
use super::files::LOCK_NAME;
use super::index::Index;
use super::loss::{Loss, Losses};
use super::record::{Header, Kind, Sequence};
use super::scan::{Damage, DamageKind, Scan, Scanned, Tail, Window};
use super::segment::{
    DATA_START, FileName, HeaderState, Marks, Segment, SegmentHeader, quarantined_name, segment_name,
};
use super::shared::Identity;
use super::snapshot::{self, Present, SNAPSHOT_NAME, Snapshot};
use super::storage::{SECTOR_BYTES, Storage, StorageFile};

/// What recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RecoveryReport {
    /// The log had been closed in an orderly way: a start takes the index from its snapshot and reads no record.
    pub clean: bool,
    /// Segments of the log.
    pub segments: usize,
    /// Records read.
    pub records: u64,
    /// Bytes of these records.
    pub bytes: u64,
    /// Streams in the index.
    pub streams: usize,
    /// The sequence of the next record.
    pub next: Sequence,
    /// The torn tail that was cut, if there was one.
    pub tail: Option<Tail>,
    /// Damage to durable data: an alarm. The segments concerned are in quarantine; the rest of them is served.
    pub damage: Vec<Damage>,
    /// Losses that are new and of which not even the streams are known: every stream that may have lost its newest record
    /// has a new epoch.
    pub new_losses: usize,
    /// Segments in quarantine, from this recovery and earlier ones.
    pub quarantined: Vec<u64>,
    /// Unfinished files that were removed.
    pub removed: Vec<String>,
    /// Files in the directory that are not the log's; left alone.
    pub foreign: Vec<String>,
    /// Records of optional kinds that this program does not know; kept, not served.
    pub unknown_optional: u64,
}

/// A log read from its records.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) index: Index,
    pub(super) identity: Identity,
    pub(super) next_id: u64,
    pub(super) next: Sequence,
    /// The highest `durable_through` found.
    pub(super) noted_through: Sequence,
    /// The last segment may be appended to.
    pub(super) resume: bool,
    /// Losses for which streams have new epochs, and of which nothing stands in the log yet.
    pub(super) losses: Vec<Loss>,
    /// Of all losses that ever were.
    pub(super) loss_marks: u64,
    pub(super) report: RecoveryReport,
}

/// A segment file before its records are read.
struct Found {
    id: u64,
    file: Arc<dyn StorageFile>,
    length: u64,
    header: Option<SegmentHeader>,
    quarantined: bool,
}

/// Reads everything, then repairs.
pub(super) fn recover(storage: &dyn Storage, seed: &[u8; 16], now: u32) -> Result<Recovered, OpenError> {
    let mut recovered = read(storage, seed, now, Source::Snapshot)?;
    repair(storage, &mut recovered)?;
    Ok(recovered)
}

/// Where the index may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// From the snapshot if it fits, else from the records: a start.
    Snapshot,
    /// From the records: a look at all of it.
    Records,
}

/// Reads a log and changes nothing.
pub(super) fn read(
    storage: &dyn Storage,
    seed: &[u8; 16],
    now: u32,
    source: Source,
) -> Result<Recovered, OpenError> {
    let mut report = RecoveryReport::default();
    let found = find_segments(storage, &mut report)?;
    let identity = identity_of(&found, seed, now)?;
    let next_id = found.last().map_or(1, |last| last.id.saturating_add(1));
    let snapshot = if report.damage.is_empty() { read_snapshot(storage, &found) } else { None };
    report.clean = snapshot.is_some();
    if source == Source::Snapshot
        && let Some(snapshot) = snapshot
    {
        return Ok(conclude_clean(snapshot, identity, next_id, report));
    }
    let mut recovered = Recovered {
        segments: Vec::new(),
        index: Index::default(),
        identity,
        next_id,
        next: Sequence(1),
        noted_through: found
            .iter()
            .filter_map(|f| f.header)
            .map(|h| h.durable_through)
            .max()
            .unwrap_or_default(),
        resume: false,
        losses: Vec::new(),
        loss_marks: 0,
        report,
    };
    let mut losses = Losses::default();
    for (at, segment) in found.iter().enumerate() {
        let later = found.get(at.saturating_add(1)..).unwrap_or(&[]);
        read_segment(segment, later, &mut recovered, &mut losses)?;
    }
    (recovered.losses, recovered.loss_marks) = losses.conclude(recovered.next);
    recovered.report.new_losses = recovered.losses.len();
    for loss in &recovered.losses {
        recovered.index.renew(loss.before, loss.mark);
    }
    recovered.sum_up();
    Ok(recovered)
}

fn read_snapshot(storage: &dyn Storage, found: &[Found]) -> Option<Snapshot> {
    let present: Option<Vec<Present>> = found
        .iter()
        .map(|found| {
            let (header, quarantined) = (found.header?, found.quarantined);
            Some(Present { header, file: Arc::clone(&found.file), quarantined })
        })
        .collect();
    snapshot::read(storage, &present?)
}

fn conclude_clean(snapshot: Snapshot, identity: Identity, next_id: u64, report: RecoveryReport) -> Recovered {
    let Snapshot { next, noted_through, loss_marks, segments, index } = snapshot;
    let (resume, losses) = (false, Vec::new());
    let mut recovered = Recovered {
        segments,
        index,
        identity,
        next_id,
        next,
        noted_through,
        resume,
        losses,
        loss_marks,
        report,
    };
    recovered.sum_up();
    recovered
}

impl Recovered {
    fn sum_up(&mut self) {
        let report = &mut self.report;
        report.segments = self.segments.len();
        report.streams = self.index.len();
        report.next = self.next;
        let quarantined = self.segments.iter().filter(|segment| segment.is_quarantined());
        report.quarantined.extend(quarantined.map(|segment| segment.header.id));
        report.quarantined.sort_unstable();
        self.resume = self.segments.last().is_some_and(|last| {
            let newest = last.header.id.saturating_add(1) == self.next_id;
            newest && !last.header.is_sparse() && !last.is_quarantined()
        });
    }
}

fn find_segments(storage: &dyn Storage, report: &mut RecoveryReport) -> Result<Vec<Found>, OpenError> {
    let mut names = storage.list()?;
    names.sort_unstable();
    let mut found: Vec<Found> = Vec::new();
    for name in names {
        let (id, quarantined) = match FileName::parse(&name) {
            FileName::Segment(id) => (id, false),
            FileName::Quarantined(id) => (id, true),
            FileName::Temporary => {
                report.removed.push(name);
                continue;
            }
            FileName::Reserve => continue,
            FileName::Other => {
                if name != LOCK_NAME && name != SNAPSHOT_NAME {
                    report.foreign.push(name);
                }
                continue;
            }
        };
        // A rename leaves one name; whoever copied a segment beside its quarantined self gets the first.
        if found.last().is_some_and(|last| last.id == id) {
            report.foreign.push(name);
            continue;
        }
        let file = storage.open(&name)?;
        found.push(read_header(id, file, quarantined, report)?);
    }
    Ok(found)
}

fn read_header(
    id: u64,
    file: Arc<dyn StorageFile>,
    mut quarantined: bool,
    report: &mut RecoveryReport,
) -> Result<Found, OpenError> {
    let mut window = Window::new(Arc::clone(&file))?;
    let length = window.length();
    let bytes = window.get(0, usize::try_from(DATA_START).unwrap_or(usize::MAX))?;
    let state = SegmentHeader::decode(id, bytes)?;
    let (header, kind) = match state {
        HeaderState::Good(header) => (Some(header), None),
        HeaderState::Half(header) => (Some(header), Some(DamageKind::HeaderCopy)),
        HeaderState::Damaged => (None, Some(DamageKind::Header)),
    };
    let mut damaged = |kind, length| {
        quarantined = true;
        let none = Sequence(0);
        report.damage.push(Damage { segment: id, kind, offset: 0, length, first: none, last: none });
    };
    if let Some(kind) = kind {
        damaged(kind, DATA_START);
    }
    if header.is_some_and(|header| header.capacity != length) {
        damaged(DamageKind::FileLength, length);
    }
    if header.is_some_and(|header| header.id != id) {
        return Err(OpenError::Foreign { segment: id });
    }
    Ok(Found { id, file, length, header, quarantined })
}

/// The identity that all segments share, or a fresh one.
fn identity_of(found: &[Found], seed: &[u8; 16], now: u32) -> Result<Identity, OpenError> {
    let mut identity = None;
    for segment in found {
        let Some(header) = segment.header else { continue };
        let own = Identity { log_id: header.log_id, secret: header.secret };
        if *identity.get_or_insert(own) != own {
            return Err(OpenError::Foreign { segment: segment.id });
        }
    }
    Ok(identity.unwrap_or_else(|| {
        let hasher = siphasher::sip::SipHasher13::new_with_key(seed);
        Identity { log_id: hasher.hash(&now.to_le_bytes()), secret: *seed }
    }))
}

fn read_segment(
    found: &Found,
    later: &[Found],
    recovered: &mut Recovered,
    losses: &mut Losses,
) -> Result<(), OpenError> {
    let Some(header) = found.header else {
        // Nothing in it can be read. Its id is not used again.
        recovered.report.quarantined.push(found.id);
        losses.open_end(found.id);
        return Ok(());
    };
    // What a compaction has merged into this segment does not end it.
    let next = later
        .iter()
        .filter_map(|later| later.header)
        .find(|next| !header.is_sparse() || next.first_sequence > header.covers_through);
    let fence = next.map_or(Sequence(u64::MAX), |next| next.first_sequence.before());
    if header.first_sequence < recovered.next
        && recovered.segments.last().is_some_and(|s| s.header.is_sparse())
    {
        // A compaction merged it into the one before and was killed before it removed it (S10).
        recovered.report.removed.push(segment_name(found.id));
        return Ok(());
    }
    let limit = if header.is_sparse() { fence.min(header.covers_through) } else { fence };
    let mut marks = Marks::default();
    let mut unknown = None;
    let window = Window::new(Arc::clone(&found.file))?;
    let mut scan = Scan { segment: &header, window, limit, durable_through: recovered.noted_through };
    let index = &recovered.index;
    let report = &mut recovered.report;
    let mut visit = |offset: u64, force: bool, record: &Header, _: &[u8]| {
        marks.note(header.first_sequence, record.sequence, offset, force);
        report.records = report.records.saturating_add(1);
        report.bytes = report.bytes.saturating_add(record.record_bytes() as u64);
        match record.kind {
            Kind::Unknown(kind) => unknown = Some(kind),
            Kind::Loss => {
                index.renew(Sequence(record.offset), record.previous);
                losses.note(record.previous);
            }
            Kind::Optional(_) => report.unknown_optional = report.unknown_optional.saturating_add(1),
            _ => index.apply(record),
        }
    };
    let scanned = scan.run(&mut visit)?;
    recovered.noted_through = scan.durable_through;
    if let Some(kind) = unknown {
        return Err(OpenError::UnknownKind { segment: found.id, kind });
    }
    if scanned.next > header.first_sequence {
        losses.go_on();
    }
    if !header.is_sparse() && found.length < header.capacity {
        losses.open_end(found.id);
    }
    let lost = conclude(found, &header, next.is_some(), marks, scanned, fence, recovered);
    losses.in_segment(found.id, &lost);
    Ok(())
}

/// Takes the segment in and says which of its records are lost.
fn conclude(
    found: &Found,
    header: &SegmentHeader,
    sealed: bool,
    marks: Marks,
    scanned: Scanned,
    fence: Sequence,
    recovered: &mut Recovered,
) -> Vec<(Sequence, Sequence)> {
    let report = &mut recovered.report;
    let quarantined = found.quarantined || !scanned.damage.is_empty();
    report.damage.extend(scanned.damage);
    let mut lost = scanned.lost;
    let mut next = scanned.next;
    if header.is_sparse() {
        next = next.max(header.covers_through.next());
    } else if sealed && next <= fence {
        report.damage.push(Damage {
            segment: found.id,
            kind: DamageKind::Unsynced,
            offset: scanned.end,
            length: found.length.saturating_sub(scanned.end),
            first: next,
            last: fence,
        });
        lost.push((next, fence));
        next = fence.next();
    }
    if !sealed {
        report.tail = scanned.tail.filter(|tail| tail.length > 0);
    }
    recovered.next = recovered.next.max(next);
    let last = scanned.next.before();
    // Of a file that was cut short the last sector may be missing in part.
    let end = scanned.end.min(found.length);
    let segment = Segment::new(*header, Arc::clone(&found.file), marks, end, last, quarantined);
    recovered.segments.push(Arc::new(segment));
    lost
}

/// Carries out what was concluded.
fn repair(storage: &dyn Storage, recovered: &mut Recovered) -> Result<(), StorageError> {
    if recovered.resume
        && !recovered.report.clean
        && let Some(last) = recovered.segments.last()
    {
        if let Some(tail) = &recovered.report.tail {
            erase(last, tail)?;
        }
        // After a kill the records may be in the page cache only; from here on they are served and built upon.
        renew(last, recovered.noted_through.next())?;
        last.file.sync_data()?;
    }
    let mut renamed = false;
    for &id in &recovered.report.quarantined {
        match storage.rename(&segment_name(id), &quarantined_name(id)) {
            Ok(()) => renamed = true,
            Err(StorageError::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    // The snapshot speaks of a log to which nothing is appended.
    let snapshot = match storage.remove(SNAPSHOT_NAME) {
        Ok(()) => true,
        Err(StorageError::NotFound) => false,
        Err(error) => return Err(error),
    };
    for name in &recovered.report.removed {
        storage.remove(name)?;
    }
    if renamed || snapshot || !recovered.report.removed.is_empty() {
        storage.sync_directory()?;
    }
    Ok(())
}

/// Writes the records from `first` on once more, with the same bytes. If their sync had failed, the page cache holds them
/// as written, the medium does not, and a sync alone would do nothing.
fn renew(segment: &Segment, first: Sequence) -> Result<(), StorageError> {
    let Ok(place) = segment.find(first.max(segment.header.first_sequence)) else { return Ok(()) };
    let mut window = Window::new(Arc::clone(&segment.file))?;
    let sector = SECTOR_BYTES as u64;
    let mut at = place.offset.checked_div(sector).unwrap_or(0).saturating_mul(sector);
    while at < segment.end() {
        let left = usize::try_from(segment.end().saturating_sub(at)).unwrap_or(usize::MAX);
        let bytes = window.get(at, left.min(64 << 10))?;
        if bytes.is_empty() {
            return Ok(());
        }
        segment.file.write_at(at, bytes)?;
        at = at.saturating_add(bytes.len() as u64);
    }
    Ok(())
}

/// Turns a torn tail into zeros, so that none of it can be taken for the continuation of what is appended next.
fn erase(segment: &Segment, tail: &Tail) -> Result<(), StorageError> {
    let zeros = vec![0; 64 << 10];
    let mut at = segment.end();
    let end = tail.offset.saturating_add(tail.length);
    while at < end {
        let length = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(zeros.len());
        segment.file.write_at(at, zeros.get(..length).unwrap_or(&zeros))?;
        at = at.saturating_add(length as u64);
    }
    Ok(())
}

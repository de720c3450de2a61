//! `millpond log verify | inspect | stats`: looks at a log directory, changes nothing and needs no lock. On a log that
//! is in use the newest records may be missing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::body::Body;
use super::error::{OpenError, StorageError};
use super::files::{Directory, LOCK_NAME};
use super::record::{Class, Header, Kind, Sequence};
use super::recover::{self, Recovered, RecoveryReport, Source};
use super::scan::Window;
use super::segment::{FileName, Segment, quarantined_name, segment_name};
use super::storage::Storage;

/// What `verify` found.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    /// Another process has the log open.
    pub in_use: bool,
    /// What recovery would find, reading every record.
    pub recovery: RecoveryReport,
    /// Records whose checksum holds and whose body is not what its kind says.
    pub unreadable: Vec<Sequence>,
}

impl VerifyReport {
    /// True if nothing that was durable is damaged. A torn tail is no damage.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.recovery.damage.is_empty() && self.recovery.quarantined.is_empty() && self.unreadable.is_empty()
    }
}

/// One segment, for `stats`.
#[derive(Clone, Debug, Serialize)]
pub struct SegmentStats {
    /// File name.
    pub name: String,
    /// Length of the file in bytes.
    pub file_bytes: u64,
    /// Bytes from the first to the last record.
    pub data_bytes: u64,
    /// Records.
    pub records: u64,
    /// First sequence.
    pub first: Sequence,
    /// Last sequence.
    pub last: Sequence,
    /// Rewritten by compaction.
    pub compacted: bool,
    /// Damage was found in it.
    pub quarantined: bool,
}

/// Streams of one class, for `stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClassStats {
    /// Streams.
    pub streams: u64,
    /// Streams in which something waits.
    pub waiting_streams: u64,
    /// Messages that wait: neither acknowledged nor expired with their whole stream.
    pub waiting_messages: u64,
    /// Bytes of these messages.
    pub waiting_bytes: u64,
}

/// What `stats` found.
#[derive(Clone, Debug, Serialize)]
pub struct StatsReport {
    /// Another process has the log open.
    pub in_use: bool,
    /// The segments in order.
    pub segments: Vec<SegmentStats>,
    /// Records by kind.
    pub kinds: BTreeMap<String, u64>,
    /// Mailboxes.
    pub mailboxes: ClassStats,
    /// Histories.
    pub histories: ClassStats,
    /// Queues of webhook events.
    pub webhooks: ClassStats,
    /// Bytes of memory that the index takes when the log is open.
    pub index_bytes: usize,
    /// The sequence of the next record.
    pub next: Sequence,
}

/// One record, for `inspect`. Payloads are not shown, only their length.
#[derive(Clone, Debug, Serialize)]
pub struct Inspected {
    /// Id of the segment.
    pub segment: u64,
    /// Where it starts in the file.
    pub at: u64,
    /// Place in the log.
    pub sequence: Sequence,
    /// Kind.
    pub kind: Kind,
    /// User, channel or queue; empty for watermarks and what cannot be read.
    pub name: String,
    /// Place in the stream, or what a cursor acknowledges.
    pub offset: u64,
    /// Incarnation of the stream.
    pub epoch: u32,
    /// Messages that the stream held after it.
    pub kept: u32,
    /// Seconds since 1970.
    pub written_at: u32,
    /// Seconds since 1970, 0 = never.
    pub expires_at: u32,
    /// What was durable when it was written.
    pub durable_through: Sequence,
    /// Length of the body in bytes.
    pub body_bytes: u32,
    /// The device of a cursor, the id of a message, else empty.
    pub detail: String,
    /// The body is what its kind says.
    pub readable: bool,
}

/// Which records `inspect` shows.
#[derive(Clone, Debug, Default)]
pub struct InspectFilter {
    /// From this sequence on.
    pub from: Sequence,
    /// At most so many; 0 = all.
    pub limit: u64,
    /// Only those of this stream.
    pub name: Option<String>,
}

/// Reads every record of the log in `path` and checks it.
///
/// # Errors
/// Why the log cannot be read at all.
pub fn verify(path: &Path, now: u32) -> Result<VerifyReport, OpenError> {
    let (directory, recovered) = read(path, now)?;
    let mut unreadable = Vec::new();
    visit_records(&recovered.segments, &mut |_, _, header, body| {
        if Body::decode(header.kind, body).is_none() {
            unreadable.push(header.sequence);
        }
        true
    })?;
    // What the scan found damaged has no body.
    unreadable.retain(|sequence| {
        !recovered.report.damage.iter().any(|damage| (damage.first..=damage.last).contains(sequence))
    });
    Ok(VerifyReport { in_use: directory.is_locked(), recovery: recovered.report, unreadable })
}

/// Counts what is in the log in `path`.
///
/// # Errors
/// Why the log cannot be read at all.
pub fn stats(path: &Path, now: u32) -> Result<StatsReport, OpenError> {
    let (directory, recovered) = read(path, now)?;
    let mut kinds = BTreeMap::new();
    let mut records: BTreeMap<u64, u64> = BTreeMap::new();
    visit_records(&recovered.segments, &mut |segment, _, header, _| {
        let of_kind: &mut u64 = kinds.entry(format!("{:?}", header.kind).to_lowercase()).or_default();
        *of_kind = of_kind.saturating_add(1);
        let of_segment = records.entry(segment.header.id).or_default();
        *of_segment = of_segment.saturating_add(1);
        true
    })?;
    let segments = recovered
        .segments
        .iter()
        .map(|segment| segment_stats(segment, records.get(&segment.header.id).copied().unwrap_or(0)));
    let mut report = StatsReport {
        in_use: directory.is_locked(),
        segments: segments.collect::<Result<_, _>>()?,
        kinds,
        mailboxes: ClassStats::default(),
        histories: ClassStats::default(),
        webhooks: ClassStats::default(),
        index_bytes: recovered.index.memory_bytes(),
        next: recovered.next,
    };
    count_streams(&recovered, now, &mut report);
    Ok(report)
}

/// Calls `show` for the records of the log in `path` that pass the filter, in order. Says from where to go on if the
/// limit left some out.
///
/// # Errors
/// Why the log cannot be read at all.
pub fn inspect(
    path: &Path,
    now: u32,
    filter: &InspectFilter,
    show: &mut dyn FnMut(Inspected),
) -> Result<Option<Sequence>, OpenError> {
    let (_, recovered) = read(path, now)?;
    let mut shown = 0_u64;
    let mut next = None;
    visit_records(&recovered.segments, &mut |segment, at, header, body| {
        if header.sequence < filter.from {
            return true;
        }
        let record = inspected(segment.header.id, at, header, Body::decode(header.kind, body).as_ref());
        if filter.name.as_ref().is_some_and(|name| *name != record.name) {
            return true;
        }
        if filter.limit > 0 && shown >= filter.limit {
            next = Some(header.sequence);
            return false;
        }
        show(record);
        shown = shown.saturating_add(1);
        true
    })?;
    Ok(next)
}

fn read(path: &Path, now: u32) -> Result<(Directory, Recovered), OpenError> {
    let directory = Directory::open_existing(path, true)?;
    let is_of_a_log = |name: &String| {
        let of_segment = matches!(FileName::parse(name), FileName::Segment(_) | FileName::Quarantined(_));
        of_segment || name == LOCK_NAME
    };
    if !directory.list()?.iter().any(is_of_a_log) {
        return Err(OpenError::NoLog);
    }
    let mut attempts = 0..3_u8;
    loop {
        match recover::read(&directory, &[0; 16], now, Source::Records) {
            // Compaction has removed a segment between listing and opening it.
            Err(OpenError::Storage(StorageError::NotFound)) if attempts.next().is_some() => {}
            recovered => return Ok((directory, recovered?)),
        }
    }
}

/// Takes a record: its segment, where it starts, header and body. False ends the visit.
type VisitRecord<'a> = dyn FnMut(&Segment, u64, &Header, &[u8]) -> bool + 'a;

/// Calls `visit` with every record until it says false.
fn visit_records(segments: &[Arc<Segment>], visit: &mut VisitRecord<'_>) -> Result<(), StorageError> {
    let mut more = true;
    for segment in segments {
        if !more {
            break;
        }
        segment.scan(&mut |at, _, header, body| more = more && visit(segment, at, header, body))?;
    }
    Ok(())
}

fn segment_stats(segment: &Segment, records: u64) -> Result<SegmentStats, StorageError> {
    let id = segment.header.id;
    let quarantined = segment.is_quarantined();
    Ok(SegmentStats {
        name: if quarantined { quarantined_name(id) } else { segment_name(id) },
        file_bytes: Window::new(Arc::clone(&segment.file))?.length(),
        data_bytes: segment.end().saturating_sub(super::segment::DATA_START),
        records,
        first: segment.header.first_sequence,
        last: segment.last(),
        compacted: segment.header.is_sparse(),
        quarantined,
    })
}

fn count_streams(recovered: &Recovered, now: u32, report: &mut StatsReport) {
    let mut visit = |key: super::record::StreamKey, state: &super::stream::StreamState| {
        let class = match key.class() {
            Some(Class::Mailbox) => &mut report.mailboxes,
            Some(Class::History) => &mut report.histories,
            Some(Class::Webhook) => &mut report.webhooks,
            None => return,
        };
        let waiting = state.pending_at(now);
        class.streams = class.streams.saturating_add(1);
        if waiting > 0 {
            class.waiting_streams = class.waiting_streams.saturating_add(1);
            class.waiting_messages = class.waiting_messages.saturating_add(u64::from(waiting));
            class.waiting_bytes = class.waiting_bytes.saturating_add(u64::from(state.bytes));
        }
    };
    let mut stripe = 0;
    while recovered.index.visit_stripe(stripe, |key, state, _| visit(key, state)) {
        stripe = stripe.saturating_add(1);
    }
}

fn inspected(segment: u64, at: u64, header: &Header, body: Option<&Body>) -> Inspected {
    let detail = match body {
        Some(Body::Cursor(cursor)) => cursor.device.clone(),
        Some(Body::Message(message)) => message.plain_id().to_owned(),
        _ => String::new(),
    };
    Inspected {
        segment,
        at,
        sequence: header.sequence,
        kind: header.kind,
        name: body.map_or(String::new(), |body| body.name().to_owned()),
        offset: header.offset,
        epoch: header.epoch,
        kept: header.kept,
        written_at: header.written_at,
        expires_at: header.expires_at,
        durable_through: header.durable_through,
        body_bytes: header.length,
        detail,
        readable: body.is_some(),
    }
}

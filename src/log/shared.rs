//! What the writer, the readers and the maintenance of one log share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::error::StorageError;
use super::index::Index;
use super::notice::{End, Notice, Notices};
use super::record::{KeyHasher, Sequence};
use super::reserve::Reserve;
use super::segment::Segment;
use super::storage::Storage;

/// Who a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) log_id: u64,
    pub(super) secret: [u8; 16],
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) storage: Box<dyn Storage>,
    pub(super) identity: Identity,
    pub(super) hasher: KeyHasher,
    /// The log and what it has lost: streams that begin now and those that were lost have different epochs.
    pub(super) lineage: u64,
    pub(super) index: Index,
    /// Seconds that the state of a stream outlives its last record.
    pub(super) state_ttl: u32,
    pub(super) status: Status,
    pub(super) reserve: Reserve,
    /// The highest sequence that a finished sync covered.
    durable_through: AtomicU64,
    segments: RwLock<Vec<Arc<Segment>>>,
}

impl Shared {
    pub(super) fn new(
        storage: Box<dyn Storage>,
        identity: Identity,
        segments: Vec<Arc<Segment>>,
        index: Index,
        reserve: Reserve,
        state_ttl: Duration,
        loss_marks: u64,
    ) -> Self {
        Self {
            storage,
            identity,
            hasher: KeyHasher::new(&identity.secret),
            lineage: identity.log_id ^ loss_marks,
            index,
            state_ttl: u32::try_from(state_ttl.as_secs()).unwrap_or(u32::MAX),
            status: Status::default(),
            reserve,
            durable_through: AtomicU64::new(0),
            segments: RwLock::new(segments),
        }
    }

    /// See [`Losses`](super::loss::Losses).
    pub(super) fn loss_marks(&self) -> u64 {
        self.lineage ^ self.identity.log_id
    }

    pub(super) fn durable_through(&self) -> Sequence {
        Sequence(self.durable_through.load(Ordering::Acquire))
    }

    pub(super) fn set_durable_through(&self, sequence: Sequence) {
        self.durable_through.store(sequence.0, Ordering::Release);
    }

    /// True while a request was refused for want of room.
    pub(super) fn is_full(&self) -> bool {
        self.status.fault() == Some(StorageError::DiskFull)
    }

    /// All segments in order.
    pub(super) fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn push_segment(&self, segment: Arc<Segment>) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).push(segment);
    }

    /// Changes the list of segments in one step.
    pub(super) fn edit_segments(&self, edit: impl FnOnce(&mut Vec<Arc<Segment>>)) {
        edit(&mut self.segments.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The segment that stands for a sequence.
    pub(super) fn segment_of(&self, sequence: Sequence) -> Option<Arc<Segment>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let mut at = segments.partition_point(|segment| segment.header.first_sequence <= sequence);
        // A segment that was given up before it took anything shares its first sequence with the next one.
        while let Some(segment) = at.checked_sub(1).and_then(|before| segments.get(before)) {
            if segment.covers() >= sequence {
                return Some(Arc::clone(segment));
            }
            if segment.covers() >= segment.header.first_sequence {
                return None;
            }
            at = at.saturating_sub(1);
        }
        None
    }
}

/// Counters of the log since it was opened.
#[derive(Debug, Default)]
pub(super) struct Status {
    records: AtomicU64,
    bytes: AtomicU64,
    groups: AtomicU64,
    given_up: AtomicU64,
    lost_syncs: AtomicU64,
    expired_reads: AtomicU64,
    damaged_reads: AtomicU64,
    maintenance_failures: AtomicU64,
    fault: Mutex<Option<StorageError>>,
    pub(super) notices: Notices,
}

/// Counters of the log since it was opened, for metrics and `millpond log stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStatus {
    /// Records appended.
    pub records: u64,
    /// Bytes written for them.
    pub bytes: u64,
    /// Groups written.
    pub groups: u64,
    /// Segments given up after a failed write or sync.
    pub segments_given_up: u64,
    /// Syncs that failed after records had been acknowledged (`sync = interval` or `os` only).
    pub lost_syncs: u64,
    /// Messages skipped by readers because they had expired (bad-input.md S23).
    pub expired_reads: u64,
    /// Records that readers found damaged.
    pub damaged_reads: u64,
    /// Maintenance passes that failed; the next one tries again.
    pub maintenance_failures: u64,
    /// Why the log can not take records at present.
    pub fault: Option<StorageError>,
}

impl Status {
    pub(super) fn appended(&self, records: usize, bytes: usize) {
        self.records.fetch_add(records as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.groups.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn gave_up(&self, error: StorageError, end: End) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
        self.notices.add(Notice::GaveUp { error, end });
        self.set_fault(Some(error));
    }

    /// A request was refused, since no room could be had.
    pub(super) fn refused(&self, error: StorageError, end: End) {
        if self.set_fault(Some(error)) != Some(error) {
            self.notices.add(Notice::Refusing { error, end });
        }
    }

    /// There is room again.
    pub(super) fn made_room(&self) {
        if self.set_fault(None).is_some() {
            self.notices.add(Notice::Storing);
        }
    }

    pub(super) fn fault(&self) -> Option<StorageError> {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lost_sync(&self) {
        self.lost_syncs.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn maintenance_failed(&self) {
        self.maintenance_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn skipped(&self, expired: u64, damaged: u64) {
        self.expired_reads.fetch_add(expired, Ordering::Relaxed);
        self.damaged_reads.fetch_add(damaged, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> LogStatus {
        LogStatus {
            records: self.records.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            groups: self.groups.load(Ordering::Relaxed),
            segments_given_up: self.given_up.load(Ordering::Relaxed),
            lost_syncs: self.lost_syncs.load(Ordering::Relaxed),
            expired_reads: self.expired_reads.load(Ordering::Relaxed),
            damaged_reads: self.damaged_reads.load(Ordering::Relaxed),
            maintenance_failures: self.maintenance_failures.load(Ordering::Relaxed),
            fault: self.fault(),
        }
    }

    /// What it was before.
    fn set_fault(&self, error: Option<StorageError>) -> Option<StorageError> {
        std::mem::replace(&mut *self.fault.lock().unwrap_or_else(PoisonError::into_inner), error)
    }
}

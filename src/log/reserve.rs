//! Room that the log holds back, so that a full disk is never a dead end: what makes room needs room itself.
//!
//! Two preallocated files. Out of the first one a segment is made for records that free something (acknowledgements,
//! purges) when no other segment can be had; the second is what compaction gives back before it writes the smaller copy
//! of what it then removes. Invariant: a message is taken only while both are held, so whenever the disk turns out to be
//! full, they are there. They are made anew as soon as there is room, before any message is taken again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::StorageError;
use super::segment::{APPEND_RESERVE, COMPACT_RESERVE};
use super::storage::{Storage, StorageFile};

/// Part of a segment that is held back for records that free something: with segments of 64 MiB room for 32,768 that
/// come one by one, and for four times as many that come in groups.
const APPEND_SHARE: u64 = 4;
/// The smallest segment there is.
const SMALLEST: u64 = 16 << 10;
const PAGE_BYTES: u64 = 4096;

/// What is held back.
#[derive(Debug)]
pub(super) struct Reserve {
    held: Mutex<Held>,
    is_whole: AtomicBool,
    append_bytes: u64,
    compact_bytes: u64,
}

#[derive(Debug, Default)]
struct Held {
    append: bool,
    compact: bool,
}

impl Reserve {
    /// For segments of such a size; nothing is held yet.
    pub(super) fn new(segment_bytes: u64) -> Self {
        let share = segment_bytes.checked_div(APPEND_SHARE).unwrap_or(0).max(SMALLEST);
        Self {
            held: Mutex::default(),
            is_whole: AtomicBool::new(false),
            append_bytes: share.checked_next_multiple_of(PAGE_BYTES).unwrap_or(share),
            compact_bytes: segment_bytes,
        }
    }

    /// Takes over what an earlier run held, if it has the right size; other files of these names are removed.
    pub(super) fn adopt(&self, storage: &dyn Storage) {
        let mut held = self.lock();
        held.append = adopt(storage, APPEND_RESERVE, self.append_bytes);
        held.compact = adopt(storage, COMPACT_RESERVE, self.compact_bytes);
        self.note(&held);
    }

    /// True if both files are held.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Acquire)
    }

    /// Makes what is missing.
    pub(super) fn refill(&self, storage: &dyn Storage) -> Result<(), StorageError> {
        let mut held = self.lock();
        // First what makes the most of little room.
        if !held.compact {
            make(storage, COMPACT_RESERVE, self.compact_bytes)?;
            held.compact = true;
        }
        if !held.append {
            make(storage, APPEND_RESERVE, self.append_bytes)?;
            held.append = true;
        }
        self.note(&held);
        Ok(())
    }

    /// Length of the file that [`take`](Self::take) gives.
    pub(super) fn append_bytes(&self) -> u64 {
        self.append_bytes
    }

    /// Gives the first file away, as a file of zeros with another name.
    pub(super) fn take(
        &self,
        storage: &dyn Storage,
        name: &str,
    ) -> Result<Arc<dyn StorageFile>, StorageError> {
        let mut held = self.lock();
        if !std::mem::take(&mut held.append) {
            return Err(StorageError::DiskFull);
        }
        self.note(&held);
        storage.rename(APPEND_RESERVE, name)?;
        storage.open(name)
    }

    /// Creates a segment out of free room: never out of what is given up for a smaller copy meanwhile.
    pub(super) fn create_segment(
        &self,
        storage: &dyn Storage,
        name: &str,
        length: u64,
    ) -> Result<Arc<dyn StorageFile>, StorageError> {
        let _held = self.lock();
        storage.create(name, length)
    }

    /// Creates a file that will soon make more room than it takes, if need be in the place of the second file.
    pub(super) fn create(
        &self,
        storage: &dyn Storage,
        name: &str,
        length: u64,
    ) -> Result<Arc<dyn StorageFile>, StorageError> {
        match storage.create(name, length) {
            Err(StorageError::DiskFull) => {}
            other => return other,
        }
        let mut held = self.lock();
        if length > self.compact_bytes || !std::mem::take(&mut held.compact) {
            return Err(StorageError::DiskFull);
        }
        self.note(&held);
        storage.remove(COMPACT_RESERVE)?;
        // Some file systems give blocks out again only once their removal is durable.
        storage.sync_directory()?;
        storage.create(name, length)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, held: &Held) {
        self.is_whole.store(held.append && held.compact, Ordering::Release);
    }
}

fn make(storage: &dyn Storage, name: &str, length: u64) -> Result<(), StorageError> {
    match storage.create(name, length) {
        // What a failed step has left.
        Err(StorageError::Exists) => {
            storage.remove(name)?;
            storage.create(name, length).map(drop)
        }
        made => made.map(drop),
    }
}

fn adopt(storage: &dyn Storage, name: &str, length: u64) -> bool {
    let Ok(file) = storage.open(name) else { return false };
    let fits = file.length() == Ok(length);
    if !fits {
        // If it stays, making it anew says why.
        let _ = storage.remove(name);
    }
    fits
}

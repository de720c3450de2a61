//! The memory map of a segment: the only file of the log with `unsafe`.
//!
//! Invariants: a range is handed out only if the log has synced it, and synced bytes of a segment are never written
//! again (appends start at a fresh sector, compaction writes a new file), so a slice never changes under its reader.
//! The file is preallocated, so a full disk is an error of `fallocate` and never a SIGBUS; a medium that fails, or a
//! file that another process cut short, is caught by `MADV_POPULATE_READ` before the bytes are touched.

#![allow(unsafe_code)]

use std::borrow::Cow;
use std::fs::File;
use std::sync::Arc;

use memmap2::{Advice, Mmap, MmapOptions};

use super::error::StorageError;
use super::storage::View;

/// A read-only shared map of a whole file.
#[derive(Debug)]
pub(super) struct Map {
    bytes: Mmap,
}

impl Map {
    /// Maps `file` at its present length.
    pub(super) fn open(file: &File) -> Result<Arc<dyn View>, StorageError> {
        // SAFETY: the file is under the log's exclusive lock and preallocated; see the module's invariants for why no
        // byte that is handed out changes and why no page that is handed out is missing.
        let bytes = unsafe { MmapOptions::new().map(file) }?;
        Ok(Arc::new(Self { bytes }))
    }
}

impl View for Map {
    fn bytes(&self, offset: u64, length: usize) -> Result<Cow<'_, [u8]>, StorageError> {
        let start = usize::try_from(offset).map_err(|_| StorageError::OutOfBounds)?;
        let end = start.checked_add(length).ok_or(StorageError::OutOfBounds)?;
        let bytes = self.bytes.get(start..end).ok_or(StorageError::OutOfBounds)?;
        // memmap2 rounds the start down to the page; the kernel reports what would have been a SIGBUS as an error.
        self.bytes.advise_range(Advice::PopulateRead, start, length)?;
        Ok(Cow::Borrowed(bytes))
    }
}

//! A group of records on its way to the disk.

use std::sync::Arc;

use super::error::StorageError;
use super::record::{Header, Sequence, StreamMap, padded_bytes};
use super::request::Ack;
use super::segment::Segment;
use super::storage::SECTOR_BYTES;
use super::stream::Stream;

/// Requests on their way to the disk.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Where it is written.
    pub(super) start: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) records: Vec<(Sequence, u64)>,
    /// Header of the last record and where it stands in `bytes`.
    last: Option<(Header, usize)>,
    /// The streams as they are after it.
    pub(super) streams: StreamMap<Stream>,
    /// One for each request, as they are given if the group is stored.
    pub(super) acks: Vec<Ack>,
}

/// The write of a group, which any thread may [`run`](Self::run) between `Engine::take_write` and
/// `Engine::finish`.
#[derive(Debug)]
pub(super) struct GroupWrite {
    pub(super) segment: Arc<Segment>,
    pub(super) start: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) sync: bool,
    /// See `Engine::finish`: after a failure the writes of the same attempt are void.
    pub(super) attempt: u64,
}

impl GroupWrite {
    pub(super) fn run(&self) -> Result<(), StorageError> {
        self.segment.file.write_at(self.start, &self.bytes)?;
        if self.sync { self.segment.file.sync_data() } else { Ok(()) }
    }
}

impl Group {
    /// Adds a record.
    pub(super) fn push(&mut self, header: &Header, body: &[u8]) {
        let at = self.bytes.len();
        self.records.push((header.sequence, self.start.saturating_add(at as u64)));
        self.last = Some((*header, at));
        header.encode(&mut self.bytes);
        self.bytes.extend_from_slice(body);
        self.bytes.resize(at.saturating_add(padded_bytes(body.len())), 0);
    }

    /// Where the next group starts.
    pub(super) fn end(&self) -> u64 {
        let after = |(header, at): (Header, usize)| header.next_offset(self.start.saturating_add(at as u64));
        self.last.map_or(self.start, after)
    }

    /// The highest `durable_through` in it.
    pub(super) fn noted_through(&self) -> Sequence {
        self.last.map_or(Sequence(0), |(header, _)| header.durable_through)
    }

    /// Marks the last record and fills its sector, so that the next group starts at a fresh one.
    pub(super) fn close(&mut self) {
        let Some((header, start)) = self.last else { return };
        let header = Header { last_of_group: true, ..header };
        self.last = Some((header, start));
        let mut encoded = Vec::new();
        header.encode(&mut encoded);
        let end = start.saturating_add(encoded.len());
        if let Some(place) = self.bytes.get_mut(start..end) {
            place.copy_from_slice(&encoded);
        }
        let padded = self.bytes.len().checked_next_multiple_of(SECTOR_BYTES).unwrap_or(usize::MAX);
        self.bytes.resize(padded, 0);
    }

    /// Empties it and keeps its memory.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
        self.streams.clear();
        self.acks.clear();
        self.last = None;
    }
}

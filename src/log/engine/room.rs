//! Where the engine gets room: in the active segment, a new one, or what the [`Reserve`](super::super::reserve::Reserve)
//! holds back.

use std::sync::Arc;

use super::super::error::StorageError;
use super::super::record::{Sequence, padded_bytes};
use super::super::request::Prepared;
use super::super::segment::{DATA_START, Marks, Segment, SegmentHeader, segment_name, temporary_name};
use super::super::storage::SECTOR_BYTES;
use super::{Engine, Group, salt_of};

/// Where a request can go.
enum Room {
    Here(Arc<Segment>),
    /// Into the next segment, once everything staged and in flight is finished.
    Later,
    NextSegment,
}

/// What a segment is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Disk,
    Reserve,
}

impl Engine {
    /// Where a request goes; `None` if it must wait until everything staged and in flight is finished. `refused` says
    /// why no room could be had for one before it.
    pub(super) fn make_room(
        &mut self,
        request: &Prepared,
        refused: &mut Option<StorageError>,
    ) -> Result<Option<Arc<Segment>>, StorageError> {
        if request.needs_reserve() && !self.shared.reserve.is_whole() {
            self.attempt(refused, Self::refill)?;
        }
        match self.room(request) {
            Room::Here(segment) => Ok(Some(segment)),
            Room::Later => Ok(None),
            Room::NextSegment => {
                let next = self.attempt(refused, Self::next_segment);
                // The first error says more than that nothing is held back.
                let next = next.or_else(|error| match request.frees_room() {
                    true => self.open_segment(Source::Reserve).map_err(|_| error),
                    false => Err(error),
                });
                next.map(Some)
            }
        }
    }

    fn attempt<T>(
        &mut self,
        refused: &mut Option<StorageError>,
        step: impl FnOnce(&mut Self) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let result = refused.map_or_else(|| step(self), Err);
        *refused = result.as_ref().err().copied().or(*refused);
        if let Some(error) = *refused {
            self.shared.status.refused(error, self.end());
        }
        result
    }

    /// Looks whether there is room again, if a request was refused for want of it. Nothing may be staged or in flight.
    pub(in crate::log) fn look_for_room(&mut self) {
        if self.shared.status.fault().is_some()
            && self.refill().is_ok()
            && self.shared.status.fault().is_some()
        {
            // If it fails, the next request that is refused says why.
            let _ = self.next_segment();
        }
    }

    /// Holds back again what was used up. If then the segment has room for every record, all is well.
    fn refill(&mut self) -> Result<(), StorageError> {
        self.shared.reserve.refill(self.shared.storage.as_ref())?;
        let needed = self.settings.max_body_bytes() as u64;
        let fits =
            |segment: &Arc<Segment>| self.start(segment).saturating_add(needed) <= segment.header.capacity;
        if self.active.as_ref().is_some_and(fits) {
            self.shared.status.made_room();
        }
        Ok(())
    }

    fn room(&self, request: &Prepared) -> Room {
        let needed = padded_bytes(request.body.len()).saturating_add(self.group.bytes.len());
        let needed = needed.checked_next_multiple_of(SECTOR_BYTES).unwrap_or(usize::MAX) as u64;
        if let Some(segment) = &self.active {
            if self.start(segment).saturating_add(needed) <= segment.header.capacity {
                return Room::Here(Arc::clone(segment));
            }
            if !self.flights.is_empty() || !self.group.records.is_empty() {
                return Room::Later;
            }
        }
        Room::NextSegment
    }

    /// Where the group that is being staged will be written.
    pub(super) fn start(&self, segment: &Segment) -> u64 {
        self.flights.back().map_or_else(|| segment.end(), Group::end)
    }

    fn next_segment(&mut self) -> Result<Arc<Segment>, StorageError> {
        // Its last records may wait for a sync that the policy has not asked for yet.
        let _ = self.sync();
        self.open_segment(Source::Disk)
    }

    /// Makes a segment: preallocated under a temporary name, header synced, renamed, name synced (S09). As long as there
    /// is none, what fits goes on into the one before.
    pub(super) fn open_segment(&mut self, source: Source) -> Result<Arc<Segment>, StorageError> {
        let id = self.next_id;
        self.next_id = id.saturating_add(1);
        let identity = &self.shared.identity;
        let header = SegmentHeader {
            salt: salt_of(&self.settings.seed, id),
            log_id: identity.log_id,
            id,
            first_sequence: self.next,
            durable_through: self.durable_through,
            capacity: match source {
                Source::Disk => self.settings.segment_bytes,
                Source::Reserve => self.shared.reserve.append_bytes(),
            },
            covers_through: Sequence(0),
            data_end: 0,
            secret: identity.secret,
        };
        let segment = self.create_file(&header, source)?;
        if source == Source::Disk {
            self.shared.status.made_room();
        }
        self.noted_through = self.noted_through.max(self.durable_through);
        self.shared.push_segment(Arc::clone(&segment));
        self.active = Some(Arc::clone(&segment));
        Ok(segment)
    }

    fn create_file(&mut self, header: &SegmentHeader, source: Source) -> Result<Arc<Segment>, StorageError> {
        let shared = Arc::clone(&self.shared);
        let storage = shared.storage.as_ref();
        let temporary = temporary_name(header.id);
        let name = segment_name(header.id);
        let file = match source {
            Source::Disk => shared.reserve.create_segment(storage, &temporary, header.capacity),
            Source::Reserve => shared.reserve.take(storage, &temporary),
        }?;
        if let Err(error) = file.write_at(0, &header.encode()).and_then(|()| file.sync_data()) {
            // A leftover is removed at the next start.
            let _ = storage.remove(&temporary);
            return Err(error);
        }
        if let Err(error) = storage.rename(&temporary, &name).and_then(|()| storage.sync_directory()) {
            let _ = storage.remove(&temporary).or_else(|_| storage.remove(&name));
            // A power cut may bring the name back, and its header voids what comes now: none of it may go elsewhere
            // than into a segment that comes after it.
            self.active = None;
            return Err(error);
        }
        let last = header.first_sequence.before();
        Ok(Arc::new(Segment::new(*header, file, Marks::default(), DATA_START, last, false)))
    }
}

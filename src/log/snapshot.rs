//! The index on disk, written when the log is closed in an orderly way, so that the next start reads no record.
//!
//! A file of blocks, each with its length and CRC-32C. It is believed only as a whole, and only if it describes exactly
//! the segments that are there and nothing was written behind the end it names; else the index is rebuilt from the log
//! (bad-input.md S18). Whoever opens the log removes it before anything is appended.

use std::sync::Arc;

use rkyv::rancor::Error as ArchiveError;
use rkyv::{Archive, Deserialize, Serialize};

use super::error::StorageError;
use super::index::Index;
use super::record::{Sequence, StreamKey, put, take};
use super::scan::Window;
use super::segment::{Mark, Marks, Segment, SegmentHeader};
use super::storage::{SECTOR_BYTES, Storage, StorageFile};
use super::stream::{Devices, Stream, StreamState};

/// Name of the file.
pub(super) const SNAPSHOT_NAME: &str = "index.snapshot";
const TEMPORARY_NAME: &str = "index.snapshot.tmp";
const BLOCK_MAGIC: [u8; 4] = *b"mps2";
const BLOCK_HEADER_BYTES: usize = 16;
/// Streams in one block.
const BLOCK_STREAMS: usize = 4096;
/// Longest block that is believed.
const MAX_BLOCK_BYTES: u32 = 1 << 30;

/// First block.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
struct Head {
    log_id: u64,
    next: u64,
    noted_through: u64,
    loss_marks: u64,
    streams: u64,
    segments: Vec<SegmentImage>,
}

/// A segment as the snapshot knows it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
struct SegmentImage {
    id: u64,
    salt: u32,
    end: u64,
    last: u64,
    quarantined: bool,
    marks: Vec<(u32, u32)>,
}

/// A stream; 48 bytes and what its devices take.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
struct StreamImage {
    hash: u64,
    check: u32,
    head: u64,
    last_offset: u64,
    epoch: u32,
    pending: u32,
    bytes: u32,
    touched: u32,
    expires_at: u32,
    devices: Vec<(u64, u64)>,
}

/// What is written.
pub(super) struct Ending<'a> {
    pub(super) log_id: u64,
    pub(super) next: Sequence,
    pub(super) noted_through: Sequence,
    pub(super) loss_marks: u64,
    pub(super) segments: &'a [Arc<Segment>],
    pub(super) index: &'a Index,
}

/// What is read back.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) next: Sequence,
    pub(super) noted_through: Sequence,
    pub(super) loss_marks: u64,
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) index: Index,
}

/// A segment file that was found, with a good header.
pub(super) struct Present {
    pub(super) header: SegmentHeader,
    pub(super) file: Arc<dyn StorageFile>,
    pub(super) quarantined: bool,
}

/// Writes the snapshot under a temporary name and renames it when it is whole and durable.
pub(super) fn write(storage: &dyn Storage, ending: &Ending<'_>) -> Result<(), StorageError> {
    let _ = storage.remove(TEMPORARY_NAME);
    let mut out = BlockWriter { file: storage.create(TEMPORARY_NAME, 0)?, at: 0 };
    let finished = write_blocks(&mut out, ending)
        .and_then(|()| out.file.sync_data())
        .and_then(|()| storage.rename(TEMPORARY_NAME, SNAPSHOT_NAME))
        .and_then(|()| storage.sync_directory());
    if finished.is_err() {
        let _ = storage.remove(TEMPORARY_NAME);
    }
    finished
}

fn write_blocks(out: &mut BlockWriter, ending: &Ending<'_>) -> Result<(), StorageError> {
    let segments = ending.segments.iter().map(|segment| SegmentImage {
        id: segment.header.id,
        salt: segment.header.salt,
        end: segment.end(),
        last: segment.last().0,
        quarantined: segment.is_quarantined(),
        marks: segment.marks().as_slice().iter().map(|mark| (mark.sequence, mark.offset)).collect(),
    });
    let head = Head {
        log_id: ending.log_id,
        next: ending.next.0,
        noted_through: ending.noted_through.0,
        loss_marks: ending.loss_marks,
        streams: ending.index.len() as u64,
        segments: segments.collect(),
    };
    out.write(&rkyv::to_bytes::<ArchiveError>(&head).map_err(|_| StorageError::Other(0))?)?;
    for stripe in 0.. {
        let mut images = Vec::new();
        if !ending.index.visit_stripe(stripe, |key, state, devices| images.push(image(key, state, devices))) {
            break;
        }
        for chunk in images.chunks(BLOCK_STREAMS) {
            let chunk = chunk.to_vec();
            out.write(&rkyv::to_bytes::<ArchiveError>(&chunk).map_err(|_| StorageError::Other(0))?)?;
        }
    }
    // An empty block says that nothing is missing.
    out.write(&[])
}

fn image(key: StreamKey, state: &StreamState, devices: Option<&Devices>) -> StreamImage {
    let devices = devices.map_or(&[][..], Devices::as_slice);
    StreamImage {
        hash: key.hash,
        check: key.check,
        head: state.head.0,
        last_offset: state.last_offset,
        epoch: state.epoch,
        pending: state.pending,
        bytes: state.bytes,
        touched: state.touched,
        expires_at: state.expires_at,
        devices: devices.iter().map(|cursor| (cursor.device, cursor.through)).collect(),
    }
}

/// Reads the snapshot if there is one and it fits the segments; `None` means that the records must be read.
pub(super) fn read(storage: &dyn Storage, present: &[Present]) -> Option<Snapshot> {
    let file = storage.open(SNAPSHOT_NAME).ok()?;
    let mut blocks = BlockReader { window: Window::new(file).ok()?, at: 0 };
    let head = rkyv::from_bytes::<Head, ArchiveError>(&blocks.next()?).ok()?;
    let segments = fit_segments(&head, present)?;
    let index = Index::default();
    index.reserve(usize::try_from(head.streams).ok().filter(|&streams| streams <= MAX_BLOCK_BYTES as usize)?);
    loop {
        let block = blocks.next()?;
        if block.is_empty() {
            break;
        }
        let images = rkyv::access::<rkyv::Archived<Vec<StreamImage>>, ArchiveError>(&block).ok()?;
        for image in images.iter() {
            let (key, stream) = restore(image);
            index.put_stream(key, stream);
        }
    }
    if index.len() as u64 != head.streams {
        return None;
    }
    let (next, noted_through) = (Sequence(head.next), Sequence(head.noted_through));
    Some(Snapshot { next, noted_through, loss_marks: head.loss_marks, segments, index })
}

fn restore(image: &ArchivedStreamImage) -> (StreamKey, Stream) {
    let key = StreamKey { hash: image.hash.to_native(), check: image.check.to_native() };
    let state = StreamState {
        head: Sequence(image.head.to_native()),
        last_offset: image.last_offset.to_native(),
        epoch: image.epoch.to_native(),
        pending: image.pending.to_native(),
        bytes: image.bytes.to_native(),
        touched: image.touched.to_native(),
        expires_at: image.expires_at.to_native(),
    };
    let mut devices = Devices::default();
    for cursor in image.devices.iter() {
        devices.restore(cursor.0.to_native(), cursor.1.to_native());
    }
    (key, Stream { state, devices, ..Stream::default() })
}

/// The segments with the ends and marks of the snapshot, if they are the very ones that are there.
fn fit_segments(head: &Head, present: &[Present]) -> Option<Vec<Arc<Segment>>> {
    if head.segments.len() != present.len() {
        return None;
    }
    let mut segments = Vec::with_capacity(present.len());
    for (image, present) in head.segments.iter().zip(present) {
        let header = &present.header;
        let same = image.id == header.id && image.salt == header.salt && head.log_id == header.log_id;
        if !same || image.quarantined != present.quarantined || image.end > header.capacity {
            return None;
        }
        let marks = image.marks.iter().map(|&(sequence, offset)| Mark { sequence, offset }).collect();
        let marks = Marks::from_vec(marks);
        let file = Arc::clone(&present.file);
        let last = Sequence(image.last);
        segments.push(Arc::new(Segment::new(*header, file, marks, image.end, last, image.quarantined)));
    }
    // A log that went on after the snapshot has something behind the end.
    let untouched = segments.last().is_none_or(|last| is_zero(last.file.as_ref(), last.end()));
    untouched.then_some(segments)
}

fn is_zero(file: &dyn StorageFile, offset: u64) -> bool {
    let mut sector = [0; SECTOR_BYTES];
    file.read_at(offset, &mut sector).is_ok() && sector.iter().all(|&byte| byte == 0)
}

struct BlockWriter {
    file: Arc<dyn StorageFile>,
    at: u64,
}

impl BlockWriter {
    fn write(&mut self, payload: &[u8]) -> Result<(), StorageError> {
        let mut block = vec![0; BLOCK_HEADER_BYTES];
        let mut rest = block.as_mut_slice();
        put(&mut rest, BLOCK_MAGIC);
        put(&mut rest, u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        put(&mut rest, crc32c::crc32c(payload).to_le_bytes());
        block.extend_from_slice(payload);
        self.file.write_at(self.at, &block)?;
        self.at = self.at.saturating_add(block.len() as u64);
        Ok(())
    }
}

struct BlockReader {
    window: Window,
    at: u64,
}

impl BlockReader {
    /// The next block's payload; `None` if it is damaged or missing.
    fn next(&mut self) -> Option<Vec<u8>> {
        let mut rest = self.window.get(self.at, BLOCK_HEADER_BYTES).ok()?;
        let magic = take::<4>(&mut rest)?;
        let length = u32::from_le_bytes(take(&mut rest)?);
        let crc = u32::from_le_bytes(take(&mut rest)?);
        if magic != BLOCK_MAGIC || take::<4>(&mut rest)? != [0; 4] || length > MAX_BLOCK_BYTES {
            return None;
        }
        let start = self.at.saturating_add(BLOCK_HEADER_BYTES as u64);
        let end = start.saturating_add(u64::from(length));
        if end > self.window.length() {
            return None;
        }
        let payload = self.window.get(start, length as usize).ok()?;
        self.at = end;
        (crc32c::crc32c(payload) == crc).then(|| payload.to_vec())
    }
}

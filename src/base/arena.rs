//! A byte arena with 4-byte handles for small records of any length, of which there are millions.
//!
//! Invariants:
//! - A record of up to [`SMALL_MAX`] bytes takes a one-byte header and is rounded up to granules of [`GRANULE`] bytes.
//!   Records of the same rounded size share chunks of up to [`CHUNK_FULL`] bytes, so a freed slot fits exactly the next record
//!   of its size and there is no external fragmentation within a chunk.
//! - A chunk grows by doubling to its full size and is given back as soon as its last record is freed.
//! - Longer records live in boxes of their own.
//! - The header of a live record is its slack (0 to 3); that of a free slot is 0xff. So a stale handle to a slot
//!   that is still free is noticed; one to a slot that was taken again is not: the owner keeps its handles right.

/// Size step of small records, and the unit of handles.
pub const GRANULE: usize = 4;
/// Longest record that is kept in a chunk, in bytes.
pub const SMALL_MAX: usize = 1024;
/// Bytes that the handles of one chunk span.
pub const CHUNK: usize = 64 * 1024;
/// Full size of a chunk in bytes: with what the allocator adds to a block, it fills its pages and begins no other.
pub const CHUNK_FULL: usize = CHUNK - 32;

/// A chunk's first allocation in bytes; it doubles from here, so that a rare size does not cost a whole chunk.
const CHUNK_START: usize = 1024;
/// Bits of a handle that say where in the chunk the record begins.
const GRANULE_BITS: u32 = (CHUNK / GRANULE).trailing_zeros();
/// Bit of a handle that marks a long record.
const LONG: u32 = 1 << 31;
/// Number of chunks that handles can name: 8 GiB of small records.
const CHUNKS_MAX: usize = 1 << (31 - GRANULE_BITS);
/// Rounded sizes in granules are below this.
const CLASSES: usize = (1 + SMALL_MAX).div_ceil(GRANULE) + 1;
/// Header of a free slot, followed by the granule (u16) of the next free slot.
const FREE: u8 = 0xff;
/// End of a chunk's list of free slots.
const NO_GRANULE: u16 = u16::MAX;
/// End of a list of chunks.
const NO_CHUNK: u32 = u32::MAX;

/// Names a record of one arena. Its value has no meaning outside, but may be stored as a plain `u32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u32);

impl Handle {
    /// A value no record ever has.
    pub const NONE: Self = Self(u32::MAX);
}

/// See the module documentation.
#[derive(Debug)]
pub struct Arena {
    chunks: Vec<Chunk>,
    /// Indices in `chunks` that were given back.
    spare_chunks: Vec<u32>,
    /// First chunk with room, for each rounded size.
    roomy: Box<[u32; CLASSES]>,
    long: Vec<Option<Box<[u8]>>>,
    spare_long: Vec<u32>,
    /// Bytes of the chunks and the long records on the heap.
    bytes: usize,
    len: usize,
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

impl Arena {
    /// An empty arena. It owns about 1 KiB until the first record.
    #[must_use]
    pub fn new() -> Self {
        Self {
            chunks: Vec::new(),
            spare_chunks: Vec::new(),
            roomy: Box::new([NO_CHUNK; CLASSES]),
            long: Vec::new(),
            spare_long: Vec::new(),
            bytes: 0,
            len: 0,
        }
    }

    /// Number of live records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes this arena holds on the heap.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.bytes
            + size_of::<[u32; CLASSES]>()
            + self.chunks.capacity() * size_of::<Chunk>()
            + self.long.capacity() * size_of::<Option<Box<[u8]>>>()
            + (self.spare_chunks.capacity() + self.spare_long.capacity()) * size_of::<u32>()
    }

    /// Copies a record in. `None` where handles run out: at 8 GiB of small records or 2^31 - 1 long ones.
    #[must_use]
    pub fn alloc(&mut self, record: &[u8]) -> Option<Handle> {
        let handle =
            if record.len() > SMALL_MAX { self.alloc_long(record)? } else { self.alloc_small(record)? };
        self.len += 1;
        Some(handle)
    }

    /// The record, empty if the handle is stale.
    #[must_use]
    pub fn get(&self, handle: Handle) -> &[u8] {
        let record = match place_of(handle) {
            Place::Long(index) => self.long.get(index).and_then(|record| record.as_deref()),
            Place::Small { chunk, granule } => self.chunks.get(chunk).and_then(|chunk| chunk.record(granule)),
        };
        record.unwrap_or_default()
    }

    /// The record for changes that keep its length, empty if the handle is stale.
    #[must_use]
    pub fn get_mut(&mut self, handle: Handle) -> &mut [u8] {
        let record = match place_of(handle) {
            Place::Long(index) => self.long.get_mut(index).and_then(|record| record.as_deref_mut()),
            Place::Small { chunk, granule } => {
                self.chunks.get_mut(chunk).and_then(|chunk| chunk.record_mut(granule))
            }
        };
        record.unwrap_or_default()
    }

    /// Gives a record new content of any length. The handle stays the same if the rounded size does; `None` (as for
    /// [`Arena::alloc`]) leaves the old record in place.
    #[must_use]
    pub fn set(&mut self, handle: Handle, record: &[u8]) -> Option<Handle> {
        if let Place::Small { chunk, granule } = place_of(handle)
            && let Some(chunk) = self.chunks.get_mut(chunk)
            && record.len() <= SMALL_MAX
            && chunk.class == class_of(record.len())
            && chunk.record(granule).is_some()
        {
            chunk.write(granule, record);
            return Some(handle);
        }
        let moved = self.alloc(record)?;
        self.free(handle);
        Some(moved)
    }

    /// Gives a record's room back. False, and no effect, if the handle is stale.
    pub fn free(&mut self, handle: Handle) -> bool {
        let freed = match place_of(handle) {
            Place::Long(index) => self.free_long(index),
            Place::Small { chunk, granule } => self.free_small(chunk, granule),
        };
        self.len -= usize::from(freed);
        if freed && self.len == 0 {
            self.forget_bookkeeping();
        }
        freed
    }

    /// Every chunk and every long record is gone: what grew with them goes as well. What an empty arena owns stays where it
    /// is: a new one would lie among what was allocated since, and keep its page.
    fn forget_bookkeeping(&mut self) {
        (self.chunks, self.spare_chunks) = (Vec::new(), Vec::new());
        (self.long, self.spare_long) = (Vec::new(), Vec::new());
        self.roomy.fill(NO_CHUNK);
        self.bytes = 0;
    }

    fn alloc_small(&mut self, record: &[u8]) -> Option<Handle> {
        let class = class_of(record.len());
        let index = match self.roomy[usize::from(class)] {
            NO_CHUNK => self.add_chunk(class)?,
            index => index,
        };
        let chunk = &mut self.chunks[index as usize];
        let before = chunk.bytes.capacity();
        let granule = chunk.claim();
        self.bytes += chunk.bytes.capacity() - before;
        chunk.write(granule, record);
        if !chunk.has_room() {
            self.unlink(index);
        }
        Some(Handle(index << GRANULE_BITS | u32::from(granule)))
    }

    fn free_small(&mut self, index: usize, granule: u16) -> bool {
        let Some(chunk) = self.chunks.get_mut(index) else { return false };
        let had_room = chunk.has_room();
        if !chunk.release(granule) {
            return false;
        }
        let emptied = chunk.live == 0;
        match (emptied, had_room) {
            (true, true) => self.unlink(index as u32),
            (false, false) => self.link(index as u32),
            _ => {}
        }
        if emptied {
            self.bytes -= self.chunks[index].bytes.capacity();
            self.chunks[index] = Chunk::new(0);
            self.spare_chunks.push(index as u32);
        }
        true
    }

    fn add_chunk(&mut self, class: u16) -> Option<u32> {
        let index = match self.spare_chunks.pop() {
            Some(index) => {
                self.chunks[index as usize] = Chunk::new(class);
                index
            }
            None if self.chunks.len() < CHUNKS_MAX => {
                self.chunks.push(Chunk::new(class));
                self.chunks.len() as u32 - 1
            }
            None => return None,
        };
        self.link(index);
        Some(index)
    }

    /// Puts a chunk at the head of the list of those with room.
    fn link(&mut self, index: u32) {
        let class = usize::from(self.chunks[index as usize].class);
        let next = std::mem::replace(&mut self.roomy[class], index);
        if let Some(next) = self.chunks.get_mut(next as usize) {
            next.previous = index;
        }
        let chunk = &mut self.chunks[index as usize];
        chunk.next = next;
        chunk.previous = NO_CHUNK;
    }

    fn unlink(&mut self, index: u32) {
        let Chunk { next, previous, class, .. } = self.chunks[index as usize];
        if let Some(next) = self.chunks.get_mut(next as usize) {
            next.previous = previous;
        }
        match self.chunks.get_mut(previous as usize) {
            Some(previous) => previous.next = next,
            None => self.roomy[usize::from(class)] = next,
        }
    }

    fn alloc_long(&mut self, record: &[u8]) -> Option<Handle> {
        let index = match self.spare_long.pop() {
            Some(index) => {
                self.long[index as usize] = Some(record.into());
                index
            }
            None => {
                let index = u32::try_from(self.long.len()).ok().filter(|index| *index < LONG - 1)?;
                self.long.push(Some(record.into()));
                index
            }
        };
        self.bytes += record.len();
        Some(Handle(LONG | index))
    }

    fn free_long(&mut self, index: usize) -> bool {
        let Some(record) = self.long.get_mut(index).and_then(Option::take) else { return false };
        self.bytes -= record.len();
        self.spare_long.push(index as u32);
        true
    }
}

enum Place {
    Long(usize),
    Small { chunk: usize, granule: u16 },
}

fn place_of(handle: Handle) -> Place {
    if handle.0 & LONG != 0 {
        return Place::Long((handle.0 & !LONG) as usize);
    }
    let granule = handle.0 & ((1 << GRANULE_BITS) - 1);
    Place::Small { chunk: (handle.0 >> GRANULE_BITS) as usize, granule: granule as u16 }
}

/// Granules that a small record takes with its header.
fn class_of(length: usize) -> u16 {
    (1 + length).div_ceil(GRANULE) as u16
}

/// Slots of one size, and a list of the free ones threaded through them.
#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    /// Slot size in granules; 0 only in a chunk that was given back.
    class: u16,
    live: u16,
    free: u16,
    next: u32,
    previous: u32,
}

impl Chunk {
    fn new(class: u16) -> Self {
        Self { bytes: Vec::new(), class, live: 0, free: NO_GRANULE, next: NO_CHUNK, previous: NO_CHUNK }
    }

    fn stride(&self) -> usize {
        usize::from(self.class) * GRANULE
    }

    fn has_room(&self) -> bool {
        self.free != NO_GRANULE || self.bytes.len() + self.stride() <= CHUNK_FULL
    }

    /// A slot from the free list, or a new one at the end; the caller knows that there is room.
    fn claim(&mut self) -> u16 {
        self.live += 1;
        if self.free != NO_GRANULE {
            let granule = self.free;
            let start = usize::from(granule) * GRANULE;
            self.free = u16::from_le_bytes([self.bytes[start + 1], self.bytes[start + 2]]);
            return granule;
        }
        let start = self.bytes.len();
        let end = start + self.stride();
        if end > self.bytes.capacity() {
            let capacity = (self.bytes.capacity() * 2).clamp(CHUNK_START.max(end), CHUNK_FULL);
            self.bytes.reserve_exact(capacity - start);
        }
        self.bytes.resize(end, 0);
        (start / GRANULE) as u16
    }

    fn write(&mut self, granule: u16, record: &[u8]) {
        let start = usize::from(granule) * GRANULE;
        self.bytes[start] = (self.stride() - 1 - record.len()) as u8;
        self.bytes[start + 1..=start + record.len()].copy_from_slice(record);
    }

    /// Adds a live slot to the free list. False for anything but the start of a live slot.
    fn release(&mut self, granule: u16) -> bool {
        if self.span(granule).is_none() {
            return false;
        }
        let start = usize::from(granule) * GRANULE;
        let [low, high] = self.free.to_le_bytes();
        self.bytes[start..start + 3].copy_from_slice(&[FREE, low, high]);
        self.free = granule;
        self.live -= 1;
        true
    }

    fn record(&self, granule: u16) -> Option<&[u8]> {
        self.bytes.get(self.span(granule)?)
    }

    fn record_mut(&mut self, granule: u16) -> Option<&mut [u8]> {
        let span = self.span(granule)?;
        self.bytes.get_mut(span)
    }

    fn span(&self, granule: u16) -> Option<std::ops::Range<usize>> {
        let start = usize::from(granule) * GRANULE;
        let slack = *self.bytes.get(start)?;
        let live = usize::from(slack) < GRANULE && granule.is_multiple_of(self.class.max(1));
        live.then(|| start + 1..start + self.stride() - usize::from(slack))
    }
}

#[cfg(test)]
mod tests;

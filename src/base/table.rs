//! A compact hash table from a keyed 64-bit hash to a `u32` handle, for millions of entries.
//!
//! It keeps neither keys nor hashes: the owner of the records compares and rehashes them through closures. So an entry
//! costs one tag byte and one handle, 5.07 bytes a slot with the overflow counts.
//!
//! Invariants:
//! - 64 segments, chosen by the top bits of the hash, grow and shrink on their own: no doubling spike, and a
//!   rehash touches one part in 64. Their sizes are staggered, so they do not all grow at once.
//! - A segment is an array of groups of 15 slots. An entry lives in its home group (multiply-shift of the hash,
//!   so any number of groups will do) or, where that was full, in one of the groups that follow.
//! - Groups lie in pages of one size, so that what one segment frees in growing is what the next one takes. With arrays
//!   of all sizes the allocator lost 3.5 bytes an entry between them.
//! - `overflow` of a group counts the entries that wanted it or passed it and live further on. A search ends at the
//!   first group where it is 0. It sticks at 255 until the next rehash, which costs time but never an entry.
//! - Removal needs no tombstone and no rehash of neighbours: it takes back the counts along the way of the entry alone.
//!
//! The caller keeps a key unique: it calls `find` before `insert`.

/// Segments of a table.
const SEGMENTS: usize = 64;
/// Bits of the hash that choose the segment.
const SEGMENT_BITS: u32 = SEGMENTS.trailing_zeros();
/// Slots of a group: 15 tags and the overflow count fill 16 bytes.
const SLOTS: usize = 15;
/// Byte of a group's tags that counts overflow.
const OVERFLOW: usize = SLOTS;
/// An overflow count that no longer goes up or down.
const STUCK: u8 = u8::MAX;
/// Tag of a free slot.
const FREE: u8 = 0;
/// Groups of a segment up to which it doubles; the staggering starts here.
const SMALL_GROUPS: usize = 8;
/// Groups of a page (2.4 KB); the last page of a segment may be shorter.
const PAGE: usize = 32;

/// See the module documentation.
#[derive(Debug)]
pub struct Table {
    segments: Box<[Segment; SEGMENTS]>,
    len: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

impl Table {
    /// An empty table. It owns about 3.5 KiB until the first insertion.
    #[must_use]
    pub fn new() -> Self {
        Self { segments: Box::new(std::array::from_fn(|_| Segment::default())), len: 0 }
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes this table holds on the heap.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<[Segment; SEGMENTS]>() + self.segments.iter().map(Segment::memory_bytes).sum::<usize>()
    }

    /// The handle with this hash for which `eq` holds. `eq` is asked about one foreign entry in about 15 searches.
    #[must_use]
    pub fn find(&self, hash: u64, mut eq: impl FnMut(u32) -> bool) -> Option<u32> {
        let segment = &self.segments[segment_of(hash)];
        segment.locate(hash, &mut eq).map(|place| segment.group(place.group).handles[place.slot])
    }

    /// Adds an entry that is not yet in the table. `hash_of` gives the hash of any handle in the table (not asked about
    /// `handle` itself); growing calls it for all entries of one segment.
    pub fn insert(&mut self, hash: u64, handle: u32, hash_of: impl Fn(u32) -> u64) {
        let index = segment_of(hash);
        let segment = &mut self.segments[index];
        if segment.is_full() {
            let groups = grown(segment.groups, index);
            segment.rebuild(groups, &hash_of);
        }
        segment.place(hash, handle);
        self.len += 1;
    }

    /// Takes out the handle with this hash for which `eq` holds. Shrinking calls `hash_of` for all remaining entries
    /// of one segment, never for the removed one.
    pub fn remove(
        &mut self,
        hash: u64,
        mut eq: impl FnMut(u32) -> bool,
        hash_of: impl Fn(u32) -> u64,
    ) -> Option<u32> {
        let segment = &mut self.segments[segment_of(hash)];
        let place = segment.locate(hash, &mut eq)?;
        let handle = segment.take(hash, place);
        self.len -= 1;
        if let Some(groups) = segment.shrunk() {
            segment.rebuild(groups, &hash_of);
        }
        Some(handle)
    }

    /// Puts `new` in the place of `old`, a handle whose record moved and whose key stayed. False if `old` is absent.
    pub fn replace(&mut self, hash: u64, old: u32, new: u32) -> bool {
        let segment = &mut self.segments[segment_of(hash)];
        let Some(place) = segment.locate(hash, &mut |handle| handle == old) else { return false };
        segment.group_mut(place.group).handles[place.slot] = new;
        true
    }

    /// Every handle, in no particular order.
    pub fn handles(&self) -> impl Iterator<Item = u32> {
        self.segments.iter().flat_map(Segment::entries)
    }
}

/// The tags of a group and, in the last byte, its overflow count.
type Tags = [u8; SLOTS + 1];

#[derive(Clone, Copy, Debug)]
struct Group {
    tags: Tags,
    handles: [u32; SLOTS],
}

impl Group {
    const EMPTY: Self = Self { tags: [FREE; SLOTS + 1], handles: [0; SLOTS] };
}

/// Where an entry lives in its segment.
#[derive(Clone, Copy, Debug)]
struct Place {
    group: usize,
    slot: usize,
}

#[derive(Debug, Default)]
struct Segment {
    pages: Box<[Box<[Group]>]>,
    groups: usize,
    len: usize,
}

impl Segment {
    fn with_groups(groups: usize) -> Self {
        let page = |start: usize| vec![Group::EMPTY; PAGE.min(groups - start)].into_boxed_slice();
        Self { pages: (0..groups).step_by(PAGE).map(page).collect(), groups, len: 0 }
    }

    fn group(&self, group: usize) -> &Group {
        &self.pages[group / PAGE][group % PAGE]
    }

    fn group_mut(&mut self, group: usize) -> &mut Group {
        &mut self.pages[group / PAGE][group % PAGE]
    }

    fn memory_bytes(&self) -> usize {
        self.groups * size_of::<Group>() + size_of_val(&*self.pages)
    }

    /// Load of 15/16: above it searches would walk many groups (measured: benches/base.rs).
    fn is_full(&self) -> bool {
        self.len * 16 >= self.groups * SLOTS * 15
    }

    /// The number of groups to shrink to, if less than half of the slots are taken: about 0.78 of them will be.
    fn shrunk(&self) -> Option<usize> {
        let slots = self.groups * SLOTS;
        if self.len * 2 >= slots || (self.len > 0 && self.groups == 1) {
            return None;
        }
        Some((self.len * 41).div_ceil(SLOTS * 32))
    }

    fn home(&self, hash: u64) -> usize {
        let spread = u128::from(hash << SEGMENT_BITS) * self.groups as u128;
        (spread >> 64) as usize
    }

    fn after(&self, group: usize) -> usize {
        if group + 1 == self.groups { 0 } else { group + 1 }
    }

    fn locate(&self, hash: u64, eq: &mut impl FnMut(u32) -> bool) -> Option<Place> {
        let tag = tag_of(hash);
        let mut group = self.home(hash);
        // The bound matters only where every count is stuck; otherwise the search ends at a count of 0.
        for _ in 0..self.groups {
            let Group { tags, handles } = self.group(group);
            for slot in Matches::of(tags, tag) {
                if tags[slot] == tag && eq(handles[slot]) {
                    return Some(Place { group, slot });
                }
            }
            if tags[OVERFLOW] == 0 {
                return None;
            }
            group = self.after(group);
        }
        None
    }

    /// Stores an entry in the first free slot on its way; the load bound guarantees one.
    fn place(&mut self, hash: u64, handle: u32) {
        let mut group = self.home(hash);
        loop {
            let Group { tags, handles } = self.group_mut(group);
            if let Some(slot) = Matches::of(tags, FREE).next() {
                tags[slot] = tag_of(hash);
                handles[slot] = handle;
                self.len += 1;
                return;
            }
            tags[OVERFLOW] = tags[OVERFLOW].saturating_add(1);
            group = self.after(group);
        }
    }

    fn take(&mut self, hash: u64, place: Place) -> u32 {
        let mut group = self.home(hash);
        while group != place.group {
            let overflow = &mut self.group_mut(group).tags[OVERFLOW];
            if *overflow != STUCK {
                *overflow -= 1;
            }
            group = self.after(group);
        }
        self.len -= 1;
        let group = self.group_mut(place.group);
        group.tags[place.slot] = FREE;
        group.handles[place.slot]
    }

    fn rebuild(&mut self, groups: usize, hash_of: &impl Fn(u32) -> u64) {
        let old = std::mem::replace(self, Self::with_groups(groups));
        for handle in old.entries() {
            self.place(hash_of(handle), handle);
        }
        debug_assert_eq!(self.len, old.len);
    }

    fn entries(&self) -> impl Iterator<Item = u32> {
        self.pages.iter().flatten().flat_map(|Group { tags, handles }| {
            tags[..SLOTS].iter().zip(handles).filter(|(tag, _)| **tag != FREE).map(|(_, handle)| *handle)
        })
    }
}

fn segment_of(hash: u64) -> usize {
    (hash >> (u64::BITS - SEGMENT_BITS)) as usize
}

/// 1 to 255 from the low byte, which the home group does not depend on.
fn tag_of(hash: u64) -> u8 {
    (hash as u8).max(1)
}

/// Groups after growing: doubled while small, then a fifth more from a start that differs from segment to segment.
fn grown(groups: usize, segment: usize) -> usize {
    if groups < SMALL_GROUPS {
        (groups * 2).max(1)
    } else if groups == SMALL_GROUPS {
        SMALL_GROUPS * 2 + segment * SMALL_GROUPS * 2 / (SEGMENTS * 5)
    } else {
        groups + groups.div_ceil(5)
    }
}

/// The slots of a group whose tag may be the wanted one: all that are, and rarely one that is not, but the first
/// one always is (the exact bit trick would cost more than looking at the tag again).
struct Matches(u128);

impl Matches {
    fn of(tags: &Tags, tag: u8) -> Self {
        const ONES: u128 = u128::from_le_bytes([1; 16]);
        const HIGH: u128 = ONES << 7;
        let differing = u128::from_le_bytes(*tags) ^ (ONES * u128::from(tag));
        let zero_bytes = differing.wrapping_sub(ONES) & !differing & HIGH;
        Self(zero_bytes & !(0xff << (8 * OVERFLOW)))
    }
}

impl Iterator for Matches {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let slot = self.0.trailing_zeros() / 8;
        self.0 &= self.0 - 1;
        Some(slot as usize)
    }
}

#[cfg(test)]
mod tests;

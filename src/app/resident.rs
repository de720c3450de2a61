//! What the process holds beside its shards' own figures: the categories of `millpond_memory_bytes` that only the kernel
//! and the allocator can tell.
//!
//! | category | from where |
//! |---|---|
//! | `files` | pages of the program, its libraries and the log's map: `/proc/self/status` |
//! | `stacks` | resident pages of the shards' stacks: `/proc/self/maps`, `/proc/self/pagemap` |
//! | `allocator` | resident bytes of the arenas (the same two files) less the blocks in use (`mallinfo2(3)`) |
//!
//! None of them is the rest of something: the sum of all categories can be wrong, and a test holds it against RSS.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use crate::app::heap;
use crate::control::metrics::ProcessMemory;

/// An arena of glibc but the first is reserved so large, at a multiple of its size (64-bit; `HEAP_MAX_SIZE`).
const ARENA_RESERVED: u64 = 64 << 20;

/// Bit of an entry of the page map: the page is in memory.
const PRESENT: u64 = 1 << 63;

thread_local! {
    /// Thread-locals of a program lie at the upper end of a thread's stack, below the C library's own block.
    static MARKER: u8 = const { 0 };
}

/// Where the stacks of the shards are: one address near the upper end of each.
#[derive(Debug, Default)]
pub(super) struct Stacks(Mutex<Vec<u64>>);

impl Stacks {
    /// Notes the stack of the calling thread.
    pub(super) fn note_own(&self) {
        let address = MARKER.with(|marker| std::ptr::from_ref(marker).addr() as u64);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(address);
    }

    fn addresses(&self) -> Vec<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Looks at the process. What `/proc` does not tell counts as nothing. Takes milliseconds where there are many maps.
pub(super) fn look(stacks: &Stacks) -> ProcessMemory {
    let files = file_bytes().unwrap_or_default();
    let Ok(text) = std::fs::read_to_string("/proc/self/maps") else {
        return ProcessMemory { files, ..ProcessMemory::default() };
    };
    let regions = Regions::of(&text, &stacks.addresses());
    let of = |ranges: &[Range<u64>]| resident_bytes(ranges).unwrap_or_default();
    let allocator = heap::bytes_in_use().map_or(0, |used| of(&regions.arenas).saturating_sub(used));
    ProcessMemory { files, stacks: of(&regions.stacks), allocator }
}

/// Resident bytes that belong to files.
fn file_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches("kB").trim_end().parse::<u64>().ok()
    };
    Some((of("RssFile:")? + of("RssShmem:")?) * 1024)
}

/// Bytes of these ranges that are in memory.
fn resident_bytes(ranges: &[Range<u64>]) -> std::io::Result<u64> {
    let page = rustix::param::page_size() as u64;
    let map = File::open("/proc/self/pagemap")?;
    let mut entries = Vec::new();
    let mut pages = 0;
    for range in ranges {
        let (first, count) = (range.start / page, (range.end - range.start) / page);
        entries.resize(count as usize * size_of::<u64>(), 0);
        map.read_exact_at(&mut entries, first * size_of::<u64>() as u64)?;
        let (entries, _) = entries.as_chunks();
        pages += entries.iter().filter(|entry| u64::from_ne_bytes(**entry) & PRESENT != 0).count();
    }
    Ok(pages as u64 * page)
}

/// Where things lie.
#[derive(Debug, Default, PartialEq, Eq)]
struct Regions {
    arenas: Vec<Range<u64>>,
    stacks: Vec<Range<u64>>,
}

impl Regions {
    /// From the text of `/proc/self/maps` and an address near the upper end of each stack.
    fn of(text: &str, stacks: &[u64]) -> Self {
        let maps: Vec<Map<'_>> = text.lines().filter_map(Map::of).collect();
        let mut regions = Self::default();
        for (index, map) in maps.iter().enumerate() {
            if map.name == "[heap]" || map.is_arena(maps.get(index + 1)) {
                regions.arenas.push(map.range.clone());
                continue;
            }
            let inside = stacks.iter().filter(|address| map.range.contains(address));
            regions.stacks.extend(inside.map(|address| stack_in(&map.range, *address)));
        }
        regions
    }
}

/// The stack whose upper end is near this address. By the address, as a map may hold more than one stack: what is mapped
/// right above has joined it, and guard pages divide maps only before glibc 2.42 (`MADV_GUARD_INSTALL`).
fn stack_in(map: &Range<u64>, address: u64) -> Range<u64> {
    let page = rustix::param::page_size() as u64;
    let end = (address / page + 2) * page;
    map.start.max(end.saturating_sub(super::SHARD_STACK as u64))..map.end.min(end)
}

/// One line of `/proc/self/maps`.
struct Map<'a> {
    range: Range<u64>,
    access: &'a str,
    /// Empty for anonymous memory.
    name: &'a str,
}

impl<'a> Map<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let range = number(start)?..number(end)?;
        let access = words.next()?;
        Some(Self { range, access, name: words.nth(3).unwrap_or_default() })
    }

    /// An arena begins at a multiple of what it has reserved, and the part that is not used yet follows it. The map of
    /// one that is used up joins that of the next right above it.
    fn is_arena(&self, next: Option<&Self>) -> bool {
        let is_whole = |end: u64| {
            let length = end.saturating_sub(self.range.start);
            length > 0 && length.is_multiple_of(ARENA_RESERVED)
        };
        let rest = next.filter(|next| next.access == "---p" && next.range.start == self.range.end);
        self.name.is_empty()
            && self.access == "rw-p"
            && self.range.start.is_multiple_of(ARENA_RESERVED)
            && (is_whole(self.range.end) || rest.is_some_and(|rest| is_whole(rest.range.end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
556f1d000000-556f1f000000 r-xp 00000000 08:01 131 /usr/bin/millpond (deleted)
556f20000000-556f20021000 rw-p 00000000 00:00 0 [heap]
7f0004000000-7f0004123000 rw-p 00000000 00:00 0
7f0004123000-7f0008000000 ---p 00000000 00:00 0
7f0008000000-7f000c000000 rw-p 00000000 00:00 0
7f0010000000-7f0010010000 rw-p 00000000 00:00 0
7f0010010000-7f0010011000 ---p 00000000 00:00 0
7f0010011000-7f0010191000 rw-p 00000000 00:00 0
7f0018000000-7f001c000000 rw-p 00000000 00:00 0
7f001d000000-7f001d001000 ---p 00000000 00:00 0
7f079c000000-7f07a0697000 rw-p 00000000 00:00 0
7f07a0697000-7f07a4000000 ---p 00000000 00:00 0
7f07a8000000-7f07a8100000 rw-p 00000000 00:00 0
7f07a8100000-7f07a9000000 ---p 00000000 00:00 0
7fff10000000-7fff10021000 rw-p 00000000 00:00 0 [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
";

    #[test]
    fn arenas_and_stacks_are_told_from_other_maps() {
        let regions = Regions::of(MAPS, &[0x7f00_1009_0008]);
        let arenas = [
            0x556f_2000_0000..0x556f_2002_1000,
            0x7f00_0400_0000..0x7f00_0412_3000,
            0x7f00_0800_0000..0x7f00_0c00_0000,
            0x7f00_1800_0000..0x7f00_1c00_0000,
            0x7f07_9c00_0000..0x7f07_a069_7000,
        ];
        assert_eq!(regions.arenas, arenas);
        assert_eq!(regions.stacks.len(), 1);
        assert_eq!(regions.stacks[0], 0x7f00_1001_2000..0x7f00_1009_2000, "no more than a stack's size");
        assert_eq!(Regions::of("no map\n\n", &[1]), Regions::default());
    }

    #[test]
    fn stacks_in_one_map_are_told_apart() {
        let joined = "7f0010010000-7f0010112000 rw-p 00000000 00:00 0\n";
        let regions = Regions::of(joined, &[0x7f00_1011_0800, 0x7f00_1009_0800, 0x7f00_1001_0010]);
        let stacks = [
            0x7f00_1009_2000..0x7f00_1011_2000,
            0x7f00_1001_2000..0x7f00_1009_2000,
            0x7f00_1001_0000..0x7f00_1001_2000,
        ];
        assert_eq!(regions.stacks, stacks);
    }

    #[test]
    fn only_pages_in_memory_count() {
        let page = rustix::param::page_size();
        let mut block: Vec<u8> = Vec::with_capacity(64 * page);
        let start = block.as_ptr().addr().next_multiple_of(page) as u64;
        let range = start..start + 60 * page as u64;
        let before = resident_bytes(std::slice::from_ref(&range)).unwrap();
        assert!(before <= 2 * page as u64, "fresh from the system: {before}");
        block.resize(64 * page, 1);
        assert_eq!(resident_bytes(&[range]).unwrap(), 60 * page as u64);
    }

    #[test]
    fn the_own_process_has_files_and_a_stack() {
        let stacks = Stacks::default();
        let memory = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(super::super::SHARD_STACK);
            let look = || {
                stacks.note_own();
                look(&stacks)
            };
            thread.spawn_scoped(scope, look).unwrap().join().unwrap()
        });
        assert!(memory.files > 100_000, "{memory:?}");
        assert!((4096..=super::super::SHARD_STACK as u64).contains(&memory.stacks), "{memory:?}");
    }
}

//! Settings of the C library's allocator, made once before any thread starts, how its unused memory goes back to the
//! system, and what it says it holds.
//!
//! The slabs and tables of a shard grow by doubling. Left alone, glibc raises its threshold for `mmap` to the size of
//! what was freed and then keeps large blocks in its arenas, where each doubling leaves a hole as large as what it
//! outgrew: measured with 200,000 connections on 11 shards, 196 B a connection against 173 B with the threshold fixed
//! and 170 B with two arenas (2026-11-24). Blocks with a mapping of their own grow by `mremap`, without a copy, and go
//! back to the system when they are freed. Its caches of small blocks are off ([`super::restart`]).
#![allow(unsafe_code, reason = "mallopt(3), malloc_trim(3) and mallinfo2(3) have no safe wrapper")]

/// Blocks from this size have a mapping of their own, in bytes. Chunks of `base::arena` are just larger.
const MMAP_THRESHOLD: libc::c_int = 60 * 1024;

/// Free bytes at the top of an arena that are given back to the system.
const TRIM_THRESHOLD: libc::c_int = 128 * 1024;

/// Free bytes that an arena keeps at its top, and takes from the system at a time.
const TOP_PAD: libc::c_int = 32 * 1024;

/// Freed blocks of at least 64 KiB, with what is free around them, make glibc look whether the top of an arena has grown
/// beyond [`TRIM_THRESHOLD`].
const NOTICED: usize = 80 * 1024;

/// Bounds of the number of arenas, one for each core: shards allocate rarely, so few wait for each other, and more arenas
/// hold more unused memory.
#[cfg(target_env = "gnu")]
const ARENAS: std::ops::RangeInclusive<usize> = 2..=16;

/// Sets the allocator up. Call it before any thread starts.
#[cfg(target_env = "gnu")]
pub(super) fn set_up() {
    for (parameter, value) in [
        (libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD),
        (libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD),
        (libc::M_TOP_PAD, TOP_PAD),
        (libc::M_ARENA_MAX, arenas() as libc::c_int),
    ] {
        // SAFETY: mallopt(3) takes two integers and touches only the allocator's own parameters; no other thread runs
        // yet, and a parameter it does not know it refuses.
        let _ = unsafe { libc::mallopt(parameter, value) };
    }
}

/// Other C libraries have no such parameters.
#[cfg(not(target_env = "gnu"))]
pub(super) fn set_up() {}

#[cfg(target_env = "gnu")]
fn arenas() -> usize {
    let cores = std::thread::available_parallelism().map_or(*ARENAS.start(), usize::from);
    cores.clamp(*ARENAS.start(), *ARENAS.end())
}

/// Returns every free page of every arena to the system. Takes milliseconds: never call it on a shard.
#[cfg(target_env = "gnu")]
pub(super) fn trim() {
    // SAFETY: malloc_trim takes no pointer, is safe to call from any thread (malloc_trim(3): MT-Safe), and touches
    // only pages that hold no allocation.
    unsafe { libc::malloc_trim(0) };
    trim_tops();
}

/// `malloc_trim` passes over the free memory at the top of all arenas but the first, which is only looked at when a large
/// block is freed there: seen at 2.9 MB after 100,000 connections had left.
#[cfg(target_env = "gnu")]
fn trim_tops() {
    in_every_arena(|| std::hint::black_box(Vec::<u8>::with_capacity(NOTICED)));
}

/// Allocates in every arena, and frees it after all have. New threads get first the arenas that no thread uses, then all
/// of them in turns: twice as many threads as arenas, all alive at once, reach each. What one leaves the next would get.
#[cfg(target_env = "gnu")]
fn in_every_arena<T>(allocate: impl Fn() -> T + Sync) {
    // Not a barrier: that would wait for threads that could not be started.
    let gate = std::sync::RwLock::new(());
    let (allocating, all_allocated) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let closed = gate.write();
        for _ in 0..2 * arenas() {
            let allocating = allocating.clone();
            let (allocate, gate) = (&allocate, &gate);
            let thread = std::thread::Builder::new().name("trim".to_owned()).stack_size(64 * 1024);
            // Without a thread the memory stays until the next time.
            let _ = thread.spawn_scoped(scope, move || {
                let block = allocate();
                drop(allocating);
                drop(gate.read());
                drop(block);
            });
        }
        drop(allocating);
        // Fails when the last of them has allocated, as nobody sends.
        let _ = all_allocated.recv();
        drop(closed);
    });
}

/// Other allocators return memory by themselves.
#[cfg(not(target_env = "gnu"))]
pub(super) fn trim() {}

/// Bytes of the blocks in the arenas that are in use, their headers included, those with a mapping of their own not.
/// `None` where the allocator does not tell. Holds the lock of each arena for a fraction of a millisecond.
#[cfg(target_env = "gnu")]
pub(super) fn bytes_in_use() -> Option<u64> {
    // SAFETY: mallinfo2 takes nothing, is safe to call from any thread (mallinfo(3): MT-Safe as long as nobody calls
    // mallopt, which only `set_up` does, before any thread starts), and returns plain numbers.
    let info = unsafe { libc::mallinfo2() };
    Some(info.uordblks as u64)
}

/// Other allocators do not tell.
#[cfg(not(target_env = "gnu"))]
pub(super) fn bytes_in_use() -> Option<u64> {
    None
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use std::collections::HashSet;
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn threads_that_live_at_once_reach_more_than_one_arena() {
        let arenas = Mutex::new(HashSet::new());
        in_every_arena(|| {
            let block = std::hint::black_box(Vec::<u8>::with_capacity(100));
            arenas.lock().unwrap().insert(block.as_ptr().addr() >> 26);
            block
        });
        assert!(arenas.into_inner().unwrap().len() > 1);
        trim();
    }

    #[test]
    fn a_block_in_an_arena_is_in_use_until_it_is_freed() {
        // Larger than what other tests of this process allocate meanwhile; smaller than what is mapped by itself.
        let before = bytes_in_use().unwrap();
        let blocks: Vec<Vec<u8>> = (0..2000).map(|_| Vec::with_capacity(20_000)).collect();
        let with = bytes_in_use().unwrap();
        assert!(with >= before + 30_000_000, "{before} {with}");
        drop(blocks);
        assert!(bytes_in_use().unwrap() + 30_000_000 < with);
    }
}

//! Settings of the C library's allocator, made once before any thread starts, and how its unused memory goes back to
//! the system.
//!
//! The slabs and tables of a shard grow by doubling. Left alone, glibc raises its threshold for `mmap` to the size of
//! what was freed and then keeps large blocks in its arenas, where each doubling leaves a hole as large as what it
//! outgrew: measured with 200,000 connections on 11 shards, 196 B a connection against 173 B with the threshold fixed
//! and 170 B with two arenas (2026-11-24). Blocks with a mapping of their own grow by `mremap`, without a copy, and go
//! back to the system when they are freed.
//!
//! Small blocks are the harder part. Every thread caches up to [`CACHED_EACH`] freed blocks of each small size, glibc
//! offers no call to empty that cache, and a cached block keeps its page: after 200,000 connections had left 11 shards,
//! RSS stayed 72 % above that of the start, and 5 % with the caches off. So after a mass departure each thread takes its
//! cached blocks out by asking for as many as there can be ([`ThreadCaches::empty_own`]), and a thread that ends
//! afterwards frees them all ([`ThreadCaches::free_emptied`]).
#![allow(unsafe_code, reason = "mallopt(3) and malloc_trim(3) have no safe wrapper")]

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam::queue::SegQueue;

/// Blocks from this size have a mapping of their own, in bytes. Chunks of `base::arena` are just larger.
const MMAP_THRESHOLD: libc::c_int = 60 * 1024;

/// Free bytes at the top of an arena that are given back to the system.
const TRIM_THRESHOLD: libc::c_int = 128 * 1024;

/// Arenas: shards allocate rarely, so they seldom wait for each other here; more arenas hold more unused memory.
const ARENAS: libc::c_int = 2;

/// Largest block that a thread of glibc caches, and the step between two sizes of cached blocks, in bytes.
const CACHED_LARGEST: usize = 1032;
/// See above.
const CACHED_STEP: usize = 16;
/// Blocks of one size that a thread caches (`glibc.malloc.tcache_count`).
const CACHED_EACH: usize = 7;

/// Sets the allocator up. Call it before any thread starts.
#[cfg(target_env = "gnu")]
pub(super) fn set_up() {
    for (parameter, value) in [
        (libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD),
        (libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD),
        (libc::M_ARENA_MAX, ARENAS),
    ] {
        // SAFETY: mallopt(3) takes two integers and touches only the allocator's own parameters; no other thread runs
        // yet, and a parameter it does not know it refuses.
        let _ = unsafe { libc::mallopt(parameter, value) };
    }
}

/// Other C libraries have no such parameters.
#[cfg(not(target_env = "gnu"))]
pub(super) fn set_up() {}

/// Returns every free page of every arena to the system. Takes milliseconds: never call it on a shard.
#[cfg(target_env = "gnu")]
pub(super) fn trim() {
    // SAFETY: malloc_trim takes no pointer, is safe to call from any thread (malloc_trim(3): MT-Safe), and touches
    // only pages that hold no allocation.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators return memory by themselves.
#[cfg(not(target_env = "gnu"))]
pub(super) fn trim() {}

/// The caches of all threads that serve: emptied on request.
#[derive(Debug, Default)]
pub(super) struct ThreadCaches {
    /// Counts requests (wrapping).
    requests: AtomicU32,
    /// Blocks that were taken out.
    emptied: SegQueue<Vec<Vec<u8>>>,
}

impl ThreadCaches {
    /// Asks every thread to empty its cache.
    pub(super) fn ask(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Empties the cache of the calling thread if that was asked since `seen`: about 450 small allocations, 20 µs.
    pub(super) fn empty_own(&self, seen: &mut u32) {
        let requests = self.requests.load(Ordering::Relaxed);
        if std::mem::replace(seen, requests) != requests && cfg!(target_env = "gnu") {
            self.emptied.push(cached_blocks());
        }
    }

    /// Frees what was taken out, on a thread of its own whose cache goes with it.
    ///
    /// # Errors
    /// If the thread cannot be made: the blocks wait for the next call then.
    pub(super) fn free_emptied(&self) -> io::Result<()> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("trim".to_owned()).stack_size(64 * 1024);
            let thread = thread.spawn_scoped(scope, || while self.emptied.pop().is_some() {})?;
            // Leaving the scope waits for the closure only, joining for the end of the thread and so of its cache.
            let _ = thread.join();
            Ok(())
        })
    }
}

/// One block for each place in the calling thread's cache: whatever it holds is among them.
fn cached_blocks() -> Vec<Vec<u8>> {
    let least = CACHED_LARGEST % CACHED_STEP + CACHED_STEP;
    let sizes = (least..=CACHED_LARGEST).step_by(CACHED_STEP);
    sizes.flat_map(|size| (0..CACHED_EACH).map(move |_| Vec::with_capacity(size))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_once_by_each_thread() {
        let caches = ThreadCaches::default();
        let (mut first, mut second) = (0, 0);
        caches.empty_own(&mut first);
        assert!(caches.emptied.is_empty(), "nobody asked");
        caches.ask();
        caches.empty_own(&mut first);
        caches.empty_own(&mut first);
        caches.empty_own(&mut second);
        assert_eq!(caches.emptied.len(), if cfg!(target_env = "gnu") { 2 } else { 0 });
        caches.free_emptied().unwrap();
        assert!(caches.emptied.is_empty());
    }

    #[test]
    fn every_size_that_is_cached_is_asked_for() {
        let blocks = cached_blocks();
        assert_eq!(blocks.len(), 64 * CACHED_EACH, "64 sizes: TCACHE_MAX_BINS of glibc");
        assert_eq!(blocks.first().map(Vec::capacity), Some(24));
        assert_eq!(blocks.last().map(Vec::capacity), Some(CACHED_LARGEST));
    }
}

//! Settings of the C library's allocator, made once before any thread starts.
//!
//! The slabs and tables of a shard grow by doubling. Left alone, glibc raises its threshold for `mmap` to the size of
//! what was freed and then keeps large blocks in its arenas, where each doubling leaves a hole as large as what it
//! outgrew: measured with 200,000 connections on 11 shards, 196 B a connection against 173 B with the threshold fixed
//! and 170 B with two arenas (2026-11-24). Blocks with a mapping of their own grow by `mremap`, without a copy, and go
//! back to the system when they are freed.
#![allow(unsafe_code, reason = "mallopt(3) and malloc_trim(3) have no safe wrapper")]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::hub::shard::Common;

/// Pause between looks at the number of connections.
const LOOK: Duration = Duration::from_secs(5);

/// Connections that must have gone before unused memory is worth looking for (about 2 MB).
const WORTH_IT: u32 = 10_000;

/// Starts the thread that gives memory back after many connections have gone.
///
/// # Errors
/// If the thread cannot be made.
pub(super) fn keep_house(common: &Arc<Common>) -> io::Result<()> {
    let common = Arc::clone(common);
    let mut peak = 0;
    let mut look = move || {
        let connections = common.admission.connections();
        peak = peak.max(connections);
        if peak - connections > WORTH_IT.max(peak / 4) {
            give_back();
            peak = connections;
        }
    };
    let keeper = std::thread::Builder::new().name("keeper".to_owned()).stack_size(64 * 1024);
    keeper.spawn(move || {
        loop {
            std::thread::park_timeout(LOOK);
            look();
        }
    })?;
    Ok(())
}

/// Blocks from this size have a mapping of their own, in bytes.
const MMAP_THRESHOLD: libc::c_int = 64 * 1024;

/// Free bytes at the top of an arena that are given back to the system.
const TRIM_THRESHOLD: libc::c_int = 128 * 1024;

/// Arenas: shards allocate rarely, so they seldom wait for each other here; more arenas hold more unused memory.
const ARENAS: libc::c_int = 2;

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

/// Gives memory that the allocator holds unused back to the system. Takes milliseconds: never call it on a shard.
#[cfg(target_env = "gnu")]
fn give_back() {
    // SAFETY: malloc_trim(3) may be called at any time from any thread; it takes the locks of the arenas one by one.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Other C libraries have no such parameters.
#[cfg(not(target_env = "gnu"))]
pub(super) fn set_up() {}

/// See above.
#[cfg(not(target_env = "gnu"))]
fn give_back() {}

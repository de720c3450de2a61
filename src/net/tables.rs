//! Private descriptor tables: what lets shards hold more sockets than one table may, and what makes each syscall
//! cheaper (no reference count on the file, no contention when the table grows).
//!
//! Order of things: everything that several threads touch (wakers, the handover pair, the control plane's bell) is made
//! *before* [`take_private`], so that it has the same number in every table. Afterwards a descriptor belongs to the
//! shard that made it, and only that shard closes it.
#![allow(unsafe_code, reason = "unshare(2) has no safe wrapper: it changes what descriptor numbers mean")]

use std::io;

use rustix::process::{Resource, getrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Descriptors kept free in every table for what is neither a client's socket nor shared: the poller, listeners, the
/// reserve, standard streams, short-lived files of libraries.
pub const KEPT_FREE: u64 = 32;

/// Gives the calling thread a descriptor table of its own: a copy of the shared one as it is now.
///
/// # Errors
/// `ENOMEM`; `EPERM` under a seccomp filter. The caller goes on with the shared table then.
pub fn take_private() -> io::Result<()> {
    // SAFETY: CLONE_FILES affects only which table the calling thread's descriptor numbers refer to. The new table is a
    // copy, so every descriptor this thread owns keeps its number and its meaning; descriptors that other threads make
    // later are never used by this thread (they are made before, see the module documentation).
    unsafe { unshare_unsafe(UnshareFlags::FILES) }?;
    Ok(())
}

/// Descriptors one table may hold: the soft limit, raised to the hard limit first where that is higher.
#[must_use]
pub fn descriptors_per_table() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
        // Where raising fails the soft limit stands, which is what is read below.
        let _ = rustix::process::setrlimit(Resource::Nofile, raised);
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::from(u32::MAX))
}

/// Client sockets one shard may hold, with `shards` wakers in its table.
#[must_use]
pub fn sockets_per_shard(shards: u64) -> u64 {
    descriptors_per_table().saturating_sub(shards + KEPT_FREE)
}

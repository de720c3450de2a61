//! Wake-ups of shards: one eventfd each, made before the tables become private, so that all threads can write to it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};

use rustix::event::{EventfdFlags, eventfd};

use crate::base::ids::ShardId;

/// The eventfds of all shards.
#[derive(Debug)]
pub struct Wakers {
    files: Vec<File>,
}

impl Wakers {
    /// One for each shard.
    ///
    /// # Errors
    /// Those of `eventfd(2)`: too many descriptors.
    pub fn new(shards: u16) -> io::Result<Self> {
        let make = |_| Ok(File::from(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?));
        Ok(Self { files: (0..shards).map(make).collect::<io::Result<_>>()? })
    }

    /// Wakes a shard. Never blocks: a counter that is full is as good as one that is not zero.
    pub fn wake(&self, shard: ShardId) {
        if let Some(mut file) = self.files.get(shard.0 as usize) {
            let _ = file.write(&1_u64.to_ne_bytes());
        }
    }

    /// Resets a shard's own eventfd after a wake-up.
    pub fn reset(&self, shard: ShardId) {
        if let Some(mut file) = self.files.get(shard.0 as usize) {
            let _ = file.read(&mut [0; 8]);
        }
    }

    /// For the shard's poller.
    #[must_use]
    pub fn descriptor(&self, shard: ShardId) -> Option<RawFd> {
        self.files.get(shard.0 as usize).map(AsRawFd::as_raw_fd)
    }
}

//! Small ids. A handle that leaves its owner carries a generation, so that a stale one is ignored, not misread.

/// Index of a shard (one thread, one poller, one descriptor table). At most [`ShardId::MAX_SHARDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

impl ShardId {
    /// Upper bound of the number of shards in a process.
    pub const MAX_SHARDS: usize = 1024;
}

/// Names one connection in the process: shard, slab slot and the generation of that slot's occupant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnKey {
    /// The shard that owns the connection.
    pub shard: ShardId,
    /// Slot in that shard's slab.
    pub slot: u32,
    /// Counts the accepts of the shard; two occupants of one slot never share it within 2^32 accepts.
    pub generation: u32,
}

/// A socket as the shell above names it (on Linux the file descriptor); the hub only hands it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Descriptor(pub i32);

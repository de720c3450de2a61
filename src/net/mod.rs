//! The mio shell of a shard.

pub mod handover;

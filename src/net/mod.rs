//! The mio shell around a shard: sockets, descriptor tables, wake-ups and the clock. It holds no decisions.

pub mod clock;
pub mod handover;
pub mod listener;
pub mod reactor;
pub mod reserve;
pub mod socket;
pub mod tables;
pub mod wakers;

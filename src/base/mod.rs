//! Data structures without I/O, clock or protocol: everything here is pure and deterministic.

pub mod arena;
pub mod duration;
pub mod hash;
pub mod heartbeat;
pub mod ids;
pub mod mesh;
pub mod permute;
pub mod rate;
pub mod rng;
pub mod table;
pub mod tick;
pub mod wheel;

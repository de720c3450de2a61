//! Data structures without I/O, clock or protocol: everything here is pure and deterministic.

pub mod arena;
pub mod ids;
pub mod table;
pub mod tick;

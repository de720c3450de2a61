//! Data structures without I/O, clock or protocol: everything here is pure and deterministic.

pub mod ids;
pub mod tick;

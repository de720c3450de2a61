//! What a host lets millpond do, and how to make it do more: `doctor`, `tune` and `plan`.
//!
//! | module | what it is | I/O |
//! |---|---|---|
//! | [`facts`], [`cgroup`] | what was read, value by value: known, absent, or not readable | none |
//! | [`parse`] | the formats of /proc and /sys | none |
//! | [`reader`] | reads /proc, /sys and the cgroup below a root, so that a recorded host is read like a live one | files |
//! | [`coefficients`] | what a connection, a delivery, a ping cost, each measured or assumed | none |
//! | [`shards`] | how many descriptor tables it takes | none |
//! | [`finding`], [`doctor`] | the facts judged: what bounds this host, why, and the fix | none |
//! | [`plan`] | memory, cores and bandwidth foretold | none |
//! | [`profile`] | the files of `tuning/`, embedded and parsed | none |
//! | [`tune`] | the difference to a profile; applied, restored, written | files |
//! | [`verify`] | opens the sockets on loopback | sockets |
//!
//! Invariants: a decision sees facts only, never the host; what cannot be read is said and never fatal; every number
//! has its source beside it; nothing is written before its backup is on the disk.

pub mod cgroup;
pub mod coefficients;
pub mod doctor;
pub mod facts;
pub mod finding;
pub mod parse;
pub mod plan;
pub mod profile;
pub mod reader;
pub mod shards;
pub mod tune;
pub mod verify;

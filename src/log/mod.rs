//! The append-only log: mailboxes, durable history and webhook events of one node.
//!
//! ```text
//!  Appender ──bounded queue──► writer thread ──► Engine: encode → write → fdatasync → show → acknowledge
//!     ▲                                            │ Storage (files | fake disk)
//!     └──────────── AckSink ◄──────────────────────┤
//!  Reader ◄── Index (48 bytes a stream) ◄──────────┤          Maintenance: remove, compact
//!     └──► Segment: map, marks ◄───────────────────┴────────────┘
//! ```
//!
//! Everything is a *stream* (the mailbox of a user, the history of a channel, a queue of webhook events): a chain of
//! records through the log, newest first, with a head in the index. Messages at or below a stream's floor are done with;
//! a cursor raises the floor.
//!
//! Invariants:
//! * a record is acknowledged and shown to readers only after what `sync` promises; no acknowledged record is lost, no
//!   other one appears, and their order is that of their requests, whatever a crash leaves (`tests/crash.rs`);
//! * no durable sector is ever written again (but what nothing vouches for is, with the same bytes, when a crash has left
//!   it: a failed sync may have kept it from the medium); a segment whose write or sync failed is given up, never retried;
//! * no byte is believed without its checksum; damage to what was durable is reported and kept for inspection, and never
//!   cut away; everything else at the end of the log is a torn tail;
//! * nothing outside of the records is needed to rebuild the rest;
//! * nothing here panics on what the disk holds: indexing and unchecked arithmetic are denied in the whole module.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod body;
mod chain;
pub mod compact;
mod door;
pub mod engine;
pub mod error;
pub mod fake;
pub mod files;
mod flight;
mod group;
pub mod history;
pub mod index;
mod loss;
mod map;
pub mod notice;
pub mod pages;
mod place;
pub mod reader;
pub mod record;
pub mod recover;
pub mod request;
mod reserve;
mod retain;
pub mod scan;
pub mod segment;
pub mod settings;
mod shared;
mod snapshot;
pub mod storage;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod tool;
mod writer;

pub use door::{AckReceiver, Appender, Log};

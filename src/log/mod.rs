//! The append-only log: mailboxes, durable history and webhook events in preallocated segments.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod body;
pub mod compact;
pub mod engine;
pub mod error;
pub mod fake;
pub mod files;
pub mod index;
mod map;
mod place;
pub mod reader;
pub mod record;
pub mod recover;
pub mod request;
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

pub use writer::{AckReceiver, Appender, Log};

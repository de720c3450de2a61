//! The generator end to end against its own peer, in this process.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]

mod fanout;
mod idle;
mod interrupt;
mod scenarios;
mod support;

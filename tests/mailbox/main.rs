//! Mailboxes in virtual time: the store's office alone, and with shards and clients around it, over the log's fake disk.
//! Records are committed and acknowledged when the test says so; clients drop, fall silent and come back.
//!
//! `SEED=n` runs one seed of the play, `SEEDS=n` that many, from `SEED` or 0 on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

mod bench;
mod client;
mod dead;
#[allow(dead_code, reason = "shared with the test of event queues")]
mod desk;
#[allow(dead_code, reason = "shared with the simulation of shards")]
#[path = "../sim/frames.rs"]
mod frames;
#[path = "../support/hub.rs"]
mod hub;
mod keys;
#[allow(dead_code, reason = "shared with the simulation of shards")]
#[path = "../sim/net.rs"]
mod net;
mod office;
mod play;
mod positions;
mod rows;
mod town;
mod turns;
#[allow(dead_code, reason = "shared with the simulation of shards")]
#[path = "../sim/world.rs"]
mod world;

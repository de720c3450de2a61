//! A whole shard, and several together, in virtual time: simulated sockets that write short, block and break, mail
//! that is slow between shards, clients that speak the real protocol, drop, come back and fall asleep. Everything is
//! drawn from a seed.
//!
//! `SEED=n` runs one seed, `SEEDS=n` that many, from `SEED` or 0 on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

mod binary;
mod bounds;
mod client;
mod connect;
mod counted;
mod crowd;
mod delay;
mod frames;
#[path = "../support/hub.rs"]
mod hub;
mod ledger;
mod net;
mod overload;
mod rows;
mod script;
mod slow;
mod streams;
mod world;

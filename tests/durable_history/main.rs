//! Durable history in virtual time: shards, the store's office and clients over the log's fake disk. The process is
//! killed or loses its power at any moment; what anybody was told stays true.
//!
//! `SEED=n` runs one seed of the play, `SEEDS=n` that many from 0 on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

mod desk;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "../support/hub.rs"]
mod hub;
mod play;
mod rows;
mod world;

use std::time::Duration;

use millpond::hub::settings::{ChannelOptions, Settings};

/// The settings of the shards' tests, and namespaces with durable history: `all` keeps everything, `few` eight.
fn settings() -> Settings {
    let mut settings = hub::settings();
    let hist = settings.channel.options[usize::from(settings.channel.namespaces["hist"])].clone();
    for (name, size) in [("all", 10_000), ("few", 8)] {
        let index = settings.channel.options.len() as u16;
        settings.channel.namespaces.insert(name.into(), index);
        settings.channel.options.push(ChannelOptions {
            name: name.into(),
            history_size: size,
            history_ttl: Duration::from_secs(3600),
            history_durable: true,
            ..hist.clone()
        });
    }
    settings
}

#[test]
fn what_anybody_was_told_stays_true_through_crashes() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(25),
    };
    let settings = settings();
    let mut total = play::Done::default();
    let runs = seeds.end - seeds.start;
    for seed in seeds {
        let done = play::play(seed, &settings);
        total.published += done.published;
        total.deliveries += done.deliveries;
        total.recoveries += done.recoveries;
        total.refusals += done.refusals;
    }
    println!("{runs} plays: {total:?}");
    assert!(
        runs == 1 || total.recoveries > 20 && total.refusals > 20 && total.deliveries > 1000,
        "{total:?}"
    );
}

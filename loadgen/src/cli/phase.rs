//! Options of the phases. The same groups are flags of a subcommand and tables of a scenario file.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::value::{Share, defaults, duration, read_duration, read_text};
use crate::behaviour::{Close, Jitter};
use crate::client::Manner;

/// Options of the phase `ramp`.
#[derive(Debug, Clone, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RampArgs {
    /// Connections to have at its end; by default all.
    #[arg(long)]
    pub connections: Option<u32>,
    /// Connections to begin per second; by default as the load says.
    #[arg(long)]
    pub rate: Option<f64>,
}

/// Options of the phase `hold`, and of the subcommand `idle`.
#[derive(Debug, Clone, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct HoldArgs {
    /// How long to hold the connections.
    #[arg(long, default_value = "60s", value_parser = duration)]
    #[serde(deserialize_with = "read_duration")]
    pub hold: Duration,
    /// Fail unless every connection has read a ping during the hold.
    #[arg(long)]
    pub require_ping: bool,
}

/// Publications.
#[derive(Debug, Clone, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PublishArgs {
    /// How long to publish.
    #[arg(long, default_value = "10s", value_parser = duration)]
    #[serde(deserialize_with = "read_duration")]
    pub duration: Duration,
    /// Publications a second (open model: latency counts from the intended time).
    #[arg(long, default_value_t = 10.0, conflicts_with = "in_flight")]
    pub publish_rate: f64,
    /// Instead of a rate: publications under way at once, each until every subscriber has it.
    #[arg(long)]
    pub in_flight: Option<u32>,
    /// Bytes of data of a message.
    #[arg(long, default_value_t = 70)]
    pub size: usize,
    /// Over what to publish.
    #[arg(long, value_enum, default_value_t = PublishBy::Http)]
    pub publish_by: PublishBy,
    /// The HTTP API's method `publish`; by default `/api/publish` on the first server.
    #[arg(long)]
    pub api_url: Option<String>,
    /// The key of the HTTP API.
    #[arg(long, env = "MILLPOND_LOAD_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Connections to publish over; each keeps its publications in order.
    #[arg(long, default_value_t = 1)]
    pub lanes: u32,
    /// Publish only into the first so many channels of the first template; 0 for all.
    #[arg(long, default_value_t = 0)]
    pub publish_channels: u32,
    /// How long no delivery may come before those still missing count as lost.
    #[arg(long, default_value = "5s", value_parser = duration)]
    #[serde(deserialize_with = "read_duration")]
    pub drain: Duration,
}

/// Over what to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PublishBy {
    /// The server's HTTP API.
    Http,
    /// A client connection.
    Client,
    /// Nothing is published.
    Nothing,
}

/// Options of the phase `storm`.
#[derive(Debug, Clone, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct StormArgs {
    /// Clients that lose their connection: a number, or a percentage of all.
    #[arg(long, default_value = "100%")]
    #[serde(deserialize_with = "read_text")]
    pub clients: Share,
    /// How they lose it: reset, fin or goodbye.
    #[arg(long, default_value = "reset")]
    #[serde(deserialize_with = "read_text")]
    pub close: Close,
    /// When they come back: none, spread, full, equal or sdk.
    #[arg(long, default_value = "full")]
    #[serde(deserialize_with = "read_text")]
    pub jitter: Jitter,
    /// Within which time they come back.
    #[arg(long, default_value = "10s", value_parser = duration)]
    #[serde(deserialize_with = "read_duration")]
    pub within: Duration,
    /// How long to wait for the last of them.
    #[arg(long, default_value = "60s", value_parser = duration)]
    #[serde(deserialize_with = "read_duration")]
    pub patience: Duration,
    /// Do not ask for recovery; what was published meanwhile then counts as lost.
    #[arg(long)]
    pub no_recover: bool,
    /// What is published meanwhile.
    #[command(flatten)]
    pub publish: PublishArgs,
}

/// Options of the phase `chat`.
#[derive(Debug, Clone, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ChatArgs {
    /// Mean time between two messages of a client.
    #[arg(long, default_value = "10s", value_parser = duration)]
    #[serde(deserialize_with = "read_duration")]
    pub think: Duration,
    /// Bytes of data of a message.
    #[arg(long, default_value_t = 70)]
    pub size: usize,
    /// How long they talk.
    #[arg(long, default_value = "30s", value_parser = duration)]
    #[serde(deserialize_with = "read_duration")]
    pub duration: Duration,
    /// How long no delivery may come before those still missing count as lost.
    #[arg(long, default_value = "5s", value_parser = duration)]
    #[serde(deserialize_with = "read_duration")]
    pub drain: Duration,
}

/// Options of the phase `presence`.
#[derive(Debug, Clone, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PresenceArgs {
    /// Joins and leaves a second, over all clients.
    #[arg(long, default_value_t = 1000.0)]
    pub churn_rate: f64,
    /// For how long.
    #[arg(long, default_value = "10s", value_parser = duration)]
    #[serde(deserialize_with = "read_duration")]
    pub duration: Duration,
}

/// Options of the phase `slow`.
#[derive(Debug, Clone, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SlowArgs {
    /// Clients that are slow: a number, or a percentage of all.
    #[arg(long, default_value = "10%")]
    #[serde(deserialize_with = "read_text")]
    pub clients: Share,
    /// In which way: stuck, half-open, drip-read or drip-write.
    #[arg(long, default_value = "stuck")]
    #[serde(deserialize_with = "read_text")]
    pub manner: Manner,
    /// What is published meanwhile.
    #[command(flatten)]
    pub publish: PublishArgs,
}

/// Options of the phase `soak`.
#[derive(Debug, Clone, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SoakArgs {
    /// Clients that lose their connection and come back, a second.
    #[arg(long, default_value_t = 10.0)]
    pub churn_rate: f64,
    /// How they lose it and come back, and what is published. `--duration` is the soak's.
    #[command(flatten)]
    pub storm: StormArgs,
}

macro_rules! defaulted {
    ($($type:ty),*) => {
        $(impl Default for $type {
            fn default() -> Self {
                defaults()
            }
        })*
    };
}

defaulted!(RampArgs, HoldArgs, PublishArgs, StormArgs, ChatArgs, PresenceArgs, SlowArgs, SoakArgs);

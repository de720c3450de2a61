//! Options that every scenario has: connections, server, reports.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::value::{defaults, duration, read_duration, read_text};
use crate::source::SourceChoice;

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// The client protocol in JSON.
    Json,
    /// The client protocol in Protobuf.
    Protobuf,
    /// Plain WebSocket: see --first-frame, --ready, --publish-frame.
    Plain,
}

/// Connections and server.
#[derive(Debug, Clone, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LoadArgs {
    /// Connections.
    #[arg(long, short = 'n', default_value_t = 1_000)]
    pub connections: u32,
    /// Where to connect; several spread the connections over several ports.
    #[arg(long, default_value = "ws://127.0.0.1:8000/connection/websocket")]
    pub url: Vec<String>,
    /// What is spoken.
    #[arg(long, value_enum, default_value_t = Encoding::Json)]
    pub encoding: Encoding,
    /// Sign an HS256 token per connection with this secret.
    #[arg(long, env = "MILLPOND_LOAD_TOKEN_KEY", hide_env_values = true)]
    pub token_key: Option<String>,
    /// How long tokens live.
    #[arg(long, default_value = "24h", value_parser = duration)]
    #[serde(deserialize_with = "read_duration")]
    pub token_ttl: Duration,
    /// User names are this and the client's number; a template such as `u{i%100}` is taken as it is.
    #[arg(long, default_value = "u")]
    pub user_prefix: String,
    /// Expect the server to subscribe each connection to the personal channel of its user.
    #[arg(long)]
    pub personal: bool,
    /// A channel to subscribe, such as `ch{i}`, `room{i%100}` or `room{i/20}`; may be given several times.
    #[arg(long = "channel-template", value_name = "TEMPLATE")]
    #[serde(rename = "channel-template")]
    pub channels: Vec<String>,
    /// Connections to begin per second; 0 for as many as go.
    #[arg(long, default_value_t = 0.0)]
    pub rate: f64,
    /// Handshakes under way at once, over all workers.
    #[arg(long, default_value_t = 512)]
    pub outstanding: u32,
    /// A handshake that takes longer has failed.
    #[arg(long, default_value = "30s", value_parser = duration)]
    #[serde(deserialize_with = "read_duration")]
    pub timeout: Duration,
    /// Worker threads; `auto` for as many as the descriptor limit demands.
    #[arg(long, default_value = "auto")]
    pub threads: String,
    /// Source addresses: auto, kernel, aliases, ADDRESS, FIRST-LAST or NETWORK/BITS, several with commas.
    #[arg(long, default_value = "auto")]
    #[serde(deserialize_with = "read_text")]
    pub source: SourceChoice,
    /// A header line for the upgrade request, such as `Origin: http://localhost`.
    #[arg(long = "header", value_name = "LINE")]
    #[serde(rename = "header")]
    pub headers: Vec<String>,
    /// Send the first commands together with the upgrade request (not allowed by RFC 6455, but some servers take it).
    #[arg(long)]
    pub eager: bool,
    /// Process to watch, for memory and CPU of the server; several are summed up.
    #[arg(long = "server-pid", value_name = "PID")]
    #[serde(rename = "server-pid")]
    pub server_pids: Vec<u32>,
    /// Start even if the self check says that this host cannot generate it.
    #[arg(long)]
    pub force: bool,
    /// Frames of the plain encoding.
    #[command(flatten)]
    pub plain: PlainArgs,
}

/// Frames of the plain encoding.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PlainArgs {
    /// A frame to send after the upgrade; one with `{channel}` is sent once per channel.
    #[arg(long = "first-frame", value_name = "TEMPLATE")]
    #[serde(rename = "first-frame")]
    pub first_frames: Vec<String>,
    /// A client is ready when a frame holds this text; without it, after the upgrade.
    #[arg(long, value_name = "TEXT")]
    pub ready: Option<String>,
    /// A frame that holds this text is an application ping.
    #[arg(long, value_name = "TEXT", requires = "pong_frame")]
    pub ping: Option<String>,
    /// The answer to an application ping.
    #[arg(long, value_name = "FRAME")]
    pub pong_frame: Option<String>,
    /// The frame that publishes `{payload}` into `{channel}`.
    #[arg(long, value_name = "TEMPLATE")]
    pub publish_frame: Option<String>,
    /// The subprotocol to offer.
    #[arg(long)]
    pub subprotocol: Option<String>,
    /// Send binary frames.
    #[arg(long)]
    pub binary: bool,
}

/// Reports.
#[derive(Debug, Clone, Default, Args)]
pub struct OutputArgs {
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report as one HTML page with plots.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Fail unless this holds, such as `p99<5ms`, `lost==0` or `storm.all_back_s<=20s`; may be given several times.
    #[arg(long = "assert", value_name = "CONDITION")]
    pub asserts: Vec<String>,
    /// Let a void result pass, one of which the generator itself was the bottleneck.
    #[arg(long)]
    pub allow_void: bool,
    /// No progress, only the report.
    #[arg(long, short)]
    pub quiet: bool,
}

impl Default for LoadArgs {
    fn default() -> Self {
        defaults()
    }
}

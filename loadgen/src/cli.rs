//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::source::SourceChoice;

/// A load generator for servers that hold millions of WebSocket connections.
#[derive(Debug, Parser)]
#[command(name = "millpond-load", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A subcommand.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Open connections and keep them.
    Idle(IdleArgs),
    /// Publish to subscribers and measure latency; prove that nothing is lost, doubled or out of order.
    Fanout(FanoutArgs),
    /// Say what this host can generate, and what bounds it.
    Check(CheckArgs),
    /// Run a bare server of the client protocol's minimum, to calibrate the generator against.
    Peer(PeerArgs),
}

/// Options of `peer`.
#[derive(Debug, Args)]
pub struct PeerArgs {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,
    /// Threads, each with a descriptor table of its own.
    #[arg(long, default_value_t = 1)]
    pub threads: u32,
    /// Time between pings.
    #[arg(long, default_value = "25s", value_parser = duration)]
    pub ping: Duration,
    /// Leave out one delivery in so many.
    #[arg(long, default_value_t = 0)]
    pub lose: u32,
    /// Send one delivery in so many twice.
    #[arg(long, default_value_t = 0)]
    pub double: u32,
    /// Send one delivery in so many after the next.
    #[arg(long, default_value_t = 0)]
    pub swap: u32,
}

/// Options of `idle`.
#[derive(Debug, Args)]
pub struct IdleArgs {
    /// Connections and server.
    #[command(flatten)]
    pub load: LoadArgs,
    /// How long to hold the connections.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub hold: Duration,
    /// Fail unless every connection has read a ping during the hold.
    #[arg(long)]
    pub require_ping: bool,
    /// Reports.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `fanout`.
#[derive(Debug, Args)]
pub struct FanoutArgs {
    /// Connections and server.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Publications.
    #[command(flatten)]
    pub publish: PublishArgs,
    /// How long to publish.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// Reports.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Publications.
#[derive(Debug, Clone, Args)]
pub struct PublishArgs {
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
    /// How long to wait for the last deliveries before they count as lost.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub drain: Duration,
}

/// Over what to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PublishBy {
    /// The server's HTTP API.
    Http,
    /// A client connection.
    Client,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Connections and server.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Encoding {
    /// The client protocol in JSON.
    Json,
    /// The client protocol in Protobuf.
    Protobuf,
    /// Plain WebSocket: see --first-frame, --ready, --publish-frame.
    Plain,
}

/// Connections and server.
#[derive(Debug, Clone, Args)]
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
    pub token_ttl: Duration,
    /// User names are this and the client's number; a template such as `u{i%100}` is taken as it is.
    #[arg(long, default_value = "u")]
    pub user_prefix: String,
    /// Expect the server to subscribe each connection to the personal channel of its user.
    #[arg(long)]
    pub personal: bool,
    /// A channel to subscribe, such as `ch{i}` or `room{i%100}`; may be given several times.
    #[arg(long = "channel-template", value_name = "TEMPLATE")]
    pub channels: Vec<String>,
    /// Connections to begin per second; 0 for as many as go.
    #[arg(long, default_value_t = 0.0)]
    pub rate: f64,
    /// Handshakes under way at once, over all workers.
    #[arg(long, default_value_t = 512)]
    pub outstanding: u32,
    /// A handshake that takes longer has failed.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
    /// Worker threads; `auto` for as many as the descriptor limit demands.
    #[arg(long, default_value = "auto")]
    pub threads: String,
    /// Source addresses: auto, kernel, aliases, ADDRESS, FIRST-LAST or NETWORK/BITS, several with commas.
    #[arg(long, default_value = "auto")]
    pub source: SourceChoice,
    /// A header line for the upgrade request, such as `Origin: http://localhost`.
    #[arg(long = "header", value_name = "LINE")]
    pub headers: Vec<String>,
    /// Send the first commands together with the upgrade request (not allowed by RFC 6455, but some servers take it).
    #[arg(long)]
    pub eager: bool,
    /// Process to watch, for memory and CPU of the server; several are summed up.
    #[arg(long = "server-pid", value_name = "PID")]
    pub server_pids: Vec<u32>,
    /// Start even if the self check says that this host cannot generate it.
    #[arg(long)]
    pub force: bool,
    /// Frames of the plain encoding.
    #[command(flatten)]
    pub plain: PlainArgs,
}

/// Frames of the plain encoding.
#[derive(Debug, Clone, Default, Args)]
pub struct PlainArgs {
    /// A frame to send after the upgrade; one with `{channel}` is sent once per channel.
    #[arg(long = "first-frame", value_name = "TEMPLATE")]
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
    /// No progress, only the report.
    #[arg(long, short)]
    pub quiet: bool,
}

/// `90`, `90s`, `500ms`, `5m` or `24h`.
///
/// # Errors
/// A sentence for the user.
pub fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{unit}` is no unit of time: use ms, s, m or h")),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is no duration"))?;
    Duration::try_from_secs_f64(number * factor).map_err(|_| format!("`{text}` is no duration"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("5 days").is_err() && duration("-1s").is_err());
    }
}

//! The command line. Every group of options is also a table of a scenario file, under the same names.

mod load;
mod phase;
mod value;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub use load::{Encoding, LoadArgs, OutputArgs, PlainArgs};
pub use phase::{
    ChatArgs, HoldArgs, PresenceArgs, PublishArgs, PublishBy, RampArgs, SlowArgs, SoakArgs, StormArgs,
};
pub use value::{Share, duration};

/// A load generator for servers that hold millions of WebSocket connections.
///
/// Every scenario first brings its connections up. It exits with 0 if all that was demanded held, with 1 if not, with 2
/// if the run could not be made, and with 3 if the result is void because the generator itself was the bottleneck.
#[derive(Debug, Parser)]
#[command(name = "millpond-load", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A subcommand.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one of them in a process")]
pub enum Command {
    /// Open connections and keep them.
    Idle(Single<HoldArgs>),
    /// Publish to subscribers and measure latency; prove that nothing is lost, doubled or out of order.
    Fanout(Single<PublishArgs>),
    /// Let many clients lose their connection at once and come back with recovery.
    Storm(Single<StormArgs>),
    /// Let clients talk in rooms, each after a time of thinking.
    Chat(Single<ChatArgs>),
    /// Let clients join and leave channels, and check who the server thinks is there.
    Presence(Single<PresenceArgs>),
    /// Publish while some clients read slowly or not at all.
    Slow(Single<SlowArgs>),
    /// Publish for a long time while clients come and go, and see what grows.
    Soak(Single<SoakArgs>),
    /// Run the phases of a scenario file.
    Run(RunArgs),
    /// Compare two reports, figure by figure.
    Compare(CompareArgs),
    /// Draw a JSON report as an HTML page, or check conditions on it.
    Report(ReportArgs),
    /// Say what this host can generate, and what bounds it.
    Check(CheckArgs),
    /// Run a bare server of the client protocol's minimum, to calibrate the generator against.
    Peer(PeerArgs),
}

/// A scenario of one phase.
#[derive(Debug, Args)]
pub struct Single<T: Args> {
    /// Connections and server.
    #[command(flatten)]
    pub load: LoadArgs,
    /// The phase.
    #[command(flatten)]
    pub phase: T,
    /// Reports.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The scenario, in TOML: a table `load` and an array of tables `phase`.
    pub scenario: PathBuf,
    /// Process to watch, beside those of the scenario.
    #[arg(long = "server-pid", value_name = "PID")]
    pub server_pids: Vec<u32>,
    /// Where to connect, instead of the scenario's.
    #[arg(long)]
    pub url: Vec<String>,
    /// Reports.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// The report to compare with.
    pub before: PathBuf,
    /// The report to compare.
    pub after: PathBuf,
    /// Leave out figures that differ by less than so many percent.
    #[arg(long, default_value_t = 0.0)]
    pub threshold: f64,
}

/// Options of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// A report in JSON.
    pub report: PathBuf,
    /// What to make of it.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Connections and server.
    #[command(flatten)]
    pub load: LoadArgs,
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_group_has_defaults() {
        assert_eq!(SoakArgs::default().storm.publish.size, 70);
        assert_eq!(LoadArgs::default().connections, 1_000);
        assert_eq!(HoldArgs::default().hold, Duration::from_secs(60));
        assert_eq!(PresenceArgs::default().duration, ChatArgs::default().duration / 3);
        assert!(SlowArgs::default().clients == Share::Percent(10.0) && RampArgs::default().rate.is_none());
    }
}

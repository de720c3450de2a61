//! The command line: what each command does, in words for the person in front of it.
//!
//! Exit codes: 0 done, 1 failed, 2 used wrongly. Results go to standard output, everything else to standard error.
//! No flag takes a secret: command lines can be read by every user of a host.

mod check;
mod configuration;
mod doctor;
mod key;
mod log;
mod plan;
mod serve;
mod token;
mod tune;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand};

use crate::app::StartError;
use crate::config::{Config, FILE_VARIABLE, Layers, Problems, load, parse_duration};
use crate::host::finding::grouped;
use crate::host::profile::ProfileError;
use crate::host::tune::backup::BackupError;
use crate::host::verify::VerifyError;
use crate::log::error::{OpenError, StorageError};
use check::Verdict;

/// A real-time gateway that speaks the client protocol of Centrifugo.
#[derive(Debug, Parser)]
#[command(name = "millpond", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Serve(serve::ServeArgs),
    /// Report everything that is wrong with a configuration, without starting.
    CheckConfig(ConfigArgs),
    /// Print the default configuration with a remark on every key.
    DefaultConfig(configuration::DefaultArgs),
    /// Make a connection token for a user.
    Token(token::TokenArgs),
    /// Make a subscription token for a user and a channel.
    SubToken(token::SubTokenArgs),
    /// Say whether a connection token would be accepted, and why not.
    CheckToken(check::CheckArgs),
    /// Say whether a subscription token would be accepted, and why not.
    CheckSubToken(check::CheckArgs),
    /// Say what bounds the connections of this host, and how to lift it. Needs no privileges.
    Doctor(doctor::DoctorArgs),
    /// Look at a log: verify, stats, inspect.
    Log {
        #[command(subcommand)]
        command: log::LogCommand,
    },
    /// Show what a profile would change on this host; apply it, take it back, prove it.
    Tune(tune::TuneArgs),
    /// Foretell memory, cores and bandwidth of a load.
    Plan(plan::PlanArgs),
}

#[derive(Args, Debug)]
struct ConfigArgs {
    /// Configuration in TOML, YAML or JSON, by its extension. Environment variables MILLPOND_... override it.
    #[arg(long, env = FILE_VARIABLE, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// The layers below the flags.
    fn layers(self) -> Layers {
        let variables = std::env::vars_os();
        let text = variables.filter_map(|(name, text)| name.into_string().ok().zip(text.into_string().ok()));
        Layers { file: self.config, environment: text.collect(), ..Layers::default() }
    }

    fn load(self) -> Result<Config, Problems> {
        load(&self.layers())
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// The configuration is wrong.
    #[error("{}", listed(.0))]
    Config(#[from] Problems),
    /// The gateway could not start.
    #[error("{0}")]
    Start(#[from] StartError),
    /// The clock cannot be right.
    #[error(
        "the clock of this host says {0} seconds since 1970, so no token could be judged; set it (NTP) and start again"
    )]
    Clock(u64),
    /// A log that cannot be read.
    #[error("the log in {} cannot be read: {source}", path.display())]
    Log {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// A log with damage.
    #[error("the log is damaged, see above; what is not listed can be read, and the gateway serves it")]
    DamagedLog,
    /// A report that cannot be shown.
    #[error("the report cannot be written as JSON")]
    Report,
    /// No key to sign with.
    #[error("{}", serve::NO_KEY)]
    NoKey,
    /// Only keys that verify.
    #[error(
        "the configuration holds public keys only; make tokens where the private key is, or give --key @FILE"
    )]
    PublicKeysOnly,
    /// The file with the key.
    #[error("{}: {source}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// A key was put on the command line.
    #[error(
        "a key on the command line can be read by every user of this host; give --key @FILE, or --key - for standard \
         input, or leave it out and use the configuration or MILLPOND_CLIENT_TOKEN_HMAC_SECRET_KEY"
    )]
    KeyInTheOpen,
    /// A key without a byte.
    #[error("the key is empty")]
    EmptyKey,
    /// `--info` or `--data`
    #[error("{flag}: {source}")]
    NotJson {
        /// The flag.
        flag: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// The token could not be signed.
    #[error("{0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
    /// The token is refused.
    #[error("the token is refused: {0}")]
    Refused(Verdict),
    /// The host holds fewer connections than asked for.
    #[error("this host holds {} of the {} connections asked for", grouped(*.possible), grouped(*.wanted))]
    HostTooSmall {
        /// Connections it holds.
        possible: u64,
        /// Connections asked for.
        wanted: u64,
    },
    /// Neither a host nor a recording of one.
    #[error("{}: there is no folder `proc` in it", .0.display())]
    NoHost(PathBuf),
    /// No such process.
    #[error("there is no process {0}")]
    NoProcess(u32),
    /// A mistake in `tuning/`.
    #[error("{0}")]
    Profile(#[from] ProfileError),
    /// The way back cannot be kept or found.
    #[error("{0}")]
    Backup(#[from] BackupError),
    /// Some settings could not be set.
    #[error("not everything could be done:{}", .0.iter().map(|line| format!("\n  - {line}")).collect::<String>())]
    Tune(Vec<String>),
    /// The host could not hold the connections.
    #[error("not verified: {0}")]
    Verify(#[from] VerifyError),
    /// Standard input or output.
    #[error("{0}")]
    Stream(#[from] io::Error),
}

impl CliError {
    /// 2 for commands that were used wrongly, as `clap` ends them; else 1.
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::KeyInTheOpen
            | Self::Log {
                source:
                    OpenError::NoLog | OpenError::Storage(StorageError::NotFound | StorageError::NotADirectory),
                ..
            } => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

/// Runs the command and tells how it ended.
pub fn run(cli: Cli) -> ExitCode {
    match execute(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("millpond: {error}"));
            error.exit_code()
        }
    }
}

fn execute(command: Command) -> Result<(), CliError> {
    match command {
        Command::Serve(args) => serve::serve(args),
        Command::CheckConfig(args) => configuration::check(args),
        Command::DefaultConfig(args) => configuration::print_default(&args),
        Command::Token(args) => token::connection(args),
        Command::SubToken(args) => token::subscription(args),
        Command::CheckToken(args) => check::connection(args),
        Command::CheckSubToken(args) => check::subscription(args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Tune(args) => tune::tune(&args),
        Command::Plan(args) => plan::foretell(&args),
        Command::Log { command } => log::run(command),
    }
}

/// Writes a line to standard error. Where that is closed, there is nobody to tell.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes a result to standard output.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Problems as a list under a heading.
fn listed(problems: &Problems) -> String {
    let lines = problems.0.iter().map(|problem| format!("\n  - {problem}"));
    format!("the configuration cannot be used:{}", lines.collect::<String>())
}

/// Seconds since 1970; 0 where the clock stands before that.
#[expect(clippy::disallowed_methods, reason = "commands judge and make tokens by the wall clock")]
fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// A duration as in the configuration, for flags.
fn duration_flag(text: &str) -> Result<Duration, crate::config::NotADuration> {
    parse_duration(text)
}

//! `log verify`, `log stats`, `log inspect`: looking at a log without a running server, and without changing it.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{CliError, now_unix, print, say};
use crate::log::error::OpenError;
use crate::log::record::Sequence;
use crate::log::tool::{InspectFilter, inspect, stats, verify};

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Read every record and say what is damaged. Ends with 0 if nothing is, 1 if something is or the log cannot be read,
    /// 2 if there is no log in the directory.
    Verify(LogArgs),
    /// Say what is in the log: segments, kinds of records, what waits.
    Stats(LogArgs),
    /// Print records as JSON, one a line.
    Inspect(InspectArgs),
}

#[derive(Args, Debug)]
pub(super) struct LogArgs {
    /// Directory of the log.
    directory: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct InspectArgs {
    #[command(flatten)]
    log: LogArgs,
    /// Start at this sequence.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// At most so many records; 0 = all. Where to go on is said on standard error.
    #[arg(long, default_value_t = 100)]
    limit: u64,
    /// Only records of this user or channel.
    #[arg(long)]
    name: Option<String>,
}

pub(super) fn run(command: LogCommand) -> Result<(), CliError> {
    let now = u32::try_from(now_unix()).unwrap_or(u32::MAX);
    match command {
        LogCommand::Verify(args) => {
            let report = verify(&args.directory, now).map_err(unreadable(&args.directory))?;
            print(&format!("{}\n", json(&report)?))?;
            if report.is_good() { Ok(()) } else { Err(CliError::DamagedLog) }
        }
        LogCommand::Stats(args) => {
            let report = stats(&args.directory, now).map_err(unreadable(&args.directory))?;
            Ok(print(&format!("{}\n", json(&report)?))?)
        }
        LogCommand::Inspect(args) => {
            let filter = InspectFilter { from: Sequence(args.from), limit: args.limit, name: args.name };
            let mut lines = Vec::new();
            let next = inspect(&args.log.directory, now, &filter, &mut |record| lines.push(record))
                .map_err(unreadable(&args.log.directory))?;
            for record in &lines {
                print(&format!("{}\n", serde_json::to_string(record).map_err(|_| CliError::Report)?))?;
            }
            if let Some(next) = next {
                say(&format!(
                    "millpond: {} records are shown and more follow: go on with --from {next}, or raise --limit (0 = all)",
                    lines.len()
                ));
            }
            Ok(())
        }
    }
}

fn unreadable(directory: &Path) -> impl FnOnce(OpenError) -> CliError {
    let path = directory.to_owned();
    move |source| CliError::Log { path, source }
}

fn json(report: &impl serde::Serialize) -> Result<String, CliError> {
    serde_json::to_string_pretty(report).map_err(|_| CliError::Report)
}

//! `log verify`, `log stats`, `log inspect`: looking at a log without a running server, and without changing it.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{CliError, now_unix, print};
use crate::log::record::Sequence;
use crate::log::tool::{InspectFilter, inspect, stats, verify};

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Read every record and say what is damaged. Fails if anything is.
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
    /// At most so many records; 0 = all.
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
            let report = verify(&args.directory, now)?;
            print(&format!("{}\n", json(&report)?))?;
            if report.is_good() { Ok(()) } else { Err(CliError::DamagedLog) }
        }
        LogCommand::Stats(args) => Ok(print(&format!("{}\n", json(&stats(&args.directory, now)?)?))?),
        LogCommand::Inspect(args) => {
            let filter = InspectFilter { from: Sequence(args.from), limit: args.limit, name: args.name };
            let mut lines = Vec::new();
            inspect(&args.log.directory, now, &filter, &mut |record| lines.push(record))?;
            for record in &lines {
                print(&format!("{}\n", serde_json::to_string(record).map_err(|_| CliError::Report)?))?;
            }
            Ok(())
        }
    }
}

fn json(report: &impl serde::Serialize) -> Result<String, CliError> {
    serde_json::to_string_pretty(report).map_err(|_| CliError::Report)
}

//! `doctor`: what bounds this host, in connections and microseconds, with the fix for each.

use std::path::PathBuf;

use clap::Args;

use super::{CliError, print, say};
use crate::host::doctor::{Goal, examine};
use crate::host::reader::Reader;

#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// Connections that the host shall hold.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    connections: u64,
    /// Seconds between two pings of the server (client.ping_interval); 0: none.
    #[arg(long, value_name = "SECONDS", default_value_t = 25, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    ping: u64,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
    /// Judge the limits and the control group of this process, a running millpond for example, instead of the shell's.
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Also copy every file that was read into this folder, to be looked at elsewhere.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
    /// Read a recorded host instead of this one.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["record", "pid"])]
    recorded: Option<PathBuf>,
}

pub(super) fn doctor(args: &DoctorArgs) -> Result<(), CliError> {
    let root = args.recorded.clone().unwrap_or_else(|| PathBuf::from("/"));
    if !root.join("proc").is_dir() {
        return Err(CliError::NoHost(root));
    }
    if let Some(pid) = args.pid
        && !root.join(format!("proc/{pid}")).is_dir()
    {
        return Err(CliError::NoProcess(pid));
    }
    let reader = Reader::new(&root, args.pid);
    let report = examine(&reader.facts(), Goal { connections: args.connections, ping_seconds: args.ping });
    if let Some(folder) = &args.record {
        let count = reader.record(folder)?;
        say(&format!("millpond: {count} files recorded in {}", folder.display()));
    }
    if args.json {
        print(&format!("{:#}\n", serde_json::json!(report)))?;
    } else {
        print(&report.to_string())?;
    }
    if report.suffices() {
        Ok(())
    } else {
        Err(CliError::HostTooSmall { possible: report.possible, wanted: report.wanted })
    }
}

//! What each subcommand does, from parsed arguments to exit code.

use std::process::ExitCode;

use crate::cli::{CheckArgs, Cli, Command, FanoutArgs, IdleArgs, LoadArgs, OutputArgs, PeerArgs};
use crate::client::Client;
use crate::clock;
use crate::fleet::FleetError;
use crate::kernel;
use crate::monitor;
use crate::peer::{Faults, Peer, PeerSettings};
use crate::plan::Plan;
use crate::report::{self, Host, PhaseReport, Report, text};
use crate::run::fanout::{self, Fanout};
use crate::run::idle::{self, HoldDemands};
use crate::run::{Conductor, RunError};
use crate::selfcheck::SelfCheck;
use crate::target::{self, PlanError};

/// The server did not hold what was demanded.
const NOT_HELD: u8 = 1;
/// The run could not be made.
const NOT_RUN: u8 = 2;

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The arguments make no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A worker failed.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// A phase failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The host is too small for what is wanted.
    #[error("this host cannot generate {wanted} connections; --force tries all the same")]
    TooSmall {
        /// What is wanted.
        wanted: u64,
    },
    /// A report could not be written or read.
    #[error("{0}: {1}")]
    File(String, std::io::Error),
}

/// Does what the command line says.
#[must_use]
pub fn main(cli: &Cli) -> ExitCode {
    let outcome = match &cli.command {
        Command::Idle(args) => idle(args),
        Command::Fanout(args) => fanout(args),
        Command::Check(args) => check(args),
        Command::Peer(args) => peer(args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("millpond-load: {error}");
        ExitCode::from(NOT_RUN)
    })
}

fn idle(args: &IdleArgs) -> Result<ExitCode, AppError> {
    let demands = HoldDemands { duration: args.hold, require_ping: args.require_ping, require_all: true };
    conduct(&args.load, &args.output, |conductor, phases| {
        phases.push(idle::ramp(conductor, args.load.connections, args.load.rate)?);
        phases.push(idle::hold(conductor, &demands)?);
        Ok(())
    })
}

fn fanout(args: &FanoutArgs) -> Result<ExitCode, AppError> {
    conduct(&args.load, &args.output, |conductor, phases| {
        let publishing = target::publishing(&args.publish, &conductor.plan, args.duration)?;
        phases.push(idle::ramp(conductor, args.load.connections, args.load.rate)?);
        phases.push(fanout::fanout(conductor, "fanout", &Fanout { publishing, drain: args.publish.drain })?);
        Ok(())
    })
}

fn check(args: &CheckArgs) -> Result<ExitCode, AppError> {
    let plan = target::plan(&args.load)?;
    let check = self_check(&plan, &args.load);
    println!("{check}");
    Ok(if check.suffices() { ExitCode::SUCCESS } else { ExitCode::from(NOT_HELD) })
}

fn peer(args: &PeerArgs) -> Result<ExitCode, AppError> {
    let _ = kernel::lift_descriptor_limit();
    let faults = Faults { lose: args.lose, double: args.double, swap: args.swap };
    let settings = PeerSettings { listen: args.listen, threads: args.threads, ping: args.ping, faults };
    let peer = Peer::start(&settings).map_err(|error| AppError::File(args.listen.to_string(), error))?;
    eprintln!("peer listens on {} as process {}", peer.address(), std::process::id());
    peer.wait();
    Ok(ExitCode::SUCCESS)
}

fn self_check(plan: &Plan, load: &LoadArgs) -> SelfCheck {
    let local = plan.routes.destinations().iter().any(|to| to.ip().is_loopback());
    SelfCheck::look(&plan.routes, load.connections, local, size_of::<Client>() as u64)
}

/// Checks the host, runs the phases, writes the reports.
fn conduct(
    load: &LoadArgs,
    output: &OutputArgs,
    phases: impl FnOnce(&mut Conductor, &mut Vec<PhaseReport>) -> Result<(), AppError>,
) -> Result<ExitCode, AppError> {
    let plan = target::plan(load)?;
    let check = self_check(&plan, load);
    if !output.quiet {
        eprintln!("{check}");
    }
    if !check.suffices() && !load.force {
        return Err(AppError::TooSmall { wanted: check.wanted });
    }
    let mut report = Report {
        format: report::FORMAT,
        command: std::env::args().collect::<Vec<_>>().join(" "),
        started_unix: clock::unix_seconds(),
        host: host(),
        self_check: check.to_string(),
        ..Report::default()
    };
    let mut conductor = Conductor::start(plan, &load.server_pids, output.quiet)?;
    phases(&mut conductor, &mut report.phases)?;
    report.samples = conductor.finish();
    conclude(&report, output)
}

fn conclude(report: &Report, output: &OutputArgs) -> Result<ExitCode, AppError> {
    print!("{}", text::render(report));
    if let Some(path) = &output.json {
        report.save(path).map_err(|error| AppError::File(path.display().to_string(), error))?;
    }
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::from(NOT_HELD) })
}

fn host() -> Host {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Host {
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        memory: monitor::memory("MemTotal:").unwrap_or(0),
        kernel: release.trim().to_owned(),
    }
}

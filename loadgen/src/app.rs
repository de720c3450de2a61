//! What each subcommand does, from parsed arguments to exit code.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use crate::cli::{CheckArgs, Cli, Command, CompareArgs, LoadArgs, OutputArgs, PeerArgs, ReportArgs, RunArgs};
use crate::client::Client;
use crate::clock;
use crate::fleet::FleetError;
use crate::kernel;
use crate::monitor::{self, ProcessWatch};
use crate::peer::{Faults, Peer, PeerSettings};
use crate::plan::Plan;
use crate::report::assert::{Condition, ConditionError};
use crate::report::{self, Host, Report, compare, html, text};
use crate::run::Conductor;
use crate::scenario::{Scenario, ScenarioError, Step, StepError};
use crate::selfcheck::SelfCheck;
use crate::target::PlanError;

/// Exit code: all that was demanded held.
pub const HELD: u8 = 0;
/// Exit code: something that was demanded did not hold.
pub const NOT_HELD: u8 = 1;
/// Exit code: the run could not be made, or was interrupted.
pub const NOT_RUN: u8 = 2;
/// Exit code: the generator itself was the bottleneck.
pub const VOID: u8 = 3;

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The arguments make no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The scenario cannot be read.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// A worker failed.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// A phase failed.
    #[error(transparent)]
    Step(#[from] StepError),
    /// A condition cannot be checked.
    #[error(transparent)]
    Condition(#[from] ConditionError),
    /// The host is too small for what is wanted.
    #[error("this host cannot generate {wanted} connections; --force tries all the same")]
    TooSmall {
        /// What is wanted.
        wanted: u64,
    },
    /// A process that shall be watched is not there.
    #[error("--server-pid: there is no process {0} to watch")]
    NoServer(u32),
    /// A report could not be written or read, or an address not be listened on.
    #[error("{0}: {1}")]
    File(String, io::Error),
}

/// Does what the command line says; the exit code.
#[must_use]
pub fn main(cli: &Cli) -> u8 {
    let single =
        |load: &LoadArgs, step: Step, output: &OutputArgs| conduct(&Scenario::single(load, step), output);
    let outcome = match &cli.command {
        Command::Idle(args) => single(&args.load, Step::Hold(args.phase.clone()), &args.output),
        Command::Fanout(args) => single(&args.load, Step::Fanout(args.phase.clone()), &args.output),
        Command::Storm(args) => single(&args.load, Step::Storm(args.phase.clone()), &args.output),
        Command::Chat(args) => single(&args.load, Step::Chat(args.phase.clone()), &args.output),
        Command::Presence(args) => single(&args.load, Step::Presence(args.phase.clone()), &args.output),
        Command::Slow(args) => single(&args.load, Step::Slow(args.phase.clone()), &args.output),
        Command::Soak(args) => single(&args.load, Step::Soak(args.phase.clone()), &args.output),
        Command::Run(args) => run(args),
        Command::Compare(args) => compare(args),
        Command::Report(args) => redraw(args),
        Command::Check(args) => check(args),
        Command::Peer(args) => peer(args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("millpond-load: {error}");
        NOT_RUN
    })
}

fn run(args: &RunArgs) -> Result<u8, AppError> {
    let mut scenario = Scenario::load(&args.scenario)?;
    scenario.load.server_pids.extend(&args.server_pids);
    if !args.url.is_empty() {
        scenario.load.url.clone_from(&args.url);
    }
    conduct(&scenario, &args.output)
}

fn compare(args: &CompareArgs) -> Result<u8, AppError> {
    let (before, after) = (load_report(&args.before)?, load_report(&args.after)?);
    print!("{}", compare::render(&before, &after, args.threshold));
    Ok(HELD)
}

fn redraw(args: &ReportArgs) -> Result<u8, AppError> {
    conclude(&load_report(&args.report)?, &args.output, &[])
}

fn load_report(path: &Path) -> Result<Report, AppError> {
    Report::load(path).map_err(|error| AppError::File(path.display().to_string(), error))
}

fn check(args: &CheckArgs) -> Result<u8, AppError> {
    let plan = crate::target::plan(&args.load)?;
    let check = self_check(&plan);
    println!("{check}");
    Ok(if check.suffices() { HELD } else { NOT_HELD })
}

fn peer(args: &PeerArgs) -> Result<u8, AppError> {
    let _ = kernel::lift_descriptor_limit();
    let faults = Faults { lose: args.lose, double: args.double, swap: args.swap };
    let settings = PeerSettings { listen: args.listen, threads: args.threads, ping: args.ping, faults };
    let peer = Peer::start(&settings).map_err(|error| AppError::File(args.listen.to_string(), error))?;
    eprintln!("peer listens on {} as process {}", peer.address(), std::process::id());
    peer.wait();
    Ok(HELD)
}

fn self_check(plan: &Plan) -> SelfCheck {
    let local = plan.routes.destinations().iter().any(|to| to.ip().is_loopback());
    SelfCheck::look(&plan.routes, plan.connections, local, size_of::<Client>() as u64)
}

/// Checks the host, runs the phases, writes the reports.
fn conduct(scenario: &Scenario, output: &OutputArgs) -> Result<u8, AppError> {
    // A condition that cannot be read is better known before the run than after it.
    scenario.asserts.iter().chain(&output.asserts).try_for_each(|text| Condition::parse(text).map(drop))?;
    let plan = scenario.plan()?;
    check_surroundings(&scenario.load.server_pids, output)?;
    let check = self_check(&plan);
    if !output.quiet {
        eprintln!("{check}");
    }
    if !check.suffices() && !scenario.load.force {
        return Err(AppError::TooSmall { wanted: check.wanted });
    }
    let mut report = Report {
        format: report::FORMAT,
        command: command_line(std::env::args()),
        started_unix: clock::unix_seconds(),
        host: host(),
        self_check: check.to_string(),
        ..Report::default()
    };
    kernel::catch_interrupt();
    let mut conductor = Conductor::start(plan, &scenario.load.server_pids, output.quiet)?;
    let outcome = run_phases(scenario, &mut conductor, &mut report);
    report.samples = conductor.finish();
    if let Err(error) = outcome {
        // What was found until then is worth having, but conditions would be about half a run.
        conclude(&report, &OutputArgs { asserts: Vec::new(), ..output.clone() }, &[])?;
        return Err(error.into());
    }
    conclude(&report, output, &scenario.asserts)
}

/// Whether the server can be watched and the reports written: better known before the run than after it.
fn check_surroundings(server_pids: &[u32], output: &OutputArgs) -> Result<(), AppError> {
    if let Some(gone) = server_pids.iter().find(|pid| ProcessWatch::new(&[**pid]).sample().is_none()) {
        return Err(AppError::NoServer(*gone));
    }
    for path in output.json.iter().chain(&output.html) {
        can_write(path).map_err(|error| AppError::File(path.display().to_string(), error))?;
    }
    Ok(())
}

/// Leaves no file behind, as the run may yet be refused.
fn can_write(path: &Path) -> io::Result<()> {
    let is_new = path.symlink_metadata().is_err();
    OpenOptions::new().create(true).append(true).open(path)?;
    if is_new { fs::remove_file(path) } else { Ok(()) }
}

/// Runs the phases until one cannot be run, nobody came up, or the user interrupts.
fn run_phases(scenario: &Scenario, conductor: &mut Conductor, report: &mut Report) -> Result<(), StepError> {
    let mut phases = scenario.phases.iter().peekable();
    while let Some(phase) = phases.next() {
        let first = report.phases.len();
        let outcome = phase.run(conductor, &scenario.load, &mut report.phases);
        report.interrupted = kernel::interrupted();
        outcome?;
        if report.interrupted {
            // Half a phase breaks no promise, and says little of the generator.
            for half in &mut report.phases[first..] {
                half.broken.clear();
                half.void.clear();
            }
            return Ok(());
        }
        if conductor.fleet.totals().ready == 0
            && phases.peek().is_some()
            && let Some(last) = report.phases.last_mut()
        {
            last.broken.push("no connection is up: what was to follow is left out".to_owned());
            return Ok(());
        }
    }
    Ok(())
}

/// Checks the conditions, writes what is wanted, and says how it went.
fn conclude(report: &Report, output: &OutputArgs, asserts: &[String]) -> Result<u8, AppError> {
    print!("{}", text::render(report));
    let save = |path: &Path, outcome: io::Result<()>| {
        outcome.map_err(|error| AppError::File(path.display().to_string(), error))
    };
    if let Some(path) = &output.json {
        save(path, report.save(path))?;
    }
    if let Some(path) = &output.html {
        save(path, fs::write(path, html::render(report)))?;
    }
    if report.interrupted {
        println!("INTERRUPTED before its time: nothing was demanded of it, and no condition checked");
        return Ok(NOT_RUN);
    }
    let mut fails = Vec::new();
    for text in asserts.iter().chain(&output.asserts) {
        fails.extend(Condition::parse(text)?.check(report)?);
    }
    for fail in &fails {
        println!("NOT HELD: {fail}");
    }
    Ok(match (report.holds() && fails.is_empty(), report.is_void() && !output.allow_void) {
        (false, _) => NOT_HELD,
        (true, true) => VOID,
        (true, false) => HELD,
    })
}

/// The command line as a report shows it: without secrets.
fn command_line(arguments: impl Iterator<Item = String>) -> String {
    const SECRETS: [&str; 2] = ["--token-key", "--api-key"];
    let mut hide_next = false;
    let shown = arguments.map(|argument| {
        let hidden = std::mem::take(&mut hide_next);
        let secret = SECRETS.iter().find(|secret| argument.starts_with(**secret));
        match secret {
            _ if hidden => "***".to_owned(),
            Some(secret) if argument.contains('=') => format!("{secret}=***"),
            Some(_) => {
                hide_next = true;
                argument
            }
            None => argument,
        }
    });
    shown.collect::<Vec<_>>().join(" ")
}

fn host() -> Host {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Host {
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        memory: monitor::memory("MemTotal:").unwrap_or(0),
        kernel: release.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_whether_a_report_can_be_written_leaves_none() {
        let folder = std::env::temp_dir().join(format!("millpond-load-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (new, old) = (folder.join("new.json"), folder.join("old.json"));
        fs::write(&old, "old").unwrap();
        can_write(&new).unwrap();
        can_write(&old).unwrap();
        assert!(!new.exists());
        assert_eq!(fs::read_to_string(&old).unwrap(), "old");
        assert!(can_write(&folder.join("none/new.json")).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_report_shows_no_secrets() {
        let words = "load idle --token-key s3cret -n 5 --api-key=s3cret --url u".split(' ');
        let shown = command_line(words.map(ToOwned::to_owned));
        assert_eq!(shown, "load idle --token-key *** -n 5 --api-key=*** --url u");
    }
}

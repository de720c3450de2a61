//! `tune`: shows what a profile would change, applies it, takes it back, writes files, and proves it.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, ValueEnum};

use super::{CliError, print, say};
use crate::host::finding::grouped;
use crate::host::profile::{Profile, Scale};
use crate::host::reader::Reader;
use crate::host::tune::apply::{Outcome, apply, persist, rollback};
use crate::host::tune::{Difference, files};
use crate::host::verify::{Room, verify};

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["profile", "rollback", "verify"]))]
pub(super) struct TuneArgs {
    /// What the host is for; without a further flag the difference is shown and nothing is changed.
    #[arg(long, value_enum)]
    profile: Option<Chosen>,
    /// Connections that the host shall hold; the numbers of the profile are scaled to it.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    connections: u64,
    /// Set what differs, until the next boot. What was there before is kept in the state directory.
    #[arg(long, requires = "profile")]
    apply: bool,
    /// Also write the files of the profile below this folder, /etc for example, for the next boot and for systemd.
    #[arg(long, value_name = "DIR", requires = "profile")]
    persist: Option<PathBuf>,
    /// Take back everything that was applied and written.
    #[arg(long, conflicts_with_all = ["profile", "verify"])]
    rollback: bool,
    /// Open that many connections on loopback, both ends, to prove that the host holds them.
    #[arg(long)]
    verify: bool,
    /// Only settings whose name starts with this, such as net.ipv4.; may be given several times.
    #[arg(long, value_name = "PREFIX", requires = "profile")]
    only: Vec<String>,
    /// Where the backup is kept.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/millpond")]
    state: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Chosen {
    /// What every host of long-lived sockets should have.
    Common,
    /// A million quiet connections.
    #[value(name = "density-1m")]
    Density1m,
    /// Ten million quiet connections.
    #[value(name = "density-10m")]
    Density10m,
    /// Messages that leave at once.
    Latency,
}

impl From<Chosen> for Profile {
    fn from(chosen: Chosen) -> Self {
        match chosen {
            Chosen::Common => Self::Common,
            Chosen::Density1m => Self::Density1m,
            Chosen::Density10m => Self::Density10m,
            Chosen::Latency => Self::Latency,
        }
    }
}

const WHEN_FILES_HOLD: &str = "sysctl.d and tmpfiles.d hold from the next boot (--apply: now as well), the unit after \
    `systemctl daemon-reload` and a restart of millpond, limits.d at the next login; notrack.nft waits for `nft -f`\n";

pub(super) fn tune(args: &TuneArgs) -> Result<(), CliError> {
    let root = Path::new("/");
    if args.rollback {
        return take_back(root, &args.state);
    }
    let reader = Reader::new(root, None);
    let facts = reader.facts();
    if let Some(profile) = args.profile.map(Profile::from) {
        let scale = Scale { connections: args.connections, memory: facts.memory.total.known() };
        let difference = Difference::of(profile, scale, &args.only, |path| reader.text(path))?;
        show(profile, args, &difference)?;
        if args.apply {
            report("applied", apply(root, &args.state, &difference)?)?;
        }
        if let Some(folder) = &args.persist {
            let files = files(profile, scale, |path| reader.text(path))?;
            report("written", persist(folder, &args.state, &files)?)?;
            print(WHEN_FILES_HOLD)?;
        }
    }
    if args.verify {
        prove(args.connections, facts.cpus, Room::of(&facts))?;
    }
    Ok(())
}

fn show(profile: Profile, args: &TuneArgs, difference: &Difference) -> Result<(), CliError> {
    let due = difference.due().count();
    let connections = grouped(args.connections);
    print(&format!(
        "profile {} for {connections} connections: {due} {}\n{difference}",
        profile.name(),
        if due == 1 { "setting differs" } else { "settings differ" }
    ))?;
    if due > 0 && !args.apply && args.persist.is_none() {
        print("nothing was changed; --apply sets them until the next boot, --persist /etc for good\n")?;
    }
    Ok(())
}

fn take_back(root: &Path, state: &Path) -> Result<(), CliError> {
    let outcome = rollback(root, state)?;
    if outcome.done.is_empty() && outcome.left.is_empty() && outcome.failed.is_empty() {
        return Ok(print(&format!("nothing to take back: there is no backup in {}\n", state.display()))?);
    }
    report("rolled back", outcome)
}

fn prove(connections: u64, cores: u64, room: Option<Room>) -> Result<(), CliError> {
    say(&format!("millpond: opening {} connections on loopback", grouped(connections)));
    let held = verify(connections, cores, room)?;
    let seconds = held.took.as_secs_f64();
    Ok(print(&format!(
        "verified: {} connections were open at once, in {} descriptor tables, after {seconds:.1} s\n",
        grouped(held.connections),
        held.tables
    ))?)
}

fn report(done: &str, outcome: Outcome) -> Result<(), CliError> {
    let list = |mark: &str, lines: &[String]| {
        lines.iter().map(|line| format!("  {mark} {line}\n")).collect::<String>()
    };
    print(&format!(
        "{done}: {}\n{}{}",
        outcome.done.len(),
        list("+", &outcome.done),
        list("=", &outcome.left)
    ))?;
    if outcome.failed.is_empty() { Ok(()) } else { Err(CliError::Tune(outcome.failed)) }
}

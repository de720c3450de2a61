//! Automation of the repository: `cargo xtask test` is what CI runs, and what a developer runs before handing in.
//!
//! Invariants: every stage can be run again at any time; a stage installs what it needs and says so; a failing stage
//! never hides the stages after it; the last line of `test` and `lint` is `N passed, N failed[, N skipped]`.
#![allow(
    clippy::disallowed_methods,
    reason = "the bans keep clocks and sleeps off the data plane; xtask is a tool beside it"
)]

mod bench;
mod bench_joins;
mod bench_load;
mod bench_peers;
mod command;
mod demo;
mod junit;
mod lint;
mod memory;
mod node;
mod peer;
mod prepare;
mod programs;
mod python;
mod record;
mod report;
mod rust_tests;
mod server;
mod stage;
mod workspace;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::report::Report;
use crate::stage::{Stage, TEST_STAGES};
use crate::workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Automation of the millpond repository")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything CI runs: lints, Rust tests, and the outside suites against the release binary
    Test(Selection),
    /// Formatting, clippy, documentation, dependency policy and unused dependencies
    Lint(Selection),
    /// A named benchmark; without a name, lists them
    Bench(Program),
    /// A named long-running load test; without a name, lists them
    Soak(Program),
}

#[derive(Args)]
struct Selection {
    /// Run only these stages (may be given several times)
    #[arg(long, value_name = "STAGE")]
    only: Vec<Stage>,
    /// Leave these stages out (may be given several times)
    #[arg(long, value_name = "STAGE")]
    skip: Vec<Stage>,
}

#[derive(Args)]
struct Program {
    /// Which one
    name: Option<String>,
    /// Passed on as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    match task {
        Task::Test(selection) => Ok(run_stages(&workspace, &selection, TEST_STAGES)),
        Task::Lint(selection) => Ok(run_stages(&workspace, &selection, Stage::LINTS)),
        Task::Bench(program) => {
            programs::run(&workspace, programs::BENCHES, program.name.as_deref(), &program.args)
        }
        Task::Soak(program) => {
            programs::run(&workspace, programs::SOAKS, program.name.as_deref(), &program.args)
        }
    }
}

fn run_stages(workspace: &Workspace, selection: &Selection, stages: &[Stage]) -> ExitCode {
    let chosen = stages
        .iter()
        .filter(|stage| selection.only.is_empty() || selection.only.contains(stage))
        .filter(|stage| !selection.skip.contains(stage));
    let mut report = Report::default();
    for stage in chosen {
        report.run(workspace, *stage);
    }
    report.print();
    if report.is_green() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

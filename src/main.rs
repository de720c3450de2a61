//! The millpond binary: parse, build, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use millpond::cli::{Cli, run};

fn main() -> ExitCode {
    run(Cli::parse())
}

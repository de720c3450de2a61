//! The load generator's binary: parse, do, exit.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    millpond_load::app::main(&millpond_load::cli::Cli::parse()).into()
}

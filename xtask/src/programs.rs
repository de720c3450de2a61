//! Named benchmarks and soaks: a table of what there is and how it is started.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// A benchmark or a soak: its name and the cargo arguments that start it; the user's arguments follow after `--`.
pub(crate) struct Program {
    name: &'static str,
    about: &'static str,
    cargo_args: &'static [&'static str],
}

/// `cargo xtask bench NAME`.
pub(crate) const BENCHES: &[Program] = &[
    Program {
        name: "base",
        about: "tables, wheel, queues and other data structures at a million entries",
        cargo_args: &["bench", "--package", "millpond", "--bench", "base"],
    },
    Program {
        name: "codec",
        about: "WebSocket frames beside tungstenite's own codec and the floor",
        cargo_args: &["bench", "--package", "millpond", "--bench", "codec"],
    },
    Program {
        name: "protocol",
        about: "commands decoded and publications encoded, in both encodings",
        cargo_args: &["bench", "--package", "millpond", "--bench", "protocol"],
    },
    Program {
        name: "token",
        about: "one verification of a token, by algorithm",
        cargo_args: &["bench", "--package", "millpond", "--bench", "token"],
    },
];

/// `cargo xtask soak NAME`.
pub(crate) const SOAKS: &[Program] = &[Program {
    name: "idle",
    about: "connections that subscribe, answer pings and are held; the server must run (millpond-load idle --help)",
    cargo_args: &["run", "--release", "--package", "millpond-load", "--", "idle"],
}];

/// Starts the program `name` of `table`, or lists the table.
pub(crate) fn run(
    workspace: &Workspace,
    table: &[Program],
    name: Option<&str>,
    args: &[String],
) -> Result<ExitCode> {
    let Some(name) = name else {
        for program in table {
            println!("{:<12} {}", program.name, program.about);
        }
        return Ok(ExitCode::SUCCESS);
    };
    let Some(program) = table.iter().find(|program| program.name == name) else {
        let known: Vec<_> = table.iter().map(|program| program.name).collect();
        bail!("there is no `{name}`; there are: {}", known.join(", "));
    };
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&workspace.root).args(program.cargo_args);
    if !args.is_empty() && !program.cargo_args.contains(&"--") {
        command.arg("--");
    }
    let status = command.args(args).status().with_context(|| format!("starting {name}"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

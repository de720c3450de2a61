//! Named benchmarks and soaks: a table of what there is and how it is started.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::bench;
use crate::bench_joins;
use crate::bench_load;
use crate::bench_peers;
use crate::workspace::Workspace;

/// A benchmark or a soak.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    about: &'static str,
    start: Start,
}

/// How it is started; the user's arguments are passed on.
enum Start {
    /// Cargo with these arguments, and the user's behind them.
    Cargo(&'static [&'static str]),
    /// A Rust test that runs longer than in `cargo xtask test`.
    LongTest(LongTest),
    /// A bench that adds a row to its table in `docs/BENCHMARKS.md`.
    Recorded(fn(&Workspace, &[String]) -> Result<()>),
}

/// A test whose length is told by an environment variable.
struct LongTest {
    /// The file below `tests/`, and the start of the test's name.
    test: (&'static str, &'static str),
    variable: &'static str,
    rounds: u32,
}

/// The flags of a long test.
#[derive(clap::Parser)]
struct LongTestArgs {
    /// How many rounds instead of the usual number
    #[arg(long)]
    rounds: Option<u32>,
    /// The choices of an earlier run
    #[arg(long)]
    seed: Option<u64>,
}

impl Program {
    /// Whether it has a table in `docs/BENCHMARKS.md`.
    #[cfg(test)]
    pub(crate) fn is_recorded(&self) -> bool {
        matches!(self.start, Start::Recorded(_))
    }
}

/// `cargo xtask bench NAME`.
pub(crate) const BENCHES: &[Program] = &[
    Program {
        name: "base",
        about: "tables, wheel, queues and other data structures at a million entries",
        start: Start::Cargo(&["bench", "--package", "millpond", "--bench", "base", "--"]),
    },
    Program {
        name: "codec",
        about: "WebSocket frames beside tungstenite's own codec and the floor",
        start: Start::Cargo(&["bench", "--package", "millpond", "--bench", "codec", "--"]),
    },
    Program {
        name: "protocol",
        about: "commands decoded and publications encoded, in both encodings",
        start: Start::Cargo(&["bench", "--package", "millpond", "--bench", "protocol", "--"]),
    },
    Program {
        name: "token",
        about: "one verification of a token, by algorithm",
        start: Start::Cargo(&["bench", "--package", "millpond", "--bench", "token", "--"]),
    },
    Program {
        name: "fanout",
        about: "CPU per delivery of one publication to 18,000 subscribers, beside the raw write loop",
        start: Start::Recorded(bench::fanout),
    },
    Program {
        name: "density",
        about: "100,000 connections held for a minute: memory and CPU at rest",
        start: Start::Recorded(bench::density),
    },
    Program {
        name: "accept",
        about: "100,000 connections as fast as they come: rate and CPU of the way in",
        start: Start::Recorded(bench::accept),
    },
    Program {
        name: "million",
        about: "1,000,000 connections held for three minutes",
        start: Start::Recorded(bench::million),
    },
    Program {
        name: "two-million",
        about: "2,000,000 connections held for three minutes at pings of two minutes (takes 17 GB)",
        start: Start::Recorded(bench::two_million),
    },
    Program {
        name: "foreign",
        about: "500,000 idle connections of the load generator at a server that is not millpond",
        start: Start::Recorded(bench_peers::foreign),
    },
    Program {
        name: "everybody",
        about: "one publication to a channel that 1,000,000 connections subscribe, beside a raw write loop over as many",
        start: Start::Recorded(bench_load::everybody),
    },
    Program {
        name: "storm",
        about: "200,000 connections dropped at once that come back with recovery while messages go on",
        start: Start::Recorded(bench_load::storm),
    },
    Program {
        name: "latency",
        about: "publish to socket with 100,000 connections at half of the saturating rate",
        start: Start::Recorded(bench_load::latency),
    },
    Program {
        name: "joins",
        about: "rooms beside a channel of 20,000 (--members N) that 10,000 a second (--rate N) join and leave",
        start: Start::Recorded(bench_joins::joins),
    },
    Program {
        name: "peers",
        about: "fan-out of millpond beside tokio-tungstenite and ws from npm, same clients, same run",
        start: Start::Recorded(bench_peers::peers),
    },
];

/// `cargo xtask soak NAME`.
pub(crate) const SOAKS: &[Program] = &[
    Program {
        name: "idle",
        about: "connections that subscribe, answer pings and are held; the server must run (millpond-load idle --help)",
        start: Start::Cargo(&["run", "--release", "--package", "millpond-load", "--", "idle"]),
    },
    Program {
        name: "crash",
        about: "kill -9 under publishers and clients of mailboxes, 200 times (--rounds N, --seed N): nothing is lost",
        start: Start::LongTest(LongTest {
            test: ("mailbox_crash", "kill_9"),
            variable: "MILLPOND_CRASH_ROUNDS",
            rounds: 200,
        }),
    },
];

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
    command.current_dir(&workspace.root);
    match &program.start {
        Start::Recorded(bench) => return bench(workspace, args).map(|()| ExitCode::SUCCESS),
        Start::Cargo(cargo_args) => {
            command.args(*cargo_args).args(args);
        }
        Start::LongTest(long) => {
            let given = [format!("cargo xtask soak {name}")].into_iter().chain(args.iter().cloned());
            let given = LongTestArgs::try_parse_from(given)?;
            let (file, test) = long.test;
            command.args(["test", "--package", "millpond", "--test", file, "--", test, "--nocapture"]);
            command.env(long.variable, given.rounds.unwrap_or(long.rounds).to_string());
            if let Some(seed) = given.seed {
                command.env("SEED", seed.to_string());
            }
        }
    }
    let status = command.status().with_context(|| format!("starting {name}"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_test_takes_rounds_and_a_seed_and_nothing_else() {
        let parse = |args: &[&str]| {
            let args = ["cargo xtask soak crash"].iter().chain(args);
            LongTestArgs::try_parse_from(args).map(|args| (args.rounds, args.seed)).ok()
        };
        assert_eq!(parse(&[]), Some((None, None)));
        assert_eq!(parse(&["--rounds", "7", "--seed", "9"]), Some((Some(7), Some(9))));
        assert_eq!(parse(&["--rounds", "many"]), None);
        assert_eq!(parse(&["7"]), None);
    }
}

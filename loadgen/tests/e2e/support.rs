//! A peer in this process, and runs of the generator against it, through its command line.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser as _;
use millpond_load::app;
use millpond_load::cli::Cli;
use millpond_load::peer::{Faults, Peer, PeerSettings};
use millpond_load::report::{PhaseReport, Report};

/// A peer that does `faults` wrong and pings every 200 ms.
pub(crate) fn peer(faults: Faults) -> Peer {
    let _ = millpond_load::kernel::lift_descriptor_limit();
    let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Peer::start(&PeerSettings { listen, threads: 2, ping: Duration::from_millis(200), faults }).unwrap()
}

/// Runs the generator with `arguments` against `peer` and returns its report.
pub(crate) fn run(peer: &Peer, arguments: &str) -> Report {
    run_with_code(peer, arguments).0
}

/// Runs the generator with `arguments` against `peer` and returns its report and exit code.
pub(crate) fn run_with_code(peer: &Peer, arguments: &str) -> (Report, u8) {
    let json = tempfile::NamedTempFile::new().unwrap();
    let url = format!("ws://{}/connection/websocket", peer.address());
    let path = json.path().display().to_string();
    let fixed = ["--quiet", "--allow-void", "--url", &url, "--json", &path];
    let code = main(arguments.split(' ').chain(fixed));
    (Report::load(json.path()).unwrap(), code)
}

/// Runs the generator; its exit code.
pub(crate) fn main<'a>(arguments: impl Iterator<Item = &'a str>) -> u8 {
    app::main(&Cli::parse_from(["millpond-load"].into_iter().chain(arguments)))
}

/// A figure of a phase.
pub(crate) fn figure(phase: &PhaseReport, name: &str) -> f64 {
    *phase.metrics.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", phase.metrics))
}

//! Our own scenarios with the JavaScript client library, in Node, against the release binary.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::bench::free_port;
use crate::command::Run;
use crate::junit;
use crate::prepare;
use crate::report::Counts;
use crate::rust_tests::with_ending;
use crate::server::Server;
use crate::workspace::Workspace;

/// One file of scenarios with the server that it needs.
struct Scenarios {
    file: &'static str,
    /// Configuration of a server that runs while the scenarios do.
    profile: Option<&'static str>,
}

const SCENARIOS: &[Scenarios] = &[
    Scenarios { file: "stream.test.mjs", profile: Some("js_stream.json") },
    Scenarios { file: "tokens.test.mjs", profile: Some("py.json") },
    Scenarios { file: "recovery.test.mjs", profile: Some("js_stream.json") },
    Scenarios { file: "server_api.test.mjs", profile: Some("js_stream.json") },
    Scenarios { file: "personal.test.mjs", profile: Some("py.json") },
    // These kill their servers, so they start them themselves.
    Scenarios { file: "mailbox.test.mjs", profile: None },
];

/// One file takes seconds; the library's own timeouts are 5 s each.
const DEADLINE: Duration = Duration::from_secs(5 * 60);

/// Runs every file of scenarios, each against a fresh server.
pub(crate) fn run(workspace: &Workspace) -> Result<Counts> {
    let folder = prepare::node_project(workspace, "node")?;
    let mut counts = Counts::default();
    for scenarios in SCENARIOS {
        let verdict = run_file(workspace, &folder, scenarios);
        counts.add(
            verdict.unwrap_or_else(|error| Counts::one_failed(format!("{}: {error:#}", scenarios.file))),
        );
    }
    Ok(counts)
}

fn run_file(workspace: &Workspace, folder: &Path, scenarios: &Scenarios) -> Result<Counts> {
    let name = format!("node-{}", scenarios.file.trim_end_matches(".test.mjs"));
    let port = free_port()?;
    let address = format!("127.0.0.1:{port}");
    let start = |profile| start(workspace, &name, profile, &address, port);
    let server = scenarios.profile.map(start).transpose()?;
    let report = workspace.scratch.join(format!("{name}.xml"));
    let mut run = Run::new("node", folder, DEADLINE)
        .args([
            "--test",
            "--test-reporter=spec",
            "--test-reporter-destination=stdout",
            "--test-reporter=junit",
        ])
        .args([format!("--test-reporter-destination={}", report.display())])
        .args([scenarios.file])
        .env("MILLPOND_BINARY", workspace.release_binary()?)
        .env("MILLPOND_SCRATCH", &workspace.scratch);
    if scenarios.profile.is_some() {
        run = run.env("MILLPOND_ADDRESS", &address);
    }
    let outcome = run.outcome()?;
    server.map_or(Ok(()), Server::stop)?;
    Ok(with_ending(junit::read(&report)?, &outcome))
}

fn start(workspace: &Workspace, name: &str, profile: &str, address: &str, port: u16) -> Result<Server> {
    let file = workspace.profile(profile);
    Server::start(workspace, name, port, &["--config", &file.to_string_lossy(), "--listen", address])
}

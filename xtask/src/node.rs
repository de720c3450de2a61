//! Our own scenarios with the JavaScript client library, in Node, against the release binary.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

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
    server: Option<Profile>,
}

/// A server that runs while the scenarios do.
struct Profile {
    name: &'static str,
    port: u16,
}

const SCENARIOS: &[Scenarios] = &[
    Scenarios { file: "stream.test.mjs", server: Some(Profile { name: "js_stream.json", port: 8110 }) },
    Scenarios { file: "tokens.test.mjs", server: Some(Profile { name: "py.json", port: 8110 }) },
    Scenarios { file: "recovery.test.mjs", server: Some(Profile { name: "js_stream.json", port: 8110 }) },
    Scenarios { file: "server_api.test.mjs", server: Some(Profile { name: "js_stream.json", port: 8110 }) },
    Scenarios { file: "personal.test.mjs", server: Some(Profile { name: "py.json", port: 8110 }) },
    // These kill their servers, so they start them themselves.
    Scenarios { file: "mailbox.test.mjs", server: None },
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
    let server = scenarios.server.as_ref().map(|profile| start(workspace, &name, profile)).transpose()?;
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
    if let Some(profile) = &scenarios.server {
        run = run.env("MILLPOND_ADDRESS", address(profile));
    }
    let outcome = run.outcome()?;
    server.map_or(Ok(()), Server::stop)?;
    Ok(with_ending(junit::read(&report)?, &outcome))
}

fn address(profile: &Profile) -> String {
    format!("127.0.0.1:{}", profile.port)
}

fn start(workspace: &Workspace, name: &str, profile: &Profile) -> Result<Server> {
    let file = workspace.profile(profile.name);
    let args = ["--config", &file.to_string_lossy(), "--listen", &address(profile)];
    Server::start(workspace, name, profile.port, &args)
}

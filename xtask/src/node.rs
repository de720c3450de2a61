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

/// One file of scenarios with the server configuration that it needs.
struct Scenarios {
    file: &'static str,
    profile: &'static str,
    port: u16,
}

const SCENARIOS: &[Scenarios] = &[
    Scenarios { file: "stream.test.mjs", profile: "js_stream.json", port: 8110 },
    Scenarios { file: "tokens.test.mjs", profile: "py.json", port: 8110 },
    Scenarios { file: "recovery.test.mjs", profile: "js_stream.json", port: 8110 },
    Scenarios { file: "server_api.test.mjs", profile: "js_stream.json", port: 8110 },
    Scenarios { file: "personal.test.mjs", profile: "py.json", port: 8110 },
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
    let profile = workspace.profile(scenarios.profile);
    let listen = format!("127.0.0.1:{}", scenarios.port);
    let name = format!("node-{}", scenarios.file.trim_end_matches(".test.mjs"));
    let args = ["--config", &profile.to_string_lossy(), "--listen", &listen];
    let server = Server::start(workspace, &name, scenarios.port, &args)?;
    let report = workspace.scratch.join(format!("{name}.xml"));
    let outcome = Run::new("node", folder, DEADLINE)
        .args([
            "--test",
            "--test-reporter=spec",
            "--test-reporter-destination=stdout",
            "--test-reporter=junit",
        ])
        .args([format!("--test-reporter-destination={}", report.display())])
        .args([scenarios.file])
        .env("MILLPOND_ADDRESS", &listen)
        .outcome()?;
    server.stop()?;
    Ok(with_ending(junit::read(&report)?, &outcome))
}

//! The demo page in headless Chromium: two tabs talk, one reloads and sees the history.

use std::time::Duration;

use anyhow::Result;

use crate::bench::free_port;
use crate::command::Run;
use crate::prepare;
use crate::report::Counts;
use crate::rust_tests::with_ending;
use crate::server::Server;
use crate::workspace::Workspace;

/// Each wait in the page's test is bounded by 20 s; a healthy run takes less than one.
const DEADLINE: Duration = Duration::from_secs(5 * 60);

/// Starts `millpond serve --demo` and drives the page. Screenshots are left in `target/xtask/demo`.
pub(crate) fn run(workspace: &Workspace) -> Result<Counts> {
    let chromium = prepare::debian_program(workspace, "chromium", "chromium")?;
    let folder = prepare::node_project(workspace, "e2e")?;
    let port = free_port()?;
    let listen = format!("127.0.0.1:{port}");
    let server = Server::start(workspace, "demo", port, &["--demo", "--listen", &listen])?;
    let outcome = Run::new("node", &folder, DEADLINE)
        .args(["demo.mjs", "--url", &format!("http://{listen}/"), "--chromium"])
        .args([&chromium])
        .args(["--screenshots"])
        .args([workspace.scratch.join("demo")])
        .outcome()?;
    server.stop()?;
    Ok(with_ending(count_steps(&outcome.output), &outcome))
}

/// One line for each step: `ok    NAME (TIME)`; the first failure ends the run.
fn count_steps(output: &str) -> Counts {
    let mut counts = Counts::default();
    for line in output.lines() {
        if line.starts_with("ok ") {
            counts.passed += 1;
        } else if let Some(what) = line.strip_prefix("FAILED ") {
            counts.failures.push(what.to_owned());
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted() {
        let counts = count_steps("ok    a (3 ms)\nok    b (4 ms)\nFAILED Error: x\n    at y\n");
        assert_eq!(counts.passed, 2);
        assert_eq!(counts.failures, ["Error: x"]);
    }
}

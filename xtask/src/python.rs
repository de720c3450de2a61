//! The Python client library's own test suite, unmodified, and our scenarios of mailboxes with it, against the release
//! binary.
//!
//! Its tests expect a server on localhost:8000, so the stage needs that port for itself.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::Run;
use crate::junit;
use crate::prepare;
use crate::report::Counts;
use crate::rust_tests::with_ending;
use crate::server::Server;
use crate::workspace::Workspace;

const PACKAGE: &str = "centrifuge-python";
const VERSION: &str = "0.7.0";
const PORT: u16 = 8000;
/// A healthy run takes about a minute; each test has a deadline of its own in the command below.
const DEADLINE: Duration = Duration::from_secs(10 * 60);

/// Runs both and counts their tests.
pub(crate) fn run(workspace: &Workspace) -> Result<Counts> {
    let mut counts = run_suite(workspace)?;
    counts.add(run_mailboxes(workspace)?);
    Ok(counts)
}

/// The scenarios start and kill their own servers.
fn run_mailboxes(workspace: &Workspace) -> Result<Counts> {
    let ours = workspace.root.join("tests/sdk/python");
    let python = prepare::python_environment(workspace, &ours.join("requirements.txt"))?;
    let library = prepare::python_source(workspace, &python, PACKAGE, VERSION)?;
    let report = workspace.scratch.join("python-mailbox.xml");
    let outcome = Run::new(&python, &ours, DEADLINE)
        .args(["-m", "pytest", "mailbox_test.py", "-q", "--timeout", "120", "--timeout-method", "signal"])
        .args(["-p", "no:cacheprovider", "--show-capture", "no"])
        .args([format!("--junitxml={}", report.display())])
        .env("PYTHONPATH", &library)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("MILLPOND_BINARY", workspace.release_binary()?)
        .env("MILLPOND_SCRATCH", &workspace.scratch)
        .outcome()?;
    Ok(with_ending(junit::read(&report)?, &outcome))
}

fn run_suite(workspace: &Workspace) -> Result<Counts> {
    let ours = workspace.root.join("tests/sdk/python");
    let python = prepare::python_environment(workspace, &ours.join("requirements.txt"))?;
    let suite = prepare::python_source(workspace, &python, PACKAGE, VERSION)?;
    let left_out = read_deselected(&ours.join("deselect.txt"))?;

    let profile = workspace.profile("py.json");
    let listen = format!("127.0.0.1:{PORT}");
    let args = ["--config", &profile.to_string_lossy(), "--listen", &listen];
    let server = Server::start(workspace, "python", PORT, &args)?;

    let report = workspace.scratch.join("python.xml");
    let mut run = Run::new(&python, &suite, DEADLINE)
        // Those tests that hang do so in the client library's event loop, where SIGALRM reaches them.
        .args([
            "-m",
            "pytest",
            "tests",
            "-q",
            "--timeout",
            "60",
            "--timeout-method",
            "signal",
            "-o",
            "addopts=",
        ])
        .args(["-p", "no:cacheprovider"])
        .args([format!("--junitxml={}", report.display())])
        // The suite logs every frame; pytest shows it for failures only.
        .args(["--show-capture", "no"]);
    for (node_id, _) in &left_out {
        run = run.args(["--deselect", node_id]);
    }
    let outcome = run.outcome()?;
    server.stop()?;
    for (node_id, reason) in &left_out {
        println!("left out: {node_id}: {reason}");
    }
    Ok(with_ending(junit::read(&report)?, &outcome))
}

/// Lines `NODE ID  # REASON`; a line without a reason is an error.
fn read_deselected(path: &Path) -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    parse_deselected(&text)
}

fn parse_deselected(text: &str) -> Result<Vec<(String, String)>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| match line.split_once('#') {
            Some((node_id, reason)) if !reason.trim().is_empty() => {
                Ok((node_id.trim().to_owned(), reason.trim().to_owned()))
            }
            _ => bail!("`{line}` is left out without a reason"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_left_out_only_with_a_reason() {
        let parsed = parse_deselected("# heading\n\ntests/a.py::B::c  # not a test\n").unwrap();
        assert_eq!(parsed, [("tests/a.py::B::c".to_owned(), "not a test".to_owned())]);
        assert!(parse_deselected("tests/a.py::B::c\n").is_err());
        assert!(parse_deselected("tests/a.py::B::c #\n").is_err());
    }
}

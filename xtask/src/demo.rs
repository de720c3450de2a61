//! The demo page in headless Chromium: two tabs talk, one reloads and sees the history.

use anyhow::Result;

use crate::node::test_file;
use crate::prepare;
use crate::report::Counts;
use crate::rust_tests::with_ending;
use crate::server::Server;
use crate::workspace::Workspace;

const PORT: u16 = 8112;

/// Starts `millpond serve --demo` and drives the page.
pub(crate) fn run(workspace: &Workspace) -> Result<Counts> {
    let chromium = prepare::debian_program(workspace, "chromium", "chromium")?;
    let folder = prepare::node_project(workspace)?;
    let listen = format!("127.0.0.1:{PORT}");
    let server = Server::start(workspace, "demo", PORT, &["--demo", "--listen", &listen])?;
    let environment = [("MILLPOND_ADDRESS", listen.as_str()), ("CHROMIUM", &chromium.to_string_lossy())];
    let (counts, outcome) = test_file(workspace, &folder, "demo.test.mjs", &environment)?;
    server.stop()?;
    Ok(with_ending(counts, &outcome))
}

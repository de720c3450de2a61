//! Verdicts that need no running server: form, lints, documentation, dependencies.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::command::Run;
use crate::prepare::cargo_tool;
use crate::report::Counts;
use crate::workspace::Workspace;

/// A cold build of all dependencies on two cores takes 3 to 6 minutes.
const BUILD_DEADLINE: Duration = Duration::from_secs(20 * 60);

/// `rustfmt` over the workspace.
pub(crate) fn fmt(workspace: &Workspace) -> Result<Counts> {
    let run = cargo(&workspace.root).args(["fmt", "--all", "--check"]);
    verdict(run, "files are not formatted: run `cargo fmt --all`")
}

/// Clippy over every target of every member.
pub(crate) fn clippy(workspace: &Workspace) -> Result<Counts> {
    let args = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    verdict(cargo(&workspace.root).args(args), "clippy has something to say")
}

/// The documentation, with broken links as errors.
pub(crate) fn doc(workspace: &Workspace) -> Result<Counts> {
    let run = cargo(&workspace.root)
        .args(["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"])
        // Those who read it are those who work on it: private items are in, and may be linked to.
        .env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
    verdict(run, "the documentation has warnings")
}

/// Licences, bans and sources; the advisory database is out of reach here (see deny.toml).
pub(crate) fn deny(workspace: &Workspace) -> Result<Counts> {
    let tool = cargo_tool(workspace, "cargo-deny", "0.20.2")?;
    let args = ["--locked", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"];
    verdict(Run::new(tool, &workspace.root, BUILD_DEADLINE).args(args), "deny.toml refuses a dependency")
}

/// Dependencies that no source file names.
pub(crate) fn unused_dependencies(workspace: &Workspace) -> Result<Counts> {
    let tool = cargo_tool(workspace, "cargo-machete", "0.9.2")?;
    let run = Run::new(tool, &workspace.root, BUILD_DEADLINE).args(["--skip-target-dir"]);
    verdict(run, "a manifest names a dependency that nothing uses")
}

/// Cargo in the folder `root`.
pub(crate) fn cargo(root: &Path) -> Run {
    // The cargo that started xtask, so that both agree on the toolchain.
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Run::new(program, root, BUILD_DEADLINE)
}

fn verdict(run: Run, reason: &str) -> Result<Counts> {
    let outcome = run.outcome()?;
    if outcome.success() {
        return Ok(Counts::one_passed());
    }
    Ok(Counts::one_failed(format!("{reason} ({})", outcome.ending())))
}

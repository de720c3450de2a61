//! The stages of `test` and `lint`, in the order in which they run: cheap verdicts first.

use std::fmt;

use anyhow::Result;
use clap::ValueEnum;

use crate::report::Counts;
use crate::workspace::Workspace;
use crate::{demo, lint, node, python, rust_tests};

/// One thing that passes or fails; each is timed by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Stage {
    /// `cargo fmt --check`
    Fmt,
    /// Dependencies that a manifest names and no source file uses
    Unused,
    /// Licences, bans and sources of dependencies
    Deny,
    /// `cargo clippy` over everything, warnings refused
    Clippy,
    /// `cargo doc`, warnings refused
    Doc,
    /// The Rust tests
    Rust,
    /// The examples in the documentation
    Doctest,
    /// The release binary that the outside suites run against
    Release,
    /// Our scenarios with the JavaScript client library
    Node,
    /// The Python client library's own test suite
    Python,
    /// The demo page in headless Chromium
    Demo,
}

/// All stages of `cargo xtask test`.
pub(crate) const TEST_STAGES: &[Stage] = &[
    Stage::Fmt,
    Stage::Unused,
    Stage::Deny,
    Stage::Clippy,
    Stage::Doc,
    Stage::Rust,
    Stage::Doctest,
    Stage::Release,
    Stage::Node,
    Stage::Python,
    Stage::Demo,
];

impl Stage {
    /// The stages of `cargo xtask lint`.
    pub(crate) const LINTS: &[Self] = &[Self::Fmt, Self::Unused, Self::Deny, Self::Clippy, Self::Doc];

    /// Runs the stage; an error is one failure with its text as the reason.
    pub(crate) fn run(self, workspace: &Workspace) -> Result<Counts> {
        match self {
            Self::Fmt => lint::fmt(workspace),
            Self::Unused => lint::unused_dependencies(workspace),
            Self::Deny => lint::deny(workspace),
            Self::Clippy => lint::clippy(workspace),
            Self::Doc => lint::doc(workspace),
            Self::Rust => rust_tests::unit_and_integration(workspace),
            Self::Doctest => rust_tests::doctests(workspace),
            Self::Release => rust_tests::release_build(workspace),
            Self::Node => node::run(workspace),
            Self::Python => python::run(workspace),
            Self::Demo => demo::run(workspace),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Debug names are the variants, which are the stage names in CamelCase.
        out.write_str(&format!("{self:?}").to_lowercase())
    }
}

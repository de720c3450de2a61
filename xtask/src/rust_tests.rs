//! The Rust tests, the documentation's examples, and the release binary for the suites from outside.

use anyhow::Result;

use crate::command::{Outcome, is_installed};
use crate::junit;
use crate::lint::cargo;
use crate::report::Counts;
use crate::workspace::Workspace;

/// Unit and integration tests, with nextest where it is installed.
pub(crate) fn unit_and_integration(workspace: &Workspace) -> Result<Counts> {
    if !is_installed("cargo-nextest") {
        println!("cargo-nextest is not installed: running `cargo test`");
        let run = cargo(&workspace.root).args([
            "test",
            "--workspace",
            "--all-targets",
            "--no-fail-fast",
            "--locked",
        ]);
        return Ok(from_libtest(&run.outcome()?));
    }
    let report = workspace.target.join("nextest/ci/junit.xml");
    // A report of an earlier run must not stand for one that never came to testing.
    if report.exists() {
        std::fs::remove_file(&report)?;
    }
    let skipped = workspace.target.join("nextest/skipped.txt");
    if skipped.exists() {
        std::fs::remove_file(&skipped)?;
    }
    let args = ["nextest", "run", "--profile", "ci", "--workspace", "--locked", "--no-tests", "fail"];
    let outcome = cargo(&workspace.root).args(args).env("TESTS_SKIPPED_FILE", &skipped).outcome()?;
    let mut counts = if report.exists() { junit::read(&report)? } else { Counts::default() };
    if skipped.exists() {
        take_out_skipped(&mut counts, &std::fs::read_to_string(&skipped)?);
    }
    Ok(with_ending(counts, &outcome))
}

/// Tests that found that they cannot run here (`tests/support/skip.rs`) ended well, and have shown nothing.
fn take_out_skipped(counts: &mut Counts, list: &str) {
    let mut lines: Vec<_> = list.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    for line in lines {
        println!("skipped: {line}");
        counts.passed = counts.passed.saturating_sub(1);
        counts.skipped += 1;
    }
}

/// Examples in the documentation of the library.
pub(crate) fn doctests(workspace: &Workspace) -> Result<Counts> {
    let run =
        cargo(&workspace.root).args(["test", "--package", "millpond", "--doc", "--no-fail-fast", "--locked"]);
    Ok(from_libtest(&run.outcome()?))
}

/// `target/release/millpond`.
pub(crate) fn release_build(workspace: &Workspace) -> Result<Counts> {
    let args = ["build", "--release", "--package", "millpond", "--bin", "millpond", "--locked"];
    let outcome = cargo(&workspace.root).args(args).outcome()?;
    Ok(with_ending(Counts { passed: u64::from(outcome.success()), ..Counts::default() }, &outcome))
}

/// A run that failed without naming a test (it did not compile, say) is one failure.
pub(crate) fn with_ending(mut counts: Counts, outcome: &Outcome) -> Counts {
    if !outcome.success() && counts.failures.is_empty() {
        counts.failures.push(format!("the run {}", outcome.ending()));
    }
    counts
}

fn from_libtest(outcome: &Outcome) -> Counts {
    with_ending(parse_libtest(&outcome.output), outcome)
}

/// Reads `test NAME ... ok|FAILED|ignored` lines.
fn parse_libtest(output: &str) -> Counts {
    let mut counts = Counts::default();
    let verdicts = output.lines().filter_map(|line| line.strip_prefix("test ")?.rsplit_once(" ... "));
    for (name, verdict) in verdicts {
        match verdict.split([',', ' ']).next() {
            Some("ok") => counts.passed += 1,
            Some("ignored") => counts.skipped += 1,
            Some("FAILED") => counts.failures.push(name.to_owned()),
            _ => {}
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_skip_themselves_do_not_count_as_passed() {
        let mut counts = Counts { passed: 5, ..Counts::default() };
        take_out_skipped(&mut counts, "a: no root\nb: no systemd\na: no root\n");
        assert_eq!((counts.passed, counts.skipped), (3, 2));
    }

    #[test]
    fn libtest_lines_are_counted() {
        let counts = parse_libtest(
            "running 4 tests\ntest a::b ... ok\ntest src/lib.rs - x (line 3) ... FAILED\n\
             test c ... ignored, needs root\ntest d ... ok\ntest result: FAILED. 2 passed; 1 failed; 1 ignored\n",
        );
        assert_eq!((counts.passed, counts.skipped), (2, 1));
        assert_eq!(counts.failures, ["src/lib.rs - x (line 3)"]);
    }
}

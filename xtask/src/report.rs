//! What came out: counts per stage, the failures by name, and the closing line that machines read.

use std::time::{Duration, Instant};

use crate::stage::Stage;
use crate::workspace::Workspace;

/// Verdicts of one stage.
#[derive(Default, Debug)]
pub(crate) struct Counts {
    /// Tests or checks that passed.
    pub(crate) passed: u64,
    /// Tests or checks that did not run, each for a reason stated where it is skipped.
    pub(crate) skipped: u64,
    /// One line for each failure.
    pub(crate) failures: Vec<String>,
}

impl Counts {
    /// One check that passed.
    pub(crate) fn one_passed() -> Self {
        Self { passed: 1, ..Self::default() }
    }

    /// One check that failed.
    pub(crate) fn one_failed(reason: impl Into<String>) -> Self {
        Self { failures: vec![reason.into()], ..Self::default() }
    }

    /// Adds another verdict to this one.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures);
    }

    fn failed(&self) -> usize {
        self.failures.len()
    }
}

/// All stages that ran.
#[derive(Default)]
pub(crate) struct Report {
    stages: Vec<(Stage, Duration, Counts)>,
}

impl Report {
    /// Runs one stage and notes its verdict; an error of the stage itself counts as one failure.
    pub(crate) fn run(&mut self, workspace: &Workspace, stage: Stage) {
        println!("\n=== {stage}");
        let start = Instant::now();
        let counts = stage.run(workspace).unwrap_or_else(|error| Counts::one_failed(format!("{error:#}")));
        let elapsed = start.elapsed();
        println!("=== {stage}: {} in {:.1} s", summary(&counts), elapsed.as_secs_f64());
        self.stages.push((stage, elapsed, counts));
    }

    /// Whether nothing failed and something ran.
    pub(crate) fn is_green(&self) -> bool {
        !self.stages.is_empty() && self.stages.iter().all(|(_, _, counts)| counts.failures.is_empty())
    }

    /// Prints times, failures and, last, the closing line.
    pub(crate) fn print(&self) {
        println!("\n=== summary");
        let mut total = Counts::default();
        let mut elapsed_total = Duration::ZERO;
        for (stage, elapsed, counts) in &self.stages {
            println!("{:>8.1} s  {:<8} {}", elapsed.as_secs_f64(), stage.to_string(), summary(counts));
            elapsed_total += *elapsed;
            total.add(Counts {
                passed: counts.passed,
                skipped: counts.skipped,
                failures: counts.failures.iter().map(|failure| format!("{stage}: {failure}")).collect(),
            });
        }
        println!("{:>8.1} s  in all", elapsed_total.as_secs_f64());
        if !total.failures.is_empty() {
            println!("\nfailures:");
            for failure in &total.failures {
                println!("  {failure}");
            }
        }
        println!();
        println!("{}", summary(&total));
    }
}

fn summary(counts: &Counts) -> String {
    let skipped = if counts.skipped > 0 { format!(", {} skipped", counts.skipped) } else { String::new() };
    format!("{} passed, {} failed{skipped}", counts.passed, counts.failed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_names_what_was_skipped_only_if_something_was() {
        let mut counts = Counts::one_passed();
        assert_eq!(summary(&counts), "1 passed, 0 failed");
        counts.add(Counts::one_failed("broken"));
        counts.skipped = 3;
        assert_eq!(summary(&counts), "1 passed, 1 failed, 3 skipped");
    }

    #[test]
    fn a_report_is_green_only_if_something_ran_and_nothing_failed() {
        let mut report = Report::default();
        assert!(!report.is_green());
        report.stages.push((Stage::Fmt, Duration::ZERO, Counts::one_passed()));
        assert!(report.is_green());
        report.stages.push((Stage::Doc, Duration::ZERO, Counts::one_failed("x")));
        assert!(!report.is_green());
    }
}

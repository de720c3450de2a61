//! The tables of `docs/BENCHMARKS.md`: one section per bench, one row per run, the newest last.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::command::Run;
use crate::workspace::Workspace;

/// What a run adds to date, commit and machine.
pub(crate) struct Row {
    /// The command line.
    pub(crate) command: String,
    /// The figures, in the order of the table's columns.
    pub(crate) figures: Vec<String>,
}

/// Appends a row to the table of the section `## NAME`.
pub(crate) fn append(workspace: &Workspace, name: &str, row: &Row) -> Result<()> {
    let path = workspace.root.join("docs/BENCHMARKS.md");
    let page = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let date = word_of(workspace, "date", &["-u", "+%F"])?;
    let commit = word_of(workspace, "git", &["rev-parse", "--short", "HEAD"])?;
    let mut cells = vec![date, commit, machine(), format!("`{}`", row.command)];
    cells.extend(row.figures.iter().cloned());
    let line = format!("| {} |", cells.join(" | "));
    println!("{line}");
    fs::write(&path, with_row(&page, name, &line)?)?;
    Ok(())
}

fn with_row(page: &str, name: &str, row: &str) -> Result<String> {
    let mut lines: Vec<&str> = page.lines().collect();
    let heading = format!("## {name}");
    let Some(start) = lines.iter().position(|line| *line == heading) else {
        bail!("docs/BENCHMARKS.md has no section `{heading}`");
    };
    let end = lines[start + 1..]
        .iter()
        .position(|line| line.starts_with("## "))
        .map_or(lines.len(), |next| start + 1 + next);
    let Some(last) = lines[start..end].iter().rposition(|line| line.starts_with('|')) else {
        bail!("the section `{heading}` of docs/BENCHMARKS.md has no table");
    };
    lines.insert(start + last + 1, row);
    Ok(lines.join("\n") + "\n")
}

fn word_of(workspace: &Workspace, program: &str, args: &[&str]) -> Result<String> {
    let output = Run::new(program, &workspace.root, std::time::Duration::from_secs(10)).args(args).quiet();
    Ok(output.succeed()?.trim().to_owned())
}

/// Cores, processor, memory and kernel, as far as `/proc` tells.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let field = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.split_once(':').map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
    let processor = field("/proc/cpuinfo", "model name");
    format!("{cores} × {processor}, {} GiB, Linux {}", memory.div_ceil(1 << 20), kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Benchmarks\n\n## a\n\n| x |\n|---|\n| 1 |\n\nText.\n\n## b\n\n| y |\n|---|\n";

    #[test]
    fn rows_go_to_the_end_of_their_table() {
        let page = with_row(PAGE, "a", "| 2 |").unwrap();
        assert!(page.contains("| 1 |\n| 2 |\n\nText."), "{page}");
        let page = with_row(&page, "b", "| 3 |").unwrap();
        assert!(page.ends_with("| y |\n|---|\n| 3 |\n"), "{page}");
    }

    #[test]
    fn a_missing_section_or_table_is_an_error() {
        assert!(with_row(PAGE, "c", "| 2 |").is_err());
        assert!(with_row("## a\n\n## b\n| x |\n", "a", "| 2 |").is_err());
    }

    #[test]
    fn the_page_has_a_table_for_every_bench() {
        let page = include_str!("../../docs/BENCHMARKS.md");
        for program in crate::programs::BENCHES.iter().filter(|program| program.is_recorded()) {
            assert!(with_row(page, program.name, "| |").is_ok(), "{}", program.name);
        }
    }
}

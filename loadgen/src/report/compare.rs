//! Two reports side by side: every figure of every phase that both have, and how it changed.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::text::number;
use super::{PhaseReport, Report};

/// The comparison as text. Figures that differ by less than `threshold` percent are left out.
#[must_use]
pub fn render(before: &Report, after: &Report, threshold: f64) -> String {
    let mut out = format!("A: {}\nB: {}\n", before.command, after.command);
    // The second phase of a name is held against the second of that name.
    let mut unmatched: Vec<&PhaseReport> = before.phases.iter().collect();
    for phase in &after.phases {
        let Some(at) = unmatched.iter().position(|earlier| earlier.name == phase.name) else {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{}: only in B", phase.name);
            continue;
        };
        render_phase(unmatched.remove(at), phase, threshold, &mut out);
    }
    for phase in unmatched {
        let _ = writeln!(out, "{}: only in A", phase.name);
    }
    out
}

fn render_phase(before: &PhaseReport, after: &PhaseReport, threshold: f64, out: &mut String) {
    let _ = writeln!(
        out,
        "{}{}",
        after.name,
        if before.void.is_empty() && after.void.is_empty() { "" } else { " (VOID)" }
    );
    let _ = writeln!(out, "  {:40} {:>16} {:>16} {:>9}", "", "A", "B", "B/A");
    let names: BTreeSet<_> = before.metrics.keys().chain(after.metrics.keys()).collect();
    for name in names {
        let (a, b) = (before.metrics.get(name).copied(), after.metrics.get(name).copied());
        let text = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
        let ratio = a.zip(b).filter(|(a, _)| *a != 0.0).map(|(a, b)| b / a);
        let change = a.zip(b).map_or(f64::INFINITY, |(a, b)| if a == b { 0.0 } else { change_percent(a, b) });
        if change >= threshold {
            let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}"));
            let _ = writeln!(out, "  {name:40} {:>16} {:>16} {ratio:>9}", text(a), text(b));
        }
    }
}

fn change_percent(a: f64, b: f64) -> f64 {
    if a == 0.0 { f64::INFINITY } else { ((b - a) / a).abs() * 100.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_side_by_side_and_small_changes_can_be_left_out() {
        let report = |p99: f64, lost: f64| {
            let mut phase = PhaseReport { name: "fanout".into(), ..PhaseReport::default() };
            phase.set("latency_p99_ms", p99);
            phase.set("lost", lost);
            Report { phases: vec![phase], ..Report::default() }
        };
        let text = render(&report(2.0, 5.0), &report(4.0, 5.0), 10.0);
        assert!(text.contains("latency_p99_ms") && text.contains("2.000"), "{text}");
        assert!(!text.contains("lost"), "{text}");
        assert!(render(&report(2.0, 5.0), &Report::default(), 0.0).contains("only in A"));
        let twice = |p99: f64| {
            let phases = [report(1.0, 0.0).phases, report(p99, 0.0).phases].concat();
            Report { phases, ..Report::default() }
        };
        let text = render(&twice(4.0), &twice(8.0), 10.0);
        assert!(text.contains("2.000\n") && !text.contains("only in"), "{text}");
    }
}

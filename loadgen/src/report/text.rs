//! The report on a terminal: one block of lines per phase.

use std::fmt::Write as _;

use super::{PhaseReport, Report};

/// The report in words and numbers.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    for phase in &report.phases {
        render_phase(phase, &mut out);
    }
    out
}

fn render_phase(phase: &PhaseReport, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{} ({}), {:.1} s", phase.name, phase.kind, phase.seconds);
    for (name, value) in &phase.metrics {
        let _ = writeln!(out, "  {name:38} {}", number(*value));
    }
    for (reason, count) in &phase.reasons {
        let _ = writeln!(out, "  failed or lost: {reason:24} {count}");
    }
    for (cache, bytes) in &phase.slab_growth {
        let _ = writeln!(out, "  kernel cache {cache:25} +{:.1} MB", *bytes as f64 / 1e6);
    }
    for line in &phase.broken {
        let _ = writeln!(out, "  NOT HELD: {line}");
    }
    for line in &phase.void {
        let _ = writeln!(out, "  VOID: {line}");
    }
}

/// A number with as many digits as say something.
#[must_use]
pub fn number(value: f64) -> String {
    match value.abs() {
        whole if whole >= 1e15 => format!("{value:e}"),
        whole if whole.fract() == 0.0 => grouped(value),
        large if large >= 1000.0 => grouped(value.round()),
        _ => format!("{value:.3}"),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    if value < 0.0 { format!("-{out}") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_legible() {
        assert_eq!(number(1_234_567.0), "1 234 567");
        assert_eq!(number(0.12345), "0.123");
        assert_eq!(number(-1234.6), "-1 235");
    }
}

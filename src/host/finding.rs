//! What `doctor` says about one aspect of a host, and all of it together.

use std::fmt::{self, Write as _};

use serde::Serialize;

/// How an aspect stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Fewer connections than wanted.
    Bound,
    /// Enough, at a cost in time, memory or safety.
    Cost,
    /// It could not be read.
    Unknown,
    /// Nothing to do.
    Fine,
}

/// One aspect.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Name that stays the same between versions.
    pub id: &'static str,
    /// How it stands.
    pub verdict: Verdict,
    /// Connections that it lets through; none: it does not bound them.
    pub connections: Option<u64>,
    /// What it costs in microseconds, in the case that the text names.
    pub microseconds: Option<f64>,
    /// What was found.
    pub found: String,
    /// Why it matters, with the source.
    pub why: &'static str,
    /// What to do.
    pub fix: Option<String>,
}

impl Finding {
    /// Something that is as it should be.
    pub fn fine(id: &'static str, found: impl Into<String>, why: &'static str) -> Self {
        let (verdict, found) = (Verdict::Fine, found.into());
        Self { id, verdict, connections: None, microseconds: None, found, why, fix: None }
    }

    /// Something that could not be read.
    pub fn unknown(id: &'static str, what: &str, why: &'static str) -> Self {
        let found = format!("{what} cannot be read by this user");
        Self { verdict: Verdict::Unknown, ..Self::fine(id, found, why) }
    }

    /// With a bound: it becomes a `Bound` where that is less than wanted, and needs `fix` then.
    #[must_use]
    pub fn bounding(mut self, connections: u64, wanted: u64, fix: impl FnOnce() -> String) -> Self {
        self.connections = Some(connections);
        if connections < wanted {
            self.verdict = Verdict::Bound;
            self.fix = Some(fix());
        }
        self
    }

    /// As a cost, if `is_cost` and it is nothing worse.
    #[must_use]
    pub fn costing(mut self, is_cost: bool, fix: impl FnOnce() -> String) -> Self {
        if is_cost && self.verdict == Verdict::Fine {
            self.verdict = Verdict::Cost;
            self.fix = Some(fix());
        }
        self
    }

    /// With a time.
    #[must_use]
    pub fn taking(mut self, microseconds: f64) -> Self {
        self.microseconds = Some(microseconds);
        self
    }
}

/// All findings, the worst first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Connections asked for.
    pub wanted: u64,
    /// Connections that the host can hold.
    pub possible: u64,
    /// The finding that bounds them.
    pub bounded_by: Option<&'static str>,
    /// Everything that was looked at.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Sorts the findings and draws the sum.
    #[must_use]
    pub fn of(wanted: u64, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| (finding.verdict, finding.connections.unwrap_or(u64::MAX)));
        let tightest = findings
            .iter()
            .filter_map(|finding| Some((finding.connections?, finding.id)))
            .min_by_key(|(connections, _)| *connections);
        let (possible, bounded_by) = tightest.map_or((u64::MAX, None), |(most, id)| (most, Some(id)));
        Self { wanted, possible, bounded_by, findings }
    }

    /// Whether the host holds what is wanted.
    #[must_use]
    pub fn suffices(&self) -> bool {
        self.possible >= self.wanted
    }

    /// The finding with this name.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.id == id)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = grouped(self.wanted);
        match self.bounded_by {
            Some(id) => {
                writeln!(out, "This host can hold {} connections, bounded by {id}.", grouped(self.possible))?;
            }
            None => writeln!(out, "Nothing that could be read here bounds the connections.")?,
        }
        let answer = if self.suffices() { "enough for" } else { "TOO FEW for" };
        writeln!(out, "That is {answer} the {wanted} asked for (--connections).\n")?;
        self.findings.iter().try_for_each(|finding| write!(out, "{finding}"))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.verdict {
            Verdict::Bound => "BOUND",
            Verdict::Cost => "cost",
            Verdict::Unknown => "unknown",
            Verdict::Fine => "ok",
        };
        let mut numbers = String::new();
        if let Some(connections) = self.connections {
            let _ = write!(numbers, "{} connections; ", grouped(connections));
        }
        if let Some(microseconds) = self.microseconds {
            let _ = write!(numbers, "{} µs; ", plain(microseconds));
        }
        wrapped(out, &format!("{mark:<8}{:<18}", self.id), &format!("{numbers}{}", self.found))?;
        if self.verdict == Verdict::Fine {
            return Ok(());
        }
        wrapped(out, &format!("{:<26}", "          why"), self.why)?;
        if let Some(fix) = &self.fix {
            wrapped(out, &format!("{:<26}", "          fix"), fix)?;
        }
        Ok(())
    }
}

/// Columns of a terminal that text is wrapped for.
const COLUMNS: usize = 118;

/// Writes `text` behind `head`, its further lines indented as far. Line breaks of the text stay.
pub(super) fn wrapped(out: &mut fmt::Formatter<'_>, head: &str, text: &str) -> fmt::Result {
    let indent = head.chars().count();
    let mut column = indent;
    write!(out, "{head}")?;
    for (at, line) in text.lines().enumerate() {
        if at > 0 {
            write!(out, "\n{:indent$}", "")?;
            column = indent;
        }
        for word in line.split(' ') {
            let length = word.chars().count();
            if column > indent && column + 1 + length > COLUMNS {
                write!(out, "\n{:indent$}", "")?;
                column = indent;
            }
            if column > indent {
                write!(out, " ")?;
                column += 1;
            }
            write!(out, "{word}")?;
            column += length;
        }
    }
    writeln!(out)
}

/// A number with commas between the thousands.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of ordinary size: two decimals below ten, none from ten.
fn plain(number: f64) -> String {
    if number < 10.0 { format!("{number:.2}") } else { grouped(number.round() as u64) }
}

/// Bytes in a unit that people read.
#[must_use]
pub fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}

/// Seconds as people say them: a fraction matters below ten only.
#[must_use]
pub fn seconds(count: f64) -> String {
    match count {
        ..0.1 => "less than 0.1 s".to_owned(),
        0.1..10.0 => format!("{count:.1} s"),
        _ => format!("{} s", grouped(count.round() as u64)),
    }
}

/// The time since a host was started, as far as it matters for counters.
#[must_use]
pub fn since_start(seconds: u64) -> String {
    match seconds {
        0..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_below_what_is_wanted_bounds() {
        let fine = || Finding::fine("x", "found", "why");
        assert_eq!(fine().bounding(10, 10, String::new).verdict, Verdict::Fine);
        let bound = fine().bounding(9, 10, || "fix".into()).costing(true, || "other".into());
        assert_eq!((bound.verdict, bound.fix.as_deref()), (Verdict::Bound, Some("fix")));
        let report = Report::of(10, vec![fine().bounding(50, 10, String::new), bound, fine()]);
        assert_eq!((report.possible, report.bounded_by, report.suffices()), (9, Some("x"), false));
        assert_eq!(report.findings[0].verdict, Verdict::Bound);
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!([grouped(0), grouped(1000), grouped(1_234_567)], ["0", "1,000", "1,234,567"]);
        assert_eq!([plain(0.129), plain(2.0), plain(1e6)], ["0.13", "2.00", "1,000,000"]);
        assert_eq!([seconds(0.0), seconds(1.75), seconds(1234.6)], ["less than 0.1 s", "1.8 s", "1,235 s"]);
        assert_eq!(
            [since_start(7199), since_start(7200), since_start(172_800)],
            ["119 minutes", "2 hours", "2 days"]
        );
        assert_eq!([bytes(4040), bytes(4_040_000), bytes(16_000_000_000)], ["4040 B", "4.0 MB", "16.0 GB"]);
    }

    #[test]
    fn long_text_is_wrapped_and_indented() {
        let long = Finding::fine("x", "word ".repeat(40).trim_end(), "").to_string();
        assert!(
            long.lines().count() > 1 && long.lines().all(|line| line.chars().count() <= COLUMNS),
            "{long}"
        );
        assert!(long.lines().nth(1).unwrap().starts_with(&" ".repeat(26)), "{long}");
    }
}

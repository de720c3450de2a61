//! Conditions on a report: `p99<5ms`, `lost==0`, `storm.all_back_s<=20`, `server_rss_per_connection<=256B`.

use super::{PhaseReport, Report};

/// A condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    text: String,
    /// Name or kind of the phases it is about; all that have the figure if none is given.
    phase: Option<String>,
    figure: String,
    operator: Operator,
    value: f64,
    /// The unit that the value was given in, as the ending of a figure's name, and the factor to it.
    unit: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
    Equal,
    NotEqual,
}

/// A condition that cannot be read, or is about nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConditionError {
    /// No operator.
    #[error("`{0}` is no condition: write FIGURE<VALUE with one of < <= > >= == !=")]
    Form(String),
    /// No number, or an unknown unit.
    #[error("`{0}` ends in no value: write a number and perhaps ns, us, ms, s, B, kB, MB or GB")]
    Value(String),
    /// No phase has such a figure.
    #[error("`{0}`: no phase has such a figure; there are: {1}")]
    Unknown(String, String),
}

/// Longer operators first, so that `<=` is not read as `<`.
const OPERATORS: [(&str, Operator); 6] = [
    ("<=", Operator::LessOrEqual),
    (">=", Operator::MoreOrEqual),
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<", Operator::Less),
    (">", Operator::More),
];

/// Units, the figures' ending they convert to, and the factor.
const UNITS: [(&str, &str, f64); 8] = [
    ("ns", "_ms", 1e-6),
    ("us", "_ms", 1e-3),
    ("ms", "_ms", 1.0),
    ("kB", "_b", 1e3),
    ("MB", "_b", 1e6),
    ("GB", "_b", 1e9),
    ("B", "_b", 1.0),
    ("s", "_ms", 1e3),
];

impl Condition {
    /// Reads a condition.
    ///
    /// # Errors
    /// [`ConditionError`], for the user to read.
    pub fn parse(text: &str) -> Result<Self, ConditionError> {
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let split = OPERATORS.iter().find_map(|(sign, operator)| {
            compact.split_once(sign).map(|(figure, value)| (figure, *operator, value))
        });
        let (figure, operator, value) = split.ok_or_else(|| ConditionError::Form(text.to_owned()))?;
        let (value, unit) = parse_value(value).ok_or_else(|| ConditionError::Value(text.to_owned()))?;
        let (phase, figure) = match figure.split_once('.') {
            Some((phase, figure)) => (Some(phase.to_owned()), figure),
            None => (None, figure),
        };
        Ok(Self { text: text.to_owned(), phase, figure: figure.to_owned(), operator, value, unit })
    }

    /// Checks the condition in every phase it is about; what did not hold, in words.
    ///
    /// # Errors
    /// [`ConditionError::Unknown`] if it is about nothing, which would otherwise look like a success.
    pub fn check(&self, report: &Report) -> Result<Vec<String>, ConditionError> {
        let about = |phase: &&PhaseReport| {
            self.phase.as_ref().is_none_or(|name| [&phase.name, &phase.kind].contains(&name))
        };
        let found: Vec<_> = report
            .phases
            .iter()
            .filter(about)
            .filter_map(|phase| self.value_in(phase).map(|value| (phase, value)))
            .collect();
        if found.is_empty() {
            let known = report.phases.iter().flat_map(|phase| phase.metrics.keys().map(String::as_str));
            let known: std::collections::BTreeSet<_> = known.collect();
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            return Err(ConditionError::Unknown(self.text.clone(), known));
        }
        let fails = found.into_iter().filter(|(_, value)| !self.operator.holds(*value, self.value));
        Ok(fails.map(|(phase, value)| format!("{}: {} is {value}", self.text, phase.name)).collect())
    }

    /// The figure in the unit of the condition: by its name, with its unit left out, or as a percentile of latency.
    fn value_in(&self, phase: &PhaseReport) -> Option<f64> {
        let name = &self.figure;
        let names = [name.clone(), format!("latency_{name}")];
        for name in names {
            let of = |ending: &str| phase.metrics.get(&format!("{name}{ending}")).copied();
            let endings = ["", "_ms", "_b", "_s", "_us", "_per_s"];
            let found =
                endings.iter().find_map(|ending| of(ending).map(|value| (format!("{name}{ending}"), value)));
            if let Some((full, value)) = found {
                return Some(self.converted(&full, value));
            }
        }
        None
    }

    /// Times given in the condition are in milliseconds; figures may be in seconds or microseconds.
    fn converted(&self, figure: &str, value: f64) -> f64 {
        match self.unit {
            Some("_ms") if figure.ends_with("_us") => value / 1e3,
            Some("_ms") if figure.ends_with("_s") => value * 1e3,
            _ => value,
        }
    }
}

fn parse_value(text: &str) -> Option<(f64, Option<&'static str>)> {
    let unit = UNITS.iter().find_map(|(unit, ending, factor)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Some((number * factor, Some(*ending)))
    });
    unit.or_else(|| text.parse().ok().map(|number| (number, None)))
}

impl Operator {
    fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::More => left > right,
            Self::MoreOrEqual => left >= right,
            Self::Equal => (left - right).abs() < 1e-9,
            Self::NotEqual => (left - right).abs() >= 1e-9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let phase = |name: &str, figures: &[(&str, f64)]| PhaseReport {
            name: name.to_owned(),
            kind: name.to_owned(),
            metrics: figures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
            ..PhaseReport::default()
        };
        let phases = vec![
            phase(
                "fanout",
                &[("latency_p99_ms", 4.2), ("lost", 0.0), ("server_rss_per_connection_b", 250.0)],
            ),
            phase("storm", &[("all_back_s", 12.0), ("lost", 3.0)]),
        ];
        Report { phases, ..Report::default() }
    }

    fn holds(text: &str) -> bool {
        Condition::parse(text).unwrap().check(&report()).unwrap().is_empty()
    }

    #[test]
    fn units_are_converted() {
        assert!(holds("p99<5ms") && !holds("p99<4ms") && holds("p99 < 0.005s") && holds("p99>=4200us"));
        assert!(holds("all_back_s<=12") && holds("all_back<13s") && !holds("all_back<11000ms"));
        assert!(holds("server_rss_per_connection<=256B") && !holds("server_rss_per_connection<0.2kB"));
    }

    #[test]
    fn a_condition_without_a_phase_is_about_all_of_them() {
        assert!(!holds("lost==0") && holds("fanout.lost==0") && holds("storm.lost != 0"));
    }

    #[test]
    fn what_is_about_nothing_is_an_error_and_not_a_success() {
        let check = |text: &str| Condition::parse(text).and_then(|condition| condition.check(&report()));
        assert!(matches!(check("p98<1ms"), Err(ConditionError::Unknown(..))));
        assert!(matches!(check("chat.lost==0"), Err(ConditionError::Unknown(..))));
        assert!(matches!(check("p99"), Err(ConditionError::Form(_))));
        assert!(matches!(check("p99<fast"), Err(ConditionError::Value(_))));
    }
}

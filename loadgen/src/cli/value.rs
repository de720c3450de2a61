//! Values of the command line and of scenario files, and their defaults.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Command};
use serde::de::{Deserialize, Deserializer, Error as _};

/// `90`, `90s`, `500ms`, `5m` or `24h`.
///
/// # Errors
/// A sentence for the user.
pub fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{unit}` is no unit of time: use ms, s, m or h")),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is no duration"))?;
    Duration::try_from_secs_f64(number * factor).map_err(|_| format!("`{text}` is no duration"))
}

/// A number of clients: `500`, or `20%` of all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Share {
    /// So many.
    Count(u32),
    /// So many percent of all.
    Percent(f64),
}

impl Share {
    /// How many clients that is.
    #[must_use]
    pub fn of(self, all: u32) -> u32 {
        match self {
            Self::Count(count) => count.min(all),
            Self::Percent(percent) => (f64::from(all) * percent / 100.0).round() as u32,
        }
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is neither a number nor a percentage");
        match text.strip_suffix('%') {
            Some(percent) => {
                let percent: f64 = percent.parse().map_err(|_| bad())?;
                (0.0..=100.0).contains(&percent).then_some(Self::Percent(percent)).ok_or_else(bad)
            }
            None => text.parse().map(Self::Count).map_err(|_| bad()),
        }
    }
}

/// The defaults of a group of options, as the command line has them.
pub(super) fn defaults<T: Args>() -> T {
    let matches = T::augment_args(Command::new("defaults")).get_matches_from(["defaults"]);
    // Every option of ours has a default or is optional, which a test of each group proves.
    T::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Reads a [`Duration`] from text or a number of seconds.
pub(super) fn read_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    duration(&Text::deserialize(from)?.0).map_err(D::Error::custom)
}

/// Reads what has a textual form.
pub(super) fn read_text<'de, D: Deserializer<'de>, T>(from: D) -> Result<T, D::Error>
where
    T: FromStr<Err: fmt::Display>,
{
    Text::deserialize(from)?.0.parse().map_err(D::Error::custom)
}

/// A text, or a number as text.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Whole(u64),
            Number(f64),
        }
        Ok(Self(match Form::deserialize(from)? {
            Form::Text(text) => text,
            Form::Whole(number) => number.to_string(),
            Form::Number(number) => number.to_string(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("5 days").is_err() && duration("-1s").is_err());
    }

    #[test]
    fn shares_are_counts_or_percentages() {
        assert_eq!("20%".parse::<Share>().map(|share| share.of(50)), Ok(10));
        assert_eq!("70".parse::<Share>().map(|share| share.of(50)), Ok(50));
        assert!("120%".parse::<Share>().is_err() && "many".parse::<Share>().is_err());
    }
}

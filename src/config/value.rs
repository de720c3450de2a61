//! Types of single settings: how each is written in a file or an environment variable, and what it accepts.

use std::fmt;
use std::time::Duration;

use regex::Regex;
use serde_json::Value;

use crate::base::duration::{UNITS_MS, parse_ms};

/// A type that one key can have.
pub(super) trait Setting: Sized {
    /// Values are not repeated in messages.
    const SECRET: bool = false;

    /// What a value must be, as a phrase after "must be".
    fn expected() -> String;

    /// Reads a value of the file; `None` if it is not as [`Setting::expected`].
    fn from_value(value: &Value) -> Option<Self>;

    /// The value as it stands in a file.
    fn to_value(&self) -> Value;

    /// How the text of an environment variable becomes a value of the file.
    fn value_of_text(text: &str) -> Value {
        serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
    }
}

impl Setting for bool {
    fn expected() -> String {
        "true or false".into()
    }

    fn from_value(value: &Value) -> Option<Self> {
        value.as_bool()
    }

    fn to_value(&self) -> Value {
        Value::from(*self)
    }
}

/// A whole number within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count<const MIN: u32, const MAX: u32>(pub(super) u32);

impl<const MIN: u32, const MAX: u32> Setting for Count<MIN, MAX> {
    fn expected() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn from_value(value: &Value) -> Option<Self> {
        let number = u32::try_from(value.as_u64()?).ok()?;
        (MIN..=MAX).contains(&number).then_some(Self(number))
    }

    fn to_value(&self) -> Value {
        Value::from(self.0)
    }
}

/// A moment in Unix seconds, 0 = none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UnixTime(pub(super) u64);

impl Setting for UnixTime {
    fn expected() -> String {
        "a time in seconds since 1970, or 0 for none".into()
    }

    fn from_value(value: &Value) -> Option<Self> {
        value.as_u64().map(Self)
    }

    fn to_value(&self) -> Value {
        Value::from(self.0)
    }
}

/// A size in bytes within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size<const MIN: u64, const MAX: u64>(pub(super) u64);

const SIZE_UNITS: [(&str, u64); 9] = [
    ("", 1),
    ("B", 1),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

impl<const MIN: u64, const MAX: u64> Setting for Size<MIN, MAX> {
    fn expected() -> String {
        format!("a size from {MIN} to {MAX} bytes, as a number or with a unit, such as \"64KiB\"")
    }

    fn from_value(value: &Value) -> Option<Self> {
        let bytes = match value {
            Value::String(text) => {
                let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
                let (number, unit) = text.split_at_checked(digits)?;
                let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| *name == unit.trim())?;
                number.parse::<u64>().ok()?.checked_mul(*factor)?
            }
            _ => value.as_u64()?,
        };
        (MIN..=MAX).contains(&bytes).then_some(Self(bytes))
    }

    fn to_value(&self) -> Value {
        Value::from(self.0)
    }
}

/// A duration within bounds, which are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span<const MIN: u64, const MAX: u64>(pub(super) Duration);

impl<const MIN: u64, const MAX: u64> Span<MIN, MAX> {
    pub(super) const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl<const MIN: u64, const MAX: u64> Setting for Span<MIN, MAX> {
    fn expected() -> String {
        let (min, max) = (show_ms(MIN), show_ms(MAX));
        format!(
            "a duration from {min} to {max} with units (ms, s, m, h, d), such as \"1m30s\"; a bare number is seconds"
        )
    }

    fn from_value(value: &Value) -> Option<Self> {
        let ms = match value {
            Value::String(text) => parse_ms(text)?,
            _ => value.as_u64()?.checked_mul(1000)?,
        };
        (MIN..=MAX).contains(&ms).then_some(Self(Duration::from_millis(ms)))
    }

    fn to_value(&self) -> Value {
        Value::from(show_ms(u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Text that is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a duration has units (ms, s, m, h, d), such as 90s or 1h30m")]
pub struct NotADuration;

/// A duration as it stands in a configuration, such as `1h30m`.
///
/// # Errors
/// [`NotADuration`]
pub fn parse_duration(text: &str) -> Result<Duration, NotADuration> {
    parse_ms(text).map(Duration::from_millis).ok_or(NotADuration)
}

/// The shortest exact form: the largest unit that divides.
fn show_ms(ms: u64) -> String {
    if ms == 0 {
        return "0s".into();
    }
    let unit = UNITS_MS.iter().rev().skip(1).find(|(_, factor)| ms.is_multiple_of(*factor));
    let (name, factor) = unit.unwrap_or(&("ms", 1));
    format!("{}{name}", ms / factor)
}

/// Free text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Text(pub(super) String);

impl Setting for Text {
    fn expected() -> String {
        "text (in quotes where it looks like a number)".into()
    }

    fn from_value(value: &Value) -> Option<Self> {
        value.as_str().map(|text| Self(text.into()))
    }

    fn to_value(&self) -> Value {
        Value::from(self.0.as_str())
    }

    fn value_of_text(text: &str) -> Value {
        Value::from(text)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// Text that must not be shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(if self.0.is_empty() { "Secret(none)" } else { "Secret(..)" })
    }
}

impl Setting for Secret {
    const SECRET: bool = true;

    fn expected() -> String {
        Text::expected()
    }

    fn from_value(value: &Value) -> Option<Self> {
        Text::from_value(value).map(|text| Self(text.0))
    }

    fn to_value(&self) -> Value {
        Value::from(self.0.as_str())
    }

    fn value_of_text(text: &str) -> Value {
        Value::from(text)
    }
}

/// A list of texts; in an environment variable JSON or separated by white space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct List(pub(super) Vec<String>);

impl Setting for List {
    fn expected() -> String {
        "a list of texts".into()
    }

    fn from_value(value: &Value) -> Option<Self> {
        let texts = value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned));
        texts.collect::<Option<Vec<_>>>().map(Self)
    }

    fn to_value(&self) -> Value {
        Value::from(self.0.clone())
    }

    fn value_of_text(text: &str) -> Value {
        match serde_json::from_str(text) {
            Ok(value @ Value::Array(_)) => value,
            _ => text.split_whitespace().collect(),
        }
    }
}

/// A regular expression, empty = none.
#[derive(Clone, Debug, Default)]
pub(super) struct Pattern(pub(super) Option<Regex>);

impl Setting for Pattern {
    fn expected() -> String {
        "a regular expression (without look-around and back-references), or empty".into()
    }

    fn from_value(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "" => Some(Self(None)),
            text => Regex::new(text).ok().map(|regex| Self(Some(regex))),
        }
    }

    fn to_value(&self) -> Value {
        Value::from(self.0.as_ref().map(Regex::as_str).unwrap_or_default())
    }

    fn value_of_text(text: &str) -> Value {
        Value::from(text)
    }
}

/// A value out of a fixed set, each with its name.
pub(super) trait Choice: Copy + PartialEq + 'static {
    const NAMES: &'static [(&'static str, Self)];
}

/// One of the names of a [`Choice`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OneOf<T>(pub(super) T);

impl<T: Choice> Setting for OneOf<T> {
    fn expected() -> String {
        let names: Vec<_> = T::NAMES.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        format!("one of {}", names.join(", "))
    }

    fn from_value(value: &Value) -> Option<Self> {
        let wanted = value.as_str()?;
        T::NAMES.iter().find(|(name, _)| *name == wanted).map(|(_, choice)| Self(*choice))
    }

    fn to_value(&self) -> Value {
        let name = T::NAMES.iter().find(|(_, choice)| *choice == self.0).map(|(name, _)| *name);
        Value::from(name.unwrap_or_default())
    }

    fn value_of_text(text: &str) -> Value {
        Value::from(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    type AnySpan = Span<0, { u64::MAX }>;

    #[test]
    fn durations_have_units() {
        let cases = [
            (json!("300s"), Some(300_000)),
            (json!("1m30s"), Some(90_000)),
            (json!("720h"), Some(2_592_000_000)),
            (json!("250ms"), Some(250)),
            (json!("1.5s"), Some(1500)),
            (json!("0.25h"), Some(900_000)),
            (json!("2d"), Some(172_800_000)),
            (json!("0"), Some(0)),
            (json!("0s"), Some(0)),
            (json!(25), Some(25_000)),
            (json!(0), Some(0)),
            (json!("25"), None),
            (json!("25 s"), None),
            (json!("-5s"), None),
            (json!(-5), None),
            (json!("5 parsecs"), None),
            (json!("s"), None),
            (json!(""), None),
            (json!("1.2.3s"), None),
            (json!("99999999999999999999s"), None),
            (json!(1.5), None),
            (json!(true), None),
        ];
        for (value, expected) in cases {
            let got = AnySpan::from_value(&value).map(|span| span.0.as_millis());
            assert_eq!(got, expected, "{value}");
        }
    }

    #[test]
    fn bounds_are_part_of_the_type() {
        assert!(Span::<1000, 5000>::from_value(&json!("999ms")).is_none());
        assert!(Span::<1000, 5000>::from_value(&json!("1s")).is_some());
        assert!(Span::<1000, 5000>::from_value(&json!("5001ms")).is_none());
        assert!(Count::<1, 9>::from_value(&json!(0)).is_none());
        assert!(Count::<1, 9>::from_value(&json!(10)).is_none());
        assert!(Count::<1, 9>::from_value(&json!(-1)).is_none());
        assert_eq!(Count::<1, 9>::from_value(&json!(9)), Some(Count(9)));
    }

    #[test]
    fn sizes_are_bytes_or_have_units() {
        let size = |value: Value| Size::<0, { u64::MAX }>::from_value(&value).map(|size| size.0);
        assert_eq!(size(json!(65536)), Some(65536));
        assert_eq!(size(json!("64KiB")), Some(65536));
        assert_eq!(size(json!("64 KiB")), Some(65536));
        assert_eq!(size(json!("2GB")), Some(2_000_000_000));
        assert_eq!(size(json!("64kib")), None);
        assert_eq!(size(json!("KiB")), None);
        assert_eq!(size(json!("99999999999GiB")), None);
        assert_eq!(size(json!(-1)), None);
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for ms in [0, 1, 999, 1000, 1500, 60_000, 90_000, 3_600_000, 86_400_000, 2_592_000_000] {
            let span = AnySpan::from_value(&Value::from(show_ms(ms))).map(|span| span.0.as_millis());
            assert_eq!(span, Some(u128::from(ms)), "{}", show_ms(ms));
        }
        assert_eq!(show_ms(2_592_000_000), "720h");
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(format!("{:?}", Secret("hush".into())), "Secret(..)");
    }
}

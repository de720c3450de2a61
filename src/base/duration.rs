//! Durations as people write them: numbers with units, such as `1h30m`.

/// Milliseconds in a unit, smallest first.
pub const UNITS_MS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// `1h30m` in milliseconds: numbers, each with its unit; `0` and decimals such as `1.5s` too. `None` for anything else,
/// and for what is beyond 2^64 ms.
#[must_use]
pub fn parse_ms(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(0);
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(number_end)?;
        let unit_end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_end)?;
        let (_, factor) = UNITS_MS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(scale(number, *factor)?)?;
        rest = tail;
    }
    (!text.trim().is_empty()).then_some(total)
}

/// A decimal number times a factor, rounded down.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    let unit = 10u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = fraction.parse::<u64>().ok()?.checked_mul(factor)?.checked_div(unit)?;
    whole.checked_add(part)
}

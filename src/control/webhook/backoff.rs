//! How long to wait before a batch is sent again.

use std::time::{Duration, SystemTime};

use crate::base::rng::Rng;

/// The longest pause that a backend may ask for: longer ones are likelier a mistake, and the events grow old.
const ASKED_MAX: Duration = Duration::from_secs(3600);

/// Pauses that double, with jitter, so that webhooks that failed together do not come back together.
#[derive(Debug)]
pub(super) struct Backoff {
    least: Duration,
    most: Duration,
    failures: u32,
    rng: Rng,
}

impl Backoff {
    pub(super) fn new(least: Duration, most: Duration, seed: u64) -> Self {
        Self { least, most, failures: 0, rng: Rng::new(seed) }
    }

    /// The batch has got through.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since then.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// The pause after one more failure: from half to all of the doubled one, or what the backend asked for if longer.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let whole = self.least.saturating_mul(factor).min(self.most);
        let share = 500 + self.rng.below(501);
        let pause = whole.saturating_mul(share) / 1000;
        pause.max(asked.unwrap_or_default().min(ASKED_MAX))
    }
}

/// The value of `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3).
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_are_spread() {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..50 {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3), seed);
            for whole in [100, 200, 400, 800, 1600, 3000, 3000, 3000] {
                let pause = backoff.next(None).as_millis();
                assert!((whole / 2..=whole).contains(&pause), "{pause} of {whole}");
                seen.insert(pause);
            }
            for _ in 0..100 {
                assert!(backoff.next(None) <= Duration::from_secs(3));
            }
            backoff.reset();
            assert!(backoff.next(None) <= Duration::from_millis(100));
        }
        assert!(seen.len() > 100, "{} different pauses", seen.len());
    }

    #[test]
    fn a_backend_may_ask_for_more_but_not_for_less() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(1), 1);
        assert_eq!(backoff.next(Some(Duration::from_secs(90))), Duration::from_secs(90));
        assert!(backoff.next(Some(Duration::ZERO)) >= Duration::from_millis(500));
        assert_eq!(backoff.next(Some(Duration::from_secs(1 << 40))), ASKED_MAX);
    }

    #[test]
    fn retry_after_is_a_number_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let cases = [
            ("120", Some(120)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:51:37 GMT", Some(120)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ];
        for (value, expected) in cases {
            assert_eq!(retry_after(value, now), expected.map(Duration::from_secs), "{value}");
        }
    }
}

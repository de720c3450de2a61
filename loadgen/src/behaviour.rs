//! What clients can be told to do besides being there: leave and come back, talk, come and go in channels, be slow.

use std::str::FromStr;

use crate::client::Manner;

/// Ready clients leave and come back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Departure {
    /// How many of this worker's clients.
    pub clients: u32,
    /// How they close.
    pub close: Close,
    /// When they come back.
    pub jitter: Jitter,
    /// Within which time they come back, in milliseconds.
    pub within_ms: u32,
}

/// How a client closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// By reset, as when a process is killed with unread data or a middlebox gives up.
    Reset,
    /// By end of stream without a goodbye, as when a process ends.
    Fin,
    /// With a WebSocket close frame.
    Goodbye,
}

/// When clients come back after all of them have lost their connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jitter {
    /// All at once.
    None,
    /// At equal distances.
    Spread,
    /// At random times.
    Full,
    /// Half of the time at least, the other half at random.
    Equal,
    /// As the SDKs of the client protocol do: at random within 500 ms, whatever time is given; later attempts within
    /// twice the time, up to 20 s.
    Sdk,
}

/// The first step of the SDKs' backoff and its bound (client-protocol.md section 11).
const SDK_FIRST_MS: u32 = 500;
const SDK_MOST_MS: u32 = 20_000;

impl Jitter {
    /// When the `index`th of `count` clients comes back, in milliseconds from now.
    #[must_use]
    pub fn delay_ms(self, within_ms: u32, index: u32, count: u32, random: &mut fastrand::Rng) -> u32 {
        match self {
            Self::None => 0,
            Self::Spread => {
                let share = u64::from(within_ms) * u64::from(index) / u64::from(count.max(1));
                u32::try_from(share).unwrap_or(within_ms)
            }
            Self::Full => random.u32(0..=within_ms),
            Self::Equal => within_ms / 2 + random.u32(0..=within_ms / 2),
            Self::Sdk => backoff_ms(0, random),
        }
    }
}

/// When to try again after `failures` failures in a row, in milliseconds from now.
#[must_use]
pub fn backoff_ms(failures: u32, random: &mut fastrand::Rng) -> u32 {
    let step = SDK_FIRST_MS.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX));
    random.u32(0..=step.min(SDK_MOST_MS))
}

/// Clients talk in the first of their channels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chat {
    /// Mean time between two messages of a client, in milliseconds; the times are exponentially distributed.
    pub think_ms: f64,
    /// Bytes of data of a message.
    pub size: usize,
}

/// Clients leave the first of their channels and join it again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Churn {
    /// Joins and leaves a second of this worker.
    pub rate: f64,
}

/// Some clients are slow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slowness {
    /// How many of this worker's clients.
    pub clients: u32,
    /// In which way; `Prompt` lets all be prompt again.
    pub manner: Manner,
}

/// A word that names none of the choices.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not one of {1}")]
pub struct ChoiceError(String, &'static str);

macro_rules! choice {
    ($type:ty, $words:literal, $($word:literal => $value:expr),* $(,)?) => {
        impl FromStr for $type {
            type Err = ChoiceError;

            fn from_str(text: &str) -> Result<Self, ChoiceError> {
                match text {
                    $($word => Ok($value),)*
                    _ => Err(ChoiceError(text.to_owned(), $words)),
                }
            }
        }
    };
}

choice!(Close, "reset, fin, goodbye", "reset" => Self::Reset, "fin" => Self::Fin, "goodbye" => Self::Goodbye);
choice!(Jitter, "none, spread, full, equal, sdk",
    "none" => Self::None, "spread" => Self::Spread, "full" => Self::Full, "equal" => Self::Equal, "sdk" => Self::Sdk);
choice!(Manner, "stuck, half-open, drip-read, drip-write",
    "stuck" => Self::Stuck, "half-open" => Self::HalfOpen, "drip-read" => Self::DripRead, "drip-write" => Self::DripWrite);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_keeps_within_its_time() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut delays = |jitter: Jitter| -> Vec<u32> {
            (0..1000).map(|index| jitter.delay_ms(2_000, index, 1000, &mut random)).collect()
        };
        assert!(delays(Jitter::None).iter().all(|delay| *delay == 0));
        assert_eq!(delays(Jitter::Spread)[500], 1_000);
        assert!(delays(Jitter::Full).iter().all(|delay| *delay <= 2_000));
        assert!(delays(Jitter::Equal).iter().all(|delay| (1_000..=2_000).contains(delay)));
        assert!(delays(Jitter::Sdk).iter().all(|delay| *delay <= SDK_FIRST_MS));
    }

    #[test]
    fn a_backoff_grows_to_its_bound() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut most = |failures| (0..200).map(|_| backoff_ms(failures, &mut random)).max().unwrap();
        assert!(most(0) <= 500 && most(2) > 500 && most(40) <= SDK_MOST_MS);
    }

    #[test]
    fn choices_are_named_when_missed() {
        assert_eq!("full".parse(), Ok(Jitter::Full));
        let error = "half".parse::<Manner>().unwrap_err();
        assert_eq!(error.to_string(), "`half` is not one of stuck, half-open, drip-read, drip-write");
    }
}

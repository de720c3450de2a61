//! Looks after the shards: one that has work to do and does not end its turn for a second is said to stand still, once in
//! the log and once in its counter (R14). What else may run, a shard that stands still serves nobody.
//!
//! Time is counted in looks, not by a clock: where the whole process stood still, or the watchdog got no processor either,
//! no shard is blamed for more than was seen.

use std::time::Duration;

use crate::base::heartbeat::Heartbeats;
use crate::base::ids::ShardId;

/// Time between two looks.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// Looks at the same turn after which a shard stands still: a second at least.
const STANDSTILL: u32 = 4;

/// What was seen of the shards so far.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    shards: Vec<Seen>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    turn: Option<u32>,
    /// Looks at which it was still the same.
    looks: u32,
}

/// What a look found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// A shard has not ended its turn for so long.
    Stands(ShardId, Duration),
    /// It went on; it had stood for so long.
    GoesOn(ShardId, Duration),
}

impl Watchdog {
    /// Looks at all shards, counts those that stand still and tells the log of them.
    pub(super) fn look(&mut self, hearts: &Heartbeats, shards: u16) {
        self.findings(hearts, shards, |finding| match finding {
            Finding::Stands(shard, time) => {
                hearts.note_stall(shard);
                tracing::error!(shard = shard.0, for_ms = time.as_millis() as u64, "the shard stands still");
            }
            Finding::GoesOn(shard, time) => {
                tracing::warn!(shard = shard.0, stood_ms = time.as_millis() as u64, "the shard goes on");
            }
        });
    }

    fn findings(&mut self, hearts: &Heartbeats, shards: u16, mut tell: impl FnMut(Finding)) {
        self.shards.resize(usize::from(shards), Seen::default());
        for (shard, seen) in (0..shards).map(ShardId).zip(&mut self.shards) {
            let turn = hearts.turn(shard);
            if turn.is_some() && turn == seen.turn {
                seen.looks += 1;
                if seen.looks == STANDSTILL {
                    tell(Finding::Stands(shard, LOOK * seen.looks));
                }
                continue;
            }
            if seen.looks >= STANDSTILL {
                tell(Finding::GoesOn(shard, LOOK * seen.looks));
            }
            *seen = Seen { turn, looks: 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(watchdog: &mut Watchdog, hearts: &Heartbeats) -> Vec<Finding> {
        let mut findings = Vec::new();
        watchdog.findings(hearts, 3, |finding| findings.push(finding));
        findings
    }

    #[test]
    fn a_turn_without_end_is_told_once_and_its_end_too() {
        let (mut watchdog, hearts) = (Watchdog::default(), Heartbeats::new(3));
        let (busy, stuck) = (ShardId(1), ShardId(2));
        hearts.wake(stuck);
        for _ in 0..4 {
            hearts.sleep(busy);
            hearts.wake(busy);
            assert_eq!(look(&mut watchdog, &hearts), [], "not yet a second");
        }
        hearts.wake(busy);
        assert_eq!(look(&mut watchdog, &hearts), [Finding::Stands(stuck, Duration::from_secs(1))]);
        for _ in 0..4 {
            hearts.wake(busy);
            assert_eq!(look(&mut watchdog, &hearts), [], "once");
        }
        hearts.sleep(stuck);
        hearts.wake(busy);
        assert_eq!(look(&mut watchdog, &hearts), [Finding::GoesOn(stuck, Duration::from_secs(2))]);
    }

    #[test]
    fn who_sleeps_or_takes_turns_does_not_stand_still() {
        let (mut watchdog, hearts) = (Watchdog::default(), Heartbeats::new(3));
        for _ in 0..20 {
            hearts.wake(ShardId(1));
            hearts.sleep(ShardId(1));
            hearts.wake(ShardId(2));
            assert_eq!(look(&mut watchdog, &hearts), []);
            hearts.sleep(ShardId(2));
        }
    }

    #[test]
    fn a_standstill_is_counted_at_its_shard() {
        let (mut watchdog, hearts) = (Watchdog::default(), Heartbeats::new(3));
        for _ in 0..2 {
            hearts.wake(ShardId(2));
            (0..9).for_each(|_| watchdog.look(&hearts, 3));
            hearts.sleep(ShardId(2));
        }
        assert_eq!([0, 1, 2].map(|shard| hearts.stalls(ShardId(shard))), [0, 0, 2]);
    }
}

//! Memory pressure: how near the process is to `server.memory_limit`, and what a shard does about it (R09).
//!
//! | level | from | reaction |
//! |---|---|---|
//! | `Shrink` | 80 % | pools and spare capacity are given back |
//! | `Refuse` | 90 % | new connections get 503 with Retry-After |
//! | `Shed` | 95 % | the connections with the largest outboxes are disconnected with 3008, until their bytes make up for what the process is above 90 % |
//!
//! One thread outside the shards measures and calls [`Pressure::note`]; a shard reads one atomic number a turn and
//! reacts once to each measurement.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::hub::connection::NONE;
use crate::hub::mail::HomeAsk;
use crate::hub::shard::Shard;
use crate::limits;
use crate::protocol::DisconnectCode;

/// How near the limit is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum PressureLevel {
    /// Far.
    #[default]
    Calm,
    /// 80 %
    Shrink,
    /// 90 %
    Refuse,
    /// 95 %
    Shed,
}

impl PressureLevel {
    /// The level at `used` bytes of `limit`; `limit` 0 is no limit.
    #[must_use]
    pub fn of(used: u64, limit: u64) -> Self {
        match used.saturating_mul(100).checked_div(limit) {
            None | Some(0..80) => Self::Calm,
            Some(80..90) => Self::Shrink,
            Some(90..95) => Self::Refuse,
            Some(_) => Self::Shed,
        }
    }
}

/// The latest measurement, for all shards.
#[derive(Debug, Default)]
pub struct Pressure {
    /// A [`PressureLevel`].
    level: AtomicU8,
    /// Counts what shards are to react to: measurements above `Calm` and requests to shrink (wrapping).
    measurement: AtomicU32,
    /// Bytes each shard is to free by shedding.
    shed_bytes: AtomicU64,
}

impl Pressure {
    /// Notes one measurement, for one thread to call about once a second. Returns the level.
    pub fn note(&self, used: u64, limit: u64, shards: u16) -> PressureLevel {
        let level = PressureLevel::of(used, limit);
        let excess = used.saturating_sub(limit / 100 * 90);
        self.shed_bytes.store(excess / u64::from(shards.max(1)), Ordering::Relaxed);
        self.level.store(level as u8, Ordering::Relaxed);
        if level > PressureLevel::Calm {
            self.ask_to_shrink();
        }
        level
    }

    /// Lets every shard give back what it only keeps for later.
    pub fn ask_to_shrink(&self) {
        // A shard that sees the number also sees what was stored before it.
        self.measurement.fetch_add(1, Ordering::Release);
    }

    /// The level of the latest measurement.
    #[must_use]
    pub fn level(&self) -> PressureLevel {
        match self.level.load(Ordering::Relaxed) {
            0 => PressureLevel::Calm,
            1 => PressureLevel::Shrink,
            2 => PressureLevel::Refuse,
            _ => PressureLevel::Shed,
        }
    }
}

impl Shard {
    /// Reacts to a new measurement, once.
    pub(crate) fn relieve(&mut self) {
        let measurement = self.common.admission.pressure.measurement.load(Ordering::Acquire);
        if measurement == self.measurement_seen {
            return;
        }
        self.measurement_seen = measurement;
        self.shrink();
        if self.common.admission.pressure.level() == PressureLevel::Shed {
            self.shed(self.common.admission.pressure.shed_bytes.load(Ordering::Relaxed));
        }
    }

    /// Gives back what is only kept to be used again.
    fn shrink(&mut self) {
        self.cold.shrink();
        self.post.shrink();
        self.scratch = Vec::new();
        self.gathering.shrink();
        self.dirty.shrink_to_fit();
        self.due.shrink_to_fit();
        self.held.shrink();
        self.doomed.shrink_to_fit();
        self.handed.shrink_to_fit();
        self.resumed.shrink_to_fit();
        self.overdue.shrink_to_fit();
        self.sweeps.shrink();
        self.deferred.shrink_to_fit();
    }

    /// Bytes of the lists that a turn works through.
    pub(crate) fn lists_bytes(&self) -> usize {
        (self.dirty.capacity() + self.due.capacity() + self.resumed.capacity()) * size_of::<u32>()
            + self.sweeps.memory_bytes()
            + self.held.memory_bytes()
            + self.doomed.capacity() * size_of::<(u32, bool)>()
            + self.handed.capacity() * size_of::<(u32, Vec<u8>)>()
            + self.deferred.capacity() * size_of::<HomeAsk>()
            + self.accepts.memory_bytes()
            + self.newcomers.memory_bytes()
    }

    /// Disconnects the slowest readers until `bytes` of their output are dropped. O(connections).
    fn shed(&mut self, bytes: u64) {
        let cold = &self.cold;
        let mut waiting: Vec<(usize, u32)> = self
            .connections
            .0
            .iter()
            .filter(|(_, connection)| connection.cold != NONE)
            .map(|(slot, connection)| {
                (cold.get(connection.cold).map_or(0, |cold| cold.outbox.len()), slot as u32)
            })
            .filter(|(length, _)| *length >= limits::SHED_OUTBOX_LEAST)
            .collect();
        waiting.sort_unstable_by_key(|entry| Reverse(*entry));
        let mut freed = 0;
        for (length, slot) in waiting {
            if freed >= bytes {
                return;
            }
            freed += length as u64;
            self.disconnect(slot, DisconnectCode::Slow);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_begin_where_the_table_says() {
        let level = |used| PressureLevel::of(used, 1000);
        assert_eq!(level(799), PressureLevel::Calm);
        assert_eq!((level(800), level(899)), (PressureLevel::Shrink, PressureLevel::Shrink));
        assert_eq!((level(900), level(949)), (PressureLevel::Refuse, PressureLevel::Refuse));
        assert_eq!((level(950), level(u64::MAX)), (PressureLevel::Shed, PressureLevel::Shed));
        assert_eq!(PressureLevel::of(u64::MAX, 0), PressureLevel::Calm, "0 is no limit");
    }

    #[test]
    fn what_is_above_ninety_percent_is_shared_among_shards() {
        let pressure = Pressure::default();
        assert_eq!(pressure.note(700, 1000, 2), PressureLevel::Calm);
        assert_eq!(pressure.measurement.load(Ordering::Relaxed), 0);
        assert_eq!(pressure.note(980, 1000, 2), PressureLevel::Shed);
        assert_eq!(pressure.shed_bytes.load(Ordering::Relaxed), 40);
        assert_eq!(pressure.level(), PressureLevel::Shed);
        assert_eq!(pressure.measurement.load(Ordering::Relaxed), 1);
    }
}

//! A sign of life of every shard, for a watchdog on another thread.
//!
//! A shard is *awake* while a turn runs and *asleep* while it waits for something to do. Each change is one plain store
//! into a line of the shard's own, so that a turn pays nothing for it. Invariant: a shard that is awake at two looks with
//! the same beat has not ended a turn between them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use super::ids::ShardId;

/// Beats of all shards.
#[derive(Debug)]
pub struct Heartbeats {
    shards: Vec<CachePadded<Heart>>,
}

#[derive(Debug, Default)]
struct Heart {
    /// Odd while awake. Only the shard writes it.
    beat: AtomicU32,
    /// Only the watchdog writes it.
    stalls: AtomicU64,
}

impl Heartbeats {
    /// Hearts of `shards` shards, all asleep.
    #[must_use]
    pub fn new(shards: u16) -> Self {
        Self { shards: (0..shards).map(|_| CachePadded::default()).collect() }
    }

    /// A turn begins.
    pub fn wake(&self, own: ShardId) {
        self.set(own, |beat| beat.wrapping_add(1) | 1);
    }

    /// A turn has ended: the shard waits, or is gone.
    pub fn sleep(&self, own: ShardId) {
        self.set(own, |beat| beat.wrapping_add(1) & !1);
    }

    /// What tells a turn from all others; `None` while the shard is asleep.
    #[must_use]
    pub fn turn(&self, shard: ShardId) -> Option<u32> {
        let beat = self.shards.get(usize::from(shard.0))?.beat.load(Ordering::Relaxed);
        (beat % 2 == 1).then_some(beat)
    }

    /// Counts a standstill.
    pub fn note_stall(&self, shard: ShardId) {
        if let Some(heart) = self.shards.get(usize::from(shard.0)) {
            heart.stalls.store(heart.stalls.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Standstills of a shard.
    #[must_use]
    pub fn stalls(&self, shard: ShardId) -> u64 {
        self.shards.get(usize::from(shard.0)).map_or(0, |heart| heart.stalls.load(Ordering::Relaxed))
    }

    fn set(&self, own: ShardId, next: impl FnOnce(u32) -> u32) {
        if let Some(heart) = self.shards.get(usize::from(own.0)) {
            heart.beat.store(next(heart.beat.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_turns_in_a_row_look_alike() {
        let (hearts, shard) = (Heartbeats::new(2), ShardId(1));
        hearts.shards[1].beat.store(u32::MAX - 5, Ordering::Relaxed);
        let mut before = None;
        for _ in 0..8 {
            hearts.sleep(shard);
            assert_eq!(hearts.turn(shard), None);
            hearts.wake(shard);
            let turn = hearts.turn(shard);
            assert!(turn.is_some() && turn != before);
            before = turn;
        }
        assert_eq!(hearts.turn(ShardId(0)), None, "it never ran");
    }
}

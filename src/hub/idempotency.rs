//! Remembers the results of publications by channel and idempotency key for five minutes (server-api.md section 1.2).
//!
//! One cache serves all channels of a shard, with history or without, so its bound is one number. Keys are kept as
//! 128-bit keyed hashes. Beyond the bound the oldest result is forgotten early.

use std::collections::VecDeque;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::base::table::Table;
use crate::base::tick::{TICK_MS, Tick};

/// How long a result is remembered.
pub(crate) const IDEMPOTENCY_TTL_TICKS: u32 = (5 * 60 * 1000 / TICK_MS) as u32;

/// Expired results dropped along the way by each call: more than one call can add, so that they cannot pile up.
const DROPPED_PER_CALL: usize = 4;
/// Below this capacity the memory is not worth giving back.
const SMALL: usize = 64;

/// The cache; `R` is the result of a publication.
#[derive(Debug)]
pub(crate) struct Idempotency<R> {
    /// Oldest first, which is also the order of expiry.
    results: VecDeque<Entry<R>>,
    /// Handle of the oldest; the others follow on, wrapping around.
    first: u32,
    table: Table,
    hasher: SipHasher13,
    bound: usize,
}

#[derive(Debug)]
struct Entry<R> {
    key: u128,
    expires: Tick,
    result: R,
}

impl<R: Clone> Idempotency<R> {
    /// A cache of at most `bound` results, whose hashes depend on `secret`.
    #[must_use]
    pub(crate) fn new(secret: [u8; 16], bound: usize) -> Self {
        Self {
            results: VecDeque::new(),
            first: 0,
            table: Table::new(),
            hasher: SipHasher13::new_with_key(&secret),
            bound: bound.clamp(1, u32::MAX as usize / 2),
        }
    }

    /// Results remembered, expired ones included until they are dropped.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.results.len()
    }

    /// Bytes this cache holds on the heap.
    #[must_use]
    pub(crate) fn memory_bytes(&self) -> usize {
        self.results.capacity() * size_of::<Entry<R>>() + self.table.memory_bytes()
    }

    /// The result of the publication with this key, if there was one in the last five minutes.
    #[must_use]
    pub(crate) fn find(&self, channel: &str, key: &str, now: Tick) -> Option<R> {
        let key = self.hash(channel, key);
        let handle = self.table.find(key as u64, |handle| {
            self.entry(handle).is_some_and(|entry| entry.key == key && entry.expires > now)
        })?;
        self.entry(handle).map(|entry| entry.result.clone())
    }

    /// Remembers a result. The caller has asked [`Idempotency::find`] first.
    pub(crate) fn record(&mut self, channel: &str, key: &str, result: R, now: Tick) {
        self.sweep(now, DROPPED_PER_CALL);
        if self.results.len() >= self.bound {
            self.drop_oldest();
        }
        let key = self.hash(channel, key);
        let handle = self.first.wrapping_add(self.results.len() as u32);
        self.results.push_back(Entry { key, expires: now.after(IDEMPOTENCY_TTL_TICKS), result });
        let (results, first) = (&self.results, self.first);
        self.table.insert(key as u64, handle, |handle| hash_of(results, first, handle));
    }

    /// Drops at most `budget` expired results. True if there may be more.
    pub(crate) fn sweep(&mut self, now: Tick, budget: usize) -> bool {
        for _ in 0..budget {
            if self.results.front().is_none_or(|entry| entry.expires > now) {
                return false;
            }
            self.drop_oldest();
        }
        self.results.front().is_some_and(|entry| entry.expires <= now)
    }

    fn drop_oldest(&mut self) {
        let Some(entry) = self.results.pop_front() else { return };
        let oldest = self.first;
        self.first = self.first.wrapping_add(1);
        let (results, first) = (&self.results, self.first);
        self.table.remove(
            entry.key as u64,
            |handle| handle == oldest,
            |handle| hash_of(results, first, handle),
        );
        if self.results.capacity() > SMALL && self.results.len() * 4 < self.results.capacity() {
            self.results.shrink_to(self.results.len() * 2);
        }
    }

    fn entry(&self, handle: u32) -> Option<&Entry<R>> {
        self.results.get(handle.wrapping_sub(self.first) as usize)
    }

    fn hash(&self, channel: &str, key: &str) -> u128 {
        let mut hasher = self.hasher;
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        std::hash::Hasher::write_usize(&mut hasher, channel.len());
        std::hash::Hasher::write(&mut hasher, channel.as_bytes());
        std::hash::Hasher::write(&mut hasher, key.as_bytes());
        hasher.finish128().as_u128()
    }
}

/// The low half of an entry's key, for the table.
fn hash_of<R>(results: &VecDeque<Entry<R>>, first: u32, handle: u32) -> u64 {
    results.get(handle.wrapping_sub(first) as usize).map_or(0, |entry| entry.key as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const CHANNELS: [&str; 3] = ["a", "ab", ""];
    const KEYS: [&str; 4] = ["bc", "c", "abc", "x"];

    proptest! {
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0..3_usize, 0..4_usize, 0..900_u32), 0..300)) {
            let mut cache = Idempotency::new([1; 16], 1_000);
            cache.first = u32::MAX - 20;
            let mut model: HashMap<(usize, usize), (Tick, usize)> = HashMap::new();
            let mut now = Tick(0);
            for (number, (channel, key, passed)) in steps.into_iter().enumerate() {
                now = now.after(passed);
                let expected = model.get(&(channel, key)).filter(|(expires, _)| *expires > now);
                let found = cache.find(CHANNELS[channel], KEYS[key], now);
                prop_assert_eq!(found, expected.map(|(_, result)| *result));
                if found.is_none() {
                    cache.record(CHANNELS[channel], KEYS[key], number, now);
                    model.insert((channel, key), (now.after(3_000), number));
                }
            }
            while cache.sweep(now.after(3_000), 7) {}
            prop_assert_eq!(cache.len(), 0);
            prop_assert!(cache.table.is_empty());
        }
    }

    #[test]
    fn forgets_after_five_minutes_and_not_before() {
        let mut cache = Idempotency::new([1; 16], 10);
        cache.record("channel", "key", 7, Tick(100));
        assert_eq!(cache.find("channel", "key", Tick(3_099)), Some(7));
        assert_eq!(cache.find("channel", "key", Tick(3_100)), None);
    }

    #[test]
    fn forgets_the_oldest_beyond_its_bound() {
        let mut cache = Idempotency::new([1; 16], 100);
        for number in 0..150 {
            cache.record("channel", &number.to_string(), number, Tick(0));
        }
        assert_eq!(cache.len(), 100);
        for number in 0..150 {
            let expected = (number >= 50).then_some(number);
            assert_eq!(cache.find("channel", &number.to_string(), Tick(1)), expected);
        }
    }

    #[test]
    fn gives_its_memory_back() {
        let mut cache = Idempotency::new([1; 16], 100_000);
        for number in 0..50_000 {
            cache.record("channel", &number.to_string(), number, Tick(0));
        }
        let full = cache.memory_bytes();
        while cache.sweep(Tick(4_000), 1_000) {}
        assert!(cache.memory_bytes() < full / 100, "{} of {full}", cache.memory_bytes());
    }
}

//! A coarse timing wheel for what is rare: reconnects, think times, drips. An idle client is not in it.
//!
//! An entry is due at the first turn after its time, never earlier. Entries further off than one round stay in their
//! slot and are looked at once a round.

/// Milliseconds between two slots: as fine as a poller waits.
const SLOT_MS: u32 = 1;
/// Slots of one round, about a second.
const SLOTS: u32 = 1024;

/// A wheel of `T`s on a clock of milliseconds.
pub struct Wheel<T> {
    slots: Vec<Vec<Entry<T>>>,
    /// The next slot time to be turned, in slots since time 0.
    cursor: u32,
    len: usize,
}

struct Entry<T> {
    due_ms: u32,
    item: T,
}

impl<T> Wheel<T> {
    /// An empty wheel that begins at `now_ms`.
    #[must_use]
    pub fn new(now_ms: u32) -> Self {
        let slots = (0..SLOTS).map(|_| Vec::new()).collect();
        Self { slots, cursor: now_ms / SLOT_MS, len: 0 }
    }

    /// Sets `item` to come due at `due_ms`, or at the next turn if that has passed.
    pub fn insert(&mut self, due_ms: u32, item: T) {
        let slot = (due_ms.div_ceil(SLOT_MS)).max(self.cursor);
        self.slots[(slot % SLOTS) as usize].push(Entry { due_ms, item });
        self.len += 1;
    }

    /// Moves everything due at `now_ms` to `due`.
    pub fn turn(&mut self, now_ms: u32, due: &mut Vec<T>) {
        let last = now_ms / SLOT_MS;
        if self.len > 0 {
            let turns = last.saturating_sub(self.cursor).saturating_add(1).min(SLOTS);
            for slot in (0..turns).map(|step| last.wrapping_sub(step)) {
                self.take_due(slot, now_ms, due);
            }
        }
        self.cursor = self.cursor.max(last);
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How long a poller may sleep at most, if anything waits: until the next slot that holds something.
    #[must_use]
    pub fn patience_ms(&self) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        let filled = |step: &u32| !self.slots[(self.cursor.wrapping_add(*step) % SLOTS) as usize].is_empty();
        Some((0..SLOTS).find(filled).unwrap_or(0) * SLOT_MS)
    }

    /// Forgets all entries.
    pub fn clear(&mut self) {
        self.slots.iter_mut().for_each(|slot| *slot = Vec::new());
        self.len = 0;
    }

    fn take_due(&mut self, slot: u32, now_ms: u32, due: &mut Vec<T>) {
        let entries = &mut self.slots[(slot % SLOTS) as usize];
        let before = entries.len();
        due.extend(entries.extract_if(.., |entry| entry.due_ms <= now_ms).map(|entry| entry.item));
        self.len -= before - entries.len();
        if entries.is_empty() && entries.capacity() > 64 {
            *entries = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_early_and_nothing_is_forgotten() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut wheel = Wheel::new(100);
        for _ in 0..2_000 {
            let due = random.u32(0..20_000);
            wheel.insert(due, due);
        }
        let (mut now, mut seen) = (100, 0);
        while !wheel.is_empty() {
            let mut due = Vec::new();
            wheel.turn(now, &mut due);
            assert!(due.iter().all(|&at| at <= now));
            assert!(due.iter().all(|&at| at <= 100 || now - at < 400), "late at {now}: {due:?}");
            seen += due.len();
            now += random.u32(1..300);
            assert!(now < 30_000);
        }
        assert_eq!(seen, 2_000);
    }

    #[test]
    fn a_long_pause_turns_every_slot() {
        let mut wheel = Wheel::new(0);
        (0..4_000).for_each(|at| wheel.insert(at, at));
        let mut due = Vec::new();
        wheel.turn(1_000_000, &mut due);
        assert_eq!(due.len(), 4_000);
    }
}

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
    slots: Vec<Slot<T>>,
    /// The next slot time to be turned, in slots since time 0.
    cursor: u32,
    len: usize,
}

struct Slot<T> {
    entries: Vec<Entry<T>>,
    /// The time of the first of them that comes due.
    earliest_ms: u32,
}

struct Entry<T> {
    due_ms: u32,
    item: T,
}

impl<T> Wheel<T> {
    /// An empty wheel that begins at `now_ms`.
    #[must_use]
    pub fn new(now_ms: u32) -> Self {
        let slots = (0..SLOTS).map(|_| Slot::empty()).collect();
        Self { slots, cursor: now_ms / SLOT_MS, len: 0 }
    }

    /// Sets `item` to come due at `due_ms`, or at the next turn if that has passed.
    pub fn insert(&mut self, due_ms: u32, item: T) {
        let slot = (due_ms.div_ceil(SLOT_MS)).max(self.cursor);
        let slot = &mut self.slots[(slot % SLOTS) as usize];
        slot.entries.push(Entry { due_ms, item });
        slot.earliest_ms = slot.earliest_ms.min(due_ms);
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

    /// How long a poller may sleep at most, if anything waits: until the next entry is due, or for a round.
    #[must_use]
    pub fn patience_ms(&self) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        let due = |step: &u32| {
            let slot = self.cursor.wrapping_add(*step);
            self.slots[(slot % SLOTS) as usize].earliest_ms <= slot.saturating_mul(SLOT_MS)
        };
        Some((0..SLOTS).find(due).unwrap_or(SLOTS) * SLOT_MS)
    }

    /// Forgets all entries.
    pub fn clear(&mut self) {
        self.slots.iter_mut().for_each(|slot| *slot = Slot::empty());
        self.len = 0;
    }

    fn take_due(&mut self, slot: u32, now_ms: u32, due: &mut Vec<T>) {
        let slot = &mut self.slots[(slot % SLOTS) as usize];
        if slot.earliest_ms > now_ms {
            return;
        }
        let before = slot.entries.len();
        due.extend(slot.entries.extract_if(.., |entry| entry.due_ms <= now_ms).map(|entry| entry.item));
        self.len -= before - slot.entries.len();
        slot.earliest_ms = slot.entries.iter().map(|entry| entry.due_ms).min().unwrap_or(u32::MAX);
        if slot.entries.is_empty() && slot.entries.capacity() > 64 {
            *slot = Slot::empty();
        }
    }
}

impl<T> Slot<T> {
    fn empty() -> Self {
        Self { entries: Vec::new(), earliest_ms: u32::MAX }
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

    #[test]
    fn patience_ends_when_the_next_entry_is_due_and_not_before() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut wheel = Wheel::new(0);
        (0..3_000).for_each(|_| wheel.insert(random.u32(1..30_000), ()));
        let (mut now, mut turns, mut due) = (0, 0, Vec::new());
        while let Some(patience) = wheel.patience_ms() {
            now += patience;
            turns += 1;
            let before = due.len();
            wheel.turn(now, &mut due);
            assert!(due.len() > before || patience == 1024, "woken for nothing at {now}");
        }
        assert!(due.len() == 3_000 && turns <= 3_000);
    }
}

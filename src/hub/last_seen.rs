//! When users who are gone were last seen, for a bounded number of them: of more, the oldest are forgotten.
//!
//! An entry is 16 bytes and a place in a hash table (about 6 bytes); names are their keyed hashes.

use crate::base::table::Table;
use crate::base::tick::Tick;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct LastSeen {
    bound: usize,
    table: Table,
    ring: Vec<(u64, Tick)>,
    /// The oldest entry, once the ring is full.
    next: usize,
}

impl LastSeen {
    /// An empty memory of at most `bound` users. It takes memory as it fills.
    pub(crate) fn new(bound: usize) -> Self {
        Self { bound, table: Table::new(), ring: Vec::new(), next: 0 }
    }

    /// The user behind `hash` was seen at `tick`.
    pub(crate) fn remember(&mut self, hash: u64, tick: Tick) {
        if let Some(place) = self.find(hash) {
            self.ring[place].1 = self.ring[place].1.max(tick);
            return;
        }
        if self.ring.len() < self.bound {
            self.ring.push((hash, tick));
            return self.enter(self.ring.len() - 1);
        }
        let Some(&(oldest, _)) = self.ring.get(self.next) else { return };
        let ring = &self.ring;
        self.table.remove(oldest, |place| ring[place as usize].0 == oldest, |place| ring[place as usize].0);
        let place = self.next;
        self.ring[place] = (hash, tick);
        self.next = (self.next + 1) % self.ring.len();
        self.enter(place);
    }

    /// When the user was last seen, if that is still known.
    pub(crate) fn get(&self, hash: u64) -> Option<Tick> {
        self.find(hash).map(|place| self.ring[place].1)
    }

    /// Bytes of memory held.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.ring.capacity() * size_of::<(u64, Tick)>()
    }

    fn find(&self, hash: u64) -> Option<usize> {
        self.table.find(hash, |place| self.ring[place as usize].0 == hash).map(|place| place as usize)
    }

    fn enter(&mut self, place: usize) {
        let ring = &self.ring;
        self.table.insert(ring[place].0, place as u32, |place| ring[place as usize].0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_beyond_the_bound() {
        let mut memory = LastSeen::new(3);
        for (hash, tick) in [(1, 10), (2, 11), (3, 12), (1, 15), (1, 14), (4, 16)] {
            memory.remember(hash, Tick(tick));
        }
        assert_eq!(memory.get(1), None, "its place was the oldest");
        assert_eq!([2, 3, 4].map(|hash| memory.get(hash)), [11, 12, 16].map(|tick| Some(Tick(tick))));
        memory.remember(4, Tick(3));
        assert_eq!(memory.get(4), Some(Tick(16)), "time does not go back");
        for hash in 5..100 {
            memory.remember(hash, Tick(20));
        }
        assert_eq!((memory.ring.len(), memory.table.len()), (3, 3));
        assert_eq!(memory.get(99), Some(Tick(20)));
    }

    #[test]
    fn without_a_bound_nothing_is_kept() {
        let mut memory = LastSeen::new(0);
        memory.remember(1, Tick(1));
        assert_eq!((memory.get(1), memory.ring.capacity()), (None, 0));
    }
}

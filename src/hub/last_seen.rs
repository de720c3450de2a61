//! When users who are gone were last seen, for a bounded number of them: of more, those are forgotten whom nothing was
//! heard of for the longest time.
//!
//! An entry is 24 bytes and a place in a hash table (about 6 bytes); names are their keyed hashes. The entries are a list
//! from the one that was remembered first to the one that was remembered last.

use crate::base::table::Table;
use crate::base::tick::Tick;

/// Means "none" in the links of the list.
const NONE: u32 = u32::MAX;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct LastSeen {
    bound: usize,
    table: Table,
    entries: Vec<Entry>,
    oldest: u32,
    newest: u32,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    tick: Tick,
    older: u32,
    newer: u32,
}

impl LastSeen {
    /// An empty memory of at most `bound` users. It takes memory as it fills.
    pub(crate) fn new(bound: usize) -> Self {
        let bound = bound.min(NONE as usize);
        Self { bound, table: Table::new(), entries: Vec::new(), oldest: NONE, newest: NONE }
    }

    /// The user behind `hash` was seen at `tick`.
    pub(crate) fn remember(&mut self, hash: u64, tick: Tick) {
        if let Some(place) = self.find(hash) {
            let known = &mut self.entries[place as usize].tick;
            *known = tick.max(*known);
            self.unlink(place);
            return self.link_newest(place);
        }
        let place = if self.entries.len() < self.bound {
            self.entries.push(Entry { hash, tick, older: NONE, newer: NONE });
            self.entries.len() as u32 - 1
        } else if self.oldest != NONE {
            let place = self.oldest;
            self.unlink(place);
            let (entries, old) = (&self.entries, self.entries[place as usize].hash);
            self.table.remove(old, |other| other == place, |other| entries[other as usize].hash);
            self.entries[place as usize] = Entry { hash, tick, older: NONE, newer: NONE };
            place
        } else {
            return;
        };
        self.link_newest(place);
        let entries = &self.entries;
        self.table.insert(hash, place, |place| entries[place as usize].hash);
    }

    /// When the user was last seen, if that is still known.
    pub(crate) fn get(&self, hash: u64) -> Option<Tick> {
        self.find(hash).map(|place| self.entries[place as usize].tick)
    }

    /// Bytes of memory held.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.entries.capacity() * size_of::<Entry>()
    }

    fn find(&self, hash: u64) -> Option<u32> {
        self.table.find(hash, |place| self.entries[place as usize].hash == hash)
    }

    fn unlink(&mut self, place: u32) {
        let Entry { older, newer, .. } = self.entries[place as usize];
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
        match self.entries.get_mut(newer as usize) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
    }

    fn link_newest(&mut self, place: u32) {
        let former = std::mem::replace(&mut self.newest, place);
        match self.entries.get_mut(former as usize) {
            Some(entry) => entry.newer = place,
            None => self.oldest = place,
        }
        let entry = &mut self.entries[place as usize];
        (entry.older, entry.newer) = (former, NONE);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_oldest_are_forgotten_beyond_the_bound() {
        let mut memory = LastSeen::new(3);
        for (hash, tick) in [(1, 10), (2, 11), (3, 12), (1, 15), (1, 14), (4, 16)] {
            memory.remember(hash, Tick(tick));
        }
        assert_eq!(memory.get(2), None, "of the others something was heard since");
        assert_eq!([1, 3, 4].map(|hash| memory.get(hash)), [15, 12, 16].map(|tick| Some(Tick(tick))));
        memory.remember(4, Tick(3));
        assert_eq!(memory.get(4), Some(Tick(16)), "time does not go back");
        for hash in 5..100 {
            memory.remember(hash, Tick(20));
        }
        assert_eq!((memory.entries.len(), memory.table.len()), (3, 3));
        assert_eq!(memory.get(99), Some(Tick(20)));
    }

    #[test]
    fn without_a_bound_nothing_is_kept() {
        let mut memory = LastSeen::new(0);
        memory.remember(1, Tick(1));
        assert_eq!((memory.get(1), memory.entries.capacity()), (None, 0));
    }

    proptest! {
        #[test]
        fn agrees_with_a_list(bound in 1..12_usize, steps in prop::collection::vec(0..20_u64, 0..300)) {
            let (mut memory, mut model) = (LastSeen::new(bound), Vec::<(u64, Tick)>::new());
            for (tick, hash) in (1..).zip(steps) {
                memory.remember(hash, Tick(tick));
                model.retain(|(known, _)| *known != hash);
                model.push((hash, Tick(tick)));
                if model.len() > bound {
                    model.remove(0);
                }
                for hash in 0..20 {
                    let expected = model.iter().find(|(known, _)| *known == hash).map(|(_, tick)| *tick);
                    prop_assert_eq!(memory.get(hash), expected);
                }
            }
            prop_assert_eq!((memory.entries.len(), memory.table.len()), (model.len(), model.len()));
        }
    }
}

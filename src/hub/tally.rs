//! How often each key counts: the users of a channel, by their keyed hash, from one to millions.
//!
//! A hash table that doubles moves everything it holds: with a million users 22 ms, for which a shard would serve nobody
//! (measured). So beyond [`SMALL`] keys they are spread over [`PARTS`] tables, of which one at a time grows.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasherDefault;

use crate::hub::home::Keyed;

/// Keys up to which one table does.
const SMALL: usize = 4096;
/// Tables beyond.
const PARTS: usize = 64;
/// Bits of a key that choose the table: hash tables go by its lowest and its seven highest bits.
const PART_SHIFT: u32 = 48;
/// A table gives memory back when it has room for so many times what it holds.
const SPARSE: usize = 8;

type Part = HashMap<u64, u32, BuildHasherDefault<Keyed>>;

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// What counts, unless it is spread.
    few: Part,
    many: Option<Box<Many>>,
}

#[derive(Debug)]
struct Many {
    parts: [Part; PARTS],
    keys: usize,
}

impl Tally {
    /// Different keys.
    pub(crate) fn len(&self) -> usize {
        self.many.as_ref().map_or(self.few.len(), |many| many.keys)
    }

    /// True if the key counts at least once.
    pub(crate) fn contains(&self, key: u64) -> bool {
        self.many.as_ref().map_or(&self.few, |many| &many.parts[part_of(key)]).contains_key(&key)
    }

    /// The key counts once more. O(1), but for one step of O([`SMALL`]) and the growth of one table in [`PARTS`].
    pub(crate) fn add(&mut self, key: u64) {
        if self.many.is_none() && self.few.len() == SMALL {
            self.spread();
        }
        let Some(many) = &mut self.many else {
            *self.few.entry(key).or_insert(0) += 1;
            return;
        };
        let count = many.parts[part_of(key)].entry(key).or_insert(0);
        many.keys += usize::from(*count == 0);
        *count += 1;
    }

    /// The key counts once less. O(1) like [`Self::add`]; the last one gives all memory back.
    pub(crate) fn take(&mut self, key: u64) {
        let Some(many) = &mut self.many else {
            take_from(&mut self.few, key);
            return;
        };
        many.keys -= usize::from(take_from(&mut many.parts[part_of(key)], key));
        if many.keys == 0 {
            self.many = None;
        }
    }

    /// Bytes of memory held, but for itself.
    pub(crate) fn memory_bytes(&self) -> usize {
        let many = self.many.as_ref();
        bytes_of(&self.few)
            + many.map_or(0, |many| size_of::<Many>() + many.parts.iter().map(bytes_of).sum::<usize>())
    }

    fn spread(&mut self) {
        let mut many =
            Box::new(Many { parts: std::array::from_fn(|_| Part::default()), keys: self.few.len() });
        for (key, count) in std::mem::take(&mut self.few) {
            many.parts[part_of(key)].insert(key, count);
        }
        self.many = Some(many);
    }
}

fn part_of(key: u64) -> usize {
    (key >> PART_SHIFT) as usize % PARTS
}

/// True if the key has counted for the last time.
fn take_from(part: &mut Part, key: u64) -> bool {
    let Entry::Occupied(mut count) = part.entry(key) else { return false };
    *count.get_mut() -= 1;
    if *count.get() > 0 {
        return false;
    }
    count.remove();
    if part.is_empty() {
        *part = Part::default();
    } else if part.capacity() > SPARSE * part.len().max(SPARSE) {
        part.shrink_to(2 * part.len());
    }
    true
}

/// A table has 8 places for 7 entries, and a tag for each.
fn bytes_of(part: &Part) -> usize {
    part.capacity() * 8 / 7 * (size_of::<(u64, u32)>() + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::rng::Rng;

    fn key(rng: &mut Rng, of: u32) -> u64 {
        u64::from(rng.below(of)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn it_agrees_with_a_plain_map() {
        for (keys, steps) in [(50, 5_000), (20_000, 60_000)] {
            let (mut tally, mut plain, mut rng) = (Tally::default(), BTreeMap::new(), Rng::new(7));
            for step in 0..steps {
                let key = key(&mut rng, keys);
                // It grows, and then it shrinks to nothing.
                if rng.below(steps) > step {
                    tally.add(key);
                    *plain.entry(key).or_insert(0_u32) += 1;
                } else {
                    tally.take(key);
                    if let Some(count) = plain.get_mut(&key) {
                        *count -= 1;
                        if *count == 0 {
                            plain.remove(&key);
                        }
                    }
                }
                assert_eq!((tally.len(), tally.contains(key)), (plain.len(), plain.contains_key(&key)));
            }
            for (key, count) in plain {
                (0..count).for_each(|_| tally.take(key));
                assert!(!tally.contains(key));
            }
            assert_eq!((tally.len(), tally.memory_bytes()), (0, 0));
        }
    }

    #[test]
    fn tables_are_small_in_a_large_tally_and_memory_follows_what_counts() {
        let mut tally = Tally::default();
        let keys = || (0..200_000_u64).map(|key| key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        keys().for_each(|key| tally.add(key));
        let largest = tally.many.as_ref().unwrap().parts.iter().map(Part::capacity).max().unwrap();
        assert!(largest <= 4 * 200_000 / PARTS, "{largest}");
        let full = tally.memory_bytes();
        keys().skip(2_000).for_each(|key| tally.take(key));
        assert!(
            tally.len() == 2_000 && tally.memory_bytes() < full / 8,
            "{} of {full}",
            tally.memory_bytes()
        );
    }
}

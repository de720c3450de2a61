//! Tests of the table.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// A hash good enough for tests: the finaliser of SplitMix64.
fn mix(key: u64) -> u64 {
    let mut hash = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// A table whose records are the keys themselves, under one of several hash functions.
struct Subject {
    table: Table,
    keys: Vec<u64>,
    hash: fn(u64) -> u64,
}

impl Subject {
    fn new(hash: fn(u64) -> u64) -> Self {
        Self { table: Table::new(), keys: Vec::new(), hash }
    }

    fn insert(&mut self, key: u64) -> u32 {
        let handle = self.keys.len() as u32;
        self.keys.push(key);
        let (keys, hash) = (&self.keys, self.hash);
        self.table.insert(hash(key), handle, |handle| hash(keys[handle as usize]));
        handle
    }

    fn find(&self, key: u64) -> Option<u32> {
        self.table.find((self.hash)(key), |handle| self.keys[handle as usize] == key)
    }

    fn remove(&mut self, key: u64) -> Option<u32> {
        let (keys, hash) = (&self.keys, self.hash);
        self.table.remove(
            hash(key),
            |handle| keys[handle as usize] == key,
            |handle| {
                assert_ne!(keys[handle as usize], key, "the removed record is not asked about");
                hash(keys[handle as usize])
            },
        )
    }
}

/// True if every overflow count that is not stuck is the number of entries that passed its group.
fn counts_are_exact(subject: &Subject) -> bool {
    subject.table.segments.iter().all(|segment| {
        let mut passed = vec![0_usize; segment.groups];
        for at in 0..segment.groups {
            let Group { tags, handles } = segment.group(at);
            for (_, handle) in tags[..SLOTS].iter().zip(handles).filter(|(tag, _)| **tag != FREE) {
                let mut group = segment.home((subject.hash)(subject.keys[*handle as usize]));
                while group != at {
                    passed[group] += 1;
                    group = segment.after(group);
                }
            }
        }
        let counts = (0..segment.groups).map(|group| segment.group(group).tags[OVERFLOW]);
        passed.into_iter().zip(counts).all(|(passed, count)| count == STUCK || usize::from(count) == passed)
    })
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert(u64),
    Remove(u64),
    Find(u64),
}

fn steps(keys: u64) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..keys).prop_map(Step::Insert),
        3 => (0..keys).prop_map(Step::Remove),
        1 => (0..keys).prop_map(Step::Find),
    ];
    prop::collection::vec(step, 0..800)
}

fn agrees_with_a_map(steps: Vec<Step>, hash: fn(u64) -> u64) -> Result<(), TestCaseError> {
    let mut subject = Subject::new(hash);
    let mut model = HashMap::new();
    for step in steps {
        match step {
            Step::Insert(key) if model.contains_key(&key) => {}
            Step::Insert(key) => {
                model.insert(key, subject.insert(key));
            }
            Step::Remove(key) => prop_assert_eq!(subject.remove(key), model.remove(&key)),
            Step::Find(key) => prop_assert_eq!(subject.find(key), model.get(&key).copied()),
        }
        prop_assert_eq!(subject.table.len(), model.len());
    }
    prop_assert!(counts_are_exact(&subject));
    for (key, handle) in &model {
        prop_assert_eq!(subject.find(*key), Some(*handle));
    }
    let mut expected: Vec<_> = model.into_values().collect();
    let mut actual: Vec<_> = subject.table.handles().collect();
    expected.sort_unstable();
    actual.sort_unstable();
    prop_assert_eq!(actual, expected);
    Ok(())
}

proptest! {
    #[test]
    fn agrees_with_a_map_under_a_good_hash(steps in steps(300)) {
        agrees_with_a_map(steps, mix)?;
    }

    /// All entries in one segment, home groups and tags few: long ways, many counts.
    #[test]
    fn agrees_with_a_map_under_a_poor_hash(steps in steps(200)) {
        agrees_with_a_map(steps, |key| mix(key % 7) >> 8)?;
    }

    /// Every entry has the same home and the same tag: counts stick.
    #[test]
    fn agrees_with_a_map_under_a_constant_hash(steps in steps(500)) {
        agrees_with_a_map(steps, |_| 42)?;
    }
}

#[test]
fn counts_that_stick_lose_no_entry() {
    let mut subject = Subject::new(|_| u64::MAX);
    for key in 0..2_000 {
        subject.insert(key);
    }
    for key in (0..2_000).step_by(2) {
        assert_eq!(subject.remove(key), Some(key as u32));
    }
    for key in 0..2_000 {
        assert_eq!(subject.find(key).is_some(), key % 2 == 1, "{key}");
    }
}

#[test]
fn bytes_per_entry_stay_near_the_slot_size() {
    let mut subject = Subject::new(mix);
    for key in 0..100_000 {
        subject.insert(key);
        if key >= 20_000 && key % 1_000 == 0 {
            let bytes = subject.table.memory_bytes() as f64 / subject.table.len() as f64;
            assert!(bytes < 6.6, "{bytes} at {key}");
        }
    }
}

#[test]
fn an_emptied_table_gives_its_memory_back() {
    let mut subject = Subject::new(mix);
    let empty = subject.table.memory_bytes();
    for key in 0..50_000 {
        subject.insert(key);
    }
    let full = subject.table.memory_bytes();
    for key in 0..49_000 {
        subject.remove(key);
    }
    assert!(subject.table.memory_bytes() < full / 10, "{} of {full}", subject.table.memory_bytes());
    for key in 49_000..50_000 {
        subject.remove(key);
    }
    assert_eq!(subject.table.memory_bytes(), empty);
}

#[test]
fn replace_moves_a_handle_and_nothing_else() {
    let mut subject = Subject::new(mix);
    for key in 0..100 {
        subject.insert(key);
    }
    subject.keys.push(7);
    assert!(subject.table.replace(mix(7), 7, 100));
    assert!(!subject.table.replace(mix(7), 7, 101));
    assert_eq!(subject.find(7), Some(100));
    assert_eq!(subject.find(8), Some(8));
    assert_eq!(subject.table.len(), 100);
}

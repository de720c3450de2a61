//! The home's register of names: which shards hold what a name stands for.
//!
//! Most names (a user with one session, a personal channel) stand for one thing on one shard: they cost one
//! [`Entry`] of 16 bytes and a place in the hash table. Anything more has a boxed record. Names are found by their
//! keyed 64-bit hash alone. Two names with one hash (2^-64 a pair) share an entry, which costs a shard some mail for
//! a channel it does not have and loses nothing, since shards compare whole names.

use std::num::NonZeroU16;

use slab::Slab;

use crate::base::ids::ShardId;
use crate::base::table::Table;

/// Means that the entry has no boxed record.
const NO_RECORD: u32 = u32::MAX;

/// One name.
#[derive(Debug)]
struct Entry {
    hash: u64,
    record: u32,
    /// Shard number plus one. Not zero, which gives the slab its mark of a free place for nothing.
    shard: NonZeroU16,
    mark: u16,
}

/// Stands for the private entry type of the slab.
#[allow(dead_code, reason = "only its size is looked at")]
enum SlabPlace {
    Free(usize),
    Taken(Entry),
}
const _: () = assert!(size_of::<SlabPlace>() == 16, "a name costs 16 bytes");

/// What is registered under a name.
pub(crate) enum Registered<'a, R> {
    /// Nothing.
    Nothing,
    /// One thing, on this shard, with a mark.
    Single(ShardId, u16),
    /// A boxed record.
    Record(&'a mut R),
}

/// Register of names with boxed records of type `R` where needed.
#[derive(Debug)]
pub(crate) struct Registry<R> {
    table: Table,
    entries: Slab<Entry>,
    records: Slab<Box<R>>,
}

impl<R> Registry<R> {
    pub(crate) fn new() -> Self {
        Self { table: Table::new(), entries: Slab::new(), records: Slab::new() }
    }

    /// What is registered under `hash`.
    pub(crate) fn get(&mut self, hash: u64) -> Registered<'_, R> {
        let Some(place) = self.find(hash) else { return Registered::Nothing };
        let entry = &self.entries[place as usize];
        match self.records.get_mut(entry.record as usize) {
            Some(record) => Registered::Record(record),
            None => Registered::Single(ShardId(entry.shard.get() - 1), entry.mark),
        }
    }

    /// Registers one thing on one shard under a name that has nothing.
    pub(crate) fn insert_single(&mut self, hash: u64, shard: ShardId, mark: u16) {
        self.insert(hash, shard, mark, NO_RECORD);
    }

    /// The record under `hash`, made by `make` from the single thing that stood there, if any.
    pub(crate) fn record(&mut self, hash: u64, make: impl FnOnce(Option<(ShardId, u16)>) -> R) -> &mut R {
        let index = match self.find(hash) {
            Some(place) => {
                let entry = &mut self.entries[place as usize];
                if entry.record == NO_RECORD {
                    let single = (ShardId(entry.shard.get() - 1), entry.mark);
                    entry.record = self.records.insert(Box::new(make(Some(single)))) as u32;
                }
                entry.record
            }
            None => {
                let index = self.records.insert(Box::new(make(None))) as u32;
                self.insert(hash, ShardId(0), 0, index);
                index
            }
        };
        &mut self.records[index as usize]
    }

    /// Gives the record of a name back: it stands for one thing on one shard from here on.
    pub(crate) fn shrink(&mut self, hash: u64, shard: ShardId, mark: u16) {
        let Some(place) = self.find(hash) else { return };
        let entry = &mut self.entries[place as usize];
        let record = std::mem::replace(&mut entry.record, NO_RECORD);
        entry.shard = NonZeroU16::MIN.saturating_add(shard.0);
        entry.mark = mark;
        if record != NO_RECORD {
            self.records.remove(record as usize);
        }
    }

    /// Changes the mark of a single thing.
    pub(crate) fn set_mark(&mut self, hash: u64, mark: u16) {
        if let Some(place) = self.find(hash) {
            self.entries[place as usize].mark = mark;
        }
    }

    /// Forgets the name.
    pub(crate) fn remove(&mut self, hash: u64) {
        let entries = &self.entries;
        let found = self.table.remove(
            hash,
            |place| entries[place as usize].hash == hash,
            |place| entries[place as usize].hash,
        );
        let Some(place) = found else { return };
        let entry = self.entries.remove(place as usize);
        if entry.record != NO_RECORD {
            self.records.remove(entry.record as usize);
        }
        if self.entries.is_empty() {
            (self.entries, self.records) = (Slab::new(), Slab::new());
        }
    }

    /// Names registered.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Places for records, those that are free included.
    pub(crate) fn places(&self) -> usize {
        self.records.capacity()
    }

    /// Looks at the record in place `cursor` (a place may be empty) for a housekeeping round; `None` past the end.
    pub(crate) fn record_at(&mut self, cursor: usize) -> Option<Option<&mut R>> {
        (cursor < self.records.capacity()).then(|| self.records.get_mut(cursor).map(|record| &mut **record))
    }

    /// Bytes of memory held, records' own content not counted.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.table.memory_bytes()
            + self.entries.len() * size_of::<SlabPlace>()
            + self.records.len() * (size_of::<R>() + 16)
    }

    fn find(&self, hash: u64) -> Option<u32> {
        self.table.find(hash, |place| self.entries[place as usize].hash == hash)
    }

    fn insert(&mut self, hash: u64, shard: ShardId, mark: u16, record: u32) {
        let shard = NonZeroU16::MIN.saturating_add(shard.0);
        let place = self.entries.insert(Entry { hash, record, shard, mark }) as u32;
        let entries = &self.entries;
        self.table.insert(hash, place, |place| entries[place as usize].hash);
    }
}

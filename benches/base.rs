//! Cost of the structures in `base` at a million entries. Prints bytes per entry beside the times.
#![allow(missing_docs, reason = "criterion's macros generate public functions")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use millpond::base::arena::{Arena, Handle};
use millpond::base::table::Table;
use siphasher::sip::SipHasher13;

const ENTRIES: u32 = 1_000_000;

/// Users by name, as the hub keeps them: records in an arena, found through a table of hashes.
struct Users {
    table: Table,
    records: Arena,
    hasher: SipHasher13,
}

impl Users {
    fn new() -> Self {
        Self { table: Table::new(), records: Arena::new(), hasher: SipHasher13::new_with_keys(1, 2) }
    }

    fn insert(&mut self, name: &[u8]) {
        let Some(handle) = self.records.alloc(name) else { return };
        let (records, hasher) = (&self.records, &self.hasher);
        self.table.insert(hasher.hash(name), handle.0, |handle| hasher.hash(records.get(Handle(handle))));
    }

    fn find(&self, name: &[u8]) -> Option<u32> {
        self.table.find(self.hasher.hash(name), |handle| self.records.get(Handle(handle)) == name)
    }

    fn remove(&mut self, name: &[u8]) {
        let (records, hasher) = (&self.records, &self.hasher);
        let removed = self.table.remove(
            hasher.hash(name),
            |handle| records.get(Handle(handle)) == name,
            |handle| hasher.hash(records.get(Handle(handle))),
        );
        if let Some(handle) = removed {
            self.records.free(Handle(handle));
        }
    }

    fn filled() -> Self {
        let mut users = Self::new();
        for number in 0..ENTRIES {
            users.insert(name(number).as_bytes());
        }
        users
    }
}

/// A user id of 15 bytes.
fn name(number: u32) -> String {
    format!("user-{number:010}")
}

/// Visits all numbers below [`ENTRIES`] in an order that no cache foresees.
fn scattered(number: u32) -> u32 {
    (u64::from(number) * 611_953 % u64::from(ENTRIES)) as u32
}

fn names(criterion: &mut Criterion) {
    let mut users = Users::filled();
    println!(
        "table: {:.2} B/entry, arena: {:.2} B/record of 15 B, at {ENTRIES}",
        users.table.memory_bytes() as f64 / f64::from(ENTRIES),
        users.records.memory_bytes() as f64 / f64::from(ENTRIES),
    );
    let present: Vec<_> = (0..ENTRIES).map(|number| name(scattered(number))).collect();
    let absent: Vec<_> = (0..ENTRIES).map(|number| name(ENTRIES + scattered(number))).collect();
    let mut at = 0;
    let mut next = move || {
        at = (at + 1) % ENTRIES as usize;
        at
    };
    criterion.bench_function("names/find present", |bench| {
        bench.iter(|| black_box(users.find(present[next()].as_bytes())));
    });
    criterion.bench_function("names/find absent", |bench| {
        bench.iter(|| black_box(users.find(absent[next()].as_bytes())));
    });
    criterion.bench_function("names/remove and insert", |bench| {
        bench.iter(|| {
            let name = present[next()].as_bytes();
            users.remove(name);
            users.insert(name);
        });
    });
    criterion.bench_function("names/fill a million", |bench| {
        bench.iter_batched(|| (), |()| Users::filled(), BatchSize::PerIteration);
    });
}

criterion_group! {
    name = base;
    config = Criterion::default().sample_size(10).without_plots();
    targets = names
}
criterion_main!(base);

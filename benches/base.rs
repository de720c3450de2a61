//! Cost of the structures in `base` at a million entries. Prints bytes per entry beside the times.
#![allow(missing_docs, reason = "criterion's macros generate public functions")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use millpond::base::arena::{Arena, Handle};
use millpond::base::hash::NameHash;
use millpond::base::ids::{ConnKey, ShardId};
use millpond::base::permute::ClientIds;
use millpond::base::table::Table;
use millpond::base::tick::Tick;
use millpond::base::wheel::{Link, Links, Wheel};

const ENTRIES: u32 = 1_000_000;

/// Users by name, as the hub keeps them: records in an arena, found through a table of hashes.
struct Users {
    table: Table,
    records: Arena,
    hasher: NameHash,
}

impl Users {
    fn new() -> Self {
        Self { table: Table::new(), records: Arena::new(), hasher: NameHash::new([1; 16]) }
    }

    fn insert(&mut self, name: &[u8]) {
        let Some(handle) = self.records.alloc(name) else { return };
        let (records, hasher) = (&self.records, &self.hasher);
        self.table.insert(hasher.of(name), handle.0, |handle| hasher.of(records.get(Handle(handle))));
    }

    fn find(&self, name: &[u8]) -> Option<u32> {
        self.table.find(self.hasher.of(name), |handle| self.records.get(Handle(handle)) == name)
    }

    fn remove(&mut self, name: &[u8]) {
        let (records, hasher) = (&self.records, &self.hasher);
        let removed = self.table.remove(
            hasher.of(name),
            |handle| records.get(Handle(handle)) == name,
            |handle| hasher.of(records.get(Handle(handle))),
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

/// Connections as the wheel sees them: a cache line each, the timer somewhere in it.
struct Connections(Vec<[Link; 5]>);

impl Links for Connections {
    fn link(&mut self, slot: u32) -> &mut Link {
        &mut self.0[slot as usize][0]
    }
}

fn timers(criterion: &mut Criterion) {
    let mut connections = Connections(vec![[Link::default(); 5]; ENTRIES as usize]);
    let mut wheel = Wheel::new(Tick(0));
    for number in 0..ENTRIES {
        wheel.arm(&mut connections, scattered(number), Tick(1 + number % 250));
    }
    let mut slot = 0;
    criterion.bench_function("timers/arm anew", |bench| {
        bench.iter(|| {
            slot = (slot + 1) % ENTRIES;
            wheel.arm(&mut connections, scattered(slot), Tick(1 + slot % 250));
        });
    });
    let (mut now, mut work) = (Tick(0), usize::MAX);
    criterion.bench_function("timers/expire and arm for 25 s", |bench| {
        bench.iter(|| {
            let slot = loop {
                if let Some(slot) = wheel.pop(now, &mut work, &mut connections) {
                    break slot;
                }
                now = now.after(1);
            };
            wheel.arm(&mut connections, slot, now.after(250));
        });
    });
}

fn ids(criterion: &mut Criterion) {
    let ids = ClientIds::new([1; 16]);
    let mut slot = 0;
    criterion.bench_function("ids/encode", |bench| {
        bench.iter(|| {
            slot += 1;
            black_box(ids.encode(ConnKey { shard: ShardId(1), slot, generation: slot }))
        });
    });
    let id = ids.encode(ConnKey { shard: ShardId(1), slot: 2, generation: 3 });
    criterion.bench_function("ids/decode", |bench| {
        bench.iter(|| black_box(ids.decode(black_box(id.as_str()))));
    });
}

criterion_group! {
    name = base;
    config = Criterion::default().sample_size(10).without_plots();
    targets = names, timers, ids
}
criterion_main!(base);

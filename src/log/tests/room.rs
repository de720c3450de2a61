//! A full disk: what makes room is taken, and storing goes on once there is some (OPERATIONS.md, "When the disk is full").

use super::super::engine::Engine;
use super::super::error::{AppendError, StorageError};
use super::super::fake::{FakeDisk, Fate, Fault, Operation};
use super::super::record::Class;
use super::super::request::{Append, AppendRequest};
use super::super::segment::{APPEND_RESERVE, COMPACT_RESERVE};
use super::super::storage::Storage;
use super::{NOW, acknowledge, message, numbered, open, send, settings, texts};

/// What is held back, and four segments.
const CAPACITY: u64 = 6 * (16 << 10);
const FULL: AppendError = AppendError::NotStored(StorageError::DiskFull);

fn purge(user: &str) -> AppendRequest {
    AppendRequest { token: 0, append: Append::Purge { class: Class::Mailbox, name: user.to_owned() } }
}

fn long(n: u64) -> String {
    format!("{n}:{}", "x".repeat(1500))
}

fn start(disk: &FakeDisk) -> Engine {
    disk.set_capacity(Some(CAPACITY));
    open(disk)
}

/// Sends to each user in turn until the disk is full, and says how many each has.
fn fill(engine: &mut Engine, users: &[&str]) -> u64 {
    for n in 1.. {
        for user in users {
            match send(engine, user, &long(n)).result {
                Ok(stored) => assert_eq!(stored.offset, n),
                Err(error) => {
                    assert_eq!(error, FULL);
                    return n - 1;
                }
            }
        }
    }
    unreachable!("the disk has an end")
}

fn offsets(engine: &Engine, user: &str) -> Vec<u64> {
    texts(engine, user, 0, 100).into_iter().map(|(offset, _)| offset).collect()
}

#[test]
fn a_purge_makes_room_on_a_full_disk_and_storing_goes_on() {
    let disk = FakeDisk::default();
    let mut engine = start(&disk);
    let kept = fill(&mut engine, &["alice", "bob"]);
    assert!(kept >= 4);
    // Also what is longer than the end of the last segment, and again and again.
    for _ in 0..12 {
        assert!(engine.append(vec![purge("alice")], NOW).unwrap()[0].result.is_ok());
        assert_eq!(send(&mut engine, "bob", &long(0)).result, Err(FULL), "not before room was made");
    }
    assert_eq!(engine.reader().status().fault, Some(StorageError::DiskFull));
    let report = engine.maintenance().pass(NOW).unwrap();
    assert!(report.compacted + report.removed > 0, "{report:?}");
    engine.look_for_room();
    assert_eq!(engine.reader().status().fault, None);
    assert_eq!(send(&mut engine, "alice", &long(0)).result.unwrap().offset % 2, (kept + 1) % 2);
    let bob: Vec<u64> = offsets(&engine, "bob");
    assert_eq!(bob.len() as u64, kept.min(bob.len() as u64));
    drop(engine);
    assert_eq!(offsets(&start(&disk), "bob"), bob);
}

/// Everybody acknowledges a little, and no segment falls below the usual mark: still there is something to gain.
#[test]
fn little_that_is_done_with_is_enough_on_a_full_disk() {
    let disk = FakeDisk::default();
    let mut engine = start(&disk);
    let kept = fill(&mut engine, &["alice", "bob", "carol"]);
    let acks = engine.append(vec![acknowledge("bob", "", kept)], NOW).unwrap();
    assert!(acks[0].result.is_ok());
    for _ in 0..3 {
        let _ = engine.maintenance().pass(NOW);
        engine.look_for_room();
    }
    assert!(send(&mut engine, "dave", &long(1)).result.is_ok(), "{:?}", disk.list());
    assert!(offsets(&engine, "alice").len() as u64 >= kept && offsets(&engine, "bob").is_empty());
}

#[test]
fn what_fits_goes_on_into_the_last_segment_and_refusals_are_answered_in_order() {
    let disk = FakeDisk::default();
    let mut engine = start(&disk);
    let kept = fill(&mut engine, &["alice"]);
    let requests = vec![
        message("alice", "small"),
        message("alice", &long(1)),
        message("bob", "small"),
        acknowledge("alice", "", 1),
        message("bob", &long(2)),
    ];
    let results: Vec<_> = engine.append(requests, NOW).unwrap().into_iter().map(|ack| ack.result).collect();
    assert_eq!((results[0].unwrap().offset, results[1], results[4]), (kept + 1, Err(FULL), Err(FULL)));
    assert_eq!((results[2].unwrap().offset, results[3].unwrap().offset), (1, 1));
    drop(engine);
    let engine = start(&disk.killed());
    assert_eq!(offsets(&engine, "alice"), (2..=kept + 1).collect::<Vec<_>>());
    assert_eq!(texts(&engine, "bob", 0, 10), [(1, "small".to_owned())]);
}

/// Whatever was answered before the power cut holds after it, and the recipe works from there.
#[test]
fn a_crash_at_any_point_of_making_room_loses_nothing_and_leaves_the_way_open() {
    let disk = FakeDisk::recording();
    let mut engine = start(&disk);
    let kept = fill(&mut engine, &["alice", "bob"]);
    let full = disk.recorded();
    let mut answered = Vec::new();
    for user in ["alice", "carol", "alice"] {
        for _ in 0..12 {
            assert!(engine.append(vec![purge(user)], NOW).unwrap()[0].result.is_ok());
        }
        answered.push(disk.recorded());
        let _ = engine.maintenance().pass(NOW);
        engine.look_for_room();
    }
    let sending = disk.recorded();
    assert!(send(&mut engine, "alice", "after").result.is_ok());
    let last = disk.recorded();
    drop(engine);
    let operations = disk.trace();
    let renamed = |from: &str| {
        operations.iter().any(|op| matches!(op, Operation::Rename { from: name, .. } if name == from))
    };
    let removed =
        |gone: &str| operations.iter().any(|op| matches!(op, Operation::Remove { name } if name == gone));
    assert!(renamed(APPEND_RESERVE) && removed(COMPACT_RESERVE), "both were needed");
    let replayed = FakeDisk::default();
    let mut images = 0;
    for (point, operation) in operations.iter().enumerate() {
        replayed.play(operation);
        let done = point + 1;
        if done < full {
            continue;
        }
        for names in 0..=replayed.pending_names() {
            for pattern in 0..3 {
                let fate = |n: usize| match (pattern, n % 2) {
                    (0, _) | (2, 0) => Fate::Kept,
                    _ => Fate::Lost,
                };
                let image = replayed.crash(names, fate);
                let context = format!("operation {done} of {last}, {names} names, pattern {pattern}");
                let mut engine = start(&image);
                let bob = offsets(&engine, "bob");
                assert_eq!(bob[..kept as usize], (1..=kept).collect::<Vec<_>>(), "{context}");
                let alice = offsets(&engine, "alice");
                if done >= answered[0] && done <= sending {
                    assert_eq!(alice, [] as [u64; 0], "{context}");
                }
                assert!(engine.append(vec![purge("alice")], NOW).unwrap()[0].result.is_ok(), "{context}");
                for _ in 0..4 {
                    let _ = engine.maintenance().pass(NOW);
                    engine.look_for_room();
                }
                assert!(send(&mut engine, "dave", &long(1)).result.is_ok(), "{context}");
                images += 1;
            }
        }
    }
    assert!(images > 50, "{images}");
}

/// A later segment whose name may come back after a power cut must not void what was acknowledged.
#[test]
fn a_segment_that_failed_with_its_name_given_voids_nothing() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    let mut stored = 0;
    while disk.list().unwrap().iter().filter(|name| name.ends_with(".seg")).count() < 2 {
        stored += 1;
        send(&mut engine, "alice", &format!("m{stored}")).result.unwrap();
    }
    disk.inject(Fault::SyncDirectory(StorageError::Device), 0);
    let failed = loop {
        match send(&mut engine, "alice", &format!("m{}", stored + 1)).result {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(failed, AppendError::NotStored(StorageError::Device));
    stored += 1;
    send(&mut engine, "alice", &format!("m{stored}")).result.unwrap();
    for names in 0..=disk.pending_names() {
        let image = disk.crash(names, |_| Fate::Kept);
        assert_eq!(texts(&open(&image), "alice", 0, 1000), numbered(1, stored), "{names} names");
    }
}

#[test]
fn what_is_held_back_is_taken_over_and_fits_the_segments() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    send(&mut engine, "alice", "m1").result.unwrap();
    drop(engine);
    disk.record();
    let mut engine = open(&disk);
    send(&mut engine, "alice", "m2").result.unwrap();
    let created =
        |disk: &FakeDisk| disk.trace().iter().filter(|op| matches!(op, Operation::Create { .. })).count();
    assert_eq!(created(&disk), 0, "nothing is made anew");
    drop(engine);
    disk.put(COMPACT_RESERVE, vec![0; 4096]);
    let mut engine = open(&disk);
    send(&mut engine, "alice", "m3").result.unwrap();
    assert_eq!(disk.contents(COMPACT_RESERVE).unwrap().len(), 16 << 10);
    assert_eq!(settings().segment_bytes, 16 << 10);
}

/// Devices that are seen for the first time free nothing: however many come, there is room for what does.
#[test]
fn introductions_leave_what_is_held_back_alone() {
    let disk = FakeDisk::default();
    let mut engine = start(&disk);
    fill(&mut engine, &["alice", "bob"]);
    let introduce = |device: u32| AppendRequest {
        token: 0,
        append: Append::Introduce { user: "alice".to_owned(), device: device.to_string(), through: 0 },
    };
    let refused = (0..8).any(|device| {
        let tail = (0..200).find(|n| {
            let result = engine.append(vec![introduce(device)], NOW).unwrap()[0].result;
            assert!(result.is_ok() || result == Err(FULL), "{n}: {result:?}");
            result.is_err()
        });
        tail.is_some()
    });
    assert!(refused);
    for _ in 0..12 {
        assert!(engine.append(vec![purge("bob")], NOW).unwrap()[0].result.is_ok());
    }
}

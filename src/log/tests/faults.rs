//! Faults of the disk, one at a time.

use super::super::Log;
use super::super::body::Body;
use super::super::engine::Engine;
use super::super::error::{AppendError, OpenError, ReadError, StorageError};
use super::super::fake::{FakeDisk, Fate, Fault};
use super::super::record::{Class, Header, Kind, Sequence};
use super::super::request::Append;
use super::super::segment::segment_name;
use super::super::settings::{LogSettings, SyncPolicy};
use super::super::storage::Storage;
use super::{NOW, message, numbered, open, send, settings, texts};

#[test]
fn a_failed_sync_gives_the_segment_up_and_nothing_of_it_comes_back() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    send(&mut engine, "alice", "m1");
    disk.inject(Fault::Sync(StorageError::Device), 0);
    let failed = send(&mut engine, "alice", "lost").result;
    assert_eq!(failed, Err(AppendError::NotStored(StorageError::Device)));
    assert_eq!(send(&mut engine, "alice", "m2").result.unwrap().offset, 2);
    assert_eq!(engine.reader().status().segments_given_up, 1);
    for image in [disk.killed(), disk.crash(99, |_| Fate::Kept), disk.crash(99, |_| Fate::Lost)] {
        assert_eq!(texts(&open(&image), "alice", 0, 10), numbered(1, 2));
    }
}

#[test]
fn a_failure_that_cannot_be_sealed_off_says_so() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    send(&mut engine, "alice", "m1");
    disk.inject(Fault::Sync(StorageError::Device), 0);
    disk.inject(Fault::Create(StorageError::DiskFull), 0);
    // What is held back fails too.
    disk.inject(Fault::Sync(StorageError::Device), 0);
    assert_eq!(send(&mut engine, "alice", "?").result, Err(AppendError::Uncertain(StorageError::Device)));
    assert_eq!(send(&mut engine, "alice", "m2").result.unwrap().offset, 2);
}

#[test]
fn a_full_disk_refuses_and_space_makes_it_go_on() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    disk.set_capacity(Some(40 << 10));
    let mut stored = 0;
    let refused = loop {
        match send(&mut engine, "alice", &format!("m{}", stored + 1)).result {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, AppendError::NotStored(StorageError::DiskFull));
    assert_eq!(engine.reader().status().fault, Some(StorageError::DiskFull));
    assert_eq!(texts(&engine, "alice", 0, 1000), numbered(1, stored));
    disk.set_capacity(None);
    assert_eq!(send(&mut engine, "alice", &format!("m{}", stored + 1)).result.unwrap().offset, stored + 1);
    assert_eq!(engine.reader().status().fault, None);
    assert_eq!(texts(&open(&disk.killed()), "alice", 0, 1000), numbered(1, stored + 1));
}

#[test]
fn a_partial_write_is_voided_even_if_it_reached_the_disk() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    send(&mut engine, "alice", "m1");
    disk.inject(Fault::Write { written: 512, error: StorageError::DiskFull }, 0);
    let requests = (0..20).map(|n| message("alice", &format!("ghost{n}"))).collect();
    for ack in engine.append(requests, NOW).unwrap() {
        assert_eq!(ack.result, Err(AppendError::NotStored(StorageError::DiskFull)));
    }
    send(&mut engine, "alice", "m2");
    assert_eq!(texts(&open(&disk.killed()), "alice", 0, 10), numbered(1, 2));
}

/// The second record of a lost group lies exactly where the next run's second record would be, with its number.
#[test]
fn what_was_cut_does_not_come_back_behind_what_follows() {
    let text = |first: char| {
        let body = |length| {
            Body::Message(match message("alice", &format!("{first}{}", "x".repeat(length))).append {
                Append::Message { message, .. } => message,
                _ => unreachable!(),
            })
        };
        // One record, one sector.
        let length = (0..424).find(|&length| body(length).encode().len() >= 417).unwrap();
        format!("{first}{}", "x".repeat(length))
    };
    let disk = FakeDisk::recording();
    let mut engine = open(&disk);
    engine.append(vec![message("alice", &text('a')), message("alice", &text('b'))], NOW).unwrap();
    let unsynced = FakeDisk::default();
    let operations = disk.trace();
    for operation in &operations[..operations.len() - 1] {
        unsynced.play(operation);
    }
    assert_eq!(unsynced.pending_sectors(), 2);
    let image = unsynced.crash(0, |sector| if sector == 0 { Fate::Lost } else { Fate::Kept });
    let mut engine = open(&image);
    assert_eq!(texts(&engine, "alice", 0, 10), []);
    send(&mut engine, "alice", &text('c'));
    drop(engine);
    assert_eq!(texts(&open(&image.killed()), "alice", 0, 10), [(1, text('c'))]);
}

#[test]
fn damage_below_the_watermark_is_an_alarm_and_above_it_a_tail() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    for n in 1..=5 {
        send(&mut engine, "alice", &format!("m{n}"));
    }
    drop(engine);
    let name = segment_name(1);
    let sector = |n: usize| 1024 + 512 * n;
    let middle = disk.killed();
    middle.flip(&name, sector(2) + 100, 1);
    let (engine, report) = Engine::open(Box::new(middle.clone()), settings(), NOW).unwrap();
    assert_eq!(report.damage.len(), 1);
    assert_eq!((report.damage[0].first, report.damage[0].last), (Sequence(3), Sequence(3)));
    assert_eq!(report.quarantined, [1]);
    assert!(middle.contents("0000000000000001.seg.quarantined").is_some());
    let rest: Vec<_> = texts(&engine, "alice", 0, 2).into_iter().map(|m| m.0).collect();
    assert_eq!(rest, [1, 2, 4, 5]);
    let newest = disk.killed();
    newest.flip(&name, sector(4) + 100, 1);
    let (engine, report) = Engine::open(Box::new(newest), settings(), NOW).unwrap();
    assert_eq!((report.damage.len(), report.tail.is_some()), (0, true));
    assert_eq!(texts(&engine, "alice", 0, 2), numbered(1, 4));
}

#[test]
fn an_idle_log_notes_its_watermark_once() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    send(&mut engine, "alice", "m1");
    disk.record();
    engine.note_watermark(NOW);
    assert!(disk.recorded() > 0);
    disk.record();
    engine.note_watermark(NOW);
    assert_eq!(disk.recorded(), 0);
    drop(engine);
    let image = disk.killed();
    image.flip(&segment_name(1), 1024 + 100, 1);
    let (_, report) = Engine::open(Box::new(image), settings(), NOW).unwrap();
    assert_eq!(report.damage.len(), 1);
}

/// Under `sync = os` a power cut takes what was not written back, and that is no damage.
#[test]
fn weaker_policies_lose_a_suffix_and_raise_no_alarm() {
    for sync in [SyncPolicy::Os, SyncPolicy::Interval(std::time::Duration::from_secs(1))] {
        let disk = FakeDisk::default();
        let settings = LogSettings { sync, ..settings() };
        let mut engine = Engine::open(Box::new(disk.clone()), settings, NOW).unwrap().0;
        for n in 1..=60 {
            send(&mut engine, "alice", &format!("m{n}"));
            if n == 40 {
                engine.sync().unwrap();
            }
        }
        assert_eq!(texts(&engine, "alice", 0, 100), numbered(1, 60));
        assert_eq!(texts(&open(&disk.killed()), "alice", 0, 100), numbered(1, 60));
        for keep_until in 0..disk.pending_sectors() {
            let image = disk.crash(0, |n| if n < keep_until || n % 3 == 0 { Fate::Kept } else { Fate::Lost });
            let (engine, report) = Engine::open(Box::new(image), super::settings(), NOW).unwrap();
            assert_eq!(report.damage, []);
            let left = texts(&engine, "alice", 0, 100).len() as u64;
            assert!(left >= 40);
            assert_eq!(texts(&engine, "alice", 0, 100), numbered(1, left));
        }
    }
}

#[test]
fn a_failed_interval_sync_gives_the_segment_up_and_is_counted() {
    let disk = FakeDisk::default();
    let settings = LogSettings { sync: SyncPolicy::Os, ..settings() };
    let mut engine = Engine::open(Box::new(disk.clone()), settings, NOW).unwrap().0;
    send(&mut engine, "alice", "m1");
    disk.inject(Fault::Sync(StorageError::Device), 0);
    assert_eq!(engine.sync(), Err(StorageError::Device));
    send(&mut engine, "alice", "m2");
    let status = engine.reader().status();
    assert_eq!((status.lost_syncs, status.segments_given_up), (1, 1));
    assert_eq!(texts(&open(&disk.killed()), "alice", 0, 10), numbered(1, 2));
}

#[test]
fn a_failing_disk_at_the_start_is_an_error_and_changes_nothing() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    send(&mut engine, "alice", "m1");
    drop(engine);
    disk.inject(Fault::Sync(StorageError::Device), 0);
    let failed = Engine::open(Box::new(disk.clone()), settings(), NOW).map(|_| ());
    assert_eq!(failed, Err(OpenError::Storage(StorageError::Device)));
    assert_eq!(texts(&open(&disk), "alice", 0, 10), numbered(1, 1));
}

/// S13: the one who reads gets an error and may ask again; nobody else notices.
#[test]
fn a_failing_read_is_one_readers_error() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    for n in 1..=5 {
        send(&mut engine, "alice", &format!("m{n}"));
    }
    let mut replay = engine.reader().replay(Class::Mailbox, "alice", 0, 10, NOW).unwrap();
    disk.inject(Fault::Read(StorageError::Device), 2);
    assert_eq!(replay.next_page(), Err(ReadError::Storage(StorageError::Device)));
    assert_eq!(replay.next_page().unwrap().len(), 5);
    assert_eq!(texts(&engine, "alice", 0, 10), numbered(1, 5));
}

#[test]
fn optional_kinds_are_kept_and_skipped_and_needed_ones_refused() {
    for (kind, opens) in [(0x8001_u16, true), (99, false)] {
        let disk = FakeDisk::default();
        let mut engine = open(&disk);
        send(&mut engine, "alice", "m1");
        drop(engine);
        let name = segment_name(1);
        let mut contents = disk.contents(&name).unwrap();
        let known = Header::decode(&contents[1024..]).unwrap();
        let header = Header {
            sequence: Sequence(2),
            kind: Kind::from_number(kind),
            length: 4,
            body_crc: crc32c::crc32c(b"what"),
            ..known
        };
        let mut record = Vec::new();
        header.encode(&mut record);
        record.extend_from_slice(b"what");
        contents[1536..1536 + record.len()].copy_from_slice(&record);
        disk.put(&name, contents);
        let opened = Engine::open(Box::new(disk.clone()), settings(), NOW);
        match opened {
            Ok((mut engine, report)) => {
                assert!(opens);
                assert_eq!((report.unknown_optional, report.next), (1, Sequence(3)));
                assert_eq!(send(&mut engine, "alice", "m2").result.unwrap().offset, 2);
                assert_eq!(texts(&engine, "alice", 0, 10), numbered(1, 2));
            }
            Err(error) => {
                assert!(!opens);
                assert_eq!(error, OpenError::UnknownKind { segment: 1, kind });
            }
        }
    }
}

/// With groups staged and handed over behind the one that fails, through the threads.
#[test]
fn a_failure_in_mid_stream_leaves_out_what_it_answers_with_an_error_and_nothing_else() {
    let faults = [
        Fault::Sync(StorageError::Device),
        Fault::Write { written: 700, error: StorageError::DiskFull },
        Fault::Create(StorageError::DiskFull),
    ];
    for (round, fault) in faults.iter().cycle().take(18).enumerate() {
        let disk = FakeDisk::default();
        let settings = LogSettings { maintenance_interval: std::time::Duration::ZERO, ..settings() };
        let (log, _) = Log::open(Box::new(disk.clone()), settings).unwrap();
        let (appender, mut acks) = log.channel(10_000);
        disk.inject(*fault, u32::try_from(round).unwrap() / 3);
        for n in 0..1000 {
            let mut request = message("alice", &format!("{n}:{}", "x".repeat(n % 100)));
            request.token = n as u64;
            appender.try_append(request).unwrap();
        }
        let mut stored = Vec::new();
        for n in 0..1000 {
            let ack = acks.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
            assert_eq!(ack.token, n);
            match ack.result {
                Ok(appended) => {
                    stored.push(format!("{n}:{}", "x".repeat(usize::try_from(n).unwrap() % 100)));
                    assert_eq!(appended.offset, stored.len() as u64);
                }
                Err(error) => assert!(matches!(error, AppendError::NotStored(_)), "{error}"),
            }
        }
        assert!(stored.len() < 1000, "{fault:?} hit nothing");
        let expected: Vec<(u64, String)> = (1..).zip(stored).collect();
        log.close().unwrap();
        assert_eq!(texts(&open(&disk), "alice", 0, 100), expected);
    }
}

#[test]
fn two_owners_and_foreign_files_are_refused() {
    let disk = FakeDisk::default();
    let engine = open(&disk);
    let second = Engine::open(Box::new(disk.clone()), settings(), NOW).map(|_| ());
    assert_eq!(second, Err(OpenError::Locked));
    drop(engine);
    let mut engine = open(&disk);
    send(&mut engine, "alice", "m1");
    let copy = disk.contents(&segment_name(1)).unwrap();
    disk.put(&segment_name(9), copy);
    disk.unlock();
    let foreign = Engine::open(Box::new(disk), settings(), NOW).map(|_| ());
    assert_eq!(foreign, Err(OpenError::Foreign { segment: 9 }));
}

/// A failed sync that could not be sealed off, then a kill: the page cache has what the medium has not. What the next
/// process serves must survive a power cut all the same.
#[test]
fn what_a_kill_leaves_after_a_failed_sync_is_brought_to_the_medium() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    send(&mut engine, "alice", "m1");
    disk.inject(Fault::Sync(StorageError::Device), 0);
    disk.inject(Fault::Create(StorageError::DiskFull), 0);
    // What is held back fails too.
    disk.inject(Fault::Sync(StorageError::Device), 0);
    assert_eq!(send(&mut engine, "alice", "m2").result, Err(AppendError::Uncertain(StorageError::Device)));
    drop(engine);
    let engine = open(&disk);
    assert_eq!(texts(&engine, "alice", 0, 10), numbered(1, 2));
    drop(engine);
    let after = disk.crash(0, |_| Fate::Lost);
    let (engine, report) = Engine::open(Box::new(after), settings(), NOW).unwrap();
    assert_eq!(report.damage, []);
    assert_eq!(texts(&engine, "alice", 0, 10), numbered(1, 2));
}

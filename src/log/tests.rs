//! The engine on the fake disk: what it promises in the plain cases and in each fault of its own.

use bytes::Bytes;

use super::body::{Body, Message, Publication};
use super::engine::Engine;
use super::error::{AppendError, OpenError, StorageError};
use super::fake::{FakeDisk, Fate, Fault};
use super::record::{Class, Sequence};
use super::request::{Ack, Append, AppendRequest};
use super::settings::{LogSettings, MailboxLimits, SyncPolicy, WhenFull};
use super::storage::Storage;

const NOW: u32 = 1_000_000;

fn settings() -> LogSettings {
    LogSettings { segment_bytes: 16 << 10, batch_bytes: 8 << 10, seed: [7; 16], ..LogSettings::default() }
}

fn open(disk: &FakeDisk) -> Engine {
    disk.unlock();
    Engine::open(Box::new(disk.clone()), settings(), NOW).unwrap().0
}

fn message(user: &str, text: &str) -> AppendRequest {
    let message = Message {
        user: user.to_owned(),
        id: format!("id-{text}"),
        data: Bytes::copy_from_slice(text.as_bytes()),
        ..Message::default()
    };
    AppendRequest { token: 0, append: Append::Message { message, expires_at: 0 } }
}

fn acknowledge(user: &str, device: &str, through: u64) -> AppendRequest {
    let (name, device) = (user.to_owned(), device.to_owned());
    AppendRequest { token: 0, append: Append::Acknowledge { class: Class::Mailbox, name, device, through } }
}

fn send(engine: &mut Engine, user: &str, text: &str) -> Ack {
    engine.append(vec![message(user, text)], NOW).unwrap()[0]
}

fn texts(engine: &Engine, user: &str, after: u64, page: usize) -> Vec<(u64, String)> {
    let Some(mut replay) = engine.reader().replay(Class::Mailbox, user, after, page, NOW) else {
        return Vec::new();
    };
    let mut out = Vec::new();
    loop {
        let messages = replay.next_page().unwrap();
        if messages.is_empty() {
            return out;
        }
        assert!(messages.len() <= page);
        for stored in messages {
            let Body::Message(message) = stored.body else { panic!("not a message") };
            assert_eq!(message.user, user);
            out.push((stored.offset, String::from_utf8(message.data.to_vec()).unwrap()));
        }
    }
}

fn numbered(from: u64, to: u64) -> Vec<(u64, String)> {
    (from..=to).map(|n| (n, format!("m{n}"))).collect()
}

#[test]
fn messages_come_back_in_order_page_by_page_across_segments_and_restarts() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    for n in 1..=200 {
        assert_eq!(send(&mut engine, "alice", &format!("m{n}")).result.unwrap().offset, n);
        send(&mut engine, "bob", &format!("x{n}"));
    }
    for page in [1, 7, 64, 500] {
        assert_eq!(texts(&engine, "alice", 0, page), numbered(1, 200));
        assert_eq!(texts(&engine, "alice", 150, page), numbered(151, 200));
    }
    drop(engine);
    let killed = disk.killed();
    let engine = open(&killed);
    assert_eq!(texts(&engine, "alice", 0, 50), numbered(1, 200));
    assert!(engine.reader().replay(Class::Mailbox, "carol", 0, 1, NOW).is_none());
}

#[test]
fn acknowledged_messages_are_gone_and_the_number_goes_on() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    for n in 1..=10 {
        send(&mut engine, "alice", &format!("m{n}"));
    }
    engine.append(vec![acknowledge("alice", "", 7)], NOW).unwrap();
    assert_eq!(texts(&engine, "alice", 0, 4), numbered(8, 10));
    engine.append(vec![acknowledge("alice", "", 99)], NOW).unwrap();
    assert_eq!(texts(&engine, "alice", 0, 4), Vec::new());
    drop(engine);
    let mut engine = open(&disk);
    assert_eq!(send(&mut engine, "alice", "m11").result.unwrap().offset, 11);
    assert_eq!(texts(&engine, "alice", 0, 4), numbered(11, 11));
}

#[test]
fn every_known_device_holds_its_messages() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    engine.append(vec![acknowledge("alice", "phone", 0), acknowledge("alice", "desk", 0)], NOW).unwrap();
    for n in 1..=10 {
        send(&mut engine, "alice", &format!("m{n}"));
    }
    engine.append(vec![acknowledge("alice", "phone", 9), acknowledge("alice", "desk", 4)], NOW).unwrap();
    for reopened in [false, true] {
        if reopened {
            engine = open(&disk);
        }
        let phone = engine.reader().info(Class::Mailbox, "alice", "phone").unwrap();
        let desk = engine.reader().info(Class::Mailbox, "alice", "desk").unwrap();
        assert_eq!((phone.cursor, desk.cursor, desk.state.pending, desk.devices.len()), (9, 4, 6, 2));
        assert_eq!(texts(&engine, "alice", desk.cursor, 3), numbered(5, 10));
        assert_eq!(texts(&engine, "alice", phone.cursor, 3), numbered(10, 10));
    }
    let append = Append::ForgetDevice { user: "alice".to_owned(), device: "desk".to_owned() };
    engine.append(vec![AppendRequest { token: 0, append }], NOW).unwrap();
    assert_eq!(engine.reader().info(Class::Mailbox, "alice", "").unwrap().state.pending, 1);
}

#[test]
fn a_full_mailbox_rejects_or_drops_the_oldest() {
    for (when_full, expected) in [(WhenFull::Reject, numbered(1, 3)), (WhenFull::DropOldest, numbered(3, 5))]
    {
        let disk = FakeDisk::default();
        let limits = MailboxLimits { messages: 3, when_full, ..MailboxLimits::default() };
        let settings = LogSettings { mailbox: limits, ..settings() };
        let mut engine = Engine::open(Box::new(disk.clone()), settings, NOW).unwrap().0;
        let results: Vec<_> = (1..=5).map(|n| send(&mut engine, "alice", &format!("m{n}")).result).collect();
        let full = results.iter().filter(|result| **result == Err(AppendError::MailboxFull)).count();
        assert_eq!(full, if when_full == WhenFull::Reject { 2 } else { 0 });
        assert_eq!(texts(&engine, "alice", 0, 10), expected);
        drop(engine);
        assert_eq!(texts(&open(&disk), "alice", 0, 10), expected);
    }
}

#[test]
fn expired_messages_are_skipped_and_counted() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    for n in 1..=4_u32 {
        let mut request = message("alice", &format!("m{n}"));
        if let Append::Message { expires_at, .. } = &mut request.append {
            *expires_at = if n == 2 { NOW } else { NOW + 10 };
        }
        engine.append(vec![request], NOW - 1).unwrap();
    }
    assert_eq!(texts(&engine, "alice", 0, 2).iter().map(|m| m.0).collect::<Vec<_>>(), [1, 3, 4]);
    assert_eq!(engine.reader().status().expired_reads, 1);
    let state = engine.reader().info(Class::Mailbox, "alice", "").unwrap().state;
    assert_eq!((state.pending_at(NOW), state.pending_at(NOW + 10)), (4, 0));
}

#[test]
fn history_keeps_its_size_and_starts_over_with_a_new_epoch() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    let publish = |engine: &mut Engine, epoch: &str, offset: u64| {
        let publication = Publication {
            channel: "news".to_owned(),
            epoch: epoch.to_owned(),
            data: Bytes::from(format!("{epoch}{offset}")),
            ..Publication::default()
        };
        let append = Append::Publication { publication, offset, keep: 3, expires_at: 0 };
        engine.append(vec![AppendRequest { token: 0, append }], NOW).unwrap()[0].result
    };
    let read = |engine: &Engine| {
        let mut replay = engine.reader().replay(Class::History, "news", 0, 2, NOW).unwrap();
        let mut data = Vec::new();
        loop {
            let page = replay.next_page().unwrap();
            if page.is_empty() {
                return data;
            }
            for stored in page {
                let Body::Publication(publication) = stored.body else { panic!("not a publication") };
                data.push(String::from_utf8(publication.data.to_vec()).unwrap());
            }
        }
    };
    for offset in 1..=5 {
        publish(&mut engine, "a", offset).unwrap();
    }
    assert_eq!(publish(&mut engine, "a", 5), Err(AppendError::OutOfOrder));
    assert_eq!(read(&engine), ["a3", "a4", "a5"]);
    publish(&mut engine, "b", 1).unwrap();
    assert_eq!(read(&engine), ["b1"]);
    drop(engine);
    assert_eq!(read(&open(&disk)), ["b1"]);
}

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

#[test]
fn damage_below_the_watermark_is_an_alarm_and_above_it_a_tail() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    for n in 1..=5 {
        send(&mut engine, "alice", &format!("m{n}"));
    }
    drop(engine);
    let name = super::segment::segment_name(1);
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
    image.flip(&super::segment::segment_name(1), 1024 + 100, 1);
    let (_, report) = Engine::open(Box::new(image), settings(), NOW).unwrap();
    assert_eq!(report.damage.len(), 1);
}

/// A user's messages fill segments that become dead or sparse; nobody else's are touched.
#[test]
fn compaction_keeps_what_is_needed_and_the_number() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    let long = "x".repeat(500);
    for n in 1..=120 {
        send(&mut engine, "busy", &format!("{n}{long}"));
        if n % 40 == 0 {
            send(&mut engine, "quiet", &format!("m{}", n / 40));
        }
    }
    engine.append(vec![acknowledge("busy", "", 120)], NOW).unwrap();
    let files = disk.list().unwrap().len();
    let report = engine.maintenance().pass(NOW).unwrap();
    assert!(report.compacted > 3 && disk.list().unwrap().len() < files, "{report:?}");
    let again = engine.maintenance().pass(NOW).unwrap();
    assert_eq!((again.compacted, again.removed, again.quarantined), (0, 0, 0));
    for reopened in [false, true] {
        if reopened {
            engine = open(&disk);
        }
        assert_eq!(texts(&engine, "quiet", 0, 2), numbered(1, 3));
        assert_eq!(texts(&engine, "busy", 0, 2), Vec::new());
        assert_eq!(engine.reader().info(Class::Mailbox, "busy", "").unwrap().state.last_offset, 120);
    }
}

#[test]
fn expired_messages_leave_the_disk_and_silent_streams_the_memory() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    let ttl = u32::try_from(settings().state_ttl.as_secs()).unwrap();
    for n in 1..=100 {
        let mut request = message("alice", &format!("{n}{}", "x".repeat(500)));
        if let Append::Message { expires_at, .. } = &mut request.append {
            *expires_at = if n % 10 == 0 { NOW + 100 } else { NOW + 10 };
        }
        engine.append(vec![request], NOW).unwrap();
    }
    let full = disk.list().unwrap().len();
    engine.maintenance().pass(NOW + 10).unwrap();
    let thinned = disk.list().unwrap().len();
    assert!(thinned < full);
    let mut replay = engine.reader().replay(Class::Mailbox, "alice", 0, 100, NOW + 10).unwrap();
    assert_eq!(replay.next_page().unwrap().len(), 10, "across the stubs");
    assert_eq!((replay.skipped_expired(), replay.skipped_damaged()), (90, 0));
    // Once all have expired the mailbox keeps its number for the TTL of the state, and then nothing.
    engine.maintenance().pass(NOW + 100).unwrap();
    assert_eq!(texts_at(&engine, "alice", NOW + 100), 0);
    let later = NOW + ttl + 1;
    for n in 0..40 {
        engine.append(vec![message("bob", &format!("{n}{}", "x".repeat(500)))], later).unwrap();
    }
    engine.maintenance().pass(later).unwrap();
    assert!(engine.reader().info(Class::Mailbox, "alice", "").is_none());
    drop(engine);
    let mut engine = Engine::open(Box::new(disk), settings(), later).unwrap().0;
    assert!(engine.reader().info(Class::Mailbox, "alice", "").is_none());
    assert_eq!(send(&mut engine, "alice", "m1").result.unwrap().offset, 1);
}

fn texts_at(engine: &Engine, user: &str, now: u32) -> usize {
    let mut replay = engine.reader().replay(Class::Mailbox, user, 0, 1000, now).unwrap();
    replay.next_page().unwrap().len()
}

#[test]
fn the_head_of_a_history_tells_its_epoch_even_when_it_is_compacted() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    for offset in 1..=60 {
        let data = Bytes::from(vec![b'x'; 500]);
        let (channel, epoch) = ("news".to_owned(), "wxyz".to_owned());
        let publication = Publication { channel, epoch, data, ..Publication::default() };
        let append = Append::Publication { publication, offset, keep: 10, expires_at: NOW + 10 };
        engine.append(vec![AppendRequest { token: 0, append }], NOW).unwrap();
    }
    for n in 0..40 {
        send(&mut engine, "alice", &format!("{n}{}", "x".repeat(500)));
    }
    engine.maintenance().pass(NOW + 10).unwrap();
    drop(engine);
    let engine = open(&disk);
    let head = engine.reader().head(Class::History, "news").unwrap().unwrap();
    let Body::Stub(meta) = head.body else { panic!("{head:?}") };
    assert_eq!((head.offset, meta.epoch.as_str()), (60, "wxyz"));
    assert_eq!(engine.reader().head(Class::History, "other"), Ok(None));
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
            let (engine, report) = Engine::open(Box::new(image), super::tests::settings(), NOW).unwrap();
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

#[test]
fn optional_kinds_are_kept_and_skipped_and_needed_ones_refused() {
    for (kind, opens) in [(0x8001_u16, true), (99, false)] {
        let disk = FakeDisk::default();
        let mut engine = open(&disk);
        send(&mut engine, "alice", "m1");
        drop(engine);
        let name = super::segment::segment_name(1);
        let mut contents = disk.contents(&name).unwrap();
        let known = super::record::Header::decode(&contents[1024..]).unwrap();
        let header = super::record::Header {
            sequence: Sequence(2),
            kind: super::record::Kind::from_number(kind),
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

#[test]
fn two_owners_and_foreign_files_are_refused() {
    let disk = FakeDisk::default();
    let engine = open(&disk);
    let second = Engine::open(Box::new(disk.clone()), settings(), NOW).map(|_| ());
    assert_eq!(second, Err(OpenError::Locked));
    drop(engine);
    let mut engine = open(&disk);
    send(&mut engine, "alice", "m1");
    let copy = disk.contents(&super::segment::segment_name(1)).unwrap();
    disk.put(&super::segment::segment_name(9), copy);
    disk.unlock();
    let foreign = Engine::open(Box::new(disk), settings(), NOW).map(|_| ());
    assert_eq!(foreign, Err(OpenError::Foreign { segment: 9 }));
}

//! The engine on the fake disk: what it promises in the plain cases and in each fault of its own.

use bytes::Bytes;

use super::body::{Body, Message, Publication};
use super::engine::Engine;
use super::error::{AppendError, OpenError, StorageError};
use super::fake::{FakeDisk, Fate, Fault};
use super::record::{Class, Sequence};
use super::request::{Ack, Append, AppendRequest};
use super::settings::{LogSettings, MailboxLimits, WhenFull};
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

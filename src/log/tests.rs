//! The engine on the fake disk: what it promises in the plain cases and in each fault of its own.

use bytes::Bytes;

use super::body::{Body, Message};
use super::engine::Engine;
use super::error::AppendError;
use super::fake::FakeDisk;
use super::record::Class;
use super::request::{Ack, Append, AppendRequest};
use super::settings::{LogSettings, MailboxLimits, WhenFull};
use super::storage::Storage;

mod faults;
mod history;
mod losses;
mod pages;
mod room;

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

/// A segment in the middle of which nothing is needed leaves no hole that could be taken for a loss.
#[test]
fn a_dead_segment_between_live_ones_is_not_missed_by_the_next_start() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    let long = "x".repeat(500);
    for (user, count) in [("alice", 30), ("bob", 60), ("carol", 30), ("bob", 1)] {
        for n in 0..count {
            send(&mut engine, user, &format!("{n}{long}"));
        }
    }
    let files = disk.list().unwrap().len();
    engine.append(vec![acknowledge("bob", "", 61)], NOW).unwrap();
    let report = engine.maintenance().pass(NOW).unwrap();
    assert!(disk.list().unwrap().len() < files, "{report:?}");
    let again = engine.maintenance().pass(NOW).unwrap();
    assert_eq!((again.compacted, again.removed), (0, 0), "it is left alone from then on");
    drop(engine);
    let (engine, report) = Engine::open(Box::new(disk), settings(), NOW).unwrap();
    assert_eq!((report.damage, report.quarantined), (vec![], vec![]));
    assert_eq!((texts(&engine, "alice", 0, 50).len(), texts(&engine, "carol", 0, 50).len()), (30, 30));
}

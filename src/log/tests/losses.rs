//! What is known to be lost: no number is given out twice under one epoch, and what is left stays readable.

use super::super::engine::Engine;
use super::super::fake::{FakeDisk, Fate};
use super::super::record::Class;
use super::super::recover::RecoveryReport;
use super::super::segment::{quarantined_name, segment_name};
use super::super::storage::Storage;
use super::super::stream::is_same_incarnation;
use super::{NOW, acknowledge, message, numbered, open, send, settings, texts};

fn start(disk: &FakeDisk) -> (Engine, RecoveryReport) {
    disk.unlock();
    Engine::open(Box::new(disk.clone()), settings(), NOW).unwrap()
}

fn epoch(engine: &Engine, user: &str) -> u32 {
    engine.reader().info(Class::Mailbox, user, "").unwrap().state.epoch
}

fn is_renewed(after: u32, before: u32) -> bool {
    after != before && is_same_incarnation(after, before)
}

fn last(engine: &Engine, user: &str) -> u64 {
    engine.reader().info(Class::Mailbox, user, "").unwrap().state.last_offset
}

/// A log of two segments and 40 messages to alice, of which the newest segment is cut behind `kept` of its own; and the
/// epoch.
fn cut_short(kept: usize) -> (FakeDisk, u32) {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    for n in 1..=40 {
        send(&mut engine, "alice", &format!("m{n}")).result.unwrap();
    }
    let before = epoch(&engine, "alice");
    drop(engine);
    let name = segment_name(2);
    let contents = disk.contents(&name).unwrap();
    disk.put(&name, contents[..1024 + 512 * kept].to_vec());
    (disk, before)
}

#[test]
fn a_newest_segment_that_was_cut_short_gives_its_streams_new_epochs_once() {
    let (disk, before) = cut_short(4);
    let (mut engine, report) = start(&disk);
    let left = last(&engine, "alice");
    assert!((30..40).contains(&left) && report.new_losses == 1, "{left} {report:?}");
    let after = epoch(&engine, "alice");
    assert!(is_renewed(after, before));
    assert_eq!(texts(&engine, "alice", 0, 7), numbered(1, left), "what is left waits");
    let next = send(&mut engine, "alice", &format!("m{}", left + 1)).result.unwrap();
    assert_eq!((next.offset, next.epoch), (left + 1, after));
    send(&mut engine, "bob", "m1").result.unwrap();
    engine.append(vec![acknowledge("alice", "", 3)], NOW).unwrap();
    engine.maintenance().pass(NOW).unwrap();
    let bob = epoch(&engine, "bob");
    for round in 0..4 {
        if round == 2 {
            engine.close(NOW).unwrap();
        }
        // Once nothing in it is wanted any more, the operator deletes it.
        if round == 3 {
            engine = open(&disk);
            engine.append(vec![acknowledge("alice", "", left)], NOW).unwrap();
            drop(engine);
            disk.remove(&quarantined_name(2)).unwrap();
        }
        let (reopened, report) = start(&disk);
        assert!(round == 3 || report.new_losses == 0, "{round} {report:?}");
        engine = reopened;
        assert_eq!((epoch(&engine, "bob"), last(&engine, "alice")), (bob, left + 1), "{round}");
        let expected = if round == 3 { numbered(left + 1, left + 1) } else { numbered(4, left + 1) };
        assert_eq!((epoch(&engine, "alice"), texts(&engine, "alice", 0, 7)), (after, expected), "{round}");
    }
}

/// The epoch is the new one in every image, and nothing that is left is missing.
#[test]
fn a_crash_at_any_point_of_a_start_with_a_loss_comes_to_the_same_epoch() {
    for kept in [0, 4] {
        let (disk, before) = cut_short(kept);
        let base = disk.killed();
        disk.record();
        let (mut engine, _) = start(&disk);
        let (opened, after) = (disk.recorded(), epoch(&engine, "alice"));
        assert!(is_renewed(after, before));
        let left = last(&engine, "alice");
        send(&mut engine, "bob", "m1").result.unwrap();
        drop(engine);
        let operations = disk.trace();
        assert!(opened > 4);
        for (done, operation) in operations.iter().enumerate() {
            base.play(operation);
            for names in 0..=base.pending_names() {
                for fate in [Fate::Kept, Fate::Lost, Fate::Torn(100)] {
                    let image = base.crash(names, |_| fate);
                    for start_number in 0..3 {
                        let (engine, report) = start(&image);
                        let context = format!("kept {kept} operation {done} {names} {fate:?} {start_number}");
                        assert_eq!(epoch(&engine, "alice"), after, "{context}");
                        assert_eq!(texts(&engine, "alice", 0, 9), numbered(1, left), "{context}");
                        assert!(start_number == 0 || report.new_losses == 0, "{context}");
                    }
                }
            }
        }
    }
}

#[test]
fn streams_with_something_newer_than_the_damage_keep_their_epochs() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    for user in ["quiet", "busy", "hit", "busy", "late"] {
        send(&mut engine, user, "m1").result.unwrap();
    }
    let before = ["quiet", "busy", "late"].map(|user| epoch(&engine, user));
    drop(engine);
    let sector = |n: usize| 1024 + 512 * n;
    // Of a body the header is left, and with it number and stream.
    let body = disk.killed();
    body.flip(&segment_name(1), sector(2) + 100, 1);
    let (engine, report) = start(&body);
    assert_eq!((report.damage.len(), report.new_losses), (1, 0));
    assert_eq!(["quiet", "busy", "late"].map(|user| epoch(&engine, user)), before);
    assert_eq!(last(&engine, "hit"), 1);
    disk.flip(&segment_name(1), sector(2) + 20, 1);
    let (engine, report) = start(&disk);
    assert_eq!((report.damage.len(), report.new_losses), (1, 1));
    let [quiet, busy, late] = before;
    let renewed = epoch(&engine, "quiet");
    assert!(is_renewed(renewed, quiet));
    for _ in 0..3 {
        let (engine, _) = start(&disk);
        assert_eq!(["quiet", "busy", "late"].map(|user| epoch(&engine, user)), [renewed, busy, late]);
        assert!(engine.reader().info(Class::Mailbox, "hit", "").is_none());
    }
    drop(engine);
    // Another loss concerns them again.
    disk.flip(&quarantined_name(1), sector(1) + 20, 1);
    let (engine, report) = start(&disk);
    assert_eq!(report.new_losses, 1);
    assert!(is_renewed(epoch(&engine, "quiet"), quiet) && epoch(&engine, "quiet") != renewed);
    assert_eq!((epoch(&engine, "busy"), epoch(&engine, "late")), (busy, late));
}

#[test]
fn a_newest_segment_without_a_header_counts_as_lost_and_a_torn_tail_does_not() {
    let (disk, before) = {
        let (disk, first) = cut_short(4);
        let mut engine = open(&disk);
        let before = send(&mut engine, "alice", "more").result.unwrap().epoch;
        assert!(is_renewed(before, first));
        (disk, before)
    };
    let torn = disk.killed();
    torn.flip(&segment_name(3), 1024 + 512 + 20, 1);
    let (engine, report) = start(&torn);
    assert_eq!((report.new_losses, report.tail.is_some(), epoch(&engine, "alice")), (0, true, before));
    drop(engine);
    for copy in [0, 512] {
        disk.flip(&segment_name(3), copy + 30, 1);
    }
    // The second loss took the note of the first one along.
    let (engine, report) = start(&disk);
    assert!(report.new_losses == 1 && is_renewed(epoch(&engine, "alice"), before), "{report:?}");
    let epoch_now = epoch(&engine, "alice");
    drop(engine);
    let (engine, report) = start(&disk);
    assert_eq!((report.new_losses, epoch(&engine, "alice")), (0, epoch_now));
}

/// A stream that is lost whole begins anew, where possible with the same sequence, and all the same with another epoch.
#[test]
fn a_stream_that_is_lost_whole_does_not_come_back_as_itself() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    let lost = send(&mut engine, "alice", "m1").result.unwrap();
    drop(engine);
    let contents = disk.contents(&segment_name(1)).unwrap();
    disk.put(&segment_name(1), contents[..1024].to_vec());
    let (mut engine, _) = start(&disk);
    let mut requests = vec![message("alice", "m1")];
    requests.extend((0..4).map(|n| message("bob", &format!("m{n}"))));
    let again = engine.append(requests, NOW).unwrap()[0].result.unwrap();
    assert_eq!(again.offset, lost.offset);
    assert_ne!(again.epoch, lost.epoch);
    // Also one that begins after a fast start.
    let hers = |engine: &Engine| engine.reader().epoch_to_come("carol", NOW);
    let coming = hers(&engine);
    engine.close(NOW).unwrap();
    let (engine, report) = start(&disk);
    assert_eq!((report.clean, hers(&engine)), (false, coming), "a file that was cut short is read");
    drop(engine);
    disk.remove(&quarantined_name(1)).unwrap();
    let (engine, _) = start(&disk);
    assert_eq!(hers(&engine), coming);
    engine.close(NOW).unwrap();
    let (engine, report) = start(&disk);
    assert_eq!((report.clean, hers(&engine)), (true, coming));
}

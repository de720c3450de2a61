//! Durable history: numbered by the log, bounded in size and time, read from either end.

use bytes::Bytes;

use super::super::body::{Body, Publication, Version};
use super::super::engine::Engine;
use super::super::error::{AppendError, StorageError};
use super::super::fake::{FakeDisk, Fault};
use super::super::history::{HistoryPage, HistoryRead, HistoryWalk, Trail};
use super::super::record::{Class, Sequence};
use super::super::request::{Append, AppendRequest, Appended};
use super::super::storage::Storage;
use super::{NOW, open, send, settings};

const ALL: HistoryRead<'static> = HistoryRead {
    channel: "news",
    end: u64::MAX,
    after: 0,
    before: u64::MAX,
    limit: usize::MAX,
    bytes: usize::MAX,
    newest_first: false,
    now: NOW,
};

fn publication(text: &str, keep: u32, expires_at: u32) -> Append {
    let (channel, data) = ("news".to_owned(), Bytes::copy_from_slice(text.as_bytes()));
    let publication = Publication { channel, data, ..Publication::default() };
    Append::Publication { publication, keep, expires_at }
}

fn append_at(engine: &mut Engine, append: Append, now: u32) -> Result<Appended, AppendError> {
    engine.append(vec![AppendRequest { token: 0, append }], now).unwrap()[0].result
}

fn publish(engine: &mut Engine, text: &str) -> Appended {
    append_at(engine, publication(text, 1000, 0), NOW).unwrap()
}

fn position(keep: u32, version: Version) -> Append {
    Append::Position { channel: "news".to_owned(), keep, version }
}

fn page(engine: &Engine, read: &HistoryRead<'_>) -> HistoryPage {
    engine.reader().history(read, None).unwrap().unwrap()
}

fn texts(page: &HistoryPage) -> Vec<String> {
    let text = |body: &Body| match body {
        Body::Publication(publication) => String::from_utf8(publication.data.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    };
    page.publications.iter().map(|stored| format!("{}{}", text(&stored.body), stored.offset)).collect()
}

#[test]
fn publications_are_numbered_and_the_newest_kept() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    assert_eq!(engine.reader().history(&ALL, None), Ok(None));
    let epoch = append_at(&mut engine, publication("a", 3, 0), NOW).unwrap().epoch;
    for offset in 2..=5 {
        let stored = append_at(&mut engine, publication("a", 3, 0), NOW).unwrap();
        assert_eq!((stored.offset, stored.epoch), (offset, epoch));
    }
    for reopened in [false, true] {
        if reopened {
            engine = open(&disk);
        }
        let page = page(&engine, &ALL);
        assert_eq!((page.epoch, page.top, page.floor, page.more), (epoch, 5, 2, false));
        assert_eq!(texts(&page), ["a3", "a4", "a5"]);
    }
    assert_eq!(publish(&mut engine, "a"), Appended { sequence: Sequence(6), offset: 6, epoch });
}

#[test]
fn what_was_not_stored_leaves_no_gap() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    publish(&mut engine, "a");
    for fault in
        [Fault::Sync(StorageError::Device), Fault::Write { written: 512, error: StorageError::DiskFull }]
    {
        disk.inject(fault, 0);
        let refused = append_at(&mut engine, publication("x", 1000, 0), NOW).unwrap_err();
        assert!(matches!(refused, AppendError::NotStored(_)));
        publish(&mut engine, "b");
    }
    for engine in [&engine, &open(&disk.killed())] {
        assert_eq!(texts(&page(engine, &ALL)), ["a1", "b2", "b3"]);
    }
}

#[test]
fn a_position_begins_a_history_or_empties_it_and_the_epoch_stays() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    let begun = append_at(&mut engine, position(u32::MAX, Version::default()), NOW).unwrap();
    assert_eq!(begun.offset, 0);
    publish(&mut engine, "a");
    // Two may begin it at once.
    append_at(&mut engine, position(u32::MAX, Version::default()), NOW).unwrap();
    assert_eq!(texts(&page(&engine, &ALL)), ["a1"]);
    append_at(&mut engine, position(0, Version { number: 7, epoch: "v".to_owned() }), NOW).unwrap();
    for reopened in [false, true] {
        if reopened {
            engine = open(&disk);
        }
        let page = page(&engine, &ALL);
        assert_eq!((page.epoch, page.top, page.floor, page.publications.len()), (begun.epoch, 1, 1, 0));
        let head = engine.reader().head(Class::History, "news").unwrap().unwrap().body;
        assert!(matches!(head, Body::Meta(meta) if meta.version.number == 7 && meta.version.epoch == "v"));
    }
    assert_eq!(publish(&mut engine, "b").epoch, begun.epoch);
    assert_eq!(texts(&page(&engine, &ALL)), ["b2"]);
}

#[test]
fn pages_from_either_end_are_bounded_by_count_and_bytes() {
    let mut engine = open(&FakeDisk::default());
    for n in 1..=100 {
        publish(&mut engine, "p");
        send(&mut engine, "alice", &format!("m{n}"));
    }
    let named = |offsets: &[u64]| offsets.iter().map(|n| format!("p{n}")).collect::<Vec<_>>();
    let check = |read: HistoryRead<'_>, offsets: &[u64], more: bool| {
        let page = page(&engine, &read);
        assert_eq!((texts(&page), page.more, page.top), (named(offsets), more, 100), "{read:?}");
    };
    check(HistoryRead { limit: 3, ..ALL }, &[1, 2, 3], true);
    check(HistoryRead { limit: 3, after: 50, ..ALL }, &[51, 52, 53], true);
    check(HistoryRead { after: 98, ..ALL }, &[99, 100], false);
    check(HistoryRead { after: 100, ..ALL }, &[], false);
    check(HistoryRead { after: 200, ..ALL }, &[], false);
    check(HistoryRead { limit: 0, ..ALL }, &[], false);
    check(HistoryRead { limit: 2, newest_first: true, ..ALL }, &[100, 99], true);
    check(HistoryRead { limit: 2, before: 51, newest_first: true, ..ALL }, &[50, 49], true);
    check(HistoryRead { before: 3, newest_first: true, ..ALL }, &[2, 1], false);
    check(HistoryRead { bytes: 1, ..ALL }, &[1], true);
    check(HistoryRead { bytes: 1, newest_first: true, ..ALL }, &[100], true);
    let three = 3 * (88 + 120);
    let page = page(&engine, &HistoryRead { bytes: three, ..ALL });
    assert!((2..=5).contains(&page.publications.len()) && page.more, "{page:?}");
}

#[test]
fn a_reader_sees_nothing_that_came_later() {
    let mut engine = open(&FakeDisk::default());
    assert_eq!(publish(&mut engine, "a").sequence, Sequence(1));
    publish(&mut engine, "b");
    append_at(&mut engine, position(u32::MAX, Version::default()), NOW).unwrap();
    publish(&mut engine, "c");
    for (end, expected) in [(0, ""), (1, "a1"), (2, "a1 b2"), (3, "a1 b2 c3"), (4, "a1 b2 c3")] {
        let page = page(&engine, &HistoryRead { end, ..ALL });
        assert_eq!((texts(&page).join(" ").as_str(), page.top), (expected, end.min(3)));
    }
    // What it has not heard of has changed what is kept.
    append_at(&mut engine, publication("d", 1, 0), NOW).unwrap();
    let floors = [(2, 0), (3, 0), (4, 3)];
    let floor = |end| page(&engine, &HistoryRead { end, ..ALL }).floor;
    assert_eq!(floors.map(|(end, _)| floor(end)), floors.map(|(_, floor)| floor));
}

#[test]
fn publications_expire_one_by_one_and_leave_the_disk() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    let long = "x".repeat(500);
    for n in 1..=60 {
        let expires_at = if n <= 50 { NOW + 10 } else { NOW + 100 };
        append_at(&mut engine, publication(&long, 1000, expires_at), NOW).unwrap();
    }
    let full = disk.list().unwrap().len();
    let left = |engine: &Engine, now: u32| page(engine, &HistoryRead { now, ..ALL }).publications.len();
    assert_eq!((left(&engine, NOW), left(&engine, NOW + 10), left(&engine, NOW + 100)), (60, 10, 0));
    engine.maintenance().pass(NOW + 10).unwrap();
    assert!(disk.list().unwrap().len() < full);
    assert_eq!((left(&engine, NOW + 10), page(&engine, &ALL).top), (10, 60));
    // A reader that asks for one that has expired is given those that have not.
    let read = HistoryRead { after: 40, limit: 2, now: NOW + 10, ..ALL };
    assert_eq!(page(&engine, &read).publications[0].offset, 51);
}

#[test]
fn a_compacted_head_keeps_number_epoch_and_version() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    let version = Version { number: 3, epoch: "v".to_owned() };
    for _ in 1..=60 {
        let mut append = publication(&"x".repeat(500), 10, NOW + 10);
        if let Append::Publication { publication, .. } = &mut append {
            publication.version = version.clone();
        }
        append_at(&mut engine, append, NOW).unwrap();
    }
    let epoch = page(&engine, &ALL).epoch;
    for n in 0..40 {
        send(&mut engine, "alice", &format!("{n}{}", "x".repeat(500)));
    }
    engine.maintenance().pass(NOW + 10).unwrap();
    drop(engine);
    let engine = open(&disk);
    let head = engine.reader().head(Class::History, "news").unwrap().unwrap();
    let Body::Stub(meta) = head.body else { panic!("{head:?}") };
    assert_eq!((head.offset, meta.version), (60, version));
    assert_eq!(page(&engine, &HistoryRead { now: NOW + 10, ..ALL }).epoch, epoch);
    assert_eq!(engine.reader().head(Class::History, "other"), Ok(None));
}

#[test]
fn a_history_that_was_forgotten_begins_with_another_epoch() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    let long = "x".repeat(500);
    let before = append_at(&mut engine, publication(&long, 10, NOW + 10), NOW).unwrap();
    for _ in 0..40 {
        append_at(&mut engine, publication(&long, 10, NOW + 10), NOW).unwrap();
    }
    let later = NOW + u32::try_from(settings().state_ttl.as_secs()).unwrap() + 1;
    for _ in 0..40 {
        send(&mut engine, "alice", &long);
    }
    engine.maintenance().pass(later).unwrap();
    assert_eq!(engine.reader().history(&HistoryRead { now: later, ..ALL }, None), Ok(None));
    let after = append_at(&mut engine, publication(&long, 10, later + 10), later).unwrap();
    assert_eq!(after.offset, 1);
    assert_ne!(after.epoch, before.epoch);
}

/// Pages with a trail are those without, from either end, whatever has expired or was dropped meanwhile.
#[test]
fn a_trail_changes_nothing_but_the_way() {
    let disk = FakeDisk::default();
    let mut engine = open(&disk);
    let mut trail = Trail::default();
    let mut random = 1_u64;
    let mut below = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let (mut now, mut most) = (NOW, 0);
    for round in 0..60 {
        for _ in 0..below(100) {
            let lifetime = [5, 40, 1000][usize::try_from(below(3)).unwrap()];
            append_at(&mut engine, publication("p", 2500, now + lifetime), now).unwrap();
        }
        if round == 40 {
            append_at(&mut engine, position(7, Version::default()), now).unwrap();
        }
        now += u32::try_from(below(4)).unwrap();
        for _ in 0..20 {
            let (newest_first, limit) = (below(2) == 0, usize::try_from(1 + below(400)).unwrap());
            let bytes = usize::try_from(below(40_000)).unwrap();
            let at = below(3200);
            let (after, before) = if newest_first { (0, at) } else { (at, u64::MAX) };
            let read = HistoryRead { after, before, limit, bytes, newest_first, now, ..ALL };
            let with = engine.reader().history(&read, Some(&mut trail)).unwrap();
            let without = engine.reader().history(&read, None).unwrap();
            let offsets = |page: &Option<HistoryPage>| -> Option<Vec<u64>> {
                Some(page.as_ref()?.publications.iter().map(|stored| stored.offset).collect())
            };
            assert_eq!(offsets(&with), offsets(&without), "{read:?}");
            most = most.max(trail.places.len());
            assert!(with.is_none_or(|with| with.more) || !without.is_some_and(|without| without.more));
        }
    }
    assert!(most > 5, "{most} places");
}

/// A page that is read in parts, and the same one read at once when it was begun.
struct Walked {
    way: HistoryWalk,
    read: HistoryRead<'static>,
    at_once: Vec<u64>,
    floor: u64,
    /// Passes of maintenance before it began.
    passes: u32,
}

fn numbers(page: &HistoryPage) -> Vec<u64> {
    page.publications.iter().map(|stored| stored.offset).collect()
}

/// Between two parts of a walk anything may happen to the channel: what was there when the walk began and still is, is on
/// the page; nothing else is, and no part looks at more than it may.
#[test]
fn a_walk_in_parts_finds_what_one_at_once_finds() {
    let mut engine = open(&FakeDisk::default());
    let mut trail = Trail::default();
    let mut random = 7_u64;
    let mut below = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let (mut now, mut walk, mut whole, mut rest) = (NOW, None::<Walked>, 0, 0);
    for round in 0..3000_u32 {
        for _ in 0..below(8) {
            let lifetime = [5, 40, 1000][usize::try_from(below(3)).unwrap()];
            append_at(&mut engine, publication("p", 700, now + lifetime), now).unwrap();
        }
        if round % 900 == 899 {
            append_at(&mut engine, position(7, Version::default()), now).unwrap();
        }
        if round % 50 == 49 {
            engine.maintenance().pass(now).unwrap();
        }
        now += u32::try_from(below(2)).unwrap();
        let mut going = walk.take().unwrap_or_else(|| {
            let newest_first = below(2) == 0;
            let limit = if below(3) == 0 { usize::MAX } else { usize::try_from(1 + below(400)).unwrap() };
            let bytes = usize::try_from(below(90_000)).unwrap();
            let top = page(&engine, &ALL).top;
            let at = top.saturating_sub(below(800));
            let (after, before) = if newest_first { (0, at) } else { (at, u64::MAX) };
            let read = HistoryRead { after, before, limit, bytes, newest_first, now, ..ALL };
            let at_once = page(&engine, &read);
            let way = engine.reader().history_walk(&read, Some(&mut trail)).unwrap();
            let floor = at_once.floor;
            Walked { way, read, floor, at_once: numbers(&at_once), passes: round / 50 }
        });
        going.way.resume();
        let given = usize::try_from(below(120)).unwrap();
        let mut budget = given;
        let Some(done) = going.way.go_on(&mut budget, Some(&mut trail)).unwrap() else {
            assert_eq!(budget, 0, "given up too early");
            walk = Some(going);
            continue;
        };
        let got = numbers(&done);
        let fresh = page(&engine, &HistoryRead { now, ..ALL });
        if fresh.floor == going.floor && round / 50 == going.passes {
            assert_eq!(got, going.at_once, "{:?}", going.read);
            whole += 1;
        } else {
            let (floor, left) = (fresh.floor, numbers(&fresh));
            let still_there = |offset: &&u64| **offset > floor && left.contains(offset);
            let mut kept = going.at_once.iter().filter(still_there);
            assert!(kept.all(|offset| got.contains(offset)), "{:?}: {got:?}", going.read);
            rest += 1;
        }
    }
    assert!(whole > 100 && rest > 100, "{whole} {rest}");
}

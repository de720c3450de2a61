//! Pages with memory are the pages without it.

use super::*;
use crate::log::pages::{Pages, StreamPage};
use crate::log::reader::Reader;

const PAGE: usize = 5;

fn page(pages: &mut Pages, reader: &Reader, user: &str, after: u64, now: u32) -> StreamPage {
    let mut budget = usize::MAX;
    pages.read(reader, (Class::Mailbox, user), after, PAGE, now, &mut budget).unwrap().unwrap()
}

fn offsets(page: &StreamPage) -> Vec<u64> {
    page.messages.iter().map(|stored| stored.offset).collect()
}

/// Offsets of all pages that a reader gets who begins behind `after`.
fn walk(pages: &mut Pages, reader: &Reader, user: &str, mut after: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    loop {
        let page = page(pages, reader, user, after, NOW);
        seen.extend(offsets(&page));
        after = seen.last().copied().unwrap_or(after);
        if page.is_last {
            return seen;
        }
    }
}

#[test]
fn a_reader_goes_on_and_nothing_is_remembered_of_who_is_done() {
    let mut engine = open(&FakeDisk::default());
    for n in 1..=23 {
        send(&mut engine, "alice", &format!("m{n}"));
    }
    let (reader, mut pages) = (engine.reader(), Pages::default());
    let first = page(&mut pages, &reader, "alice", 0, NOW);
    assert_eq!((offsets(&first), first.is_last, pages.remembered()), (vec![1, 2, 3], false, 1));
    // Where the page ended, in its middle, and where it began.
    for (after, expected) in [(3, vec![4, 5, 6, 7, 8]), (5, vec![6, 7, 8]), (5, vec![6, 7, 8])] {
        assert_eq!(offsets(&page(&mut pages, &reader, "alice", after, NOW)), expected);
        assert_eq!(pages.remembered(), 1, "the replay was resumed");
    }
    // Another reader of the same mailbox is another replay.
    assert_eq!(offsets(&page(&mut pages, &reader, "alice", 0, NOW)), [1, 2, 3]);
    assert_eq!(pages.remembered(), 2);
    assert_eq!(walk(&mut pages, &reader, "alice", 8), (9..=23).collect::<Vec<_>>());
    assert_eq!(walk(&mut pages, &reader, "alice", 3), (4..=23).collect::<Vec<_>>());
    assert_eq!(pages.remembered(), 0);
    assert!(page(&mut pages, &reader, "nobody", 0, NOW).is_last);
}

#[test]
fn what_came_meanwhile_follows() {
    let mut engine = open(&FakeDisk::default());
    for n in 1..=12 {
        send(&mut engine, "alice", &format!("m{n}"));
    }
    let (reader, mut pages) = (engine.reader(), Pages::default());
    assert_eq!(offsets(&page(&mut pages, &reader, "alice", 0, NOW)), [1, 2]);
    for n in 13..=20 {
        send(&mut engine, "alice", &format!("m{n}"));
    }
    let second = page(&mut pages, &reader, "alice", 2, NOW);
    assert_eq!((offsets(&second), second.is_last), (vec![3, 4, 5, 6, 7], false));
    let third = page(&mut pages, &reader, "alice", 7, NOW);
    assert_eq!((offsets(&third), third.is_last), (vec![8, 9, 10, 11, 12], false), "there is more by now");
    assert_eq!(walk(&mut pages, &reader, "alice", 12), (13..=20).collect::<Vec<_>>());
}

#[test]
fn readers_are_forgotten_beyond_the_bound() {
    let mut engine = open(&FakeDisk::default());
    for n in 1..=300 {
        for user in 0..2 {
            send(&mut engine, &format!("u{n}"), &format!("m{user}"));
        }
    }
    let (reader, mut pages, mut budget) = (engine.reader(), Pages::default(), usize::MAX);
    for n in 1..=300 {
        pages.read(&reader, (Class::Mailbox, &format!("u{n}")), 0, 1, NOW, &mut budget).unwrap();
    }
    assert_eq!(pages.remembered(), 256);
    let forgotten = pages.read(&reader, (Class::Mailbox, "u1"), 1, 1, NOW, &mut budget).unwrap().unwrap();
    assert_eq!((offsets(&forgotten), forgotten.is_last), (vec![2], true));
}

/// Whatever happens between two pages, the next one holds what a fresh reader would get first.
#[test]
fn pages_are_the_same_with_and_without_memory() {
    let mut unfinished = 0;
    for seed in 0..200 {
        let mut random = seed * 2_654_435_761 + 1;
        let mut below = move |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % bound
        };
        let disk = FakeDisk::default();
        let mut engine = open(&disk);
        let (reader, mut pages) = (engine.reader(), Pages::default());
        let (mut now, mut place) = (NOW, [0_u64; 3]);
        for _ in 0..60 {
            match below(8) {
                0..3 => {
                    for _ in 0..below(20) {
                        let mut request = message("alice", &format!("m{}", below(1000)));
                        if let Append::Message { expires_at, .. } = &mut request.append {
                            *expires_at = if below(3) == 0 { now + below(30) as u32 } else { 0 };
                        }
                        engine.append(vec![request, message("bob", "x")], now).unwrap();
                    }
                }
                3 => drop(engine.append(vec![acknowledge("alice", "", below(100))], now).unwrap()),
                4 => {
                    let purge = Append::Purge { class: Class::Mailbox, name: "alice".to_owned() };
                    if below(5) == 0 {
                        engine.append(vec![AppendRequest { token: 0, append: purge }], now).unwrap();
                    }
                }
                5 => drop(engine.maintenance().pass(now).unwrap()),
                6 => now += below(20) as u32,
                _ => {}
            }
            let who = usize::try_from(below(3)).unwrap();
            let after = if below(4) == 0 { below(place[who] + 1) } else { place[who] };
            // The way back is walked in parts, and everything above may happen between two of them.
            let mut budget = if below(2) == 0 { usize::MAX } else { usize::try_from(below(12)).unwrap() };
            let got = pages.read(&reader, (Class::Mailbox, "alice"), after, PAGE, now, &mut budget).unwrap();
            let Some(got) = got else {
                assert_eq!(budget, 0, "seed {seed}: given up before the budget was");
                unfinished += 1;
                continue;
            };
            let fresh = walk_fresh(&reader, after, now);
            let got_offsets = offsets(&got);
            assert!(fresh.starts_with(&got_offsets), "seed {seed}: {got_offsets:?} of {fresh:?}");
            if got.is_last {
                assert_eq!(got_offsets, fresh, "seed {seed}: nothing may follow");
            }
            place[who] = got_offsets.last().copied().unwrap_or(after);
        }
    }
    assert!(unfinished > 1000, "{unfinished}");
}

fn walk_fresh(reader: &Reader, after: u64, now: u32) -> Vec<u64> {
    let Some(mut replay) = reader.replay(Class::Mailbox, "alice", after, 1000, now) else {
        return Vec::new();
    };
    let mut seen = Vec::new();
    loop {
        let page = replay.next_page().unwrap();
        if page.is_empty() {
            return seen;
        }
        seen.extend(page.iter().map(|stored| stored.offset));
    }
}

//! The turns of the office: what long reads and the end of the process leave undone, and whom that does not concern.

use millpond::hub::api::{ApiAnswer, ApiCommand, ApiError, Position};
use millpond::hub::mail::{Mail, Origin, Subscribed, Ticket};
use millpond::hub::store::{OpenAsk, PageKind, StoreAsk, StoreMail};
use millpond::log::error::StorageError;
use millpond::log::fake::Fault;
use millpond::log::segment::segment_name;

use crate::bench::{Bench, KEY, offsets, owner, sent};

fn open(since: Option<Position>) -> StoreAsk {
    StoreAsk::Open(Box::new(OpenAsk {
        origin: Origin::Connection(Ticket { key: KEY, number: 1 }),
        channel: "#ann".into(),
        owner: owner(""),
        since,
        reject_unrecovered: false,
        granted: Subscribed { positioned: true, recoverable: true, ..Subscribed::default() },
    }))
}

/// At the end the log is given what is there already, and nothing new: else it would never come to its end under load.
#[test]
fn at_the_end_nothing_new_is_stored_and_every_call_is_answered() {
    let mut bench = Bench::new();
    bench.send(&["ann"], "1", "");
    bench.office.hasten(bench.now());
    let late = bench.send(&["ann"], "2", "");
    assert!(matches!(bench.answer(late), ApiAnswer::Error(ApiError::StorageUnavailable)));
    assert_eq!(bench.desk.queued(), 1);
    let list = bench.call(ApiCommand::MailboxList { user: "ann".into(), since: 0, limit: 1 });
    assert!(matches!(bench.answer(list), ApiAnswer::Error(ApiError::StorageUnavailable)));
    bench.run();
    assert_eq!(sent(&bench.answers().pop().unwrap().1), [Ok(1)]);
    assert!(bench.office.is_idle());
}

/// Nor does it wait for a disk that will not have what pongs said: those messages come again after the start.
#[test]
fn at_the_end_an_acknowledgement_that_fails_is_not_tried_again() {
    let mut bench = Bench::new();
    bench.send(&["ann"], "1", "");
    bench.run();
    bench.acknowledge("", 1, false);
    bench.disk.inject(Fault::Sync(StorageError::Device), 0);
    bench.office.hasten(bench.now());
    bench.run();
    assert_eq!((bench.office.figures().ack_failures, bench.cursor("")), (1, 0));
    assert!(bench.office.is_idle(), "the end waits for nothing any more");
}

/// A long way back through a mailbox is gone in parts, between which sends are stored and answered.
#[test]
fn the_way_through_a_long_mailbox_holds_no_send_up() {
    let mut bench = Bench::new();
    for number in 0..200 {
        bench.send(&["ann"], &number.to_string(), "");
    }
    bench.run();
    bench.answers();
    bench.mail();
    bench.office.set_reading_share(30);
    bench.office.ask(open(None), bench.now());
    bench.office.ask(open(None), bench.now());
    let list = bench.call(ApiCommand::MailboxList { user: "ann".into(), since: 5, limit: 2 });
    let (mut turns, mut opened, mut listed) = (0, Vec::new(), None);
    while opened.len() < 2 || listed.is_none() {
        turns += 1;
        assert!(turns < 100, "never done");
        let id = bench.send(&["bob"], "x", "");
        bench.run();
        for (of, answer) in bench.answers() {
            match answer {
                ApiAnswer::Sent(results) => assert_eq!((of, results.len()), (id, 1), "within the turn"),
                ApiAnswer::MailboxList { messages, .. } => {
                    assert_eq!(of, list);
                    listed = Some(messages.iter().map(|of| of.offset).collect::<Vec<_>>());
                }
                other => panic!("{other:?}"),
            }
        }
        for mail in bench.mail() {
            if let Mail::Store(mail) = mail
                && let StoreMail::Opened { result, .. } = *mail
            {
                opened.push(offsets(&result.unwrap()));
            }
        }
    }
    assert!(turns >= 4, "{turns} sends were answered while 400 records were looked at, 30 a turn");
    assert_eq!((opened, listed), (vec![vec![1, 2, 3, 4]; 2], Some(vec![6, 7])));
    assert!(!bench.office.is_reading());
}

/// Whoever waits its turn is answered from what the log has then, and what it has later comes live.
#[test]
fn a_reader_that_waits_its_turn_misses_nothing() {
    let mut bench = Bench::new();
    for number in 0..40 {
        bench.send(&["ann"], &number.to_string(), "");
    }
    bench.run();
    bench.mail();
    let epoch = bench.open("", None).position.epoch;
    bench.office.set_reading_share(1);
    bench.office.settle(bench.now());
    bench.office.ask(open(Some(Position { offset: 30, epoch })), bench.now());
    let mut opened = None;
    for number in 40..60 {
        bench.send(&["ann"], &number.to_string(), "");
        bench.run();
        for mail in bench.mail() {
            if let Mail::Store(mail) = mail
                && let StoreMail::Opened { result, .. } = *mail
            {
                opened = Some((result.unwrap(), number));
            }
        }
    }
    let (granted, number) = opened.expect("an answer");
    assert!(number > 41, "it waited");
    let mut seen = offsets(&granted);
    let grant = granted.mailbox.unwrap();
    // More came meanwhile, so the session asks on, and skips what is live until it is at the top.
    assert_eq!((grant.next, seen.first()), (PageKind::More, Some(&31)));
    bench.office.set_reading_share(usize::MAX);
    bench.office.settle(bench.now());
    loop {
        let (kind, page) = bench.page(StoreAsk::More, *seen.last().unwrap(), grant.epoch);
        seen.extend(page);
        if kind == PageKind::Last {
            break;
        }
    }
    assert_eq!(seen, (31..=60).collect::<Vec<_>>());
}

/// A page behind a damaged message is looked for anew, and that may be longer than what a turn looks at.
#[test]
fn the_list_of_a_damaged_mailbox_comes_to_its_end() {
    let mut bench = Bench::new();
    for number in 0..1_000 {
        bench.send(&["ann"], &format!("the text number {number}."), "");
    }
    bench.run();
    bench.answers();
    bench.mail();
    let (name, text) = (segment_name(1), b"the text number 7.");
    let segment = bench.disk.contents(&name).unwrap();
    let place = segment.windows(text.len()).position(|bytes| bytes == text).unwrap();
    bench.disk.flip(&name, place, 1);
    bench.office.set_reading_share(205);
    bench.office.settle(bench.now());
    let list = bench.call(ApiCommand::MailboxList { user: "ann".into(), since: 0, limit: 64 });
    bench.office.ask(open(None), bench.now());
    let (mut listed, mut opened) = (None, None);
    for _ in 0..40 {
        bench.office.settle(bench.now());
        for (id, answer) in bench.answers() {
            let ApiAnswer::MailboxList { messages, .. } = answer else { panic!("{answer:?}") };
            assert_eq!(id, list);
            listed = Some(messages.iter().map(|of| of.offset).collect::<Vec<_>>());
        }
        for mail in bench.mail() {
            if let Mail::Store(mail) = mail
                && let StoreMail::Opened { result, .. } = *mail
            {
                opened = Some(offsets(&result.unwrap()));
            }
        }
    }
    let expected: Vec<_> = (1..=65).filter(|offset| *offset != 8).collect();
    assert_eq!(listed, Some(expected));
    assert_eq!(opened, Some(vec![1, 2, 3, 4]), "who waited behind it");
    assert!(!bench.office.is_reading());
}

//! Dead letters in a durable history: whatever fails in between, a message is in its mailbox or there.

use millpond::hub::mail::{HomeAsk, HomeOp, Mail, Origin};
use millpond::hub::settings::Settings;
use millpond::hub::store::{HistoryAnswer, PageAsk, PageKind, StoreAsk, StoreMail};
use millpond::log::error::StorageError;
use millpond::log::fake::{FakeDisk, Fate, Fault};
use millpond::log::settings::{LogSettings, MailboxLimits};
use serde_json::Value;

use crate::bench::{Bench, KEY, owner, settings};
use crate::desk::log_settings;

const DEAD: &str = "hist:dead";

fn durable() -> Settings {
    let mut settings = settings();
    let namespace = settings.channel.namespaces["hist"];
    settings.channel.options[usize::from(namespace)].history_durable = true;
    settings.mailbox.as_mut().unwrap().dead_letter_channel = DEAD.into();
    settings
}

fn log() -> LogSettings {
    log_settings(MailboxLimits::default())
}

fn bench(disk: FakeDisk) -> Bench {
    Bench::of(&durable(), disk, log())
}

/// Ann has these messages, all of them delivered as often as may be; returns the epoch.
fn exhausted(bench: &mut Bench, messages: &[&str]) -> u32 {
    for data in messages {
        bench.send(&["ann"], data, "");
    }
    bench.run();
    let epoch = bench.open("", None).mailbox.unwrap().epoch;
    deliver(bench, messages.len() as u64, epoch);
    epoch
}

/// Until one more delivery would be one too many.
fn deliver(bench: &mut Bench, through: u64, epoch: u32) {
    for _ in 0..2 {
        let (_, sent) = bench.page(StoreAsk::Redeliver, through, epoch);
        assert_eq!(sent.last(), Some(&through));
        bench.tick += 1600;
    }
}

/// `ack_wait` is over once more. Mail stays where it is.
fn once_more(bench: &mut Bench, after: u64, epoch: u32) {
    let ask = PageAsk { key: KEY, channel: "#ann".into(), owner: owner(""), after, epoch };
    bench.office.ask(StoreAsk::Redeliver(Box::new(ask)), bench.now());
}

/// What stands in the dead-letter channel.
fn dead(bench: &mut Bench) -> Vec<Value> {
    bench.mail();
    let op = HomeOp::History { limit: -1, cap: 0, since: None, reverse: false };
    let (channel, namespace) = (DEAD.into(), durable().channel.namespaces["hist"]);
    let ask = HomeAsk { channel, hash: 0, namespace, origin: Origin::Api(1), op };
    bench.office.ask(StoreAsk::History(Box::new(ask)), bench.now());
    bench.run();
    let letters = bench.mail().into_iter().find_map(|mail| match mail {
        Mail::Store(mail) => match *mail {
            StoreMail::History(mail) => match mail.answer {
                HistoryAnswer::Page(publications, _) => Some(publications),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    let letters = letters.expect("a history");
    letters.iter().map(|letter| serde_json::from_slice(&letter.data).unwrap()).collect()
}

fn numbers(letters: &[Value]) -> Vec<u64> {
    letters.iter().map(|letter| letter["offset"].as_u64().unwrap()).collect()
}

#[test]
fn the_cursor_waits_until_the_log_has_the_letters() {
    let mut bench = bench(FakeDisk::default());
    let epoch = exhausted(&mut bench, &["1", "2", "3"]);
    once_more(&mut bench, 3, epoch);
    bench.office.settle(bench.now());
    assert_eq!(
        (bench.desk.queued(), bench.office.figures().dead_lettered),
        (3, 0),
        "letters and nothing else"
    );
    // Whoever asks meanwhile is sent nothing of it again, and is not told that it is done with.
    assert_eq!(bench.page(StoreAsk::Redeliver, 3, epoch), (PageKind::Again { through: 0 }, vec![]));
    bench.commit();
    assert_eq!(bench.desk.queued(), 0);
    bench.hand_out();
    assert_eq!((bench.desk.queued(), bench.cursor("")), (1, 0), "now the acknowledgement");
    bench.run();
    assert_eq!((bench.cursor(""), bench.office.figures().dead_lettered), (3, 3));
    assert_eq!(numbers(&dead(&mut bench)), [1, 2, 3]);
    assert_eq!(bench.page(StoreAsk::Redeliver, 3, epoch), (PageKind::Again { through: 3 }, vec![]));
    assert!(bench.office.is_idle());
}

/// The log has the letters and is slow with the cursor: messages that come to their end once more have their letters.
#[test]
fn letters_are_stored_once_while_the_cursor_waits() {
    let mut bench = bench(FakeDisk::default());
    let epoch = exhausted(&mut bench, &["1", "2", "3"]);
    once_more(&mut bench, 3, epoch);
    bench.office.settle(bench.now());
    bench.commit();
    bench.hand_out();
    for _ in 0..4 {
        once_more(&mut bench, 3, epoch);
        bench.office.settle(bench.now());
        bench.tick += 1600;
    }
    assert_eq!(bench.cursor(""), 0, "nothing was committed since");
    bench.run();
    assert_eq!((bench.cursor(""), numbers(&dead(&mut bench))), (3, vec![1, 2, 3]));
    assert!(bench.office.is_idle());
}

/// The power goes at every step between the last delivery and the acknowledgement.
#[test]
fn a_crash_at_any_step_leaves_a_message_in_one_place_at_least() {
    for steps in 0..6 {
        let mut bench = bench(FakeDisk::default());
        let epoch = exhausted(&mut bench, &["1", "2", "3"]);
        once_more(&mut bench, 3, epoch);
        for _ in 0..steps {
            bench.desk.commit(1, crate::bench::SECONDS);
            bench.hand_out();
        }
        let cut = bench.disk.crash(bench.disk.pending_names(), |_| Fate::Lost);
        let mut after = self::bench(cut);
        let cursor = after.cursor("");
        let letters = numbers(&dead(&mut after));
        assert!((1..=cursor).all(|offset| letters.contains(&offset)), "{steps}: {cursor}, {letters:?}");
        assert_eq!(cursor, if steps < 4 { 0 } else { 3 });
    }
}

#[test]
fn a_letter_that_the_log_refuses_leaves_its_message_and_is_tried_again() {
    let mut bench = bench(FakeDisk::default());
    let epoch = exhausted(&mut bench, &["1", "2", "3"]);
    once_more(&mut bench, 3, epoch);
    bench.desk.commit(1, crate::bench::SECONDS);
    bench.disk.inject(Fault::Sync(StorageError::Device), 0);
    bench.run();
    let figures = bench.office.figures();
    assert_eq!((figures.dead_lettered, figures.dead_letter_failures), (1, 2));
    assert_eq!(bench.cursor(""), 1, "of the first one the log has the letter");
    assert!(bench.office.is_idle());
    bench.mail();
    // The session's timer comes again.
    bench.tick += 3200;
    once_more(&mut bench, 3, epoch);
    bench.run();
    assert_eq!((bench.cursor(""), bench.office.figures().dead_lettered), (3, 3));
    assert_eq!(numbers(&dead(&mut bench)), [1, 2, 3]);
}

#[test]
fn a_letter_that_is_too_large_is_stored_without_what_makes_it_so() {
    let mut bench = bench(FakeDisk::default());
    let large = format!("\"{}\"", "x".repeat(1998));
    let epoch = exhausted(&mut bench, &["1", &large]);
    once_more(&mut bench, 2, epoch);
    bench.run();
    assert_eq!((bench.cursor(""), bench.office.figures().dead_letters_cut), (2, 1));
    let letters = dead(&mut bench);
    assert_eq!(numbers(&letters), [1, 2]);
    assert_eq!((&letters[0]["data"], letters[0].get("size")), (&1.into(), None));
    let cut = letters[1].as_object().unwrap();
    assert_eq!(
        (&cut["size"], &cut["user"], &cut["reason"]),
        (&2000.into(), &"ann".into(), &"max_deliveries".into())
    );
    assert!(!cut.contains_key("data") && !cut.contains_key("b64data") && cut["id"].is_string());
}

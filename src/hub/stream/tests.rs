//! Tests of streams.

use proptest::prelude::*;

use super::*;
use crate::base::rng::Rng;
use crate::hub::api::{Member, Position, StoredPublication};

mod model;

const RETENTION: Retention = Retention { size: 5, ttl: 100, meta_ttl: 1_000 };

fn epoch(letters: &[u8; 8]) -> Epoch {
    Epoch::from_letters(*letters).unwrap()
}

fn unexpected() -> Epoch {
    panic!("the stream has not expired")
}

fn draft(number: u64) -> Draft<'static> {
    Draft { data: Bytes::from(number.to_string()), ..Draft::default() }
}

fn append(stream: &mut Stream, now: Tick, draft: Draft<'_>) -> Option<u64> {
    match stream.access(&RETENTION, now, unexpected).append(draft) {
        Appended::Published(publication) => Some(publication.offset),
        Appended::Suppressed => None,
    }
}

/// A stream with publications 1 to `top`, of which the newest five are kept.
fn stream_with(top: u64) -> Stream {
    let mut stream = Stream::new(epoch(b"abcdEFGH"), &RETENTION, Tick(0));
    for number in 1..=top {
        assert_eq!(append(&mut stream, Tick(0), draft(number)), Some(number));
    }
    stream
}

fn offsets(publications: Publications<'_>) -> Vec<u64> {
    publications.map(|publication| publication.offset).collect()
}

/// What a recovery said: recovered, offset of the reply, offsets of the publications.
fn recover(
    stream: &mut Stream,
    now: u32,
    since: Since<'_>,
    mode: RecoveryMode,
    limit: u32,
) -> (bool, u64, Vec<u64>) {
    let recovery = stream.access(&RETENTION, Tick(now), unexpected).recover(since, mode, limit);
    (recovery.recovered, recovery.offset, offsets(recovery.publications))
}

/// Every line of "recovery decision, stream mode" in section 4, and the recoveries of golden-traces.txt.
#[test]
fn stream_recovery_decides_as_section_4_says() {
    let own = "abcdEFGH";
    let table = [
        // top, offset asked, epoch asked, limit => recovered, offset of the reply, publications
        (0, 0, "", 300, true, 0, vec![]),
        (0, 0, own, 300, true, 0, vec![]),
        (0, 0, "_", 300, false, 0, vec![]),
        (0, 1, "", 300, false, 0, vec![]),
        (2, 1, own, 300, true, 1, vec![2]),
        (2, 1, "", 300, true, 1, vec![2]),
        (2, 1, "_", 300, false, 2, vec![]),
        (2, 1, "abcdEFGI", 300, false, 2, vec![]),
        (2, 1, "abcdEFG", 300, false, 2, vec![]),
        (2, 99, "", 300, false, 2, vec![]),
        (2, 99, own, 300, false, 2, vec![]),
        (2, 3, own, 300, false, 2, vec![]),
        (2, u64::MAX, own, 300, false, 2, vec![]),
        (2, 2, own, 300, true, 2, vec![]),
        (2, 2, "", 300, true, 2, vec![]),
        (2, 2, "_", 300, false, 2, vec![]),
        (2, 0, own, 300, true, 0, vec![1, 2]),
        // The window is 5 to 9.
        (9, 4, own, 300, true, 4, vec![5, 6, 7, 8, 9]),
        (9, 3, own, 300, false, 9, vec![]),
        (9, 0, own, 300, false, 9, vec![]),
        (9, 0, "", 300, false, 9, vec![]),
        (9, 8, own, 300, true, 8, vec![9]),
        // A limit that cuts the answer short of the top.
        (9, 4, own, 5, true, 4, vec![5, 6, 7, 8, 9]),
        (9, 4, own, 4, false, 9, vec![]),
        (9, 8, own, 1, true, 8, vec![9]),
        (9, 7, own, 1, false, 9, vec![]),
        (9, 9, own, 1, true, 9, vec![]),
        (9, 4, own, 0, true, 4, vec![5, 6, 7, 8, 9]),
    ];
    for (top, offset, epoch, limit, recovered, reply, publications) in table {
        let mut stream = stream_with(top);
        let actual = recover(&mut stream, 0, Since { offset, epoch }, RecoveryMode::Stream, limit);
        assert_eq!(
            actual,
            (recovered, reply, publications),
            "top {top}, asked {offset} {epoch:?}, limit {limit}"
        );
    }
}

#[test]
fn stream_recovery_without_data_succeeds_only_at_the_top() {
    let lost: [fn(&mut Stream) -> u32; 2] = [
        |_| 100,
        |stream| {
            stream.access(&RETENTION, Tick(50), unexpected).remove();
            50
        },
    ];
    for lose in lost {
        let mut stream = stream_with(3);
        let now = lose(&mut stream);
        for (offset, epoch, recovered, reply) in [
            (3, "abcdEFGH", true, 3),
            (3, "", true, 3),
            (3, "_", false, 3),
            (2, "abcdEFGH", false, 3),
            (0, "", false, 3),
            (4, "", false, 3),
        ] {
            let actual = recover(&mut stream, now, Since { offset, epoch }, RecoveryMode::Stream, 300);
            assert_eq!(actual, (recovered, reply, vec![]), "{offset} {epoch:?}");
        }
        assert_eq!(append(&mut stream, Tick(now), draft(4)), Some(4));
        let since = Since { offset: 3, epoch: "abcdEFGH" };
        assert_eq!(recover(&mut stream, now, since, RecoveryMode::Stream, 300), (true, 3, vec![4]));
        let since = Since { offset: 2, epoch: "abcdEFGH" };
        assert_eq!(recover(&mut stream, now, since, RecoveryMode::Stream, 300), (false, 4, vec![]));
    }
}

#[test]
fn cache_recovery_hands_out_the_newest_only() {
    let own = "abcdEFGH";
    let table = [
        // top, data expired, offset asked, epoch asked => recovered, offset of the reply, publications
        (0, false, 0, "", false, 0, vec![]),
        (0, false, 0, own, false, 0, vec![]),
        (9, false, 0, "", true, 0, vec![9]),
        (9, false, 8, own, true, 8, vec![9]),
        (9, false, 2, own, true, 2, vec![9]),
        (9, false, 9, own, true, 9, vec![]),
        // Another epoch, or none, is another state: the newest publication settles it.
        (9, false, 9, "", true, 9, vec![9]),
        (9, false, 9, "_", true, 9, vec![9]),
        (9, false, 0, "_", true, 0, vec![9]),
        (9, false, 12, own, true, 12, vec![9]),
        (9, true, 8, own, false, 9, vec![]),
        (9, true, 9, own, true, 9, vec![]),
        (9, true, 9, "_", false, 9, vec![]),
        (9, true, 0, "", false, 9, vec![]),
    ];
    for (top, expired, offset, epoch, recovered, reply, publications) in table {
        let mut stream = stream_with(top);
        let now = if expired { 100 } else { 0 };
        let actual = recover(&mut stream, now, Since { offset, epoch }, RecoveryMode::Cache, 300);
        assert_eq!(actual, (recovered, reply, publications), "top {top}, asked {offset} {epoch:?}");
    }
}

#[test]
fn history_pages_hold_what_was_asked_for() {
    let since = |offset| Some(Since { offset, epoch: "abcdEFGH" });
    let table = [
        // limit, since, reverse, max => publications (the window is 5 to 9)
        (0, None, false, 300, vec![]),
        (0, None, true, 300, vec![]),
        (0, since(6), false, 300, vec![]),
        (-1, None, false, 300, vec![5, 6, 7, 8, 9]),
        (i32::MIN, None, false, 300, vec![5, 6, 7, 8, 9]),
        (-1, None, true, 300, vec![9, 8, 7, 6, 5]),
        (-1, None, false, 3, vec![5, 6, 7]),
        (-1, None, true, 3, vec![9, 8, 7]),
        (-1, None, false, 0, vec![5, 6, 7, 8, 9]),
        (2, None, false, 300, vec![5, 6]),
        (2, None, true, 300, vec![9, 8]),
        (4, None, false, 3, vec![5, 6, 7]),
        (i32::MAX, None, false, 300, vec![5, 6, 7, 8, 9]),
        (-1, since(6), false, 300, vec![7, 8, 9]),
        (2, since(6), false, 300, vec![7, 8]),
        (-1, since(9), false, 300, vec![]),
        (-1, since(99), false, 300, vec![]),
        (-1, since(u64::MAX), false, 300, vec![]),
        // Older than the window: it starts at the oldest.
        (-1, since(0), false, 300, vec![5, 6, 7, 8, 9]),
        (2, since(1), false, 300, vec![5, 6]),
        (-1, since(7), true, 300, vec![6, 5]),
        (1, since(7), true, 300, vec![6]),
        (-1, since(5), true, 300, vec![]),
        (-1, since(1), true, 300, vec![]),
        (2, since(10), true, 300, vec![9, 8]),
        (2, since(u64::MAX), true, 300, vec![9, 8]),
        (-1, Some(Since { offset: 7, epoch: "" }), false, 300, vec![8, 9]),
    ];
    let mut stream = stream_with(9);
    for (limit, since, reverse, max, publications) in table {
        let query = HistoryQuery { limit, since, reverse, max };
        let page = stream.access(&RETENTION, Tick(0), unexpected).read(&query).unwrap();
        assert_eq!(page.top, StreamPosition { offset: 9, epoch: epoch(b"abcdEFGH") });
        assert_eq!(page.publications.len(), publications.len());
        assert_eq!(offsets(page.publications), publications, "{query:?}");
    }
}

#[test]
fn history_refuses_what_it_cannot_answer() {
    let table = [
        (false, 3, "_", HistoryFault::UnrecoverablePosition),
        (false, 0, "zzzzzzzz", HistoryFault::UnrecoverablePosition),
        (true, 3, "_", HistoryFault::UnrecoverablePosition),
        (true, 0, "abcdEFGH", HistoryFault::BadRequest),
        (true, 0, "", HistoryFault::BadRequest),
        (true, 0, "_", HistoryFault::BadRequest),
    ];
    let mut stream = stream_with(9);
    for (reverse, offset, epoch, fault) in table {
        for limit in [-1, 0, 1] {
            let query = HistoryQuery { limit, since: Some(Since { offset, epoch }), reverse, max: 300 };
            let page = stream.access(&RETENTION, Tick(0), unexpected).read(&query);
            assert_eq!(page.map(|page| page.top).unwrap_err(), fault, "{query:?}");
        }
    }
}

#[test]
fn data_lives_for_the_ttl_after_the_last_publication() {
    let mut stream = stream_with(2);
    assert_eq!(append(&mut stream, Tick(90), draft(3)), Some(3));
    assert_eq!(stream.next_expiry(), Tick(190));
    assert!(!stream.expire(Tick(189)));
    assert_eq!(stream.len(), 3);
    assert!(!stream.expire(Tick(190)));
    assert!(stream.is_empty());
    assert_eq!(stream.memory_bytes(), 0);
    assert_eq!(stream.next_expiry(), Tick(1_090));
    assert_eq!(append(&mut stream, Tick(200), draft(4)), Some(4), "the numbers go on");
}

#[test]
fn offset_and_epoch_live_for_the_meta_ttl_after_the_last_access() {
    let mut stream = stream_with(2);
    let top = stream.access(&RETENTION, Tick(999), unexpected).position();
    assert_eq!(top, StreamPosition { offset: 2, epoch: epoch(b"abcdEFGH") });
    assert!(!stream.expire(Tick(1_998)));
    assert!(stream.expire(Tick(1_999)));
    let fresh = stream.access(&RETENTION, Tick(1_999), || epoch(b"freshone")).position();
    assert_eq!(fresh, StreamPosition { offset: 0, epoch: epoch(b"freshone") });
    let since = Since { offset: 2, epoch: "abcdEFGH" };
    assert_eq!(recover(&mut stream, 1_999, since, RecoveryMode::Stream, 300), (false, 0, vec![]));
}

#[test]
fn data_is_not_outlived_by_its_position() {
    let retention = Retention { size: 5, ttl: 100, meta_ttl: 10 };
    let mut stream = Stream::new(epoch(b"abcdEFGH"), &retention, Tick(0));
    stream.access(&retention, Tick(0), unexpected).append(draft(1));
    assert!(!stream.expire(Tick(99)));
    assert_eq!(stream.len(), 1);
    assert!(stream.expire(Tick(100)));
}

#[test]
fn versions_suppress_what_is_not_newer() {
    let versioned = |version, version_epoch| Draft { version, version_epoch, ..draft(0) };
    let mut stream = stream_with(0);
    let table = [
        (5, "", Some(1)),
        (5, "", None),
        (4, "", None),
        (0, "", Some(2)),
        (5, "", None),
        (6, "", Some(3)),
        // Another epoch starts over, in both directions.
        (1, "a", Some(4)),
        (1, "a", None),
        (2, "a", Some(5)),
        (1, "b", Some(6)),
        (2, "a", Some(7)),
        // Without an epoch the number alone counts.
        (2, "", None),
        (3, "", Some(8)),
    ];
    for (version, version_epoch, expected) in table {
        let actual = append(&mut stream, Tick(0), versioned(version, version_epoch));
        assert_eq!(actual, expected, "{version} {version_epoch:?}");
    }
    stream.access(&RETENTION, Tick(0), unexpected).remove();
    assert_eq!(append(&mut stream, Tick(0), versioned(3, "")), None, "removing data keeps the version");
    assert!(stream.expire(Tick(5_000)));
    let mut access = stream.access(&RETENTION, Tick(5_000), || epoch(b"freshone"));
    assert!(matches!(access.append(versioned(3, "")), Appended::Published(_)), "a new stream has none");
}

#[test]
fn a_suppressed_publication_leaves_no_trace() {
    let mut stream = stream_with(0);
    append(&mut stream, Tick(0), Draft { version: 1, ..draft(0) });
    let bytes = stream.memory_bytes();
    append(&mut stream, Tick(60), Draft { version: 1, ..draft(0) });
    assert_eq!((stream.len(), stream.memory_bytes(), stream.next_expiry()), (1, bytes, Tick(100)));
}

#[test]
fn nothing_is_kept_where_the_size_is_zero() {
    let retention = Retention { size: 0, ..RETENTION };
    let mut stream = Stream::new(epoch(b"abcdEFGH"), &retention, Tick(0));
    let mut access = stream.access(&retention, Tick(0), unexpected);
    assert!(matches!(access.append(draft(1)), Appended::Published(publication) if publication.offset == 1));
    assert_eq!(access.position().offset, 1);
    assert_eq!((stream.len(), stream.memory_bytes()), (0, 0));
}

#[test]
fn memory_follows_what_is_kept() {
    let mut stream = stream_with(0);
    let mut retained = 0;
    for number in 0..20_usize {
        let tags: Box<[_]> = vec![("name".to_owned(), "x".repeat(number))].into();
        let publisher = Publisher::new("user", "client", Some(b"{}"), None);
        let data = Bytes::from(vec![b'x'; 100 * number]);
        append(&mut stream, Tick(0), Draft { data, tags, publisher: Some(publisher), ..Draft::default() });
        retained = stream.kept.iter().map(|publication| publication.memory_bytes()).sum();
        assert_eq!(stream.memory_bytes(), retained + stream.kept.capacity() * size_of::<usize>());
    }
    assert!(retained > 100 * (15 + 16 + 17 + 18 + 19));
    assert!(stream.kept.capacity() <= 5, "no more room than the size allows");
    stream.access(&RETENTION, Tick(0), unexpected).remove();
    assert_eq!(stream.memory_bytes(), 0);
}

#[test]
fn a_stored_publication_says_what_was_published() {
    let mut stream = stream_with(1);
    let publisher = Publisher::new("u", "client", Some(b"{\"a\":1}"), None);
    let tags: Box<[_]> = vec![("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into();
    let draft = Draft { publisher: Some(publisher), tags, version: 9, ..draft(2) };
    append(&mut stream, Tick(0), draft);
    let query = HistoryQuery { limit: -1, ..HistoryQuery::default() };
    let page = stream.access(&RETENTION, Tick(0), unexpected).read(&query).unwrap();
    let stored: Vec<StoredPublication> =
        page.publications.map(|publication| (&**publication).into()).collect();
    let plain =
        StoredPublication { offset: 1, data: Bytes::from_static(b"1"), ..StoredPublication::default() };
    let full = StoredPublication {
        offset: 2,
        data: Bytes::from_static(b"2"),
        info: Some(Member {
            client: "client".into(),
            user: "u".into(),
            conn_info: Some(Bytes::from_static(b"{\"a\":1}")),
            chan_info: None,
        }),
        tags: vec![("b".into(), "2".into()), ("a".into(), "1".into())],
        version: 9,
    };
    assert_eq!(stored, [plain, full]);
    assert_eq!(Position::from(page.top), Position { offset: 2, epoch: "abcdEFGH".into() });
}

#[test]
fn an_epoch_is_eight_letters() {
    assert!(Epoch::from_letters(*b"abcdefg_").is_none());
    assert!(Epoch::from_letters(*b"abcdefg1").is_none());
    assert_eq!(epoch(b"azAZbyBY").as_str(), "azAZbyBY");
    let random = Epoch::random(&mut Rng::new(1));
    assert!(random.as_str().bytes().all(|byte| byte.is_ascii_alphabetic()));
    assert_ne!(random, Epoch::random(&mut Rng::new(2)));
}

#[test]
fn a_live_publication_is_next_or_old_or_too_far() {
    let at = |offset, letters| StreamPosition { offset, epoch: epoch(letters) };
    let subscriber = at(7, b"abcdEFGH");
    for (publication, expected) in [
        (at(8, b"abcdEFGH"), Arrival::Deliver),
        (at(7, b"abcdEFGH"), Arrival::Skip),
        (at(1, b"abcdEFGH"), Arrival::Skip),
        (at(9, b"abcdEFGH"), Arrival::Insufficient),
        (at(8, b"freshone"), Arrival::Insufficient),
        (at(7, b"freshone"), Arrival::Insufficient),
        (at(1, b"freshone"), Arrival::Insufficient),
    ] {
        assert_eq!(arrival(subscriber, publication), expected, "{publication:?}");
    }
}

proptest! {
    #[test]
    fn a_publisher_is_unpacked_as_it_was_packed(
        user in ".{0,40}", client in ".{0,40}",
        conn_info in prop::option::of(prop::collection::vec(any::<u8>(), 0..50)),
        chan_info in prop::option::of(prop::collection::vec(any::<u8>(), 0..50)),
    ) {
        let publisher = Publisher::new(&user, &client, conn_info.as_deref(), chan_info.as_deref());
        prop_assert_eq!(publisher.user(), user);
        prop_assert_eq!(publisher.client(), client);
        prop_assert_eq!(publisher.conn_info(), conn_info.as_deref());
        prop_assert_eq!(publisher.chan_info(), chan_info.as_deref());
    }
}

//! Every byte of a 64 KiB log damaged, and arbitrary bytes in the place of a segment: never a panic, never a wrong byte
//! delivered (bad-input.md S03 to S08), and damage below the watermark never goes unnoticed.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests stop at a surprise"
)]

use bytes::Bytes;
use millpond::log::body::{Body, Message};
use millpond::log::engine::Engine;
use millpond::log::fake::FakeDisk;
use millpond::log::record::{Class, Sequence};
use millpond::log::request::{Append, AppendRequest};
use millpond::log::segment::segment_name;
use millpond::log::settings::LogSettings;
use millpond::log::storage::Storage;
use proptest::prelude::*;

const NOW: u32 = 1;
const USERS: [&str; 4] = ["anna", "ben", "chris", "dora"];
const SEGMENTS: u64 = 4;

fn settings() -> LogSettings {
    LogSettings { segment_bytes: 16 << 10, batch_bytes: 4 << 10, seed: [5; 16], ..LogSettings::default() }
}

fn text(sequence: u64) -> String {
    format!("{sequence}:{}", "abcdefgh".repeat(usize::try_from(sequence % 60).unwrap()))
}

/// Four full segments, all of them below the watermark but for the newest group; and how many records they hold.
fn log() -> (FakeDisk, u64) {
    let disk = FakeDisk::default();
    let mut engine = Engine::open(Box::new(disk.clone()), settings(), NOW).expect("opens").0;
    let mut sequence = 0;
    loop {
        let before = disk.killed();
        let mut requests = Vec::new();
        for number in sequence + 1..=sequence + 5 {
            let message = Message {
                user: USERS[usize::try_from(number % 4).unwrap()].to_owned(),
                id: number.to_string(),
                data: Bytes::from(text(number)),
                ..Message::default()
            };
            requests.push(AppendRequest { token: 0, append: Append::Message { message, expires_at: 0 } });
        }
        for ack in engine.append(requests, NOW).expect("small enough") {
            ack.result.expect("stored");
        }
        if disk.contents(&segment_name(SEGMENTS + 1)).is_some() {
            return (before, sequence);
        }
        sequence += 5;
    }
}

/// Opens an image and reads everything in it. Whatever is delivered must be what was appended under that number.
fn read_all(disk: &FakeDisk) -> Option<(Vec<u64>, bool)> {
    let (engine, report) = Engine::open(Box::new(disk.clone()), settings(), NOW).ok()?;
    let reader = engine.reader();
    let mut delivered = Vec::new();
    for sequence in 1..report.next.0 {
        if let Ok(stored) = reader.record(Sequence(sequence)) {
            let Body::Message(message) = stored.body else {
                panic!("record {sequence} became something else")
            };
            assert_eq!(message.id, sequence.to_string());
            assert_eq!(message.data, text(sequence));
            delivered.push(sequence);
        }
    }
    let mut replayed = Vec::new();
    for user in USERS {
        let Some(mut replay) = reader.replay(Class::Mailbox, user, 0, 16, NOW) else { continue };
        let mut last = 0;
        loop {
            let page = replay.next_page().expect("readable");
            if page.is_empty() {
                break;
            }
            for stored in page {
                assert!(stored.offset > last, "order");
                last = stored.offset;
                replayed.push(stored.sequence.0);
            }
        }
    }
    replayed.sort_unstable();
    assert_eq!(replayed, delivered, "what can be read is what is replayed");
    Some((delivered, report.damage.is_empty()))
}

#[test]
fn no_single_damaged_byte_delivers_a_wrong_one_or_goes_unnoticed() {
    let (disk, records) = log();
    let all: Vec<u64> = (1..=records).collect();
    assert_eq!(read_all(&disk.killed()), Some((all.clone(), true)));
    let (mut damaged, mut harmless, mut tails) = (0, 0, 0);
    for segment in 1..=SEGMENTS {
        let name = segment_name(segment);
        for at in 0..16 << 10 {
            let image = disk.killed();
            // One bit, another one at every byte; every eighth time all of them.
            image.flip(&name, at, if at % 64 == 63 { 0xff } else { 1 << (at % 8) });
            let (delivered, silent) = read_all(&image).expect("one damaged byte keeps no log from opening");
            match (delivered == all, silent) {
                // Padding, or the free end of the newest segment.
                (true, true) => harmless += 1,
                (true, false) => damaged += 1,
                (false, false) => {
                    damaged += 1;
                    assert!(delivered.len() + 1 >= all.len(), "one record at most: {segment} {at}");
                }
                (false, true) => {
                    // Nothing vouches for the newest group yet.
                    tails += 1;
                    assert!(segment == SEGMENTS && delivered.len() + 5 >= all.len(), "{segment} {at}");
                }
            }
        }
    }
    println!("{damaged} flips were alarms, {tails} a shorter tail, {harmless} hit nothing");
    assert_eq!(damaged + harmless + tails, 64 << 10);
    assert!(damaged > 40_000 && tails > 500);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// A stretch of any segment becomes arbitrary bytes, or the file is cut or grown.
    #[test]
    fn arbitrary_damage_never_panics_and_never_delivers_a_wrong_byte(
        segment in 1..=SEGMENTS,
        at in 0_usize..16 << 10,
        junk in prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..2000),
            (1_usize..9000).prop_map(|length| vec![0; length]),
            (1_usize..9000).prop_map(|length| vec![0xff; length]),
        ],
        length in prop_oneof![Just(16_usize << 10), 0_usize..20 << 10],
    ) {
        let (disk, _) = log();
        let name = segment_name(segment);
        let mut contents = disk.contents(&name).expect("exists");
        let end = (at + junk.len()).min(contents.len());
        contents[at..end].copy_from_slice(&junk[..end - at]);
        contents.resize(length, 0);
        disk.put(&name, contents);
        if let Some((delivered, _)) = read_all(&disk) {
            // The other segments are whole.
            prop_assert!(delivered.len() >= 50, "{}", delivered.len());
        }
    }

    /// Bytes of one segment under the name of another, as a copy or a recycled block would bring.
    #[test]
    fn a_block_of_another_segment_is_no_record(
        from in 1..=SEGMENTS,
        to in 1..=SEGMENTS,
        sector in 2_usize..30,
        sectors in 1_usize..8,
    ) {
        let (disk, _) = log();
        let source = disk.contents(&segment_name(from)).expect("exists");
        let mut target = disk.contents(&segment_name(to)).expect("exists");
        let range = sector * 512..((sector + sectors) * 512).min(target.len());
        target[range.clone()].copy_from_slice(&source[range]);
        disk.put(&segment_name(to), target);
        read_all(&disk).expect("opens");
    }
}

/// A snapshot that is damaged anywhere is not believed, and nothing is lost with it (S18).
#[test]
fn a_damaged_snapshot_is_rebuilt_from_the_log() {
    let (disk, records) = log();
    let engine = Engine::open(Box::new(disk.clone()), settings(), NOW).expect("opens").0;
    engine.close(NOW).expect("closes");
    let mut snapshot = disk.contents("index.snapshot").expect("exists");
    // The fake disk fills the last sector; the file ends with a block header of which only the magic is not zero.
    let magic_end = snapshot.iter().rposition(|&byte| byte != 0).expect("some bytes") + 1;
    snapshot.truncate(magic_end + 12);
    let clean = |disk: &FakeDisk| {
        let (engine, report) = Engine::open(Box::new(disk.clone()), settings(), NOW).expect("opens");
        let pending: u32 = USERS
            .iter()
            .map(|user| engine.reader().info(Class::Mailbox, user, "").map_or(0, |info| info.state.pending))
            .sum();
        assert_eq!(u64::from(pending), records);
        report.clean
    };
    assert!(clean(&disk.killed()));
    for at in 0..snapshot.len() {
        let image = disk.killed();
        image.flip("index.snapshot", at, 1 << (at % 8));
        assert!(!clean(&image), "byte {at}");
        let image = disk.killed();
        image.put("index.snapshot", snapshot[..at].to_vec());
        assert!(!clean(&image), "cut at {at}");
    }
    let stale = disk.killed();
    let mut engine = Engine::open(Box::new(stale.clone()), settings(), NOW).expect("opens").0;
    assert!(stale.open("index.snapshot").is_err(), "gone before anything is appended");
    engine.append(Vec::new(), NOW).expect("nothing");
    drop(engine);
    let _ = stale.create("index.snapshot", 0).expect("new").write_at(0, &snapshot);
    stale.unlock();
    assert!(clean(&stale), "nothing was appended, so it still fits");
}

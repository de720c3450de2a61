//! The log on real files: threads, processes, locks, file systems that refuse, full disks, files cut under its hands
//! (bad-input.md S01, S12 to S16, S25, S26).
//!
//! What needs a file system of its own mounts a small tmpfs, which takes root; without it the test says so and passes.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests stop at a surprise"
)]

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use millpond::log::body::{Body, Message};
use millpond::log::error::{AppendError, OpenError, ReadError, RefuseError, StorageError, Unsuitable};
use millpond::log::files::Directory;
use millpond::log::reader::Reader;
use millpond::log::record::{Class, Kind, Sequence};
use millpond::log::recover::RecoveryReport;
use millpond::log::request::{Append, AppendRequest, Appended};
use millpond::log::segment::segment_name;
use millpond::log::settings::{LogSettings, SyncPolicy};
use millpond::log::tool::{self, InspectFilter};
use millpond::log::{AckReceiver, Appender, Log};

#[path = "support/mount.rs"]
mod mount;

use mount::Mount;

const WAIT: Duration = Duration::from_secs(60);
/// Far before any wall clock this runs at: nothing here expires.
const NOW: u32 = 1;

fn settings() -> LogSettings {
    LogSettings {
        segment_bytes: 64 << 10,
        batch_bytes: 16 << 10,
        maintenance_interval: Duration::ZERO,
        seed: [3; 16],
        ..LogSettings::default()
    }
}

fn open_with(path: &Path, settings: LogSettings) -> Result<(Log, RecoveryReport), OpenError> {
    Log::open(Box::new(Directory::open(path, true)?), settings)
}

fn open(path: &Path) -> (Log, RecoveryReport) {
    open_with(path, settings()).expect("opens")
}

fn message(token: u64, user: &str, text: &str) -> AppendRequest {
    let data = Bytes::copy_from_slice(text.as_bytes());
    let message = Message { user: user.to_owned(), id: format!("id{token}"), data, ..Message::default() };
    AppendRequest { token, append: Append::Message { message, expires_at: 0 } }
}

fn append(door: &mut (Appender, AckReceiver), request: AppendRequest) -> Result<Appended, AppendError> {
    door.0.try_append(request).expect("room in the queue");
    door.1.recv_timeout(WAIT).expect("an answer").result
}

fn texts(reader: &Reader, user: &str) -> Vec<String> {
    let Some(mut replay) = reader.replay(Class::Mailbox, user, 0, 100, NOW) else { return Vec::new() };
    let mut texts = Vec::new();
    loop {
        let page = replay.next_page().expect("readable");
        if page.is_empty() {
            return texts;
        }
        for stored in page {
            let Body::Message(message) = stored.body else { panic!("not a message") };
            texts.push(String::from_utf8(message.data.to_vec()).expect("text"));
        }
    }
}

#[test]
fn several_threads_append_and_every_answer_comes_in_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let (log, _) = open(directory.path());
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (appender, mut acks) = log.channel(64);
            scope.spawn(move || {
                let (mut sent, mut answered) = (0, 0);
                while answered < 500 {
                    while sent < 500 {
                        match appender.try_append(message(sent, &format!("user{thread}"), &sent.to_string()))
                        {
                            Ok(()) => sent += 1,
                            Err(RefuseError::Full) => break,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    let ack = acks.recv_timeout(WAIT).expect("an answer");
                    assert_eq!((ack.token, ack.result.expect("stored").offset), (answered, answered + 1));
                    answered += 1;
                }
            });
        }
    });
    let expected: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    for thread in 0..4 {
        assert_eq!(texts(&log.reader(), &format!("user{thread}")), expected);
    }
    let groups = log.reader().status().groups;
    assert!(groups < 2000, "requests are gathered: {groups} groups for 2000");
    log.close().expect("closes");
    let (log, report) = open(directory.path());
    assert!(report.clean && report.records == 0, "{report:?}");
    for thread in 0..4 {
        assert_eq!(texts(&log.reader(), &format!("user{thread}")), expected);
    }
}

#[test]
fn an_appender_is_refused_beyond_its_allowance_and_after_the_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let (log, _) = open(directory.path());
    let (appender, mut acks) = log.channel(2);
    appender.try_append(message(1, "a", "1")).expect("room");
    appender.try_append(message(2, "a", "2")).expect("room");
    assert_eq!(appender.try_append(message(3, "a", "3")), Err(RefuseError::Full));
    acks.recv_timeout(WAIT).expect("an answer");
    appender.try_append(message(3, "a", "3")).expect("room again");
    let huge = "x".repeat(64 << 10);
    acks.recv_timeout(WAIT).expect("an answer");
    assert_eq!(appender.try_append(message(4, "a", &huge)), Err(RefuseError::TooLarge));
    log.close().expect("closes");
    assert_eq!(appender.try_append(message(5, "a", "5")), Err(RefuseError::Closed));
}

#[test]
fn every_sync_policy_keeps_what_an_orderly_end_leaves() {
    for sync in [SyncPolicy::Always, SyncPolicy::Interval(Duration::from_millis(20)), SyncPolicy::Os] {
        let directory = tempfile::tempdir().expect("a directory");
        let (log, _) = open_with(directory.path(), LogSettings { sync, ..settings() }).expect("opens");
        let mut door = log.channel(8);
        for n in 0..200 {
            append(&mut door, message(n, "a", &n.to_string())).expect("stored");
        }
        drop(log);
        let (log, report) = open(directory.path());
        assert_eq!((texts(&log.reader(), "a").len(), report.clean), (200, true), "{sync:?}");
    }
}

#[test]
fn maintenance_gives_space_back_while_the_log_runs() {
    let directory = tempfile::tempdir().expect("a directory");
    let (log, _) = open(directory.path());
    let mut door = log.channel(8);
    let text = "x".repeat(1000);
    for n in 0..300 {
        append(&mut door, message(n, if n % 50 == 0 { "kept" } else { "read" }, &text)).expect("stored");
    }
    let reader = log.reader();
    let mut open_replay = reader.replay(Class::Mailbox, "read", 0, 10, NOW).expect("a mailbox");
    let first = open_replay.next_page().expect("readable");
    let before = std::fs::read_dir(directory.path()).expect("lists").count();
    let through = u64::MAX;
    let (class, name, device) = (Class::Mailbox, "read".to_owned(), String::new());
    let acknowledge = Append::Acknowledge { class, name, device, through };
    let acknowledged = append(&mut door, AppendRequest { token: 0, append: acknowledge }).expect("stored");
    assert_eq!(acknowledged.offset, 294);
    let report = log.maintain().expect("works");
    assert!(report.compacted >= 4 && report.freed_bytes > 200 << 10, "{report:?}");
    assert!(std::fs::read_dir(directory.path()).expect("lists").count() < before);
    assert_eq!((texts(&reader, "read").len(), texts(&reader, "kept").len()), (0, 6));
    assert!(!first.is_empty());
    // Whoever is in the middle of a replay finishes: what he would read is acknowledged and gone (S21).
    while !open_replay.next_page().expect("readable").is_empty() {}
    drop(log);
    let (log, report) = open(directory.path());
    assert!(report.damage.is_empty());
    assert_eq!((texts(&log.reader(), "read").len(), texts(&log.reader(), "kept").len()), (0, 6));
    assert_eq!(append(&mut log.channel(1), message(0, "read", "next")).expect("stored").offset, 295);
}

#[test]
fn a_second_process_is_refused_and_a_killed_one_leaves_the_directory_free() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut child = Appending::start(directory.path());
    child.acknowledged();
    assert_eq!(open_with(directory.path(), settings()).map(|_| ()), Err(OpenError::Locked));
    let report = tool::verify(directory.path(), NOW).expect("looks without the lock");
    assert!(report.in_use && report.is_good());
    child.kill();
    open(directory.path());
}

/// S01 with a real process: what it said is stored is there after `kill -9`, in order, once.
#[test]
fn a_killed_process_loses_nothing_that_it_acknowledged() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut acknowledged = BTreeSet::new();
    for round in 0..5 {
        let mut child = Appending::start(directory.path());
        for _ in 0..(50 + 37 * round) {
            acknowledged.insert(child.acknowledged());
        }
        acknowledged.extend(child.kill());
        let (log, report) = open(directory.path());
        assert!(report.damage.is_empty() && !report.clean, "{report:?}");
        let stored: Vec<u64> =
            texts(&log.reader(), "child").iter().map(|text| text.parse().expect("a number")).collect();
        assert!(stored.is_sorted_by(|a, b| a < b), "in order, once");
        let stored: BTreeSet<u64> = stored.into_iter().collect();
        assert!(acknowledged.is_subset(&stored), "lost: {:?}", acknowledged.difference(&stored));
    }
}

/// The other process: appends to the log it is given and prints the number of every message that is stored.
#[test]
fn child_process() {
    let Ok(path) = std::env::var("MILLPOND_LOG_CHILD") else { return };
    let (log, _) = open(Path::new(&path));
    let (appender, mut acks) = log.channel(32);
    let mut next = log.reader().info(Class::Mailbox, "child", "").map_or(0, |info| info.state.last_offset);
    let mut out = std::io::stdout();
    loop {
        while appender.try_append(message(next, "child", &next.to_string())).is_ok() {
            next += 1;
        }
        let Some(ack) = acks.recv_timeout(WAIT) else { return };
        if ack.result.is_ok() && writeln!(out, "stored {}", ack.token).is_err() {
            return;
        }
    }
}

struct Appending {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    _stdin: ChildStdin,
}

impl Appending {
    fn start(path: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "child_process", "--nocapture", "--test-threads=1"])
            .env("MILLPOND_LOG_CHILD", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        let stdin = child.stdin.take().expect("piped");
        Self { child, lines, _stdin: stdin }
    }

    fn next(&mut self) -> Option<u64> {
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).expect("readable") == 0 {
                return None;
            }
            // The test harness prints a line of its own first; a last line may be cut short by the kill.
            if line.ends_with('\n')
                && let Some(number) =
                    line.trim().rsplit("stored ").next().and_then(|number| number.parse().ok())
            {
                return Some(number);
            }
        }
    }

    fn acknowledged(&mut self) -> u64 {
        self.next().expect("the child works")
    }

    /// Kills the child and returns what it had said meanwhile.
    fn kill(&mut self) -> Vec<u64> {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
        std::iter::from_fn(|| self.next()).collect()
    }
}

#[test]
fn later_versions_other_byte_orders_and_foreign_segments_are_refused_and_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let (log, _) = open(directory.path());
    append(&mut log.channel(1), message(0, "a", "1")).expect("stored");
    log.close().expect("closes");
    let path = directory.path().join(segment_name(1));
    let original = std::fs::read(&path).expect("readable");
    let patched = |at: usize, bytes: &[u8]| {
        let mut contents = original.clone();
        for copy in [0, 512] {
            contents[copy + at..copy + at + bytes.len()].copy_from_slice(bytes);
            let crc = crc32c::crc32c(&contents[copy + 20..copy + 512]);
            contents[copy + 16..copy + 20].copy_from_slice(&crc.to_le_bytes());
        }
        std::fs::write(&path, &contents).expect("writable");
        let refused = open_with(directory.path(), settings()).map(|_| ()).expect_err("refused");
        assert_eq!(std::fs::read(&path).expect("readable"), contents, "left alone");
        refused
    };
    assert_eq!(patched(12, &[9]), OpenError::FutureVersion { segment: 1, version: 9, supported: 1 });
    assert_eq!(patched(8, &[1, 2, 3, 4]), OpenError::ByteOrder { segment: 1 });
    assert_eq!(patched(32, &[7]), OpenError::Foreign { segment: 1 });
    std::fs::write(&path, &original).expect("writable");
    assert_eq!(texts(&open(directory.path()).0.reader(), "a"), ["1"]);
}

#[test]
fn a_truncated_segment_is_reported_and_the_rest_is_served() {
    let directory = tempfile::tempdir().expect("a directory");
    let (log, _) = open(directory.path());
    let mut door = log.channel(1);
    for n in 0..200 {
        append(&mut door, message(n, "a", &format!("{n} {}", "x".repeat(1000)))).expect("stored");
    }
    log.close().expect("closes");
    let file = OpenOptions::new().write(true).open(directory.path().join(segment_name(2))).expect("exists");
    file.set_len(32 << 10).expect("cut");
    let (log, report) = open(directory.path());
    assert!(!report.clean && report.quarantined == [2] && report.damage.len() == 2, "{report:?}");
    let texts = texts(&log.reader(), "a");
    let numbers: Vec<u64> =
        texts.iter().map(|t| t.split(' ').next().expect("a number").parse().unwrap()).collect();
    assert!(numbers.contains(&0) && numbers.contains(&199) && numbers.len() < 190, "{numbers:?}");
    assert!(numbers.is_sorted());
    assert!(log.reader().status().damaged_reads > 0);
    drop(log);
    let report = tool::verify(directory.path(), NOW).expect("reads");
    assert!(!report.is_good());
}

/// S13: where a plain read of the map would raise SIGBUS there is an error for the one who reads.
#[test]
fn a_segment_cut_while_it_is_mapped_is_an_error_and_no_signal() {
    let directory = tempfile::tempdir().expect("a directory");
    let (log, _) = open(directory.path());
    let mut door = log.channel(1);
    let stored = append(&mut door, message(0, "a", &"x".repeat(20_000))).expect("stored");
    let later = append(&mut door, message(0, "b", "1")).expect("stored");
    assert!(log.reader().record(later.sequence).is_ok());
    let file = OpenOptions::new().write(true).open(directory.path().join(segment_name(1))).expect("exists");
    file.set_len(4096).expect("cut");
    let failed = log.reader().record(later.sequence);
    assert_eq!(failed, Err(ReadError::Storage(StorageError::Device)));
    assert!(log.reader().record(stored.sequence).is_err());
    assert_eq!(log.reader().record(Sequence(77)), Err(ReadError::Gone(Sequence(77))));
}

#[test]
fn the_tools_see_what_is_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let (log, _) = open(directory.path());
    let mut door = log.channel(1);
    for n in 0..100 {
        append(&mut door, message(n, if n % 2 == 0 { "a" } else { "b" }, "some text")).expect("stored");
    }
    let (class, name, device) = (Class::Mailbox, "a".to_owned(), "phone".to_owned());
    let acknowledge = Append::Acknowledge { class, name, device, through: 10 };
    append(&mut door, AppendRequest { token: 0, append: acknowledge }).expect("stored");
    log.close().expect("closes");
    let stats = tool::stats(directory.path(), NOW).expect("reads");
    assert_eq!((stats.mailboxes.streams, stats.mailboxes.waiting_messages, stats.in_use), (2, 90, false));
    assert_eq!((stats.kinds["message"], stats.kinds["cursor"], stats.kinds["watermark"]), (100, 1, 1));
    assert_eq!(stats.segments.iter().map(|segment| segment.records).sum::<u64>(), 102);
    let mut shown = Vec::new();
    let filter = InspectFilter { from: Sequence(50), limit: 0, name: Some("a".to_owned()) };
    tool::inspect(directory.path(), NOW, &filter, &mut |record| shown.push(record)).expect("reads");
    assert_eq!(shown.len(), 26);
    let sequences: Vec<Sequence> = shown.iter().map(|record| record.sequence).collect();
    let last = shown.last().expect("some");
    assert_eq!((last.kind, last.offset, last.detail.as_str()), (Kind::Cursor, 10, "phone"));
    assert!(shown.iter().all(|record| record.readable && record.name == "a"));
    let filter = InspectFilter { limit: 26, ..filter };
    let next = tool::inspect(directory.path(), NOW, &filter, &mut |_| {}).expect("reads");
    assert_eq!(next, None, "nothing was left out");
    let mut again = Vec::new();
    let filter = InspectFilter { limit: 10, ..filter };
    let next =
        tool::inspect(directory.path(), NOW, &filter, &mut |record| again.push(record)).expect("reads");
    let filter = InspectFilter { from: next.expect("more follow"), limit: 0, ..filter };
    tool::inspect(directory.path(), NOW, &filter, &mut |record| again.push(record)).expect("reads");
    assert_eq!(again.iter().map(|record| record.sequence).collect::<Vec<_>>(), sequences);
    let report = tool::verify(directory.path(), NOW).expect("reads");
    assert!(report.is_good() && report.recovery.clean && report.recovery.records == 102, "{report:?}");
    let path = directory.path().join(segment_name(1));
    let file = OpenOptions::new().read(true).write(true).open(path).expect("exists");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1024 + 100).expect("read");
    file.write_all_at(&[byte[0] ^ 1], 1024 + 100).expect("written");
    let report = tool::verify(directory.path(), NOW).expect("reads");
    assert!(!report.is_good() && report.recovery.damage.len() == 1, "{report:?}");
    assert!(directory.path().join(segment_name(1)).exists(), "a tool that looks changes nothing");
    let failed = |path: &Path| tool::verify(path, NOW).map(|_| ()).expect_err("no log");
    assert_eq!(failed(&directory.path().join("missing")), OpenError::Storage(StorageError::NotFound));
    assert_eq!(failed(&directory.path().join("LOCK")), OpenError::Storage(StorageError::NotADirectory));
    assert_eq!(failed(tempfile::tempdir().expect("a directory").path()), OpenError::NoLog);
    let taken = Directory::open(&directory.path().join("LOCK"), true).map(|_| ());
    assert_eq!(taken, Err(StorageError::NotADirectory));
}

#[test]
fn a_full_disk_refuses_and_the_log_goes_on_when_space_returns() {
    let Some(mount) = Mount::tmpfs("size=512k") else { return };
    let ballast = mount.path().join("ballast");
    std::fs::write(&ballast, vec![1; 200 << 10]).expect("fits");
    let (log, _) = open(&mount.path());
    let mut door = log.channel(1);
    let text = "x".repeat(1000);
    let mut stored = 0;
    let refused = loop {
        match append(&mut door, message(stored, "a", &text)) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, AppendError::NotStored(StorageError::DiskFull));
    assert_eq!(log.reader().status().fault, Some(StorageError::DiskFull));
    assert_eq!(texts(&log.reader(), "a").len() as u64, stored, "what is stored is served");
    assert_eq!(append(&mut door, message(0, "a", &text)), Err(refused), "and it stays refused");
    std::fs::remove_file(&ballast).expect("removed");
    for _ in 0..50 {
        stored += 1;
        assert_eq!(append(&mut door, message(0, "a", &text)).expect("stored").offset, stored);
    }
    drop(log);
    assert_eq!(texts(&open(&mount.path()).0.reader(), "a").len() as u64, stored);
}

/// What OPERATIONS.md says makes room, on a disk that nothing else makes room on.
#[test]
fn a_purge_makes_room_on_a_full_disk() {
    let Some(mount) = Mount::tmpfs("size=512k") else { return };
    let (log, _) = open(&mount.path());
    let mut door = log.channel(1);
    let text = "x".repeat(9000);
    let mut stored = [0_u64; 2];
    let refused = loop {
        let user = usize::from(stored[0] > stored[1]);
        match append(&mut door, message(0, ["read", "kept"][user], &text)) {
            Ok(_) => stored[user] += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, AppendError::NotStored(StorageError::DiskFull));
    let purge = || Append::Purge { class: Class::Mailbox, name: "read".to_owned() };
    append(&mut door, AppendRequest { token: 0, append: purge() }).expect("taken");
    log.maintain().expect("makes room");
    let next = append(&mut door, message(0, "read", &text)).expect("stored");
    assert_eq!(next.offset, stored[0] + 1);
    log.close().expect("closes");
    let (log, report) = open(&mount.path());
    assert!(report.clean && report.foreign.is_empty(), "{report:?}");
    assert_eq!(texts(&log.reader(), "kept").len() as u64, stored[1]);
}

#[test]
fn directories_that_cannot_keep_data_are_refused_with_the_reason() {
    let durable = |path: &Path| {
        Log::open(Box::new(Directory::open(path, false).expect("exists")), settings()).map(|_| ())
    };
    let Some(mount) = Mount::tmpfs("size=512k") else { return };
    assert_eq!(durable(&mount.path()), Err(OpenError::Unsuitable(Unsuitable::Memory)));
    drop(open(&mount.path()));
    assert!(mount.remount("remount,ro"));
    let read_only = open_with(&mount.path(), settings()).map(|_| ());
    assert_eq!(read_only, Err(OpenError::Unsuitable(Unsuitable::ReadOnly)));
    assert!(tool::verify(&mount.path(), NOW).expect("a tool may look").is_good());
    let target = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let bind = ["--bind", target.path().to_str().expect("text")];
    let Some(mount) = Mount::new(&bind) else { return };
    if durable(&mount.path()).is_ok() {
        assert!(mount.remount("remount,bind,noexec"));
        assert_eq!(durable(&mount.path()), Err(OpenError::Unsuitable(Unsuitable::NoExec)));
    }
}

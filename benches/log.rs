//! The log on the disk under `target/`: durable appends in groups against a raw write and fdatasync loop of the same
//! sizes, the recovery scan, the start after a clean stop, replay, and the index at ten million mailboxes.
//!
//! `cargo bench --bench log`; the summary at the start interleaves log and raw loop, so that its ratio holds on a noisy
//! machine. `LOG_BENCH=summary` prints the summary only, `LOG_BENCH=index` measures the index only, `LOG_BENCH=parts` a long
//! history in parts, `LOG_BENCH=criterion` leaves these out; `LOG_BENCH_DIR` is the directory to work in, `LOG_BENCH_GROUP`
//! the only group size (KiB) to compare.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use millpond::log::body::{Message, Publication};
use millpond::log::engine::Engine;
use millpond::log::files::Directory;
use millpond::log::history::{HistoryRead, Trail};
use millpond::log::index::Index;
use millpond::log::record::{Class, KeyHasher, Sequence};
use millpond::log::request::{Append, AppendRequest};
use millpond::log::settings::LogSettings;
use millpond::log::stream::StreamState;
use millpond::log::{AckReceiver, Appender, Log};
use rustix::time::{ClockId, clock_gettime};

const NOW: u32 = 1;
const WAIT: Duration = Duration::from_secs(60);
const DATA_BYTES: usize = 200;
const GROUPS: [usize; 4] = [1, 64, 512, 8192];

fn directory() -> tempfile::TempDir {
    let parent = std::env::var("LOG_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    tempfile::tempdir_in(parent).unwrap()
}

/// CPU time of the log's threads: of this process without this thread.
fn log_cpu_time() -> Duration {
    cpu_time(ClockId::ProcessCPUTime).saturating_sub(cpu_time(ClockId::ThreadCPUTime))
}

fn cpu_time(clock: ClockId) -> Duration {
    let usage = clock_gettime(clock);
    Duration::new(usage.tv_sec.unsigned_abs(), u32::try_from(usage.tv_nsec).unwrap())
}

fn settings() -> LogSettings {
    LogSettings { maintenance_interval: Duration::ZERO, seed: [7; 16], ..LogSettings::default() }
}

fn open(path: &Path) -> Log {
    Log::open(Box::new(Directory::open(path, true).unwrap()), settings()).unwrap().0
}

fn request(number: u64, users: u64, data: &Bytes) -> AppendRequest {
    let message = Message {
        user: format!("user{}", number % users),
        id: "0123456789abcdef".to_owned(),
        data: data.clone(),
        ..Message::default()
    };
    AppendRequest { token: number, append: Append::Message { message, expires_at: 0 } }
}

/// Appends `count` messages with at most `outstanding` unanswered, and waits for all answers.
fn append(door: &mut (Appender, AckReceiver), from: u64, count: u64, outstanding: u64, data: &Bytes) {
    let (mut sent, mut answered) = (0, 0);
    while answered < count {
        while sent < count && sent - answered < outstanding {
            door.0.try_append(request(from + sent, 100_000, data)).unwrap();
            sent += 1;
        }
        door.1.recv_timeout(WAIT).unwrap().result.unwrap();
        answered += 1;
        while let Some(ack) = door.1.try_recv() {
            ack.result.unwrap();
            answered += 1;
        }
    }
}

/// A preallocated file that is written and synced group by group, beginning anew when it is full.
struct Raw {
    file: File,
    at: u64,
    bytes: Vec<u8>,
}

impl Raw {
    const LENGTH: u64 = 64 << 20;

    fn new(path: &Path) -> Self {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path.join("raw")).unwrap();
        let mut raw = Self { file, at: 0, bytes: vec![0xa5; 4 << 20] };
        raw.begin();
        raw
    }

    /// As the log's segments are made: fresh blocks, not overwritten ones.
    fn begin(&mut self) {
        self.file.set_len(0).unwrap();
        rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, Self::LENGTH).unwrap();
        self.file.sync_data().unwrap();
        self.at = 0;
    }

    fn group(&mut self, length: usize) {
        if self.at + length as u64 > Self::LENGTH {
            self.begin();
        }
        self.file.write_all_at(&self.bytes[..length], self.at).unwrap();
        self.file.sync_data().unwrap();
        self.at += length as u64;
    }
}

/// Log and raw loop take turns; what the log made of its requests, groups and bytes, the raw loop repeats.
fn summary() {
    let data = Bytes::from(vec![b'x'; DATA_BYTES]);
    println!(
        "durable appends of {DATA_BYTES}-byte messages, against a raw write + fdatasync loop of the same sizes"
    );
    println!(
        "outstanding  group limit  messages/group  messages/s  raw loop/s  ratio  CPU/message: log  appender  raw"
    );
    let only = std::env::var("LOG_BENCH_GROUP").ok().and_then(|kib| kib.parse::<usize>().ok());
    for group_bytes in [8, 16, 64, 256, 1024].into_iter().filter(|kib| only.is_none_or(|only| only == *kib)) {
        compare(8192, group_bytes << 10, 100_000, &data);
    }
    if only.is_some() {
        return;
    }
    println!("every appender waits for the answer before it goes on:");
    for outstanding in [1, 64] {
        compare(outstanding, 256 << 10, 2_000, &data);
    }
    latency(&data);
}

fn compare(outstanding: u64, batch_bytes: usize, count: u64, data: &Bytes) {
    let home = directory();
    let settings = LogSettings { batch_bytes, ..settings() };
    let log = Log::open(Box::new(Directory::open(home.path(), true).unwrap()), settings).unwrap().0;
    let mut door = log.channel(8192);
    let mut raw = Raw::new(home.path());
    let (mut log_time, mut raw_time) = (Duration::ZERO, Duration::ZERO);
    let [mut log_cpu, mut own_cpu, mut raw_cpu] = [Duration::ZERO; 3];
    let (mut messages, mut groups) = (0, 0);
    append(&mut door, 0, count, outstanding, data);
    for round in 1..=8 {
        let before = log.reader().status();
        let (start, cpu, own) = (Instant::now(), log_cpu_time(), cpu_time(ClockId::ThreadCPUTime));
        append(&mut door, round * count, count, outstanding, data);
        log_time += start.elapsed();
        log_cpu += log_cpu_time() - cpu;
        own_cpu += cpu_time(ClockId::ThreadCPUTime) - own;
        let after = log.reader().status();
        let made = after.groups - before.groups;
        let length = (after.bytes - before.bytes) / made;
        let (start, cpu) = (Instant::now(), cpu_time(ClockId::ThreadCPUTime));
        for _ in 0..made {
            raw.group(usize::try_from(length).unwrap());
        }
        raw_time += start.elapsed();
        raw_cpu += cpu_time(ClockId::ThreadCPUTime) - cpu;
        messages += count;
        groups += made;
    }
    let each = |cpu: Duration| cpu / u32::try_from(messages).unwrap();
    println!(
        "{outstanding:11}  {:7} KiB  {:14.1}  {:10.0}  {:10.0}  {:5.2}  {:16.2?}  {:8.2?}  {:.2?}",
        batch_bytes >> 10,
        messages as f64 / groups as f64,
        messages as f64 / log_time.as_secs_f64(),
        messages as f64 / raw_time.as_secs_f64(),
        raw_time.as_secs_f64() / log_time.as_secs_f64(),
        each(log_cpu),
        each(own_cpu),
        each(raw_cpu),
    );
}

/// Messages at a steady rate: how long from the request to the acknowledgement.
fn latency(data: &Bytes) {
    let home = directory();
    let log = open(home.path());
    let (appender, mut acks) = log.channel(8192);
    let rate = 50_000_u64;
    let count = rate * 2;
    let begin = Instant::now();
    let due = |number: u64| begin + Duration::from_nanos(number * 1_000_000_000 / rate);
    let mut times = Vec::with_capacity(usize::try_from(count).unwrap());
    let mut sent = 0;
    while times.len() < usize::try_from(count).unwrap() {
        while sent < count && due(sent) <= Instant::now() {
            if appender.try_append(request(sent, 100_000, data)).is_err() {
                break;
            }
            sent += 1;
        }
        let mut answer = acks.recv_timeout(Duration::from_micros(20));
        while let Some(ack) = answer {
            ack.result.unwrap();
            // From when it was due, not from when there was room for it.
            times.push(due(ack.token).elapsed());
            answer = acks.try_recv();
        }
    }
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("at {rate} messages/s: p50 {:?}, p99 {:?}, max {:?}", at(0.5), at(0.99), at(1.0));
}

fn appends(criterion: &mut Criterion) {
    let data = Bytes::from(vec![b'x'; DATA_BYTES]);
    let mut group = criterion.benchmark_group("durable_append");
    group.sample_size(10);
    for outstanding in GROUPS {
        let home = directory();
        let log = open(home.path());
        let mut door = log.channel(8192);
        let mut from = 0;
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("outstanding", outstanding), |bencher| {
            bencher.iter_custom(|count| {
                let start = Instant::now();
                append(&mut door, from, count, outstanding as u64, &data);
                from += count;
                start.elapsed()
            });
        });
    }
    group.finish();
}

/// Fills a log through the engine, in groups of 4096.
fn fill(path: &Path, messages: u64, users: u64, data: &Bytes) -> Engine {
    let storage = Box::new(Directory::open(path, true).unwrap());
    let mut engine = Engine::open(storage, settings(), NOW).unwrap().0;
    let mut number = 0;
    while number < messages {
        let requests = (number..(number + 4096).min(messages)).map(|n| request(n, users, data)).collect();
        for ack in engine.append(requests, NOW).unwrap() {
            ack.result.unwrap();
        }
        number += 4096;
    }
    engine
}

fn scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recovery_scan");
    group.sample_size(10);
    for (bytes, messages) in [(200, 1_500_000), (1000, 450_000)] {
        let home = directory();
        drop(fill(home.path(), messages, 100_000, &Bytes::from(vec![b'x'; bytes])));
        let report = || {
            let storage = Box::new(Directory::open(home.path(), true).unwrap());
            Engine::open(storage, settings(), NOW).unwrap().1
        };
        group.throughput(Throughput::Bytes(report().bytes));
        group.bench_function(BenchmarkId::new("message_bytes", bytes), |bencher| bencher.iter(report));
    }
    group.finish();
}

fn clean_start(criterion: &mut Criterion) {
    let home = directory();
    let users = 1_000_000;
    let engine = fill(home.path(), users, users, &Bytes::from(vec![b'x'; DATA_BYTES]));
    engine.close(NOW).unwrap();
    let mut group = criterion.benchmark_group("start");
    group.sample_size(10);
    group.bench_function("one_million_mailboxes_after_a_clean_stop", |bencher| {
        bencher.iter_custom(|count| {
            let mut time = Duration::ZERO;
            for _ in 0..count {
                let storage = Box::new(Directory::open(home.path(), true).unwrap());
                let start = Instant::now();
                let (engine, report) = Engine::open(storage, settings(), NOW).unwrap();
                time += start.elapsed();
                assert!(report.clean && report.streams == 1_000_000);
                engine.close(NOW).unwrap();
            }
            time
        });
    });
    group.finish();
}

fn replay(criterion: &mut Criterion) {
    let home = directory();
    let users = 100_000;
    let engine = fill(home.path(), users * 10, users, &Bytes::from(vec![b'x'; DATA_BYTES]));
    let reader = engine.reader();
    let mut group = criterion.benchmark_group("replay");
    group.sample_size(10);
    group.throughput(Throughput::Elements(users * 10));
    group.bench_function("100k_users_10_messages_each", |bencher| {
        bencher.iter(|| {
            for user in 0..users {
                let name = format!("user{user}");
                let mut replay = reader.replay(Class::Mailbox, &name, 0, 100, NOW).unwrap();
                assert_eq!(replay.next_page().unwrap().len(), 10);
            }
        });
    });
    group.finish();
}

/// Publications `0..count` of one channel of `channels` after another.
fn fill_histories(path: &Path, count: u64, channels: u64, data: &Bytes) -> Engine {
    let storage = Box::new(Directory::open(path, true).unwrap());
    let mut engine = Engine::open(storage, settings(), NOW).unwrap().0;
    for from in (0..count).step_by(4096) {
        let request = |number: u64| {
            let channel = format!("channel{}", number % channels);
            let publication = Publication { channel, data: data.clone(), ..Publication::default() };
            let append = Append::Publication { publication, keep: 1_000_000, expires_at: 0 };
            AppendRequest { token: number, append }
        };
        for ack in engine.append((from..(from + 4096).min(count)).map(request).collect(), NOW).unwrap() {
            ack.result.unwrap();
        }
    }
    engine
}

fn read(channel: &str, after: u64, limit: usize) -> HistoryRead<'_> {
    HistoryRead {
        channel,
        end: u64::MAX,
        after,
        before: u64::MAX,
        limit,
        bytes: 1 << 20,
        newest_first: false,
        now: NOW,
    }
}

/// Subscribers of many histories recover ten publications each; one history is read from end to end by pages.
fn histories(criterion: &mut Criterion) {
    let data = Bytes::from(vec![b'x'; DATA_BYTES]);
    let mut group = criterion.benchmark_group("history");
    group.sample_size(10);
    let (home, channels) = (directory(), 10_000);
    let reader = fill_histories(home.path(), channels * 100, channels, &data).reader();
    group.throughput(Throughput::Elements(channels * 10));
    group.bench_function("10k_channels_recover_10_of_100", |bencher| {
        bencher.iter(|| {
            for channel in 0..channels {
                let name = format!("channel{channel}");
                let page = reader.history(&read(&name, 90, 10), None).unwrap().unwrap();
                assert_eq!(page.publications.len(), 10);
            }
        });
    });
    let (home, count) = (directory(), 100_000);
    let reader = fill_histories(home.path(), count, 1, &data).reader();
    group.throughput(Throughput::Elements(count));
    group.bench_function("deepest_of_100k_publications", |bencher| {
        bencher.iter(|| reader.history(&read("channel0", 0, 1), None).unwrap().unwrap().publications.len());
    });
    for limit in [100, 1000] {
        group.bench_function(BenchmarkId::new("100k_publications_by_pages_of", limit), |bencher| {
            bencher.iter(|| {
                let (mut after, mut trail) = (0, Trail::default());
                while after < count {
                    let page = read("channel0", after, limit);
                    let page = reader.history(&page, Some(&mut trail)).unwrap().unwrap();
                    after = page.publications.last().unwrap().offset;
                }
            });
        });
    }
    group.finish();
}

/// The first read at the old end of a long history: at once, and in the parts in which the store does it.
fn parts() {
    const PART: usize = 2048;
    let data = Bytes::from(vec![b'x'; DATA_BYTES]);
    for count in [100_000, 1_000_000] {
        let home = directory();
        let reader = fill_histories(home.path(), count, 1, &data).reader();
        let read = read("channel0", 0, 100);
        let begin = Instant::now();
        let at_once = reader.history(&read, None).unwrap().unwrap();
        let whole = begin.elapsed();
        let (mut trail, mut parts) = (Trail::default(), Vec::new());
        let mut walk = reader.history_walk(&read, Some(&mut trail)).unwrap();
        let page = loop {
            let (begin, mut budget) = (Instant::now(), PART);
            walk.resume();
            let done = walk.go_on(&mut budget, Some(&mut trail)).unwrap();
            parts.push(begin.elapsed());
            if let Some(page) = done {
                break page;
            }
        };
        assert_eq!(page, at_once);
        parts.sort_unstable();
        println!(
            "the oldest 100 of {count} publications: {whole:?} at once; {} parts of {PART}: median {:?}, longest {:?}, \
             sum {:?}",
            parts.len(),
            parts[parts.len() / 2],
            parts[parts.len() - 1],
            parts.iter().sum::<Duration>(),
        );
    }
}

/// Memory of the index from the operating system's point of view.
fn index() {
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let hasher = KeyHasher::new(&[9; 16]);
    let index = Index::default();
    let before = resident();
    let mut longest = Duration::ZERO;
    let begin = Instant::now();
    for number in 1..=10_000_000_u64 {
        let state =
            StreamState { head: Sequence(number), last_offset: 1, pending: 1, ..StreamState::default() };
        let key = hasher.stream(Class::Mailbox, &format!("user{number}"));
        let start = Instant::now();
        index.put(key, &state);
        longest = longest.max(start.elapsed());
        if number.is_power_of_two() && number > 500_000 || number == 10_000_000 {
            println!(
                "index of {number} mailboxes: {:.1} B each counted, {:.1} B each resident, longest insert {longest:?}",
                index.memory_bytes() as f64 / number as f64,
                (resident() - before) as f64 / number as f64,
            );
        }
    }
    println!("10 M inserts in {:?}", begin.elapsed());
}

fn main() {
    let only = std::env::var("LOG_BENCH").unwrap_or_default();
    if only.is_empty() || only == "index" {
        index();
    }
    if only.is_empty() || only == "summary" {
        summary();
    }
    if only.is_empty() || only == "parts" {
        parts();
    }
    if !only.is_empty() && only != "criterion" {
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    appends(&mut criterion);
    scan(&mut criterion);
    clean_start(&mut criterion);
    replay(&mut criterion);
    histories(&mut criterion);
    criterion.final_summary();
}

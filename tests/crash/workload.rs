//! A seeded workload on a recording disk, and what the log must hold at every point of it.

use bytes::Bytes;
use millpond::log::body::{Body, Message, Publication, Version};
use millpond::log::engine::Engine;
use millpond::log::error::{AppendError, StorageError};
use millpond::log::fake::{FakeDisk, Fault, Operation};
use millpond::log::record::Class;
use millpond::log::request::{Append, AppendRequest};
use millpond::log::settings::LogSettings;
use millpond::log::storage::Storage;

use super::images::Random;

/// The wall clock of the workload, in seconds since 1970.
pub const NOW: u32 = 1_000_000;
/// The wall clock of maintenance and of every check: what can expire has expired.
pub const LATER: u32 = NOW + 100;
/// Devices that acknowledge; the first stands for clients that name none.
const DEVICES: [&str; 3] = ["", "phone", "desk"];
/// Users with a mailbox, then channels with a history.
pub const NAMES: [&str; 5] = ["alice", "bob", "carol", "news", "rare"];
/// How many of the names are users.
const USERS: usize = 3;

/// What a stream of [`NAMES`] is for.
pub fn class_of(name: usize) -> Class {
    if name < USERS { Class::Mailbox } else { Class::History }
}

/// What one record of the log says, for the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Message {
        user: usize,
        text: Vec<u8>,
        expires: bool,
    },
    Cursor {
        user: usize,
        device: &'static str,
        through: u64,
    },
    /// Of a channel that holds `keep` from then on.
    Publication {
        channel: usize,
        text: Vec<u8>,
        expires: bool,
        keep: u32,
    },
    /// A history begins, or (with 0 to keep) is removed.
    Position {
        channel: usize,
        keep: u32,
    },
    Watermark,
}

/// What a crash at some operation may leave.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Must be there: the records by sequence, from 1.
    pub stored: Vec<Entry>,
    /// One of these may follow, any prefix of it.
    pub attempted: Vec<Vec<Entry>>,
    /// Epochs of the channels by name, as their records were acknowledged.
    pub epochs: [Option<u32>; NAMES.len()],
}

/// A recorded run.
pub struct Run {
    /// The disk before the first operation.
    pub base: FakeDisk,
    pub operations: Vec<Operation>,
    /// From how many operations on which expectation holds.
    timeline: Vec<(usize, Expected)>,
}

impl Run {
    /// What must hold after `point` operations.
    pub fn at(&self, point: usize) -> &Expected {
        let after = self.timeline.partition_point(|(from, _)| *from <= point);
        &self.timeline[after - 1].1
    }

    /// The disk after `point` operations.
    pub fn disk_at(&self, point: usize) -> FakeDisk {
        let disk = self.base.killed();
        for operation in &self.operations[..point] {
            disk.play(operation);
        }
        disk
    }

    /// Recovers from an image and appends a little more.
    pub fn resumed(image: FakeDisk, stored: Vec<Entry>, seed: u64) -> Self {
        let base = image.killed();
        let mut driver = Driver::new(image, seed ^ 0xadd, stored);
        for _ in 0..2 {
            driver.append(2, false);
        }
        driver.finish(base)
    }
}

pub fn settings(seed: u64) -> LogSettings {
    let [a, b, ..] = seed.to_le_bytes();
    let seed = [a, b, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];
    LogSettings { segment_bytes: 16 << 10, batch_bytes: 4 << 10, seed, ..LogSettings::default() }
}

/// Runs the workload of a seed.
pub fn run(seed: u64) -> Run {
    let mut driver = Driver::new(FakeDisk::recording(), seed, Vec::new());
    for _ in 0..24 {
        match driver.random.below(16) {
            0 => driver.fail(Fault::Sync(StorageError::Device)),
            1 => {
                let written = driver.random.below(4) * 512;
                driver.fail(Fault::Write { written, error: StorageError::DiskFull });
            }
            2 => driver.restart(),
            3 => driver.watermark(),
            4 => driver.close(),
            5..7 => driver.maintain(),
            _ => {
                let count = 1 + driver.random.below(5);
                driver.append(count, false);
            }
        }
    }
    driver.finish(FakeDisk::default())
}

struct Driver {
    disk: FakeDisk,
    engine: Engine,
    random: Random,
    stored: Vec<Entry>,
    epochs: [Option<u32>; NAMES.len()],
    timeline: Vec<(usize, Expected)>,
    seed: u64,
    opened: u64,
    numbered: u64,
}

impl Driver {
    fn new(disk: FakeDisk, seed: u64, stored: Vec<Entry>) -> Self {
        disk.record();
        let timeline = vec![(0, Expected { stored: stored.clone(), ..Expected::default() })];
        let engine = Engine::open(Box::new(disk.clone()), settings(seed), NOW).expect("opens").0;
        let (random, epochs) = (Random::new(seed), [None; NAMES.len()]);
        Self { disk, engine, random, stored, epochs, timeline, seed, opened: 0, numbered: 0 }
    }

    fn finish(self, base: FakeDisk) -> Run {
        Run { base, operations: self.disk.trace(), timeline: self.timeline }
    }

    fn append(&mut self, count: usize, may_fail: bool) {
        let entries: Vec<Entry> = (0..count).map(|_| self.entry()).collect();
        let requests = entries.iter().map(request).collect();
        // A group that fails is left out, and the next one has its place.
        let left_out = if may_fail { count } else { 0 };
        self.expect((0..=left_out).map(|from| entries[from..].to_vec()).collect());
        // Either in one go, or in groups of which each is staged while the one before is in flight.
        let acks = match self.random.below(4) {
            0 => self.engine.append(requests, NOW),
            most => self.engine.append_overlapped(requests, most, NOW),
        };
        for (ack, entry) in acks.expect("small enough").into_iter().zip(entries) {
            match ack.result {
                Ok(appended) => {
                    assert_eq!(appended.sequence.0, self.stored.len() as u64 + 1);
                    if let Entry::Publication { channel, .. } | Entry::Position { channel, .. } = &entry {
                        let epoch = *self.epochs[*channel].get_or_insert(appended.epoch);
                        assert_eq!(epoch, appended.epoch);
                    }
                    self.stored.push(entry);
                }
                Err(AppendError::NotStored(_)) => {}
                Err(error) => panic!("unexpected: {error}"),
            }
        }
        self.expect(Vec::new());
    }

    fn fail(&mut self, fault: Fault) {
        self.disk.inject(fault, 0);
        self.append(5, true);
    }

    /// The process is killed and starts again; the disk keeps what was written.
    fn restart(&mut self) {
        self.disk.unlock();
        self.opened += 1;
        let settings = settings(self.seed + (self.opened << 8));
        self.engine = Engine::open(Box::new(self.disk.clone()), settings, NOW).expect("opens").0;
    }

    /// Segments are removed and rewritten.
    fn maintain(&mut self) {
        self.watermark();
        self.engine.maintenance().pass(LATER).expect("works");
    }

    /// The process ends in an orderly way and starts again.
    fn close(&mut self) {
        let before = self.disk.recorded();
        self.expect(vec![vec![Entry::Watermark]]);
        self.opened += 1;
        let settings = settings(self.seed + (self.opened << 8));
        let other = FakeDisk::default();
        let idle = Engine::open(Box::new(other), settings.clone(), NOW).expect("opens").0;
        let engine = std::mem::replace(&mut self.engine, idle);
        engine.close(NOW).expect("closes");
        self.disk.unlock();
        let (engine, report) = Engine::open(Box::new(self.disk.clone()), settings, NOW).expect("opens");
        assert!(report.clean && report.records == 0, "{report:?}");
        if report.next.0 > self.stored.len() as u64 + 1 {
            assert!(self.disk.recorded() > before);
            self.stored.push(Entry::Watermark);
        }
        self.engine = engine;
        self.expect(Vec::new());
    }

    fn watermark(&mut self) {
        let before = self.disk.recorded();
        self.expect(vec![vec![Entry::Watermark]]);
        self.engine.note_watermark(NOW);
        if self.disk.recorded() > before {
            self.stored.push(Entry::Watermark);
        }
        self.expect(Vec::new());
    }

    /// From the operations recorded so far on, `attempted` may follow what is stored.
    fn expect(&mut self, attempted: Vec<Vec<Entry>>) {
        let expected = Expected { stored: self.stored.clone(), attempted, epochs: self.epochs };
        self.timeline.push((self.disk.recorded(), expected));
    }

    fn entry(&mut self) -> Entry {
        let name = self.random.below(NAMES.len());
        if name >= USERS && self.random.below(8) == 0 {
            let keep = if self.random.below(2) == 0 { 0 } else { u32::MAX };
            return Entry::Position { channel: name, keep };
        }
        if name < USERS && self.random.below(5) == 0 {
            // One user has devices.
            let device = if name == 2 { DEVICES[self.random.below(3)] } else { "" };
            return Entry::Cursor { user: name, device, through: self.random.below(16) as u64 };
        }
        let expires = self.random.below(4) == 0;
        self.numbered += 1;
        let length = match self.random.below(10) {
            0 => 0,
            1 => self.random.below(3000),
            _ => self.random.below(200),
        };
        let byte = (self.numbered % 251) as u8;
        let mut text = format!("{}:{}:", self.seed, self.numbered).into_bytes();
        text.resize(text.len() + length, byte);
        if name < USERS {
            return Entry::Message { user: name, text, expires };
        }
        let keep = 1 + self.random.below(12) as u32;
        Entry::Publication { channel: name, text, expires, keep }
    }
}

fn request(entry: &Entry) -> AppendRequest {
    let append = match entry {
        Entry::Message { user, text, expires } => {
            let message = Message {
                user: NAMES[*user].to_owned(),
                id: "an id".to_owned(),
                data: Bytes::copy_from_slice(text),
                ..Message::default()
            };
            Append::Message { message, expires_at: if *expires { NOW + 50 } else { 0 } }
        }
        Entry::Cursor { user, device, through } => Append::Acknowledge {
            class: Class::Mailbox,
            name: NAMES[*user].to_owned(),
            device: (*device).to_owned(),
            through: *through,
        },
        Entry::Publication { channel, text, expires, keep } => {
            let (channel, data) = (NAMES[*channel].to_owned(), Bytes::copy_from_slice(text));
            let publication = Publication { channel, data, ..Publication::default() };
            let expires_at = if *expires { NOW + 50 } else { 0 };
            Append::Publication { publication, keep: *keep, expires_at }
        }
        Entry::Position { channel, keep } => {
            let channel = NAMES[*channel].to_owned();
            Append::Position { channel, keep: *keep, version: Version::default() }
        }
        Entry::Watermark => unreachable!("the log writes these itself"),
    };
    AppendRequest { token: 0, append }
}

/// True if a stored body is this entry.
pub fn matches(entry: &Entry, body: &Body) -> bool {
    match (entry, body) {
        (Entry::Message { user, text, .. }, Body::Message(message)) => {
            message.user == NAMES[*user] && message.data == text && message.id == "an id"
        }
        (Entry::Cursor { user, device, .. }, Body::Cursor(cursor)) => {
            cursor.name == NAMES[*user] && cursor.device == *device
        }
        (Entry::Publication { channel, text, .. }, Body::Publication(publication)) => {
            publication.channel == NAMES[*channel] && publication.data == text
        }
        (Entry::Position { channel, .. }, Body::Meta(meta)) => meta.name == NAMES[*channel],
        (Entry::Watermark, Body::Watermark) => true,
        _ => false,
    }
}

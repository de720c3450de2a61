//! A seeded workload on a recording disk, and what the log must hold at every point of it.

use bytes::Bytes;
use millpond::log::body::{Body, Message};
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
/// Users with a mailbox.
pub const USERS: [&str; 3] = ["alice", "bob", "carol"];

/// What one record of the log says, for the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Message { user: usize, text: Vec<u8>, expires: bool },
    Cursor { user: usize, device: &'static str, through: u64 },
    Watermark,
}

/// What a crash at some operation may leave.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Must be there: the records by sequence, from 1.
    pub stored: Vec<Entry>,
    /// May follow, any prefix of it.
    pub attempted: Vec<Entry>,
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
            driver.append(2);
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
                driver.append(count);
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
    timeline: Vec<(usize, Expected)>,
    seed: u64,
    opened: u64,
    numbered: u64,
}

impl Driver {
    fn new(disk: FakeDisk, seed: u64, stored: Vec<Entry>) -> Self {
        disk.record();
        let timeline = vec![(0, Expected { stored: stored.clone(), attempted: Vec::new() })];
        let engine = Engine::open(Box::new(disk.clone()), settings(seed), NOW).expect("opens").0;
        Self { disk, engine, random: Random::new(seed), stored, timeline, seed, opened: 0, numbered: 0 }
    }

    fn finish(self, base: FakeDisk) -> Run {
        Run { base, operations: self.disk.trace(), timeline: self.timeline }
    }

    fn append(&mut self, count: usize) {
        let entries: Vec<Entry> = (0..count).map(|_| self.entry()).collect();
        let requests = entries.iter().map(request).collect();
        self.expect(entries.clone());
        for (ack, entry) in self.engine.append(requests, NOW).expect("small enough").into_iter().zip(entries)
        {
            match ack.result {
                Ok(appended) => {
                    assert_eq!(appended.sequence.0, self.stored.len() as u64 + 1);
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
        self.append(3);
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
        self.expect(vec![Entry::Watermark]);
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
        self.expect(vec![Entry::Watermark]);
        self.engine.note_watermark(NOW);
        if self.disk.recorded() > before {
            self.stored.push(Entry::Watermark);
        }
        self.expect(Vec::new());
    }

    /// From the operations recorded so far on, `attempted` may follow what is stored.
    fn expect(&mut self, attempted: Vec<Entry>) {
        self.timeline.push((self.disk.recorded(), Expected { stored: self.stored.clone(), attempted }));
    }

    fn entry(&mut self) -> Entry {
        let user = self.random.below(USERS.len());
        if self.random.below(5) == 0 {
            // One user has devices.
            let device = if user == 2 { DEVICES[self.random.below(3)] } else { "" };
            return Entry::Cursor { user, device, through: self.random.below(16) as u64 };
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
        Entry::Message { user, text, expires }
    }
}

fn request(entry: &Entry) -> AppendRequest {
    let append = match entry {
        Entry::Message { user, text, expires } => {
            let message = Message {
                user: USERS[*user].to_owned(),
                id: "an id".to_owned(),
                data: Bytes::copy_from_slice(text),
                ..Message::default()
            };
            Append::Message { message, expires_at: if *expires { NOW + 50 } else { 0 } }
        }
        Entry::Cursor { user, device, through } => Append::Acknowledge {
            class: Class::Mailbox,
            name: USERS[*user].to_owned(),
            device: (*device).to_owned(),
            through: *through,
        },
        Entry::Watermark => unreachable!("the log writes these itself"),
    };
    AppendRequest { token: 0, append }
}

/// True if a stored body is this entry.
pub fn matches(entry: &Entry, body: &Body) -> bool {
    match (entry, body) {
        (Entry::Message { user, text, .. }, Body::Message(message)) => {
            message.user == USERS[*user] && message.data == text && message.id == "an id"
        }
        (Entry::Cursor { user, device, .. }, Body::Cursor(cursor)) => {
            cursor.name == USERS[*user] && cursor.device == *device
        }
        (Entry::Watermark, Body::Watermark) => true,
        _ => false,
    }
}

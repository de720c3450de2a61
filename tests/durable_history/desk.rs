//! The log without threads: requests wait until the test commits them, acknowledgements until it hands them out.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use millpond::base::rng::Rng;
use millpond::log::body::Body;
use millpond::log::engine::Engine;
use millpond::log::error::{ReadError, RefuseError};
use millpond::log::fake::{FakeDisk, Fate};
use millpond::log::history::{HistoryRead, HistoryWalk, Trail};
use millpond::log::pages::{Pages, StreamPage};
use millpond::log::reader::{Placed, Reader, StreamInfo};
use millpond::log::record::{Class, Sequence};
use millpond::log::request::{Ack, AppendRequest};
use millpond::log::settings::LogSettings;
use millpond::log::storage::Storage;
use millpond::store::archive::Archive;

/// The log and what waits before and behind it; clones are handles to the same one.
#[derive(Clone)]
pub(crate) struct Desk(Rc<RefCell<Shelf>>);

struct Shelf {
    engine: Engine,
    reader: Reader,
    queue: VecDeque<AppendRequest>,
    acks: VecDeque<Ack>,
    /// Requests that the queue takes.
    room: usize,
    disk: FakeDisk,
    /// The disk before it was opened.
    base: FakeDisk,
    last: Sequence,
}

fn settings(seed: u8) -> LogSettings {
    LogSettings {
        segment_bytes: 32 << 10,
        batch_bytes: 8 << 10,
        maintenance_interval: Duration::ZERO,
        seed: [seed; 16],
        ..LogSettings::default()
    }
}

impl Desk {
    /// Opens the log on a disk at `now` (seconds since 1970).
    pub(crate) fn open(disk: FakeDisk, seed: u8, now: u32) -> Self {
        let base = disk.killed();
        disk.record();
        let (engine, report) = Engine::open(Box::new(disk.clone()), settings(seed), now).expect("a log");
        assert!(report.damage.is_empty(), "{report:?}");
        Self(Rc::new(RefCell::new(Shelf {
            reader: engine.reader(),
            engine,
            queue: VecDeque::new(),
            acks: VecDeque::new(),
            room: 64,
            disk,
            base,
            last: report.next.before(),
        })))
    }

    /// The last record that was there when the log was opened.
    pub(crate) fn last(&self) -> Sequence {
        self.0.borrow().last
    }

    pub(crate) fn disk(&self) -> FakeDisk {
        self.0.borrow().disk.clone()
    }

    /// Requests that are not committed, and acknowledgements that are not handed out.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let shelf = self.0.borrow();
        (shelf.queue.len(), shelf.acks.len())
    }

    /// The log writes and syncs at most so many requests.
    pub(crate) fn commit(&self, most: usize, now: u32) {
        let shelf = &mut *self.0.borrow_mut();
        let most = most.min(shelf.queue.len());
        let requests: Vec<_> = shelf.queue.drain(..most).collect();
        shelf.acks.extend(shelf.engine.append(requests, now).expect("no request is too large"));
    }

    pub(crate) fn next_ack(&self) -> Option<Ack> {
        self.0.borrow_mut().acks.pop_front()
    }

    /// Segments are removed and rewritten.
    pub(crate) fn maintain(&self, now: u32) {
        let shelf = &mut *self.0.borrow_mut();
        shelf.engine.note_watermark(now);
        // A fault that waits for the next write or file may hit this one; then the next pass does it.
        let _ = shelf.engine.maintenance().pass(now);
    }

    /// Power goes while the log writes what is queued: the disk as it is left, at a random point of that.
    pub(crate) fn power_cut(&self, rng: &mut Rng, now: u32) -> FakeDisk {
        let (disk, before) = (self.disk(), self.disk().recorded());
        let base = self.0.borrow().base.killed();
        self.commit(usize::MAX, now);
        let trace = disk.trace();
        let point = before + rng.below((trace.len() - before) as u32 + 1) as usize;
        for operation in &trace[..point] {
            base.play(operation);
        }
        let names = rng.below(base.pending_names() as u32 + 1) as usize;
        base.crash(names, |_| match rng.below(3) {
            0 => Fate::Kept,
            1 => Fate::Lost,
            _ => Fate::Torn(rng.below(512) as usize),
        })
    }
}

impl Archive for Desk {
    fn append(&mut self, request: AppendRequest) -> Result<(), Box<(RefuseError, AppendRequest)>> {
        let shelf = &mut *self.0.borrow_mut();
        if shelf.queue.len() >= shelf.room {
            return Err(Box::new((RefuseError::Full, request)));
        }
        shelf.queue.push_back(request);
        Ok(())
    }

    fn epoch_to_come(&self, user: &str, now: u32) -> u32 {
        self.0.borrow().reader.epoch_to_come(user, now)
    }

    fn info(&self, class: Class, name: &str, device: &str) -> Option<StreamInfo> {
        self.0.borrow().reader.info(class, name, device)
    }

    fn page(
        &self,
        stream: (Class, &str),
        after: u64,
        limit: usize,
        now: u32,
        budget: &mut usize,
    ) -> Result<Option<StreamPage>, ReadError> {
        Pages::default().read(&self.0.borrow().reader, stream, after, limit, now, budget)
    }

    fn newest(&self, user: &str, since: u32, most: usize) -> Result<Vec<Placed>, ReadError> {
        self.0.borrow().reader.newest(user, since, most)
    }

    fn history(&self, read: &HistoryRead<'_>, trail: Option<&mut Trail>) -> Option<HistoryWalk> {
        self.0.borrow().reader.history_walk(read, trail)
    }

    fn head(&self, class: Class, name: &str) -> Result<Option<Body>, ReadError> {
        Ok(self.0.borrow().reader.head(class, name)?.map(|stored| stored.body))
    }
}

/// The disk after the process was killed, or had its power cut while it wrote.
pub(crate) fn freed(disk: FakeDisk) -> FakeDisk {
    disk.unlock();
    disk
}

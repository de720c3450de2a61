//! The log without threads: requests wait until the test commits them, acknowledgements until it hands them out.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use millpond::log::body::{Body, Message};
use millpond::log::engine::Engine;
use millpond::log::error::{ReadError, RefuseError, StorageError};
use millpond::log::fake::FakeDisk;
use millpond::log::history::{HistoryRead, HistoryWalk, Trail};
use millpond::log::pages::{Pages, StreamPage};
use millpond::log::reader::{Placed, Reader, StreamInfo};
use millpond::log::record::{Class, Sequence};
use millpond::log::request::{Ack, Append, AppendRequest};
use millpond::log::settings::{LogSettings, MailboxLimits};
use millpond::store::archive::Archive;

/// Messages by user and offset, as the log acknowledged them.
pub(crate) type Durable = BTreeMap<(String, u64), Message>;

/// The log and what waits before and behind it; clones are handles to the same one.
#[derive(Clone)]
pub(crate) struct Desk(Rc<RefCell<Shelf>>);

struct Shelf {
    engine: Engine,
    reader: Reader,
    pages: Pages,
    queue: VecDeque<AppendRequest>,
    acks: VecDeque<Ack>,
    /// Requests that the queue takes.
    room: usize,
    /// Reads fail.
    unreadable: bool,
    durable: Durable,
    /// The record that was the last one when the log was opened.
    last: Sequence,
}

/// Settings of a log that stays small.
pub(crate) fn log_settings(mailbox: MailboxLimits) -> LogSettings {
    LogSettings {
        segment_bytes: 64 << 10,
        batch_bytes: 16 << 10,
        maintenance_interval: Duration::ZERO,
        seed: [9; 16],
        mailbox,
        ..LogSettings::default()
    }
}

impl Desk {
    /// Opens the log on a disk at `now` (seconds since 1970).
    pub(crate) fn open(disk: &FakeDisk, settings: LogSettings, now: u32) -> Self {
        let (engine, report) = Engine::open(Box::new(disk.clone()), settings, now).expect("a log");
        assert!(report.damage.is_empty(), "{report:?}");
        let reader = engine.reader();
        Self(Rc::new(RefCell::new(Shelf {
            engine,
            reader,
            pages: Pages::default(),
            queue: VecDeque::new(),
            acks: VecDeque::new(),
            room: usize::MAX,
            unreadable: false,
            durable: BTreeMap::new(),
            last: report.next.before(),
        })))
    }

    pub(crate) fn last(&self) -> Sequence {
        self.0.borrow().last
    }

    pub(crate) fn set_room(&self, room: usize) {
        self.0.borrow_mut().room = room;
    }

    pub(crate) fn set_unreadable(&self, unreadable: bool) {
        self.0.borrow_mut().unreadable = unreadable;
    }

    /// Requests that are not committed.
    pub(crate) fn queued(&self) -> usize {
        self.0.borrow().queue.len()
    }

    /// The log writes and syncs at most so many requests.
    pub(crate) fn commit(&self, most: usize, now: u32) {
        let shelf = &mut *self.0.borrow_mut();
        let most = most.min(shelf.queue.len());
        if most == 0 {
            return;
        }
        let requests: Vec<_> = shelf.queue.drain(..most).collect();
        let acks = shelf.engine.append(requests.clone(), now).expect("no request is too large");
        for (request, ack) in requests.into_iter().zip(&acks) {
            assert_eq!(request.token, ack.token);
            if let (Append::Message { message, .. }, Ok(appended)) = (request.append, ack.result) {
                let before = shelf.durable.insert((message.user.clone(), appended.offset), message);
                assert_eq!(before, None, "two messages with one offset");
            }
        }
        shelf.acks.extend(acks);
    }

    /// The next acknowledgement.
    pub(crate) fn next_ack(&self) -> Option<Ack> {
        self.0.borrow_mut().acks.pop_front()
    }

    /// A message that the log has.
    pub(crate) fn durable(&self, user: &str, offset: u64) -> Option<Message> {
        self.0.borrow().durable.get(&(user.to_owned(), offset)).cloned()
    }

    /// All of them.
    pub(crate) fn all_durable(&self) -> Durable {
        self.0.borrow().durable.clone()
    }

    /// Records appended, and bytes written for them.
    pub(crate) fn written(&self) -> (u64, u64) {
        let status = self.0.borrow().reader.status();
        (status.records, status.bytes)
    }

    pub(crate) fn mailbox(&self, user: &str, device: &str) -> Option<StreamInfo> {
        self.0.borrow().reader.info(Class::Mailbox, user, device)
    }
}

impl Archive for Desk {
    fn append(&mut self, request: AppendRequest) -> Result<(), Box<(RefuseError, AppendRequest)>> {
        let shelf = &mut *self.0.borrow_mut();
        if shelf.queue.len() + shelf.acks.len() >= shelf.room {
            return Err(Box::new((RefuseError::Full, request)));
        }
        shelf.queue.push_back(request);
        Ok(())
    }

    fn epoch_to_come(&self, user: &str, now: u32) -> u32 {
        self.0.borrow().reader.epoch_to_come(user, now)
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
        let shelf = &mut *self.0.borrow_mut();
        if shelf.unreadable {
            return Err(ReadError::Storage(StorageError::Device));
        }
        shelf.pages.read(&shelf.reader, stream, after, limit, now, budget)
    }
}

impl Desk {
    /// What the log before a crash had acknowledged: it must be here.
    pub(crate) fn remember(&self, durable: Durable) {
        let shelf = &mut *self.0.borrow_mut();
        for (user, offset) in durable.keys() {
            let info = shelf.reader.info(Class::Mailbox, user, "").expect("a mailbox that survives");
            assert!(info.state.last_offset >= *offset, "{user}: {offset} is lost");
        }
        shelf.durable = durable;
    }
}

impl Desk {
    /// Looks for what is not needed any more.
    pub(crate) fn maintain(&self, now: u32) {
        let shelf = &mut *self.0.borrow_mut();
        shelf.engine.maintenance().pass(now).expect("a pass");
        shelf.durable.retain(|(user, _), _| shelf.reader.info(Class::Mailbox, user, "").is_some());
    }
}

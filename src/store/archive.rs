//! The log as the office sees it.

use std::cell::RefCell;

use crate::log::Appender;
use crate::log::body::Body;
use crate::log::error::{ReadError, RefuseError};
use crate::log::history::{HistoryRead, HistoryWalk, Trail};
use crate::log::pages::{Pages, StreamPage};
use crate::log::reader::{Placed, Reader, StreamInfo};
use crate::log::record::Class;
use crate::log::request::AppendRequest;

/// Appends and reads; the reads may wait for the disk.
pub trait Archive {
    /// Queues a request; its acknowledgement comes later, in the order of the requests.
    ///
    /// # Errors
    /// Why not, with the request. Then no acknowledgement follows.
    fn append(&mut self, request: AppendRequest) -> Result<(), Box<(RefuseError, AppendRequest)>>;

    /// Where a stream stands, and the cursor of a device.
    fn info(&self, class: Class, name: &str, device: &str) -> Option<StreamInfo>;

    /// The epoch of the mailbox that a user without one gets with a message at `now` (seconds since 1970).
    fn epoch_to_come(&self, user: &str, now: u32) -> u32;

    /// At most `limit` messages of a stream behind `after` that have not expired at `now` (seconds since 1970). `None`
    /// once `budget` records were looked at: ask again, it goes on from there. `budget` is what is left of it afterwards.
    ///
    /// # Errors
    /// [`ReadError::Storage`] if the file system fails: nothing can be said then.
    fn page(
        &self,
        stream: (Class, &str),
        after: u64,
        limit: usize,
        now: u32,
        budget: &mut usize,
    ) -> Result<Option<StreamPage>, ReadError>;

    /// The newest messages of a user that were stored from `since` (seconds since 1970) on,
    /// newest first, at most `most`; acknowledged ones too, as far as the log still has them.
    ///
    /// # Errors
    /// [`ReadError::Storage`] if the file system fails.
    fn newest(&self, user: &str, since: u32, most: usize) -> Result<Vec<Placed>, ReadError>;

    /// Begins to read a page of a history; `None` if there is no such channel. `trail` shortens the way of the next read.
    fn history(&self, read: &HistoryRead<'_>, trail: Option<&mut Trail>) -> Option<HistoryWalk>;

    /// The newest record of a stream, `None` if there is none.
    ///
    /// # Errors
    /// See [`ReadError`].
    fn head(&self, class: Class, name: &str) -> Result<Option<Body>, ReadError>;
}

/// The log itself.
#[derive(Debug)]
pub struct LogArchive {
    /// Takes requests; its acknowledgements come to the store's inbox.
    pub appender: Appender,
    /// Reads what is durable.
    pub reader: Reader,
    /// Who reads page by page.
    pub pages: RefCell<Pages>,
}

impl Archive for LogArchive {
    fn append(&mut self, request: AppendRequest) -> Result<(), Box<(RefuseError, AppendRequest)>> {
        self.appender.try_append(request.clone()).map_err(|error| Box::new((error, request)))
    }

    fn info(&self, class: Class, name: &str, device: &str) -> Option<StreamInfo> {
        self.reader.info(class, name, device)
    }

    fn epoch_to_come(&self, user: &str, now: u32) -> u32 {
        self.reader.epoch_to_come(user, now)
    }

    fn page(
        &self,
        stream: (Class, &str),
        after: u64,
        limit: usize,
        now: u32,
        budget: &mut usize,
    ) -> Result<Option<StreamPage>, ReadError> {
        self.pages.borrow_mut().read(&self.reader, stream, after, limit, now, budget)
    }

    fn newest(&self, user: &str, since: u32, most: usize) -> Result<Vec<Placed>, ReadError> {
        self.reader.newest(user, since, most)
    }

    fn history(&self, read: &HistoryRead<'_>, trail: Option<&mut Trail>) -> Option<HistoryWalk> {
        self.reader.history_walk(read, trail)
    }

    fn head(&self, class: Class, name: &str) -> Result<Option<Body>, ReadError> {
        Ok(self.reader.head(class, name)?.map(|stored| stored.body))
    }
}

//! The history of one channel: numbers publications, keeps the newest of them, answers reads and recoveries
//! (client-protocol.md sections 4 and 10).
//!
//! Invariants:
//! - Offsets start at 1 and go up by 1 within an epoch. What is kept is contiguous and ends at the top.
//! - Data goes when the channel saw no publication for the data TTL, or on [`Access::remove`]; top, epoch and version
//!   stay. They go when nobody touched or held the stream for the meta TTL; the next access finds a new epoch and
//!   offset 0.
//! - Nothing is expired by a timer of its own: [`Stream::access`] first expires what is due, so no caller can see it. A
//!   sweep over idle streams calls [`Stream::expire`] to give the memory back.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::settings::ChannelOptions;
use crate::base::tick::{Tick, ticks_from_ms};

mod publication;
mod read;

pub use publication::{Arrival, Epoch, JsonCheck, Publication, Publisher, StreamPosition, arrival};
pub use read::{HistoryFault, HistoryPage, HistoryQuery, Publications, Recovery, RecoveryMode, Since};

/// How much a stream keeps, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Publications kept. With 0 they are numbered and not kept.
    pub size: u32,
    /// Ticks after the last publication until all are dropped.
    pub ttl: u32,
    /// Ticks after the last access until offset and epoch are dropped; counts as `ttl` if it is less.
    pub meta_ttl: u32,
}

impl Retention {
    /// What the options of a namespace say.
    #[must_use]
    pub fn of(options: &ChannelOptions) -> Self {
        let ticks = |duration: std::time::Duration| {
            ticks_from_ms(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
        };
        Self {
            size: options.history_size,
            ttl: ticks(options.history_ttl),
            meta_ttl: ticks(options.history_meta_ttl),
        }
    }
}

/// A publication on its way into the stream.
#[derive(Clone, Debug, Default)]
pub struct Draft<'a> {
    /// Payload, in an allocation of its own: a slice of a larger buffer would keep all of it.
    pub data: Bytes,
    /// Who published, for client-originated ones.
    pub publisher: Option<Publisher>,
    /// Tags.
    pub tags: Box<[(String, String)]>,
    /// 0 = unversioned.
    pub version: u64,
    /// Versions of different epochs are not compared; without one, whatever is stored is.
    pub version_epoch: &'a str,
}

/// What became of a [`Draft`].
#[derive(Clone, Debug)]
pub enum Appended {
    /// It has a number and goes to the subscribers.
    Published(Arc<Publication>),
    /// Its version is not above the stored one: nobody gets it, and the publisher is told the top of the stream.
    Suppressed,
}

/// The history of one channel.
#[derive(Debug)]
pub struct Stream {
    kept: VecDeque<Arc<Publication>>,
    top: u64,
    epoch: Epoch,
    version: Option<Box<Version>>,
    /// Bytes of the publications in `kept`.
    kept_bytes: usize,
    data_expires: Tick,
    meta_expires: Tick,
}

#[derive(Debug)]
struct Version {
    number: u64,
    epoch: Box<str>,
}

impl Stream {
    /// An empty stream.
    #[must_use]
    pub fn new(epoch: Epoch, retention: &Retention, now: Tick) -> Self {
        Self {
            kept: VecDeque::new(),
            top: 0,
            epoch,
            version: None,
            kept_bytes: 0,
            data_expires: now,
            meta_expires: meta_deadline(retention, now),
        }
    }

    /// The only way to the content: expires what is due and puts off the meta TTL. `fresh_epoch` is asked only if the
    /// meta TTL has passed and the stream begins anew.
    pub fn access<'a>(
        &'a mut self,
        retention: &'a Retention,
        now: Tick,
        fresh_epoch: impl FnOnce() -> Epoch,
    ) -> Access<'a> {
        if self.expire(now) {
            *self = Self::new(fresh_epoch(), retention, now);
        }
        self.meta_expires = meta_deadline(retention, now);
        Access { stream: self, retention, now }
    }

    /// Puts off the meta TTL without looking: a stream with subscribers, who know its epoch, does not begin anew.
    pub fn hold(&mut self, retention: &Retention, now: Tick) {
        self.meta_expires = meta_deadline(retention, now);
    }

    /// Drops what has expired. True if the whole stream has, and its owner may forget it.
    pub fn expire(&mut self, now: Tick) -> bool {
        if now >= self.data_expires {
            self.drop_data();
        }
        now >= self.meta_expires
    }

    /// When [`Stream::expire`] has something to do.
    #[must_use]
    pub fn next_expiry(&self) -> Tick {
        if self.kept.is_empty() { self.meta_expires } else { self.data_expires.min(self.meta_expires) }
    }

    /// Number of publications kept, expired ones included until the next access.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// True if no publication is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Bytes this stream holds on the heap, shared publications counted in full.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let version = self.version.as_ref().map_or(0, |version| size_of::<Version>() + version.epoch.len());
        self.kept.capacity() * size_of::<Arc<Publication>>() + self.kept_bytes + version
    }

    fn drop_data(&mut self) {
        self.kept = VecDeque::new();
        self.kept_bytes = 0;
    }

    fn position(&self) -> StreamPosition {
        StreamPosition { offset: self.top, epoch: self.epoch }
    }

    /// True if a publication of this version must not go out.
    fn suppresses(&self, number: u64, epoch: &str) -> bool {
        self.version.as_ref().is_some_and(|stored| {
            number > 0 && number <= stored.number && (epoch.is_empty() || *epoch == *stored.epoch)
        })
    }

    fn keep(&mut self, publication: Arc<Publication>, size: usize) {
        while self.kept.len() >= size.max(1) {
            let oldest = self.kept.pop_front();
            self.kept_bytes -= oldest.map_or(0, |oldest| oldest.memory_bytes());
        }
        if size == 0 {
            return;
        }
        if self.kept.len() == self.kept.capacity() {
            // Doubles, but never beyond the size that the namespace allows.
            let more = self.kept.len().max(4).min(size - self.kept.len());
            self.kept.reserve_exact(more);
        }
        self.kept_bytes += publication.memory_bytes();
        self.kept.push_back(publication);
    }
}

fn meta_deadline(retention: &Retention, now: Tick) -> Tick {
    now.after(retention.meta_ttl.max(retention.ttl))
}

/// A stream from which everything expired is gone. Made by [`Stream::access`] for one operation.
#[derive(Debug)]
pub struct Access<'a> {
    stream: &'a mut Stream,
    retention: &'a Retention,
    now: Tick,
}

impl<'a> Access<'a> {
    /// The top of the stream.
    #[must_use]
    pub fn position(&self) -> StreamPosition {
        self.stream.position()
    }

    /// Numbers and keeps a publication, unless its version suppresses it.
    pub fn append(&mut self, draft: Draft<'_>) -> Appended {
        let stream = &mut *self.stream;
        if stream.suppresses(draft.version, draft.version_epoch) {
            return Appended::Suppressed;
        }
        if draft.version > 0 {
            stream.version =
                Some(Box::new(Version { number: draft.version, epoch: draft.version_epoch.into() }));
        }
        stream.top += 1;
        stream.data_expires = self.now.after(self.retention.ttl);
        let publication = Arc::new(Publication {
            offset: stream.top,
            version: draft.version,
            data: draft.data,
            publisher: draft.publisher,
            tags: draft.tags,
            json: JsonCheck::default(),
        });
        stream.keep(Arc::clone(&publication), self.retention.size as usize);
        Appended::Published(publication)
    }

    /// Drops the data and keeps top, epoch and version.
    pub fn remove(&mut self) {
        self.stream.drop_data();
    }

    /// Decides whether a client that left at `since` can go on without a gap, and hands out what it missed. `limit` is
    /// `recovery_max_publication_limit`, 0 for none.
    #[must_use]
    pub fn recover(self, since: Since<'_>, mode: RecoveryMode, limit: u32) -> Recovery<'a> {
        read::recover(self.stream, since, mode, limit)
    }

    /// Reads a page of history.
    ///
    /// # Errors
    /// [`HistoryFault::BadRequest`] (107) for `reverse` since offset 0, [`HistoryFault::UnrecoverablePosition`] (112)
    /// for another epoch.
    pub fn read(self, query: &HistoryQuery<'_>) -> Result<HistoryPage<'a>, HistoryFault> {
        read::history(self.stream, query)
    }
}

#[cfg(test)]
mod tests;

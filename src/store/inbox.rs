//! The queues in front of the store's thread, and the one wake-up that empties them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;

use crossbeam::queue::ArrayQueue;

use crate::hub::mail::ApiAsk;
use crate::hub::store::StoreAsk;
use crate::log::request::{Ack, AckSink};

/// Bounded, without locks: a shard pushes and, at most once until the store has looked, unparks.
#[derive(Debug)]
pub struct Inbox {
    asks: ArrayQueue<StoreAsk>,
    acks: ArrayQueue<Ack>,
    notified: AtomicBool,
    stopping: AtomicBool,
    closed: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Inbox {
    /// Room for so many questions, and for the acknowledgements of so many requests under way.
    #[must_use]
    pub fn new(asks: usize, acks: usize) -> Self {
        Self {
            asks: ArrayQueue::new(asks.max(1)),
            acks: ArrayQueue::new(acks.max(1)),
            notified: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            thread: OnceLock::new(),
        }
    }

    /// Puts a question in, behind all of the same sender. Never waits.
    ///
    /// # Errors
    /// The question, if there is no room: the sender keeps it and tries again.
    pub fn ask(&self, ask: StoreAsk) -> Result<(), StoreAsk> {
        let pushed = self.asks.push(ask);
        self.wake();
        pushed
    }

    /// Questions that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.asks.len()
    }

    /// True if none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.asks.is_empty()
    }

    /// True once nobody reads here any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Calls that nobody will take any more; other questions are dropped, as their shards have ended.
    pub fn leftover_calls(&self) -> impl Iterator<Item = ApiAsk> {
        std::iter::from_fn(|| self.asks.pop()).filter_map(|ask| match ask {
            StoreAsk::Api(ask) => Some(*ask),
            _ => None,
        })
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// The store is to end once it has dealt with what is here.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.notified.store(false, Ordering::SeqCst);
        self.wake();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// The thread that reads here.
    pub(super) fn belongs_to(&self, thread: Thread) {
        let _ = self.thread.set(thread);
    }

    /// The store is about to look: whatever comes after this wakes it again.
    pub(super) fn begin(&self) {
        self.notified.swap(false, Ordering::AcqRel);
    }

    pub(super) fn next_ask(&self) -> Option<StoreAsk> {
        self.asks.pop()
    }

    pub(super) fn next_ack(&self) -> Option<Ack> {
        self.acks.pop()
    }

    fn wake(&self) {
        if !self.notified.swap(true, Ordering::AcqRel)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}

/// The inbox as the log's writer sees it.
#[derive(Debug)]
pub(super) struct Acks(pub(super) std::sync::Arc<Inbox>);

impl AckSink for Acks {
    fn acknowledge(&self, acks: &[Ack]) {
        for ack in acks {
            // Full is impossible within the allowance of the appender.
            let _ = self.0.acks.push(*ack);
        }
        self.0.wake();
    }
}

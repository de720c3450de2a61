//! Outgoing mail of one shard, kept in order per destination until the shell moves it into the bounded queues.
//!
//! The queues are bounded, this is not: its growth is bounded by its sources. Client input and publications are held
//! back while [`Post::is_congested`] (each connection and each API call has one letter under way at most), and what
//! remains are answers, of which every ask causes one.

use std::collections::VecDeque;

use crate::base::ids::ShardId;
use crate::hub::events::{Event, EventBatch};
use crate::hub::mail::{Answer, Mail};
use crate::hub::store::StoreAsk;

/// Letters to one shard that may wait before sources are held back.
const CONGESTED_LETTERS: usize = 4096;

/// Letters that an emptied queue keeps room for: a shard has one for each other shard.
const KEPT_CAPACITY: usize = 32;

/// Mail that has not left yet.
#[derive(Debug)]
pub struct Post {
    outgoing: Vec<VecDeque<Mail>>,
    answers: VecDeque<Answer>,
    events: EventBatch,
    store: VecDeque<StoreAsk>,
    congested: usize,
}

impl Post {
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            outgoing: (0..shards).map(|_| VecDeque::new()).collect(),
            answers: VecDeque::new(),
            events: EventBatch::default(),
            store: VecDeque::new(),
            congested: 0,
        }
    }

    /// Adds a letter.
    pub(crate) fn send(&mut self, to: ShardId, mail: Mail) {
        let queue = &mut self.outgoing[to.0 as usize];
        queue.push_back(mail);
        if queue.len() == CONGESTED_LETTERS {
            self.congested += 1;
        }
    }

    /// Adds an answer for the control plane.
    pub(crate) fn answer(&mut self, answer: Answer) {
        self.answers.push_back(answer);
    }

    /// Adds an event for backends.
    pub(crate) fn note(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Adds an event for backends, if there is one.
    pub(crate) fn note_any(&mut self, event: Option<Event>) {
        if let Some(event) = event {
            self.events.push(event);
        }
    }

    /// Adds something to ask of the store.
    pub(crate) fn ask_store(&mut self, ask: StoreAsk) {
        self.store.push_back(ask);
        if self.store.len() == CONGESTED_LETTERS {
            self.congested += 1;
        }
    }

    /// True while a destination lags so far behind that publishers must wait.
    pub fn is_congested(&self) -> bool {
        self.congested > 0 || self.events.events.len() >= CONGESTED_LETTERS
    }

    /// Takes letters to `to` in order while `accept` takes them (it gives a letter back when its queue is full).
    /// Returns how many left.
    pub fn drain_to(&mut self, to: ShardId, mut accept: impl FnMut(Mail) -> Result<(), Mail>) -> usize {
        let queue = &mut self.outgoing[to.0 as usize];
        let (left, relieved) = drain(queue, &mut accept);
        self.congested -= usize::from(relieved);
        left
    }

    /// Takes what is asked of the store in order while `accept` takes it, and the events of the turn as one more thing.
    /// Returns how much left, events aside.
    pub fn drain_store(&mut self, mut accept: impl FnMut(StoreAsk) -> Result<(), StoreAsk>) -> usize {
        let (left, relieved) = drain(&mut self.store, &mut accept);
        self.congested -= usize::from(relieved);
        if !self.events.is_empty()
            && let Err(StoreAsk::Events(events)) = accept(StoreAsk::Events(std::mem::take(&mut self.events)))
        {
            self.events = events;
        }
        left
    }

    /// Takes answers for the control plane in order while `accept` takes them. Returns how many left.
    pub fn drain_answers(&mut self, mut accept: impl FnMut(Answer) -> Result<(), Answer>) -> usize {
        let before = self.answers.len();
        while let Some(answer) = self.answers.pop_front() {
            if let Err(answer) = accept(answer) {
                self.answers.push_front(answer);
                break;
            }
        }
        before - self.answers.len()
    }

    /// The next letter to the shard itself.
    pub(crate) fn pop_own(&mut self, own: ShardId) -> Option<Mail> {
        let queue = &mut self.outgoing[own.0 as usize];
        let mail = queue.pop_front()?;
        if queue.len() + 1 == CONGESTED_LETTERS {
            self.congested -= 1;
        }
        Some(mail)
    }

    /// Gives spare capacity back.
    pub(crate) fn shrink(&mut self) {
        self.outgoing.iter_mut().for_each(VecDeque::shrink_to_fit);
        self.answers.shrink_to_fit();
        self.store.shrink_to_fit();
    }

    /// True if letters to `to` have not left.
    pub(crate) fn waits(&self, to: ShardId) -> bool {
        !self.outgoing[to.0 as usize].is_empty()
    }

    /// Letters that wait, answers and events included.
    pub fn len(&self) -> usize {
        let own = self.answers.len() + self.store.len() + self.events.events.len();
        self.outgoing.iter().map(VecDeque::len).sum::<usize>() + own
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
            && self.store.is_empty()
            && self.events.is_empty()
            && self.outgoing.iter().all(VecDeque::is_empty)
    }
}

/// Takes letters while `accept` takes them: how many left, and whether the queue is congested no more.
fn drain<T>(queue: &mut VecDeque<T>, accept: &mut impl FnMut(T) -> Result<(), T>) -> (usize, bool) {
    let before = queue.len();
    while let Some(letter) = queue.pop_front() {
        if let Err(letter) = accept(letter) {
            queue.push_front(letter);
            break;
        }
    }
    let after = queue.len();
    if after == 0 && queue.capacity() > KEPT_CAPACITY {
        queue.shrink_to(KEPT_CAPACITY);
    }
    (before - after, before >= CONGESTED_LETTERS && after < CONGESTED_LETTERS)
}

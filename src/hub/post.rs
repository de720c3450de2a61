//! Outgoing mail of one shard, kept in order per destination until the shell moves it into the bounded queues.
//!
//! The queues are bounded, this is not: its growth is bounded by its sources. Client input and publications are held
//! back while [`Post::is_congested`] (each connection and each API call has one letter under way at most), and what
//! remains are answers, of which every ask causes one.

use std::collections::VecDeque;

use crate::base::ids::ShardId;
use crate::hub::events::{Event, EventBatch};
use crate::hub::mail::{Answer, LEAVERS_PER_LETTER, Mail};
use crate::hub::store::StoreAsk;

/// Letters of all shards that may wait before sources are held back, shared evenly: when a million connections leave at
/// once, their letters must not take more memory than they did.
const CONGESTED_LETTERS_OF_ALL: usize = 64 * 1024;

/// Bounds of one shard's part: a turn's worth, and what the host of one or two shards needs.
const CONGESTED_LETTERS: std::ops::RangeInclusive<usize> = 1024..=4096;

/// Letters that an emptied queue keeps room for: a shard has one for each other shard.
const KEPT_CAPACITY: usize = 32;

/// Mail that has not left yet.
#[derive(Debug)]
pub struct Post {
    outgoing: Vec<VecDeque<Mail>>,
    /// Letters that have left, by destination.
    left: Vec<u64>,
    answers: VecDeque<Answer>,
    events: EventBatch,
    store: VecDeque<StoreAsk>,
    /// Letters in `outgoing`.
    letters: usize,
    /// Letters that left for other shards.
    pub(crate) sent: u64,
    /// Times that some did not, as the inbox was full.
    pub(crate) refused: u64,
    /// So many letters, questions or events are too many.
    congested_at: usize,
}

impl Post {
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            outgoing: (0..shards).map(|_| VecDeque::new()).collect(),
            left: vec![0; shards],
            answers: VecDeque::new(),
            events: EventBatch::default(),
            store: VecDeque::new(),
            letters: 0,
            sent: 0,
            refused: 0,
            congested_at: (CONGESTED_LETTERS_OF_ALL / shards.max(1))
                .clamp(*CONGESTED_LETTERS.start(), *CONGESTED_LETTERS.end()),
        }
    }

    /// Adds a letter.
    pub(crate) fn send(&mut self, to: ShardId, mail: Mail) {
        self.outgoing[to.0 as usize].push_back(mail);
        self.letters += 1;
    }

    /// The last letter to `to` that has not left and is not about a user: what is about a channel may be added to it, as
    /// the two have nothing to do with each other. A few letters are looked at.
    pub(crate) fn last_about_channel(&mut self, to: ShardId) -> Option<&mut Mail> {
        let latest = self.outgoing[to.0 as usize].iter_mut().rev().take(LEAVERS_PER_LETTER + 1);
        latest.into_iter().find(|mail| !matches!(mail, Mail::User(_)))
    }

    /// Number of the last letter to `to`: they count from 1 and leave in order.
    pub(crate) fn number(&self, to: ShardId) -> u64 {
        self.left[to.0 as usize] + self.outgoing[to.0 as usize].len() as u64
    }

    /// True once the letter with this number has left.
    pub(crate) fn has_left(&self, to: ShardId, number: u64) -> bool {
        number <= self.left[to.0 as usize]
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
    }

    /// True while so much waits that publishers must wait too.
    pub fn is_congested(&self) -> bool {
        self.letters.max(self.store.len()).max(self.events.events.len()) >= self.congested_at
    }

    /// Takes letters to `to` in order while `accept` takes them (it gives a letter back when its queue is full).
    /// Returns how many left.
    pub fn drain_to(&mut self, to: ShardId, mut accept: impl FnMut(Mail) -> Result<(), Mail>) -> usize {
        let queue = &mut self.outgoing[to.0 as usize];
        let left = drain(queue, &mut accept);
        self.left[to.0 as usize] += left as u64;
        self.letters -= left;
        self.sent += left as u64;
        self.refused += u64::from(!self.outgoing[to.0 as usize].is_empty());
        left
    }

    /// Takes what is asked of the store in order while `accept` takes it, and the events of the turn as one more thing.
    /// Returns how much left, events aside.
    pub fn drain_store(&mut self, mut accept: impl FnMut(StoreAsk) -> Result<(), StoreAsk>) -> usize {
        let left = drain(&mut self.store, &mut accept);
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
        self.left[own.0 as usize] += 1;
        self.letters -= 1;
        Some(mail)
    }

    /// Bytes of the queues themselves.
    pub(crate) fn memory_bytes(&self) -> usize {
        let places: usize = self.outgoing.iter().map(VecDeque::capacity).sum();
        self.outgoing.capacity() * size_of::<VecDeque<Mail>>()
            + self.left.capacity() * size_of::<u64>()
            + places * size_of::<Mail>()
            + self.answers.capacity() * size_of::<Answer>()
            + self.store.capacity() * size_of::<StoreAsk>()
            + self.events.events.capacity() * size_of::<Event>()
    }

    /// Gives spare capacity back.
    pub(crate) fn shrink(&mut self) {
        self.outgoing.iter_mut().for_each(VecDeque::shrink_to_fit);
        self.answers.shrink_to_fit();
        self.store.shrink_to_fit();
    }

    /// True if no letter waits; answers may.
    pub fn has_no_letters(&self) -> bool {
        self.letters == 0
    }

    /// True if letters to `to` have not left.
    #[must_use]
    pub fn waits(&self, to: ShardId) -> bool {
        !self.outgoing[to.0 as usize].is_empty()
    }

    /// Letters that wait, answers and events included.
    pub fn len(&self) -> usize {
        self.letters + self.answers.len() + self.store.len() + self.events.events.len()
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.events.is_empty()
    }
}

/// Takes letters in order while `accept` takes them. Returns how many left.
fn drain<T>(queue: &mut VecDeque<T>, accept: &mut impl FnMut(T) -> Result<(), T>) -> usize {
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
    before - after
}

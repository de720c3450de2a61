//! A channel with several subscribers on this shard, and the sweep that serves them.
//!
//! A fan-out is a rotating sweep over the subscribers, not a loop per message. Frames that arrive while a sweep is
//! under way join it: each subscriber gets, in one write, the contiguous run of frames that arrived since the sweep
//! last passed it. A frame that arrives while the sweep stands at subscriber *p* is complete when the sweep comes
//! back to *p*, one lap later. So at any place the frames still under way are one run, oldest to newest, and every
//! subscriber there needs exactly that run; only one that joined later needs a part of it (`joined`).
//!
//! Invariant: `sweep.marks` is ordered by `(lap, start)`, and by frame number. Places of subscribers only change in
//! [`Channel::compact`], which maps the marks along.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::hub::connection::NONE;
use crate::hub::mail::Delivery;
use crate::hub::metrics::SentKind;
use crate::hub::sweep::{Line, Spent};
use crate::protocol::Encoding;

/// Frames after which the numbers of old subscribers are moved up.
const AGE_ROUND: u32 = 1 << 30;

/// One subscriber.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscriber {
    /// Slot of the connection, `NONE` where one left.
    pub(crate) slot: u32,
    /// Number of the first frame this subscriber is to get (wrapping).
    pub(crate) joined: u32,
}

/// Bytes of frames under way in all channels of a shard: each keeps its part of it up to date, so that nobody has to walk
/// over them. Only the shard's own thread uses it.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    /// Bytes, of all encodings.
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// One channel's part was `before` and is `after`. A load and a store: there is no other writer.
    fn changed(&self, before: usize, after: usize) {
        self.0.store(self.bytes().wrapping_sub(before).wrapping_add(after), Ordering::Relaxed);
    }
}

/// A channel.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) name: Box<str>,
    pub(crate) hash: u64,
    /// Subscriptions, pending ones included.
    pub(crate) references: u32,
    /// Active subscribers and the places of those who left.
    pub(crate) subscribers: Vec<Subscriber>,
    vacant: u32,
    /// Where it stands among the shard's sweeps.
    pub(crate) line: Line,
    /// What its announcements have used up of their pace.
    pub(crate) spent: Spent,
    /// Its frames may wait, so they may as well be joined with those of other channels.
    pub(crate) delayed: bool,
    next_number: u32,
    position: usize,
    lap: u32,
    marks: VecDeque<Mark>,
    runs: [Run; 2],
    join_leave_marks: u32,
    not_json_marks: u32,
    under_way: UnderWay,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.under_way.changed(self.backlog(), 0);
    }
}

/// A frame under way.
#[derive(Debug)]
struct Mark {
    number: u32,
    lap: u32,
    start: usize,
    delivery: Arc<Delivery>,
    /// Where the frame begins in the run of each encoding, counted from the beginning of time.
    from: [u64; 2],
}

/// Frames under way of one encoding, back to back.
#[derive(Debug, Default)]
struct Run {
    bytes: Vec<u8>,
    /// What `bytes[0]` is, counted from the beginning of time.
    base: u64,
}

/// What one subscriber is to get now.
pub(crate) struct Portion<'a> {
    /// The contiguous run; empty if the pieces must be picked one by one.
    pub(crate) run: &'a [u8],
    marks: &'a VecDeque<Mark>,
    first: usize,
    encoding: Encoding,
    join_leave: bool,
    /// Joins and leaves are among the frames under way.
    is_mixed: bool,
    may_be_unfit: bool,
}

impl Portion<'_> {
    /// The frames one by one, for a subscriber that cannot take the run as it is.
    pub(crate) fn frames(&self) -> impl Iterator<Item = (&Arc<Delivery>, &Bytes)> {
        let (encoding, join_leave) = (self.encoding, self.join_leave);
        self.marks
            .iter()
            .skip(self.first)
            .filter(move |mark| join_leave || !mark.delivery.join_leave)
            .filter_map(move |mark| Some((&mark.delivery, frame(&mark.delivery, encoding)?)))
    }

    /// True if something that the subscriber gets cannot be put into its encoding.
    pub(crate) fn unfit(&self) -> bool {
        let is_unfit = |of: &Delivery| of.not_json && (self.join_leave || !of.join_leave);
        self.may_be_unfit && self.marks.iter().skip(self.first).any(|mark| is_unfit(&mark.delivery))
    }

    /// Tells how many frames there are of each kind.
    pub(crate) fn count(&self, mut count: impl FnMut(SentKind, u64)) {
        if self.is_mixed {
            self.frames().for_each(|(delivery, _)| count(delivery.kind, 1));
        } else {
            let frames =
                if self.run.is_empty() { self.frames().count() } else { self.marks.len() - self.first };
            count(SentKind::PushPublication, frames as u64);
        }
    }
}

/// The frame of a delivery in one encoding.
pub(crate) fn frame(delivery: &Delivery, encoding: Encoding) -> Option<&Bytes> {
    match encoding {
        Encoding::Json => delivery.json.as_ref(),
        Encoding::Protobuf => delivery.protobuf.as_ref(),
    }
}

fn index(encoding: Encoding) -> usize {
    match encoding {
        Encoding::Json => 0,
        Encoding::Protobuf => 1,
    }
}

impl Channel {
    pub(crate) fn new(name: &str, hash: u64, references: u32, under_way: UnderWay) -> Self {
        Self {
            name: name.into(),
            hash,
            references,
            subscribers: Vec::new(),
            vacant: 0,
            line: Line::default(),
            spent: Spent::default(),
            delayed: false,
            next_number: 0,
            position: 0,
            lap: 0,
            marks: VecDeque::new(),
            runs: Default::default(),
            join_leave_marks: 0,
            not_json_marks: 0,
            under_way,
        }
    }

    /// Adds a subscriber that gets every frame added from now on. Returns its place.
    pub(crate) fn add(&mut self, slot: u32) -> u32 {
        self.subscribers.push(Subscriber { slot, joined: self.next_number });
        self.subscribers.len() as u32 - 1
    }

    /// Removes the subscriber at `place`. O(1). While frames are under way places stay as they are until
    /// [`Self::compact`]; otherwise the last subscriber takes the place, and whoever that is, is told.
    #[must_use]
    pub(crate) fn remove(&mut self, place: u32) -> Option<u32> {
        let subscriber = self.subscribers.get_mut(place as usize)?;
        subscriber.slot = NONE;
        self.vacant += 1;
        if self.is_sweeping() {
            return None;
        }
        while self.subscribers.pop_if(|last| last.slot == NONE).is_some() {
            self.vacant -= 1;
        }
        let moved = if (place as usize) < self.subscribers.len() {
            self.vacant -= 1;
            let last = self.subscribers.pop()?;
            self.subscribers[place as usize] = last;
            Some(last.slot)
        } else {
            None
        };
        if self.subscribers.capacity() > 4 * self.subscribers.len() + 64 {
            self.subscribers.shrink_to(2 * self.subscribers.len());
        }
        moved
    }

    /// Active subscribers.
    pub(crate) fn active(&self) -> usize {
        self.subscribers.len() - self.vacant as usize
    }

    /// True if closing the gaps of those who left is worth it.
    pub(crate) fn wants_compaction(&self) -> bool {
        self.vacant > 16 && self.vacant as usize * 4 > self.subscribers.len()
    }

    /// Closes the gaps, in order, and tells every moved subscriber's new place. O(subscribers).
    pub(crate) fn compact(&mut self, mut moved: impl FnMut(u32, u32)) {
        let mut kept = 0;
        let mut mark = self.marks.iter_mut().map(|mark| &mut mark.start).collect::<Vec<_>>();
        mark.sort_unstable_by_key(|start| **start);
        let mut starts = mark.into_iter().peekable();
        let (old_position, mut position) = (self.position, None);
        for place in 0..=self.subscribers.len() {
            while let Some(start) = starts.next_if(|start| **start <= place) {
                *start = kept;
            }
            if place == old_position {
                position = Some(kept);
            }
            let Some(subscriber) = self.subscribers.get(place).copied() else { break };
            if subscriber.slot == NONE {
                continue;
            }
            if kept != place {
                self.subscribers[kept] = subscriber;
                moved(subscriber.slot, kept as u32);
            }
            kept += 1;
        }
        self.subscribers.truncate(kept);
        if self.subscribers.capacity() > 2 * kept + 64 {
            self.subscribers.shrink_to(kept);
        }
        self.position = position.unwrap_or(kept);
        self.vacant = 0;
    }

    /// Adds a frame to the sweep.
    pub(crate) fn push(&mut self, delivery: Arc<Delivery>) {
        let before = self.backlog();
        let from = [self.runs[0].end(), self.runs[1].end()];
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            if let Some(frame) = frame(&delivery, encoding) {
                self.runs[index(encoding)].bytes.extend_from_slice(frame);
            }
        }
        self.under_way.changed(before, self.backlog());
        self.join_leave_marks += u32::from(delivery.join_leave);
        self.not_json_marks += u32::from(delivery.not_json);
        let (number, lap, start) = (self.next_number, self.lap, self.position);
        self.marks.push_back(Mark { number, lap, start, delivery, from });
        self.count();
    }

    /// Counts a frame that was delivered without a sweep.
    pub(crate) fn skip(&mut self) {
        self.count();
    }

    /// True while frames are under way.
    pub(crate) fn is_sweeping(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Bytes of frames under way.
    pub(crate) fn backlog(&self) -> usize {
        self.runs[0].bytes.len() + self.runs[1].bytes.len()
    }

    /// The next subscriber to serve; moves on by one. `None` when every frame has made its lap.
    pub(crate) fn step(&mut self) -> Option<Subscriber> {
        if self.position >= self.subscribers.len() {
            self.position = 0;
            self.lap = self.lap.wrapping_add(1);
        }
        self.retire();
        if self.marks.is_empty() || self.subscribers.is_empty() {
            self.finish();
            return None;
        }
        let subscriber = self.subscribers[self.position];
        self.position += 1;
        Some(subscriber)
    }

    /// True if joins or leaves are under way, so that not every subscriber gets everything.
    pub(crate) fn carries_join_leave(&self) -> bool {
        self.join_leave_marks > 0
    }

    /// True if only joins, leaves and counts are under way.
    pub(crate) fn only_announces(&self) -> bool {
        self.join_leave_marks as usize == self.marks.len()
    }

    /// What `subscriber` is to get now, joins and leaves included or not; `None` if nothing (it joined after all
    /// frames under way).
    pub(crate) fn portion(
        &self,
        subscriber: Subscriber,
        encoding: Encoding,
        join_leave: bool,
    ) -> Option<Portion<'_>> {
        let oldest = self.marks.front()?;
        let missed = subscriber.joined.wrapping_sub(oldest.number);
        let first = if missed > u32::MAX / 2 { 0 } else { missed as usize };
        let mark = self.marks.get(first)?;
        let run = &self.runs[index(encoding)];
        let bytes = if join_leave {
            let from = usize::try_from(mark.from[index(encoding)] - run.base).unwrap_or(usize::MAX);
            run.bytes.get(from..).unwrap_or_default()
        } else {
            &[]
        };
        let may_be_unfit = self.not_json_marks > 0 && encoding == Encoding::Json;
        let is_mixed = self.carries_join_leave();
        Some(Portion { run: bytes, marks: &self.marks, first, encoding, join_leave, is_mixed, may_be_unfit })
    }

    /// Bytes of memory held.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.name.len()
            + self.subscribers.len() * size_of::<Subscriber>()
            + self.marks.capacity() * size_of::<Mark>()
            + self.runs[0].bytes.capacity()
            + self.runs[1].bytes.capacity()
    }

    /// Numbers wrap. Twice a round, subscribers that joined long ago are moved up, so that none seems to join in the
    /// future: O(subscribers) every 2^30 frames.
    fn count(&mut self) {
        self.next_number = self.next_number.wrapping_add(1);
        if self.next_number.is_multiple_of(AGE_ROUND) {
            let old = self.next_number.wrapping_sub(AGE_ROUND / 2);
            for subscriber in &mut self.subscribers {
                if self.next_number.wrapping_sub(subscriber.joined) > AGE_ROUND / 2 {
                    subscriber.joined = old;
                }
            }
        }
    }

    /// Drops frames whose lap is complete.
    fn retire(&mut self) {
        let before = self.marks.len();
        while let Some(mark) = self.marks.front() {
            let laps = self.lap.wrapping_sub(mark.lap);
            let complete = laps > 1 || (laps == 1 && self.position >= mark.start);
            if !complete {
                break;
            }
            self.join_leave_marks -= u32::from(mark.delivery.join_leave);
            self.not_json_marks -= u32::from(mark.delivery.not_json);
            self.marks.pop_front();
        }
        if self.marks.len() < before {
            self.trim();
        }
    }

    /// Gives the bytes of retired frames back once they are half of the run, so that trimming costs O(1) a byte.
    fn trim(&mut self) {
        let before = self.backlog();
        for which in 0..2 {
            let keep_from = self.marks.front().map_or(self.runs[which].end(), |mark| mark.from[which]);
            let run = &mut self.runs[which];
            let dead = usize::try_from(keep_from - run.base).unwrap_or(0);
            if dead == run.bytes.len() {
                run.bytes.clear();
            } else if dead * 2 > run.bytes.len() {
                run.bytes.drain(..dead);
            } else {
                continue;
            }
            run.base = keep_from;
        }
        self.under_way.changed(before, self.backlog());
    }

    fn finish(&mut self) {
        self.marks.clear();
        (self.join_leave_marks, self.not_json_marks) = (0, 0);
        self.trim();
        (self.position, self.lap) = (0, 0);
        for run in &mut self.runs {
            run.bytes.shrink_to(64 * 1024);
        }
    }
}

impl Run {
    fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }
}

#[cfg(test)]
mod tests;

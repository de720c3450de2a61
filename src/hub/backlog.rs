//! Frames that wait for a reader who is behind, in order, and what may be left out of them.
//!
//! | [`Hold`] | what | when a newer one of its channel comes | when too much waits |
//! |---|---|---|---|
//! | `Firm` | replies, other pushes, policy `disconnect` | waits behind | stays |
//! | `Loose` | policy `drop_oldest` | waits behind | goes, the oldest first |
//! | `Newest` | policy `keep_latest` | its frame takes this one's place | stays |
//! | `Chained` | either policy, where the subscription is positioned | waits behind | goes with all of its channel, and the subscription ends |
//!
//! Everything is O(1) for each frame that came in: frames are linked in order (`before`, `after`), those that may go
//! when too much waits once more (`older`, `newer`), and those of a chain a third time (`later`).
//!
//! Invariants: a frame of which a part is in the kernel is first, firm, and in neither of the other lists. A line stands
//! for one subscription: all its frames are of one kind, and exactly one if that is `Newest`.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use bytes::Bytes;
use slab::Slab;

use crate::hub::connection::NONE;
use crate::hub::home::Keyed;
use crate::hub::mail::{Delivery, Terms};
use crate::hub::settings::SlowConsumer;
use crate::limits;

/// See the module documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    Firm,
    Loose,
    Newest,
    Chained,
}

impl Hold {
    /// What the policy of a namespace means for a subscription. To a positioned one nothing may go missing unnoticed,
    /// except where recovery replays the newest publication only: there a newer one makes up for an older.
    pub(crate) fn of(terms: Terms, positioned: bool) -> Self {
        match terms.slow_consumer {
            SlowConsumer::Disconnect => Self::Firm,
            SlowConsumer::KeepLatest if !positioned || terms.newest_only => Self::Newest,
            _ if positioned => Self::Chained,
            _ => Self::Loose,
        }
    }
}

/// What [`Backlog::make_room`] left out.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    /// Publications.
    pub(crate) count: u64,
    /// One of each subscription that has to end because something of it is missing.
    pub(crate) gaps: Vec<Arc<Delivery>>,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Backlog {
    places: Slab<Waiting>,
    order: Ends,
    droppable: Ends,
    lines: HashMap<u64, Ends, BuildHasherDefault<Keyed>>,
    bytes: usize,
    /// A part of the first frame is in the kernel.
    begun: bool,
}

/// First and last of a list.
#[derive(Clone, Copy, Debug)]
struct Ends {
    first: u32,
    last: u32,
}

const EMPTY: Ends = Ends { first: NONE, last: NONE };

#[derive(Debug)]
struct Waiting {
    frame: Bytes,
    /// Set unless firm.
    source: Option<Arc<Delivery>>,
    before: u32,
    after: u32,
    older: u32,
    newer: u32,
    /// Next of the same chain.
    later: u32,
    hold: Hold,
}

impl Default for Backlog {
    fn default() -> Self {
        Self {
            places: Slab::new(),
            order: EMPTY,
            droppable: EMPTY,
            lines: HashMap::default(),
            bytes: 0,
            begun: false,
        }
    }
}

impl Backlog {
    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// True if nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes of memory held.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.places.capacity() * (size_of::<Waiting>() + size_of::<usize>())
            + self.lines.capacity() * (size_of::<(u64, Ends)>() + 1)
            + self.bytes
    }

    /// Adds a frame that is never left out.
    pub(crate) fn push(&mut self, frame: Bytes) {
        self.link(frame, None, Hold::Firm);
    }

    /// Adds what is left of a frame of which the first part is in the kernel. Nothing else may wait.
    pub(crate) fn push_begun(&mut self, rest: Bytes) {
        debug_assert!(self.is_empty(), "a frame is begun once all before it are out");
        self.push(rest);
        self.begun = true;
    }

    /// Adds a publication. True if it took the place of an older one.
    pub(crate) fn push_publication(&mut self, frame: Bytes, source: &Arc<Delivery>, hold: Hold) -> bool {
        if hold == Hold::Newest
            && let Some(line) = self.lines.get(&source.hash)
            && let Some(waiting) = self.places.get_mut(line.first as usize)
        {
            self.bytes = self.bytes - waiting.frame.len() + frame.len();
            waiting.frame = frame;
            waiting.source = Some(Arc::clone(source));
            return true;
        }
        self.link(frame, Some(source), hold);
        false
    }

    /// The next bytes to write: whole frames from where the last write ended, small ones gathered in `scratch`.
    pub(crate) fn front<'a>(&'a self, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        let Some(first) = self.places.get(self.order.first as usize) else { return &[] };
        let mut next = self.places.get(first.after as usize);
        let fits = |length: usize, next: &Waiting| length + next.frame.len() <= limits::GATHER_BYTES;
        if next.is_none_or(|next| !fits(first.frame.len(), next)) {
            return &first.frame;
        }
        scratch.clear();
        scratch.extend_from_slice(&first.frame);
        while let Some(waiting) = next.filter(|next| fits(scratch.len(), next)) {
            scratch.extend_from_slice(&waiting.frame);
            next = self.places.get(waiting.after as usize);
        }
        scratch
    }

    /// Forgets `count` bytes of what [`Self::front`] returned.
    pub(crate) fn advance(&mut self, mut count: usize) {
        while count > 0
            && let Some(length) = self.places.get(self.order.first as usize).map(|first| first.frame.len())
        {
            let first = self.order.first;
            if count < length {
                return self.begin(first, count);
            }
            count -= length;
            self.remove(first);
            self.begun = false;
        }
    }

    /// Leaves publications out, the oldest first, until at most `limit` bytes wait or none may go.
    pub(crate) fn make_room(&mut self, limit: usize) -> LeftOut {
        let mut left_out = LeftOut::default();
        while self.bytes > limit
            && let Some(oldest) = self.places.get(self.droppable.first as usize)
        {
            if oldest.hold == Hold::Chained
                && let Some(source) = oldest.source.clone()
            {
                left_out.count += self.drop_chain(source.hash);
                left_out.gaps.push(source);
            } else {
                self.remove(self.droppable.first);
                left_out.count += 1;
            }
        }
        left_out
    }

    /// The subscription to a channel is over: what waits of it is not missed any more if it goes, and nothing that
    /// comes later takes its place.
    pub(crate) fn end_line(&mut self, hash: u64) {
        let Some(line) = self.lines.remove(&hash) else { return };
        let mut at = line.first;
        while let Some(waiting) = self.places.get_mut(at as usize) {
            at = waiting.later;
            waiting.later = NONE;
            if waiting.hold == Hold::Chained {
                waiting.hold = Hold::Loose;
            } else {
                (waiting.hold, waiting.source) = (Hold::Firm, None);
            }
        }
    }

    /// The rest of a frame of which a part is in the kernel; the only one that must still go out.
    pub(crate) fn into_begun(self) -> Option<Bytes> {
        let Self { places, order, begun, .. } = self;
        places.get(order.first as usize).filter(|_| begun).map(|first| first.frame.clone())
    }

    fn drop_chain(&mut self, hash: u64) -> u64 {
        let mut count = 0;
        while let Some(line) = self.lines.get(&hash) {
            self.remove(line.first);
            count += 1;
        }
        count
    }

    fn link(&mut self, frame: Bytes, source: Option<&Arc<Delivery>>, hold: Hold) {
        self.bytes += frame.len();
        let source = source.filter(|_| hold != Hold::Firm);
        let (before, older) = (self.order.last, self.droppable.last);
        let at = self.places.insert(Waiting {
            frame,
            source: source.map(Arc::clone),
            before,
            after: NONE,
            older,
            newer: NONE,
            later: NONE,
            hold,
        }) as u32;
        match self.places.get_mut(before as usize) {
            Some(last) => last.after = at,
            None => self.order.first = at,
        }
        self.order.last = at;
        if matches!(hold, Hold::Loose | Hold::Chained) {
            match self.places.get_mut(older as usize) {
                Some(last) => last.newer = at,
                None => self.droppable.first = at,
            }
            self.droppable.last = at;
        }
        if matches!(hold, Hold::Newest | Hold::Chained)
            && let Some(source) = source
        {
            self.extend_line(source.hash, at);
        }
    }

    fn extend_line(&mut self, hash: u64, at: u32) {
        let line = self.lines.entry(hash).or_insert(Ends { first: at, last: at });
        if line.last != at
            && let Some(last) = self.places.get_mut(line.last as usize)
        {
            last.later = at;
            line.last = at;
        }
    }

    /// `count` bytes of the first frame are in the kernel: the rest of it has to follow.
    fn begin(&mut self, first: u32, count: usize) {
        self.unlist(first);
        let Some(waiting) = self.places.get_mut(first as usize) else { return };
        waiting.frame = waiting.frame.slice(count..);
        (waiting.hold, waiting.source) = (Hold::Firm, None);
        self.bytes -= count;
        self.begun = true;
    }

    fn remove(&mut self, at: u32) {
        self.unlist(at);
        let Some(waiting) = self.places.try_remove(at as usize) else { return };
        self.bytes -= waiting.frame.len();
        match self.places.get_mut(waiting.before as usize) {
            Some(before) => before.after = waiting.after,
            None => self.order.first = waiting.after,
        }
        match self.places.get_mut(waiting.after as usize) {
            Some(after) => after.before = waiting.before,
            None => self.order.last = waiting.before,
        }
    }

    /// Takes a frame out of the lists of those that may go and of its channel, where it is the first one.
    fn unlist(&mut self, at: u32) {
        let Some(waiting) = self.places.get(at as usize) else { return };
        let (hold, older, newer, later) = (waiting.hold, waiting.older, waiting.newer, waiting.later);
        if matches!(hold, Hold::Newest | Hold::Chained)
            && let Some(hash) = waiting.source.as_ref().map(|source| source.hash)
            && let Some(line) = self.lines.get_mut(&hash)
        {
            line.first = later;
            if later == NONE {
                self.lines.remove(&hash);
            }
        }
        if matches!(hold, Hold::Loose | Hold::Chained) {
            match self.places.get_mut(older as usize) {
                Some(place) => place.newer = newer,
                None => self.droppable.first = newer,
            }
            match self.places.get_mut(newer as usize) {
                Some(place) => place.older = older,
                None => self.droppable.last = older,
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! Reads the history of a channel: a page of publications from either end, and where the stream stands.
//!
//! Whoever delivers publications as they are acknowledged must not read beyond what it has delivered, so a read may be
//! told where the stream ends for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::body::Body;
use super::chain::Chain;
use super::error::ReadError;
use super::reader::{Reader, Stored};
use super::record::{Class, HEADER_BYTES, Kind, Sequence};
use super::segment::{Place, Segment};
use super::shared::Shared;

/// What is asked of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRead<'a> {
    /// The channel.
    pub channel: &'a str,
    /// Publications above this offset do not exist for this reader; `u64::MAX` if all do.
    pub end: u64,
    /// Only publications above this offset.
    pub after: u64,
    /// Only publications below this offset.
    pub before: u64,
    /// At most so many; with 0 only the position is looked at.
    pub limit: usize,
    /// At most so many bytes of records, but at least one publication.
    pub bytes: usize,
    /// From the newest on backwards, not from the oldest on.
    pub newest_first: bool,
    /// Seconds since 1970: what has expired by then is left out.
    pub now: u32,
}

/// A page of a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryPage {
    /// Incarnation of the stream.
    pub epoch: u32,
    /// Offset of the newest publication for this reader, 0 before the first.
    pub top: u64,
    /// Everything at or below this offset is dropped or expired.
    pub floor: u64,
    /// In the order asked for.
    pub publications: Vec<Stored>,
    /// There are more, left out for the limit or the bytes.
    pub more: bool,
}

/// Places on the way through a long history, so that whoever reads it page by page does not walk from its newest end
/// every time. Only a help: a read without one finds the same.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    epoch: u32,
    /// One link of each [`Trail::STEP`] offsets.
    pub(super) places: BTreeMap<u64, (u64, Sequence)>,
}

impl Trail {
    /// Offsets that share a place: 40 bytes for so many publications.
    const STEP: u64 = 256;

    /// Forgets places of another incarnation, and what is at the floor or below, which may be gone from the disk.
    fn clean(&mut self, epoch: u32, floor: u64) {
        if self.epoch != epoch {
            *self = Self { epoch, places: BTreeMap::new() };
        }
        while let Some(first) = self.places.first_entry()
            && first.get().0 <= floor
        {
            first.remove();
        }
    }

    /// The lowest place that is known at an offset or above.
    fn at_or_above(&self, offset: u64) -> Option<Sequence> {
        let mut above = self.places.range(offset / Self::STEP..).map(|(_, place)| *place);
        above.find(|(place, _)| *place >= offset).map(|(_, sequence)| sequence)
    }

    fn note(&mut self, offset: u64, sequence: Sequence) {
        self.places.entry(offset / Self::STEP).or_insert((offset, sequence));
    }
}

/// A page that is being read; see [`Reader::history_walk`].
#[derive(Debug)]
pub struct HistoryWalk {
    shared: Arc<Shared>,
    channel: Box<str>,
    ends: Ends,
    page: HistoryPage,
    chain: Chain,
    newest: Option<(Arc<Segment>, Place)>,
    /// Where the walk stands.
    link: Option<(Arc<Segment>, Place)>,
    /// From the oldest on: it began so many offsets above the first one.
    reach: u64,
    /// It did not begin at the newest link.
    is_short: bool,
    picked: Picked,
    is_picked: bool,
    damaged: u64,
}

/// What belongs to a page.
#[derive(Clone, Copy, Debug)]
struct Ends {
    after: u64,
    before: u64,
    limit: usize,
    bytes: usize,
    newest_first: bool,
    now: u32,
}

/// A read of everything tries so many publications first, where a [`Trail`] leads there.
const REACH: u64 = 4096;

/// Links of one page, oldest last.
#[derive(Debug, Default)]
struct Picked {
    places: VecDeque<(Arc<Segment>, Place)>,
    bytes: usize,
    more: bool,
}

impl Reader {
    /// Reads a page. `None` if the log knows no such channel.
    ///
    /// # Errors
    /// [`ReadError::Storage`] if the file system fails. Damaged publications are left out and counted.
    pub fn history(
        &self,
        read: &HistoryRead<'_>,
        mut trail: Option<&mut Trail>,
    ) -> Result<Option<HistoryPage>, ReadError> {
        let Some(mut walk) = self.history_walk(read, trail.as_deref_mut()) else { return Ok(None) };
        let mut budget = usize::MAX;
        walk.go_on(&mut budget, trail)
    }

    /// Begins to read a page, for who must not be held up by a long way: [`HistoryWalk::go_on`] does a bounded part of
    /// it at a time. `None` if the log knows no such channel.
    #[must_use]
    pub fn history_walk(&self, read: &HistoryRead<'_>, mut trail: Option<&mut Trail>) -> Option<HistoryWalk> {
        let key = self.shared.hasher.stream(Class::History, read.channel);
        let state = self.shared.index.get(key)?;
        let mut page = HistoryPage { epoch: state.epoch, ..HistoryPage::default() };
        let mut chain = Chain::new(Arc::clone(&self.shared), key, state.epoch);
        let mut newest = chain.link(state.head);
        while let Some((_, place)) = newest.as_ref().filter(|(_, place)| place.header.offset > read.end) {
            newest = chain.link(Sequence(place.header.previous));
        }
        if read.end >= state.last_offset {
            (page.top, page.floor) = (state.last_offset, state.floor());
        } else {
            page.top = read.end;
            // What lies below a floor that is not the reader's yet may be gone already.
            let top = newest.as_ref().map(|(_, place)| &place.header).filter(|top| top.offset == read.end);
            let kept = top.map_or(0, |header| header.kept);
            page.floor = page.top.saturating_sub(u64::from(kept));
        }
        if state.pending_at(read.now) == 0 {
            page.floor = page.top;
        }
        let ends = Ends::of(read, page.floor);
        let reach = u64::try_from(read.limit).unwrap_or(u64::MAX).min(REACH);
        let shared = Arc::clone(&self.shared);
        let mut walk = HistoryWalk {
            shared,
            channel: read.channel.into(),
            ends,
            page,
            chain,
            newest,
            link: None,
            reach,
            is_short: false,
            picked: Picked::default(),
            is_picked: false,
            damaged: 0,
        };
        if let Some(trail) = trail.as_deref_mut() {
            trail.clean(walk.page.epoch, walk.page.floor);
        }
        walk.set_out(trail.as_deref());
        Some(walk)
    }
}

impl HistoryWalk {
    /// Goes on until the page is made, or `budget` links and publications were looked at: `None`, go on later. `budget`
    /// is what is left of it afterwards. What is dropped meanwhile may be missing from the page, what is published
    /// meanwhile is not on it.
    ///
    /// # Errors
    /// [`ReadError::Storage`] if the file system fails.
    pub fn go_on(
        &mut self,
        budget: &mut usize,
        mut trail: Option<&mut Trail>,
    ) -> Result<Option<HistoryPage>, ReadError> {
        while !self.is_picked {
            if !self.pick(budget, trail.as_deref_mut()) {
                return Ok(None);
            }
            let is_full = self.picked.more || self.picked.places.len() >= self.ends.limit;
            if self.is_short && !is_full {
                // Some of what was to be there has expired, or takes little room: what lies higher belongs to the page.
                self.reach = self.reach.saturating_mul(4);
                self.picked = Picked::default();
                self.set_out(trail.as_deref());
            } else {
                self.page.more = self.picked.more || self.is_short;
                self.is_picked = true;
            }
        }
        if !self.read_bodies(budget)? {
            return Ok(None);
        }
        if !self.ends.newest_first {
            self.page.publications.reverse();
        }
        self.shared.status.skipped(0, self.damaged);
        Ok(Some(std::mem::take(&mut self.page)))
    }

    /// Something may have been dropped since the last part of the walk: what is below the floor may be gone from the
    /// disk, and looking for it would read whole segments.
    pub fn resume(&mut self) {
        let state = self.shared.index.get(self.chain.key()).filter(|state| state.epoch == self.page.epoch);
        self.ends.after = self.ends.after.max(state.map_or(self.page.top, |state| state.floor()));
    }

    /// Chooses the link to begin with: the lowest one known that is high enough, or the newest.
    fn set_out(&mut self, trail: Option<&Trail>) {
        let needed = if self.ends.newest_first {
            self.ends.before.saturating_sub(1)
        } else {
            self.ends.after.saturating_add(self.reach)
        };
        let start = trail.filter(|trail| trail.epoch == self.page.epoch);
        let start = start.and_then(|trail| trail.at_or_above(needed));
        let start = start.and_then(|sequence| self.chain.link(sequence));
        self.is_short = start.is_some() && !self.ends.newest_first;
        self.link = start.or_else(|| self.newest.clone()).filter(|_| self.ends.limit > 0);
    }

    /// Walks back from a link and picks what belongs to the page. False if the budget is used up.
    fn pick(&mut self, budget: &mut usize, mut trail: Option<&mut Trail>) -> bool {
        if let Some(trail) = trail.as_deref_mut() {
            trail.clean(self.page.epoch, self.page.floor);
        }
        while let Some((segment, place)) = self.link.take() {
            let (header, ends) = (place.header, &self.ends);
            if header.offset <= ends.after {
                break;
            }
            let Some(left) = budget.checked_sub(1) else {
                self.link = Some((segment, place));
                return false;
            };
            *budget = left;
            if let Some(trail) = trail.as_deref_mut() {
                trail.note(header.offset, header.sequence);
            }
            let wanted = header.kind == Kind::Publication && header.offset < ends.before;
            if wanted && !header.has_expired(ends.now) && !self.picked.add(ends, segment, place) {
                break;
            }
            // Publications follow each other without a gap: what is below the last one of interest may be gone from the
            // disk, and looking for it would read whole segments.
            if header.kind != Kind::Meta && header.offset <= ends.after.saturating_add(1) {
                break;
            }
            self.link = self.chain.link(Sequence(header.previous));
        }
        true
    }

    /// Reads what was picked. False if the budget is used up.
    fn read_bodies(&mut self, budget: &mut usize) -> Result<bool, ReadError> {
        while let Some((segment, place)) = self.picked.places.front() {
            let Some(left) = budget.checked_sub(1) else { return Ok(false) };
            *budget = left;
            let Place { header, .. } = place;
            match segment.body(place) {
                // Two names that share a key of 88 bits share a chain; nobody is shown the other's publications.
                Ok(body) if matches!(&body, Body::Publication(of) if *of.channel == *self.channel) => {
                    let (sequence, offset, expires_at) = (header.sequence, header.offset, header.expires_at);
                    self.page.publications.push(Stored { sequence, offset, expires_at, body });
                }
                Ok(_) => {}
                Err(ReadError::Storage(error)) => return Err(ReadError::Storage(error)),
                Err(_) => self.damaged = self.damaged.saturating_add(1),
            }
            self.picked.places.pop_front();
        }
        Ok(true)
    }
}

impl Ends {
    fn of(read: &HistoryRead<'_>, floor: u64) -> Self {
        let &HistoryRead { before, limit, bytes, newest_first, now, .. } = read;
        Self { after: read.after.max(floor), before, limit, bytes, newest_first, now }
    }
}

impl Picked {
    /// Takes a link in, the oldest so far. False if the page is full and needs no older one.
    fn add(&mut self, read: &Ends, segment: Arc<Segment>, place: Place) -> bool {
        let length = place.header.record_bytes();
        if read.newest_first && (self.is_full(read, length) && !self.places.is_empty()) {
            self.more = true;
            return false;
        }
        self.places.push_back((segment, place));
        self.bytes = self.bytes.saturating_add(length);
        // The page begins with the oldest, which is yet to come: newer ones make room.
        while self.is_full(read, 0)
            && self.places.len() > 1
            && let Some((_, newest)) = self.places.pop_front()
        {
            self.bytes = self.bytes.saturating_sub(newest.header.record_bytes());
            self.more = true;
        }
        true
    }

    /// True if one more publication of `length` bytes does not fit, or with 0 if it holds too much already.
    fn is_full(&self, read: &Ends, length: usize) -> bool {
        let count = self.places.len().saturating_add(usize::from(length > 0));
        debug_assert!(length == 0 || length >= HEADER_BYTES);
        count > read.limit || self.bytes.saturating_add(length) > read.bytes
    }
}

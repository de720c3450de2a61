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

    /// Where to begin a read instead of at the newest link.
    fn start(&mut self, read: &HistoryRead<'_>, page: &HistoryPage) -> Option<Sequence> {
        if self.epoch != page.epoch {
            *self = Self { epoch: page.epoch, places: BTreeMap::new() };
        }
        // What is at the floor or below may be gone from the disk.
        while let Some(first) = self.places.first_entry()
            && first.get().0 <= page.floor
        {
            first.remove();
        }
        let limit = u64::try_from(read.limit).unwrap_or(u64::MAX);
        let needed = if read.newest_first {
            read.before.saturating_sub(1)
        } else {
            read.after.max(page.floor).saturating_add(limit)
        };
        let mut above = self.places.range(needed / Self::STEP..).map(|(_, place)| *place);
        above.find(|(offset, _)| *offset >= needed).map(|(_, sequence)| sequence)
    }

    fn note(&mut self, offset: u64, sequence: Sequence) {
        self.places.entry(offset / Self::STEP).or_insert((offset, sequence));
    }
}

/// Links of one page, oldest last.
#[derive(Default)]
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
        let key = self.shared.hasher.stream(Class::History, read.channel);
        let Some(state) = self.shared.index.get(key) else { return Ok(None) };
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
        let start = trail.as_mut().and_then(|trail| trail.start(read, &page));
        let start = start.and_then(|sequence| chain.link(sequence));
        let below = start.is_some() && !read.newest_first;
        let mut picked = pick(read, page.floor, &mut chain, start.or_else(|| newest.clone()), &mut trail);
        if below && !picked.more && picked.places.len() < read.limit {
            // Some of what was to be there has expired: what lies higher belongs to the page.
            picked = pick(read, page.floor, &mut chain, newest, &mut trail);
            page.more = picked.more;
        } else {
            page.more = picked.more || below;
        }
        page.publications = self.bodies(read, &picked)?;
        Ok(Some(page))
    }

    fn bodies(&self, read: &HistoryRead<'_>, picked: &Picked) -> Result<Vec<Stored>, ReadError> {
        let mut publications = Vec::with_capacity(picked.places.len());
        let mut damaged = 0_u64;
        for (segment, place) in &picked.places {
            let Place { header, .. } = place;
            match segment.body(place) {
                // Two names that share a key of 88 bits share a chain; nobody is shown the other's publications.
                Ok(body) if matches!(&body, Body::Publication(p) if p.channel == read.channel) => {
                    let (sequence, offset, expires_at) = (header.sequence, header.offset, header.expires_at);
                    publications.push(Stored { sequence, offset, expires_at, body });
                }
                Ok(_) => {}
                Err(ReadError::Storage(error)) => return Err(ReadError::Storage(error)),
                Err(_) => damaged = damaged.saturating_add(1),
            }
        }
        if !read.newest_first {
            publications.reverse();
        }
        self.shared.status.skipped(0, damaged);
        Ok(publications)
    }
}

/// Walks back from a link and picks what belongs to the page.
fn pick(
    read: &HistoryRead<'_>,
    floor: u64,
    chain: &mut Chain,
    from: Option<(Arc<Segment>, Place)>,
    trail: &mut Option<&mut Trail>,
) -> Picked {
    let mut picked = Picked::default();
    let after = read.after.max(floor);
    let mut link = from.filter(|_| read.limit > 0);
    while let Some((segment, place)) = link.take() {
        let header = place.header;
        if header.offset <= after {
            break;
        }
        if let Some(trail) = trail {
            trail.note(header.offset, header.sequence);
        }
        let wanted = header.kind == Kind::Publication && header.offset < read.before;
        if wanted && !header.has_expired(read.now) && !picked.add(read, segment, place) {
            break;
        }
        // Publications follow each other without a gap: what is below the last one of interest may be gone from the disk,
        // and looking for it would read whole segments.
        if header.kind != Kind::Meta && header.offset <= after.saturating_add(1) {
            break;
        }
        link = chain.link(Sequence(header.previous));
    }
    picked
}

impl Picked {
    /// Takes a link in, the oldest so far. False if the page is full and needs no older one.
    fn add(&mut self, read: &HistoryRead<'_>, segment: Arc<Segment>, place: Place) -> bool {
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
    fn is_full(&self, read: &HistoryRead<'_>, length: usize) -> bool {
        let count = self.places.len().saturating_add(usize::from(length > 0));
        debug_assert!(length == 0 || length >= HEADER_BYTES);
        count > read.limit || self.bytes.saturating_add(length) > read.bytes
    }
}

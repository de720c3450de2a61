//! A stream's records, newest first: each link names the one before it. Walks around damage.

use std::sync::Arc;

use super::record::{Header, Sequence, StreamKey};
use super::segment::{Place, Segment};
use super::shared::Shared;
use super::stream::is_same_incarnation;

/// The way through the links of one incarnation of a stream.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    shared: Arc<Shared>,
    key: StreamKey,
    epoch: u32,
    /// Damaged links and what lies below them.
    bypassed: Vec<(Sequence, Option<Sequence>)>,
}

impl Chain {
    pub(super) fn new(shared: Arc<Shared>, key: StreamKey, epoch: u32) -> Self {
        Self { shared, key, epoch, bypassed: Vec::new() }
    }

    /// Whose chain it is.
    pub(super) fn key(&self) -> StreamKey {
        self.key
    }

    /// The link of the chain at a sequence, or if it is damaged the newest one below; `None` at the end.
    pub(super) fn link(&mut self, at: Sequence) -> Option<(Arc<Segment>, Place)> {
        if at == Sequence(0) {
            return None;
        }
        let found = self.shared.segment_of(at).and_then(|segment| Some((segment.find(at).ok()?, segment)));
        let found = found.filter(|(place, _)| place.header.key == self.key);
        let (place, segment) = match found {
            Some(found) => found,
            None => {
                let below = self.bypass(at)?;
                let segment = self.shared.segment_of(below)?;
                (segment.find(below).ok()?, segment)
            }
        };
        is_same_incarnation(place.header.epoch, self.epoch).then_some((segment, place))
    }

    /// The newest link of the chain below a damaged one: found by reading the segments backwards, once for each.
    fn bypass(&mut self, damaged: Sequence) -> Option<Sequence> {
        if let Some(known) = self.bypassed.iter().find(|(from, _)| *from == damaged) {
            return known.1;
        }
        let mut segments = self.shared.segments();
        segments.retain(|segment| segment.header.first_sequence < damaged);
        let found = segments.iter().rev().find_map(|segment| self.newest_below(segment, damaged));
        self.bypassed.push((damaged, found));
        found
    }

    fn newest_below(&self, segment: &Segment, limit: Sequence) -> Option<Sequence> {
        let mut newest = None;
        let mut visit = |_: u64, _: bool, header: &Header, _: &[u8]| {
            if header.key == self.key && header.kind.is_link() && header.sequence < limit {
                newest = Some(header.sequence);
            }
        };
        // A file that cannot be read has nothing to add.
        segment.scan(&mut visit).ok()?;
        newest
    }
}

//! Which losses are known, so that no number is given out twice under one epoch.
//!
//! Where durable records are gone and not even their headers are left, nobody knows whose they were. A stream whose newest
//! link that is left comes before such a place may have had newer ones, and goes on with numbers that were given out
//! before. So it gets a new epoch ([`renewed`](super::stream::renewed)), and what clients hold of before is no position in
//! it (`recovered: false`); what it holds stays. One record of the kind [`Loss`](super::record::Kind::Loss) notes that for
//! all streams, and whoever reads the log again does the same at the same place. A torn tail is no loss.

use siphasher::sip::SipHasher13;

use super::record::Sequence;

/// Records that are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    /// The first sequence that is not concerned.
    pub(super) before: Sequence,
    /// Tells it from others.
    pub(super) mark: u64,
}

/// What a recovery finds of losses, segment by segment.
#[derive(Debug, Default)]
pub(super) struct Losses {
    found: Vec<Loss>,
    noted: Vec<u64>,
    /// The last segment of which the end may be missing, with no record after it. Behind one that is no longer the last,
    /// the sequences of the next tell what is missing.
    open_end: Option<u64>,
}

impl Losses {
    /// The log says that this one has been dealt with.
    pub(super) fn note(&mut self, mark: u64) {
        self.noted.push(mark);
    }

    /// Records of a segment are lost, from the first sequence to the last of each stretch.
    pub(super) fn in_segment(&mut self, id: u64, stretches: &[(Sequence, Sequence)]) {
        let numbers = stretches.iter().flat_map(|(first, last)| [first.0, last.0]);
        if let Some(last) = stretches.iter().map(|(_, last)| *last).max() {
            let mark = mark(std::iter::once(id).chain(numbers));
            self.found.push(Loss { before: last.next(), mark });
        }
    }

    /// A segment holds records that can be read.
    pub(super) fn go_on(&mut self) {
        self.open_end = None;
    }

    /// Whatever a segment held at its end may be missing.
    pub(super) fn open_end(&mut self, id: u64) {
        self.open_end = Some(id);
    }

    /// Those that have not been dealt with, and a mark of all that ever were; `next` is the sequence of the next record.
    pub(super) fn conclude(mut self, next: Sequence) -> (Vec<Loss>, u64) {
        if let Some(id) = self.open_end {
            self.found.push(Loss { before: next, mark: mark([id, next.0, u64::MAX]) });
        }
        let mut marks = self.noted;
        self.found.retain(|loss| !marks.contains(&loss.mark));
        marks.extend(self.found.iter().map(|loss| loss.mark));
        marks.sort_unstable();
        marks.dedup();
        (self.found, marks.into_iter().fold(0, |all, mark| all ^ mark))
    }
}

fn mark(numbers: impl IntoIterator<Item = u64>) -> u64 {
    let bytes: Vec<u8> = numbers.into_iter().flat_map(u64::to_le_bytes).collect();
    SipHasher13::new().hash(&bytes)
}

//! Exact proof of what each subscriber got: nothing lost, nothing twice, all in order.
//!
//! For every client, channel and lane stands the sequence number expected next. A number beyond it leaves a gap that is
//! remembered until it is filled (then it came late: out of order) or the phase ends (then it is lost).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::flow::Flow;

/// Examples of faults that are kept in words.
const EXAMPLES: usize = 8;

/// The books of one worker over one phase.
pub struct Proof {
    /// What was published.
    pub flow: Arc<Flow>,
    channels_per_client: usize,
    /// The sequence number expected next, per client, channel and lane; 0 for a client that was not there at the start.
    next: Vec<u32>,
    gaps: HashMap<usize, Vec<Range<u32>>>,
    found: Findings,
    /// Latencies since they were last taken, in microseconds.
    pub latency: Histogram<u64>,
    /// How long messages lay in the generator before they were looked at, at most, in microseconds.
    pub lag: Histogram<u64>,
}

/// What a proof came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Deliveries that never came.
    pub lost: u64,
    /// Deliveries that came again.
    pub duplicates: u64,
    /// Deliveries that came after a later one.
    pub reordered: u64,
    /// Deliveries to clients that were not there at the start.
    pub extra: u64,
    /// A few faults in words.
    pub examples: Vec<String>,
}

/// What one delivery was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The first of its number to a client that counts.
    First,
    /// Anything else.
    Other,
}

impl Findings {
    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.extra += other.extra;
        let room = EXAMPLES.saturating_sub(self.examples.len());
        self.examples.extend(other.examples.iter().take(room).cloned());
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(text());
        }
    }
}

/// A histogram of microseconds that grows with its largest value.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    // Three digits are within what the library takes, so the fallback is never made.
    Histogram::new(3).unwrap_or_else(|_| unreachable!("three significant digits are allowed"))
}

/// Enters a value. The histogram grows as far as it must; ten minutes are as good as for ever.
pub fn record(histogram: &mut Histogram<u64>, microseconds: u64) {
    const FOR_EVER: u64 = 600_000_000;
    // A histogram that grows by itself takes every value.
    let _ = histogram.record(microseconds.min(FOR_EVER));
}

impl Proof {
    /// Empty books for `clients` clients in `channels_per_client` channels each.
    #[must_use]
    pub fn new(flow: Arc<Flow>, clients: usize, channels_per_client: usize) -> Self {
        let slots = clients * channels_per_client * flow.lanes as usize;
        Self {
            flow,
            channels_per_client,
            next: vec![0; slots],
            gaps: HashMap::new(),
            found: Findings::default(),
            latency: histogram(),
            lag: histogram(),
        }
    }

    /// Counts a client in, with the number of each of its channels.
    pub fn join(&mut self, client: usize, channels: impl Iterator<Item = u32>) {
        for (index, channel) in channels.enumerate() {
            self.flow.join(channel);
            let start = self.slot(client, index, 0);
            if let Some(slots) = self.next.get_mut(start..start + self.flow.lanes as usize) {
                slots.fill(1);
            }
        }
    }

    /// Takes one delivery: `sequence` of `lane` in the client's `index`th channel.
    pub fn take(&mut self, client: usize, index: usize, lane: u32, sequence: u32) -> Taken {
        let slot = self.slot(client, index, lane);
        let Some(next) = self.next.get_mut(slot).filter(|_| lane < self.flow.lanes) else {
            return Taken::Other;
        };
        let expected = *next;
        if expected == 0 {
            self.found.extra += 1;
            return Taken::Other;
        }
        if sequence < expected {
            return self.take_late(slot, sequence);
        }
        *next = sequence + 1;
        if sequence > expected {
            self.gaps.entry(slot).or_default().push(expected..sequence);
        }
        Taken::First
    }

    /// A number that was passed already: it fills a gap, or it came twice.
    fn take_late(&mut self, slot: usize, sequence: u32) -> Taken {
        let Some(gaps) = self.gaps.get_mut(&slot) else { return self.duplicate(slot, sequence) };
        let Some(at) = gaps.iter().position(|gap| gap.contains(&sequence)) else {
            return self.duplicate(slot, sequence);
        };
        let gap = gaps.swap_remove(at);
        gaps.extend([gap.start..sequence, sequence + 1..gap.end].into_iter().filter(|part| !part.is_empty()));
        if gaps.is_empty() {
            self.gaps.remove(&slot);
        }
        self.found.reordered += 1;
        self.found.example(|| format!("slot {slot}: number {sequence} came late"));
        Taken::First
    }

    fn duplicate(&mut self, slot: usize, sequence: u32) -> Taken {
        self.found.duplicates += 1;
        self.found.example(|| format!("slot {slot}: number {sequence} came twice"));
        Taken::Other
    }

    /// Closes the books: whatever is missing now is lost. `channel_of` names the channel of a client.
    #[must_use]
    pub fn close(mut self, channel_of: impl Fn(usize, usize) -> Option<u32>) -> Findings {
        let lanes = self.flow.lanes as usize;
        for (slot, &next) in self.next.iter().enumerate().filter(|(_, next)| **next > 0) {
            let (client, index) =
                (slot / lanes / self.channels_per_client, slot / lanes % self.channels_per_client);
            let Some(channel) = channel_of(client, index) else { continue };
            let last = self.flow.last_sequence(channel, (slot % lanes) as u32);
            let held_back =
                self.gaps.get(&slot).map_or(0, |gaps| gaps.iter().map(|gap| gap.len() as u64).sum());
            let missing = held_back + u64::from((last + 1).saturating_sub(next));
            self.found.lost += missing;
            if missing > 0 {
                self.found.example(|| {
                    format!("client {client} of its worker, channel {channel}: {missing} missing, next {next} of {last}")
                });
            }
        }
        self.found
    }

    fn slot(&self, client: usize, index: usize, lane: u32) -> usize {
        (client * self.channels_per_client + index) * self.flow.lanes as usize + lane as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two clients in one channel with one lane, of which `published` numbers were sent.
    fn books(published: u32) -> Proof {
        let flow = Arc::new(Flow::new(1, 1, 1, None));
        (0..published).for_each(|_| _ = flow.next_sequence(0, 0));
        let mut proof = Proof::new(flow, 2, 1);
        (0..2).for_each(|client| proof.join(client, std::iter::once(0)));
        proof
    }

    fn feed(numbers: &[u32], published: u32) -> Findings {
        let mut proof = books(published);
        (1..=published).for_each(|number| _ = proof.take(1, 0, 0, number));
        numbers.iter().for_each(|&number| _ = proof.take(0, 0, 0, number));
        proof.close(|_, _| Some(0))
    }

    #[test]
    fn every_fault_is_found_and_counted_exactly() {
        let found = |numbers: &[u32]| {
            let found = feed(numbers, 5);
            (found.lost, found.duplicates, found.reordered)
        };
        assert_eq!(found(&[1, 2, 3, 4, 5]), (0, 0, 0));
        assert_eq!(found(&[1, 2, 4, 5]), (1, 0, 0));
        assert_eq!(found(&[1, 2, 3]), (2, 0, 0));
        assert_eq!(found(&[]), (5, 0, 0));
        assert_eq!(found(&[1, 2, 2, 3, 4, 5, 5]), (0, 2, 0));
        assert_eq!(found(&[1, 3, 2, 4, 5]), (0, 0, 1));
        assert_eq!(found(&[5, 3]), (3, 0, 1));
        assert_eq!(found(&[5, 3, 3, 1]), (2, 1, 2));
    }

    #[test]
    fn random_losses_doubles_and_swaps_are_told_apart() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut numbers, mut lost, mut doubled) = (Vec::new(), 0, 0);
            for number in 1..=200 {
                match random.u32(0..10) {
                    0 => lost += 1,
                    1 => (doubled += 1, numbers.extend([number, number])).1,
                    _ => numbers.push(number),
                }
            }
            let found = feed(&numbers, 200);
            assert_eq!((found.lost, found.duplicates, found.reordered), (lost, doubled, 0), "seed {seed}");
            random.shuffle(&mut numbers);
            let shuffled = feed(&numbers, 200);
            assert_eq!((shuffled.lost, shuffled.duplicates), (lost, doubled), "seed {seed}");
        }
    }

    #[test]
    fn a_client_that_came_later_is_not_missed_anything() {
        let flow = Arc::new(Flow::new(1, 1, 1, None));
        flow.next_sequence(0, 0);
        let mut proof = Proof::new(flow, 1, 1);
        assert_eq!(proof.take(0, 0, 0, 1), Taken::Other);
        assert_eq!(proof.close(|_, _| Some(0)), Findings { extra: 1, ..Findings::default() });
    }
}

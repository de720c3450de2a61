//! What publishers and subscribers of one phase share: what was published, to how many, and how much has arrived.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use mio::Waker;

/// One phase's stream of messages.
#[derive(Debug)]
pub struct Flow {
    /// Marks of other runs are not ours.
    pub run: u32,
    /// Independent sequences per channel.
    pub lanes: u32,
    /// Last sequence number per channel and lane.
    published: Vec<AtomicU32>,
    /// Subscribers that were ready at the start, per channel.
    subscribers: Vec<AtomicU32>,
    /// First deliveries, to those subscribers, in all.
    delivered: AtomicU64,
    /// When the last of them was read, in nanoseconds of the process's clock.
    last_ns: AtomicU64,
    /// The publisher wants to be woken when this many have arrived.
    wake_at: AtomicU64,
    /// Wakes the publisher. Workers call it, so it is one that was made before they left the common descriptor table:
    /// its number means another descriptor, say a client's socket, in a table that was unshared before.
    waker: Option<Arc<Waker>>,
}

impl Flow {
    /// A flow over `channels` channels with `lanes` sequences each. `waker` must be older than the workers.
    #[must_use]
    pub fn new(run: u32, channels: u32, lanes: u32, waker: Option<Arc<Waker>>) -> Self {
        let zeros = |count: usize| (0..count).map(|_| AtomicU32::new(0)).collect();
        Self {
            run,
            lanes,
            published: zeros(channels as usize * lanes as usize),
            subscribers: zeros(channels as usize),
            delivered: AtomicU64::new(0),
            last_ns: AtomicU64::new(0),
            wake_at: AtomicU64::new(u64::MAX),
            waker,
        }
    }

    /// Takes the next sequence number of a lane. Only one thread may publish into a lane.
    pub fn next_sequence(&self, channel: u32, lane: u32) -> u32 {
        self.published
            .get(self.slot(channel, lane))
            .map_or(0, |last| last.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// The last sequence number of a lane.
    #[must_use]
    pub fn last_sequence(&self, channel: u32, lane: u32) -> u32 {
        self.published.get(self.slot(channel, lane)).map_or(0, |last| last.load(Ordering::Relaxed))
    }

    /// Counts a subscriber in.
    pub fn join(&self, channel: u32) {
        if let Some(count) = self.subscribers.get(channel as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a subscriber out.
    pub fn leave(&self, channel: u32) {
        if let Some(count) = self.subscribers.get(channel as usize) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Subscribers of a channel: those that were ready at the start, and joined or left since by our doing.
    #[must_use]
    pub fn subscribers(&self, channel: u32) -> u32 {
        self.subscribers.get(channel as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Publications so far.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.published.iter().map(|last| u64::from(last.load(Ordering::Relaxed))).sum()
    }

    /// Deliveries that the publications so far come to.
    #[must_use]
    pub fn expected(&self) -> u64 {
        let lanes = self.lanes.max(1) as usize;
        let of_channel = |(lasts, subscribers): (&[AtomicU32], &AtomicU32)| {
            let published: u64 = lasts.iter().map(|last| u64::from(last.load(Ordering::Relaxed))).sum();
            published * u64::from(subscribers.load(Ordering::Relaxed))
        };
        self.published.chunks(lanes).zip(&self.subscribers).map(of_channel).sum()
    }

    /// Counts deliveries, of which the last was read at `now_ns`, and wakes the publisher if it waits for them.
    pub fn deliver(&self, count: u64, now_ns: u64) {
        self.last_ns.fetch_max(now_ns, Ordering::Relaxed);
        let delivered = self.delivered.fetch_add(count, Ordering::AcqRel) + count;
        let wake_at = self.wake_at.load(Ordering::Acquire);
        if delivered >= wake_at
            && self.wake_at.compare_exchange(wake_at, u64::MAX, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            && let Some(waker) = &self.waker
        {
            let _ = waker.wake();
        }
    }

    /// Deliveries so far.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Acquire)
    }

    /// When the last delivery was read, in nanoseconds of the process's clock.
    #[must_use]
    pub fn last_ns(&self) -> u64 {
        self.last_ns.load(Ordering::Relaxed)
    }

    /// Asks to be woken once `deliveries` have arrived; false if they have already.
    pub fn wake_at(&self, deliveries: u64) -> bool {
        self.wake_at.store(deliveries, Ordering::Release);
        self.delivered() < deliveries
    }

    fn slot(&self, channel: u32, lane: u32) -> usize {
        channel as usize * self.lanes as usize + lane as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_is_publications_times_subscribers() {
        let flow = Flow::new(1, 3, 2, None);
        (0..5).for_each(|_| flow.join(1));
        flow.join(2);
        assert_eq!((flow.next_sequence(1, 0), flow.next_sequence(1, 0), flow.next_sequence(1, 1)), (1, 2, 1));
        flow.next_sequence(2, 1);
        flow.next_sequence(0, 0);
        assert_eq!((flow.published(), flow.expected()), (5, 3 * 5 + 1));
        assert_eq!((flow.last_sequence(1, 0), flow.last_sequence(2, 0)), (2, 0));
    }

    #[test]
    fn a_waiter_learns_whether_it_has_to_wait() {
        let flow = Flow::new(1, 1, 1, None);
        flow.deliver(3, 7);
        assert!(!flow.wake_at(3) && flow.wake_at(4));
    }
}

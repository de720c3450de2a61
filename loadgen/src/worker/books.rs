//! The books that a worker keeps over one phase: proof, latency, and its own lag.

use std::sync::Arc;

use hdrhistogram::Histogram;

use super::{Finished, News, Worker};
use crate::client::{Manner, Stage};
use crate::clock::Clock;
use crate::flow::Flow;
use crate::marker::Marker;
use crate::proof::{self, Proof, Taken};

/// A poll that took longer has waited.
const WAIT_NS: u64 = 50_000;
/// How often latencies are handed over.
const HAND_OVER_NS: u64 = 1_000_000_000;

/// The books, open or not.
#[derive(Default)]
pub(super) struct Books {
    proof: Option<Box<Proof>>,
    /// When this turn began, that is, when the poller last told what there is to read.
    turn_ns: u64,
    /// What is read now may have lain there since.
    known_since_ns: u64,
    /// When the present read returned.
    read_ns: u64,
    handed_over_ns: u64,
    /// Deliveries of this turn.
    delivered: u64,
}

impl Books {
    /// A turn begins after a poll that was called at `polled_ns`. A poll that had to wait found its events when they came;
    /// one that did not may have found them long after, while the turn before was at work.
    pub(super) fn begin_turn(&mut self, polled_ns: u64, now_ns: u64) {
        let waited = now_ns.saturating_sub(polled_ns) > WAIT_NS;
        self.known_since_ns = if waited { now_ns } else { self.turn_ns };
        self.turn_ns = now_ns;
    }

    /// Bytes were just read. The clock is read only while somebody wants to know.
    pub(super) fn reading(&mut self, clock: Clock) {
        if self.proof.is_some() {
            self.read_ns = clock.nanos();
        }
    }

    /// Enters one delivery; whether it belongs to the flow.
    pub(super) fn take(&mut self, local: u32, index: usize, marker: &Marker) -> bool {
        let Some(proof) = self.proof.as_mut().filter(|proof| proof.flow.run == marker.run) else {
            return false;
        };
        if proof.take(local as usize, index, marker.lane, marker.sequence) == Taken::First {
            self.delivered += 1;
            proof::record(&mut proof.latency, self.read_ns.saturating_sub(marker.intended_ns) / 1000);
            let known_since = self.known_since_ns.max(marker.intended_ns);
            proof::record(&mut proof.lag, self.read_ns.saturating_sub(known_since) / 1000);
        }
        true
    }

    /// The run that the books are about; 0 while they are closed.
    pub(super) fn run(&self) -> u32 {
        self.proof.as_ref().map_or(0, |proof| proof.flow.run)
    }

    /// The next number of a lane, if the books are open.
    pub(super) fn next_sequence(&self, channel: u32, lane: u32) -> Option<u32> {
        self.proof.as_ref().map(|proof| proof.flow.next_sequence(channel, lane))
    }

    /// A client joined a channel after the start.
    pub(super) fn join(&self, channel: u32) {
        if let Some(proof) = &self.proof {
            proof.flow.join(channel);
        }
    }

    /// A client is about to leave a channel.
    pub(super) fn leave(&self, channel: u32) {
        if let Some(proof) = &self.proof {
            proof.flow.leave(channel);
        }
    }

    /// How many are in a channel.
    pub(super) fn members(&self, channel: u32) -> u32 {
        self.proof.as_ref().map_or(0, |proof| proof.flow.subscribers(channel))
    }

    /// Ends a turn; the latencies of the last second, if it is over.
    pub(super) fn end_turn(&mut self) -> Option<Histogram<u64>> {
        let proof = self.proof.as_mut()?;
        if self.delivered > 0 {
            proof.flow.deliver(std::mem::take(&mut self.delivered), self.read_ns);
        }
        if self.turn_ns.saturating_sub(self.handed_over_ns) < HAND_OVER_NS || proof.latency.is_empty() {
            return None;
        }
        self.handed_over_ns = self.turn_ns;
        Some(std::mem::replace(&mut proof.latency, proof::histogram()))
    }
}

impl Worker {
    pub(super) fn begin_books(&mut self, flow: Arc<Flow>) {
        let clients = self.plan.share(self.plan.connections, self.id) as usize;
        let per_client = self.plan.channels.per_client();
        let mut proof = Proof::new(flow, clients, per_client);
        let ready = self
            .clients
            .iter()
            .enumerate()
            .filter(|(_, client)| client.stage == Stage::Ready && client.manner == Manner::Prompt);
        for local in ready.map(|(local, _)| local) {
            let number = self.plan.number(self.id, u32::try_from(local).unwrap_or(u32::MAX));
            let channels = (0..per_client).filter_map(|index| self.plan.channels.channel_of(number, index));
            proof.join(local, channels);
        }
        self.books =
            Books { proof: Some(Box::new(proof)), handed_over_ns: self.clock.nanos(), ..Books::default() };
        let _ = self.news.send(News::Begun);
    }

    pub(super) fn finish_books(&mut self) {
        let Some(mut proof) = self.books.proof.take() else { return };
        let _ = self.news.send(News::Latency(std::mem::replace(&mut proof.latency, proof::histogram())));
        let lag = std::mem::replace(&mut proof.lag, proof::histogram());
        let (plan, id) = (&self.plan, self.id);
        let findings = proof.close(|local, index| {
            let number = plan.number(id, u32::try_from(local).unwrap_or(u32::MAX));
            plan.channels.channel_of(number, index)
        });
        let returns = std::mem::replace(&mut self.returns.took, proof::histogram());
        let talk = std::mem::take(&mut self.talk);
        let _ = self.news.send(News::Finished(Box::new(Finished {
            findings,
            lag,
            returns,
            unanswered: talk.under_way() as u64,
            commands: talk.took,
            presence: talk.presence,
        })));
    }
}

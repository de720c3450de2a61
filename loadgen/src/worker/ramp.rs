//! How fast connections are begun: so many handshakes at once, and so many a second.

use super::Worker;
use crate::client::{Client, Stage};
use crate::counters::Reason;
use crate::dialect::Position;

/// Connections begun in one turn, so that those already open are served in between.
const OPENED_PER_TURN: u32 = 64;

/// The state of a ramp.
#[derive(Debug)]
pub(super) struct Ramp {
    /// Clients that are to be begun.
    target: u32,
    /// Clients begun, ever.
    begun: u32,
    /// Handshakes under way, reconnects included.
    pub(super) pending: u32,
    /// The most handshakes under way.
    limit: u32,
    rate: f64,
    since_ns: u64,
    begun_before: u32,
}

impl Ramp {
    pub(super) fn new(limit: u32) -> Self {
        Self { target: 0, begun: 0, pending: 0, limit: limit.max(1), rate: 0.0, since_ns: 0, begun_before: 0 }
    }

    /// Sets a target, to be approached at `rate` a second (0: as fast as it goes).
    pub(super) fn begin(&mut self, target: u32, rate: f64, now_ns: u64) {
        *self = Self { target, rate, since_ns: now_ns, begun_before: self.begun, ..*self };
    }

    /// How many connections to begin at `now_ns`.
    fn due(&self, now_ns: u64) -> u32 {
        let wanted = self.target.saturating_sub(self.begun);
        let room = self.limit.saturating_sub(self.pending);
        wanted.min(room).min(self.allowed(now_ns)).min(OPENED_PER_TURN)
    }

    fn allowed(&self, now_ns: u64) -> u32 {
        if self.rate <= 0.0 {
            return u32::MAX;
        }
        let seconds = now_ns.saturating_sub(self.since_ns) as f64 / 1e9;
        // A float beyond the range of u32 becomes its end.
        let allowed = (self.rate * seconds).floor() as u32;
        allowed.saturating_sub(self.begun - self.begun_before)
    }

    /// Whether another handshake may begin.
    pub(super) fn has_room(&self) -> bool {
        self.pending < self.limit
    }

    /// Whether connections are due that only time holds back.
    pub(super) fn is_waiting_for_time(&self) -> bool {
        self.begun < self.target && self.pending < self.limit
    }
}

impl Worker {
    /// Begins what is due.
    pub(super) fn ramp_up(&mut self) {
        for _ in 0..self.ramp.due(self.clock.nanos()) {
            let local = self.ramp.begun;
            self.ramp.begun += 1;
            self.make_room(local);
            self.open(local);
        }
    }

    fn make_room(&mut self, local: u32) {
        if self.clients.capacity() == self.clients.len() {
            // Exactly as many as will be needed: doubling would waste half of the memory at the end.
            let total = self.plan.share(self.plan.connections, self.id) as usize;
            self.clients.reserve_exact(total.saturating_sub(self.clients.len()).max(1));
        }
        while self.clients.len() <= local as usize {
            self.clients.push(Client::default());
        }
        if self.plan.track_positions {
            let per_client = self.plan.channels.per_client();
            self.positions.resize(self.clients.len() * per_client, Position::default());
        }
    }

    /// Ends handshakes that have taken too long. They began in order, so only the oldest need a look.
    pub(super) fn expire_handshakes(&mut self) {
        while let Some(&(local, since_ms)) = self.handshakes.front() {
            let client = &self.clients[local as usize];
            let current = client.stage.is_pending() && client.since_ms == since_ms;
            if current && self.now_ms.wrapping_sub(since_ms) < self.plan.handshake_timeout_ms {
                return;
            }
            self.handshakes.pop_front();
            if current {
                self.end(local, Reason::TimedOut);
            }
        }
        if self.handshakes.capacity() > 4096 {
            self.handshakes = std::collections::VecDeque::new();
        }
    }

    /// A handshake came to its end, one way or the other.
    pub(super) fn settle(&mut self, local: u32, stage: Stage) {
        let client = &mut self.clients[local as usize];
        if client.stage.is_pending() {
            self.ramp.pending = self.ramp.pending.saturating_sub(1);
            self.counters.pending.sub(1);
        } else if client.stage == Stage::Ready {
            self.counters.ready.sub(1);
        }
        client.stage = stage;
        if stage == Stage::Ready {
            self.counters.ready.add(1);
            self.counters.became_ready.add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_on_average() {
        let mut ramp = Ramp::new(1_000_000);
        ramp.begin(1_000, 100.0, 0);
        for turn in 0..=500_u64 {
            ramp.begun += ramp.due(turn * 10_000_000);
        }
        assert_eq!(ramp.begun, 500);
    }

    #[test]
    fn the_handshakes_under_way_bound_a_ramp() {
        let mut ramp = Ramp::new(8);
        ramp.begin(1_000, 0.0, 0);
        assert_eq!(ramp.due(1), 8);
        ramp.pending = 8;
        assert_eq!(ramp.due(1), 0);
    }
}

//! How fast connections are begun: so many handshakes at once, and so many a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Worker;
use crate::client::{Client, Stage};
use crate::counters::Reason;
use crate::dialect::Position;

/// Connections begun in one turn, so that those already open are served in between.
const OPENED_PER_TURN: u32 = 64;

/// Lets only a few workers begin connections at a time. Many threads with a few handshakes each spend their time waking
/// one another; a few with many each take them in batches.
#[derive(Debug)]
pub struct Gate {
    /// Workers that have begun all they had to.
    finished: AtomicU32,
    width: u32,
}

impl Gate {
    /// A gate through which `width` workers go at once.
    #[must_use]
    pub fn new(width: u32) -> Self {
        Self { finished: AtomicU32::new(0), width: width.max(1) }
    }

    fn admits(&self, worker: u32) -> bool {
        worker < self.finished.load(Ordering::Relaxed).saturating_add(self.width)
    }

    fn finish(&self) {
        self.finished.fetch_add(1, Ordering::Relaxed);
    }
}

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
    gate: Option<Arc<Gate>>,
}

impl Ramp {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            target: 0,
            begun: 0,
            pending: 0,
            limit: limit.max(1),
            rate: 0.0,
            since_ns: 0,
            begun_before: 0,
            gate: None,
        }
    }

    /// Sets a target, to be approached at `rate` a second (0: as fast as it goes) once the gate admits this worker.
    pub(super) fn begin(&mut self, target: u32, rate: f64, gate: Arc<Gate>) {
        (self.target, self.rate, self.gate) = (target, rate, Some(gate));
        (self.since_ns, self.begun_before) = (0, self.begun);
    }

    /// Passes the gate, or closes it behind. Whether this worker may begin connections.
    fn pass(&mut self, worker: u32, now_ns: u64) -> bool {
        let Some(gate) = &self.gate else { return false };
        if !gate.admits(worker) {
            return false;
        }
        if self.begun >= self.target {
            gate.finish();
            self.gate = None;
            return false;
        }
        if self.since_ns == 0 {
            self.since_ns = now_ns;
        }
        true
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

    /// How long a poller may wait, if this ramp has something to do in time.
    pub(super) fn patience_ms(&self, worker: u32) -> Option<u32> {
        const AT_THE_GATE_MS: u32 = 20;
        const IN_TIME_MS: u32 = 4;
        let gate = self.gate.as_ref()?;
        match gate.admits(worker) {
            false => Some(AT_THE_GATE_MS),
            true => self.has_room().then_some(IN_TIME_MS),
        }
    }
}

impl Worker {
    /// Begins what is due.
    pub(super) fn ramp_up(&mut self) {
        let now_ns = self.clock.nanos();
        if !self.ramp.pass(self.id, now_ns) {
            return;
        }
        for _ in 0..self.ramp.due(now_ns) {
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
        ramp.begin(1_000, 100.0, Arc::new(Gate::new(1)));
        for turn in 1..=501_u64 {
            assert!(ramp.pass(0, turn * 10_000_000));
            ramp.begun += ramp.due(turn * 10_000_000);
        }
        assert_eq!(ramp.begun, 500);
    }

    #[test]
    fn the_handshakes_under_way_bound_a_ramp() {
        let mut ramp = Ramp::new(8);
        ramp.begin(1_000, 0.0, Arc::new(Gate::new(1)));
        assert_eq!(ramp.due(1), 8);
        ramp.pending = 8;
        assert_eq!(ramp.due(1), 0);
    }
    #[test]
    fn a_gate_admits_the_next_worker_when_one_has_finished() {
        let gate = Arc::new(Gate::new(1));
        let mut ramps = [Ramp::new(10), Ramp::new(10)];
        ramps.iter_mut().for_each(|ramp| ramp.begin(1, 0.0, Arc::clone(&gate)));
        assert!(ramps[0].pass(0, 1) && !ramps[1].pass(1, 1));
        ramps[0].begun = 1;
        assert!(!ramps[0].pass(0, 1) && ramps[1].pass(1, 1));
    }
}

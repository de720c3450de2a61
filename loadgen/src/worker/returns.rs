//! Clients that leave and come back: storms, and the slow churn of a long run.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use hdrhistogram::Histogram;
use socket2::SockRef;

use super::{Due, Worker};
use crate::behaviour::{Close, Departure, backoff_ms};
use crate::client::Stage;
use crate::proof;
use crate::ws;

/// Who is away and is to come back.
pub(super) struct Returns {
    away: HashMap<u32, Away>,
    /// Due, but too many handshakes are under way.
    queue: VecDeque<u32>,
    /// From the intended moment to ready, in microseconds.
    pub(super) took: Histogram<u64>,
}

struct Away {
    due_ms: u32,
    failures: u32,
}

impl Default for Returns {
    fn default() -> Self {
        Self { away: HashMap::new(), queue: VecDeque::new(), took: proof::histogram() }
    }
}

impl Worker {
    /// Lets clients leave, evenly picked from those that are ready, and sets when each comes back.
    pub(super) fn depart(&mut self, departure: &Departure) {
        let ready: Vec<u32> = (0..u32::try_from(self.clients.len()).unwrap_or(u32::MAX))
            .filter(|local| self.clients[*local as usize].stage == Stage::Ready)
            .collect();
        let count = departure.clients.min(u32::try_from(ready.len()).unwrap_or(u32::MAX));
        if count == 0 {
            return;
        }
        // Starting anywhere, so that a repeated departure does not always take the same.
        let (start, step) = (self.random.usize(..ready.len()), (ready.len() / count as usize).max(1));
        let chosen = |index: u32| ready[(start + index as usize * step) % ready.len()];
        for index in 0..count {
            self.leave(chosen(index), departure.close);
        }
        // Closing many takes a while; the time to come back counts from when all are gone.
        let gone_ms = self.clock.millis();
        for index in 0..count {
            let delay = departure.jitter.delay_ms(departure.within_ms, index, count, &mut self.random);
            self.await_return(chosen(index), gone_ms.saturating_add(delay));
        }
    }

    /// Closes one client's connection by reset, and opens a new one at once.
    pub(super) fn leave_and_return(&mut self, local: u32) {
        self.leave(local, Close::Reset);
        self.await_return(local, self.now_ms);
    }

    fn await_return(&mut self, local: u32, due_ms: u32) {
        if self.clients[local as usize].stage != Stage::Waiting {
            return;
        }
        if self.returns.away.insert(local, Away { due_ms, failures: 0 }).is_none() {
            self.counters.away.add(1);
        }
        self.wheel.insert(due_ms, Due::Return(local));
    }

    fn leave(&mut self, local: u32, close: Close) {
        if self.clients[local as usize].stage != Stage::Ready {
            return;
        }
        match close {
            Close::Reset => {
                if let Some(socket) = &self.clients[local as usize].socket {
                    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
                }
            }
            Close::Fin => {}
            Close::Goodbye => {
                let mut frame = Vec::new();
                ws::write_frame(
                    &mut frame,
                    ws::CLOSE,
                    &1000_u16.to_be_bytes(),
                    self.random.u32(..).to_ne_bytes(),
                );
                // A broken connection needs no goodbye.
                let _ = self.send(local, &frame);
            }
        }
        self.counters.dropped.add(1);
        self.settle(local, Stage::Waiting);
        self.forget(local);
    }

    /// A client's time to come back has come.
    pub(super) fn return_due(&mut self, local: u32) {
        if self.clients[local as usize].stage == Stage::Waiting {
            self.returns.queue.push_back(local);
        }
    }

    /// Opens what is due, as far as handshakes may be under way.
    pub(super) fn open_returning(&mut self) {
        while self.ramp.has_room()
            && let Some(local) = self.returns.queue.pop_front()
        {
            self.open(local);
        }
    }

    /// A client has become ready: if it was away, it is back.
    pub(super) fn returned(&mut self, local: u32) {
        if let Some(away) = self.returns.away.remove(&local) {
            self.counters.away.sub(1);
            let due_ns = u64::from(away.due_ms) * 1_000_000;
            proof::record(&mut self.returns.took, self.clock.nanos().saturating_sub(due_ns) / 1000);
        }
        if self.returns.away.is_empty() && self.returns.away.capacity() > 1024 {
            self.returns.away = HashMap::new();
        }
    }

    /// A handshake failed: if the client was on its way back, it tries again later.
    pub(super) fn try_again(&mut self, local: u32) {
        if let Some(away) = self.returns.away.get_mut(&local) {
            let delay = backoff_ms(away.failures, &mut self.random);
            away.failures += 1;
            self.clients[local as usize].stage = Stage::Waiting;
            self.wheel.insert(self.now_ms.saturating_add(delay), Due::Return(local));
        }
    }
}
